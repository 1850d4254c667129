"""The C tests: every kernel in every instruction set, without Python, under the address and undefined-behaviour sanitizers."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("cc")


needs_compiler = pytest.mark.skipif(sys.platform == "win32" or COMPILER is None, reason="needs a C compiler named cc")


@pytest.mark.parametrize("name", ["test_kernels", "test_native"])
@needs_compiler
def test_every_kernel_in_every_instruction_set(tmp_path, name):
    sources = [*(ROOT / "csrc").glob("*.c"), ROOT / f"tests/c/{name}.c"]
    flags = ["-std=c11", "-O1", "-g1", "-ffp-contract=off", "-fno-sanitize-recover=undefined"]
    sanitize = "-fsanitize=address,undefined"
    if _build([sanitize, "-x", "c", "/dev/null", "-o", str(tmp_path / "probe"), "-shared"]).returncode:
        pytest.skip("the C compiler has no address and undefined-behaviour sanitizers")
    objects = [tmp_path / f"{source.stem}.o" for source in sources]
    running = [
        _start([*flags, sanitize, f"-I{ROOT / 'csrc'}", "-c", str(source), "-o", str(out)])
        for source, out in zip(sources, objects, strict=True)
    ]
    for process in running:
        output, _ = process.communicate()
        assert process.returncode == 0, output
    program = tmp_path / name
    linked = _build([sanitize, *map(str, objects), "-o", str(program), "-lm", "-lpthread"])
    assert linked.returncode == 0, linked.stdout
    result = subprocess.run([program], capture_output=True, text=True, timeout=300, check=False)
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
    result = _build(
        ["-fsyntax-only", f"-I{ROOT / 'csrc'}", *[s.format(narrow=narrow) for s in system], str(ROOT / "csrc/philox.c")]
    )
    assert result.returncode
    assert f"rnn-decoding needs a {reason}" in result.stdout


def _start(arguments):
    return subprocess.Popen([COMPILER, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _build(arguments):
    process = _start(arguments)
    output, _ = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output)
