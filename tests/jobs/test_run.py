"""decoding.jobs.run: what its output has, that it goes on where it was, and what it refuses."""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from decoding import (
    AllowedTokens,
    Beam,
    Choices,
    DecodeError,
    Ensemble,
    ForcedTokens,
    Greedy,
    Guidance,
    LogitBias,
    MustContain,
    OptionError,
    Regex,
    RepetitionPenalty,
    Request,
    Sample,
    SuppressTokens,
    TopN,
    decode,
    jobs,
    load,
    score,
)
from decoding.constraints import Constraint
from decoding.jobs.write import LineFile
from tests.helpers import build
from tests.helpers.seq2seq import AdditiveModel

PYARROW = "needs pyarrow: pip install 'rnn-decoding[parquet]'"
VOCABULARY = list("_abcdefghij")


@pytest.fixture(scope="module")
def model():
    metadata = {"decoding.vocab": VOCABULARY, "decoding.bos": 0, "decoding.eos": 1}
    return load(build.recurrent(metadata=metadata))


def records(path):
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def lines(path):
    return sorted(Path(path).read_bytes().splitlines(keepends=True))


def write_rows(path, count=40):
    path.write_text(
        "".join(json.dumps({"id": f"r{i}", "prompt": "bcdefgh"[i % 7] * (1 + i % 3)}) + "\n" for i in range(count))
    )
    return path


OPTIONS = {"max_new_tokens": 12, "seed": 5, "num_return_sequences": 2, "eos_token_id": None}


def test_the_rows_of_a_text_are_those_of_decode_with_the_seeds_of_their_rows(model, tmp_path):
    prompts = ["b", "cde", "", "ff", "g"]
    (tmp_path / "in.txt").write_text("\n".join(prompts))
    report = jobs.run(
        model, tmp_path / "in.txt", tmp_path / "out.jsonl", Sample(0.9), token_logprobs=True, logprobs=2, **OPTIONS
    )
    requests = [Request(prompt, seed=jobs.row_seed(5, i)) for i, prompt in enumerate(prompts)]
    expected = decode(model, requests, Sample(0.9), logprobs=2, **OPTIONS)
    found = sorted(records(tmp_path / "out.jsonl"), key=lambda record: (record["id"], record["rank"]))
    assert report == jobs.Report(5, 0, 10, 120, report.seconds, 5)
    assert [record["id"] for record in found] == [h.prompt_index for h in expected]
    for record, h in zip(found, expected, strict=True):
        assert record["tokens"] == h.tokens
        assert (record["text"], record["rank"], record["finish_reason"]) == (h.text, h.rank, h.finish_reason)
        assert (record["logprob"], record["score"]) == (float(h.logprob), float(h.score))
        assert np.array_equal(np.float32(record["token_logprobs"]), h.token_logprobs)
        assert [[*map(int, step)] for step in record["top_logprobs"]] == h.top_logprobs[0].tolist()
    assert not (tmp_path / "out.jsonl.errors.jsonl").exists()


def test_the_output_does_not_depend_on_batches_and_workers(model, tmp_path):
    source = write_rows(tmp_path / "in.jsonl")
    outputs = []
    for number, options in enumerate([{"batch_size": 1}, {"batch_size": 7, "workers": 3}, {"workers": 1}, {}]):
        jobs.run(model, source, tmp_path / f"{number}.jsonl", Sample(), **OPTIONS, **options)
        outputs.append(lines(tmp_path / f"{number}.jsonl"))
    assert len(outputs[0]) == 80
    assert all(output == outputs[0] for output in outputs)


def test_rows_that_finish_together_are_written_together(model, tmp_path, monkeypatch):
    writes = []
    append = LineFile.append
    monkeypatch.setattr(LineFile, "append", lambda self, new: (writes.append(new.count(b"\n")), append(self, new)))
    jobs.run(model, ["b"] * 2000, tmp_path / "out.jsonl", Sample(), max_new_tokens=3, seed=1, batch_size=64, workers=2)
    assert sum(writes) == 2000
    assert max(writes) <= 32
    assert len(writes) < 500  # the last ones, of which two batches wait to be read, are written as they come


@pytest.mark.parametrize("count", [1, 3, 40])
def test_rows_are_written_while_the_input_blocks(model, count, tmp_path):
    output, seen = tmp_path / "out.jsonl", []

    def prompts():
        yield from ["b"] * count
        end = time.monotonic() + 30
        while len(seen) < count and time.monotonic() < end:
            time.sleep(0.01)
            seen[:] = records(output)
        yield "c"

    jobs.run(model, prompts(), output, max_new_tokens=3)
    assert len(seen) == count
    assert len(records(output)) == count + 1


def test_a_row_depends_on_its_id_and_not_on_its_place(model, tmp_path):
    source = write_rows(tmp_path / "in.jsonl")
    other = tmp_path / "other.jsonl"
    other.write_text("".join(reversed(source.read_text().splitlines(keepends=True)[10:])))
    jobs.run(model, source, tmp_path / "a.jsonl", Sample(), **OPTIONS)
    jobs.run(model, other, tmp_path / "b.jsonl", Sample(), **OPTIONS)
    assert set(lines(tmp_path / "b.jsonl")) < set(lines(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("strategy", [Greedy(), Sample(top_k=3), TopN(2), Beam(num_beams=3), Sample(replacement=False)])
@pytest.mark.parametrize("cut", [0, 1, 60, 61, 700])
def test_an_output_that_was_cut_anywhere_is_finished_as_if_it_had_not_been(model, strategy, cut, tmp_path):
    options = OPTIONS | {"num_return_sequences": 1 if isinstance(strategy, Greedy | TopN) else 2}
    source, output, whole = write_rows(tmp_path / "in.jsonl"), tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    jobs.run(model, source, whole, strategy, **options)
    jobs.run(model, source, output, strategy, **options)
    output.write_bytes(output.read_bytes()[:cut])
    report = jobs.run(model, source, output, strategy, **options)
    assert lines(output) == lines(whole)
    assert report.rows == 40
    assert report.sequences <= len(lines(output))


def test_a_finished_job_does_nothing(model, tmp_path):
    source, output = write_rows(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    first = jobs.run(model, source, output, Sample(), **OPTIONS)
    before = output.read_bytes()
    again = jobs.run(model, source, output, Sample(), **OPTIONS)
    assert (again.rows, again.sequences, again.seed) == (first.rows, 0, 5)
    assert output.read_bytes() == before


def test_a_job_without_a_seed_keeps_the_one_that_it_drew(model, tmp_path):
    source, output = write_rows(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    first = jobs.run(model, source, output, Sample(), max_new_tokens=9)
    whole = lines(output)
    output.write_bytes(output.read_bytes()[:300])
    again = jobs.run(model, source, output, Sample(), max_new_tokens=9)
    assert (again.seed, lines(output)) == (first.seed, whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, "seed was 5 and is 6"),
        ({"max_new_tokens": 13}, "options.max_new_tokens was 12 and is 13"),
        ({"strategy": Sample(0.5)}, "options.strategy was"),
        ({"token_logprobs": True}, "options.token_logprobs was False and is True"),
        ({"stop": ["ab"]}, "options.stop was"),
        ({"processors": [RepetitionPenalty(1.3)]}, "options.processors was"),
        ({"step_inputs": lambda history: {}}, "options.step_inputs was None and is"),
    ],
)
def test_another_job_is_refused_with_what_differs(model, change, message, tmp_path):
    source, output = write_rows(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    jobs.run(model, source, output, **{"strategy": Sample(), **OPTIONS})
    before = output.read_bytes()
    with pytest.raises(OptionError, match=message):
        jobs.run(model, source, output, **{"strategy": Sample(), **OPTIONS, **change})
    assert output.read_bytes() == before


def test_another_input_model_or_kind_of_job_is_refused(model, tmp_path):
    source, output = write_rows(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    jobs.run(model, source, output, Sample(), **OPTIONS)
    other = load(build.recurrent(seed=1, metadata={"decoding.vocab": VOCABULARY, "decoding.bos": 0}))
    with pytest.raises(OptionError, match="fingerprint was"):
        jobs.run(other, source, output, Sample(), **OPTIONS)
    with pytest.raises(OptionError, match="kind was 'batch' and is 'score'"):
        jobs.score(model, source, output, seed=5)
    write_rows(source, 41)
    with pytest.raises(OptionError, match=r"input.sha256 was [0-9a-f]{12}... and is"):
        jobs.run(model, source, output, Sample(), **OPTIONS)


def test_processors_are_told_apart_by_what_they_hold(model, tmp_path):
    source, output = write_rows(tmp_path / "in.jsonl", 5), tmp_path / "out.jsonl"
    jobs.run(model, source, output, processors=[LogitBias({3: 1.0})], seed=1)
    assert jobs.run(model, source, output, processors=[LogitBias({3: 1.0})], seed=1).sequences == 0
    with pytest.raises(OptionError, match="processors was"):
        jobs.run(model, source, output, processors=[LogitBias({3: 2.0})], seed=1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LogitBias(dict.fromkeys(range(11), 1.0)), LogitBias({**dict.fromkeys(range(10), 1.0), 10: 2.0})),
        (SuppressTokens(range(1, 11)), SuppressTokens(range(1, 10))),
        (AllowedTokens([*range(10), 9]), AllowedTokens([*range(10), 10])),
        (ForcedTokens(dict.fromkeys(range(11), 4)), ForcedTokens({**dict.fromkeys(range(10), 4), 10: 5})),
        (Regex("(" + "b|" * 120 + "c)*"), Regex("(" + "b|" * 120 + "d)*")),
        (Choices(["b" * 300 + "c"]), Choices(["b" * 300 + "d"])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_processors_whose_texts_are_cut_are_told_apart(model, one, other, tmp_path):
    if isinstance(one, Constraint):
        pytest.importorskip("llguidance", reason="needs llguidance: pip install 'rnn-decoding[constraints]'")
    output = tmp_path / "out.jsonl"
    options = {"max_new_tokens": 5, "eos_token_id": None}
    jobs.run(model, ["b"], output, processors=[one], **options)
    assert jobs.run(model, ["b"], output, processors=[one], **options).sequences == 0
    with pytest.raises(OptionError, match="processors was"):
        jobs.run(model, ["b"], output, processors=[other], **options)


def test_a_file_that_no_job_wrote_is_left_alone(model, tmp_path):
    source, output = write_rows(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    output.write_text("precious\n")
    with pytest.raises(OptionError, match="has no manifest"):
        jobs.run(model, source, output, Sample(), **OPTIONS)
    assert output.read_text() == "precious\n"
    output.unlink()
    jobs.run(model, source, output, Sample(), **OPTIONS)
    output.write_text("changed\n" + output.read_text())
    with pytest.raises(OptionError, match="line 1 is not one that this job wrote"):
        jobs.run(model, source, output, Sample(), **OPTIONS)
    assert output.read_text().startswith("changed\n")


def test_errors_that_another_job_left_take_no_row_away(model, tmp_path):
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("Z\nb\n")
    jobs.run(model, source, output, **OPTIONS | {"num_return_sequences": 1})
    output.unlink()
    Path(f"{output}.manifest.json").unlink()
    source.write_text("b\nb\n")
    with pytest.raises(OptionError, match=r"out\.jsonl\.errors\.jsonl: it is there, and has no manifest"):
        jobs.run(model, source, output, **OPTIONS | {"num_return_sequences": 1})
    Path(f"{output}.errors.jsonl").unlink()
    assert jobs.run(model, source, output, **OPTIONS | {"num_return_sequences": 1}).rows == 2


@pytest.mark.parametrize("name", ["in.txt", "in.jsonl", "in.csv"])
def test_an_input_that_changes_while_it_is_read_is_an_error(model, name, tmp_path):
    source, output = tmp_path / name, tmp_path / "out.jsonl"
    source.write_text({"in.txt": "b\n", "in.jsonl": '"b"\n', "in.csv": "prompt\nb\n"}[name] * 40)

    whole = source.read_bytes()

    def appends(history, logits):
        source.write_bytes(whole + b"\n")

    with pytest.raises(DecodeError, match="has changed while the job read it"):
        jobs.run(model, source, output, processors=[appends], batch_size=2, **OPTIONS | {"num_return_sequences": 1})
    with pytest.raises(OptionError, match=r"another job: input\.sha256"):
        jobs.run(model, source, output, processors=[appends], **OPTIONS | {"num_return_sequences": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read"),
        ("{}", "not one that a job wrote"),
        ("[" * 100_000, "cannot be read"),
        ('{"job": {"form": 2, "version": "9.0"}}', r"its form is 2, of another version of rnn-decoding \('9.0'\)"),
        ('{"job": {"form": 1}}', "not as the job wrote it"),
        ({"finished": {"bytes": 1}}, "not as the job wrote it"),
        ({"finished": 5}, "not as the job wrote it"),
    ],
)
def test_a_manifest_that_is_damaged_or_of_the_future_is_named(model, content, message, tmp_path):
    source, output = write_rows(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    jobs.run(model, source, output, Sample(), **OPTIONS)
    manifest, before = Path(f"{output}.manifest.json"), output.read_bytes()
    whole = json.loads(manifest.read_bytes())
    manifest.write_text(content if isinstance(content, str) else json.dumps(whole | content))
    with pytest.raises(OptionError, match=message):
        jobs.run(model, source, output, Sample(), **OPTIONS)
    assert output.read_bytes() == before


def test_a_refused_job_leaves_no_file(model, tmp_path):
    pytest.importorskip("pyarrow", reason=PYARROW)
    source, output = write_rows(tmp_path / "in.jsonl"), tmp_path / "out.parquet"
    jobs.run(model, source, output, Sample(), **OPTIONS)
    before = sorted(tmp_path.iterdir())
    for options in (OPTIONS, OPTIONS | {"seed": 6}):
        with contextlib.suppress(OptionError):
            jobs.run(model, source, output, Sample(), **options)
        assert sorted(tmp_path.iterdir()) == before


def test_an_output_that_is_a_pipe_is_refused(model, tmp_path):
    os.mkfifo(tmp_path / "out.jsonl")
    with pytest.raises(OptionError, match="it is no file"):
        jobs.run(model, ["b"], tmp_path / "out.jsonl")


def test_a_job_of_another_kind_without_a_seed_is_refused(model, tmp_path):
    (tmp_path / "in.txt").write_text("b\n")
    jobs.score(model, tmp_path / "in.txt", tmp_path / "out.jsonl")
    with pytest.raises(OptionError, match="kind was 'score' and is 'batch'"):
        jobs.run(model, tmp_path / "in.txt", tmp_path / "out.jsonl", Sample())


def test_an_output_that_another_process_writes_is_refused(model, tmp_path):
    source, output = write_rows(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    with output.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OptionError, match="another process writes it"):
            jobs.run(model, source, output, Sample(), **OPTIONS)
    assert jobs.run(model, source, output, Sample(), **OPTIONS).rows == 40


def test_bad_rows_are_among_the_errors_once_and_end_no_other(model, tmp_path):
    given = ["bc", {"prompt": "Z", "id": "z"}, {"prompt": "b", "temperature": 3}, [99], {"id": "z", "prompt": "b"}, {"id": 1.5}, "cc",
             {"prompt": "b", "strategy": {"Sample": {"top_p": 7}}}, {"prompt": "b", "num_return_sequences": 3}]  # fmt: skip
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(one) + "\n" for one in given) + "no json\n")
    report = jobs.run(model, source, output, max_new_tokens=5)
    assert (report.rows, report.failed) == (2, 8)
    assert sorted(record["id"] for record in records(output)) == [0, 6]
    errors = {error["row"]: error for error in records(f"{output}.errors.jsonl")}
    expected = {
        1: ("z", "not in the model's vocabulary"),
        2: (2, "no such field"),
        3: (3, "out of range"),
        4: ("z", "an earlier row has the same"),
        5: (None, "expected a string or a whole number"),
        7: (7, "top_p=7"),
        8: (8, r"num_return_sequences=3"),
        9: (None, "not JSON"),
    }
    assert sorted(errors) == sorted(expected)
    for row, (id, reason) in expected.items():
        assert errors[row]["id"] == id
        assert reason in errors[row]["reason"]
    assert errors[1]["input"] == {"prompt": "Z"}
    whole = [lines(output), lines(f"{output}.errors.jsonl")]
    output.write_bytes(output.read_bytes()[:-30])
    errors = Path(f"{output}.errors.jsonl")
    errors.write_bytes(errors.read_bytes()[:-400])
    jobs.run(model, source, output, max_new_tokens=5)
    assert [lines(output), lines(errors)] == whole


def test_errors_are_json_whatever_the_row_has(model, tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"id": "a", "prompt": [1e999]}\n{"id": "b", "prompt": [NaN]}\n"c"\n')
    assert jobs.run(model, source, output, max_new_tokens=2).failed == 2

    def no_constant(name):
        raise AssertionError(name)

    first, second = (
        json.loads(line, parse_constant=no_constant)
        for line in Path(f"{output}.errors.jsonl").read_bytes().splitlines()
    )
    assert (first["id"], first["input"]) == ("a", "{'prompt': [inf]}")
    assert "not JSON: it has NaN" in second["reason"]
    assert second["input"] == '{"id": "b", "prompt": [NaN]}'
    jobs.run(model, [{"prompt": [float("nan")]}, {"prompt": {1, 2}}], tmp_path / "b.jsonl", max_new_tokens=2)
    assert sorted(error["input"] for error in records(tmp_path / "b.jsonl.errors.jsonl")) == [
        "{'prompt': [nan]}",
        "{'prompt': {1, 2}}",
    ]


def test_strict_ends_at_the_first_bad_row_and_the_job_goes_on_without_it(model, tmp_path):
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("b\n" * 20 + "Z\n" + "c\n" * 20)
    with pytest.raises(OptionError, match=r"row 20 \(id 20\)"):
        jobs.run(model, source, output, strict=True, max_new_tokens=3)
    assert jobs.run(model, source, output, max_new_tokens=3).failed == 1
    assert len(records(output)) == 40


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_strict_ends_at_bad_rows_that_an_earlier_run_found(model, finished, name, tmp_path):
    if name == "out.parquet":
        pytest.importorskip("pyarrow", reason=PYARROW)
    (tmp_path / "in.txt").write_text("b\nZ\nc\nY\n")
    source, output = tmp_path / "in.txt", tmp_path / name
    assert jobs.run(model, source, output, max_new_tokens=3).failed == 2
    if not finished:
        manifest = Path(f"{output}.manifest.json")
        manifest.write_text(json.dumps({"job": json.loads(manifest.read_bytes())["job"]}, indent=1))
        if name == "out.jsonl":
            output.write_bytes(b"")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OptionError, match=rf"output {output}: an earlier run found 2 bad rows, which {output}.errors"):
        jobs.run(model, source, output, max_new_tokens=3, strict=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert jobs.run(model, source, output, max_new_tokens=3).failed == 2


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
@pytest.mark.parametrize("dangles", [True, False])
def test_an_output_that_is_a_link_is_followed(model, name, dangles, tmp_path):
    if name == "out.parquet":
        pytest.importorskip("pyarrow", reason=PYARROW)
    (tmp_path / "far").mkdir()
    target, output = tmp_path / "far" / "kept", tmp_path / name
    output.symlink_to(Path("far", "kept"))
    if not dangles:
        target.touch()
    jobs.run(model, ["b", "c"], output, max_new_tokens=3)
    assert output.is_symlink()
    assert [path.name for path in target.parent.iterdir()] == ["kept"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far", name, f"{name}.manifest.json"]
    before = target.read_bytes()
    assert before[:4] in (b'{"id', b"PAR1")
    assert jobs.run(model, ["b", "c"], output, max_new_tokens=3).sequences == 0
    assert target.read_bytes() == before


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_an_output_that_cannot_be_one_is_named_before_the_first_row(model, name, tmp_path):
    if name == "out.parquet":
        pytest.importorskip("pyarrow", reason=PYARROW)
    (tmp_path / "linked").symlink_to(tmp_path / "missing" / name)
    (tmp_path / name).symlink_to(tmp_path / "linked")
    with pytest.raises(OptionError, match=r"there is no folder .*missing"):
        jobs.run(model, ["b"], tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(OptionError, match="it is no file, but a folder, a pipe or a device"):
        jobs.run(model, ["b"], tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["linked", name]


def test_a_row_that_fails_while_it_is_decoded_ends_alone(model, tmp_path):
    def fails(history, logits):
        for row, request in enumerate(history.requests):
            if list(history.prompts[row])[-1] == 4:
                raise DecodeError(f"row {request} is unlucky")

    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("b\nd\nc\nd\n")
    report = jobs.run(model, source, output, processors=[fails], max_new_tokens=3, batch_size=1)
    assert (report.rows, report.failed) == (2, 2)
    assert all("unlucky" in error["reason"] for error in records(f"{output}.errors.jsonl"))


def test_an_error_that_is_no_row_s_ends_the_job_and_it_goes_on_later(model, tmp_path):
    failing = threading.Event()

    class Memory:
        def __repr__(self):
            return "Memory()"

        def __call__(self, history, logits):
            if failing.is_set():
                raise MemoryError("none is left")

    source, output = write_rows(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    failing.set()
    with pytest.raises(MemoryError):
        jobs.run(model, source, output, processors=[Memory()], max_new_tokens=3, seed=1)
    failing.clear()
    assert jobs.run(model, source, output, processors=[Memory()], max_new_tokens=3, seed=1).rows == 40
    assert not Path(f"{output}.errors.jsonl").exists()


def test_a_row_has_options_of_its_own(model, tmp_path):
    given = [
        {"id": 1, "prompt": "b", "seed": 9, "max_new_tokens": 4},
        {"id": 2, "prompt": [2, 3], "strategy": "Greedy", "logprobs": 1},
        {"id": 3, "prompt": "b", "strategy": {"Beam": {"num_beams": 2}}, "num_return_sequences": 2},
        {"id": 4, "stop": ["b"], "eos_token_id": None},
        {
            "id": 5,
            "prompt": "b",
            "strategy": {"Beam": {"num_beams": 4, "must_contain": {"phrases": ["b", [4]], "ordered": True}}},
        },
        {"id": 6, "prompt": "b", "strategy": {"Beam": {"must_contain": ["b"]}}},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in given))
    jobs.run(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl", Sample(), max_new_tokens=9, seed=3)
    found = sorted(records(tmp_path / "out.jsonl"), key=lambda record: (record["id"], record["rank"]))
    requests = [
        Request("b", seed=9, max_new_tokens=4),
        Request([2, 3], Greedy(), logprobs=1),
        Request("b", Beam(num_beams=2), num_return_sequences=2),
        Request(None, stop=["b"], eos_token_id=None, seed=jobs.row_seed(3, 4)),
        Request("b", Beam(4, must_contain=MustContain(["b", [4]], ordered=True))),
        Request("b", Beam(must_contain=MustContain(["b"]))),
    ]
    expected = decode(model, requests, Sample(), max_new_tokens=9)
    assert [record["tokens"] for record in found] == expected.tokens
    assert "top_logprobs" in found[1]


def test_rows_with_prompts_by_member(model, tmp_path):
    other = load(build.recurrent(seed=5, metadata={"decoding.vocab": VOCABULARY, "decoding.bos": 0, "decoding.eos": 1}))
    ensemble = Ensemble({"a": model, "b": other})
    given = [{"prompt": {"a": "b", "b": [2, 3]}}, {"prompt": {"b": "ab"}}, {"prompt": {"c": "b"}}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in given))
    report = jobs.run(ensemble, tmp_path / "in.jsonl", tmp_path / "out.jsonl", max_new_tokens=6)
    found = sorted(records(tmp_path / "out.jsonl"), key=lambda record: record["id"])
    requests = [Request(one["prompt"]) for one in given[:2]]
    assert [record["tokens"] for record in found] == decode(ensemble, requests, max_new_tokens=6).tokens
    (error,) = records(tmp_path / "out.jsonl.errors.jsonl")
    assert (report.failed, "no member 'c'" in json.dumps(error)) == (1, True)
    rows = [{"id": i, "sequence": found[i]["tokens"], "prompt": given[i]["prompt"]} for i in range(2)]
    jobs.score(ensemble, rows, tmp_path / "scores.jsonl", token_logprobs=True)
    for record in records(tmp_path / "scores.jsonl"):
        row = rows[record["id"]]
        prompts = {name: [prompt] for name, prompt in row["prompt"].items()}
        np.testing.assert_allclose(
            record["token_logprobs"], score(ensemble, [row["sequence"]], prompts=prompts)[0], atol=1e-5
        )


def test_rows_without_an_input_start_from_bos(model, tmp_path):
    jobs.run(model, None, tmp_path / "out.jsonl", Sample(), num=6, seed=2, max_new_tokens=5)
    found = sorted(records(tmp_path / "out.jsonl"), key=lambda record: record["id"])
    requests = [Request(None, seed=jobs.row_seed(2, i)) for i in range(6)]
    assert [record["tokens"] for record in found] == decode(model, requests, Sample(), max_new_tokens=5).tokens
    with pytest.raises(OptionError, match="no BOS to start from"):
        jobs.run(load(build.recurrent()), None, tmp_path / "other.jsonl", num=6)
    assert not (tmp_path / "other.jsonl").exists()


def test_requests_come_from_an_iterable_too(model, tmp_path):
    def requests():
        for i in range(20):
            yield Request("b", seed=i) if i % 2 else {"id": f"x{i}", "prompt": "c", "context": None}

    jobs.run(model, requests(), tmp_path / "out.jsonl", Sample(), seed=2, max_new_tokens=5)
    whole = lines(tmp_path / "out.jsonl")
    (tmp_path / "out.jsonl").write_bytes(whole[0])
    jobs.run(model, requests(), tmp_path / "out.jsonl", Sample(), seed=2, max_new_tokens=5)
    assert lines(tmp_path / "out.jsonl") == whole


def test_words_are_ids_where_the_model_has_no_vocabulary(tmp_path):
    model = load(build.recurrent())
    (tmp_path / "in.txt").write_text("1 2\nthree\n4\n")
    assert jobs.run(model, tmp_path / "in.txt", tmp_path / "out.jsonl", max_new_tokens=4).failed == 1
    found = sorted(records(tmp_path / "out.jsonl"), key=lambda record: record["id"])
    assert [record["tokens"] for record in found] == decode(model, [[1, 2], [4]], max_new_tokens=4).tokens
    assert found[0]["text"] is None


def test_an_encoder_reads_the_rows(tmp_path):
    net = AdditiveModel()
    model = load(net.decoder(), encoder=net.encoder())
    sources = [[1, 2, 3], [4], [2, 2]]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in sources))
    jobs.run(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl", prefix=[3], max_new_tokens=4, return_attention=True)
    found = sorted(records(tmp_path / "out.jsonl"), key=lambda record: record["id"])
    expected = decode(model, sources, prefix=[3], max_new_tokens=4, return_attention=True)
    assert [record["tokens"] for record in found] == expected.tokens
    for record, h in zip(found, expected, strict=True):
        np.testing.assert_allclose(record["attention"], h.attention, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("prefix", "message"), [("é", "not in the model's vocabulary"), (["2", "1"], "found several")])
def test_a_wrong_prefix_is_named_before_the_first_row(prefix, message, tmp_path):
    with pytest.raises(OptionError, match=message):
        jobs.run("dates", ["3 May 1999"], tmp_path / "out.jsonl", prefix=prefix)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("prefix", ["20", [3, 1], [[3, 1]], np.array([3, 1]), {"one": "20", "two": [3]}, {"two": "2"}])
def test_a_prefix_is_that_of_decode(prefix, tmp_path):
    dates, output = load("dates"), tmp_path / "out.jsonl"
    model = Ensemble({"one": dates, "two": dates}) if isinstance(prefix, dict) else dates
    jobs.run(model, ["3 May 1999"], output, prefix=prefix)
    (found,) = records(output)
    assert found["tokens"] == decode(model, ["3 May 1999"], prefix=prefix)[0].tokens
    assert jobs.run(model, ["3 May 1999"], output, prefix=prefix).sequences == 0
    with pytest.raises(OptionError, match=r"options\.prefix"):
        jobs.run(model, ["3 May 1999"], output, prefix=[4, 1])


def test_parquet_has_the_rows_of_jsonl_and_is_there_only_when_it_is_whole(model, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet", reason=PYARROW)
    source, options = write_rows(tmp_path / "in.jsonl"), OPTIONS | {"logprobs": 2, "token_logprobs": True}
    jobs.run(model, source, tmp_path / "out.jsonl", Sample(), **options)

    def stopped():
        yield from ({"id": f"r{i}", "prompt": "bcdefgh"[i % 7] * (1 + i % 3)} for i in range(25))
        raise OSError("the drive was pulled out")

    output = tmp_path / "out.parquet"
    with pytest.raises(DecodeError, match="the drive was pulled out"):
        jobs.run(model, stopped(), output, Sample(), **options)
    assert not output.exists()
    everything = [{"id": f"r{i}", "prompt": "bcdefgh"[i % 7] * (1 + i % 3)} for i in range(40)]
    assert jobs.run(model, everything, output, Sample(), **options).rows == 40
    assert sorted(path.name for path in tmp_path.glob("out.parquet*")) == ["out.parquet", "out.parquet.manifest.json"]
    key = lambda record: (record["id"], record["rank"])  # noqa: E731
    found, expected = (
        sorted(pq.read_table(output).to_pylist(), key=key),
        sorted(records(tmp_path / "out.jsonl"), key=key),
    )
    for one, other in zip(found, expected, strict=True):
        one["top_logprobs"] = [{str(token): value for token, value in step} for step in one["top_logprobs"]]
        assert one == other | {
            "token_logprobs": np.float32(other["token_logprobs"]).tolist(),
            "top_logprobs": [{k: float(np.float32(v)) for k, v in step.items()} for step in other["top_logprobs"]],
        }
    assert jobs.run(model, everything, output, Sample(), **options).sequences == 0


def test_parquet_of_numbered_rows_has_numbers_and_no_column_that_no_row_has(model, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet", reason=PYARROW)
    jobs.run(model, ["b", "c", "d"], tmp_path / "a.parquet", max_new_tokens=3)
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["id", "rank", "text", "tokens", "logprob", "score", "finish_reason"]
    assert sorted(table.column("id").to_pylist()) == [0, 1, 2]
    (tmp_path / "empty.txt").touch()
    jobs.run(model, tmp_path / "empty.txt", tmp_path / "b.parquet")
    assert pq.read_table(tmp_path / "b.parquet").num_rows == 0


FULL = """
import resource, sys
from decoding import DecodeError, Sample, jobs
source, output, limit = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))  # a write beyond it fails, as on a full disk
try:
    jobs.run("shakespeare", source, output, Sample(), max_new_tokens=30, seed=3)
except DecodeError as error:
    print(error)
"""


# The last: its few rows fit, and its Parquet file does not.
@pytest.mark.parametrize(
    ("name", "rows", "limit"), [("out.jsonl", 30, 6_000), ("out.parquet", 30, 4_000), ("out.parquet", 3, 2_000)]
)
def test_a_full_disk_is_an_error_after_which_the_job_goes_on(name, rows, limit, tmp_path):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason=PYARROW)
    source, output, whole = tmp_path / "in.txt", tmp_path / name, tmp_path / f"whole.{name}"
    source.write_text("ROMEO:\n" * rows)
    jobs.run("shakespeare", source, whole, Sample(), max_new_tokens=30, seed=3)
    arguments = [sys.executable, "-c", FULL, source, output, str(limit)]
    printed = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    assert f"output {output}" in printed
    assert "File too large" in printed
    assert "make room" in printed
    assert not output.exists() or output.suffix == ".jsonl"
    jobs.run("shakespeare", source, output, Sample(), max_new_tokens=30, seed=3)
    if output.suffix == ".jsonl":
        assert lines(output) == lines(whole)
    else:
        import pyarrow.parquet as pq

        found = [sorted(pq.read_table(path).to_pylist(), key=lambda row: row["id"]) for path in (output, whole)]
        assert found[0] == found[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output": "out.txt"}, "ends in .jsonl or .parquet"),
        ({"output": "missing/out.jsonl"}, "there is no folder"),
        ({"requests": "missing.txt"}, "no such file"),
        ({"strict": 1}, "strict=1"),
        ({"return_state": True}, "return_state"),
        ({"strategy": Sample([0.5, 0.7])}, "temperature=array"),
        ({"temprature": 1}, "no option 'temprature'"),
        ({"workers": 0}, "workers=0"),
        ({"prefix": "b"}, "prefix: .* has no encoder"),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_is_written(model, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=message):
        jobs.run(model, **{"requests": ["b"], "output": "out.jsonl", **arguments})
    assert list(tmp_path.iterdir()) == []


def test_results_that_are_not_finite_are_null(tmp_path):
    bias = np.zeros(11, np.float32)
    bias[4] = -1e30
    model = load(build.recurrent(bias=bias))

    def only_4(history, logits):
        logits[:] = -np.inf
        logits[:, 4] = 0

    jobs.run(model, [[1], [2]], tmp_path / "out.jsonl", processors=[only_4], max_new_tokens=2, token_logprobs=True)
    text = (tmp_path / "out.jsonl").read_text()
    assert "Infinity" not in text
    assert "NaN" not in text
    for record in records(tmp_path / "out.jsonl"):
        assert record["tokens"] == [4, 4]
        assert record["logprob"] is None or record["logprob"] < -1e20


@pytest.mark.parametrize("kind", ["ensemble", "guidance", "nested"])
@pytest.mark.parametrize("name", ["in.txt", "in.jsonl"])
def test_ensembles_of_models_with_encoders(kind, name, tmp_path):
    dates = load("dates")
    members = {"one": dates, "two": Ensemble([dates]) if kind == "nested" else dates}
    model = Guidance(dates, 2) if kind == "guidance" else Ensemble(members, weights=[1, 0.5])
    prompts = ["21 November 2026", "3 May 1999"]
    (tmp_path / name).write_text("\n".join(prompts if name == "in.txt" else map(json.dumps, prompts)))
    for _ in range(2):  # the second call finds its own manifest
        jobs.run(model, tmp_path / name, tmp_path / "out.jsonl", Beam(3), seed=1)
    found = sorted(records(tmp_path / "out.jsonl"), key=lambda record: record["id"])
    assert [record["text"] for record in found] == [h.text for h in decode(model, prompts, Beam(3))]
    jobs.score(model, [{"sequence": "2026-11-21", "prompt": prompts[0]}], tmp_path / "scores.jsonl")
    (scored,) = records(tmp_path / "scores.jsonl")
    assert scored["logprob"] == pytest.approx(
        float(score(model, ["2026-11-21"], prompts=prompts[:1])[0].sum()), abs=1e-4
    )
    another = Guidance(dates, 3) if kind == "guidance" else Ensemble(members, weights=[1, 0.25])
    with pytest.raises(OptionError, match=r"another job: model\.fingerprint"):
        jobs.run(another, tmp_path / name, tmp_path / "out.jsonl", Beam(3), seed=1)


def test_member_logprobs_are_refused(model, tmp_path):
    ensemble = Ensemble([model, model])
    with pytest.raises(OptionError, match="return_member_logprobs"):
        jobs.run(ensemble, ["b"], tmp_path / "call.jsonl", return_member_logprobs=True)
    jobs.run(
        ensemble, [Request("b", return_member_logprobs=True), "c"], tmp_path / "row.jsonl", seed=1, max_new_tokens=2
    )
    assert [record["id"] for record in records(tmp_path / "row.jsonl")] == [1]
    (error,) = records(tmp_path / "row.jsonl.errors.jsonl")
    assert "return_member_logprobs" in error["reason"]
