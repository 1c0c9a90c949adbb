"""Belief propagation against simple implementations, as ratios within one run.

python benchmarks/belief_propagation.py [--threads 1]

For full marginals and for samples of the posterior, at two sizes of the paper, over batch sizes:
samples per second, and how many times more samples the native kernel processes than each simple
implementation (quartiles over interleaved rounds, so that noise affects all alike; on a shared
machine, one thread is more informative). `scatter`, the slowest, processes 64 samples at most, and
its time is multiplied. Marginals are first compared with each other. Then the extra time of the
first call, and the peak memory of 4096 samples at L = 10 (on Linux).
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from simple_belief_propagation import (
    dense,
    dense_sample,
    gather,
    gather_sample,
    scatter,
    scatter_sample,
)

from lit_hier.inference import BeliefPropagation
from lit_hier.processes import EpsilonNoise
from lit_hier.rhm import RandomHierarchyModel, Tree

SIZES = ((16, 4, 2, 7), (32, 8, 2, 10))
MOST_SCATTERED = 64
BURST = 0.1  # seconds for which an implementation is called at least, call after call
SWITCH = "LIT_HIER_KERNEL"

FIRST_CALL = """
import time, torch
from lit_hier.inference import BeliefPropagation
from lit_hier.rhm import RandomHierarchyModel
bp = BeliefPropagation(RandomHierarchyModel(32, 8, 2, 10))
messages = torch.rand(2, 1024, 32)
start = time.perf_counter()
bp.marginals(messages)
first = time.perf_counter() - start
bp.marginals(messages)
print(first - (time.perf_counter() - start - first))
"""
PEAK = """
import re, torch
from pathlib import Path
from lit_hier.inference import BeliefPropagation
from lit_hier.processes import EpsilonNoise
from lit_hier.rhm import RandomHierarchyModel
rhm = RandomHierarchyModel(32, 8, 2, 10)
bp = BeliefPropagation(rhm)
def peak():  # ru_maxrss would include the parent's
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**20
before = peak()
leaves = rhm.sample(4096, torch.Generator().manual_seed(0))[0]
messages = EpsilonNoise().messages(leaves, 0.6, 32, torch.float32)
answers = bp.marginals(messages)
print(before, peak())
"""


def plainly(call: Callable[[], object]) -> object:
    """Call without the kernel."""
    os.environ[SWITCH] = "0"
    try:
        return call()
    finally:
        os.environ[SWITCH] = "1"


def compare(
    ways: dict[str, Callable[[], object]], batch: int, rounds: int, patience: float
) -> str:
    """Time implementations in turns, the first one against all others: a row of the table.

    Each gets as many rounds as `patience` seconds allow, but one at least.
    """
    shares = {"scatter": min(batch, MOST_SCATTERED) / batch}
    first = next(iter(ways))
    times: dict[str, list[float]] = {name: [] for name in ways}
    spent = dict.fromkeys(ways, 0.0)
    for _ in range(rounds):
        for name, way in ways.items():
            if times[name] and spent[name] + np.nanmedian(times[name]) > patience:
                times[name].append(np.nan)
                continue
            # Fast ones are repeated: the clock and the previous implementation then matter little.
            repeats, took, start = 0, 0.0, time.perf_counter()
            while took < BURST:
                way()
                repeats += 1
                took = time.perf_counter() - start
            times[name].append(took / repeats / shares.get(name, 1))
            spent[name] += took
    cells = []
    for name in ways:
        cell = f"{batch / np.nanmedian(times[name]):,.0f}"
        if name != first:
            ratios = np.array(times[name]) / np.array(times[first])
            low, middle, high = np.nanpercentile(ratios, [25, 50, 75])
            cell += f", **{middle:.0f}** ({low:.0f} to {high:.0f})"
        cells.append(cell)
    return " | ".join(cells)


def agree(a: Tree, b: Tree) -> None:
    """Check that marginals are equal but for rounding."""
    for x, y in zip(a, b, strict=True):
        assert torch.allclose(x, y, atol=1e-4)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 256, 1024])
    parser.add_argument("--ask", nargs="+", default=["marginals", "draws"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--patience", type=float, default=20.0, help="seconds per cell")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ[SWITCH] = "1"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32\n")
    grammars = [RandomHierarchyModel(*size) for size in SIZES]
    ways = (
        ("marginals", {"einsum": dense, "gather": gather, "scatter": scatter}),
        (
            "draws",
            {"einsum": dense_sample, "gather": gather_sample, "scatter": scatter_sample},
        ),
    )
    for asked, others in ways:
        if asked not in options.ask:
            continue
        print(f"{asked}\n")
        print("| v, m, s, L | batch | kernel | plain | " + " | ".join(others) + " |")
        print("| --- " * (4 + len(others)) + "|")
        for size, rhm in zip(SIZES, grammars, strict=True):
            bp = BeliefPropagation(rhm)
            made = {name: way(rhm, "cpu") for name, way in others.items()}
            for batch in options.batches:
                tree = rhm.sample(batch, torch.Generator().manual_seed(0))
                messages = EpsilonNoise().messages(tree[0], 0.6, size[0], torch.float32)
                mine = partial(bp.marginals if asked == "marginals" else bp.sample, messages)
                calls: dict[str, Callable[[], object]] = {
                    "kernel": mine,
                    "plain": partial(plainly, mine),
                    **{
                        name: partial(
                            way, messages[:MOST_SCATTERED] if name == "scatter" else messages
                        )
                        for name, way in made.items()
                    },
                }
                mine()
                if asked == "marginals" and batch <= 32:
                    for way in made.values():
                        agree(bp.marginals(messages), way(messages))
                row = compare(calls, batch, options.rounds, options.patience)
                print("| " + ", ".join(map(str, size)) + f" | {batch} | {row} |", flush=True)
        print()
    extra = subprocess.run([sys.executable, "-c", FIRST_CALL], check=True, stdout=-1).stdout
    print(f"first call: {float(extra):.2f} s more than the next")
    for what, switch in (("kernel", "1"), ("plain", "0")):
        environment = {**os.environ, SWITCH: switch}
        said = subprocess.run(
            [sys.executable, "-c", PEAK], env=environment, check=True, stdout=-1
        ).stdout
        before, after = map(float, said.split())
        print(f"peak memory, {what}: {after:.2f} GiB, {before:.2f} of it before")


if __name__ == "__main__":
    main()
