"""Feed hostile configs and files to the program: it must accept or clearly reject each one.

python tests/fuzz.py [--inputs 2000] [--seed 0] [--kind configs --kind images ...] [--only NUMBER]
                     [--write docs/promises.md]

Every input is valid but for one change: a path, a link, a protocol, a type, a size, a missing or
unexpected key, nesting, another format, code. Each is used in a process of its own, whose folders,
actions, time and memory are watched, see `fuzz_sandbox`. It is `accepted` if the program runs with
it, and `rejected` if one clear line reports what is wrong. `DEFECTS` lists what else may happen.

`--kind K --only N --seed S` uses one input again. `--write FILE` replaces what stands between the
markers in a file by the report.
"""

import argparse
import datetime
import os
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from fuzz_hostile import contents
from fuzz_sandbox import DEFECTS, Outcome, Trial, remove_sandbox, run_input

LIMIT: Final = 400  # characters of a clear line
# Internals that only a reader of the source understands.
INTERNALS: Final = re.compile(
    r"<class '|<function|object at 0x|NoneType|has no attribute|object is not|Union subtypes"
    r"|Parser key|positional argument|Traceback|typing\.|collections\.abc|not supported between"
    r"|Namespace\(|NestedArg|unhashable|is not iterable|is not subscriptable"
    r"|c10::|Error\(s\) in"
)
WEIGHTS: Final = {"configs": 3.0, "resumption": 2.0, "samples": 1.5, "pipelines": 1.5}
BEGIN: Final = "<!-- written by tests/fuzz.py -->"
END: Final = "<!-- end of what tests/fuzz.py writes -->"
COLUMNS: Final = ("accepted", "rejected", *DEFECTS)

Kind = Callable[[Path], Callable[[Trial], None]]


def judge(message: str) -> str:
    """Return what is unclear about the line of a rejection; empty if nothing is."""
    if "\n" in message or not message.isprintable():
        return "not one printable line"
    if len(message) > LIMIT:
        return "too long"
    return "internals" if INTERNALS.search(message) else ""


def kinds() -> dict[str, Kind]:
    """Return every kind, by name: it prepares a folder, and returns what uses one input."""
    from fuzz_configs import CONFIGS
    from fuzz_files import FILES

    return CONFIGS | FILES


def fuzz(
    name: str, kind: Kind, numbers: Iterable[int], seed: int, root: Path,
    log: Callable[[int, Outcome], None] = lambda number, outcome: None,
) -> list[tuple[int, Outcome]]:  # fmt: skip
    """Use inputs of one kind; the same numbers and seed give the same inputs.

    First, input -1 changes nothing: it must be accepted, and its time is that of an idle command.

    Raises:
        AssertionError: The unchanged input is not accepted.
    """
    folder = root / name.replace(" ", "_")
    (folder / "source").mkdir(parents=True)
    use = kind(folder / "source")
    contents()  # before the forks, as it takes a while

    def run(number: int, idle: float) -> Outcome:
        trial = Trial(random.Random(f"{seed} {name} {number}"), folder / "input", number >= 0)
        try:
            return run_input(use, trial, idle, judge)
        finally:
            remove_sandbox(trial.root)

    unchanged = run(-1, 50.0)
    assert unchanged.answer == "accepted", f"{name}: {unchanged}"
    assert not unchanged.defects, f"{name}: {unchanged.defects}"
    outcomes = []
    for number in numbers:
        outcome = run(number, unchanged.seconds)
        outcomes.append((number, outcome))
        log(number, outcome)
    return outcomes


def describe(name: str, seed: int, number: int, outcome: Outcome) -> str:
    """Describe the defects of an input, and how to see them again."""
    again = f"--kind '{name}' --only {number} --seed {seed}"
    texts = [f"{defect}: {detail}" for defect, detail in outcome.defects.items()]
    return f"{again} ({outcome.change}): " + "; ".join(texts)


def count(outcomes: Iterable[tuple[int, Outcome]]) -> Counter[str]:
    """Count answers and defects."""
    counts: Counter[str] = Counter()
    for _, outcome in outcomes:
        counts["inputs"] += 1
        counts.update(list(outcome.defects))
        if outcome.answer and not outcome.defects:
            counts[outcome.answer] += 1
    return counts


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(f'{x:,}' if isinstance(x, int) else str(x) for x in cells)} |"


def report(found: dict[str, list[tuple[int, Outcome]]], seed: int) -> str:
    """Return the report: outcomes by kind and change, and the attacks with their seeds."""
    total = count(pair for outcomes in found.values() for pair in outcomes)
    lines = [
        f"`python tests/fuzz.py --inputs {total['inputs']} --seed {seed}`"
        f" ({datetime.date.today()}, {os.cpu_count()} CPU cores). Each input is valid but for one"
        " change, and has a process and folders of its own.",
        "",
        *(f"- {name}: {text}" for name, text in DEFECTS.items()),
        "",
        _row(("input", "change", "inputs", *COLUMNS)),
        _row(["---"] * (len(COLUMNS) + 3)),
    ]
    for name, outcomes in found.items():
        for change in sorted({outcome.change for _, outcome in outcomes}):
            counts = count(pair for pair in outcomes if pair[1].change == change)
            lines.append(_row((name, change, counts["inputs"], *(counts[x] for x in COLUMNS))))
    lines += [_row(("all", "", total["inputs"], *(total[x] for x in COLUMNS))), ""]
    lines += ["The attacks, each with the numbers of its inputs for `--only`:", ""]
    for name, outcomes in found.items():
        numbers: dict[str, list[int]] = {}
        for number, outcome in outcomes:
            numbers.setdefault(outcome.change, []).append(number)
        parts = (f"{change} {_ranges(numbers[change])}" for change in sorted(numbers))
        lines.append(f"- `--kind '{name}' --seed {seed}`: " + "; ".join(parts))
    failed = [(name, pair) for name in found for pair in found[name] if pair[1].defects]
    if failed:
        lines += ["", "Defects:", ""]
    for name, (number, outcome) in failed:
        text = " ".join(describe(name, seed, number, outcome).split())
        lines.append(f"- `{text[:500].replace('`', ' ')}`")
    return "\n".join(lines) + "\n"


def _ranges(numbers: list[int]) -> str:
    """Write the first numbers of a list, and how many follow."""
    shown = ", ".join(map(str, numbers[:12]))
    return shown if len(numbers) <= 12 else f"{shown} and {len(numbers) - 12} more"


def write_report(path: Path, text: str) -> None:
    """Replace what stands between the markers of a file.

    Raises:
        ValueError: The file has no markers.
    """
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no lines {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n{text}{END}{after}")


def main() -> None:
    """Use inputs of every kind and report what became of them."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "DIFFUSERS_VERBOSITY": "critical"}
    every = kinds()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000, help="over all kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=every, help="a kind; may be repeated")
    parser.add_argument("--only", type=int, help="the number of one input")
    parser.add_argument("--all", action="store_true", help="print each input, not only defects")
    parser.add_argument("--write", type=Path, help="a file with markers, for the report")
    given = parser.parse_args()
    chosen = [name for name in every if name in (given.kind or every)]
    weights = {name: WEIGHTS.get(name, 1.0) for name in chosen}
    shares = _shares(given.inputs, weights)
    found = {}
    for name in chosen:
        numbers = range(shares[name]) if given.only is None else [given.only]

        def log(number: int, outcome: Outcome, name: str = name) -> None:
            if outcome.defects:
                print(describe(name, given.seed, number, outcome)[:3000], flush=True)
            elif given.all:
                print(
                    name,
                    number,
                    outcome.change,
                    outcome.answer,
                    outcome.message,
                    f"{outcome.seconds:.2f} s, {outcome.memory / 2**20:.0f} MiB",
                    flush=True,
                )

        with tempfile.TemporaryDirectory() as root:
            found[name] = fuzz(name, every[name], numbers, given.seed, Path(root), log)
        print(name, dict(count(found[name])), flush=True)
    text = report(found, given.seed)
    print(text)
    if given.write:
        write_report(given.write, text)
    sys.exit(any(outcome.defects for outcomes in found.values() for _, outcome in outcomes))


def _shares(inputs: int, weights: dict[str, float]) -> dict[str, int]:
    """Share a number of inputs among kinds, so that the sum is right."""
    total, before, shares = sum(weights.values()), 0.0, {}
    for name, weight in weights.items():
        after = before + weight
        shares[name] = round(inputs * after / total) - round(inputs * before / total)
        before = after
    return shares


if __name__ == "__main__":
    main()
