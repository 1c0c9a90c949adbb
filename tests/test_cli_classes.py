"""Classes that configs name: those of other packages, renamed ones, and those not found."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, inside, run_command

PREDICT = ("predict", "-c", f"{ROOT}/configs/fig5.yaml")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an installed package that declares one class well and two badly."""
    site = tmp_path_factory.mktemp("site")
    (site / "lattice_tools").mkdir(parents=True)
    (site / "lattice_tools/__init__.py").write_text(
        "from lattice_tools.measures import Magnetization\n"
    )
    (site / "lattice_tools/measures.py").write_text(
        "from pytorch_lightning import Callback\n"
        "class Magnetization(Callback):\n    pass\n"
        "class Undeclared(Callback):\n    pass\n"
    )
    (site / "lattice_tools/broken.py").write_text("import a_module_that_is_missing\n")
    info = site / "lattice_tools-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lattice-tools\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[lit_hier]\n"
        "Magnetization = lattice_tools.measures:Magnetization\n"
        "Susceptibility = lattice_tools.broken:Susceptibility\n"
        "Energy = lattice_tools.measures:Undeclared\n"
    )
    return site


@pytest.fixture
def package(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(site)


def with_callback(folder: Path, name: str, *arguments: str) -> None:
    """Parse a config with a callback, and print the result."""
    with inside(folder):
        run_command(*PREDICT, f"--trainer.callbacks+={name}", "--print_config", *arguments)


def rejection(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the line that a command ends with."""
    with inside(folder), pytest.raises(SystemExit) as end:
        run_command(*PREDICT, *arguments)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lit-hier: error: ")
    return line.removeprefix("lit-hier: error: ")


@pytest.mark.parametrize(
    "name",
    [
        "Magnetization",
        "lattice_tools.Magnetization",
        "lattice_tools.measures.Magnetization",
    ],
)
def test_a_declared_class_may_be_named(
    package: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with pytest.raises(SystemExit) as end:
        with_callback(tmp_path, name)
    assert not end.value.code
    assert re.search(r"class_path: lattice_tools\.(measures\.)?M", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "lattice_tools.measures.Undeclared",
            "trainer.callbacks: lattice_tools.measures.Undeclared is not an allowed class;"
            " if you trust it, set LIT_HIER_TRUST=lattice_tools.measures in the environment",
        ),
        (
            "Susceptibility",
            "trainer.callbacks: lattice-tools declares Susceptibility as"
            " lattice_tools.broken:Susceptibility, which cannot be imported: ModuleNotFoundError:"
            " No module named 'a_module_that_is_missing'; reinstall or update lattice-tools",
        ),
        (
            "Energy",
            "trainer.callbacks: lattice-tools declares Energy as"
            " lattice_tools.measures:Undeclared, which is not a class of this name;"
            " correct the entry point of lattice-tools",
        ),
    ],
)
def test_nothing_else_of_its_package_may_be_named(
    package: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    assert rejection(tmp_path, capsys, f"--trainer.callbacks+={name}") == message


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "--trainer.callbacks+=callbacks.Reconstruction",
            "trainer.callbacks: callbacks.Reconstruction was renamed; write"
            " lit_hier.callbacks.Reconstruction",
        ),
        (
            "--model.init_args.process=lit_hier.noise.EpsilonNoise",
            "process: lit_hier.noise.EpsilonNoise was renamed; write"
            " lit_hier.processes.EpsilonNoise",
        ),
        ("--model=DDPMTrainer", "model: DDPMTrainer was renamed; write DDPMTask"),
        (
            "--model=lit_hier.modules.DDPMTrainer",
            "model: lit_hier.modules.DDPMTrainer was renamed; write lit_hier.modules.DDPMTask",
        ),
        (
            "--model=DDPMSampllr",
            "model: there is no class DDPMSampllr (did you mean DDPMSampler?); a class of your own"
            " needs its full path, as in my_module.MyClass",
        ),
        (
            "--model=ImageFiles",
            "model: ImageFiles is not a class that this key accepts; check the key against --help",
        ),
        (
            "--model=lit_hier.modules.BPDenoisr",
            "model: lit_hier.modules has no class BPDenoisr (did you mean BPDenoiser?)",
        ),
        (
            "--model=a_module_that_is_missing.Net",
            "model: cannot import the class, as there is no module a_module_that_is_missing; check"
            " its spelling, install its package, or set PYTHONPATH=. if it is in this folder",
        ),
    ],
)
def test_a_class_that_is_not_found_says_how_to_find_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    argument: str,
    message: str,
) -> None:
    monkeypatch.setenv("LIT_HIER_TRUST", "a_module_that_is_missing")
    assert rejection(tmp_path, capsys, argument) == message


def test_an_invalid_name_in_the_environment_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIT_HIER_TRUST", "my-package")
    assert rejection(tmp_path, capsys).startswith("LIT_HIER_TRUST has 'my-package'; give packages")


def test_importing_an_old_module_names_the_new_one() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import lit_hier.noise"], capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1] == (
        "ImportError: lit_hier.noise was renamed; import lit_hier.processes"
    )
