"""The process that a command runs in: the caller's for `main`, the command's own for `run`."""

import contextlib
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT, inside, run_in
from jsonargparse import ArgumentParser
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry

import lit_hier
from lit_hier.cli import command, main, process
from lit_hier.cli.run_folder import RunFolder

SMALL = ("predict", "-c", f"{ROOT}/configs/fig5.yaml", "-c", f"{ROOT}/configs/fast.yaml",
         "--data.init_args.rhm.init_args.num_layers=2", "--data.init_args.num_predict=4",
         "--model.init_args.times=[0.05,0.1]", "--trainer.enable_progress_bar=false",
         "--trainer.accelerator=cpu")  # fmt: skip


def snapshot() -> dict[str, Any]:
    """Return what a run could change in its process."""
    names = ["", "lit_hier", *logging.root.manager.loggerDict]
    return {
        "warnings": list(warnings.filters),
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "log filters": {name: list(logging.getLogger(name).filters) for name in names},
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "cudnn": (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark),
        "matmul": torch.backends.cuda.matmul.allow_tf32,
        "generator": torch.get_rng_state().tolist(),
        "strategies": dict(StrategyRegistry),
    }


@pytest.mark.parametrize("arguments", [SMALL, (*SMALL, "--model.init_args.times=[-1]")])
def test_main_leaves_the_callers_process_as_it_was(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    with inside(tmp_path):
        before = snapshot()
        with contextlib.suppress(SystemExit):  # of invalid arguments
            main(arguments)
        after = snapshot()
    known = before["log filters"].keys()
    after["log filters"] = {name: after["log filters"][name] for name in known}
    assert after == before


class Rejecting:
    """A host's class, which a host's own parser instantiates."""

    def __init__(self, size: int = 1) -> None:
        raise TypeError("host error")


def test_a_hosts_own_parser_instantiates_as_before() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(Rejecting, "rejecting")
    with pytest.raises(TypeError, match=r"^host error$"):
        parser.instantiate(parser.parse_args([]))


def test_what_the_entry_point_configures_can_be_undone() -> None:
    before = snapshot()
    with process.preserved():
        process.configure()
        during = snapshot()
    assert snapshot() == before
    changed = {name for name in before if during[name] != before[name]}
    assert {"warnings", "hooks", "log filters", "fill"} <= changed


@pytest.fixture
def console_script(tmp_path: Path) -> list[str]:
    """Write the console script that an installer would write; return how to call it."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["lit-hier"].partition(":")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin/lit-hier"
    script.write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    return [sys.executable, str(script)]


@pytest.mark.slow
def test_a_folder_with_packages_of_the_same_names_changes_nothing(
    tmp_path: Path, console_script: list[str]
) -> None:
    """This holds for the console script; `python -m` puts the working directory on the path."""
    foreign = tmp_path / "foreign"
    for name in ("callbacks/__init__.py", "data/__init__.py", "modules.py", "yaml.py"):
        (foreign / name).parent.mkdir(parents=True, exist_ok=True)
        (foreign / name).write_text("open('IMPORTED', 'w')\nraise ImportError('foreign')\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*console_script, *SMALL], cwd=foreign, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (foreign / "logs/fig5/version_0/reconstruction.csv").is_file()
    assert not (foreign / "IMPORTED").exists()


def test_a_run_states_its_format_and_repeats_from_its_own_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also if it was written before there were formats, but not in a format of the future."""
    folder = tmp_path / "logs/fig5/version_0"
    with inside(tmp_path):
        main(SMALL)
        assert json.loads((folder / "run.json").read_text())["format"] == 1
        repeated = ["predict", "-c", str(folder / "config.yaml")]
        (folder / "run.json").unlink()
        main(repeated)
        again = tmp_path / "logs/fig5/version_1/reconstruction.csv"
        assert (folder / "reconstruction.csv").read_bytes() == again.read_bytes()
        (folder / "run.json").write_text('{"format": 2}')
        with pytest.raises(SystemExit) as end:
            main(repeated)
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"lit-hier: error: config: {folder} has format 2, but this version of")
    assert "reads format 1; " in line


def test_runs_that_start_at_the_same_moment_get_different_folders(tmp_path: Path) -> None:
    loggers = [TensorBoardLogger(tmp_path, "run") for _ in range(3)]
    trainers = [Trainer(logger=logger, accelerator="cpu") for logger in loggers]
    folders = []
    for _ in trainers:
        dump = SimpleNamespace(dump=lambda config, skip_none: yaml.safe_dump({"seed": 0}))
        config = SimpleNamespace(trainer=SimpleNamespace(logger=None))
        folder = RunFolder(dump, config)
        folder.unnumbered = TensorBoardLogger(tmp_path, "run")
        folders.append(folder)
    assert {Path(logger.log_dir).name for logger in loggers} == {"version_0"}
    for trainer, folder in zip(trainers, folders, strict=True):
        assert folder._claim(trainer) == ""
    names = [Path(trainer.logger.log_dir).name for trainer in trainers]
    assert names == ["version_0", "version_1", "version_2"]
    assert all((tmp_path / "run" / name / "config.yaml").is_file() for name in names)


class Terminated(Callback):
    """Receives SIGTERM before its first batch, and counts the batches that follow."""

    batches = 0

    def on_predict_batch_start(self, *args: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    def on_predict_batch_end(self, *args: Any) -> None:
        self.batches += 1


def test_sigterm_interrupts_a_prediction() -> None:
    rhm = lit_hier.RandomHierarchyModel(4, 2, 2, 2)
    module = lit_hier.BPDenoiser(rhm, lit_hier.EpsilonNoise(), [0.5])
    data = lit_hier.RHMDataModule(rhm, 0, 0, 0, num_predict=4, eval_batch_size=2)
    terminated = Terminated()
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, callbacks=[process.SigtermInterrupts(), terminated],
    )  # fmt: skip
    with process.preserved(), pytest.raises(SystemExit):
        trainer.predict(module, data, return_predictions=False)
    assert terminated.batches == 0
    assert trainer.interrupted


def test_sigterm_interrupts_what_precedes_the_first_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Callbacks work there for minutes, as for the statistics of a reference set."""

    def work(*_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(lit_hier.callbacks.Reconstruction, "on_predict_start", work)
    with pytest.raises(SystemExit) as end:
        run_in(tmp_path, *SMALL)
    assert end.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err.splitlines()[-1].startswith("lit-hier: interrupted; run")
    assert not list(tmp_path.rglob("*.csv"))


def swallow() -> None:
    """Work on, whatever is raised."""
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(60)


def compute() -> None:
    """Call a library that does not return soon."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("work", [swallow, compute])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_busy_process_ends_after_the_grace_time(
    work: Callable[[], None], number: signal.Signals
) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writer, 2)
        sys.stderr = os.fdopen(2, "w")
        signal.signal(number, signal.default_int_handler)
        process._Watch.start(0.1)
        os.write(writer, b"ready")
        work()
    os.close(writer)
    assert os.read(reader, 5) == b"ready"
    time.sleep(0.05)
    os.kill(child, number)
    begun = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + number
    assert time.monotonic() - begun < 30
    with os.fdopen(reader) as file:
        assert file.read().startswith(f"lit-hier: ended 0 seconds after {number.name}, as the run")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_does_not_end_its_parent() -> None:
    """A data loader's process has handlers of its own, and is ended by SIGTERM."""
    with process.preserved():
        process._Watch.start(0.0)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        child = os.fork()
        if not child:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        os.waitpid(child, 0)
        time.sleep(0.2)


def test_processes_wait_for_each_other_beyond_the_limit() -> None:
    """Of `wait_limit`, which ends a run by itself."""
    before = dict(StrategyRegistry)
    names = [name for name in before if issubclass(before[name]["strategy"], DDPStrategy)]
    assert "ddp" in names
    timeout = command._get_timeout(720)
    assert timeout == timedelta(hours=721)
    assert command._get_timeout(1e300) == timedelta(hours=24 * 365 + 1)
    with command._long_timeouts(timeout):
        for name in names:
            assert StrategyRegistry[name]["init_params"]["timeout"] == timeout
        assert isinstance(StrategyRegistry.get("ddp"), DDPStrategy)
    assert dict(StrategyRegistry) == before


@pytest.mark.parametrize(
    ("given", "hours"), [("find_unused_parameters=true", 3), ("timeout=7:00:00", 7)]
)
def test_a_timeout_of_torch_that_is_given_stays(
    given: str, hours: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def stop(self: Any, **arguments: Any) -> Any:
        found.append(self.config.predict.trainer.strategy.init_args.timeout)
        raise SystemExit

    monkeypatch.setattr(command.LitHierCLI, "instantiate_trainer", stop)
    with inside(tmp_path), pytest.raises(SystemExit):
        main(
            [
                *SMALL,
                "--trainer.strategy=DDPStrategy",
                f"--trainer.strategy.{given}",
                "--wait_limit=2",
            ]
        )
    assert found == [timedelta(hours=hours)]


@pytest.mark.slow
def test_a_caller_may_have_set_tf32_by_its_newer_names() -> None:
    program = (
        "import torch; from lit_hier.cli import process;"
        "torch.backends.cudnn.conv.fp32_precision = 'ieee';"
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'\n"
        "with process.preserved(): torch.set_default_dtype(torch.float64)\n"
        "print(torch.backends.cuda.matmul.fp32_precision, torch.get_default_dtype())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "tf32 torch.float32", done.stderr
