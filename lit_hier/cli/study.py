"""`lit-hier study`: an experiment for each combination of values, and averages over them.

Each combination has a folder of its own, in which its commands run one after another, each in a
process of its own, so that relative paths of configs lie inside it. What is complete is recorded
there, and skipped when the study runs again.
"""

import argparse
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from lit_hier import __version__
from lit_hier.cli.study_file import Combination, Command, Study, read_study
from lit_hier.errors import InputError
from lit_hier.io.atomic import atomic_write, lock_folder
from lit_hier.io.figures import write_figure
from lit_hier.io.formats import RUN_FILE
from lit_hier.io.safe_read import read_file, read_json
from lit_hier.io.tables import write_table

_LOGS: Final = "logs"
_MARKER: Final = "study.json"  # in a combination's folder: its runs that are complete
_FORMAT: Final = 1
_MAX_MARKER: Final = 2**20  # bytes
_MAX_TAIL: Final = 2**16  # bytes at the end of a log in which the error is looked for
_ERROR: Final = "lit-hier: error: "
_GRACE: Final = 25.0  # seconds that a run has to end by itself, which is less

Start = Callable[[Sequence[str], Path, Path], int]
"""Runs a command's arguments in a folder, with a file for its output; returns its status."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("-c", "--config", required=True, help="The file of the study.")
    parser.add_argument(
        "--only",
        metavar="LABEL",
        help="Run this combination only, such as r0_n1, and average nothing: for several machines"
        " with a common disk.",
    )
    parser.add_argument(
        "--check-only",
        action="store_true",
        help="Check the study and its runs' arguments, list the runs, and run nothing.",
    )


def execute(arguments: argparse.Namespace) -> None:
    """Run the study.

    Raises:
        InputError: The file or an argument is invalid, or a run failed.
        KeyboardInterrupt: It was interrupted, after the current run has ended.
    """
    study = read_study(Path(arguments.config))
    folder = Path(_LOGS, study.name)
    records = [_Record(study, x, folder / x.label) for x in _choose(study, arguments.only)]
    pending = [(record, k) for record in records for k in record.incomplete]
    if pending or arguments.check_only:
        check(study)
    if arguments.check_only:
        for record in records:
            for k, command in enumerate(study.commands):
                state = "to run" if k in record.incomplete else "complete"
                _say(f"{record.label:<12} {command!s:<32} {state}")
        return
    with _interrupted_by_sigterm():
        run_all(records, run_child)
    if arguments.only is None:
        summarize(study, folder, [record.last_folder for record in records])


def _choose(study: Study, label: str | None) -> list[Combination]:
    chosen = [x for x in study.combinations if label in (None, x.label)]
    if not chosen:
        labels = ", ".join(x.label for x in study.combinations)
        raise InputError(f"only: {label!s:.60} is not a combination; give one of {labels}")
    return chosen


def check(study: Study) -> None:
    """Parse the arguments of every command, with each value of each axis, before anything runs.

    Raises:
        InputError: A command does not accept its arguments.
    """
    from lit_hier.cli import command, process

    for combination in study.covering():
        for step in study.commands:
            given = [*step.build(combination.arguments), "--print_config"]
            output, errors = io.StringIO(), io.StringIO()
            try:
                with process.preserved(), redirect_stdout(output), redirect_stderr(errors):
                    command.execute(given)
            except SystemExit as end:
                if end.code:
                    problem = _find_error(errors.getvalue()) or f"status {end.code}"
                    raise InputError(f"{combination.label}, {step}: {problem}") from end


class _Record:
    """What is complete of one combination.

    Attributes:
        label: The combination's.
        folder: Its folder.
        commands: Its runs.
    """

    def __init__(self, study: Study, combination: Combination, folder: Path) -> None:
        self.label = combination.label
        self.folder = folder
        self.commands = study.commands
        self._arguments = combination.arguments
        self._digests: list[str] = []
        for command in study.commands:  # each depends on those before it
            self._digests.append(_digest(command, combination, self._digests))
        self._entries = self._read()

    def _read(self) -> list[dict[str, Any]]:
        """Return the entries of the runs that are complete, up to the first one that is not."""
        schema = {"format": int, "runs": [{"digest": str, "folder": str, "seconds": float}]}
        try:
            content = read_json(read_file(self.folder / _MARKER, _MAX_MARKER), schema)
        except (OSError, ValueError):  # missing or damaged
            return []
        entries: list[dict[str, Any]] = []
        if content["format"] == _FORMAT:
            for digest, entry in zip(self._digests, content["runs"], strict=False):
                if entry["digest"] != digest or not Path(self.folder, entry["folder"]).is_dir():
                    break
                entries.append(entry)
        return entries

    @property
    def incomplete(self) -> range:
        """The indices of the commands that are not complete."""
        return range(len(self._entries), len(self.commands))

    @property
    def seconds(self) -> list[float]:
        """How long each complete run has taken."""
        return [float(entry["seconds"]) for entry in self._entries]

    @property
    def last_folder(self) -> Path:
        """The folder of the last run that is complete."""
        return Path(self.folder, self._entries[-1]["folder"])

    def run(self, k: int, start: Start) -> None:
        """Run command k, and record it."""
        command = self.commands[k]
        log = self.folder / f"{k}_{command.name}.log"
        before = self._list_runs()
        begun = time.monotonic()
        status = start(command.build(self._arguments), self.folder, log)
        if status:
            end = f"status {status}" if status > 0 else f"signal {-status}"
            problem = _find_error(_read_tail(log)) or f"it ended with {end}; see its output"
            raise InputError(f"{self.label}, {command} ({log}): {problem}")
        if not (new := sorted(self._list_runs() - before)):
            raise InputError(
                f"{self.label}, {command}: the run left no folder in {self.folder}; give"
                " trainer.logger.init_args.save_dir a relative path"
            )
        seconds = time.monotonic() - begun
        entry = {"digest": self._digests[k], "folder": new[-1], "seconds": seconds}
        self._entries = [*self._entries[:k], entry]
        content = {"format": _FORMAT, "runs": self._entries}
        with atomic_write(self.folder / _MARKER) as file:
            file.write(json.dumps(content, indent=1).encode() + b"\n")

    def _list_runs(self) -> set[str]:
        return {str(x.parent.relative_to(self.folder)) for x in self.folder.rglob(RUN_FILE)}


def _digest(command: Command, combination: Combination, before: Sequence[str]) -> str:
    """Identify a run: its arguments, its configs' contents, this version, the runs before it."""
    contents = [hashlib.sha256(read_file(path)).hexdigest() for path in command.configs]
    arguments = {**command.arguments, **combination.arguments}
    identity = [__version__, command.name, contents, arguments, list(before)]
    return hashlib.sha256(json.dumps(identity, default=str).encode()).hexdigest()


def run_all(records: Sequence[_Record], start: Start) -> None:
    """Run what is not complete, and print a line per run.

    Args:
        records: The combinations.
        start: Runs one command.

    Raises:
        InputError: A run failed, or another process runs the combination.
    """
    pending = [(record, k) for record in records for k in record.incomplete]
    num_runs = sum(len(record.commands) for record in records)
    if num_complete := num_runs - len(pending):
        _say(f"skipped: {num_complete} of {num_runs} runs, which are complete")
    for i, (record, k) in enumerate(pending):
        place = f"[{num_complete + i + 1}/{num_runs}]"
        sys.stdout.write(f"{place} {record.label} {record.commands[k]}: ")
        sys.stdout.flush()
        try:
            with _locked(record.folder):
                _share_theory(record.folder)
                record.run(k, start)
        except BaseException:
            _say("not complete")
            raise
        left = sum(_expect(records, later) for _, later in pending[i + 1 :])
        more = f", about {_describe(left)} left" if left else ""
        _say(f"{_describe(record.seconds[k])}{more}")


def _expect(records: Sequence[_Record], k: int) -> float:
    """Return the expected seconds of run k: as the others of its kind or, if none, as any."""
    known = [record.seconds for record in records]
    same = [seconds[k] for seconds in known if k < len(seconds)]
    return fmean(same or [x for seconds in known for x in seconds])


def _describe(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        lock = lock_folder(folder)
    except BlockingIOError as error:
        raise InputError(
            f"study: another process runs {folder}; wait for it, or end it"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _share_theory(folder: Path) -> None:
    """Let all combinations keep theory that takes long to compute in one folder."""
    shared, link = folder.parent / "theory", folder / _LOGS / "theory"
    with suppress(OSError):  # without links each has its own
        shared.mkdir(exist_ok=True)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(os.path.relpath(shared, link.parent), target_is_directory=True)


def run_child(arguments: Sequence[str], folder: Path, log: Path) -> int:
    """Run a command of lit-hier's in a process of its own, which ends with this one.

    Args:
        arguments: The command's arguments.
        folder: Its working directory.
        log: The file of its output.

    Returns:
        Its status; the negative number of a signal that ended it.
    """
    from lit_hier.cli.supervision import set_death_signal

    options: dict[str, Any] = {}
    if sys.platform == "linux":
        options["preexec_fn"] = partial(set_death_signal, signal.SIGTERM)
    with log.open("wb") as output:
        # With -P, Python imports nothing from the working directory. In a session of its own it
        # gets no second interrupt from the terminal.
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "lit_hier", *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
        try:
            return child.wait()
        finally:
            if child.poll() is None:
                _end(child)


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(_GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Interrupt this process on SIGTERM, once: the run that goes on then has time to end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _read_tail(log: Path) -> str:
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _MAX_TAIL))
        return file.read().decode(errors="replace")
    return ""


def _find_error(text: str) -> str:
    """Return the last error line of a command's output, without its beginning."""
    lines = [line for line in text.splitlines() if line.startswith(_ERROR)]
    return lines[-1].removeprefix(_ERROR) if lines else ""


def summarize(study: Study, folder: Path, runs: Sequence[Path]) -> None:
    """Average and compare the last runs of all combinations, and print what was written.

    Args:
        study: The study.
        folder: Where tables and figures are written.
        runs: The folder of each combination's last run.

    Raises:
        InputError: A run lacks a table, or tables do not fit together.
    """
    from lit_hier.figures import figure_style
    from lit_hier.figures.learning import is_learning, learning_figure
    from lit_hier.results import (
        average_tables,
        compare_correlations,
        compare_runs,
        is_drawn,
        read_run,
        table_figure,
    )

    opened = [read_run(run) for run in runs]
    choices = [combination.choices for combination in study.combinations]
    written: list[str] = []

    def add(name: str, table: Any, figure: Any) -> None:
        if table is not None:
            write_table(folder, name, table)
            written.append(f"table    {folder / name}.csv")
        if figure is not None:
            write_figure(folder, name, figure)
            written.append(f"figure   {folder / name}.png")

    with figure_style():
        if study.averages is not None:
            groups = [" ".join(x[axis] for axis in study.averages.independent) for x in choices]
            for name in study.averages.tables:
                table = average_tables([run.table(name) for run in opened], groups)
                add(name, table, table_figure(table) if is_drawn(table) else None)
                if is_learning(table):
                    add(f"{name}_learning", None, learning_figure(table))
        if study.comparison is not None:
            plan = study.comparison
            keys = [(x[plan.panels], x[plan.lines]) for x in choices]
            compared = dict(zip(keys, opened, strict=True))
            names = plan.panels, plan.lines
            table, figure = compare_runs(compared, plan.tables, plan.theory, names)
            add("compare", table, figure)
        if study.correlations:
            labels = [x[study.correlations] for x in choices]
            table, figure = compare_correlations(dict(zip(labels, opened, strict=True)))
            add("correlations", table, figure)
    for line in written:
        _say(line)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
