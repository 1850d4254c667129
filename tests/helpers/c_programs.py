"""Building the C tests: csrc/ with one program of tests/c/, without Python."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLAGS = ["-std=c11", "-O1", "-g1", "-ffp-contract=off", f"-I{ROOT / 'csrc'}"]


def has(compiler, *flags):
    """Return whether the compiler takes these flags, to compile and to link."""
    command = [compiler, *flags, "-x", "c", "-", "-o", "/dev/null"]
    return (
        subprocess.run(
            command, input="int main(void){return 0;}", text=True, capture_output=True, check=False
        ).returncode
        == 0
    )


def build(programs, folder, *flags, compiler="cc"):
    """Compile csrc/ and these programs of tests/c/ side by side; return a path for each program."""
    library = sorted((ROOT / "csrc").glob("*.c"))
    sources = [*library, *(ROOT / "tests" / "c" / f"{program}.c" for program in programs)]
    objects = {source: str(folder / f"{source.stem}.o") for source in sources}
    _run([compiler, *FLAGS, *flags, "-c", str(source), "-o", out] for source, out in objects.items())
    common = [objects[source] for source in library]
    paths = [folder / program for program in programs]
    _run([compiler, *flags, *common, f"{path}.o", "-o", str(path), "-lm", "-lpthread"] for path in paths)
    return paths


def _run(commands):
    """Run commands side by side."""
    running = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for c in commands]
    for process in running:
        output, _ = process.communicate()
        assert process.returncode == 0, output
