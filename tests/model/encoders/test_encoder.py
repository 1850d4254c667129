"""Encoders found out about by running, and joined to decoders by roles, names and shapes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from decoding import Greedy, ModelError, OptionError, decode, load
from decoding.model import paths
from tests.helpers.build import model as make_model
from tests.helpers.build import recurrent
from tests.helpers.seq2seq import AdditiveModel

SYSTEMS = Path(__file__).parents[2] / "models" / "seq2seq"
INFO, NODE, FLOAT, INT64 = helper.make_tensor_value_info, helper.make_node, TensorProto.FLOAT, TensorProto.INT64
ADDITIVE = AdditiveModel(3)
SOURCES = [[1, 2, 3], [4], [5, 6, 7, 8]]


def encoder(nodes, inputs, outputs, weights=None, metadata=None):
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in (weights or {}).items()]
    return make_model(helper.make_graph(nodes, "encoder", inputs, outputs, tensors), metadata)


def renamed(proto, **names):
    """A copy whose tensors are called otherwise."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    for node in copy.graph.node:
        for sequence in (node.input, node.output):
            sequence[:] = [names.get(n, n) for n in sequence]
    for value in (*copy.graph.input, *copy.graph.output):
        value.name = names.get(value.name, value.name)
    return copy


@pytest.mark.parametrize(
    ("name", "decoder", "encoders"),
    [
        ("additive_mask", True, [True]),
        ("additive_padding", True, [True]),
        ("additive_length", True, [False]),
        ("additive_bare", False, [False]),
        ("time_major", True, [True]),
        ("luong", True, [False]),
        ("chat", False, [True, False]),
    ],
)
def test_padding_is_believed_only_where_running_shows_that_it_changes_nothing(name, decoder, encoders):
    model = load(SYSTEMS / f"{name}.onnx")
    assert model._network.contract.pads is decoder
    assert [stage.pads for stage in model._network.encoders] == encoders


def test_what_a_mask_means_is_found_by_running():
    described = load(SYSTEMS / "additive_padding.onnx").describe()
    assert "where source_padding_mask is 0 for what is no padding" in described
    assert "0 where there is no padding" not in load(SYSTEMS / "additive_mask.onnx").describe()


def test_describe_says_who_feeds_what():
    described = load(SYSTEMS / "additive_mask.onnx").describe()
    assert "the encoder's memory" in described
    assert "starts from the encoder's hidden" in described
    assert "given by the caller" not in described
    assert "no token is padding" not in described
    assert "feeds memory: its name" in described
    assert "source int64[batch, ?]: source" in described
    assert "feeds turns, one for each turn of the source" in load(SYSTEMS / "chat.onnx").describe()


def test_other_names_are_joined_by_the_only_way_that_shapes_allow_and_it_is_said():
    other = renamed(ADDITIVE.encoder(), memory="annotations", hidden="summary")
    found = load(ADDITIVE.decoder(), encoder=other)
    assert "annotations of the ModelProto feeds memory: the only way that their shapes allow" in found.describe()
    assert "summary of the ModelProto feeds hidden: the only way that their shapes allow" in found.describe()
    expected = load(ADDITIVE.decoder(), encoder=ADDITIVE.encoder())
    assert (
        decode(found, SOURCES, prefix=[1], max_new_tokens=4).tokens
        == decode(expected, SOURCES, prefix=[1], max_new_tokens=4).tokens
    )


def test_names_that_differ_in_their_side_alone():
    other = renamed(ADDITIVE.encoder(), memory="encoder_memory", hidden="hidden_n")
    assert "hidden_n of the ModelProto feeds hidden: their names" in load(ADDITIVE.decoder(), encoder=other).describe()


def test_bytes_and_paths_are_encoders_too(tmp_path):
    expected = load(ADDITIVE.decoder(), encoder=ADDITIVE.encoder())
    onnx.save(ADDITIVE.encoder(), tmp_path / "e.onnx")
    for given in (ADDITIVE.encoder().SerializeToString(), tmp_path / "e.onnx", [str(tmp_path / "e.onnx")]):
        found = load(ADDITIVE.decoder().SerializeToString(), encoder=given)
        assert (
            decode(found, SOURCES, prefix=[1], max_new_tokens=4).tokens
            == decode(expected, SOURCES, prefix=[1], max_new_tokens=4).tokens
        )


def test_what_stands_beside_a_file_is_its_encoder_unless_told_otherwise():
    assert load(SYSTEMS / "additive_mask.onnx")._network.encoders is not None
    assert load(SYSTEMS / "additive_mask.onnx", encoder=[])._network.encoders is None


def test_a_shipped_model_brings_its_encoder(tmp_path, monkeypatch):
    (tmp_path / "pretrained").mkdir()
    onnx.save(ADDITIVE.decoder(), tmp_path / "pretrained" / "small.onnx")
    onnx.save(ADDITIVE.encoder(), tmp_path / "pretrained" / "small.encoder.onnx")
    monkeypatch.setattr(paths.resources, "files", lambda package: tmp_path)
    assert load("small")._network.encoders is not None
    with pytest.raises(ModelError, match=r"shipped are small$"):
        load("other")


def test_two_lstm_states_of_one_shape_are_not_guessed():
    with pytest.raises(
        ModelError, match=r"it is not clear which of .*bridge_h.onnx's inputs the encoder's outputs feed"
    ) as caught:
        load(SYSTEMS / "bridge_h.onnx")
    for part in (
        "last float32[1, batch, 6] of",
        "h0 float32[batch: 1, 6] (state)",
        "c0 float32",
        "pass roles={'encoder': {'last': 'h0'}}",
    ):
        assert part in str(caught.value)


def state_encoder(*outputs, size=8):
    """A GRU over ids; `outputs` are names for its last state [1, batch, size]."""
    rng = np.random.default_rng(0)
    weights = {
        n: rng.normal(size=s).astype(np.float32)
        for n, s in {"table": (9, size), "W": (1, 3 * size, size), "R": (1, 3 * size, size)}.items()
    }
    nodes = [
        NODE("Gather", ["table", "source"], ["e"]),
        NODE("Transpose", ["e"], ["x"], perm=[1, 0, 2]),
        NODE("GRU", ["x", "W", "R"], ["", "last"], hidden_size=size),
        *(NODE("Identity", ["last"], [name]) for name in outputs),
    ]
    return encoder(
        nodes,
        [INFO("source", INT64, ["batch", "source"])],
        [INFO(n, FLOAT, [1, "batch", size]) for n in outputs],
        weights,
    )


def test_an_output_that_no_input_wants():
    decoder = recurrent("GRU", exposed=True)
    message = r"no input of .* wants an encoder's output. Outputs that feed nothing: spare float32\[1, batch, 8\] of .*; pass roles=\{'encoder': \{'spare': None\}\}"
    with pytest.raises(ModelError, match=message):
        load(decoder, encoder=state_encoder("h0", "spare"))
    assert load(
        decoder, encoder=state_encoder("h0", "spare"), roles={"encoder": {"spare": None}}
    )._network.encoders.fed == {"h0"}


def test_an_input_that_nobody_feeds():
    message = r"nobody feeds an input of .*. Outputs that feed nothing: none. Inputs that nothing feeds: memory float32\[batch: \?, 10\] \(context\); pass roles=\{'context': \['memory'\]\}"
    small = AdditiveModel(3)
    with pytest.raises(ModelError, match=message):
        load(small.decoder(), encoder=state_encoder("hidden", size=5))
    model = load(small.decoder(), encoder=state_encoder("hidden", size=5), roles={"context": ["memory"]})
    with pytest.raises(OptionError, match=r"context: the model needs 'memory'"):
        decode(model, [[1, 2]], prefix=[1])
    assert len(decode(model, [[1, 2]], prefix=[1], context=np.zeros((1, 4, 10)), max_new_tokens=3)[0].tokens) == 3


@pytest.mark.parametrize(
    ("roles", "error", "message"),
    [
        (
            {"encoder": {"nothing": "hidden"}},
            OptionError,
            r"roles\['encoder'\]: .* has no output 'nothing'; it has memory, hidden",
        ),
        (
            {"encoder": {"hidden": "h"}},
            OptionError,
            r"roles\['encoder'\]\['hidden'\]: .* has no context or state 'h' to feed; there are memory, source_mask, hidden",
        ),
        ({"encoder": 3}, OptionError, r"roles\['encoder'\]=3: expected"),
        ({"encoder": [{}, {}]}, OptionError, r"one for each of the 1 encoders"),
        (
            {"encoder": {"memory": "hidden"}},
            ModelError,
            r"its output memory float32\[batch, \?, 10\] does not fit the state hidden, float32 of sizes \[5\]",
        ),
    ],
)
def test_wrong_joins(roles, error, message):
    with pytest.raises(error, match=message):
        load(ADDITIVE.decoder(), encoder=ADDITIVE.encoder(), roles=roles)


def test_a_context_of_a_wrong_rank_names_both_sides():
    wrong = renamed(ADDITIVE.encoder(), memory="hidden", hidden="memory")
    with pytest.raises(ModelError, match=r"its output .* does not fit the"):
        load(ADDITIVE.decoder(), encoder=wrong)


def test_an_unknown_role_in_an_encoders_file():
    wrong = ADDITIVE.encoder()
    entry = wrong.metadata_props.add()
    entry.key, entry.value = "decoding.roles", '{"sources": []}'
    with pytest.raises(
        OptionError, match=r"metadata 'decoding.roles' has the unknown key 'sources'; an encoder's are latent"
    ):
        load(ADDITIVE.decoder(), encoder=wrong)


def test_rows_that_change_each_other_are_refused():
    nodes = [
        NODE("Cast", ["source"], ["x"], to=FLOAT),
        NODE("ReduceMean", ["x"], ["all"], axes=[0, 1], keepdims=1),
        NODE("Sub", ["x", "all"], ["memory"]),
    ]
    mixing = encoder(nodes, [INFO("source", INT64, ["batch", "source"])], [INFO("memory", FLOAT, ["batch", "source"])])
    with pytest.raises(ModelError, match="one source changes the output memory of another"):
        load(ADDITIVE.decoder(), encoder=mixing)


def test_a_batch_baked_at_one_is_run_row_by_row():
    proto = ADDITIVE.encoder()
    nodes = [NODE("Squeeze", ["memory_one", "axis"], ["squeezed"]), NODE("Unsqueeze", ["squeezed", "axis"], ["memory"])]
    alone = renamed(proto, memory="memory_one")
    alone.graph.node.extend(nodes)
    alone.graph.initializer.append(numpy_helper.from_array(np.array([0]), "axis"))
    alone.graph.output[0].CopyFrom(INFO("memory", FLOAT, [1, "source", 10]))
    for value in alone.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    found, expected = load(ADDITIVE.decoder(), encoder=alone), load(ADDITIVE.decoder(), encoder=ADDITIVE.encoder())
    assert "it takes one source a run" in found.describe()
    assert (
        decode(found, SOURCES, prefix=[1], max_new_tokens=4).tokens
        == decode(expected, SOURCES, prefix=[1], max_new_tokens=4).tokens
    )


def declared(size):
    """The additive encoder, whose file declares a fixed length."""
    proto = ADDITIVE.encoder()
    dim = proto.graph.input[0].type.tensor_type.shape.dim[1]
    dim.ClearField("dim_param")
    dim.dim_value = size
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = size
    return proto


def fixed(size):
    """The same, but it takes no other length: something of that length is added to each place."""
    proto = declared(size)
    name = proto.graph.input[0].name
    for node in proto.graph.node:
        node.input[:] = ["placed" if n == name else n for n in node.input]
    proto.graph.node.insert(0, NODE("Add", [name, "places"], ["placed"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((1, size), np.int64), "places"))
    return proto


def test_sources_of_a_fixed_length_are_padded_where_the_encoder_is_told_and_longer_ones_refused():
    found, expected = load(ADDITIVE.decoder(), encoder=fixed(6)), load(ADDITIVE.decoder(), encoder=ADDITIVE.encoder())
    assert found._network.encoders.stages[0].pads
    assert (
        decode(found, SOURCES, prefix=[1], max_new_tokens=4).tokens
        == decode(expected, SOURCES, prefix=[1], max_new_tokens=4).tokens
    )
    with pytest.raises(OptionError, match=r"prompts\[1\]: 7 long on axis 0, but .* takes at most 6 there \(source\)"):
        decode(found, [[1], [1] * 7], prefix=[1])


def test_a_declared_length_is_not_believed_where_any_will_do():
    """Torch's dynamo exporter may declare the length of its example for an axis that is dynamic."""
    found, expected = (
        load(ADDITIVE.decoder(), encoder=declared(6)),
        load(ADDITIVE.decoder(), encoder=ADDITIVE.encoder()),
    )
    assert "its sources may have any length, whatever the file declares: seen by running" in found.describe()
    sources = [*SOURCES, [1, 2, 3, 4, 5, 6, 7, 8, 9]]
    assert (
        decode(found, sources, prefix=[1], max_new_tokens=4).tokens
        == decode(expected, sources, prefix=[1], max_new_tokens=4).tokens
    )


def test_a_source_that_gives_more_than_the_decoder_takes():
    proto = ADDITIVE.decoder()
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "source":
                dim.ClearField("dim_param")
                dim.dim_value = 5
    found, expected = load(proto, encoder=ADDITIVE.encoder()), load(ADDITIVE.decoder(), encoder=ADDITIVE.encoder())
    assert (
        decode(found, SOURCES, prefix=[1], max_new_tokens=4).tokens
        == decode(expected, SOURCES, prefix=[1], max_new_tokens=4).tokens
    )
    with pytest.raises(
        OptionError, match=r"prompts\[1\]: its source gives 7 positions of the context 'memory', the decoder takes 5"
    ):
        decode(found, [[1], [1] * 7], Greedy(), prefix=[1])


def test_an_ambiguous_mask_asks():
    proto = renamed(ADDITIVE.decoder(), source_mask="mask")
    for value in proto.graph.input:
        if value.name == "mask":
            value.CopyFrom(INFO("mask", TensorProto.BOOL, ["batch", "unknown"]))
        if value.name == "token":
            value.CopyFrom(INFO("token", INT64, ["batch"]))
    assert load(proto, encoder=ADDITIVE.encoder())._network.contract.pads  # a single step has no mask of its own
    decoder = recurrent("GRU", exposed=True)
    add = [
        NODE("ReduceSum", ["memory", "both"], ["sum"], keepdims=0),
        NODE("ReduceSum", ["mask_f", "second"], ["ends"], keepdims=1),
    ]
    decoder.graph.node.extend([NODE("Cast", ["mask"], ["mask_f"], to=FLOAT), *add, NODE("Add", ["logits_0", "ends1"], ["logits_1"]), NODE("Unsqueeze", ["ends", "third"], ["ends1"]),
                               NODE("Unsqueeze", ["sum", "last2"], ["sum2"]), NODE("Add", ["logits_1", "sum2"], ["logits"])])  # fmt: skip
    decoder.graph.node[-7 - 1].output[0] = "logits_0"
    for name, value in {"both": [1, 2], "second": [1], "third": [2], "last2": [1, 2]}.items():
        decoder.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    decoder.graph.input.extend(
        [INFO("memory", FLOAT, ["batch", "s", 4]), INFO("mask", TensorProto.BOOL, ["batch", "u"])]
    )
    with pytest.raises(
        ModelError,
        match=r"ambiguous: mask bool\[batch, u\] could tell the padding of the tokens or of memory .*; pass roles=\{'source_mask': 'mask'\}",
    ):
        load(decoder)


@pytest.mark.parametrize(
    ("key", "text", "error", "message"),
    [
        ("roles", "[1]", ModelError, r"metadata 'decoding.roles': \[1\]: expected a dict"),
        ("roles", '{"latent": 3}', ModelError, r"metadata 'decoding.roles'\['latent'\]=3: expected"),
        ("roles", '{"constant": {"nope": 1}}', OptionError, r"roles\['constant'\]: .* has no 'nope' there"),
        ("roles", '{"batch_axis": {"source": 9}}', OptionError, r"roles\['batch_axis'\]\['source'\]=9: .*expected one of its axes"),
        ("pad", '"a"', ModelError, r"metadata 'decoding.pad' is 'a'; expected a whole number"),
        ("pad", "[1, 2]", ModelError, r"metadata 'decoding.pad' holds 2 ids; expected one"),
        ("bos", "[null]", ModelError, r"metadata 'decoding.bos' is None; expected a whole number"),
        ("eos", "-1", ModelError, r"metadata 'decoding.eos' is -1; expected a whole number"),
        ("vocab", "3", ModelError, r"metadata 'decoding.vocab' is 3; expected a list of strings"),
    ],
)  # fmt: skip
def test_metadata_of_wrong_kinds_in_an_encoders_file(key, text, error, message):
    encoder = ADDITIVE.encoder()
    encoder.metadata_props.add(key=f"decoding.{key}", value=text)
    with pytest.raises(error, match=message):
        load(ADDITIVE.decoder(), encoder=encoder)
