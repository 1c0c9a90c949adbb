"""`python benchmarks/gpu`, rehearsed at tiny sizes on the CPU in place of a card."""

import importlib
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from lit_hier.inference import gpu

FOLDER = ROOT / "benchmarks/gpu"
SPEEDS = {
    "Belief propagation, float32": "of copy",
    "Image sampling, 8 x 8, 0.000 TFLOP per image and evaluation": "of matrix rate",
    "Looking into a network: time beyond its own forward passes": "similarity",
}
# Each kind of fault: numbers that change on the way to the card, an exception, a crash, a hang.
FAULTS = """
import dataclasses, os, runpy, sys, time
sys.path[:0] = [{benchmarks!r}, {folder!r}, {root!r}]
import card, runner
def put(self, x):
    return x.to(self.device) * 1.001 if x.is_floating_point() else x.to(self.device)
card.Card.put = put
def check(number, fault, **changes):
    given = dataclasses.replace(runner.CHECKS[number], **changes)
    place = "faults:" + given.name
    setattr(faults, given.name, fault)
    return dataclasses.replace(given, place=place)
faults = type(sys)("faults")
sys.modules["faults"] = faults
def raises(card, report):
    raise RuntimeError("planted | in\\ntwo lines")
def crashes(card, report):
    os.kill(os.getpid(), 11)
def hangs(card, report):
    report.row("before the hang", "a", "a", True)
    time.sleep(600)
names = [check.name for check in runner.CHECKS]
changed = dict(demo=(raises, {{}}), fig7=(crashes, {{}}), ddp=(hangs, dict(limit=2)),
    images=(hangs, dict(seconds=10**6)))
runner.CHECKS = tuple(
    check(names.index(name), changed[name][0], **changed[name][1]) if name in changed else
    runner.CHECKS[names.index(name)]
    for name in ("inference", "noise", "demo", "fig7", "ddp", "images", "memory")
)
runpy.run_path({folder!r}, run_name="__main__")
"""


def launch(arguments: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **variables}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, timeout=900, env=environment, check=False,
    )  # fmt: skip


def read(out: Path) -> tuple[list[list[str]], dict[str, list[dict[str, str]]]]:
    """Read the table of checks and those of speeds from gpu.md."""
    title, tables, before = "", [], ""
    for line in (out / "gpu.md").read_text().splitlines():
        if line.startswith("## "):
            title = line.removeprefix("## ")
        elif line.startswith("| ") and not line.startswith("| ---"):
            if not before.startswith("| "):
                tables.append((title, []))
            tables[-1][1].append([cell.strip() for cell in line.strip("|").split("|")])
        before = line
    checks = next(rows for _, rows in tables if rows[0][0] == "check")
    speeds = {
        name: [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
        for name, rows in tables
        if name
    }
    return checks[1:], speeds


def test_a_kernel_that_is_not_used_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the plain path would be checked and timed in its place."""
    monkeypatch.syspath_prepend(FOLDER)
    variants = importlib.import_module("variants")

    def fail(*_: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(gpu, "answer_queries", fail)
    monkeypatch.setattr(torch.cuda, "device_of", lambda _: nullcontext())
    with variants.VARIANTS["kernel"](), pytest.raises(RuntimeError, match="no compiler"):
        gpu.try_to_answer(None, SimpleNamespace(is_cuda=True))  # type: ignore[arg-type]


@pytest.mark.slow
def test_every_check_and_every_measurement_runs_without_a_card(tmp_path: Path) -> None:
    ended = launch([str(FOLDER), "--rehearse", "--out", str(tmp_path), "--seconds", "800"])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert not ended.stderr
    numbers = json.loads((tmp_path / "gpu.json").read_text())
    rows, speeds = read(tmp_path)
    names = {row[0] for row in rows}
    compiled = {name for name in numbers["checks"] if name.startswith("compilation-")}
    assert names == numbers["checks"].keys() - compiled
    assert (len(names), len(compiled)) == (18, 2)
    assert len(numbers["tables"]["Compilation, several at a time"]) == 2
    assert {row[4] for row in rows} == {"passed", "measured"}
    lines = ended.stdout.splitlines()
    printed = lines[: lines.index("")]
    assert {line.split()[0] for line in printed} - {"native"} == numbers["checks"].keys()
    assert (tmp_path / "gpu.md").read_text() in ended.stdout
    for title, column in SPEEDS.items():
        assert len(speeds[title]) >= 4, title
        assert all("%" in row[column] for row in speeds[title])
    ways = {row["way"] for row in speeds["Belief propagation, float32"]}
    settings = {way for way in ways if way.startswith("kernel of height")}
    assert ways - settings == {"kernel", "plain", "graph of plain", "compiled plain"}
    assert len(settings) == 4
    assert all(len(values) == 2 for values in numbers["numbers"]["card"]["rates"].values())


@pytest.mark.slow
def test_a_fault_fails_its_own_check_and_the_others_go_on(tmp_path: Path) -> None:
    script = FAULTS.format(benchmarks=str(FOLDER.parent), folder=str(FOLDER), root=str(ROOT))
    ended = launch(["-c", script, "--rehearse", "--out", str(tmp_path)])
    assert ended.returncode == 1, ended.stdout + ended.stderr
    rows, _ = read(tmp_path)
    verdicts = {(row[0], row[1]): row[4] for row in rows}
    # float64 marginals, and x_k, are no longer those of the CPU; uniform numbers are not moved.
    failed = [name for name, verdict in verdicts.items() if verdict == "failed"]
    assert any(name == "inference" and "float64: upward" in what for name, what in failed)
    assert any(name == "noise" and "x_k" in what for name, what in failed)
    assert verdicts["noise", "uniform numbers of 8 purposes"] == "passed"
    found = {row[0]: row[2] for row in rows if row[1] == "the whole check"}
    assert found["demo"] == "RuntimeError: planted / in two lines"
    assert found["fig7"] == "the process ended with status -11"
    assert found["ddp"] == "stopped after 2 s"
    assert verdicts["ddp", "before the hang"] == "passed"
    assert verdicts["images", "the whole check"] == "left out: no time"
    assert [row[4] for row in rows if row[0] == "memory"] == ["passed"]


@pytest.mark.slow
def test_without_a_card_or_a_package_one_line_says_so(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in ('timm', 'PIL') else find(name, *a)\n"
    )
    ended = launch([str(FOLDER)], PYTHONPATH=str(tmp_path))
    assert (ended.returncode, ended.stderr) == (2, "missing packages: PIL, timm\n")
    ended = launch([str(FOLDER), "--out", str(tmp_path / "out")])
    assert ended.returncode == 2
    assert ended.stderr == (
        "no CUDA device is available; --rehearse runs the same at tiny sizes on the CPU\n"
    )
    assert not ended.stdout
    assert not (tmp_path / "out").exists()
    ended = launch([str(FOLDER), "--rehearse", "--only", "speeed"])
    assert ended.returncode == 2
    assert "there is no check 'speeed'; give" in ended.stderr
