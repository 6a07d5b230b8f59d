"""The notebooks run from top to bottom, show their pictures, and are stored without output."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_without_output(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert cell.cell_type != "code" or (cell.outputs == [] and cell.execution_count is None)


# The kernel's own machinery warns about things that aren't ours.
@pytest.mark.long
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_its_pictures_show(path):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code" and "lx.plot(" in cell.source:
            assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", output["text"]


def test_there_are_notebooks():
    assert NOTEBOOKS
