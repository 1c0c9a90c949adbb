"""Belief propagation on a GPU: which share of the card's copy bandwidth it uses.

python benchmarks/gpu_belief_propagation.py [--batches 256 1024 4096]

What must move is counted: leaf messages in, marginals of all levels out, once each. The rate at
which full marginals move it is compared with the rate of a plain copy on the same card, measured
in turns with it; quartiles over rounds.
"""

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from lit_hier.inference import BeliefPropagation
from lit_hier.processes import EpsilonNoise
from lit_hier.rhm import RandomHierarchyModel

SIZES = ((16, 4, 2, 7), (32, 8, 2, 10))


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Time calls by the card's own clock."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no GPU")
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}, float32\n")
    print("| v, m, s, L | batch | samples a second | GB/s | copy, GB/s | share of the copy |")
    print("| --- | --- | --- | --- | --- | --- |")
    source = torch.empty(2**28, device="cuda").normal_()
    target = torch.empty_like(source)
    for size in SIZES:
        rhm = RandomHierarchyModel(*size)
        bp = BeliefPropagation(rhm).cuda()
        for batch in options.batches:
            leaves = rhm.sample(batch, torch.Generator().manual_seed(0))[0].cuda()
            messages = EpsilonNoise().messages(leaves, 0.6, size[0], torch.float32)
            answers = bp.marginals(messages)
            moved = messages.nbytes + sum(level.nbytes for level in answers)
            del answers
            rates = []
            for _ in range(options.rounds):
                copied = 2 * source.nbytes / seconds(partial(target.copy_, source), 5)
                took = seconds(partial(bp.marginals, messages), 5)
                rates.append((batch / took, moved / took / 1e9, copied / 1e9))
            array = np.array(rates)
            rate, mine, copy = np.median(array, 0)
            low, middle, high = np.percentile(array[:, 1] / array[:, 2], [25, 50, 75])
            print(
                f"| {', '.join(map(str, size))} | {batch} | {rate:,.0f} | {mine:,.0f} |"
                f" {copy:,.0f} | {middle:.1%} ({low:.1%} to {high:.1%}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
