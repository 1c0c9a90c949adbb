"""How files are changed, and how the program is called with them."""

import contextlib
import json
import logging
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fuzz_hostile import (
    address,
    class_path,
    deep,
    foreign,
    huge,
    laughs,
    link,
    odd_type,
    path_outside,
    path_with_protocol,
    special,
    special_path,
)
from fuzz_mutations import mutate_bytes, mutate_tree, paths, value_at
from fuzz_sandbox import Rejected, Trial

from lit_hier.cli.errors import describe_input_error
from lit_hier.cli.exits import shorten

Use = Callable[[Trial], None]
# Changes of any file, and of any value in a file.
FILE = ("links", "special files", "formats", "bytes")
NAME = ("paths", "protocols", "addresses")
VALUE = ("types", "sizes", "nesting", "keys", "class paths", *NAME)


@contextlib.contextmanager
def as_reported() -> Iterator[None]:
    """Convert errors that the command line reports to the line that it prints."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (MemoryError, RecursionError):
        raise  # a reader should have checked the size first
    except Exception as error:
        if (message := describe_input_error(error)) is None:
            raise
        raise Rejected(shorten(message)) from error


@contextlib.contextmanager
def used(trial: Trial) -> Iterator[None]:
    """Surround what the program does with an input, where it is called without a command."""
    with trial.program(), as_reported():
        yield


class Log(logging.Handler):
    """Keeps the log of images that cannot be read."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def logged() -> Iterator[Log]:
    """Keep the log of lit-hier, and propagate nothing."""
    log, logger = Log(), logging.getLogger("lit_hier")
    logger.addHandler(log)
    logger.propagate = False
    try:
        yield log
    finally:
        logger.removeHandler(log)
        logger.propagate = True


def change_file(trial: Trial, path: Path) -> str:
    """Change a file, or a folder, or the name that it is given by.

    Returns:
        The path that names it, relative to the working directory.
    """
    rng, name = trial.rng, str(path.relative_to(trial.folder))
    if trial.change in NAME:
        return str(change_name(trial, path.suffix))
    if trial.change == "links":
        link(rng, path, trial)
    elif trial.change == "special files":
        if rng.random() < 0.3:
            return special_path(rng, trial)
        special(rng, path)
    elif trial.change == "formats" and path.is_file():
        foreign(rng, path)
    elif trial.change == "bytes" and path.is_file():
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
    return name


def change_name(trial: Trial, suffix: str = "") -> str:
    """Return a hostile path, protocol or address, as the change of a trial says."""
    rng = trial.rng
    if trial.change == "addresses":
        found = address(rng)
    elif trial.change == "protocols":
        found = path_with_protocol(rng, trial)
    else:
        found = path_outside(rng, trial)
    if suffix and rng.random() < 0.5 and not found.endswith(suffix):
        found += suffix
    return found


def change_value(trial: Trial) -> Any:
    """Return a hostile value, as the change of a trial says."""
    rng = trial.rng
    return {
        "types": lambda: odd_type(rng),
        "sizes": lambda: huge(rng),
        "nesting": lambda: rng.choice((deep(rng), deep(rng), laughs(rng.choice((2, 4))))),
        "class paths": lambda: class_path(rng),
    }.get(trial.change, lambda: change_name(trial))()


def change_tree(trial: Trial, tree: Any, below: tuple[Any, ...] = ()) -> Any:
    """Return a copy of plain values with one hostile change at a random place.

    Args:
        trial: Says which change.
        tree: Dicts and lists.
        below: The path to the part where the place is.
    """
    rng = trial.rng
    tree = mutate_tree(rng, tree, 0)
    places = [path for path in paths(value_at(tree, below)) if path]
    place = (*below, *rng.choice(places)) if places else below
    if not place:
        return change_value(trial)
    parent, key = value_at(tree, place[:-1]), place[-1]
    if trial.change == "keys":
        if rng.random() < 0.5 or not isinstance(parent, dict):
            del parent[key]
        else:
            odd = (f"{key}s", str(key)[:-1], "__class__", "class_path", "", "\0", "x" * 5000, "..")
            parent[rng.choice(odd)] = parent.pop(key) if rng.random() < 0.5 else parent[key]
    else:
        parent[key] = change_value(trial)
    return tree


def change_json(trial: Trial, path: Path) -> None:
    """Change a value in a JSON file."""
    write_json(path, change_tree(trial, json.loads(path.read_text())))


def write_json(path: Path, tree: Any) -> None:
    """Write plain values, however odd."""
    path.write_text(json.dumps(tree, skipkeys=True))


def corrupt_bytes(rng: random.Random, path: Path) -> None:
    """Change some bytes of a file."""
    path.write_bytes(mutate_bytes(rng, path.read_bytes()))
