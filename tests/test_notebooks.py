"""Every notebook runs from its first cell to its last, where a user opens it or at the root."""

import shutil
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from packaging.requirements import Requirement

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(folder)}}).execute()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
@pytest.mark.filterwarnings("ignore")  # of Jupyter and its kernel
def test_a_notebook_runs_in_its_folder_and_is_saved_with_its_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    saved = [cell for cell in notebook.cells if cell.get("outputs")]
    assert any("image/png" in out.get("data", {}) for cell in saved for out in cell.outputs)
    printed = [out.text for cell in saved for out in cell.outputs if "text" in out]
    assert printed
    assert not any(out.output_type == "error" for cell in saved for out in cell.outputs)
    execute(notebook, path.parent)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
@pytest.mark.filterwarnings("ignore")  # of Jupyter and its kernel
def test_a_notebook_runs_at_the_root_and_anywhere_else(path: Path, tmp_path: Path) -> None:
    shutil.copy(path, tmp_path)
    for folder in (ROOT, tmp_path):
        execute(nbformat.read(path, as_version=4), folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter and its kernel
def test_a_failing_run_of_a_notebook_is_shown() -> None:
    notebook = nbformat.read(ROOT / "notebooks/reading_runs.ipynb", as_version=4)
    (cell,) = (cell for cell in notebook.cells if "main(" in cell.source)
    cell.source = cell.source.replace("seeds=[0,1,2]", "seeds=[0,0]")
    with pytest.raises(CellExecutionError, match="seeds"):
        execute(notebook, ROOT / "notebooks")


def test_notebooks_import_what_their_extra_brings() -> None:
    """Only the libraries that are installed with the package, and Python's own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [*project["dependencies"], *project["optional-dependencies"]["notebooks"]]
    installed = {Requirement(name).name.replace("-", "_") for name in names}
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        imported = {
            line.split()[1].split(".")[0]
            for line in source.splitlines()
            if line.startswith(("import ", "from "))
        }
        assert imported <= installed | sys.stdlib_module_names | {"lit_hier"}, path.name
