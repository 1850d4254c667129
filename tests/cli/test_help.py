"""`--help` of every command fits a screen, explains everything on request, and its examples work."""

import argparse
import json
import os
import subprocess
import sys

import pytest

from decoding.cli.main import COMMANDS, main, make_parser
from tests.helpers import build

COMMANDS_BY_NAME = next(a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
# Commands whose examples run until they are stopped; their own tests run them.
ENDLESS = pytest.mark.skip(reason="it runs until it is stopped")
EXAMPLES = [
    pytest.param(example, marks=[ENDLESS] if name == "serve" else [])
    for name, parser in COMMANDS_BY_NAME.items()
    for example in parser.examples
]


def help_of(capsys, monkeypatch, *args, columns=100):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as left:
        main(list(args))
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=" ".join)
def test_help_fits_a_screen(command, columns, capsys, monkeypatch):
    lines = help_of(capsys, monkeypatch, *command, "--help", columns=columns).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= columns
    assert lines == help_of(capsys, monkeypatch, *command, "-h", columns=columns).splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_in_the_help_and_explained_by_help_all(command, capsys, monkeypatch):
    parser = COMMANDS_BY_NAME[command]
    short, whole = (help_of(capsys, monkeypatch, command, flag) for flag in ("--help", "--help-all"))
    for action in parser._actions:
        if action.help is not argparse.SUPPRESS and action.option_strings and action.dest != "help":
            assert action.option_strings[-1] in short
            words = " ".join(action.help.split()).split("(default")[0]
            assert words[:20] in " ".join(whole.split())
    assert len(parser.examples) >= 2
    assert all(example in short for example in parser.examples)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that the examples name, and a `decoding` command of this interpreter."""
    path = tmp_path_factory.mktemp("examples")
    (path / "char_rnn.onnx").write_bytes(build.recurrent(vocab=11).SerializeToString())
    (path / "vocab.json").write_text(json.dumps(list("abcdefghijk")))
    for name in ("prompts.txt", "lines.txt"):
        (path / name).write_text("ROMEO:\nJULIET:\n")
    ids = {"decoding.bos": 0, "decoding.eos": 1}
    (path / "molecules.onnx").write_bytes(build.recurrent(vocab=11, metadata=ids).SerializeToString())
    (path / "bin").mkdir()
    command = path / "bin" / "decoding"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m decoding "$@"\n')
    command.chmod(0o755)
    return path


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_work(example, folder):
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    ran = subprocess.run(
        ["bash", "-o", "pipefail", "-c", example], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    assert ran.stdout or ">" in example


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["--help-all"], ["--version"], [], ["no-such-command"]])
def test_nothing_is_imported_for_the_list_of_commands(args):
    code = f"""
import sys
from decoding.cli.main import main
try:
    main({args})
except SystemExit:
    large = {{"numpy", "onnx", "onnxruntime"}} | {{f"decoding.cli.{{name}}" for name in {[*COMMANDS]}}}
    print("imported:", *large & {{*sys.modules}})
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout.splitlines()[-1] == "imported:", ran.stderr
    wrong = not args or args == ["no-such-command"]
    assert ("usage: decoding [-h] [--version] COMMAND" in ran.stderr) == wrong
    assert args == ["--version"] or wrong or "list the models that ship" in ran.stdout


def test_the_modules_of_other_commands_are_not_imported():
    code = (
        "import sys; from decoding.cli.main import main; main(['models']); print('decoding.cli.bench' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout.splitlines()[-1] == "False"
