"""On what a run ran: versions, commit, device, processes, duration, and its warnings."""

import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any, Final

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from lit_hier.cli import configs
from lit_hier.cli.process import UNHELPFUL_WARNINGS
from lit_hier.errors import InputError, one_line
from lit_hier.io.formats import RUN_FILE, write_run
from lit_hier.io.safe_read import read_file

_LIBRARIES: Final = (
    "torch",
    "pytorch-lightning",
    "torchmetrics",
    "torchvision",
    "diffusers",
    "timm",
    "numpy",
    "scipy",
    "pandas",
    "pillow",
    "jsonargparse",
)
_PACKAGE: Final = Path(__file__).parent.parent
_LOG: Final = logging.getLogger("lit_hier")
_GIT_LIMIT: Final = 10.0  # seconds
_MAX_WARNINGS: Final = 100
_MAX_LENGTH: Final = 500  # characters of a warning


class Provenance(Callback):
    """Writes what a run ran on, what it warned of and how it ended.

    Writes `run.json`, on rank zero, as the run starts and again as it ends: format, lit_hier (its
    version), status (`running`, `complete`, `interrupted` or `failed`; a run that was killed stays
    `running`), command (a list; empty for a run from Python), started (UTC), duration in seconds,
    commit and clean (of the checkout that this package was imported from; null for an installed
    one), versions of Python and the libraries that matter, platform, device, precision, processes,
    nodes, threads (of torch, per process), peak_memory and peak_device_memory (bytes, of the first
    process) and warnings. What is unknown is null.

    Args:
        args: The command's arguments.
    """

    def __init__(self, args: Sequence[str] = ()) -> None:
        self._args = list(args)
        self._folder: Path | None = None
        self._warnings: dict[str, None] = {}  # in order, each once
        self._start = time.monotonic()
        self._started = datetime.now(UTC)
        self._facts: dict[str, Any] = {}

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record the warnings that are shown or logged, and show them as before."""
        show = warnings.showwarning

        def record(message: Any, *arguments: Any, **options: Any) -> None:
            self._record(message)
            show(message, *arguments, **options)

        def note(entry: logging.LogRecord) -> bool:
            if entry.levelno >= logging.WARNING:
                self._record(entry.getMessage())
            return True

        # A handler of its own would keep the default one, which shows them, from being used.
        _LOG.addFilter(note)
        warnings.showwarning = record
        try:
            yield
        finally:
            _LOG.removeFilter(note)
            if warnings.showwarning is record:
                warnings.showwarning = show

    def _record(self, message: object) -> None:
        line = one_line(message)[:_MAX_LENGTH]
        if any(re.match(pattern, line) for pattern in UNHELPFUL_WARNINGS):
            return
        if len(self._warnings) < _MAX_WARNINGS:
            self._warnings.setdefault(line)

    def claim(self, folder: str | PathLike[str]) -> None:
        """Claim a folder for a run that has no config.

        Raises:
            InputError: It holds another run, or cannot be written.
        """
        path = Path(folder)
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise InputError(f"folder: {folder!s:.120} is not empty; give a new one")
            (path / RUN_FILE).touch(exist_ok=False)
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"folder: cannot write {folder!s:.120}: {reason}") from error
        self._folder = path

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what the run runs on."""
        self._begin(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it, unless this is within a training."""
        if trainer.state.fn != "fit":
            self._begin(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what the run runs on."""
        self._begin(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what the run runs on."""
        self._begin(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write how long it took."""
        self._end("complete")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write that the run did not finish."""
        with suppress(OSError, InputError):  # which must not hide the exception
            self._end("failed" if isinstance(exception, Exception) else "interrupted")

    def _begin(self, trainer: Trainer) -> None:
        folder = trainer.log_dir  # a collective operation
        if not trainer.is_global_zero or trainer.logger is None or folder is None:
            return
        self._folder = Path(folder)
        # The names of packaged configs were replaced by their paths.
        self._args = [
            configs.shorten(arg) if before in ("-c", "--config") else arg
            for before, arg in zip(("", *self._args), self._args, strict=False)
        ]
        device = trainer.strategy.root_device
        commit, clean = find_commit()
        self._facts = {
            "commit": commit,
            "clean": clean,
            "versions": _list_versions(),
            "platform": platform.platform(),
            "device": _describe(device),
            "precision": str(trainer.precision),
            "processes": trainer.world_size,
            "nodes": trainer.num_nodes,
            "threads": torch.get_num_threads(),
        }
        self._device = device
        self._write("running", {"duration": None, "peak_memory": None, "peak_device_memory": None})

    def _end(self, status: str) -> None:
        if not self._facts:
            return
        duration = round(time.monotonic() - self._start, 3)
        on_gpu = self._device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self._device) if on_gpu else None
        ends = {"duration": duration, "peak_memory": find_peak_memory()}
        self._write(status, {**ends, "peak_device_memory": peak})
        self._facts = {}

    def _write(self, status: str, ends: dict[str, Any]) -> None:
        assert self._folder is not None
        record = {
            "status": status,
            "command": ["lit-hier", *self._args] if self._args else [],
            "started": self._started.isoformat(timespec="seconds"),
            **ends,
            **self._facts,
            "warnings": list(self._warnings),
        }
        write_run(self._folder, record)


def find_peak_memory() -> int | None:
    """Return the most memory that this process has had, in bytes; None if it is unknown."""
    try:
        import resource
    except ImportError:  # on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@cache
def find_commit() -> tuple[str | None, bool | None]:
    """Return the commit of this package's checkout, and whether no file differs from it.

    Both are None if the package is not part of a checkout, or git is missing.
    """
    if not _git("ls-files", "lit_hier/__init__.py"):  # nor in one of something else
        return None, None
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=normal")
    return commit or None, None if changes is None else not changes


def _git(*args: str) -> str | None:
    program = shutil.which("git", path=os.defpath)  # not what PATH leads to
    if program is None:
        return None
    command = [program, "-c", "core.fsmonitor=false", "-C", str(_PACKAGE.parent), *args]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            command,
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=_GIT_LIMIT,
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _list_versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def _describe(device: torch.device) -> str:
    """Return the name of a device as its maker gives it."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA {torch.version.cuda})"
    if device.type != "cpu":
        return str(device)
    with suppress(OSError):
        text = read_file("/proc/cpuinfo", 2**24).decode(errors="replace")
        for line in text.splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
