"""Choosing an instruction set by the environment."""

import os
import subprocess
import sys

from decoding import kernels
from tests.helpers.kernels import in_every_instruction_set


def test_the_variable_forces_an_instruction_set():
    assert kernels.instruction_sets()[-1] == "portable"
    printed = in_every_instruction_set("from decoding import kernels; print(kernels.instruction_set(), end='')")
    assert all(name == text for name, text in printed.items())


def test_an_unknown_one_is_an_error_that_lists_the_known():
    environment = dict(os.environ, DECODING_ISA="sse9")
    result = subprocess.run(
        [sys.executable, "-c", "import decoding.kernels"], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "OptionError: environment variable DECODING_ISA is 'sse9'" in result.stderr
    assert "portable" in result.stderr
