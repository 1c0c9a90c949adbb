"""How files are harmed, and how the program is asked for them."""

import contextlib
import json
import logging
import os
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fuzz import Refused
from fuzz_mutations import mutate_bytes, mutate_place, mutate_tree

from lit_hier.cli.errors import explain, shown

Use = Callable[[random.Random, Path], None]
Memory = (MemoryError, RecursionError)


@contextlib.contextmanager
def as_the_command_says_it() -> Iterator[None]:
    """Turn what the command line would explain into what it would print."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Memory:
        raise  # a reader should not have begun
    except Exception as error:
        if (said := explain(error)) is None or "asks for more memory" in said:
            raise
        raise Refused(shown(said)) from error


class Log(logging.Handler):
    """Keeps what is logged: of images that cannot be read."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def logged() -> Iterator[Log]:
    """Keep what lit-hier logs, and nothing else."""
    log, logger = Log(), logging.getLogger("lit_hier")
    logger.addHandler(log)
    logger.propagate = False
    try:
        yield log
    finally:
        logger.removeHandler(log)
        logger.propagate = True


def harm_file(chance: random.Random, path: Path) -> None:
    """Harm a file's bytes, or put something else in its place."""
    if chance.random() < 0.12 or not path.is_file():
        mutate_place(chance, path)
    else:
        path.write_bytes(mutate_bytes(chance, path.read_bytes()))


def harm_json(chance: random.Random, path: Path) -> None:
    """Harm what a JSON file says."""
    path.write_text(json.dumps(mutate_tree(chance, json.loads(path.read_text())), skipkeys=True))


class Attack:
    """Unpickled carelessly, it makes a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("HARM",)


def unharmed(folder: Path) -> None:
    """Check that no `Attack` went off."""
    assert not (folder / "HARM").exists(), "code of a file has been run"
