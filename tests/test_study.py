"""`lit-hier study`: what its file may say, what runs and what is skipped, and how it ends."""

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, inside, rejection, rows, run_in
from test_results import write_run

from lit_hier.cli import study
from lit_hier.cli.study_file import read_study
from lit_hier.errors import InputError

RULES = {"r0": {"data.init_args.seed": 0}, "r1": {"data.init_args.seed": 1}}
NETWORKS = {"n0": {"seed_everything": 0}, "n1": {"seed_everything": 1}}
RUNS = [{"command": "fit", "config": "fit.yaml"}, {"command": "predict", "config": "x.yaml"}]
STUDY = {
    "runs": RUNS,
    "vary": {"rules": RULES, "network": NETWORKS},
    "average": {"tables": ["reconstruction"], "independent": "rules"},
}


def write_study(folder: Path, **changes: object) -> Path:
    for name in ("fit", "x"):
        (folder / f"{name}.yaml").touch()
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
    return path


def test_the_studies_of_this_package_can_be_read() -> None:
    fig8 = read_study(ROOT / "configs" / "fig8_ensemble.yaml")
    assert [x.label for x in fig8.combinations] == ["r0", "r1", "r2", "r3"]
    learned = read_study(ROOT / "configs" / "learned_seeds.yaml")
    assert [x.label for x in learned.combinations] == ["t0", "t1", "t2"]
    processes = read_study(ROOT / "configs" / "processes.yaml")
    assert len(processes.combinations) == 8
    assert processes.comparison is not None
    controls = read_study(ROOT / "configs" / "controls.yaml")
    labels = ["rhm", "field", "mixture-2", "mixture-16"]
    assert [x.choices[controls.correlations] for x in controls.combinations] == labels


def test_commands_are_built_from_the_study(tmp_path: Path) -> None:
    arguments = {"a.b": [1, {"c": None}], "d": "text", "e": "1", "f": 0.5, "g": True}
    runs = [{"command": "fit", "config": ["fit.yaml", "x.yaml"], "arguments": arguments}]
    read = read_study(write_study(tmp_path, runs=runs))
    assert read.commands[0].build(read.combinations[1].arguments) == [
        "fit",
        *("-c", str(tmp_path / "fit.yaml"), "-c", str(tmp_path / "x.yaml")),
        '--a.b=[1, {"c": null}]',
        *("--d=text", '--e="1"', "--f=0.5", "--g=true"),
        *("--data.init_args.seed=0", "--seed_everything=1"),
    ]


def test_an_argument_may_be_for_one_command(tmp_path: Path) -> None:
    both = {"seed_everything": 3, "fit.model.init_args.seed": 4, "predict.data.init_args.seed": 5}
    study = read_study(write_study(tmp_path, vary={"rules": {"r0": both}}))
    (combination,) = study.combinations
    given = {
        command.name: [x for x in command.build(combination.arguments) if "seed" in x]
        for command in study.commands
    }
    assert given == {
        "fit": ["--seed_everything=3", "--model.init_args.seed=4"],
        "predict": ["--seed_everything=3", "--data.init_args.seed=5"],
    }
    path = write_study(tmp_path, vary={"rules": {"r0": {"test.seed_everything": 1}}})
    with pytest.raises(
        InputError, match=r"vary: test\.seed_everything is for a command that is not"
    ):
        read_study(path)


def test_every_value_is_in_a_combination_that_is_checked(tmp_path: Path) -> None:
    axes = {"a": {"a0": {}, "a1": {}, "a2": {}}, "b": {"b0": {}, "b1": {}}}
    read = read_study(write_study(tmp_path, vary=axes, average={"tables": "x"}))
    assert [x.label for x in read.covering()] == ["a0_b0", "a1_b1", "a2_b0"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"averages": {}}, r"study: no such key averages \(did you mean average\?\); it has runs"),
        ({"runs": []}, r"runs: give a list"),
        ({"runs": [{"command": "fit"}]}, r"runs\[0\]: config is missing"),
        (
            {"runs": [{"command": "predit", "config": "x.yaml"}]},
            r"runs\[0\]\.command: predit \(did you mean predict\?\) is not one of fit, validate",
        ),
        (
            {"runs": [{"command": "fit", "config": "y.yaml"}]},
            r"runs\[0\]\.config: there is no file y\.yaml in ",
        ),
        ({"vary": {}}, r"vary: \{\} is not a mapping"),
        ({"vary": {"rules": [1, 2]}}, r"vary\.rules: \[1, 2\] is not a mapping"),
        ({"vary": {"rules": {"../r": {}}}}, r"vary\.rules: '\.\./r' cannot name a folder"),
        ({"name": "."}, r"name: '\.' cannot name a folder"),
        ({"vary": {"rules": {"r": {"a b": 1}}}}, r"vary\.rules\.r: 'a b' is not an argument"),
        (
            {"vary": {"rules": RULES, "data": {"d": {"data.init_args.seed": 3}}}},
            r"vary: rules and data both set data\.init_args\.seed",
        ),
        (
            {"vary": {"a": {"x": {}, "x_y": {}}, "b": {"y_z": {}, "z": {}}}},
            r"vary: two combinations have the label x_y_z",
        ),
        (
            {"vary": {"a": {f"x{k}": {} for k in range(1001)}}},
            r"vary: it has 1001 combinations; give at most 1000",
        ),
        (
            {"average": {"tables": ["similarity"], "independent": "rule"}},
            r"average\.independent: rule \(did you mean rules\?\) is not one of rules, network",
        ),
        ({"average": {"tables": []}}, r"average\.tables: \[\] is not a list of names"),
        (
            {"compare": {"tables": ["x"], "panels": "rules", "lines": "rules"}},
            r"compare: panels is rules and lines rules, but vary has rules, network",
        ),
        (
            {"compare": {"tables": ["x"], "panels": ["rules", "network"], "lines": "network"}},
            r"compare\.panels: \['rules', 'network'\] is not one name; give one",
        ),
        (
            {"compare": {"tables": ["x"], "panels": {}, "lines": "network"}},
            r"compare\.panels: \{\} is not a list of names",
        ),
        ({"correlations": "rules"}, r"correlations: vary has rules, network; leave only rules"),
        (
            {"correlations": "ruls", "vary": {"rules": RULES}, "average": {"tables": ["x"]}},
            r"correlations: ruls \(did you mean rules\?\) is not one of rules",
        ),
    ],
)  # fmt: skip
def test_an_invalid_study_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], line: str
) -> None:
    path = write_study(tmp_path, **changes)
    assert re.match(line, rejection(tmp_path, capsys, "study", "-c", str(path)))
    assert not (tmp_path / "logs").exists()


def test_a_missing_or_damaged_study_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = rejection(tmp_path, capsys, "study", "-c", "none.yaml")
    assert line.startswith("config: there is no file none.yaml; give a file")
    (tmp_path / "bad.yaml").write_text("a: [")
    line = rejection(tmp_path, capsys, "study", "-c", "bad.yaml")
    assert line.startswith("config: bad.yaml, line 1: ")


class Runs:
    """Stands in for the processes of runs: writes what a run would."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.fails = ""

    def __call__(self, arguments: Sequence[str], folder: Path, log: Path) -> int:
        name = f"{folder.name} {arguments[0]}"
        self.started.append(name)
        if name == self.fails:
            log.write_text("Epoch 0\nlit-hier: error: data: there is none\n")
            return 2
        number = len(list(folder.glob("logs/*/version_*")))
        rules = "r1" in folder.name
        run = write_run(folder / "logs" / arguments[0] / f"version_{number}", 0.5 + 0.1 * rules)
        (run.folder / "run.json").write_text('{"format": 1}')
        return 0


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    stand_in = Runs()
    monkeypatch.setattr(study, "run_child", stand_in)
    monkeypatch.setattr(study, "check", lambda study: None)
    return stand_in


def test_what_is_complete_is_skipped(
    tmp_path: Path, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path)
    runs.fails = "r1_n0 predict"
    line = rejection(tmp_path, capsys, "study", "-c", str(path))
    assert line == "r1_n0, predict x (logs/small/r1_n0/1_predict.log): data: there is none"
    assert runs.started == [f"r0_n{k} {x}" for k in (0, 1) for x in ("fit", "predict")] + [
        "r1_n0 fit",
        "r1_n0 predict",
    ]

    runs.started, runs.fails = [], ""
    run_in(tmp_path, "study", "-c", str(path))
    assert runs.started == ["r1_n0 predict", "r1_n1 fit", "r1_n1 predict"]
    output = capsys.readouterr().out
    assert "skipped: 5 of 8 runs, which are complete" in output
    assert re.search(r"^\[6/8\] r1_n0 predict x: 0 s, about \d s left$", output, re.MULTILINE)
    assert "table    logs/small/reconstruction.csv" in output
    (row,) = [x for x in rows(tmp_path / "logs" / "small" / "reconstruction.csv")
              if (x["time"], x["level"]) == ("0.5", "1")]  # fmt: skip
    assert (row["runs"], row["groups"]) == ("4", "2")
    assert float(row["marginal_sem"]) > 0.1
    assert (tmp_path / "logs" / "small" / "reconstruction.png").stat().st_size > 1000

    runs.started = []
    run_in(tmp_path, "study", "-c", str(path))
    assert not runs.started


def test_what_has_changed_runs_again(tmp_path: Path, runs: Runs) -> None:
    def started(**changes: object) -> list[str]:
        runs.started = []
        run_in(tmp_path, "study", "-c", str(write_study(tmp_path, **changes)))
        return runs.started

    assert len(started()) == 8
    other = {**RULES, "r1": {"data.init_args.seed": 2}}
    changed = {"vary": {"rules": other, "network": NETWORKS}}
    assert started(**changed) == [f"r1_n{k} {x}" for k in (0, 1) for x in ("fit", "predict")]
    arguments = [RUNS[0], {**RUNS[1], "arguments": {"model.init_args.seed": 1}}]
    assert len(started(runs=arguments, **changed)) == 4  # the training is as it was
    marker = tmp_path / "logs" / "small" / "r0_n0" / "study.json"
    content = json.loads(marker.read_text())
    marker.write_text(json.dumps({**content, "format": 2}))
    assert len(started(runs=arguments, **changed)) == 2
    marker.write_text("{")
    assert len(started(runs=arguments, **changed)) == 2


def test_a_changed_config_runs_again(tmp_path: Path, runs: Runs) -> None:
    path = write_study(tmp_path)
    run_in(tmp_path, "study", "-c", str(path), "--only=r0_n0")
    assert runs.started == ["r0_n0 fit", "r0_n0 predict"]
    assert not (tmp_path / "logs" / "small" / "reconstruction.csv").exists()
    (tmp_path / "x.yaml").write_text("seed_everything: 1")
    run_in(tmp_path, "study", "-c", str(path), "--only=r0_n0")
    assert runs.started[2:] == ["r0_n0 predict"]


def test_one_process_at_a_time_runs_a_combination(
    tmp_path: Path, runs: Runs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lock(folder: Path) -> None:
        raise BlockingIOError

    monkeypatch.setattr(study, "lock_folder", lock)
    line = rejection(tmp_path, capsys, "study", "-c", str(write_study(tmp_path)))
    assert line.startswith("study: another process runs logs/small/r0_n0; wait for it")
    assert not runs.started


def test_an_unknown_combination_is_one_line(
    tmp_path: Path, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path)
    line = rejection(tmp_path, capsys, "study", "-c", str(path), "--only", "r2")
    assert line == "only: r2 is not a combination; give one of r0_n0, r0_n1, r1_n0, r1_n1"


def end_of_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, act: Callable[[], None]
) -> tuple[int | type[BaseException], str]:
    """Run a shell script as a run; return its status, or what was raised, and its output."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    timer = threading.Timer(0.3, act)
    timer.start()
    try:
        end: int | type[BaseException] = study.run_child(["fit"], tmp_path, tmp_path / "log")
    except KeyboardInterrupt as error:
        end = type(error)
    timer.join()
    return end, (tmp_path / "log").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="no shell")
def test_an_interrupt_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "trap 'echo ended; exit 1' TERM\necho $$\nwhile :; do sleep 0.05; done"
    pid, main_thread = os.getpid(), threading.main_thread().ident
    assert main_thread is not None
    # In a shell's background, SIGINT is ignored from the start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        end, output = end_of_child(
            tmp_path, monkeypatch, script, lambda: signal.pthread_kill(main_thread, signal.SIGINT)
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert end is KeyboardInterrupt
    child, last = output.split()
    assert last == "ended"
    assert int(child) != pid
    with pytest.raises(ProcessLookupError):
        os.kill(int(child), 0)


@pytest.mark.skipif(sys.platform == "win32", reason="no shell")
def test_a_run_has_the_combinations_folder_and_its_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, output = end_of_child(tmp_path, monkeypatch, 'pwd; echo "$@"; exit 3', lambda: None)
    assert (end, output) == (3, f"{tmp_path}\n-P -m lit_hier fit\n")


SMALL: dict[str, Any] = {
    "name": "small",
    "runs": [
        {
            "command": "fit",
            "config": str(ROOT / "configs" / "demo_classifier.yaml"),
            "arguments": {"trainer.max_epochs": 1},
        },
        {
            "command": "predict",
            "config": str(ROOT / "configs" / "demo.yaml"),
            "arguments": {
                "data.init_args.num_predict": 40,
                "model.init_args.times": [0.0, 0.5, 1.0],
            },
        },
    ],
    "vary": {
        "rules": {
            f"r{k}": {
                "data.init_args.rhm.init_args.seed": k,
                "data.init_args.rhm.init_args.num_layers": 3,
                "data.init_args.num_train": 500,
                "data.init_args.num_val": 100,
                "data.init_args.num_test": 100,
                "trainer.accelerator": "cpu",
            }
            for k in (0, 1)
        }
    },
    "average": {"tables": ["similarity", "reconstruction"]},
}


def test_arguments_are_checked_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With every value, not only the first one."""
    wrong = {"rules": {"r0": {}, "r1": {"data.init_args.rhm.init_args.sed": 1}}}
    fit, _ = SMALL["runs"]
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**SMALL, "runs": [fit], "vary": wrong}))
    line = rejection(tmp_path, capsys, "study", "-c", "small.yaml")
    assert re.match(r"r1, fit demo_classifier: data.*sed.*\(did you mean seed\?\)", line)
    assert not (tmp_path / "logs").exists()


@pytest.mark.slow
def test_a_study_runs_and_is_skipped_when_it_is_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    with inside(tmp_path):
        run_in(tmp_path, "study", "-c", "small.yaml", "--check-only")
        assert capsys.readouterr().out.count("to run") == 4
        assert not (tmp_path / "logs").exists()
        run_in(tmp_path, "study", "-c", "small.yaml")
    folder = tmp_path / "logs" / "small"
    table = rows(folder / "similarity.csv")
    assert {row["runs"] for row in table} == {"2"}
    assert any(float(row["mean_sem"]) > 0 for row in table)
    for k in (0, 1):
        assert (folder / f"r{k}" / "logs" / "demo" / "version_0" / "similarity.csv").is_file()
        assert (folder / f"r{k}" / "logs" / "theory").resolve() == (folder / "theory").resolve()
    begun = time.monotonic()
    run_in(tmp_path, "study", "-c", "small.yaml")
    assert time.monotonic() - begun < 10
    assert "skipped: 4 of 4 runs" in capsys.readouterr().out
