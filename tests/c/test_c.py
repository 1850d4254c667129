"""The C tests: every kernel in every instruction set, without Python, under the address and undefined-behaviour sanitizers.

`python scripts/reliability/sanitizers.py --long` makes millions of random calls, under more sanitizers.
"""

import shutil
import subprocess
import sys

import pytest

from tests.helpers import c_programs

SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


NAMES = ["test_kernels", "test_native", "test_random"]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    if sys.platform == "win32" or shutil.which("cc") is None:
        pytest.skip("needs a C compiler named cc")
    if not c_programs.has("cc", *SANITIZE):
        pytest.skip("the C compiler has no address and undefined-behaviour sanitizers")
    return dict(zip(NAMES, c_programs.build(NAMES, tmp_path_factory.mktemp("c"), *SANITIZE), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_every_kernel_in_every_instruction_set(programs, name):
    result = subprocess.run([programs[name]], capture_output=True, text=True, timeout=300, check=False)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
