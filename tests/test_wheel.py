"""The built package outside the checkout: what it contains, and a small demo run from it."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, rows
from processes import QUIET, SIMILARITY, TRAINING

pytestmark = pytest.mark.slow

# What a checkout holds of the package, links included.
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "lit_hier",
           "callbacks", "configs")  # fmt: skip
FOREIGN = "raise ImportError('foreign')\n"


def environment() -> dict[str, str]:
    """Environment variables without those that would lead back to the checkout."""
    return {k: x for k, x in os.environ.items() if k not in ("PYTHONPATH", "LIT_HIER_KERNEL")}


def run(*command: str | Path, folder: Path) -> str:
    """Run a command in a folder; return its output."""
    finished = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**environment(), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout[-3000:]
    return finished.stdout


def build(source: Path, kind: str, target: Path) -> Path:
    """Build a distribution without the network; return its path."""
    run(sys.executable, "-m", "build", "--no-isolation", f"--{kind}", f"--outdir={target}",
        folder=source)  # fmt: skip
    (path,) = target.iterdir()
    return path


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, so that building changes nothing in it."""
    folder = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, folder / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="session")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="session")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as users get it: built from the source distribution."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return build(unpacked, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executables of an environment that has the wheel and sees this one's dependencies.

    A .pth file that is found through another one is not read, so that an editable installation of
    the checkout is not visible.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = folder / "bin/python"
    (packages,) = (folder / "lib").glob("python*/site-packages")
    dependencies = [path for path in sys.path if path.endswith("-packages")]
    (packages / "dependencies.pth").write_text("\n".join(dependencies))
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index",
        "--ignore-installed", wheel, folder=folder)  # fmt: skip
    return folder / "bin"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A working directory with packages and modules that share names with the project's."""
    for package in ("callbacks", "data"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(FOREIGN)
    (tmp_path / "yaml.py").write_text(FOREIGN)
    return tmp_path


def test_distributions_contain_the_linked_folders_and_the_kernel(
    checkout: Path, sdist: Path, wheel: Path, tmp_path: Path
) -> None:
    names = members(wheel)
    tops = {name.split("/")[0].split("-")[0] for name in names}
    assert tops == {"lit_hier"}
    for folder, pattern in (("callbacks", "*.py"), ("configs", "*.yaml")):
        expected = {f"lit_hier/{folder}/{path.name}" for path in (ROOT / folder).glob(pattern)}
        assert expected
        assert expected <= names
    assert "lit_hier/inference/native/kernel_baseline.so" in names
    assert "lit_hier/inference/native/answer_queries.h" in names
    assert "lit_hier/py.typed" in names
    with tarfile.open(sdist) as archive:
        inner = {name.partition("/")[2] for name in archive.getnames()}
        configs = [item for item in archive if "lit_hier/configs/" in item.name]
    assert {"setup.py", "lit_hier/inference/native/float32.c"} <= inner
    assert configs
    assert all(item.isfile() for item in configs)
    assert not any(name.startswith(("tests", "callbacks", "configs")) for name in inner)
    assert members(build(checkout, "wheel", tmp_path)) == names


def test_the_metadata_describe_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(path))
    assert metadata["Author"] == "The lit-hier authors"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert {"dev", "docs", "notebooks"} <= set(metadata.get_all("Provides-Extra"))
    assert not re.search(r"\]\((?!https?:|#)", str(metadata.get_payload()))


def test_an_installed_package_uses_its_own_modules_and_kernel(
    installed: Path, hostile: Path
) -> None:
    program = (
        "import lit_hier.callbacks\n"
        "from lit_hier.inference import native_library\n"
        "print(lit_hier.__file__, lit_hier.callbacks.__file__, native_library.load_kernel()._name)"
    )
    paths = run(installed / "python", "-P", "-c", program, folder=hostile).split()
    assert len(paths) == 3
    assert all(Path(path).is_relative_to(installed.parent) for path in paths)


def test_the_demo_runs_in_a_directory_with_modules_of_the_same_names(
    installed: Path, hostile: Path
) -> None:
    (configs,) = installed.parent.glob("lib/python*/site-packages/lit_hier/configs")
    command = installed / "lit-hier"
    run(command, "fit", "-c", configs / "demo_classifier.yaml", *TRAINING, *QUIET, folder=hostile)
    run(command, "predict", "-c", configs / "demo.yaml", *SIMILARITY, *QUIET, folder=hostile)
    results = hostile / "logs/demo/version_0"
    assert {int(row["count"]) for row in rows(results / "similarity.csv")} == {7}
    assert (results / "reconstruction.csv").is_file()
