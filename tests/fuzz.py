"""Feed malformed configs and files to the program: it must accept or clearly reject each one.

python tests/fuzz.py [--inputs 2000] [--seed 0] [--kind configs --kind images ...] [--only NUMBER]

Each input is used in this process. It is `accepted` if the program runs with it, and `rejected` if
one clear line reports what is wrong. Anything else is a defect: a `crash` is any other exception,
an input that takes too long or too much memory; an `unclear` line is too long, or contains
internals of the program.
"""

import argparse
import contextlib
import os
import random
import re
import resource
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

LIMIT: Final = 400  # characters of a clear line
SECONDS: Final = 30  # per input
MEMORY: Final = 6 * 2**30  # bytes per input
# Internals that only a reader of the source understands.
INTERNALS: Final = re.compile(
    r"<class '|<function|object at 0x|NoneType|has no attribute|object is not|Union subtypes"
    r"|Parser key|positional argument|Traceback|typing\.|collections\.abc|not supported between"
    r"|Namespace\(|NestedArg|unhashable"
)


class Rejected(Exception):
    """The program has rejected its input with a line that says why."""


class TooLong(BaseException):
    """An input took too long; a BaseException, so that `except Exception` does not catch it."""


@dataclass
class Outcome:
    """The outcome of an input: `accepted`, `rejected`, `crash` or `unclear`."""

    verdict: str
    message: str = ""


@dataclass
class Kind:
    """A kind of input.

    Attributes:
        prepare: Creates, in a folder, what all inputs are derived from; returns a function that
            creates one input and uses it, in its own folder.
        weight: Number of inputs of this kind per input of a kind of weight 1.
    """

    prepare: Callable[[Path], Callable[[random.Random, Path], None]]
    weight: float = 1.0


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise `TooLong` after some seconds."""

    def stop(*_: Any) -> None:
        raise TooLong(f"it takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Limit the memory, where the system reports how much is in use."""
    statm = Path("/proc/self/statm")
    before = resource.getrlimit(resource.RLIMIT_AS)
    if statm.exists():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def judge(message: str) -> Outcome:
    """Return the outcome of a rejection: `rejected` if its line is clear, else `unclear`."""
    if "\n" in message or not message.isprintable():
        return Outcome("unclear", f"not one printable line: {message!r}")
    if len(message) > LIMIT:
        return Outcome("unclear", f"too long: {message}")
    if INTERNALS.search(message):
        return Outcome("unclear", message)
    return Outcome("rejected", message)


def outcome(use: Callable[[], None]) -> Outcome:
    """Use an input and return its outcome."""
    try:
        with within(SECONDS), limited_memory():
            use()
    except Rejected as error:
        return judge(str(error))
    except (Exception, TooLong, SystemExit) as error:
        lines = traceback.format_exception(error)
        return Outcome("crash", "".join(lines[-1:]).strip() + "\n" + "".join(lines)[-1500:])
    return Outcome("accepted")


@dataclass
class Report:
    """The outcomes of the inputs of a kind."""

    counts: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)


def fuzz(
    name: str, kind: Kind, numbers: Iterator[int] | range, seed: int, root: Path,
    log: Callable[[str], None] = lambda text: None,
) -> Report:  # fmt: skip
    """Use inputs of one kind; the same numbers and seed reproduce the same inputs."""
    (root / name).mkdir()
    use = kind.prepare(root / name)
    report = Report()
    for number in numbers:
        rng = random.Random(f"{seed} {name} {number}")
        with tempfile.TemporaryDirectory(dir=root) as folder:
            found = outcome(lambda rng=rng, folder=folder: use(rng, Path(folder)))
        report.counts[found.verdict] += 1
        text = f"{name} {number}: {found.verdict}: {found.message}"
        if found.verdict in ("crash", "unclear"):
            report.defects.append(text)
        log(text)
    return report


def kinds() -> dict[str, Kind]:
    """Return every kind, by name."""
    from fuzz_configs import CONFIGS
    from fuzz_files import FILES

    return CONFIGS | FILES


def main() -> None:
    """Use inputs of every kind and print a table of outcomes."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["DIFFUSERS_VERBOSITY"] = "critical"
    every = kinds()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000, help="over all kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=every, help="a kind; may be repeated")
    parser.add_argument("--only", type=int, help="the number of one input")
    parser.add_argument(
        "--all", action="store_true", help="print each input, not the defects only"
    )
    given = parser.parse_args()
    chosen = {name: kind for name, kind in every.items() if name in (given.kind or every)}
    weights = sum(kind.weight for kind in chosen.values())
    table = [
        f"{'kind':<12} {'inputs':>7} {'accepted':>9} {'rejected':>8} {'crashes':>8} {'unclear':>8}"
    ]
    total: Counter[str] = Counter()

    def log(text: str) -> None:
        if given.all or ": crash: " in text[:60] or ": unclear: " in text[:60]:
            print(text[:3000], flush=True)

    for name, kind in chosen.items():
        number = max(1, round(given.inputs * kind.weight / weights))
        numbers = range(number) if given.only is None else range(given.only, given.only + 1)
        with tempfile.TemporaryDirectory() as root:
            counts = fuzz(name, kind, numbers, given.seed, Path(root), log).counts
        total += counts
        table.append(row(name, counts))
        print(table[-1], flush=True)
    print("\n".join([*table, row("all", total)]))
    sys.exit(bool(total["crash"] + total["unclear"]))


def row(name: str, counts: Counter[str]) -> str:
    """Return a row of the table."""
    numbers = [counts[verdict] for verdict in ("accepted", "rejected", "crash", "unclear")]
    widths = (9, 8, 8, 8)
    cells = " ".join(f"{number:>{width}}" for number, width in zip(numbers, widths, strict=True))
    return f"{name:<12} {sum(numbers):>7} {cells}"


if __name__ == "__main__":
    # The kinds raise exceptions of the module `fuzz`, not of the script `__main__`.
    from fuzz import main as run

    run()
