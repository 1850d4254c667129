"""The C tests: every kernel in every instruction set, without Python, under the address and undefined-behaviour sanitizers.

`python scripts/reliability/sanitizers.py --long` makes millions of random calls, under more sanitizers.
"""

import shutil
import subprocess
import sys

import pytest

from tests.helpers import c_programs

COMPILER = shutil.which("cc")
needs_compiler = pytest.mark.skipif(sys.platform == "win32" or COMPILER is None, reason="needs a C compiler named cc")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
NAMES = ["test_kernels", "test_native", "test_random"]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    if not c_programs.has("cc", *SANITIZE):
        pytest.skip("the C compiler has no address and undefined-behaviour sanitizers")
    return dict(zip(NAMES, c_programs.build(NAMES, tmp_path_factory.mktemp("c"), *SANITIZE), strict=True))


@pytest.mark.parametrize("name", NAMES)
@needs_compiler
def test_every_kernel_in_every_instruction_set(programs, name):
    result = subprocess.run([programs[name]], capture_output=True, text=True, timeout=1800, check=False)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("system", "reason"),
    [
        (["-U__BYTE_ORDER__", "-D__BYTE_ORDER__=__ORDER_BIG_ENDIAN__"], "little-endian"),
        (["-include", "stdint.h", "-include", "{narrow}"], "64-bit"),
    ],
)
@needs_compiler
def test_systems_that_it_is_not_made_for_are_refused_at_build(tmp_path, system, reason):
    narrow = tmp_path / "narrow.h"
    narrow.write_text("#undef UINTPTR_MAX\n#define UINTPTR_MAX UINT32_MAX\n")
    csrc = c_programs.ROOT / "csrc"
    flags = ["-fsyntax-only", f"-I{csrc}", *[s.format(narrow=narrow) for s in system]]
    result = subprocess.run([COMPILER, *flags, csrc / "philox.c"], capture_output=True, text=True, check=False)
    assert result.returncode
    assert f"rnn-decoding needs a {reason}" in result.stderr
