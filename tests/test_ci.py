"""The scripts of .ci/ and the workflows that call them."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
SCRIPTS = sorted(path for path in ROOT.glob(".ci/*") if path.is_file())
name_of = "{0.name}".format


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_every_action_is_pinned_by_commit_and_says_its_version(path):
    actions = [line.strip() for line in path.read_text().splitlines() if "uses:" in line]
    assert actions
    pinned = re.compile(r"(- )?uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    assert [action for action in actions if not pinned.fullmatch(action)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_workflows_only_install_and_call_scripts(path):
    commands = [line.split("run:")[1].strip() for line in path.read_text().splitlines() if "- run:" in line]
    allowed = re.compile(r"(PYTHON=python )?\.ci/[\w-]+.*|pip install .*|sudo apt-get .*")
    assert [command for command in commands if not allowed.fullmatch(command)] == []


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_scripts_parse(path):
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_wheels_tests_import_only_packages_that_their_environment_has():
    """It has the wheel and what `test-requires` names; the tests may import helpers, and these others."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    settings = project["tool"]["cibuildwheel"]
    required = [*project["project"]["dependencies"], *settings["test-requires"]]
    there = (
        {re.match(r"[\w-]+", requirement)[0] for requirement in required} | {"decoding"} | set(sys.stdlib_module_names)
    )
    folders = [ROOT / name for name in re.findall(r"tests/\S+", settings["test-command"])]
    waiting = [path for folder in folders for path in (folder.rglob("*.py") if folder.is_dir() else [folder])]
    assert len(waiting) > 30
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        for module in imported(path):
            top = module.partition(".")[0]
            if top in settings["test-sources"]:
                found = ROOT / (module.replace(".", "/") + ".py")
                if found.exists() and found not in seen:
                    seen.add(found)
                    waiting.append(found)
            else:
                assert top in there, f"{path.relative_to(ROOT)} imports {top}"


def imported(path):
    """Return the modules that a file imports as it is imported itself; functions ask for theirs with importorskip."""
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names
