"""The pages: what they name exists, links lead somewhere, and examples are Python."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("bench", "csrc", "decoding", "docs", "examples", "scripts", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
NAMES = [path.name for path in PAGES]
pytestmark = pytest.mark.skipif(not all((ROOT / f).is_dir() for f in FOLDERS), reason="an sdist has not all folders")

SUFFIXES = "c|h|json|md|npz|png|py|pyi|pyx|pxd|toml"
# Files and folders, as a page writes them in backticks: a folder ends with "/", a name may hold * and {a,b}.
PATH = re.compile(rf"[\w.*{{}},-]+(?:/[\w.*{{}},-]+)*(?:/|\.(?:{SUFFIXES}))")
# Words of commands that begin in a folder of the repository.
WORD = re.compile(rf"(?<![\w/.:-])(?:{'|'.join(FOLDERS)})/[\w./*{{}},-]*\w")
# Files that a command writes, or that the reader brings along.
MADE = {"NAME.npz", "OUTPUT.manifest.json", "cuda.json", "kernels.json", "out.json"}


def files() -> list[str]:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    return [path.relative_to(ROOT).as_posix() + "/" * path.is_dir() for path in [*found, *ROOT.iterdir()]]


FILES = files()


def alternatives(name: str) -> list[str]:
    """`a/{b,c}.py` as `a/b.py` and `a/c.py`."""
    group = re.search(r"{([^{}]*)}", name)
    if group is None:
        return [name]
    return [n for one in group[1].split(",") for n in alternatives(name[: group.start()] + one + name[group.end() :])]


def exists(name: str) -> bool:
    """Return whether a file or folder of the repository has this path, or ends with it."""
    pattern = re.compile("(?:.*/)?" + re.escape(name.removeprefix("./")).replace(r"\*", "[^/]*") + "/?")
    return any(map(pattern.fullmatch, FILES))


def missing(text: str) -> list[str]:
    """The paths that a page names and that do not exist."""
    quoted = [m[1] for m in re.finditer(r"`([^`\n]+)`", text) if PATH.fullmatch(m[1])]
    wanted = {name for path in [*quoted, *WORD.findall(text)] for name in alternatives(path)}
    return sorted(name for name in wanted - MADE if not exists(name))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_path_that_a_page_names_exists(page):
    assert missing(page.read_text(encoding="utf-8")) == []


def test_a_path_that_does_not_exist_is_found():
    assert (
        missing("`engine/loop.py`, `engine/search/{beam,sampling}.py`, `tests/models/`, `pytest tests/test_docs.py`")
        == []
    )
    assert missing("`model/roles.py` and `engine/{loop,run}.py`") == ["engine/run.py", "model/roles.py"]
    assert missing("```bash\npython examples/no_such.py decoding/pretrained/tang.onnx\n```") == ["examples/no_such.py"]


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_between_pages_leads_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in map(anchor, headings), link


def examples(page: str) -> list[str]:
    """The Python examples of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_readme_run(tmp_path, monkeypatch, capsys):
    """With a shipped model in place of the reader's own; the export needs torch and is only compiled."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "char_rnn.onnx").write_bytes((ROOT / "decoding" / "pretrained" / "shakespeare.onnx").read_bytes())
    first_result, export, own_model = examples("README.md")
    compile(export, "README.md", "exec")
    names = {}
    exec(first_result, names)
    assert len(names["out"]) == 8
    exec(own_model, names)
    assert "state   h -> h_out" in capsys.readouterr().out


def test_the_readme_is_short_and_its_lines_too():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 150
    assert max(map(len, lines)) < 120


def test_the_links_of_the_readme_lead_into_this_repository():
    """They are absolute, as PyPI renders the page too."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"https://(?:github|raw.githubusercontent)\.com/rnn-decoding/rnn-decoding/([^\s)]+)", text)
    assert len(links) > 20
    for link in links:
        assert (ROOT / re.sub(r"^(?:(?:blob|tree)/)?main/", "", link)).exists(), link
    named = set(re.findall(r"^\[([\w-]+)\]: ", text, re.MULTILINE))
    assert set(re.findall(r"\]\[([\w-]+)\]", text)) == named


def test_the_examples_of_the_page_for_newcomers_run(capsys):
    for example in examples("docs/coming-from.md"):
        exec(example, {})
    assert capsys.readouterr().out.count("\n") >= 5


def test_the_examples_of_the_page_of_exporting_run(tmp_path, monkeypatch):
    """Those of PyTorch; Keras' needs TensorFlow, and is only compiled."""
    pytest.importorskip("torch", reason="torch is not installed (pip install '.[export]')")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (pip install '.[export]')")
    monkeypatch.chdir(tmp_path)
    *torch, keras = examples("docs/export.md")
    compile(keras, "docs/export.md", "exec")
    names = {}
    for example in torch:
        exec(example, names)
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"char_rnn.onnx", "step.onnx", "translator.onnx", "translator.encoder.onnx"}


def test_the_examples_of_jobs_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for example in examples("docs/scaling.md"):
        exec(example, {})
    assert capsys.readouterr().out == "2 0 40\n"


def test_every_model_that_the_page_of_exporters_shows_is_in_the_tests():
    """The last column of its first table: fixtures by their names, with or without a wildcard, and tests."""
    page = (ROOT / "docs" / "exporters.md").read_text(encoding="utf-8")
    shown = [
        name
        for row in re.findall(r"^\|.*\|$", page, re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", row.split("|")[-2])
    ]
    models = [name for name in shown if not name.endswith(".py")]
    assert len(models) > 30
    for name in models:
        assert list((ROOT / "tests" / "models").glob(name + ".onnx")), name
