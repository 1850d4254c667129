"""The examples of the pages run, and print what the pages show."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import decoding
from scripts.run_pages import differences, examples

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="an sdist has no docs")
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if examples(page.read_text(encoding="utf-8"))]
NEEDS = re.compile(r"<!-- needs ([\w, ]+) -->")


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(DOCS).as_posix() for page in PAGES])
def test_the_examples_of_a_page_print_what_it_shows(page, tmp_path, monkeypatch):
    text = page.read_text(encoding="utf-8")
    for package in re.findall(r"\w+", " ".join(NEEDS.findall(text))):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    monkeypatch.chdir(tmp_path)
    assert differences(text, page.name) == []


def test_an_output_that_differs_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n"
    assert differences(page, "page.md") == ["page.md:1: the page shows\n3\nbut it printed\n2\n"]
    assert differences(page.replace("3", "2"), "page.md") == []


def test_the_reference_shows_every_public_name():
    reference = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    shown = set(re.findall(r"\.\. auto(?:function|class|exception):: decoding\.(\w+)", reference))
    assert shown == set(decoding.__all__)


def test_the_reference_uses_every_public_name():
    """In an example of its page, or the object comes back from one: `Hypothesis`, `TokenEvent` and the like."""
    made = {"Decoded", "Hypothesis", "History", "Model", "Ticket", "TokenEvent"}
    for page in (DOCS / "reference").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        code = "\n".join(example.code for example in examples(text))
        names = set(re.findall(r"\.\. auto(?:function|class|exception):: decoding\.(\w+)", text))
        assert {name for name in names - made if f"decoding.{name}" not in code and f"{name}(" not in code} == set(), (
            page
        )


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_code():
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    sources = [path for kind in ("py", "pyx") for path in (ROOT / "decoding").rglob(f"*.{kind}")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    assert len(rows) > 20
    for words in (words for row in rows for words in re.findall(r"`([^`]+)`", row)):
        assert words in code, words
