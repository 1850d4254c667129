"""decoding/__init__.py: every public name is there, and is imported when it is first used."""

import ast
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import decoding
from decoding import Greedy, OptionError, Request

PACKAGE = Path(decoding.__file__).parent


def in_a_new_process(code, given=b""):
    ran = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, timeout=60)
    assert ran.returncode == 0, ran.stderr.decode()
    return ran.stdout.decode().split()


def test_type_checkers_read_the_imports_that_python_makes():
    """The names are written for both: a name that only one of them knows would be found by its users alone."""
    nodes = ast.walk(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")))
    written = {
        name.name: node.module.removeprefix("decoding.")
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module.startswith("decoding.")
        for name in node.names
    }
    assert written == decoding._MODULES
    assert sorted(written) == sorted(decoding.__all__)


def test_every_name_is_listed_and_found():
    found = {}
    exec("from decoding import *", found)
    assert {*decoding.__all__} <= {*found}
    assert {*decoding.__all__, "plot", "export", "jobs", "serve"} <= {*dir(decoding)}
    for name in decoding.__all__:
        assert getattr(decoding, name) is found[name]
        assert found[name].__name__ == name


def test_no_module_has_the_name_of_something_public():
    """Importing decoding.x sets the attribute x of the package: it would hide a function x."""
    modules = {path.stem for path in PACKAGE.iterdir()}
    assert modules.isdisjoint(decoding.__all__)


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match=r"module 'decoding' has no attribute 'decod'"):
        _ = decoding.decod
    with pytest.raises(ImportError, match="cannot import name 'decod'"):
        exec("from decoding import decod")


def test_importing_the_package_imports_nothing_large():
    code = "import sys, decoding; print(*{'numpy', 'onnx', 'onnxruntime', 'decoding.api'} & {*sys.modules})"
    assert in_a_new_process(code) == []


def test_threads_that_use_a_name_at_once_find_the_same():
    code = """
import decoding, threading
found, together = [], threading.Barrier(8)
def use(name):
    together.wait()
    found.append((name, id(getattr(decoding, name))))
threads = [threading.Thread(target=use, args=[name]) for name in ["decode", "Beam", "rerank", "load"] * 2]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(found), len(set(found)))
"""
    assert in_a_new_process(code) == ["8", "4"]


def test_what_was_pickled_is_read_by_a_process_that_has_imported_nothing():
    given = pickle.dumps([Request([1, 2], strategy=Greedy(), max_new_tokens=3), OptionError("n=0: expected 1")])
    code = "import pickle, sys; r, e = pickle.load(sys.stdin.buffer); print(type(r).__name__, r.max_new_tokens, type(e).__name__)"
    assert in_a_new_process(code, given) == ["Request", "3", "OptionError"]
