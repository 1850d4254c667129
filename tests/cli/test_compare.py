"""`decoding compare` against NumPy, and `decoding quantize`, `decoding bench` and `decoding models` as users run them."""

import io
import json

import numpy as np
import pytest
from scipy.special import log_softmax

from decoding import OptionError, decode, load
from decoding.cli.compare import PIECE, check_vocabularies, compare
from decoding.cli.main import main
from decoding.export.distributions import next_logprobs
from tests.helpers import build
from tests.helpers.seq2seq import AdditiveModel


def run(capsys, *args):
    code = main(list(map(str, args)))
    out, err = capsys.readouterr()
    return code, out, err


def whole_logprobs(model, ids):
    """The log-probabilities of one run of onnxruntime over a whole sequence, in float64."""
    logits = model.run({model._network.contract.token.name: np.array([ids])})[model._network.contract.logits.name][0]
    return log_softmax(logits.astype(np.float64), axis=-1)


def test_a_comparison_equals_numpy_on_whole_runs():
    a, b = (load(build.recurrent(cell, seed=seed, scale=2.0)) for cell, seed in (("LSTM", 0), ("GRU", 1)))
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 11, size).tolist() for size in (2, 30, 7)]
    found = compare(a, b, texts)
    p, q = (np.concatenate([whole_logprobs(model, ids)[:-1] for ids in texts]) for model in (a, b))
    kl = (np.exp(p) * (p - q)).sum(1)
    tokens = np.concatenate([ids[1:] for ids in texts])
    assert found.tokens == 1 + 29 + 6
    assert found.mean_kl == pytest.approx(kl.mean(), rel=1e-4)
    assert found.worst_kl == pytest.approx(kl.max(), rel=1e-4)
    starts = np.cumsum([0, 1, 29])
    sequence, token = found.worst_at
    assert starts[sequence] + token - 1 == kl.argmax()
    assert found.perplexities == pytest.approx([np.exp(-x[np.arange(36), tokens].mean()) for x in (p, q)], rel=1e-4)
    assert found.agreement == np.mean(p.argmax(1) == q.argmax(1))


def test_a_model_equals_itself():
    model = load(build.recurrent())
    found = compare(model, model, [[1, 2, 3, 4]])
    assert (found.mean_kl, found.worst_kl, found.agreement) == (0, 0, 1)


def test_long_texts_are_cut_into_pieces_that_begin_anew():
    model = load(build.recurrent(metadata={"decoding.bos": 0}))
    ids = np.random.default_rng(0).integers(0, 11, 2 * PIECE + 5)
    found = compare(model, model, [ids.tolist()])
    assert found.tokens == len(ids)
    logprobs = [whole_logprobs(model, [0, *ids[at : at + PIECE]])[:-1] for at in range(0, len(ids), PIECE)]
    mean = np.concatenate(logprobs)[np.arange(len(ids)), ids].mean()
    assert found.perplexities[0] == pytest.approx(np.exp(-mean), rel=1e-4)


def test_tokens_without_probability_are_no_nan():
    bias = np.zeros(11, np.float32)
    bias[3] = -np.inf
    a = load(build.recurrent(bias=bias), verify=False)
    found = compare(a, a, [[1, 2, 4]])
    assert found.mean_kl == 0


def test_next_logprobs_with_an_encoder_are_those_of_scores():
    system = AdditiveModel(3, metadata={"decoding.bos": 1})
    model = load(system.decoder().SerializeToString(), encoder=system.encoder())
    ids = [np.array([1, 4, 2, 7]), np.array([1, 9])]
    found = next_logprobs(model, ids, [[1, 2, 3], [4]])
    from decoding import score

    for values, row, expected in zip(
        found, ids, score(model, [r[1:] for r in ids], prompts=[[1, 2, 3], [4]]), strict=True
    ):
        np.testing.assert_allclose(values[np.arange(len(row) - 1), row[1:]], expected, rtol=1e-4)


def test_other_vocabularies_are_named():
    model = load(build.recurrent())
    with pytest.raises(OptionError, match="vocabularies of 11 and 12 tokens"):
        check_vocabularies(model, load(build.recurrent(vocab=12)))
    a, b = (load(build.recurrent(), tokenizer=list(tokens)) for tokens in ("abcdefghijk", "abcxefghijk"))
    with pytest.raises(OptionError, match="id 3 is 'd' in A and 'x' in B"):
        check_vocabularies(a, b)
    with pytest.raises(OptionError, match="nothing to compare"):
        compare(model, model, [[1]])


def test_compare_on_the_command_line(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("To be, or not to be"))
    code, out, _ = run(capsys, "compare", "shakespeare", "shakespeare", "--quantize-b", "--data", "-", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["tokens"] == 18
    assert 0 < facts["mean_kl"] <= facts["worst_kl"] < 0.1
    assert facts["weight_bytes"][1] < facts["weight_bytes"][0] / 3
    assert all(time > 0 for pair in facts["microseconds_a_step"].values() for time in pair)


def test_compare_with_an_encoder(capsys, tmp_path):
    (tmp_path / "out.txt").write_text("2026-05-03\n")
    (tmp_path / "in.txt").write_text("3 mai 2026\n")
    files = ["--data", tmp_path / "out.txt", "--sources", tmp_path / "in.txt"]
    code, out, err = run(capsys, "compare", "dates", "dates", "--quantize-b", *files)
    assert (code, err) == (0, "")
    assert "KL(A || B) over 10 tokens" in out
    assert "the same most probable token: 100.00%" in out


def test_quantize_writes_what_load_quantizes(capsys, tmp_path):
    code, out, _ = run(capsys, "quantize", "shakespeare", tmp_path / "small.onnx")
    assert code == 0
    assert "2.73 MB -> 0.69 MB (3.9 times smaller)" in out
    assert "int8 moves the logits" in out
    assert (tmp_path / "small.onnx").stat().st_size < 800_000
    small = load(tmp_path / "small.onnx")
    same = load("shakespeare", quantize="int8", executor="onnxruntime")
    assert decode(small, "ROMEO:", max_new_tokens=30).tokens == decode(same, "ROMEO:", max_new_tokens=30).tokens
    path = tmp_path / "m.onnx"
    path.write_bytes(build.recurrent().SerializeToString())
    before = path.read_bytes()
    code, _, err = run(capsys, "quantize", path, path)
    assert code == 1
    assert "the same file as IN" in err
    assert path.read_bytes() == before


@pytest.mark.parametrize("model", ["shakespeare", "dates"])
def test_bench_measures_every_way_to_run_a_model(capsys, model):
    code, out, _ = run(capsys, "bench", model, "--batch", "2,3", "--rounds", "1")
    assert code == 0
    ways = {tuple(line.split()[:3]) for line in out.splitlines()}
    executors = {"onnxruntime"} | ({"native"} if model == "shakespeare" else set())
    assert {(e, w, b) for e in executors for w in ("float32", "int8") for b in ("2", "3")} <= ways
    assert ("not measured: native" in out) == (model == "dates")
    assert "most tokens a second: batch" in out


def test_bench_as_json_and_wrong_sizes(capsys):
    out = run(capsys, "bench", "shakespeare", "--batch", "4", "--rounds", "1", "--json")[1]
    for row in map(json.loads, out.splitlines()):
        assert row["tokens"] == pytest.approx(4e6 / row["step"])
        assert 0 < row["network"] <= 1
    for sizes in ("0", "-1", "a", ""):
        assert run(capsys, "bench", "shakespeare", f"--batch={sizes}")[0] == 1


def test_models_lists_those_that_ship(capsys):
    rows = [json.loads(line) for line in run(capsys, "models", "--json")[1].splitlines()]
    from importlib import resources

    files = {path.name for path in (resources.files("decoding") / "pretrained").iterdir() if path.suffix == ".onnx"}
    assert {row["name"] for row in rows} == {name.split(".")[0] for name in files}
    for row in rows:
        assert row["vocabulary"] == load(row["name"]).vocab_size
        assert row["licence"] == "Apache-2.0"
    table = run(capsys, "models")[1].splitlines()
    assert len(table) == 1 + len(rows)
