"""Whole runs of `lit-hier` on the card against runs on the CPU.

A sample on the card is that of the CPU, except where a draw is within rounding of a threshold. So
a column that depends on the samples is compared within its own error (`x_sem`; else the largest
error of its row; at least two of the row's `count` samples), and every other one, such as a
theory, within 1e-5 of its value. Where a maximum was found (`at`, `difference_time`) may jump
between equal values: such columns, and answers in words, are counted and not judged. An error of
many samples hides a fault of all of them, so the values of single samples are compared, too: all
but one per cent within 1e-3.
"""

import contextlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from card import Card
from runner import ROOT, Report, one_line
from variants import VARIANTS, environment

from lit_hier.cli import main

EXACT = re.compile(
    "process|time|level|layer|.*index|count|grammars|critical|window|theory.*|.*_theory.*|split"
)
PLACES = re.compile("at|difference_time")
ROUNDING = 1e-5
SAMPLE_ROUNDING, SHARE_OF_OTHERS = 1e-3, 0.01
QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")


def run(folder: Path, accelerator: str, arguments: Sequence[str]) -> str:
    """Run a command in a folder, in this process; return what it printed.

    Raises:
        RuntimeError: It ended with another status than 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    output = io.StringIO()
    chosen = [*arguments, f"--trainer.accelerator={accelerator}", *QUIET]
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        try:
            main(chosen)
        except SystemExit as error:
            if error.code:
                text = one_line(output.getvalue()[-300:])
                raise RuntimeError(f"lit-hier {' '.join(arguments)}: {text}") from error
    return output.getvalue()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="lit-hier-gpu-") as name:
        yield Path(name)


def tables(folder: Path, name: str) -> dict[str, pd.DataFrame]:
    """Read a run's tables, by file name."""
    paths = sorted(folder.glob(f"logs/{name}/version_0/*.csv"))
    return {path.name: pd.read_csv(path, keep_default_na=True) for path in paths}


def errors_of(table: pd.DataFrame, column: str) -> np.ndarray:
    """Return the error of each cell of a column that depends on the samples."""
    if f"{column}_sem" in table:
        own = table[f"{column}_sem"].to_numpy(float)
    else:
        own = np.full(len(table), np.nan)
    names = [name for name in table if re.fullmatch(r"(.*_)?sem", name) and name != column]
    largest = table[names].max(axis=1).to_numpy(float) if names else np.full(len(table), np.nan)
    count = table["count"].to_numpy(float) if "count" in table else np.full(len(table), np.inf)
    error = np.where(own > 0, own, largest)
    return np.fmax(np.where(error > 0, error, 0), 2 / count)


def compare_tables(
    found: dict[str, pd.DataFrame], wanted: dict[str, pd.DataFrame]
) -> tuple[Counter[str], list[str]]:
    """Count cells by how equal they are; describe those that are not within their tolerance."""
    counts: Counter[str] = Counter()
    problems = []
    if found.keys() != wanted.keys() or not wanted:
        return counts, [f"tables {sorted(found)} and {sorted(wanted)}"]
    for name, b in wanted.items():
        a = found[name]
        if list(a) != list(b) or len(a) != len(b):
            problems.append(f"{name} has other columns or rows")
            continue
        for column in b:
            x, y = a[column], b[column]
            same = ((x == y) | (x.isna() & y.isna())).to_numpy()
            counts["cells"] += len(same)
            counts["equal"] += int(same.sum())
            if not pd.api.types.is_numeric_dtype(y) or PLACES.fullmatch(column):
                counts["other places or words"] += int((~same).sum())
                continue
            x, y = x.to_numpy(float), y.to_numpy(float)
            distance = np.where(same, 0, np.abs(x - y))
            near = same | (distance <= ROUNDING * np.maximum(1, np.abs(y)))
            tolerance = np.zeros(len(y)) if EXACT.fullmatch(column) else errors_of(b, column)
            within = near | (distance <= tolerance)
            counts["within 1e-5"] += int((near & ~same).sum())
            counts["within their errors"] += int((within & ~near).sum())
            counts["beyond"] += int((~within).sum())
            for row in np.flatnonzero(~within)[:3]:
                problems.append(f"{name} {column} row {row}: {x[row]:.6g}, not {y[row]:.6g}")
    return counts, problems


def report_tables(report: Report, what: str, folders: Sequence[Path], name: str) -> None:
    """Compare the tables of a run on the card with those of the CPU."""
    counts, problems = compare_tables(*(tables(folder, name) for folder in folders))
    parts = [
        f"{counts[kind]:,} {kind}"
        for kind in ("equal", "within 1e-5", "within their errors", "other places or words")
        if counts[kind] or kind == "equal"
    ]
    shown = f"{counts['cells']:,} cells: {', '.join(parts)}, {counts['beyond']:,} beyond"
    report.row(
        what,
        one_line("; ".join([shown, *problems[:2]])),
        "1e-5, or the cell's own error where it depends on samples",
        counts["cells"] > 0 and not problems,
    )
    report.number(what, {**counts, "problems": problems})
    found, wanted = (values(folder, name) for folder in folders)
    num, num_equal, num_near, other = compare_samples(found, wanted)
    report.row(
        f"{what}: values of single samples",
        f"{num:,} values: {num_equal:,} equal, {num_near - num_equal:,} within"
        f" {SAMPLE_ROUNDING:g}, {num - num_near:,} others" + f" ({other})" * bool(other),
        f"{SHARE_OF_OTHERS:.0%} others",
        num > 0 and num - num_near <= SHARE_OF_OTHERS * num,
    )


def values(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Read the values of a run's samples, by file and array."""
    return {
        f"{path.stem}/{key}": array
        for path in sorted(folder.glob(f"logs/{name}/version_0/*.npz"))
        for key, array in np.load(path).items()
        if array.dtype.kind in "biuf"
    }


def compare_samples(
    found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]
) -> tuple[int, int, int, str]:
    """Count values, the equal ones and those within rounding; name the array with most others."""
    num = num_equal = num_near = 0
    most, worst = 0, ""
    for name, b in wanted.items():
        a = found.get(name, np.empty(0))
        num += b.size
        if a.shape != b.shape:
            most, worst = b.size, f"{name} has another shape"
            continue
        x, y = a.astype(float), b.astype(float)
        equal = (x == y) | (np.isnan(x) & np.isnan(y))
        near = equal | (np.abs(x - y) <= SAMPLE_ROUNDING * np.maximum(1, np.abs(y)))
        num_equal, num_near = num_equal + int(equal.sum()), num_near + int(near.sum())
        if (num_others := int((~near).sum())) > most:
            most, worst = num_others, f"{name}: {num_others:,}"
    return num, num_equal, num_near, worst


def check_demo(card: Card, report: Report) -> None:
    """Train the demo's classifier on the card; run the demo there and on the CPU."""
    fit = ["fit", "-c", "demo_classifier", f"--trainer.max_epochs={card.size(4, 1)}"]
    data = [f"--data.init_args.num_train={card.size(40000, 600)}"]
    data += card.size([], ["--data.init_args.num_test=60", "--data.init_args.num_val=60"])
    predict = ["predict", "-c", "demo", f"--data.init_args.num_predict={card.size(500, 20)}"]
    few = ["--model.init_args.times=[0.5,0.9]", "--data.init_args.eval_batch_size=10"]
    predict += card.size([], few)
    with temporary_folder() as folder:
        on_card, on_cpu = folder / "card", folder / "cpu"
        run(on_card, card.accelerator, [*fit, *data])
        shutil.copytree(on_card / "logs/demo_classifier", on_cpu / "logs/demo_classifier")
        run(on_card, card.accelerator, [*predict, *data])
        run(on_cpu, "cpu", [*predict, *data])
        report_tables(report, "demo, classifier trained on the card", [on_card, on_cpu], "demo")


def check_fig7(card: Card, report: Report) -> None:
    """Run Fig. 7 on the card and on the CPU: of its size, then tiny and by the kernel."""
    predict = ["predict", "-c", "fig7"]
    predict += card.size(
        ["--data.init_args.rhm.init_args.seeds=[0,1,2,3]", "--data.init_args.num_predict=32"],
        ["-c", "fast"],
    )
    with temporary_folder() as folder:
        run(folder / "card", card.accelerator, predict)
        run(folder / "cpu", "cpu", predict)
        report_tables(report, "fig7", [folder / "card", folder / "cpu"], "fig7")
        fast = ["predict", "-c", "fig7", "-c", "fast"]  # and few symbols, to compile soon
        fast += [f"--data.init_args.rhm.init_args.num_{x}" for x in ("features=8", "synonyms=2")]
        with VARIANTS["kernel"]():
            run(folder / "kernel", card.accelerator, fast)
        run(folder / "fast", "cpu", fast)
        what = "fig7 by the kernel, small grammars"
        report_tables(report, what, [folder / "kernel", folder / "fast"], "fig7")


def check_digits(card: Card, report: Report) -> None:
    """Train both networks of the digits on the card for a few epochs; run them on both."""
    epochs = f"--trainer.max_epochs={card.size(4, 1)}"
    data = [f"--data.init_args.num_predict={card.size(100, 6)}"]
    data += card.size([], ["--data.init_args.num_val=1600", "--data.init_args.num_test=60"])
    widths = card.size([], ["--model.init_args.widths=[8,8]"])
    times = card.size("[0,2,5,10,15,20]", "[0,3,6]")
    predict = ["predict", "-c", "digits", f"--model.init_args.times={times}"]
    predict += [f"--model.init_args.num_steps={card.size(20, 6)}", *data]
    with temporary_folder() as folder:
        on_card, on_cpu = folder / "card", folder / "cpu"
        for name in ("digits_ddpm", "digits_classifier"):
            run(on_card, card.accelerator, ["fit", "-c", name, epochs, *widths, *data])
        shutil.copytree(on_card / "logs", on_cpu / "logs")
        run(on_card, card.accelerator, predict)
        run(on_cpu, "cpu", predict)
        report_tables(report, "digits, networks trained on the card", [on_card, on_cpu], "digits")


def same_files(report: Report, what: str, folders: Sequence[Path], name: str) -> None:
    """Report whether two runs have written the same tables and values, to the last bit."""
    found = [
        {path.name: path.read_bytes() for path in folder.glob(f"logs/{name}/version_0/*.csv")}
        | {
            f"{path.name}/{key}": array.tobytes()
            for path in folder.glob(f"logs/{name}/version_0/*.npz")
            for key, array in np.load(path).items()
        }
        for folder in folders
    ]
    differ = [part for part in found[1] if found[0].get(part) != found[1][part]]
    report.row(
        what,
        f"{len(found[1])} tables and arrays, {len(differ)} differ"
        + f" ({', '.join(differ[:3])})" * bool(differ),
        "equal bits",
        bool(found[1]) and not differ and found[0].keys() == found[1].keys(),
    )


def check_ddp(card: Card, report: Report) -> None:
    """Run with `ddp` on one process, and on one per card, against a run without it."""
    num = 2 if card.rehearse else torch.cuda.device_count()
    backend = "gloo" if card.rehearse else "nccl"
    predict = ["predict", "-c", "fig7", "-c", "fast"]
    with temporary_folder() as folder:
        run(folder / "alone", card.accelerator, [*predict, "--trainer.devices=1"])
        for devices in sorted({1, num}):
            arguments = [*predict, "--trainer.strategy=ddp", f"--trainer.devices={devices}"]
            together = folder / f"ddp{devices}"
            together.mkdir()
            command = [sys.executable, "-W", "ignore", "-m", "lit_hier", *arguments]
            with environment(PYTHONPATH=str(ROOT)):
                done = subprocess.run(
                    [*command, f"--trainer.accelerator={card.accelerator}", *QUIET],
                    cwd=together, capture_output=True, text=True, check=False,
                )  # fmt: skip
            text = done.stdout + done.stderr
            if done.returncode:
                raise RuntimeError(f"ddp on {devices} processes: {text[-300:]}")
            used = re.search(r"distributed_backend=(\w+)", text)
            report.row(
                f"ddp on {devices} process{'es' * (devices > 1)}: the backend",
                used[1] if used else "not named in the log",
                backend,
                used is not None and used[1] == backend,
            )
            same_files(
                report,
                f"ddp on {devices} process{'es' * (devices > 1)} against a run without it",
                [together, folder / "alone"],
                "fig7",
            )
    if num == 1:
        report.note("ddp on several cards", "left out: this machine has one card")


def check_determinism(card: Card, report: Report) -> None:
    """Repeat a training of 20 steps and a run, with the command's own flags."""
    data = [f"--data.init_args.num_train={card.size(5120, 600)}"]
    data += card.size([], ["--data.init_args.num_test=60", "--data.init_args.num_val=60"])
    fit = ["fit", "-c", "demo_classifier", f"--trainer.max_steps={card.size(20, 3)}", *data]
    predict = ["predict", "-c", "demo", f"--data.init_args.num_predict={card.size(500, 20)}"]
    predict += card.size([], ["--model.init_args.times=[0.5,0.9]"])
    warned: Counter[str] = Counter()
    with temporary_folder() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        weights = []
        for name in ("first", "second"):
            run(folder / name, card.accelerator, fit)
            path = folder / name / "logs/demo_classifier/weights/classifier.ckpt"
            weights.append(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
        first = folder / "first/logs/demo_classifier"
        shutil.rmtree(folder / "second/logs/demo_classifier")
        shutil.copytree(first, folder / "second/logs/demo_classifier")
        for name in ("first", "second"):
            run(folder / name, card.accelerator, [*predict, *data])
        differ = [
            name for name, value in weights[1].items() if not torch.equal(value, weights[0][name])
        ]
        for warning in caught:
            op = re.search(r"(\S+) does not have a deterministic", str(warning.message))
            if op:
                warned[op[1]] += 1
            elif "CuBLAS" in str(warning.message):
                warned["CuBLAS without a workspace"] += 1
        report.number("warnings", sorted({one_line(str(warning.message)) for warning in caught}))
        named = ", ".join(f"{op} ({num} times)" for op, num in warned.items()) or "none"
        report.note("operations that torch warns of as not deterministic", named)
        report.row(
            f"weights after {card.size(20, 3)} steps, two equal trainings",
            f"{len(weights[1])} tensors, {len(differ)} differ",
            "equal bits",
            not differ,
        )
        same_files(
            report, "the demo, two equal runs", [folder / "second", folder / "first"], "demo"
        )


def check_memory(card: Card, report: Report) -> None:
    """Run three times in one process; compare what is allocated before and after."""
    predict = ["predict", "-c", "fig7", "-c", "fast"]
    workspace = 64  # MiB that libraries of products of matrices keep
    with temporary_folder() as folder:
        allocated = [card.allocated()]
        for number in range(3):
            run(folder / str(number), card.accelerator, predict)
            allocated.append(card.allocated())
    mebibytes = ", ".join(f"{x / 2**20:.3f}" for x in allocated)
    report.row(
        "MiB allocated before, and after each of three runs in one process",
        mebibytes,
        f"{workspace} more after the first (libraries' own), then equal",
        allocated[1] - allocated[0] <= workspace * 2**20 and allocated[3] <= allocated[1],
    )
    report.number("allocated", allocated)
