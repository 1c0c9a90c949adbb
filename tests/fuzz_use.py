"""How files are corrupted, and how the program is called with them."""

import contextlib
import json
import logging
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from fuzz import Rejected
from fuzz_mutations import mutate_bytes, mutate_tree, replace_path

from lit_hier.cli.errors import describe_input_error, shorten

Use = Callable[[random.Random, Path], None]
Memory = (MemoryError, RecursionError)


@contextlib.contextmanager
def as_reported() -> Iterator[None]:
    """Convert errors that the command line reports to the line that it prints."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Memory:
        raise  # a reader should have checked the size first
    except Exception as error:
        if (message := describe_input_error(error)) is None or "not enough memory" in message:
            raise
        raise Rejected(shorten(message)) from error


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


def corrupt_file(rng: random.Random, path: Path) -> None:
    """Corrupt a file's bytes, or replace it by something else."""
    if rng.random() < 0.12 or not path.is_file():
        replace_path(rng, path)
    else:
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))


def corrupt_json(rng: random.Random, path: Path) -> None:
    """Corrupt the content of a JSON file."""
    path.write_text(json.dumps(mutate_tree(rng, json.loads(path.read_text())), skipkeys=True))
