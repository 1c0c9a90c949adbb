"""Measure the share of a GPU's copy bandwidth that belief propagation uses.

python benchmarks/gpu_belief_propagation.py [--batches 256 1024 4096]

The bytes counted are those that must be moved: the leaf messages are read once, and the marginals
of all levels are written once. The rate at which the computation of all marginals moves them is
compared with that of a plain copy on the same card: medians and quartiles over interleaved rounds.
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
    """Return the time per call, measured by CUDA events."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[256, 1024, 4096], help="batch sizes"
    )
    parser.add_argument("--rounds", type=int, default=9, help="number of interleaved rounds")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no CUDA device is available; this benchmark needs a GPU")
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}, float32\n")
    print("| v, m, s, L | batch | samples per second | GB/s | copy, GB/s | share of the copy |")
    print("| --- | --- | --- | --- | --- | --- |")
    source = torch.empty(2**28, device="cuda").normal_()
    target = torch.empty_like(source)
    for size in SIZES:
        rhm = RandomHierarchyModel(*size)
        bp = BeliefPropagation(rhm).cuda()
        for batch in options.batches:
            leaves = rhm.sample(batch, torch.Generator().manual_seed(0))[0].cuda()
            messages = EpsilonNoise().messages(leaves, 0.6, size[0], torch.float32)
            marginals = bp.marginals(messages)
            moved = messages.nbytes + sum(level.nbytes for level in marginals)
            del marginals
            rates = []
            for _ in range(options.rounds):
                copied = 2 * source.nbytes / seconds(partial(target.copy_, source), 5)
                duration = seconds(partial(bp.marginals, messages), 5)
                rates.append((batch / duration, moved / duration / 1e9, copied / 1e9))
            array = np.array(rates)
            rate, used, copy = np.median(array, 0)
            low, middle, high = np.percentile(array[:, 1] / array[:, 2], [25, 50, 75])
            print(
                f"| {', '.join(map(str, size))} | {batch} | {rate:,.0f} | {used:,.0f} |"
                f" {copy:,.0f} | {middle:.1%} ({low:.1%} to {high:.1%}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
