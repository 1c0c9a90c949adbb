"""Run checks in processes of their own, within a time limit, and write the table.

A check is a function of a `Card` and a `Report`. Each runs in its own process: an exception, a
crash, a corrupted CUDA context or a hang ends that check alone, and what it had reported by then
is kept. A check that may not fit into the time that is left is not started.
"""

import importlib
import json
import multiprocessing
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from sizes import CHECKED_KERNELS, LARGE, SETTINGS, SMALL, TIMED

ROOT = Path(__file__).resolve().parent.parent.parent
NO_TIME = "left out: no time"
WHOLE = "the whole check"


@dataclass(frozen=True)
class Check:
    """A function, and the time that it may take.

    Attributes:
        name: What `--only` names.
        kind: Correctness checks run several at a time, measurements of speed alone; compilations
            begin beside correctness checks, one per core.
        place: Module and function.
        seconds: Expected time: with less left, the check is left out.
        limit: After this time the check is stopped.
        arguments: Further arguments of the function.
        serves: For a compilation, the checks that need it, which begin after it.
    """

    name: str
    kind: Literal["compilation", "correctness", "speed"]
    place: str
    seconds: float
    limit: float
    arguments: tuple[Any, ...] = ()
    serves: str = ""


# The card's own rates come first: other measurements are compared with them.
CARD = Check("card", "speed", "card:measure_card", 10, 60)
# What kernels are needed for: what is timed first, then what is compared, large grammars first.
_KERNELS = (
    *(((size, "float32", x), "queries") for size in (LARGE, SMALL) for x in TIMED.values()),
    *((given, "kernel") for given in CHECKED_KERNELS),
    *(
        ((size, "float32", TIMED["marginals"], setting), "settings")
        for size in (LARGE, SMALL)
        for setting in SETTINGS
    ),
)
COMPILATIONS = (
    *(
        Check(f"compilation-{k}", "compilation", "compilation:compile_kernel", 5, 240, given, use)
        for k, (given, use) in enumerate(_KERNELS)
    ),
    Check("compilation-images", "compilation", "network_speed:compile_images", 5, 200, (),
          "images"),
)  # fmt: skip
CHECKS = (
    Check("inference", "correctness", "inference_checks:check_inference", 20, 120),
    Check("kernel", "correctness", "inference_checks:check_kernel", 20, 150),
    Check("noise", "correctness", "noise_checks:check_noise", 10, 60),
    Check("demo", "correctness", "run_checks:check_demo", 30, 150),
    Check("fig7", "correctness", "run_checks:check_fig7", 30, 180),
    Check("digits", "correctness", "run_checks:check_digits", 40, 150),
    Check("precision", "correctness", "noise_checks:check_precision", 20, 90),
    Check("ddp", "correctness", "run_checks:check_ddp", 30, 120),
    Check("determinism", "correctness", "run_checks:check_determinism", 30, 120),
    Check("memory", "correctness", "run_checks:check_memory", 30, 120),
    Check("synchronization", "correctness", "noise_checks:check_synchronization", 10, 60),
    Check("queries", "speed", "inference_speed:measure_queries", 30, 100),
    Check("similarity", "speed", "network_speed:measure_similarity", 15, 50),
    Check("images", "speed", "network_speed:measure_images", 40, 190),
    Check("settings", "speed", "inference_speed:measure_settings", 15, 45),
    Check("graphs", "speed", "inference_speed:measure_graphs", 15, 45),
    Check("compiled", "speed", "inference_speed:measure_compiled", 15, 75),
)


def choose(names: Sequence[str] | None, rehearse: bool) -> list[Check]:
    """Return the checks of some names or kinds, in their order, and the compilations they need.

    Args:
        names: All checks by default.
        rehearse: Whether to compile as little as possible.

    Raises:
        ValueError: There is no such name.
    """
    known = {"correctness", "speed", CARD.name, *(check.name for check in CHECKS)}
    for name in names or ():
        if name not in known:
            raise ValueError(
                f"--only: there is no check {name!r}; give {', '.join(sorted(known))}"
            )
    checks = [check for check in CHECKS if not names or {check.name, check.kind} & set(names)]
    needed = [x for x in COMPILATIONS if x.serves in {check.name for check in checks}]
    if rehearse:
        needed = [*{compilation.place: compilation for compilation in needed}.values()]
    return needed + checks


class Report:
    """What a check reports; sent to the parent process at once.

    Args:
        send: Takes a kind of message and its content.
        deadline: When the check will be stopped, on the monotonic clock.
        known: What checks before have reported by `number`.
    """

    def __init__(
        self, send: Callable[[str, Any], object], deadline: float, known: dict[str, Any]
    ) -> None:
        self._send, self._deadline, self.known = send, deadline, known

    def left(self) -> float:
        """Return the seconds until the check will be stopped."""
        return self._deadline - time.monotonic()

    def row(self, compared: str, found: str, allowed: str, passed: bool) -> None:
        """Report a comparison and whether it holds."""
        self._send("row", (compared, found, allowed, "passed" if passed else "failed"))

    def note(self, compared: str, found: str) -> None:
        """Report what is only told, or was left out."""
        self._send("row", (compared, found, "", "measured"))

    def cells(self, table: str, cells: dict[str, object]) -> None:
        """Report a row of a table of speeds, by column."""
        self._send("cells", (table, {name: str(value) for name, value in cells.items()}))

    def number(self, name: str, value: Any) -> None:
        """Report numbers for the file, such as every repetition of a measurement."""
        self._send("number", (name, value))


def run_check(
    check: Check, connection: Connection, log: Path, deadline: float, rehearse: bool,
    threads: int, path: list[str], known: dict[str, Any],
) -> None:  # fmt: skip
    """Run one check; the target of a process."""
    with suppress(OSError):
        os.setsid()  # so that what the check starts ends with it
    sys.path[:] = path
    sys.argv[1:] = []
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1), os.dup2(output, 2)
    try:
        import torch
        from card import Card

        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(threads)
        module, name = check.place.split(":")
        report = Report(lambda *message: connection.send(message), deadline, known)
        function = getattr(importlib.import_module(module), name)
        function(Card(rehearse), report, *check.arguments)
        connection.send(("end", None))
    except BaseException as error:
        traceback.print_exc()
        connection.send(("error", one_line(f"{type(error).__name__}: {error}")))
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        connection.close()
        os._exit(0)


def one_line(text: str) -> str:
    """Shorten a message to one line that fits into a cell of a table."""
    return " ".join(text.split())[:200].replace("|", "/")


@dataclass
class Outcome:
    """What is known of a check that has run or was left out."""

    check: Check
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)
    seconds: float = 0.0
    ended: bool = False

    @property
    def verdict(self) -> str:
        """One word for the line of this check."""
        verdicts = [row[3] for row in self.rows]
        if "failed" in verdicts:
            return "failed"
        if NO_TIME in verdicts:
            return NO_TIME
        return "passed" if "passed" in verdicts else "measured"


class Run:
    """Runs checks and collects what they report.

    Args:
        out: Folder of the results.
        deadline: When everything must have ended, on the monotonic clock.
        jobs: Correctness checks at a time.
        start: `fork` or `spawn`.
        rehearse: Whether the CPU takes the place of the card.
        command: What was typed, for the head of the table.
    """

    def __init__(
        self, out: Path, deadline: float, jobs: int, start: str, rehearse: bool, command: str
    ) -> None:
        self.out, self.deadline, self.jobs, self.command = out, deadline, jobs, command
        self.context = multiprocessing.get_context(start)
        self.rehearse = rehearse
        self.outcomes: list[Outcome] = []
        self.tables: dict[str, list[dict[str, str]]] = {}
        self.numbers: dict[str, dict[str, Any]] = {}
        (out / "log").mkdir(parents=True, exist_ok=True)

    @property
    def failed(self) -> bool:
        """Whether a check has failed."""
        return any(outcome.verdict == "failed" for outcome in self.outcomes)

    def execute(self, checks: Sequence[Check]) -> None:
        """Measure the card, then compile and check correctness, then measure speed."""
        self._run([CARD], 1)
        text = str(self.outcomes[0].rows)
        if "failed" in text and "initializ" in text and self.context.get_start_method() == "fork":
            self.outcomes.clear()
            self.context = multiprocessing.get_context("spawn")
            self._run([CARD], 1)
        self._run([check for check in checks if check.kind != "speed"], self.jobs)
        self._run([check for check in checks if check.kind == "speed"], 1)

    def _run(self, checks: Sequence[Check], jobs: int) -> None:
        running: dict[Connection, tuple[Any, Outcome, float, float]] = {}
        try:
            self._run_all(list(checks), jobs, running)
        finally:
            for process, *_ in running.values():
                _kill(process)

    def _run_all(self, waiting: list[Check], jobs: int, running: dict[Connection, Any]) -> None:
        while waiting or running:
            while check := _next(waiting, [outcome.check for _, outcome, *_ in running.values()],
                                 jobs):  # fmt: skip
                waiting.remove(check)
                now = time.monotonic()
                if now + check.seconds > self.deadline:
                    self._finish(Outcome(check, [(WHOLE, "", "", NO_TIME)]))
                    continue
                end = min(now + check.limit, self.deadline)
                running |= self._start(check, now, end, jobs)
            ends = [end for _, _, _, end in running.values()]
            timeout = max(0.0, min(ends, default=0) - time.monotonic())
            for connection in wait(list(running), timeout) if running else ():
                self._receive(connection, running)
            for connection, (process, outcome, start, end) in list(running.items()):
                if time.monotonic() >= end:
                    _kill(process)
                    own_limit = end < self.deadline - 1e-6
                    late = own_limit and outcome.check.kind == "correctness"
                    verdict = "failed" if late else NO_TIME
                    outcome.rows.append((WHOLE, f"stopped after {end - start:.0f} s", "", verdict))
                    del running[connection]
                    process.join()
                    outcome.seconds = time.monotonic() - start
                    self._finish(outcome)

    def _start(
        self, check: Check, now: float, end: float, jobs: int
    ) -> dict[Connection, tuple[Any, Outcome, float, float]]:
        receiving, sending = multiprocessing.Pipe(duplex=False)
        threads = max(1, (os.cpu_count() or 1) // jobs) if check.kind != "compilation" else 1
        known = {name: value for part in self.numbers.values() for name, value in part.items()}
        log = self.out / "log" / f"{check.name}.txt"
        # torch's profiler, which measurements use, hangs in forked processes.
        fresh = check.kind == "speed" and check is not CARD
        context = multiprocessing.get_context("spawn") if fresh else self.context
        process = context.Process(
            target=run_check,
            args=(check, sending, log, end, self.rehearse, threads, list(sys.path), known),
        )
        process.start()
        sending.close()
        return {receiving: (process, Outcome(check), now, end)}

    def _receive(self, connection: Any, running: dict[Any, Any]) -> None:
        process, outcome, start, _ = running[connection]
        try:
            kind, content = connection.recv()
        except (EOFError, OSError):
            process.join()
            if not outcome.ended:
                text = f"the process ended with status {process.exitcode}"
                outcome.rows.append((WHOLE, text, "", "failed"))
            _kill(process)  # with what it may have left running
            del running[connection]
            outcome.seconds = time.monotonic() - start
            self._finish(outcome)
            return
        if kind == "row":
            outcome.rows.append(content)
        elif kind == "cells":
            table, cells = content
            self.tables.setdefault(table, []).append(cells)
        elif kind == "number":
            name, value = content
            self.numbers.setdefault(outcome.check.name, {})[name] = value
        else:
            outcome.ended = True
            if kind == "error":
                outcome.rows.append((WHOLE, content, "", "failed"))

    def _finish(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        num = len(outcome.rows)
        rows = f"{num} row{'s' * (num != 1)}"
        print(
            f"{outcome.check.name:<20}{outcome.verdict:<20}{rows:<10}{outcome.seconds:6.1f} s",
            flush=True,
        )
        self.write()  # now, as the machine may be gone before the end

    def write(self) -> str:
        """Write gpu.json and gpu.md; return the text of the latter."""
        order = [check.name for check in (CARD, *COMPILATIONS, *CHECKS)]
        outcomes = sorted(self.outcomes, key=lambda outcome: order.index(outcome.check.name))
        facts = self.numbers.get("card", {}).get("facts", {})
        day = datetime.now(UTC).date()
        parts = [f"{day}, `{self.command}`"]
        if self.rehearse:
            parts.append("**A rehearsal on a CPU: no number here says anything about a GPU.**")
        parts.append(markdown([{"card": name, "": value} for name, value in facts.items()]))
        parts.append(
            markdown(
                [
                    {
                        "check": outcome.check.name,
                        "compared": compared,
                        "found": found,
                        "allowed": allowed,
                        "verdict": verdict,
                    }
                    for outcome in outcomes
                    for compared, found, allowed, verdict in outcome.rows
                ]
            )
        )
        for title in sorted(self.tables, key=lambda title: title.startswith("Compilation")):
            parts += [f"## {title}", markdown(self.tables[title])]
        text = "\n\n".join(part for part in parts if part) + "\n"
        (self.out / "gpu.md").write_text(text)
        numbers = {
            "command": self.command,
            "facts": facts,
            "checks": {
                outcome.check.name: {"seconds": outcome.seconds, "rows": outcome.rows}
                for outcome in outcomes
            },
            "tables": self.tables,
            "numbers": self.numbers,
        }
        (self.out / "gpu.json").write_text(json.dumps(numbers, indent=1) + "\n")
        return text


def _next(waiting: Sequence[Check], running: Sequence[Check], jobs: int) -> Check | None:
    """Return the first check that can begin: if there is room, and what it needs is compiled."""
    num_compiling = sum(check.kind == "compilation" for check in running)
    uncompiled = {check.serves for check in (*waiting, *running)}
    for check in waiting:
        if check.kind == "compilation":
            has_room = num_compiling < (os.cpu_count() or 1)
        else:
            has_room = len(running) - num_compiling < jobs and check.name not in uncompiled
        if has_room:
            return check
    return None


def _kill(process: Any) -> None:
    """End a process and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def markdown(rows: list[dict[str, str]]) -> str:
    """Format rows as a Markdown table, with the columns of all rows."""
    if not rows:
        return ""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = (re.sub(r"\s+", " ", str(row.get(name, ""))) for name in columns)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
