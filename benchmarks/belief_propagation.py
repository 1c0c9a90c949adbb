"""Compare the speed of belief propagation with simple implementations, as ratios within one run.

python benchmarks/belief_propagation.py [--threads 1]

For the marginals of all levels and for draws from the posterior, at two sizes of the paper, over
batch sizes: samples per second, and the ratio of the kernel's samples per second to those of each
other implementation, with quartiles over interleaved rounds, so that noise affects all alike (on a
shared machine, one thread is more informative). `scatter`, the slowest, processes at most 64
samples, and its time is scaled up to the batch. The marginals of small batches are checked against
each other first. Finally the extra time of the first call, and the peak memory of 4096 samples at
L = 10 (Linux only).
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
    Inference,
    einsum_marginals,
    einsum_sampler,
    gather_marginals,
    gather_sampler,
    scatter_marginals,
    scatter_sampler,
)

from lit_hier.inference import BeliefPropagation
from lit_hier.processes import EpsilonNoise
from lit_hier.rhm import RandomHierarchyModel, Tree

SIZES = ((16, 4, 2, 7), (32, 8, 2, 10))
MAX_BATCHES = {"scatter": 64}
QUERIES: dict[str, dict[str, Callable[[RandomHierarchyModel, str], Inference]]] = {
    "marginals": {
        "einsum": einsum_marginals, "gather": gather_marginals, "scatter": scatter_marginals,
    },
    "draws": {"einsum": einsum_sampler, "gather": gather_sampler, "scatter": scatter_sampler},
}  # fmt: skip
MIN_SECONDS = 0.1  # an implementation is called again until this much time has passed
KERNEL_VARIABLE = "LIT_HIER_KERNEL"

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
def peak():  # not ru_maxrss, which includes the parent's
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**20
before = peak()
leaves = rhm.sample(4096, torch.Generator().manual_seed(0))[0]
messages = EpsilonNoise().messages(leaves, 0.6, 32, torch.float32)
marginals = bp.marginals(messages)
print(before, peak())
"""


def call_without_kernel(call: Callable[[], object]) -> object:
    """Call with the kernel turned off, so that torch operations compute the result."""
    os.environ[KERNEL_VARIABLE] = "0"
    try:
        return call()
    finally:
        os.environ[KERNEL_VARIABLE] = "1"


def compare(calls: dict[str, Callable[[], object]], batch: int, rounds: int, budget: float) -> str:
    """Time implementations in interleaved rounds; return a row of the table.

    Ratios are relative to the first implementation. Each is timed in at least one round, and in
    further ones while its total time is expected to stay within `budget` seconds.
    """
    first = next(iter(calls))
    times: dict[str, list[float]] = {name: [] for name in calls}
    spent = dict.fromkeys(calls, 0.0)
    for _ in range(rounds):
        for name, call in calls.items():
            if times[name] and spent[name] + np.nanmedian(times[name]) > budget:
                times[name].append(np.nan)
                continue
            # Repeat fast calls, so that the timer and the previous implementation matter little.
            repeats, elapsed, start = 0, 0.0, time.perf_counter()
            while elapsed < MIN_SECONDS:
                call()
                repeats += 1
                elapsed = time.perf_counter() - start
            times[name].append(
                elapsed / repeats * batch / min(batch, MAX_BATCHES.get(name, batch))
            )
            spent[name] += elapsed
    cells = []
    for name in calls:
        cell = f"{batch / np.nanmedian(times[name]):,.0f}"
        if name != first:
            ratios = np.array(times[name]) / np.array(times[first])
            low, middle, high = np.nanpercentile(ratios, [25, 50, 75])
            cell += f", **{middle:.0f}** ({low:.0f} to {high:.0f})"
        cells.append(cell)
    return " | ".join(cells)


def check_equal(a: Tree, b: Tree) -> None:
    """Check that marginals are equal up to rounding."""
    for x, y in zip(a, b, strict=True):
        assert torch.allclose(x, y, atol=1e-4)


def main() -> None:
    """Print the tables, the first call's extra time and the peak memory."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[1, 32, 256, 1024], help="batch sizes"
    )
    parser.add_argument(
        "--queries",
        nargs="+",
        choices=list(QUERIES),
        default=list(QUERIES),
        help="what to compute: marginals of all levels, draws from the posterior",
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="maximum number of interleaved rounds"
    )
    parser.add_argument(
        "--budget", type=float, default=20.0, help="time budget per table cell, in seconds"
    )
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="number of torch's threads"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ[KERNEL_VARIABLE] = "1"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32\n")
    grammars = [RandomHierarchyModel(*size) for size in SIZES]
    for name, others in QUERIES.items():
        if name not in options.queries:
            continue
        print(f"{name}\n")
        print("| v, m, s, L | batch | kernel | plain | " + " | ".join(others) + " |")
        print("| --- " * (4 + len(others)) + "|")
        for size, rhm in zip(SIZES, grammars, strict=True):
            bp = BeliefPropagation(rhm)
            implementations = {other: build(rhm, "cpu") for other, build in others.items()}
            for batch in options.batches:
                tree = rhm.sample(batch, torch.Generator().manual_seed(0))
                messages = EpsilonNoise().messages(tree[0], 0.6, size[0], torch.float32)
                query = partial(bp.marginals if name == "marginals" else bp.sample, messages)
                calls: dict[str, Callable[[], object]] = {
                    "kernel": query,
                    "plain": partial(call_without_kernel, query),
                    **{
                        other: partial(call, messages[: MAX_BATCHES.get(other)])
                        for other, call in implementations.items()
                    },
                }
                query()
                if name == "marginals" and batch <= 32:
                    for implementation in implementations.values():
                        check_equal(bp.marginals(messages), implementation(messages))
                row = compare(calls, batch, options.rounds, options.budget)
                print("| " + ", ".join(map(str, size)) + f" | {batch} | {row} |", flush=True)
        print()
    extra = subprocess.run([sys.executable, "-c", FIRST_CALL], check=True, stdout=-1).stdout
    print(f"first call: {1e3 * float(extra):.1f} ms more than the second")
    for name, value in (("kernel", "1"), ("plain", "0")):
        environment = {**os.environ, KERNEL_VARIABLE: value}
        output = subprocess.run(
            [sys.executable, "-c", PEAK], env=environment, check=True, stdout=-1
        ).stdout
        before, after = map(float, output.split())
        print(f"peak memory, {name}: {after:.2f} GiB, of which {before:.2f} before the call")


if __name__ == "__main__":
    main()
