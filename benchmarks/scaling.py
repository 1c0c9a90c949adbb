r"""Fit exponents of the time and of the work of belief propagation.

python benchmarks/scaling.py [--rounds 7]

One parameter varies at a time; the others stay at (16, 4, 2, 7) with 256 samples on one thread.
For each, two exponents are fitted over the same values: that of the time, and that of the number
of multiplications in Eq. 13 and 15,

.. math:: \frac{s^L - 1}{s - 1} \, m v \, \big(s - 1 + s (s - 1)\big)

as each family of siblings sends one message up and s down. Several processes, of one thread each,
split the samples evenly: while there are cores for all, the ideal time is proportional to
1 / processes.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from lit_hier.inference import BeliefPropagation
from lit_hier.rhm import RandomHierarchyModel


class Size(NamedTuple):
    """A grammar and a number of samples."""

    v: int = 16
    m: int = 4
    s: int = 2
    L: int = 7
    batch: int = 256

    @property
    def work(self) -> int:
        """The number of multiplications."""
        families = (self.s**self.L - 1) // (self.s - 1)
        return self.batch * families * self.m * self.v * (self.s**2 - 1)


SWEEPS: dict[str, tuple[Size, ...]] = {
    "v": tuple(Size(v=v) for v in (8, 16, 32, 64, 128)),
    "m": tuple(Size(m=m) for m in (1, 2, 4, 8, 16)),
    "s": tuple(Size(s=s, L=4) for s in (2, 3, 4, 5)),
    "L": tuple(Size(L=L) for L in (4, 5, 6, 7, 8, 9, 10)),
    "batch": tuple(Size(batch=batch) for batch in (1, 16, 64, 256, 1024, 4096)),
}


def time_call(size: Size, rounds: int) -> float:
    """Return the seconds per call in the fastest round."""
    bp = BeliefPropagation(RandomHierarchyModel(size.v, size.m, size.s, size.L))
    leaves = torch.rand(size.batch, size.s**size.L, size.v)
    bp.marginals(leaves)
    repeats = max(1, round(3e7 / size.work))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(repeats):
            bp.marginals(leaves)
        times.append((time.perf_counter() - start) / repeats)
    return min(times)


def fit_exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Fit y proportional to x^a and return a."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def compute_share(size: Size, rounds: int, barrier: "multiprocessing.synchronize.Barrier") -> None:
    """Compute the marginals of one process's share whenever all processes are ready."""
    torch.set_num_threads(1)
    bp = BeliefPropagation(RandomHierarchyModel(size.v, size.m, size.s, size.L))
    leaves = torch.rand(size.batch, size.s**size.L, size.v)
    bp.marginals(leaves)
    for _ in range(rounds):
        barrier.wait()
        for _ in range(5):
            bp.marginals(leaves)
        barrier.wait()


def time_processes(num: int, rounds: int) -> float:
    """Return the seconds of the fastest round of `num` processes."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(num + 1)
    size = Size(batch=4096 // num)
    processes = [
        context.Process(target=compute_share, args=(size, rounds, barrier)) for _ in range(num)
    ]
    for process in processes:
        process.start()
    times = []
    for _ in range(rounds):
        barrier.wait()
        start = time.perf_counter()
        barrier.wait()
        times.append(time.perf_counter() - start)
    for process in processes:
        process.join()
    return min(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="number of rounds, of which the fastest counts"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| parameter | values | exponent of time | of the work |\n| --- | --- | --- | --- |")
    for name, sizes in SWEEPS.items():
        x = [getattr(size, name) for size in sizes]
        values = ", ".join(map(str, x))
        if name == "L":  # the work is exponential in L, a power of the number of leaves
            x, name = [2**L for L in x], "leaves, 2^L"
        times = [time_call(size, options.rounds) for size in sizes]
        measured, expected = fit_exponent(x, times), fit_exponent(x, [size.work for size in sizes])
        print(f"| {name} | {values} | {measured:.2f} | {expected:.2f} |", flush=True)
    most = os.cpu_count() or 1
    numbers = sorted({1, *(2**k for k in range(1, most.bit_length()) if 2**k <= most)})
    if len(numbers) > 1:
        measured = fit_exponent(numbers, [time_processes(num, options.rounds) for num in numbers])
        print(f"| processes | {', '.join(map(str, numbers))} | {measured:.2f} | -1.00 |")


if __name__ == "__main__":
    main()
