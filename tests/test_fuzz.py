"""Some hostile inputs of every kind; `python tests/fuzz.py` uses any number."""

import os
import pickle
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import fuzz_sandbox
import numpy as np
import pytest
from attack import Attack
from fuzz import BEGIN, END, describe, fuzz, judge, kinds, report, write_report
from fuzz_sandbox import DEFECTS, Outcome, Rejected, Trial, run_input

# Commands take a second each, where files take hundredths.
NUMBERS = {"configs": 2, "resumption": 1, "data sets": 1, "samples": 2, "reference": 1}
EACH = 4
SLOW = ("configs", "resumption")  # they train and predict first


@pytest.mark.filterwarnings("ignore")  # of libraries, about hostile input
@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[pytest.mark.slow] if x in SLOW else []) for x in kinds()],
)
def test_hostile_input_is_accepted_or_clearly_rejected(name: str, tmp_path: Path) -> None:
    outcomes = fuzz(name, kinds()[name], range(NUMBERS.get(name, EACH)), 0, tmp_path)
    defects = [describe(name, 0, *pair) for pair in outcomes if pair[1].defects]
    assert not defects, "\n\n".join(defects)
    assert all(outcome.answer for _, outcome in outcomes)


def used(tmp_path: Path, use: Callable[[Trial], object], must_reject: str = "") -> Outcome:
    """Return the outcome of an input whose use is a function."""

    def start(trial: Trial) -> None:
        trial.change, trial.must_reject = "injected", must_reject
        with trial.program():
            use(trial)

    return run_input(start, Trial(random.Random(0), tmp_path / "input"), 0.0, judge)


def reject(line: str) -> None:
    raise Rejected(line)


def connect(trial: Trial) -> None:
    with socket.socket() as end:
        end.connect(("127.0.0.1", 9))


def link_and_write(trial: Trial) -> None:
    """Write to a link inside the folder, which leads outside."""
    (trial.folder / "link").symlink_to(trial.outside / "new.txt")
    (trial.folder / "link").write_text("x")


def wait_without_alarm(trial: Trial) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(60)


def touch_as_before(trial: Trial) -> None:
    """Write what a file holds already."""
    path = trial.root / "home/.bashrc"
    path.write_text(path.read_text())


@pytest.mark.parametrize(
    ("use", "defect", "detail"),
    [
        (lambda t: (t.outside / "notes.txt").write_text("x"), "outside", "changed outside/notes"),
        (lambda t: Path("../outside/notes.txt").unlink(), "outside", "removed outside/notes"),
        (lambda t: shutil.rmtree(t.root / "home/precious"), "outside", "removed home/precious"),
        (lambda t: (t.outside / "weights.ckpt").replace("x.ckpt"), "outside", "os.rename"),
        (lambda t: (t.root / "elsewhere").touch(), "outside", "open "),
        (lambda t: (t.root / "tmp/left").touch(), "outside", "created tmp/left"),
        (lambda t: (t.outside / "a.png").chmod(0o600), "outside", "changed outside/a.png"),
        (lambda t: (t.outside / "a").symlink_to("b"), "outside", "created outside/a"),
        (link_and_write, "outside", "created outside/new.txt"),
        (touch_as_before, "outside", "changed home/.bashrc"),
        (lambda t: pickle.loads(pickle.dumps(Attack())), "code", "left the mark run/EXECUTED"),
        (lambda t: subprocess.run(["gs"], check=True), "code", "left the mark EXECUTED"),
        (lambda t: os.system(":"), "code", "os.system"),
        (lambda t: __import__("harm"), "code", "left the mark EXECUTED"),
        (lambda t: __import__("this"), "code", "import 'this'"),
        (connect, "code", "socket.connect"),
        (lambda t: time.sleep(60), "hang", "TooLong"),
        (lambda t: Path("/dev/stdin").read_text(), "hang", "TooLong"),
        (wait_without_alarm, "hang", "cannot be interrupted"),
        (lambda t: np.ones(2**25), "memory", "GiB"),
        (lambda t: bytearray(8 * 2**30), "memory", "MemoryError"),
        (lambda t: reject("config: not enough memory"), "memory", "not enough"),
        (lambda t: {}["x"], "traceback", "KeyError"),
        (lambda t: os.kill(os.getpid(), signal.SIGSEGV), "traceback", "signal 11"),
        (lambda t: os._exit(0), "traceback", "signal 0"),
        (lambda t: reject("two\nlines"), "unclear", "not one printable line"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_the_fuzzer_notices_what_an_input_does(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    use: Callable[[Trial], object],
    defect: str,
    detail: str,
) -> None:
    monkeypatch.setattr(fuzz_sandbox, "SECONDS", 0.2)
    monkeypatch.setattr(fuzz_sandbox, "GRACE", 0.5 if use is wait_without_alarm else 30.0)
    monkeypatch.setattr(fuzz_sandbox, "MEMORY", 2**26)
    outcome = used(tmp_path, use)
    assert detail in outcome.defects[defect]
    assert outcome.change == "injected"


def test_the_fuzzer_finds_nothing_in_what_is_allowed(tmp_path: Path) -> None:
    def use(trial: Trial) -> None:
        (trial.folder / "logs").mkdir()
        (trial.folder / "logs/table.csv").write_text("x")
        (trial.root / "tmp/x").touch()
        (trial.root / "tmp/x").unlink()
        (trial.outside / "notes.txt").read_text()

    outcome = used(tmp_path, use)
    assert (outcome.answer, outcome.defects) == ("accepted", {})
    shutil.rmtree(tmp_path / "input")
    outcome = used(tmp_path, lambda trial: reject("times: give numbers"))
    assert (outcome.answer, outcome.defects) == ("rejected", {})


def test_accepting_what_must_be_rejected_is_a_defect(tmp_path: Path) -> None:
    outcome = used(tmp_path, lambda trial: None, must_reject="a tensor is missing")
    assert outcome.defects == {"wrongly accepted": "a tensor is missing"}


def test_new_files_are_allowed_where_a_config_says_so_but_no_changes(tmp_path: Path) -> None:
    def use(trial: Trial) -> None:
        trial.targets = [trial.outside / "empty"]
        (trial.outside / "empty/new.csv").touch()

    assert not used(tmp_path, use).defects
    shutil.rmtree(tmp_path / "input")

    def harm(trial: Trial) -> None:
        trial.targets = [trial.outside]
        (trial.outside / "notes.txt").write_text("x")

    assert "changed outside/notes.txt" in used(tmp_path, harm).defects["outside"]


def test_an_unchanged_input_that_is_rejected_stops_the_fuzzer(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="it is always wrong"):
        fuzz("x", lambda source: lambda trial: reject("it is always wrong"), [], 0, tmp_path)


def test_the_report_counts_and_replaces_the_last_one(tmp_path: Path) -> None:
    found = {
        "rules": [
            (0, Outcome("paths", "rejected", "path: no")),
            (1, Outcome("paths", "accepted", defects={"outside": "changed x"})),
            (2, Outcome("links", "accepted")),
        ]
    }
    path = tmp_path / "page.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_report(path, report(found, 5))
    text = path.read_text()
    assert text.startswith(f"before\n{BEGIN}\n`python tests/fuzz.py --inputs 3 --seed 5`")
    assert text.endswith(f"{END}\nafter\n")
    assert "\nold\n" not in text
    zeros = " | ".join("0" for _ in list(DEFECTS)[2:])
    assert f"| rules | paths | 2 | 0 | 1 | 0 | 1 | {zeros} |" in text
    assert f"| all |  | 3 | 1 | 1 | 0 | 1 | {zeros} |" in text
    assert "- `--kind 'rules' --seed 5`: links 2; paths 0, 1" in text
    assert "--kind 'rules' --only 1 --seed 5 (paths): outside: changed x" in text
    (tmp_path / "other.md").write_text("no markers")
    with pytest.raises(ValueError, match="has no lines"):
        write_report(tmp_path / "other.md", "")


@pytest.mark.parametrize(
    "message",
    [
        "two\nlines: here",
        "color: \x1b[31m",
        "long: " + "x" * 400,
        "Parser key \"times\": Expected a <class 'list'>",
        "data: 'NoneType' object has no attribute 'keys'",
    ],
)
def test_an_unclear_message_is_a_defect(message: str) -> None:
    assert judge(message)
