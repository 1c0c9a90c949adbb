"""`lit-hier runs`: what lies in a folder of runs, and the removal of one."""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from lit_hier.errors import InputError, one_line
from lit_hier.io.formats import CONFIG_FILE, RUN_FILE, check_run
from lit_hier.io.safe_read import read_file, read_json

_MAX_DEPTH: Final = 6  # of folders, below the one that is listed
_MAX_RUN_FILE: Final = 2**20  # bytes
_MAX_COMMAND: Final = 60  # characters
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")


class _Entry(NamedTuple):
    """A run in a folder.

    Attributes:
        path: The run's folder.
        size: Bytes of all files in it.
        facts: What `run.json` says; empty if there is none, or it is damaged.
    """

    path: Path
    size: int
    facts: dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lit-hier runs`."""
    parser.add_argument("folder", nargs="?", default="logs", help="the folder; by default logs")
    parser.add_argument(
        "--remove",
        metavar="RUN",
        help="remove this run's folder, such as logs/demo/version_0, and list nothing",
    )


def execute(arguments: argparse.Namespace) -> None:
    """List the runs, or remove one.

    Raises:
        InputError: There is no such folder, or what is to be removed is not a run in it.
    """
    folder = Path(arguments.folder)
    try:
        is_folder = folder.is_dir()
    except (OSError, ValueError):  # a path with a null byte
        is_folder = False
    if not is_folder:
        raise InputError(
            f"folder: there is no folder {one_line(folder):.100}; runs write to logs in the folder"
            " in which they start"
        )
    if arguments.remove is not None:
        _remove(folder, arguments.remove)
        return
    entries = [_describe(path) for path in _find_runs(folder, 0)]
    if not entries:
        sys.stdout.write(f"{one_line(folder)}: no runs\n")
        return
    rows: list[tuple[str, ...]] = [("run", "size", "started", "status", "time", "command")]
    rows += [_row(entry) for entry in entries]
    widths = [max(len(row[k]) for row in rows) for k in range(5)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        sys.stdout.write(f"{'  '.join(cells)}  {row[-1]}".rstrip() + "\n")
    total = sum(entry.size for entry in entries)
    sys.stdout.write(f"{len(entries)} runs, {describe_size(total)}\n")


def _find_runs(folder: Path, depth: int) -> Iterator[Path]:
    """Find the folders of runs, in order; links are not followed."""
    try:
        with os.scandir(folder) as scanned:
            entries = sorted(scanned, key=lambda entry: (len(entry.name), entry.name))
    except OSError:  # not readable, or gone by now
        return
    names = {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
    if names & {CONFIG_FILE, RUN_FILE}:
        yield folder
    if depth < _MAX_DEPTH:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                yield from _find_runs(Path(entry.path), depth + 1)


def _describe(path: Path) -> _Entry:
    size = 0
    for root, _, names in os.walk(path):
        for name in names:
            try:
                size += os.lstat(os.path.join(root, name)).st_size
            except OSError:  # gone by now
                continue
    try:
        facts = read_json(read_file(path / RUN_FILE, _MAX_RUN_FILE, follow=False), dict)
    except (OSError, ValueError):
        facts = {}
    return _Entry(path, size, facts)


def _row(entry: _Entry) -> tuple[str, ...]:
    facts = entry.facts
    command = facts.get("command")
    text = " ".join(map(str, command)) if isinstance(command, list) else ""
    duration = facts.get("duration")
    seconds = f"{duration:.0f} s" if isinstance(duration, float | int) else "-"
    try:
        started = datetime.fromisoformat(str(facts.get("started"))).astimezone()
        date = started.strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError):
        date = "-"
    status = one_line(facts.get("status", "-"))[:12]
    name = one_line(entry.path)
    size = describe_size(entry.size)
    return name, size, date, status, seconds, one_line(text)[:_MAX_COMMAND]


def describe_size(size: float) -> str:
    """Return a number of bytes in a unit of three digits, as in 1.23 MB."""
    for unit in _UNITS:
        if size < 1000 or unit == _UNITS[-1]:
            break
        size /= 1000
    return f"{size:.3g} {unit}"


def _remove(folder: Path, run: str) -> None:
    """Remove the folder of one run in a folder.

    Raises:
        InputError: It is not inside the folder, is reached through a link, is not a run that this
            program wrote, or holds other runs.
    """
    shown = one_line(run)[:100]
    try:
        inside = Path(run).absolute().relative_to(folder.absolute())
        parts = [folder / Path(*inside.parts[:k]) for k in range(1, len(inside.parts) + 1)]
        linked = ".." in inside.parts or any(part.is_symlink() for part in parts)
        is_folder = bool(parts) and parts[-1].is_dir()
    except ValueError as error:  # elsewhere, or with a null byte
        raise InputError(
            f"--remove: {shown} is not in {one_line(folder):.60}; give the path of a run in it,"
            " and the folder first if it is not logs"
        ) from error
    if linked or not is_folder:
        reason = "is reached through a link, which is not followed" if linked else "does not exist"
        raise InputError(f"--remove: {shown} {reason}; give the folder of a run")
    path = parts[-1]
    try:
        read_json(read_file(path / RUN_FILE, _MAX_RUN_FILE, follow=False), {"lit_hier": str})
        check_run(path, "--remove")
    except (OSError, ValueError) as error:
        raise InputError(
            f"--remove: {shown} has no {RUN_FILE} of lit-hier, so it may be something else; give"
            " the folder of one version, or remove it yourself"
        ) from error
    others = [other for other in _find_runs(path, 0) if other != path]
    if others:
        raise InputError(
            f"--remove: {shown} holds other runs, such as {one_line(others[0]):.100}; remove these"
            " first"
        )
    size = _describe(path).size
    try:
        shutil.rmtree(path)  # does not follow links
    except OSError as error:
        raise InputError(
            f"--remove: cannot remove {one_line(error.filename):.100}: {error.strerror}"
        ) from error
    sys.stdout.write(f"removed  {one_line(path)} ({describe_size(size)})\n")
