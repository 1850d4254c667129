"""decoding.jobs.score beside decoding.score."""

import json
from pathlib import Path

import numpy as np
import pytest

from decoding import OptionError, jobs, load, score
from tests.helpers import build
from tests.helpers.seq2seq import AdditiveModel

VOCABULARY = list("_abcdefghij")


def records(path):
    return sorted(map(json.loads, Path(path).read_bytes().splitlines()), key=lambda record: record["id"])


@pytest.mark.parametrize("bos", [{}, {"decoding.bos": 0}])
def test_the_scores_are_those_of_score(bos, tmp_path):
    model = load(build.recurrent(metadata={"decoding.vocab": VOCABULARY, **bos}))
    texts = ["abc", "d", "jihgfedcba" * 5, "bb"] * 5
    (tmp_path / "in.txt").write_text("\n".join(texts))
    report = jobs.score(model, tmp_path / "in.txt", tmp_path / "out.jsonl", token_logprobs=True, batch_size=2)
    found, expected = records(tmp_path / "out.jsonl"), score(model, texts)
    assert (report.rows, report.failed) == (20, 0)
    for record, values in zip(found, expected, strict=True):
        own = np.array([np.nan if value is None else value for value in record["token_logprobs"]])
        np.testing.assert_allclose(own, values, rtol=1e-6)
        known = values[np.isfinite(values)]
        assert record["scored_tokens"] == len(known)
        assert record["logprob"] == pytest.approx(float(known.sum()), rel=1e-6)
        if len(known):
            assert record["perplexity"] == pytest.approx(float(np.exp(-known.mean())), rel=1e-6)
        else:
            assert record["perplexity"] is None


def test_a_bad_sequence_ends_no_other_and_the_job_goes_on(tmp_path):
    model = load(build.recurrent(metadata={"decoding.vocab": VOCABULARY}))
    given = ["abc", "Z", {"id": "x", "sequence": [1, 2]}, {"sequence": [[1], [2]]}, "", {"text": "a"}, "jj"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in given))
    report = jobs.score(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert (report.rows, report.failed) == (3, 4)
    whole = sorted((tmp_path / "out.jsonl").read_bytes().splitlines())
    (tmp_path / "out.jsonl").write_bytes(whole[1] + b"\n" + whole[0][:10])
    assert jobs.score(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl").rows == 3
    assert sorted((tmp_path / "out.jsonl").read_bytes().splitlines()) == whole
    with pytest.raises(OptionError, match="token_logprobs was"):
        jobs.score(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl", token_logprobs=True)


def test_an_encoder_reads_the_prompt_of_a_row(tmp_path):
    net = AdditiveModel()
    model = load(net.decoder(), encoder=net.encoder())
    rows = [{"sequence": [1, 2, 3], "prompt": [4, 5]}, {"sequence": [3], "prompt": [1]}, {"sequence": [3]}]
    report = jobs.score(model, rows, tmp_path / "out.jsonl", token_logprobs=True)
    assert (report.rows, report.failed) == (2, 1)
    expected = score(model, [[1, 2, 3], [3]], prompts=[[4, 5], [1]])
    for record, values in zip(records(tmp_path / "out.jsonl"), expected, strict=True):
        known = [value for value in record["token_logprobs"] if value is not None]
        np.testing.assert_allclose(known, values[np.isfinite(values)], rtol=1e-5)
