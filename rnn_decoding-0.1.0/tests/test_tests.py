"""Every test asserts something."""

import ast
from pathlib import Path

import pytest

TESTS = sorted(Path(__file__).parent.rglob("test_*.py"))


def asserts(test):
    """Return whether a test has an assertion, expects an error or a warning, or calls a helper that asserts."""
    called = [node.func for node in ast.walk(test) if isinstance(node, ast.Call)]
    names = [f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "") for f in called]
    known = any(name in ("raises", "warns", "check") or name.startswith(("assert_", "check_")) for name in names)
    return known or any(isinstance(node, ast.Assert) for node in ast.walk(test))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(Path(__file__).parent)))
def test_every_test_asserts_something(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tests = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    assert [test.name for test in tests if not asserts(test)] == []


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(Path(__file__).parent)))
def test_tests_share_through_helpers_and_not_through_each_other(path):
    origins = [
        node.module or ""
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
    ]
    assert [name for name in origins if name.rpartition(".")[2].startswith("test_")] == []
