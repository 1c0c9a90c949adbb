"""What looking into a network costs: hooks, statistics and cosines, beside its forward pass.

python benchmarks/similarity.py                    # ConvNeXt Base at 224 x 224, and the RHM's CNN
python benchmarks/similarity.py --device cuda

Networks have random weights. Reported is the time that `ActivationSimilarity` takes for a batch at
several inversion times, and that its reference set takes, relative to as many bare forward passes;
the median over interleaved rounds, with quartiles. Beside them, what it takes to read once the
numbers that are compared (one dot product per layer): less is not possible.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torchvision.models import convnext_base

from lit_hier.metrics import SimilarityTo, Standardization, channel_moments
from lit_hier.nn import HierarchicalCNN, Probe, evaluate
from lit_hier.nn.layers import paper_layers

NUM_TIMES = 3


def seconds(work: Callable[[], object], device: str) -> float:
    """Time a piece of work, all of it."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def as_it_lies(x: torch.Tensor) -> torch.Tensor:
    """Give a tensor's numbers in memory's order, without a copy."""
    return x.as_strided((x.numel(),), (1,))


def overheads(network: nn.Module, layers: list[str], x: torch.Tensor, rounds: int) -> np.ndarray:
    """Give what looking costs over what forward passes cost, less 1: (rounds, 3)."""
    probe, device = Probe(network, layers), x.device.type
    moments = {}
    probe(x, lambda name, output: moments.__setitem__(name, channel_moments(output)))
    standard = {name: Standardization.of(found) for name, found in moments.items()}
    others = [x + 0.1 * torch.randn_like(x) for _ in range(NUM_TIMES)]

    def bare() -> None:
        for batch in (x, *others):
            evaluate(network, batch)

    def similarity() -> None:
        start = {}
        probe(x, lambda name, y: start.__setitem__(name, SimilarityTo(y, standard[name])))
        for other in others:
            probe(other, lambda name, y: start[name](y))

    def reading() -> None:
        start = {}
        probe(x, lambda name, y: start.__setitem__(name, as_it_lies(y)))
        for other in others:
            probe(other, lambda name, y: torch.dot(start[name], as_it_lies(y)))

    def reference() -> None:
        for batch in (x, *others):
            probe(batch, lambda name, output: channel_moments(output))

    found = []
    for _ in range(rounds + 1):
        plain = seconds(bare, device)
        works = (similarity, reading, reference)
        found.append([seconds(work, device) / plain - 1 for work in works])
    return np.array(found[1:])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.manual_seed(0)
    image, datum = torch.randn(4, 3, 224, 224), torch.randn(250, 16, 128)
    large = convnext_base()
    cases = {
        "ConvNeXt Base, 224 x 224, batch 4": (large, list(paper_layers(large)), image),
        "RHM's CNN (16, 4, 2, 7), batch 250": (
            HierarchicalCNN(16, 16, 2, 7, 128), ["layers.*", "readout"], datum,
        ),
    }  # fmt: skip
    print("| network | similarity | reading | reference set |\n| --- | --- | --- | --- |")
    for name, (network, layers, x) in cases.items():
        ratios = overheads(network.to(given.device), layers, x.to(given.device), given.rounds)
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75], axis=0) * 100
        cells = (
            f"{m:+.0f} % ({a:+.0f} to {b:+.0f})" for a, m, b in zip(low, middle, high, strict=True)
        )
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
