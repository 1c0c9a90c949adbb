"""Measure the cost of comparing activations, relative to a network's forward pass.

python benchmarks/similarity.py                    # ConvNeXt Base at 224 x 224, and the RHM's CNN
python benchmarks/similarity.py --device cuda

Networks have random weights. The table lists the extra time over the same number of bare forward
passes, medians and quartiles over interleaved rounds, of: `ActivationSimilarity` for one batch at
several inversion times; reading the compared activations once (one dot product per layer), a lower
bound; and the statistics of the reference set.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torchvision.models import convnext_base, convnext_tiny

from lit_hier.metrics import SimilarityTo, Standardization, channel_moments
from lit_hier.nn import HierarchicalCNN, Probe, evaluate
from lit_hier.nn.layers import paper_layers

NUM_TIMES = 3


def seconds(work: Callable[[], object], device: str) -> float:
    """Time a call, until the device has finished."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_memory_order(x: torch.Tensor) -> torch.Tensor:
    """Return a flat view of a dense tensor, in the order of its memory."""
    return x.as_strided((x.numel(),), (1,))


def measure_overheads(
    network: nn.Module, layers: list[str], x: torch.Tensor, rounds: int
) -> tuple[np.ndarray, list[float]]:
    """Time each measurement beside bare forward passes.

    Returns:
        The extra time of similarity, of reading and of the reference set over bare forward passes,
        shape (rounds, 3), and the seconds of one such pass in each round.
    """
    probe, device = Probe(network, layers), x.device.type
    moments = {}
    probe(x, lambda name, output: moments.__setitem__(name, channel_moments(output)))
    standardizations = {name: Standardization.of(value) for name, value in moments.items()}
    others = [x + 0.1 * torch.randn_like(x) for _ in range(NUM_TIMES)]

    def bare() -> None:
        for batch in (x, *others):
            evaluate(network, batch)

    def similarity() -> None:
        start = {}
        probe(x, lambda name, y: start.__setitem__(name, SimilarityTo(y, standardizations[name])))
        for other in others:
            probe(other, lambda name, y: start[name].with_partners(y))

    def reading() -> None:
        start = {}
        probe(x, lambda name, y: start.__setitem__(name, in_memory_order(y)))
        for other in others:
            probe(other, lambda name, y: torch.dot(start[name], in_memory_order(y)))

    def reference() -> None:
        for batch in (x, *others):
            probe(batch, lambda name, output: channel_moments(output))

    overheads, passes = [], []
    for _ in range(rounds + 1):
        plain = seconds(bare, device)
        works = (similarity, reading, reference)
        overheads.append([seconds(work, device) / plain - 1 for work in works])
        passes.append(plain / (1 + NUM_TIMES))
    return np.array(overheads[1:]), passes[1:]  # the first round is a warm-up


def cases(
    batch: int = 4, small: bool = False
) -> dict[str, tuple[nn.Module, list[str], torch.Tensor]]:
    """Return networks with random weights, their layers and data.

    Args:
        batch: Images of ConvNeXt; the RHM's CNN has 250 data.
        small: Whether to take small networks instead.
    """
    torch.manual_seed(0)
    side, length = (32, 16) if small else (224, 128)
    large = convnext_tiny() if small else convnext_base()
    datum = torch.randn(250, 16, length)
    return {
        f"ConvNeXt {'Tiny' if small else 'Base'}, {side} x {side}, batch {batch}": (
            large, list(paper_layers(large)), torch.randn(batch, 3, side, side),
        ),
        f"RHM's CNN (16, 4, 2, {length.bit_length() - 1}), batch 250": (
            HierarchicalCNN(16, 16, 2, length.bit_length() - 1, 128), ["layers.*", "readout"],
            datum,
        ),
    }  # fmt: skip


def percent(ratios: np.ndarray) -> str:
    """Format the median and the quartiles of extra times."""
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75]) * 100
    return f"{middle:+.1f} % ({low:+.1f} to {high:+.1f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--device", default="cpu", help="device, such as cpu or cuda")
    parser.add_argument("--batch", type=int, default=4, help="images of ConvNeXt in a batch")
    parser.add_argument("--rounds", type=int, default=7, help="number of interleaved rounds")
    options = parser.parse_args()
    print("| network | similarity | reading | reference set |\n| --- | --- | --- | --- |")
    for name, (network, layers, x) in cases(options.batch).items():
        network, x = network.to(options.device), x.to(options.device)
        ratios, _ = measure_overheads(network, layers, x, options.rounds)
        print(f"| {name} | {' | '.join(map(percent, ratios.T))} |", flush=True)


if __name__ == "__main__":
    main()
