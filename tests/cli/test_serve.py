"""The arguments of `decoding serve`; tests/serve runs it."""

import socket
import subprocess
import sys

import pytest

from decoding import OptionError
from decoding.cli.main import main
from decoding.serve.models import named_sources


def test_models_have_names():
    found = named_sources(["shakespeare", "a=one.onnx", "folder/two.onnx"])
    assert found == {"shakespeare": "shakespeare", "a": "one.onnx", "two": "folder/two.onnx"}


@pytest.mark.parametrize("names", [["a=1.onnx", "a=2.onnx"], ["=x"], ["x="], ["one/a.onnx", "two/a.onnx"]])
def test_names_that_do_not_fit_are_errors(names):
    with pytest.raises(OptionError, match="MODEL"):
        named_sources(names)


@pytest.mark.parametrize(
    "wrong", [["--port", "-1"], ["--max-n", "0"], ["--session-seconds", "nan"], ["--api-key", " "]]
)
def test_wrong_options_are_named(wrong, capsys):
    assert main(["serve", "shakespeare", *wrong]) == 1
    assert f"decoding: {wrong[0]}" in capsys.readouterr().err


def test_a_port_that_is_taken_is_an_error_of_one_line(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "shakespeare", "--port", str(port)]) == 1
    assert capsys.readouterr().err.startswith(f"decoding: --host 127.0.0.1 --port {port}: nothing can listen there")


def test_the_other_commands_do_without_the_extra():
    blocked = (
        "import sys; sys.modules['starlette'] = None; from decoding.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", blocked]
    generate = subprocess.run([*command, "generate", "shakespeare", "a", "--max-new-tokens", "1"], capture_output=True)
    assert generate.returncode == 0, generate.stderr
    serve = subprocess.run([*command, "serve", "shakespeare"], capture_output=True, text=True)
    assert serve.returncode == 1
    assert serve.stderr == "decoding: decoding.serve needs the package starlette; pip install 'rnn-decoding[serve]'\n"
