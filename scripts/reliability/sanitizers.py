"""Make random calls of every C function, in every instruction set and with threads, under each sanitizer that is there.

    python scripts/reliability/sanitizers.py --long --jobs 2

The address and undefined-behaviour sanitizers are gcc's, those of memory that was not written and of races between threads clang's
(Debian: clang-19 and libclang-rt-19-dev). NEON runs under qemu (gcc-aarch64-linux-gnu and qemu-user-static), with a tenth of the
calls. tests/c/test_random.c is the program; the other C tests run once under each.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.reliability.figure import Figure, main
from tests.helpers import c_programs

SANITIZERS = {
    "address, undefined": ("gcc", ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")),
    "undefined": ("clang", ("-fsanitize=undefined,float-cast-overflow", "-fno-sanitize-recover=all")),
    "memory": ("clang", ("-fsanitize=memory", "-fno-sanitize-recover=all")),
    "thread": ("clang", ("-fsanitize=thread", "-fno-sanitize-recover=all")),
    "thread, gcc's": ("gcc", ("-fsanitize=thread", "-fno-sanitize-recover=all")),
    "undefined, NEON": ("aarch64", ("-fsanitize=undefined", "-fno-sanitize-recover=all")),
}
COMPILERS = {"gcc": ["gcc", "cc"], "clang": ["clang-19", "clang-18", "clang"], "aarch64": ["aarch64-linux-gnu-gcc"]}
QEMU = ["qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu"]


def run(name: str, calls: int) -> Figure:
    """Build and run the C tests under one sanitizer."""
    figure = Figure()
    kind, flags = SANITIZERS[name]
    prefix, calls = (QEMU, calls // 10) if kind == "aarch64" else ([], calls)
    compiler = next((c for c in COMPILERS[kind] if shutil.which(c) and c_programs.has(c, *flags)), None)
    if compiler is None or (prefix and not shutil.which(prefix[0])):
        figure.measured.append(f"{name}: not run: no {kind} compiler here has it")
        return figure
    arguments = {"test_random": [str(calls)], "test_kernels": [], "test_native": []}
    with tempfile.TemporaryDirectory() as folder:
        for path in c_programs.build(arguments, Path(folder), *flags, compiler=compiler):
            done = subprocess.run([*prefix, path, *arguments[path.name]], capture_output=True, text=True, check=False)
            last = (done.stdout.strip().splitlines() or ["nothing"])[-1]
            figure.measured.append(f"{name} ({compiler}), {path.name}: {last}")
            said = f"exit {done.returncode}: {last}: {done.stderr[:2000]}"
            figure.expect(done.returncode == 0, f"{name}, {path.name}: {said}")
    return figure


def measure(calls: int, jobs: int) -> Figure:
    """Run all sanitizers, each with that many calls."""
    figure = Figure()
    with ThreadPoolExecutor(jobs) as pool:
        for part in pool.map(lambda name: run(name, calls), SANITIZERS):
            figure.measured += part.measured
            figure.broken += part.broken
    return figure


if __name__ == "__main__":
    sys.exit(main(__doc__, measure, short=20_000, long=2_000_000, counted="calls under each sanitizer"))
