"""A config can name only the classes that the command line allows."""

import os
import sys
from pathlib import Path

import pytest
from conftest import ROOT, inside, rejection, run_command

FIT = f"{ROOT}/configs/digits_classifier.yaml"
PREDICT = f"{ROOT}/configs/digits.yaml"
TOUCH = "{class_path: os.system, init_args: {command: 'touch HARM'}}"


def run(folder: Path, *arguments: str) -> None:
    with inside(folder):
        run_command(*arguments)


def overlay(folder: Path, text: str) -> str:
    (folder / "overlay.yaml").write_text(text)
    return str(folder / "overlay.yaml")


@pytest.mark.parametrize(
    "text",
    [
        f"model: {TOUCH}",
        f"data: {TOUCH}",
        "model: os.system",
        f"model: {{class_path: ImageClassifier, init_args: {{optimizer: {TOUCH}}}}}",
        "model: {class_path: ImageClassifier, init_args: {optimizer: os.system}}",
        "model: {class_path: ImageClassifier, init_args: {optimizer: torch.hub.load}}",
        "model: {class_path: ImageClassifier, init_args: {optimizer: builtins.eval}}",
        "model: {class_path: ImageClassifier, init_args: {optimizer: harm.Harm}}",
        f"trainer: {{callbacks: [{TOUCH}]}}",
        f"trainer: {{callbacks: {TOUCH}}}",
        f"trainer: {{logger: {TOUCH}}}",
        f"trainer: {{logger: [{TOUCH}]}}",
        f"trainer: {{strategy: {TOUCH}}}",
        f"trainer: {{accelerator: {TOUCH}}}",
        f"trainer: {{plugins: [{TOUCH}]}}",
        f"trainer: {{profiler: {TOUCH}}}",
        "trainer: {callbacks: [{class_path: harm.Harm}]}",
        "trainer: {callbacks: [{class_path: LambdaCallback, init_args:"
        " {on_fit_start: os.system}}]}",
        "trainer: {callbacks: [{class_path: ActivationSimilarity, init_args:"
        " {network: {class_path: harm.Harm}}}]}",
        "data: {class_path: ImageDataModule, init_args: {held_out: {class_path: ImageFiles,"
        f" init_args: {{root: .}}}}, train: {TOUCH}}}}}",
        "model: !!python/object/apply:os.system ['touch HARM']",
        "seed_everything: !!python/object/apply:os.system ['touch HARM']",
        "model: &a [*a]",
        # A name in the module that imports it; a method; a function.
        "model: {class_path: ImageClassifier, init_args: {optimizer: lit_hier.cli.sys.exit}}",
        "model: lit_hier.modules.ImageClassifier.load_from_checkpoint",
        "trainer: {callbacks: [{class_path: ClassKept, init_args:"
        " {network: diffusers.UNet2DModel.from_pretrained}}]}",
        *(
            "trainer: {callbacks: [{class_path: LambdaCallback, init_args:"
            f" {{on_fit_start: {name}}}}}]}}"
            for name in (
                "lit_hier.cli.main",
                "lightning_fabric.utilities.cloud_io._load",
                "pytorch_lightning.core.saving._load_from_checkpoint",
                "diffusers.utils.dynamic_modules_utils.get_class_from_dynamic_module",
                "torchvision.datasets.utils.download_and_extract_archive",
            )
        ),
        # Callables that are arguments of a library's class: a data set's loader and transforms.
        *(
            "data: {class_path: ImageDataModule, init_args: {held_out:"
            " {class_path: torchvision.datasets.DatasetFolder,"
            f" init_args: {{root: ., extensions: [.py], {argument}: {name}}}}}}}}}"
            for argument in ("loader", "transform", "target_transform", "is_valid_file")
            for name in ("os.system", "pickle.load", "torch.load", TOUCH)
        ),
        # Arguments that the signature does not list.
        f"data: {{class_path: DigitsDataModule, dict_kwargs: {{size: {TOUCH}}}}}",
        "trainer: {logger: {class_path: TensorBoardLogger, init_args:"
        f" {{save_dir: {TOUCH}}}}}}}",
        # Keys that a parser might interpret itself.
        f"optimizer: {TOUCH}",
        "default_config_files: [harm.py]",
        "parser_mode: jsonnet",
        "config: harm.py",
        "config: http://127.0.0.1:9/harm.yaml",
        "model: harm.py",
        "seed_everything: !!python/name:os.system",
        "seed_everything: !!python/module:harm",
        # Small texts that would exhaust the memory, or the stack, once they are built.
        "seed_everything: " + "[" * 50_000,
        "\n".join(
            f"x{k}: &x{k} [{f'*x{k - 1}, ' * 9}]" if k else "x0: &x0 [1]" for k in range(12)
        ),
    ],
)
def test_code_that_is_not_allowed_is_rejected_in_one_line(
    tmp_path: Path,
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "harm.py").write_text(
        "from pathlib import Path\nPath('HARM').touch()\n"
        "import torch\nclass Harm(torch.nn.Module):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, "fit", "-c", FIT, "-c", overlay(tmp_path, text))
    assert stopped.value.code == 2
    assert not (tmp_path / "HARM").exists()
    errors = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(errors) == 1
    assert errors[0].startswith("lit-hier: error: ")
    assert "harm" not in sys.modules


@pytest.mark.parametrize(
    "argument",
    [
        "--model=os.system",
        "--model.init_args.optimizer=os.system",
        "--model.init_args.optimizer.class_path=subprocess.Popen",
        "--trainer.callbacks+=os.system",
        "--trainer.logger=os.system",
        "--data.class_path=posix.system",
        "--config=harm.py",
        "--config=http://127.0.0.1:9/harm.yaml",
        "--config=memory://harm.yaml",
        "--config=s3://harm/harm.yaml",
        "--config=-",
        "--model=!!python/object/apply:os.system ['touch HARM']",
    ],
)
def test_arguments_can_name_no_more_than_a_config(
    tmp_path: Path, argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "harm.py").write_text("import os")
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, "fit", "-c", FIT, argument)
    assert stopped.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(errors) == 1
    assert errors[0].startswith("lit-hier: error: ")


def test_the_error_names_a_remedy_that_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    given = "trainer: {callbacks: [{class_path: ClassKept, init_args: {network: mine.Net}}]}"
    arguments = ("predict", "-c", PREDICT, "-c", overlay(tmp_path, given), "--print_config")
    with pytest.raises(SystemExit):
        run(tmp_path, *arguments)
    message = capsys.readouterr().err
    assert "mine.Net is not an allowed class; if you trust it, set" in message
    assert "LIT_HIER_TRUST=mine in the environment" in message
    monkeypatch.setenv("LIT_HIER_TRUST", "other,mine")
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, *arguments)
    assert not stopped.value.code
    assert "mine.Net" in capsys.readouterr().out


def test_the_environment_cannot_name_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Environment variables are not arguments of this command: they are ignored."""
    for name in ("PL_FIT__MODEL", "PL_CONFIG", "LIT_HIER_FIT__MODEL", "PL_FIT__CONFIG"):
        monkeypatch.setenv(name, "os.system")
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, "fit", "-c", FIT, "--print_config")
    assert not stopped.value.code
    assert "os.system" not in capsys.readouterr().out


@pytest.mark.parametrize("given", ["-c=pipe", "-c=-", "-c=/dev/zero", "-c=in.yaml", "--data=pipe"])
def test_pipes_devices_and_standard_input_are_not_read_as_configs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "in.yaml").write_text("data: '-'")
    line = rejection(tmp_path, capsys, "predict", given)
    name = "data" if "data" in given else "config"
    assert line.startswith(f"{name}: ")
    assert line.endswith(" is not a regular file; give a file")
