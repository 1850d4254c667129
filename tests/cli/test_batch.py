"""`decoding batch`, and `decoding score` with OUTPUT."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from decoding import Beam, Request, Sample, decode, jobs, load, score
from decoding.cli.main import main


def run(capsys, *args):
    code = main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return code, out, err


def records(path):
    return sorted(
        map(json.loads, path.read_bytes().splitlines()), key=lambda record: (record["id"], record.get("rank"))
    )


def test_batch_decodes_a_file_and_its_second_call_does_nothing(capsys, tmp_path):
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("ROMEO:\nJULIET:\nbad \u2028\n", encoding="utf-8")
    arguments = [
        "batch",
        "shakespeare",
        source,
        output,
        "--max-new-tokens",
        "9",
        "--seed",
        "4",
        "--n",
        "2",
        "--top-k",
        "5",
    ]
    code, out, err = run(capsys, *arguments)
    assert code == 0
    assert "2 rows; 4 sequences written" in out
    assert "seed 4" in out
    assert f"1 bad row is in {output}.errors.jsonl" in err
    requests = [Request(text, seed=jobs.row_seed(4, i)) for i, text in enumerate(["ROMEO:", "JULIET:"])]
    expected = decode("shakespeare", requests, Sample(0.8, top_k=5), max_new_tokens=9, num_return_sequences=2)
    assert [record["tokens"] for record in records(output)] == expected.tokens
    code, out, _ = run(capsys, *arguments, "--json", "--batch-size", "3", "--workers", "2")
    assert json.loads(out)["sequences"] == 0
    code, _, err = run(capsys, *arguments, "--top-p", "0.5")
    assert code == 1
    assert "it is of another job: options.strategy was" in err


def test_batch_reads_a_column_and_searches(capsys, tmp_path):
    (tmp_path / "in.csv").write_text('key,text\nx,"3 mai 2026"\ny,"May 3, 2026"\n')
    arguments = ["--column", "text", "--id-column", "key", "--num-beams", "3", "--quantize", "int8"]
    code, _, _ = run(capsys, "batch", "dates", tmp_path / "in.csv", tmp_path / "out.jsonl", *arguments)
    assert code == 0
    expected = decode(load("dates", quantize="int8"), ["3 mai 2026", "May 3, 2026"], Beam(num_beams=3))
    assert [(record["id"], record["text"]) for record in records(tmp_path / "out.jsonl")] == [
        ("x", expected[0].text),
        ("y", expected[1].text),
    ]


def test_batch_needs_an_input_or_a_number(capsys, tmp_path):
    code, _, err = run(capsys, "batch", "shakespeare", tmp_path / "out.jsonl")
    assert code == 1
    assert "pass one of them" in err
    code, _, err = run(capsys, "batch", "shakespeare", tmp_path / "out.jsonl", "--num", "3")
    assert code == 1
    assert "no BOS" in err
    assert list(tmp_path.iterdir()) == []


def test_strict_ends_with_an_error(capsys, tmp_path):
    (tmp_path / "in.txt").write_text("\u2028\n", encoding="utf-8")
    code, _, err = run(capsys, "batch", "shakespeare", tmp_path / "in.txt", tmp_path / "out.jsonl", "--strict")
    assert code == 1
    assert "row 0 (id 0)" in err


def test_score_writes_a_file(capsys, tmp_path):
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("To be\nor not to be\n")
    code, out, _ = run(capsys, "score", "shakespeare", source, output, "--json")
    assert code == 0
    assert json.loads(out)["rows"] == 2
    expected = score("shakespeare", ["To be", "or not to be"])
    found = [record["logprob"] for record in records(output)]
    assert abs(found[1] - float(expected[1][1:].sum())) < 1e-3
    code, _, err = run(capsys, "score", "shakespeare", source, output, "--lines")
    assert code == 1
    assert "--lines: not with OUTPUT" in err


def test_score_names_no_seed_where_nothing_is_drawn(capsys, tmp_path):
    (tmp_path / "in.txt").write_text("To be\n")
    arguments = ["score", "shakespeare", tmp_path / "in.txt", tmp_path / "out.jsonl"]
    for given in ([], ["--seed", "3"]):
        code, out, _ = run(capsys, *arguments, *given)
        assert code == 0
        assert "; seed" not in out
    assert json.loads(run(capsys, *arguments, "--json")[1])["seed"] is None


def test_options_of_score_are_checked_with_and_without_an_output(capsys, tmp_path):
    (tmp_path / "in.txt").write_text("To be\n")
    for output in ([], [tmp_path / "out.jsonl"]):
        code, _, err = run(capsys, "score", "shakespeare", tmp_path / "in.txt", *output, "--batch-size", "0")
        assert code == 1
        assert "batch_size=0" in err
    for flag in (["--strict"], ["--column", "x"], ["--id-column", "x"], ["--token-logprobs"]):
        code, _, err = run(capsys, "score", "shakespeare", tmp_path / "in.txt", *flag)
        assert code == 1
        assert f"{flag[0]}: it applies to the rows of OUTPUT" in err
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


@pytest.mark.skipif(os.name == "nt", reason="a process gets no signal from another one, but is ended")
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_job_that_is_told_to_stop_says_that_it_can_go_on(sent, status, tmp_path):
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("ROMEO:\n" * 20_000)
    arguments = ["batch", "shakespeare", str(source), str(output), "--max-new-tokens", "20", "--batch-size", "2"]
    job = subprocess.Popen([sys.executable, "-m", "decoding", *arguments], stderr=subprocess.PIPE, text=True)
    while job.poll() is None and not (output.exists() and output.stat().st_size):
        time.sleep(0.01)
    job.send_signal(sent)
    _, err = job.communicate(timeout=60)
    assert job.returncode == status
    assert err.strip() == f"decoding: {output}: stopped; run the same command again to resume"
    assert b"}\n" in output.read_bytes()
    assert not (tmp_path / "out.jsonl.errors.jsonl").exists()
