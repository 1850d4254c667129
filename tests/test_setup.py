"""setup.py: where the package is not built."""

import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[1] / "setup.py"


@pytest.mark.skipif(not SETUP.is_file(), reason="an installed package has no setup.py")
@pytest.mark.parametrize(
    "system", ["sys.byteorder = 'big'", "struct.calcsize = lambda letter: 4"], ids=["big", "32-bit"]
)
def test_big_endian_and_32_bit_systems_are_refused_with_a_sentence(system):
    pytest.importorskip("Cython")
    code = f"import runpy, struct, sys, Cython.Build, numpy, setuptools; {system}; runpy.run_path({str(SETUP)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("rnn-decoding needs a 64-bit little-endian system")
