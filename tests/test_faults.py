"""Disturbed runs, a few of each kind (`make soak` has many); folders and atomic writes."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from conftest import ROOT, rejection, run_in

from lit_hier.cli import process
from lit_hier.cli.checkpoint_io import AtomicCheckpointIO
from lit_hier.io import atomic
from lit_hier.io.atomic import atomic_write

FIT = (
    *("fit", "-c", str(ROOT / "configs/demo_classifier.yaml"), "--model.init_args.width=8"),
    *("--data.init_args.num_train=256", "--data.init_args.num_val=32"),
    *("--data.init_args.num_test=32", "--data.init_args.rhm.init_args.num_layers=3"),
    *("--data.init_args.batch_size=32", "--trainer.enable_progress_bar=false"),
)
MIDDLE = ("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=5",
          "--trainer.callbacks.save_top_k=-1", "--trainer.callbacks.dirpath=steps",
          "--trainer.callbacks.filename={step}")  # fmt: skip


@pytest.mark.slow
def test_disturbed_runs_lose_nothing_and_keep_every_bit() -> None:
    """A short soak: signals, files that cannot grow and, for images, two runs at once."""
    runs = ["images", "training"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "tests/soak.py"), "--trials", "1",
         "--seed", "3", "--only", *runs],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^\| ([a-z][^|]*) \| (\d+) \|", done.stdout, re.MULTILINE)
    assert {(f"signal, {run}", "1") for run in runs} <= set(rows)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train for two epochs of eight steps, with a checkpoint after every fifth."""
    folder = tmp_path_factory.mktemp("trained")
    run_in(folder, *FIT, *MIDDLE, "--trainer.max_epochs=2")
    assert {path.name for path in (folder / "steps").iterdir()} == {
        *(f"step={step}.ckpt" for step in (5, 10, 15)),
    }
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    kept = torch.load(folder / "logs/demo_classifier/weights/classifier.ckpt", weights_only=True)
    moments = kept["optimizer_states"][0]["state"]
    return kept["state_dict"] | {
        f"{number} {name}": x for number, state in moments.items() for name, x in state.items()
    }


@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # training resumes in it
@pytest.mark.parametrize("step", [5, 10])
def test_training_resumes_within_an_epoch(trained: Path, step: int) -> None:
    wanted = weights(trained)
    last = f"--ckpt_path=steps/step={step}.ckpt"
    run_in(trained, *FIT, *MIDDLE, "--trainer.max_epochs=2", last)
    found = weights(trained)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # training resumes in it
def test_training_resumes_from_an_older_checkpoint(trained: Path, tmp_path: Path) -> None:
    """Written before there were formats, and when classes had other paths."""
    checkpoint = torch.load(trained / "steps/step=10.ckpt", weights_only=True)
    assert checkpoint.pop("lit_hier")["format"] == 2
    config = checkpoint["lit_hier_run"]
    assert config["data.class_path"] == "lit_hier.RHMDataModule"
    config["data.class_path"] = "lit_hier.data.RHMDataModule"
    torch.save(checkpoint, tmp_path / "older.ckpt")
    wanted = weights(trained)
    last = f"--ckpt_path={tmp_path / 'older.ckpt'}"
    run_in(trained, *FIT, *MIDDLE, "--trainer.max_epochs=2", last)
    found = weights(trained)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "--model.init_args.optimizer.init_args.lr=0.1",
            "lr=0.001, this one 0.1; use the same value",
        ),
        ("--data.init_args.batch_size=64", "data.init_args.batch_size=32, this one 64"),
        ("--trainer.precision=bf16-mixed", "trainer.precision=None, this one bf16-mixed"),
    ],
)
def test_training_does_not_resume_with_another_config(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], argument: str, message: str
) -> None:
    last = f"--ckpt_path={trained / 'steps/step=10.ckpt'}"
    line = rejection(tmp_path, capsys, *FIT, *MIDDLE, argument, last)
    assert line.startswith("ckpt_path: that run has ")
    assert message in line
    assert not [*tmp_path.rglob("*.ckpt"), *tmp_path.rglob("weights")]


def test_a_version_that_is_named_is_used_once(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = trained / "logs/demo_classifier/version_0/config.yaml"
    before = config.read_bytes()
    line = rejection(trained, capsys, *FIT, "--trainer.logger.init_args.version=0")
    assert "version_0 already holds a run" in line
    assert config.read_bytes() == before


def test_a_folder_that_cannot_be_created(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").write_text("a file")
    line = rejection(tmp_path, capsys, *FIT)
    assert line == f"{tmp_path}/logs/demo_classifier: Not a directory"


def test_an_interrupt_within_a_finalizer_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Finalized:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "unraisablehook", process._repeat_lost_interrupt)

    def work() -> None:
        Finalized()
        time.sleep(30)

    # A shell starts background processes with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.signal(signal.SIGINT, before)


def test_concurrent_writes_leave_one_complete_file(tmp_path: Path) -> None:
    """Of many threads that write at once, one determines the whole content."""
    target, won = tmp_path / "manifest", []

    def write(number: int) -> None:
        with atomic_write(target) as file:
            file.write(bytes([number]) * 100_000)
        won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = target.read_bytes()
    assert len(won) == 8
    assert content == content[:1] * 100_000
    assert [path.name for path in tmp_path.iterdir()] == ["manifest"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_file_that_cannot_be_written_keeps_its_content(tmp_path: Path, number: int) -> None:
    target = tmp_path / "table.csv"
    target.write_text("old")
    failing = patch.object(atomic.os, "fsync", side_effect=OSError(number, "no"))
    with (
        failing,
        pytest.raises(OSError, match=r"table\.csv") as raised,
        atomic_write(target) as file,
    ):
        file.write(b"new")
    assert (raised.value.errno, raised.value.filename) == (number, str(target))
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_a_checkpoint_that_does_not_fit_keeps_the_previous_one(tmp_path: Path) -> None:
    """Where a file cannot grow, torch itself would raise an error without the reason."""
    resource = pytest.importorskip("resource")
    target, keep = tmp_path / "last.ckpt", AtomicCheckpointIO()
    keep.save_checkpoint({"weights": torch.ones(3)}, target)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            keep.save_checkpoint({"weights": torch.ones(300_000)}, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.filename == str(target)
    assert torch.load(target, weights_only=True)["weights"].tolist() == [1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
