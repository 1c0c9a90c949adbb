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
        "Reconstruction = lattice_own:Reconstruction\n"
        "Heat = lattice_own:Heat\n"
        "Exit = lattice_exit:Exit\n"
    )
    (site / "lattice_exit.py").write_text("import sys\nsys.exit(7)\n")
    (site / "lattice_own.py").write_text("raise RuntimeError('imported without need')\n")
    other = site / "other_tools-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other-tools\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("[lit_hier]\nHeat = other_tools:Heat\n")
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
            "model: lit_hier.modules has no BPDenoisr (did you mean BPDenoiser?); name a class"
            " listed by --help",
        ),
        (
            "--model=a_module_that_is_missing.Net",
            "model: cannot import a_module_that_is_missing.Net: ModuleNotFoundError: No module"
            " named 'a_module_that_is_missing'; check its spelling, install its package, or set"
            " PYTHONPATH=. if it is in this folder",
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


MODULES = {
    "mod_syntax": "def (",
    "mod_raises": "raise RuntimeError('gpu missing')",
    "mod_nested": "import nothing_here",
    "mod_exits": "import sys\nsys.exit(3)",
    "mod_good": "from pytorch_lightning import Callback\nclass Mag(Callback):\n    pass\n"
    "def func():\n    pass\n",
    "callbacks": "from pytorch_lightning import Callback\nclass Mine(Callback):\n    pass\n",
}


@pytest.mark.parametrize(
    ("trusted", "name", "message"),
    [
        (
            "mod_syntax",
            "mod_syntax.M",
            "cannot import mod_syntax.M: SyntaxError: invalid syntax (mod_syntax.py, line 1);"
            " correct mod_syntax",
        ),
        (
            "mod_raises",
            "mod_raises.M",
            "cannot import mod_raises.M: RuntimeError: gpu missing; correct mod_raises",
        ),
        (
            "mod_nested",
            "mod_nested.M",
            "cannot import mod_nested.M: ModuleNotFoundError: No module named 'nothing_here';"
            " install nothing_here, which mod_nested imports",
        ),
        (
            "mod_exits.M",
            "mod_exits.M",
            "cannot import mod_exits.M: SystemExit: 3; correct mod_exits",
        ),
        (
            "mod_good",
            "mod_good.func",
            "mod_good.func is not a subclass of Callback; name one, as listed by --help",
        ),
        (
            "",
            "lit_hier.callbacks.curves.CurveAnalysis",
            "lit_hier.callbacks.curves.CurveAnalysis is not an allowed class; name one that is"
            " listed by --help",
        ),
        ("", "lit_hier.nosuch.X", "lit_hier has no nosuch; name a class listed by --help"),
        (
            "",
            "callbacks.Mine",
            "callbacks.Mine is not an allowed class; if you trust it, set LIT_HIER_TRUST=callbacks"
            " in the environment",
        ),
        (
            "callbacks",
            "callbacks.Mien",
            "callbacks has no class Mien (did you mean Mine?); write the name of a class that it"
            " has",
        ),
    ],
)
def test_a_trusted_class_that_cannot_be_used_says_why(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    trusted: str,
    name: str,
    message: str,
) -> None:
    for module, text in MODULES.items():
        (tmp_path / f"{module}.py").write_text(text)
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LIT_HIER_TRUST", trusted)
    line = rejection(tmp_path, capsys, f"--trainer.callbacks+={name}")
    assert line == f"trainer.callbacks: {message}"


def test_a_package_cannot_replace_a_class_or_end_a_command(
    package: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An own name stands for the own class; a declared class is imported only when it is named."""
    with pytest.raises(SystemExit) as end:
        with_callback(tmp_path, "Reconstruction")
    assert not end.value.code
    assert "lit_hier.Reconstruction" in capsys.readouterr().out
    assert {"lattice_exit", "lattice_own"}.isdisjoint(sys.modules)
    line = rejection(tmp_path, capsys, "--trainer.callbacks+=lattice_own.Reconstruction")
    assert "lattice-tools declares Reconstruction, but lit_hier has a class of this name;" in line
    line = rejection(tmp_path, capsys, "--trainer.callbacks+=Heat")
    assert re.search("(lattice|other)-tools and (lattice|other)-tools both declare Heat; un", line)
    line = rejection(tmp_path, capsys, "--trainer.callbacks+=Exit")
    assert "lattice_exit:Exit, which cannot be imported: SystemExit: 7; reinstall" in line


def test_trust_ends_with_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trusted_once.py").write_text(MODULES["mod_good"])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LIT_HIER_TRUST", "trusted_once,torch.nn,torchvision.datasets.utils")
    with pytest.raises(SystemExit) as end:
        with_callback(tmp_path, "trusted_once.Mag")
    assert not end.value.code
    capsys.readouterr()
    monkeypatch.delenv("LIT_HIER_TRUST")
    line = rejection(tmp_path, capsys, "--trainer.callbacks+=trusted_once.Mag")
    assert "trusted_once.Mag is not an allowed class" in line
    line = rejection(tmp_path, capsys, "--trainer.callbacks+=torchvision.datasets.utils.Any")
    assert "is not an allowed data set" in line
    line = rejection(tmp_path, capsys, "--trainer.callbacks+=torch.nn.Linear")
    assert line.startswith("trainer.callbacks: torch.nn.Linear is not a subclass of Callback;")


@pytest.mark.parametrize("name", ["jsonargparse", "jsonargparse.typing"])
def test_the_parser_cannot_be_trusted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("LIT_HIER_TRUST", name)
    line = rejection(tmp_path, capsys)
    assert line.startswith(f"LIT_HIER_TRUST has '{name}', which can never be trusted; give your")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: !!int x", "column 7: !!int x is not a value of its type (invalid literal"),
        ("seed: !!int ''", "column 7: !!int '' is not a value of its type; correct it"),
        ("seed: !!float x", "column 7: !!float x is not a value of its type (could not"),
        ("seed: !!bool x", "column 7: !!bool x is not a value of its type; correct it"),
        ("a: !!timestamp bad", "column 4: !!timestamp bad is not a value of its type; correct"),
        ("a: '!!timestamp bad'", "!!timestamp bad is not a value of its type; correct it"),
        ("seed: " + "1" * 5000, "11 ... is not a value of its type (Exceeds the limit"),
        ("", "config: the file is empty; give a mapping such as that of `lit-hier configs demo`"),
        (
            "[1, 2]",
            "config: it contains [1, 2]; give a mapping such as that of `lit-hier configs demo`",
        ),
        ("trainer: {max_epoch: 1}", "trainer.max_epoch: no such option (did you mean trainer.max"),
    ],
)
def test_an_unusable_config_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert message in rejection(tmp_path, capsys, "-c", "config.yaml")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "--model.init_args.seed=!!timestamp x",
            "model.init_args.seed: line 1, column 1: !!timestamp x is not a value of its type;"
            " correct it",
        ),
        (
            "--trainer.callbacks=[{class_path: Reconstruction, init_args: {against: nois}}]",
            "against: give time or effective_noise or information, but it is nois",
        ),
        (
            "--model.init_args.messagess=1",
            "model.init_args.messagess: BPDenoiser has no argument messagess (did you mean"
            " messages?); it has rhm, process, times, seed, messages,"
            " class_prior",
        ),
    ],
)
def test_an_unusable_argument_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argument: str, message: str
) -> None:
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
