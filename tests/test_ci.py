"""The scripts of .ci/ and the workflows that call them."""

import re
import shutil
import subprocess
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
