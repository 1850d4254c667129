"""decoding/cli, run as a user runs it."""

import io
import json
import re
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from decoding import Beam, decode, load, score
from decoding.cli.main import _speak_utf8, main
from decoding.model.network import Network
from decoding.tokenizers import read_tokenizer
from tests.helpers import build
from tests.helpers.exports import MODELS
from tests.helpers.seq2seq import AdditiveModel
from tests.helpers.tokenizers import trained


def run(capsys, *args):
    code = main(list(args))
    out, err = capsys.readouterr()
    return code, out, err


def test_generate_prints_the_prompt_and_what_follows(capsys):
    code, out, _ = run(capsys, "generate", "shakespeare", "ROMEO:", "--seed", "1", "--max-new-tokens", "40")
    assert code == 0
    assert out.startswith("ROMEO:")
    assert len(out) == len("ROMEO:") + 40 + 1
    assert run(capsys, "generate", "shakespeare", "ROMEO:", "--seed", "1", "--max-new-tokens", "40")[1] == out


def test_pipes_of_windows_carry_utf8(monkeypatch):
    """There they have a code page of their own, which has no Chinese characters."""
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    given = io.TextIOWrapper(io.BytesIO("床前".encode()), encoding="cp1252")
    written = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdin", given)
    monkeypatch.setattr(sys, "stdout", written)
    _speak_utf8()
    assert given.read() == "床前"
    print("明月", end="", flush=True)
    assert written.buffer.getvalue().decode() == "明月"

    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")  # whoever asks for another one gets it
    asked = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", asked)
    _speak_utf8()
    assert asked.encoding == "cp1252"


@pytest.mark.parametrize(
    "how",
    [["--greedy"], ["--num-beams", "3"], ["--temperature", "0.5", "--top-k", "5", "--top-p", "0.9"], ["--n", "3"]],
)
def test_every_strategy_runs(capsys, how):
    code, out, _ = run(capsys, "generate", "shakespeare", "JULIET:", "--max-new-tokens", "10", *how)
    assert code == 0
    assert out.count("JULIET:") == (3 if "--n" in how else 1)


def test_regex(capsys):
    pytest.importorskip("llguidance", reason="llguidance is not installed (pip install '.[constraints]')")
    for pattern, expected in ((r"\d{4}-\d\d-\d\d", "2026-05-03\n"), (r"2027-\d\d-\d\d", "2027-05-03\n")):
        for how in ("--greedy", "--num-beams=4"):
            assert run(capsys, "generate", "dates", "3 mai 2026", "--regex", pattern, how)[:2] == (0, expected)
    for pattern, says in (
        (r"(a)\1", "backreferences are not supported"),
        ("(", "unclosed group"),
        ("[a-z]+", "no token of the model's vocabulary"),
    ):
        code, out, err = run(capsys, "generate", "dates", "3 mai 2026", "--regex", pattern)
        assert (code, out) == (1, "")
        assert says in err


def test_ids_for_a_model_without_a_vocabulary(capsys, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(build.recurrent().SerializeToString())
    code, out, _ = run(capsys, "generate", str(path), "1 2", "--greedy", "--max-new-tokens", "4")
    assert code == 0
    assert len(out.split()) == 6
    code, _, err = run(capsys, "generate", str(path), "one two")
    assert code == 1
    assert "expected ids split by spaces" in err


@pytest.mark.parametrize("kind", ["metaspace", "word_piece", "byte_level", "bpe"])
@pytest.mark.parametrize("how", [["--greedy"], ["--num-beams", "2"]])
def test_the_space_between_a_prompt_and_its_continuation_is_printed(kind, how, capsys, tmp_path):
    """Alone, the continuation's text begins without it: decoders strip the first space of a text."""
    pytest.importorskip("tokenizers", reason="the text extra is not installed")
    tokenizer, path, prompt = read_tokenizer(trained(kind)), str(tmp_path / "m.onnx"), "All human"
    tokens = tokenizer.encode(" beings are born")
    bias = np.zeros(tokenizer.size, np.float32)
    bias[tokens[0]] = 50  # so that a word follows
    load(build.recurrent(vocab=tokenizer.size, bias=bias), tokenizer=trained(kind)).save(path)
    _, out, _ = run(capsys, "generate", path, prompt, "--max-new-tokens", "3", *how)
    assert out == tokenizer.decode([*tokenizer.encode(prompt), *tokens[:1] * 3]) + "\n"
    assert out.startswith(f"{prompt} b")


def test_score_prints_the_perplexity(capsys, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("To be, or not to be")
    code, out, _ = run(capsys, "score", "shakespeare", str(path))
    values = score("shakespeare", "To be, or not to be")[0][1:]
    assert code == 0
    assert f"perplexity {np.exp(-values.astype(float).mean()):.2f}" in out
    assert "18 tokens" in out
    path.write_text("To be\n\nor not\n")
    assert len(run(capsys, "score", "shakespeare", str(path), "--lines")[1].splitlines()) == 3


def test_score_as_json_is_that_of_python(capsys, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("To be\n\nor not\n")
    found = [
        json.loads(line) for line in run(capsys, "score", "shakespeare", str(path), "--lines", "--json")[1].splitlines()
    ]
    for one, text in zip(found, ["To be", "or not"], strict=True):
        (values,) = score("shakespeare", text)
        assert (one["text"], one["scored_tokens"], one["token_logprobs"][0]) == (text, len(text) - 1, None)
        np.testing.assert_array_equal(np.array(one["token_logprobs"][1:], np.float32), values[1:])
        assert one["perplexity"] == pytest.approx(np.exp(-values[1:].mean()))


def test_score_with_an_encoder_takes_sources(capsys, tmp_path):
    (tmp_path / "out.txt").write_text("2026-05-03\n2026-05-04\n")
    (tmp_path / "in.txt").write_text("3 mai 2026\n4 mai 2026\n")
    command = ["score", "dates", str(tmp_path / "out.txt"), "--sources", str(tmp_path / "in.txt")]
    lines = run(capsys, *command, "--lines")[1].splitlines()
    expected = score("dates", ["2026-05-03", "2026-05-04"], prompts=["3 mai 2026", "4 mai 2026"])
    assert [float(line.split("\t")[0]) for line in lines[:2]] == pytest.approx([v.sum() for v in expected], abs=1e-4)
    assert lines[2].startswith("20 tokens, ")
    assert run(capsys, *command)[1].strip() == lines[2]


def attentive(path):
    """A model whose tokens attend to a memory of its own, so that it needs no context."""
    proto = build.recurrent("GRU", exposed=True)
    proto.graph.initializer.append(
        numpy_helper.from_array(np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32), "memory")
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "layer"))
    proto.graph.node.extend([
        helper.make_node("Squeeze", ["h0_out", "layer"], ["query"]),
        helper.make_node("MatMul", ["query", "memory"], ["match"]),
        helper.make_node("Softmax", ["match"], ["attention"], axis=-1),
    ])  # fmt: skip
    proto.graph.output.append(helper.make_tensor_value_info("attention", TensorProto.FLOAT, ["batch", 5]))
    path.write_bytes(proto.SerializeToString())
    return str(path)


@pytest.mark.parametrize(
    ("how", "title"),
    [
        (["--greedy"], "Tokens shaded by probability"),
        (["--n", "2", "--seed", "1"], "Tokens shaded by probability"),
        (["--num-beams", "3"], "Beams"),
        (["--num-beams", "3", "attention"], "Attention"),
        (["--greedy", "attention"], "Attention"),
    ],
)
def test_the_picture_suits_the_run(capsys, tmp_path, monkeypatch, how, title):
    figure = pytest.importorskip("matplotlib.figure", reason="the plot extra is not installed")
    seen, save = [], figure.Figure.savefig
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, file: (seen.append(self), save(self, file)))
    attends, how = "attention" in how, [h for h in how if h != "attention"]
    model = attentive(tmp_path / "m.onnx") if attends else "shakespeare"
    command = ["generate", model, "1 2" if attends else "ROMEO:", "--max-new-tokens", "12", *how]
    plain, picture = run(capsys, *command), tmp_path / "picture.png"
    assert run(capsys, *command, "--plot", str(picture)) == plain
    assert plain[0] == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    (drawn,) = seen
    titles = [drawn.axes[0].get_title("left"), *(t.get_text() for t in drawn.texts)]
    assert title in titles


def test_the_picture_of_a_beam_search_has_all_beams(capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    picture = tmp_path / "beams.svg"
    code, out, _ = run(
        capsys, "generate", "shakespeare", "A", "--num-beams", "3", "--max-new-tokens", "5", "--plot", str(picture)
    )
    assert code == 0
    assert out.count("\n") == 1  # one output was asked for
    assert all(f"<!-- {rank}: length" in picture.read_text(encoding="utf-8") for rank in range(3))


@pytest.mark.parametrize("lines", [[], ["--lines"]])
def test_score_draws_its_tokens(capsys, tmp_path, lines):
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    text, picture = tmp_path / "text.txt", tmp_path / "scored.svg"
    text.write_text("To be\nor not")
    plain = run(capsys, "score", "shakespeare", str(text), *lines)
    assert run(capsys, "score", "shakespeare", str(text), *lines, "--plot", str(picture)) == plain
    drawn = re.findall(r"<!-- (.|↵) -->", picture.read_text(encoding="utf-8"))
    assert "".join(drawn).replace(" ", "") == "Tobe↵ornot"


@pytest.mark.parametrize(
    ("file", "message"),
    [("x.foo", "--plot x.foo: expected a name that ends in ."), ("no/x.png", "--plot no/x.png: there is no folder no")],
)
@pytest.mark.parametrize("command", [["generate", "shakespeare", "A"], ["score", "shakespeare", "-"]])
def test_a_picture_that_cannot_be_written_is_refused_before_the_work(capsys, monkeypatch, file, message, command):
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    monkeypatch.setattr("sys.stdin", io.StringIO("To be"))
    code, out, err = run(capsys, *command, "--plot", file)
    assert (code, out) == (1, "")
    assert message in err


def test_inspect_prints_the_contract(capsys):
    code, out, _ = run(capsys, "inspect", "shakespeare")
    assert code == 0
    assert out.rstrip() == load("shakespeare").describe()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["inspect", "nowhere.onnx"], "nowhere.onnx: no such file"),
        (
            ["generate", "shakespeare", "A", "--greedy", "--top-k", "3"],
            "--greedy and --top-k: --greedy does not sample",
        ),
        (["score", "dates", "LICENSE"], "has an encoder; pass its sources, one on each line, as --sources FILE"),
        (["generate", "shakespeare", "ß"], "'ß' at position 0"),
        (["generate", "shakespeare", "a", "--temperature", "0"], "use Greedy()"),
        (["generate", "ROMEO:"], "a prompt comes after the model: decoding generate shakespeare ROMEO:"),
        (["generate", "To be"], "decoding generate shakespeare 'To be'"),
        (["generate", "shakespeare", "A", "--file", "x"], "PROMPT 'A' and --file x: pass only one of them"),
        (["generate", "--file", "nowhere.txt"], "--file nowhere.txt: cannot be read"),
        (["score", "dates", "LICENSE", "--sources", "CHANGELOG.md"], "lines with text, but FILE LICENSE has"),
        (["score", "shakespeare", "LICENSE", "--sources", "LICENSE"], "has no encoder; leave it out"),
        (["score", "shakespeare", "nowhere.txt"], "nowhere.txt: cannot be read"),
    ],
)
def test_errors_are_one_line_and_exit_with_1(capsys, args, message):
    code, _, err = run(capsys, *args)
    assert code == 1
    assert message in err
    assert err.startswith("decoding: ")
    assert err.count("\n") == 1


def test_python_dash_m_and_a_reader_that_leaves():
    command = [sys.executable, "-m", "decoding", "generate", "shakespeare", "ROMEO:", "--max-new-tokens", "3000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.read(6) == "ROMEO:"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0


def test_inspect_says_which_provider_runs_what(capsys):
    code, out, _ = run(capsys, "inspect", "shakespeare", "--providers", "cpu")
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith("CPUExecutionProvider")]
    assert "LSTM" in line or "Gemm" in line
    assert run(capsys, "inspect", "shakespeare")[1] in out


def test_inspect_on_a_device_says_what_becomes_of_its_layers(capsys, monkeypatch):
    monkeypatch.setattr(Network, "on_device", True)
    out = run(capsys, "inspect", "shakespeare", "--providers", "cpu")[1]
    (line,) = [line for line in out.splitlines() if line.startswith("CPUExecutionProvider")]
    assert "LSTM" not in line
    assert "Gemm" in line
    assert "Memcpy" not in line


def test_inspect_names_what_each_pass_did(capsys):
    model = str(MODELS / "tf2onnx_gru.onnx")
    code, out, _ = run(capsys, "inspect", model, "--graph")
    assert code == 0
    assert out.startswith(run(capsys, "inspect", model)[1])
    rows = [re.split(" {2,}", line.strip()) for line in out.splitlines()]
    # The file takes int32 ids and hides its state before a Softmax.
    assert ["expose states", "changed GRU 1"] in [row[1:] for row in rows]
    assert ["cut the softmax", "changed Identity 1"] in [row[1:] for row in rows]
    assert any("int32" in row[-1] and "int64" in row[-1] for row in rows)
    facts = json.loads(run(capsys, "inspect", model, "--graph", "--json")[1])
    passes = {one["name"]: one for one in facts["passes"]}
    assert passes["expose states"]["changed"] == {"GRU": 1}
    assert passes["keep what a step needs"]["removed"]["Cast"] == 2


def test_inspect_as_json_has_the_contract(capsys):
    facts = json.loads(run(capsys, "inspect", "dates", "--json")[1])
    model = load("dates")
    assert facts["vocab_size"] == model.vocab_size
    assert facts["notes"] == list(model._network.contract.notes)
    assert [state["shape"] for state in facts["states"]] == [["batch", 128]]
    assert {one["name"]: one["kind"] for one in facts["inputs"]} == {"annotations": "context", "keys": "context", "mask": "source_mask"}  # fmt: skip
    assert [one["inputs"][0]["name"] for one in facts["encoders"]] == ["tokens"]


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="onnxruntime-gpu is installed here"
)
def test_inspect_with_a_provider_that_is_not_there(capsys):
    code, _, err = run(capsys, "inspect", "shakespeare", "--providers", "cuda")
    assert code == 1
    assert "onnxruntime-gpu" in err
    assert "providers='cpu'" in err


def test_a_source_is_read_and_not_printed(capsys, tmp_path):
    system = AdditiveModel(3, metadata={"decoding.bos": 1, "decoding.vocab": list("0123456789")})
    encoder = system.encoder()
    entry = encoder.metadata_props.add()
    entry.key, entry.value = "decoding.vocab", json.dumps(list("abcdefghijkl"))
    (tmp_path / "m.onnx").write_bytes(system.decoder().SerializeToString())
    (tmp_path / "m.encoder.onnx").write_bytes(encoder.SerializeToString())
    model = load(tmp_path / "m.onnx")
    expected = decode(model, "bad", max_new_tokens=6)[0].text
    assert (
        run(capsys, "generate", str(tmp_path / "m.onnx"), "bad", "--greedy", "--max-new-tokens", "6")[1]
        == f"{expected}\n"
    )
    expected = decode(model, "bad", Beam(num_beams=4), max_new_tokens=6)[0].text
    assert (
        run(capsys, "generate", str(tmp_path / "m.onnx"), "bad", "--num-beams", "4", "--max-new-tokens", "6")[
            1
        ].splitlines()[-1]
        == expected
    )
    code, _, err = run(capsys, "generate", str(tmp_path / "m.onnx"))
    assert code == 1
    assert "PROMPT" in err
    assert "has an encoder; give a source" in err


def test_arrays_are_sources_contexts_and_latents(capsys, tmp_path):
    rng = np.random.default_rng(0)
    caption, vector, latent = (
        f"tests/models/{name}.onnx"
        for name in ("seq2seq/caption", "contexts/legacy_window_vector", "torch_dynamo_gru_latent")
    )
    model = load(caption, bos_token_id=0)
    ((name, (_, aux)),) = model._network.encoders.sources.items()
    image = rng.normal(size=[size or 8 for size in aux.sizes]).astype(np.float32)
    np.save(tmp_path / "image.npy", image)
    np.savez(tmp_path / "image.npz", **{name: image[None]})
    expected = decode(model, image[None], max_new_tokens=5, eos_token_id=None)[0].tokens
    how = ["--greedy", "--ignore-eos", "--max-new-tokens", "5", "--json"]
    for file in ("image.npy", "image.npz"):
        assert (
            json.loads(run(capsys, "generate", caption, str(tmp_path / file), "--bos", "0", *how)[1])["tokens"]
            == expected
        )
    for path, option, kind in ((vector, "context", "context"), (latent, "latents", "latent")):
        model = load(path)
        aux = next(one for one in model._network.contract.all_auxiliary_inputs if one.kind == kind)
        values = rng.normal(size=[1, *(size or 8 for size in aux.sizes)]).astype(np.float32)
        np.savez(tmp_path / "v.npz", **{aux.name: values})
        expected = decode(model, [1, 2], max_new_tokens=5, eos_token_id=None, **{option: {aux.name: values}})[0].tokens
        got = run(capsys, "generate", path, "1 2", f"--{option}", str(tmp_path / "v.npz"), *how)[1]
        assert json.loads(got)["tokens"] == expected
    (tmp_path / "bad.npy").write_bytes(b"no array")
    for wrong in (["--context", "none.npy"], ["--context", str(tmp_path / "bad.npy")]):
        code, _, err = run(capsys, "generate", vector, "1 2", *wrong)
        assert code == 1
        assert "--context" in err
        assert "cannot be read" in err


def test_the_picture_of_an_attention_names_what_was_read(capsys, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    from decoding import plot

    drawn, draw = [], plot.attention
    monkeypatch.setattr(plot, "attention", lambda *given: drawn.append(given) or draw(*given))
    command = ["generate", "dates", "3 mai 2026", "--num-beams", "4", "--plot", str(tmp_path / "a.png")]
    assert run(capsys, *command) == (0, "2026-05-03\n", "")
    ((_, source),) = drawn
    assert source == list("3 mai 2026")
