"""External data: what a model may read of other files, wherever in it the tensor is (issue 13)."""

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, numpy_helper

from decoding import ModelError, load
from decoding.model.graph.external_data import every_tensor
from decoding.model.graph.graph import Graph
from tests.helpers import build
from tests.helpers.text import proto

NUMBERS = np.arange(4, dtype=np.float32)
LARGE = np.arange(2048, dtype=np.float32)


def sparse(found, part):
    made = found.graph.sparse_initializer.add(dims=[4])
    made.values.CopyFrom(numpy_helper.from_array(NUMBERS, "sparse"))
    made.indices.CopyFrom(numpy_helper.from_array(np.arange(4), "places"))
    return getattr(made, part)


def attribute(found, kind, name="value"):
    return found.graph.node[0].attribute.add(name=name, type=kind)


def in_body(found):
    body = attribute(found, AttributeProto.GRAPH, "somewhere").g
    return body.node.add(op_type="Constant", output=["c"]).attribute.add(name="value", type=AttributeProto.TENSOR).t


def in_function(found):
    node = found.functions.add(name="f", domain="local").node.add(op_type="Constant", output=["c"])
    return node.attribute.add(name="value", type=AttributeProto.TENSOR).t


# Every place of a tensor in a model, made there.
PLACES = {
    "initializer": lambda found: found.graph.initializer.add(name="w"),
    "sparse values": lambda found: sparse(found, "values"),
    "sparse indices": lambda found: sparse(found, "indices"),
    "attribute": lambda found: attribute(found, AttributeProto.TENSOR).t,
    "list of tensors": lambda found: attribute(found, AttributeProto.TENSORS).tensors.add(),
    "sparse attribute": lambda found: attribute(found, AttributeProto.SPARSE_TENSOR).sparse_tensor.values,
    "list of sparse tensors": lambda found: attribute(found, AttributeProto.SPARSE_TENSORS).sparse_tensors.add().indices,
    "body": in_body,
    "function": in_function,
    "training info": lambda found: found.training_info.add().initialization.initializer.add(name="t"),
    "training algorithm": lambda found: found.training_info.add().algorithm.initializer.add(name="t"),
}  # fmt: skip


def model(place="initializer", values=NUMBERS, **entries):
    """A model with a tensor at this place that says that its data are elsewhere."""
    found = proto("(float[batch,32] x) => (float[batch,32] y) { y = Neg(x) }")
    tensor = PLACES[place](found)
    tensor.data_type, tensor.data_location = TensorProto.FLOAT, TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.dims[:] = values.shape
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with data, beside a secret; it is the working directory."""
    here = tmp_path / "here"
    (here / "below").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(LARGE.tobytes())
    for name in ("data", "below/data"):
        (here / name).write_bytes(LARGE.tobytes())
    (here / "inside").symlink_to("data")
    (here / "outside").symlink_to("../secret")
    (here / "loop").symlink_to("loop")
    os.mkfifo(here / "pipe")
    monkeypatch.chdir(here)
    return here


def by_path(found, folder):
    (folder / "m.onnx").write_bytes(found.SerializeToString())
    return Graph.load(folder / "m.onnx")


@pytest.mark.parametrize("place", PLACES)
def test_every_tensor_is_found(place):
    found = model(place, location="data")
    assert [t.external_data[0].value for t in every_tensor(found) if t.external_data] == ["data"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", ["data", "below/data", "in memory", "*/_ORT_MEM_ADDR_/*"])
def test_bytes_and_messages_have_no_external_data(place, location, folder):
    found = model(place, location=location)
    for source in (found, found.SerializeToString()):
        with pytest.raises(ModelError, match=r"the external data of the tensor '.*' cannot be read, as bytes and a ModelProto"):  # fmt: skip
            Graph.load(source)


def test_a_place_without_the_mark_is_external_too():
    found = model(location="data")
    found.graph.initializer[0].ClearField("data_location")
    with pytest.raises(ModelError, match=r"cannot be read, as bytes and a ModelProto"):
        Graph.load(found)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", ["data", "./data", "below/data", "below/../data", "inside", "../here/data"])
def test_files_in_the_models_own_folder_are_read(place, location, folder):
    graph = by_path(model(place, location=location, offset="8"), folder)
    if place == "initializer":
        np.testing.assert_array_equal(graph.constant("w"), NUMBERS + 2)
    left = onnx.load_model_from_string(graph.serialize())
    assert not any(tensor.external_data or tensor.data_location for tensor in every_tensor(left))


def test_a_large_weight_is_kept_apart(folder):
    graph = by_path(
        model(values=LARGE.reshape(32, 64), location="data", length=str(LARGE.nbytes), checksum="?"), folder
    )
    np.testing.assert_array_equal(graph.constant("w"), LARGE.reshape(32, 64))
    assert list(graph.skeleton()[1]) == ["w"]


@pytest.mark.parametrize("place", ["initializer", "sparse values", "function"])
@pytest.mark.parametrize("values", [NUMBERS, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../secret", r"at '\.\./secret', outside the model's folder"),
        ("below/../../secret", "outside the model's folder"),
        ("outside", "outside the model's folder"),
        ("/etc/hostname", "expected the name of a file in the model's folder"),
        ("/dev/zero", "expected the name of a file in the model's folder"),
        ("", "expected the name of a file in the model's folder"),
        (".", "outside the model's folder"),
        ("data\0", "expected the name of a file in the model's folder"),
        ("below", "is not a regular file"),
        ("pipe", "is not a regular file"),
        ("loop", "cannot be read: 'loop'"),
        ("missing", "cannot be read: 'missing': No such file"),
        ("in memory", "cannot be read: 'in memory': No such file"),
        ("x" * 5000, "cannot be read: 'xxx"),
    ],
)
def test_no_other_file_is_read(place, values, location, message, folder):
    with pytest.raises(ModelError, match=message):
        by_path(model(place, values, location=location), folder)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": "-1"}, r"the offset '-1'; expected a whole number of bytes"),
        ({"offset": " 4"}, r"the offset ' 4'"),
        ({"offset": "0x10"}, r"the offset '0x10'"),
        ({"length": "1e9"}, r"the length '1e9'"),
        ({"length": "4" * 5000}, r"the length '4444"),
        ({"length": "12"}, r"are 12 bytes from byte 0 of .*data, which has 8192; the shape \[4\] takes 16"),
        ({"offset": "8180"}, r"are 16 bytes from byte 8180 of .*data, which has 8192"),
        (
            {"basepath": ".."},
            r"described by \['location', 'basepath'\]; expected location, offset, length and checksum",
        ),
    ],
)
def test_an_offset_and_a_length_lie_in_the_file(entries, message, folder):
    with pytest.raises(ModelError, match=message):
        by_path(model(location="data", **entries), folder)


def test_a_location_is_given_once(folder):
    found = model(location="data")
    found.graph.initializer[0].external_data.add(key="location", value="../secret")
    with pytest.raises(ModelError, match=r"described by \['location', 'location'\]; expected .* each once at most"):
        by_path(found, folder)


@pytest.mark.parametrize("values", [NUMBERS, LARGE], ids=["small", "large"])
def test_data_are_in_the_file_or_in_another(values, folder):
    found = model(values=values, location="data")
    found.graph.initializer[0].raw_data = values.tobytes()
    with pytest.raises(ModelError, match=r"in the file and in another one; export it again"):
        by_path(found, folder)


def test_two_weights_of_one_name(folder):
    found = model(location="data")
    found.graph.initializer.append(numpy_helper.from_array(NUMBERS, "w"))
    with pytest.raises(ModelError, match=r"two weights have the name 'w'"):
        by_path(found, folder)


def test_what_this_onnx_does_not_know_is_left_out():
    graph = Graph.load(proto("(float[2] x) => (float[2] y) { y = Neg(x) }").SerializeToString() + b"\xf2\x7f\x06secret")
    assert b"secret" not in graph.serialize()


def test_a_model_that_prints_a_file_is_refused(folder):
    """The model of the trial: bytes whose greedy tokens were any file below the working directory."""
    found = build.recurrent("GRU")
    tensor = found.graph.initializer.add(name="secret", data_type=TensorProto.UINT8, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="data")
    for source in (found, found.SerializeToString()):
        with pytest.raises(ModelError, match=r"the tensor 'secret' cannot be read, as bytes and a ModelProto"):
            load(source)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of memory")
def test_data_that_do_not_fit_into_memory(folder):
    """4 GB under a limit ended in a segmentation fault while onnx read them."""
    size = 4 << 30
    with (folder / "huge").open("wb") as file:
        file.truncate(size)  # without a block on the disk
    found = model(values=np.broadcast_to(np.float32(0), (size // 4,)), location="huge")
    (folder / "m.onnx").write_bytes(found.SerializeToString())
    code = """if True:
        import resource
        from decoding import ModelError, load
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
        try:
            load("m.onnx")
        except ModelError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "the tensor 'w' of shape [1073741824] takes 4,294,967,296 bytes of" in done.stdout
    assert "there is not enough memory for them" in done.stdout
