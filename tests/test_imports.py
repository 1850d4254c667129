"""The import contract of pyproject.toml where lint-imports cannot see: Cython modules, C sources, hidden circles."""

import ast
import re
import tomllib
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "decoding"
FILES = sorted(path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".pyx", ".pxd"))
USERS = sorted(path for folder in ("bench", "examples", "scripts") for path in (ROOT / folder).rglob("*.py"))
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]

IMPORT = re.compile(
    r"^[ \t]*from[ \t]+([\w.]+)[ \t]+c?import[ \t]+(?:\(([^)]*)\)|(.*))|^[ \t]*c?import[ \t]+(.+)", re.M
)


def module_name(path):
    """Return the dotted name of a file of the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path) for path in FILES}


def imported(source):
    """Return the modules of the package that Python or Cython source imports or cimports."""
    found = set()
    for origin, several, one, plain in IMPORT.findall(source):
        if origin:
            names = [part.split()[0] for part in re.sub(r"#.*", "", several or one).split(",") if part.strip()]
            found |= {f"{origin}.{name}" if f"{origin}.{name}" in MODULES else origin for name in names}
        else:
            found |= {part.split()[0] for part in re.sub(r"#.*", "", plain).split(",")}
    return found & MODULES


IMPORTS = {path: imported(path.read_text(encoding="utf-8")) for path in FILES}


def broken_layer(importer, target):
    """Return the name of the layers contract that an import breaks, or None."""
    for contract in CONTRACTS:
        layers = [re.findall(r"\w+", layer) for layer in contract.get("layers", ())]
        for container in contract.get("containers", ()):
            inside = [name.removeprefix(f"{container}.").split(".")[0] for name in (importer, target)]
            if not all(name.startswith(f"{container}.") for name in (importer, target)) or inside[0] == inside[1]:
                continue
            upper, lower = (next(i for i, layer in enumerate(layers) if name in layer) for name in inside)
            if upper > lower or (upper == lower and "|" in contract["layers"][upper]):
                return contract["name"]
    return None


def test_the_reader_of_imports_finds_what_cython_may_write():
    source = """
from decoding.kernels import reference, uniform  # a module and a name
    from decoding.errors cimport (
        one,  # a comment, with a comma
        two,
    )
import numpy as np, decoding.processors
cimport decoding.results
"""
    names = ["decoding.errors", "decoding.kernels", "decoding.kernels.reference", "decoding.processors"]
    assert sorted(imported(source)) == [*names, "decoding.results"]


def test_a_wrong_import_is_named_by_the_contract_that_it_breaks():
    assert broken_layer("decoding.api", "decoding.engine.loop") is None
    assert "flows one way" in broken_layer("decoding.kernels.reference", "decoding.engine.request")
    assert "flows one way" in broken_layer("decoding.strategies", "decoding.processors")  # beside each other
    assert "request to its result" in broken_layer("decoding.engine.search.beam", "decoding.engine.loop")
    assert "graph upwards" in broken_layer("decoding.model.graph.graph", "decoding.model.runtime.session")


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_module_imports_only_from_the_layers_below(path):
    broken = {target: broken_layer(module_name(path), target) for target in IMPORTS[path]}
    assert {target: name for target, name in broken.items() if name} == {}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_only_the_command_line_imports_the_whole_package(path):
    assert "decoding" not in IMPORTS[path] or module_name(path).startswith("decoding.cli")


def test_no_modules_import_each_other():
    graph = {}
    for path, targets in IMPORTS.items():  # a .pyx and its .pxd are one module
        graph.setdefault(module_name(path), set()).update(targets - {module_name(path)})
    TopologicalSorter(graph).prepare()  # raises CycleError with the modules of a circle
    assert len(graph) == len(MODULES)


# decoding/__init__.py names decoding.plot to type checkers alone: matplotlib is an extra, and loads on first use.
@pytest.mark.parametrize("path", sorted({*PACKAGE.rglob("*.py")} - {PACKAGE / "__init__.py"}), ids=module_name)
def test_no_import_for_type_checkers_alone_hides_a_circle(path):
    names = {node.id for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Name)}
    assert "TYPE_CHECKING" not in names


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in FILES}), ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_folder_holds_at_most_twelve_modules(folder):
    modules = [path.name for path in folder.iterdir() if path.suffix in (".py", ".pyx") and path.stem != "__init__"]
    assert len(modules) <= 12, sorted(modules)


@pytest.mark.parametrize("path", sorted((ROOT / "csrc").glob("*.[ch]")), ids=lambda path: path.name)
def test_the_c_library_knows_nothing_of_python(path):
    included = re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)', path.read_text(encoding="utf-8"), re.M)
    assert [name for name in included if re.search("python|numpy|cython", name, re.I)] == []


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix != ".py"], ids=module_name)
def test_cython_modules_count_from_the_beginning(path):
    """They are compiled without wraparound: x[-1] reads before a list, and NumPy 2.5 refuses it."""
    assert re.findall(r"\[-\w+\]", path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", USERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_benchmarks_and_scripts_import_from_the_package_exists(path):
    """They need torch or much time, so that no other test would see a name that has moved."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    wanted = [
        (node.module, name.name) for node in nodes if (node.module or "").startswith("decoding") for name in node.names
    ]
    for module, name in wanted:
        assert f"{module}.{name}" in MODULES or hasattr(import_module(module), name), f"{module} has no {name}"
