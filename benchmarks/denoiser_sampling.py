"""Measure the network's share of sampling with a denoiser of the Random Hierarchy Model.

python benchmarks/denoiser_sampling.py [--batch 250] [--rounds 5]

A U-Net of width 64 for (v, n, m, s, L) = (8, 8, 2, 2, 4) denoises a batch at 8 inversion times. A
plain loop makes the same number of forward passes of the same network on as many data, and does
nothing else. The share is the time of the plain loop divided by that of the sampler, all of its
work included: noise, exact inference on the same data, and parsing. Median and quartiles over
interleaved rounds. Under masking, the sampler skips data without masked leaves, so that its share
may exceed 1.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from lit_hier.data import RHMDataModule
from lit_hier.modules import NetworkDenoiser
from lit_hier.nn import TreeUNet
from lit_hier.processes import EpsilonNoise, GaussianNoise, MaskingNoise, NoiseProcess
from lit_hier.rhm import RandomHierarchyModel

V, M, S, L = 8, 2, 2, 4
NUM_TIMES = 8
PROCESSES: tuple[tuple[NoiseProcess, float], ...] = (
    (MaskingNoise(), 1.0),
    (EpsilonNoise(strings=True), 1.0),
    (GaussianNoise(), 1.0),
)


def measure(work: Callable[[], object]) -> float:
    """Return the seconds that some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print the network's share for each process and both ways to sample."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--batch", type=int, default=250, help="data per batch")
    parser.add_argument("--rounds", type=int, default=5, help="number of interleaved rounds")
    options = parser.parse_args()
    rhm = RandomHierarchyModel(V, M, S, L)
    data = RHMDataModule(rhm, 1, 0, 0, options.batch, eval_batch_size=options.batch)
    data.setup()
    (batch,) = data.predict_dataloader()
    torch.manual_seed(0)
    network = TreeUNet(V, S, L).eval()
    num = options.batch * NUM_TIMES
    messages = torch.rand(num, rhm.num_leaves, V)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {num} strings at once\n")
    print("| process | steps | strings per second | network's share |")
    print("| --- | --- | --- | --- |")
    for process, last in PROCESSES:
        times = np.linspace(last / NUM_TIMES, last, NUM_TIMES).tolist()
        for steps in (rhm.num_leaves // 2, rhm.num_leaves):
            sampler = NetworkDenoiser(rhm, process, times, [network], steps=steps)

            @torch.no_grad()
            def loop(steps: int = steps) -> None:
                for _ in range(steps):
                    network(messages)

            def sample(sampler: torch.nn.Module = sampler) -> None:
                sampler.predict_step(batch, 0)

            loop()
            sample()
            seconds = np.array([(measure(loop), measure(sample)) for _ in range(options.rounds)])
            low, middle, high = np.percentile(seconds[:, 0] / seconds[:, 1], [25, 50, 75])
            rate = num / np.median(seconds[:, 1])
            name = process.axis.process
            print(f"| {name} | {steps} | {rate:.0f} | {middle:.2f} ({low:.2f} to {high:.2f}) |")


if __name__ == "__main__":
    main()
