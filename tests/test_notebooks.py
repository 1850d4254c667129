"""The notebooks run from top to bottom."""

import importlib.util
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the docs extra is not installed")
nbclient = pytest.importorskip("nbclient", reason="the docs extra is not installed")
pytest.importorskip("ipykernel", reason="the docs extra is not installed")

NOTEBOOKS = sorted((Path(__file__).parent.parent / "examples" / "notebooks").glob("*.ipynb"))
NEEDS_TORCH = {"training_a_policy"}


@pytest.mark.filterwarnings("ignore")  # those of the kernel's own packages
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    if path.stem in NEEDS_TORCH and importlib.util.find_spec("torch") is None:
        pytest.skip("needs torch")
    notebook = nbformat.read(path, as_version=4)
    done = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    assert all(cell.execution_count for cell in done.cells if cell.cell_type == "code")


def test_the_notebooks_are_kept_with_their_outputs():
    assert len(NOTEBOOKS) == 3
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert any(output.get("data", {}).get("image/png") for cell in cells for output in cell.get("outputs", []))
        assert not any(output.output_type == "error" for cell in cells for output in cell.get("outputs", []))
