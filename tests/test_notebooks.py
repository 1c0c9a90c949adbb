"""Every notebook runs from its first cell to its last."""

from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=() if path.stem == "phase_transition" else pytest.mark.slow)
        for path in NOTEBOOKS
    ],
    ids=lambda path: path.name,
)
@pytest.mark.filterwarnings("ignore")  # of Jupyter and its kernel
def test_a_notebook_runs_and_is_saved_with_its_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    saved = [cell for cell in notebook.cells if cell.get("outputs")]
    assert any("image/png" in out.get("data", {}) for cell in saved for out in cell.outputs)
    printed = [out.text for cell in saved for out in cell.outputs if "text" in out]
    assert printed
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(ROOT)}}).execute()
