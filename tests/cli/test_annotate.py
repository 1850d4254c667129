"""`decoding annotate`, run as a user runs it."""

import json
import os
import shutil
import stat
from pathlib import Path

import onnx
import pytest

from decoding import decode, load
from decoding.cli.main import main
from tests.helpers import build
from tests.helpers.exports import MODELS
from tests.helpers.seq2seq import AdditiveModel
from tests.helpers.tokenizers import TEXT, hugging_face, sentence_piece


def run(capsys, *args):
    code = main(["annotate", *map(str, args)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def model(tmp_path):
    def write(size, **metadata):
        entries = {f"decoding.{key}": value for key, value in metadata.items()}
        path = tmp_path / "m.onnx"
        path.write_bytes(build.recurrent("GRU", vocab=size, metadata=entries).SerializeToString())
        return path

    return write


def metadata(path):
    return {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}


def untouched(path, before):
    """Whether a file differs from what it was in its metadata only."""
    now, then = onnx.ModelProto.FromString(path.read_bytes()), onnx.ModelProto.FromString(before)
    del now.metadata_props[:], then.metadata_props[:]
    return now.SerializeToString() == then.SerializeToString()


@pytest.mark.parametrize("form", ["list.json", "dict.json", "lines.txt"])
def test_a_vocabulary_and_ids_are_written(form, capsys, model, tmp_path):
    path, tokens = model(11, other=1), list("abcdefghijk")
    vocab, before = tmp_path / form, path.read_bytes()
    text = {
        "list.json": json.dumps(tokens),
        "dict.json": json.dumps({t: i for i, t in enumerate(tokens)}),
        "lines.txt": "\n".join(tokens) + "\n",
    }
    vocab.write_text(text[form])
    code, out, _ = run(capsys, path, "--vocab", vocab, "--bos", "0", "--eos", "1", "2", "--pad", "3")
    assert code == 0
    assert "decoding.vocab" in out
    assert untouched(path, before)
    assert metadata(path)["decoding.other"] == "1"
    loaded = load(path)
    assert loaded.tokenizer.tokens == tokens
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (0, (1, 2), 3)
    assert loaded._text_start == (0,)
    # What is not given stays.
    assert run(capsys, path, "--eos", "4")[0] == 0
    assert load(path).eos_token_id == (4,)
    assert load(path).bos_token_id == 0
    assert load(path).tokenizer.tokens == tokens


@pytest.mark.parametrize("kind", ["tokenizer.json", "folder", "sentencepiece.model"])
def test_a_tokenizer_is_written_with_its_special_ids(kind, capsys, model, tmp_path):
    pytest.importorskip("tokenizers", reason="the text extra is not installed")
    given = tmp_path / kind
    if kind == "sentencepiece.model":
        given.write_bytes(sentence_piece("bpe").serialized_model_proto())
        size = sentence_piece("bpe").get_piece_size()
    else:
        size = 500
        given.mkdir() if kind == "folder" else None
        hugging_face("byte_level").save(str(given / "tokenizer.json" if kind == "folder" else given))
    path = model(size, vocab=["?"] * size)
    assert run(capsys, path, "--tokenizer", given, "--pad", "9")[0] == 0
    found, passed = load(path), load(build.recurrent("GRU", vocab=size), tokenizer=given, pad_token_id=9)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "_text_start"):
        assert getattr(found, name) == getattr(passed, name)
    assert found.pad_token_id == 9
    assert found.tokenizer.encode(TEXT) == passed.tokenizer.encode(TEXT)
    assert decode(found, "All", max_new_tokens=9).text == decode(passed, "All", max_new_tokens=9).text
    assert "decoding.vocab" not in metadata(path)


def test_an_encoder_is_annotated_too(capsys, tmp_path):
    system = AdditiveModel(3, metadata={"decoding.bos": 1})
    (tmp_path / "m.onnx").write_bytes(system.decoder().SerializeToString())
    encoder, vocab = tmp_path / "m.encoder.onnx", tmp_path / "v.txt"
    encoder.write_bytes(system.encoder().SerializeToString())
    vocab.write_text("\n".join("abcdefghijkl"))
    assert run(capsys, encoder, "--vocab", vocab)[0] == 0
    model = load(tmp_path / "m.onnx")
    assert decode(model, "cab", max_new_tokens=4).tokens == decode(model, [2, 0, 1], max_new_tokens=4).tokens


def test_roles_are_checked_against_the_graph(capsys, model):
    path = model(11)
    assert run(capsys, path, "--roles", '{"token": "tokens", "output": "logits"}')[0] == 0
    assert json.loads(metadata(path)["decoding.roles"]) == {"token": "tokens", "output": "logits"}
    for roles, message in (
        ('{"token": "nothing"}', "has no 'nothing' there"),
        ('{"tokens": "tokens"}', "unknown key 'tokens'"),
        ("{token}", "--roles: not JSON"),
        ("3", "expected a dict"),
    ):
        before = path.read_bytes()
        code, _, err = run(capsys, path, "--roles", roles)
        assert code == 1
        assert message in err
        assert path.read_bytes() == before


def test_external_data_stay_where_they_are_and_are_said(capsys, tmp_path):
    for name in ("hand_lstm_external.onnx", "hand_lstm_external.data"):
        shutil.copy(MODELS / name, tmp_path)
    path = tmp_path / "hand_lstm_external.onnx"
    before, data = path.read_bytes(), (tmp_path / "hand_lstm_external.data").read_bytes()
    output = tmp_path / "annotated.onnx"
    code, out, _ = run(capsys, path, "--eos", "1", "--output", output)
    assert code == 0
    assert "its weights are in hand_lstm_external.data, which must stay in the same folder" in out
    assert path.read_bytes() == before
    assert untouched(output, before)
    assert (tmp_path / "hand_lstm_external.data").read_bytes() == data
    assert load(output).eos_token_id == (1,)
    (tmp_path / "elsewhere").mkdir()
    code, _, err = run(capsys, path, "--eos", "1", "--output", tmp_path / "elsewhere" / "m.onnx")
    assert code == 1
    assert "hand_lstm_external.data, in its folder; write to the same folder" in err
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.skipif(os.name == "nt", reason="files have no mode")
def test_the_file_keeps_its_mode(capsys, model):
    path = model(11)
    path.chmod(0o640)
    assert run(capsys, path, "--eos", "1")[0] == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [p.name for p in path.parent.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "there is nothing to write; pass --vocab"),
        (["--vocab", "nowhere.txt"], "--vocab nowhere.txt: cannot be read"),
        (["--tokenizer", "nowhere.json"], "--tokenizer: no such file: nowhere.json"),
        (["--eos", "-1"], "--eos=[-1]: expected an id"),
        (["--eos", "1", "--output", "no/folder/m.onnx"], f"{Path('no/folder/m.onnx')} cannot be written"),
    ],
)
def test_wrong_arguments_are_named(args, message, capsys, model):
    path = model(11)
    before = path.read_bytes()
    code, _, err = run(capsys, path, *args)
    assert code == 1
    assert message in err
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["3", "[1]", '{"a": "b"}', '{"a": -1}', '{"a": 2000000000}', "{", '[["a"]]'])
def test_what_is_no_vocabulary_is_named(content, capsys, model, tmp_path):
    (tmp_path / "v.json").write_text(content)
    code, _, err = run(capsys, model(11), "--vocab", tmp_path / "v.json")
    assert code == 1
    assert "v.json" in err
