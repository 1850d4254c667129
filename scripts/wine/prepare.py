"""Prepare a folder with CPython for Windows, and wheels in its site-packages, to run and to compile in Wine.

    python scripts/wine/prepare.py FOLDER

- NumPy and SciPy call complex functions of the C library that Wine lacks. They get them from a DLL beside python.exe, which forwards
  all other functions to Wine's; the name of the DLL is changed in the files that call one.
- Rust's extension modules get `bcryptprimitives.dll`.
- `FOLDER/tools` gets `cl.exe` and `link.exe`, which run clang-cl and lld-link of this system (scripts/wine/compiler.c).

Needs MinGW's gcc and objdump.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
MINGW = "x86_64-w64-mingw32"
MATHS, WITH_COMPLEX = b"api-ms-win-crt-math-l1-1-0.dll", b"crt-math-with-complex.dll"


def compile_c(source: str, output: Path, *options: str | Path) -> None:
    """Compile a file of this folder."""
    subprocess.run([f"{MINGW}-gcc", "-O2", "-static-libgcc", HERE / source, *options, "-o", output], check=True)


def maths_of(module: Path) -> set[str]:
    """Return the mathematical functions that an extension module or DLL calls."""
    listing = subprocess.run([f"{MINGW}-objdump", "-p", module], capture_output=True, text=True, check=True).stdout
    names, library = set[str](), ""
    for line in listing.splitlines():
        if match := re.match(r"\s*DLL Name: (\S+)", line):
            library = match[1]
        elif library in (MATHS.decode(), WITH_COMPLEX.decode()) and (
            match := re.match(r"\s+[0-9a-f]+\s+\d+\s+(\S+)$", line)
        ):
            names.add(match[1])
    return names


def add_complex_functions(folder: Path) -> list[Path]:
    """Build the DLL, and return the files that were told to use it."""
    stems = set(re.findall(r"TO_(?:COMPLEX|REAL)\((\w+)\)", (HERE / "complex.c").read_text())) - {"name"} | {"cpow"}
    ours = {f"{stem}{suffix}": f"z_{stem}{suffix}" for stem in stems for suffix in ("", "f", "l")} | {"_cabs": "z_cabs"}
    modules = [path for pattern in ("**/*.pyd", "**/*.dll") for path in folder.glob(f"Lib/site-packages/{pattern}")]
    calling = {path: names for path in modules if (names := maths_of(path)) & ours.keys()}
    lines = [f"  {name} = {ours.get(name, f'ucrtbase.{name}')}" for name in sorted(set[str]().union(*calling.values()))]
    exports = folder / "complex.def"
    exports.write_text("\n".join(["EXPORTS", *lines]) + "\n")
    compile_c("complex.c", folder / WITH_COMPLEX.decode(), "-shared", exports)
    for path in calling:
        path.write_bytes(path.read_bytes().replace(MATHS + b"\0", WITH_COMPLEX.ljust(len(MATHS), b"\0") + b"\0"))
    return list(calling)


def main(arguments: Sequence[str]) -> None:
    """Prepare the folder."""
    (folder,) = map(Path, arguments)
    changed = add_complex_functions(folder)
    compile_c("random.c", folder / "bcryptprimitives.dll", "-shared", "-ladvapi32")
    (folder / "tools").mkdir(exist_ok=True)
    compile_c("compiler.c", folder / "tools" / "cl.exe")
    shutil.copy(folder / "tools" / "cl.exe", folder / "tools" / "link.exe")
    print("complex functions for", ", ".join(sorted(path.name for path in changed)))


if __name__ == "__main__":
    main(sys.argv[1:])
