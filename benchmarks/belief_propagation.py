"""Belief propagation against simple ways of writing it, as ratios in one run.

python benchmarks/belief_propagation.py [--device cuda] [--batch 100]

Each competitor computes the same marginals (checked first); rounds are interleaved, so that a
noisy machine disturbs all alike, and the median ratio is printed with its quartiles.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lit_hier.inference import BeliefPropagation
from lit_hier.noise import EpsilonNoise
from lit_hier.rhm import RandomHierarchyModel, Tree


def normalise(x: Tensor) -> Tensor:
    """Scale to a sum of one over the last axis."""
    return x / x.sum(-1, keepdim=True)


def dense(rhm: RandomHierarchyModel, device: str) -> Callable[[Tensor], Tree]:
    """Contract the v x v x v factor (s = 2) with einsum."""
    factors = []
    for rule in rhm.rules:
        factor = torch.zeros(len(rule), *(rhm.num_features,) * 2, device=device)
        for y, tuples in enumerate(rule):
            factor[y, tuples[:, 0], tuples[:, 1]] = 1
        factors.append(factor)

    def marginals(leaves: Tensor) -> Tree:
        up, down = [normalise(leaves)], []
        for factor in factors:
            left, right = up[-1].unflatten(1, (-1, 2)).unbind(2)
            up.append(normalise(torch.einsum("yac,zna,znc->zny", factor, left, right)))
        down.append(torch.full_like(up[-1], 1 / up[-1].shape[-1]))
        for factor, below in zip(reversed(factors), reversed(up[:-1]), strict=True):
            left, right = below.unflatten(1, (-1, 2)).unbind(2)
            to_left = torch.einsum("yac,zny,znc->zna", factor, down[-1], right)
            to_right = torch.einsum("yac,zny,zna->znc", factor, down[-1], left)
            down.append(normalise(torch.stack((to_left, to_right), 2).flatten(1, 2)))
        return tuple(normalise(u * d) for u, d in zip(up, reversed(down), strict=True))

    return marginals


def gather(rhm: RandomHierarchyModel, device: str) -> Callable[[Tensor], Tree]:
    """Gather both children's messages for every rule, batch first (s = 2)."""
    rules = [rule.to(device) for rule in rhm.rules]

    def marginals(leaves: Tensor) -> Tree:
        up = [normalise(leaves)]
        for rule in rules:
            left, right = up[-1].unflatten(1, (-1, 2)).unbind(2)
            up.append(normalise((left[..., rule[..., 0]] * right[..., rule[..., 1]]).sum(-1)))
        down = [torch.full_like(up[-1], 1 / up[-1].shape[-1])]
        for rule, below in zip(reversed(rules), reversed(up[:-1]), strict=True):
            messages = []
            children = below.unflatten(1, (-1, 2)).unbind(2)
            for j, other in ((0, children[1]), (1, children[0])):
                weight = down[-1][..., None] * other[..., rule[..., 1 - j]]
                message = torch.zeros_like(other)
                message.index_add_(-1, rule[..., j].flatten(), weight.flatten(-2))
                messages.append(message)
            down.append(normalise(torch.stack(messages, 2).flatten(1, 2)))
        return tuple(normalise(u * d) for u, d in zip(up, reversed(down), strict=True))

    return marginals


def seconds(call: Callable[[], object], device: str) -> float:
    """Time one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    device = options.device
    print(
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, float32,"
        f" batch {options.batch}"
    )
    print(
        "| v, m, s, L | this project | dense einsum | gather per rule | over dense | over gather |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for v, m, s, L in ((16, 4, 2, 7), (32, 8, 2, 10)):
        rhm = RandomHierarchyModel(v, m, s, L)
        tree = rhm.sample(options.batch, torch.Generator().manual_seed(0))
        messages = EpsilonNoise().messages(tree[0], 0.6, v, torch.float32).to(device)
        bp = BeliefPropagation(rhm).to(device)
        peers = [bp.marginals, dense(rhm, device), gather(rhm, device)]
        answers = [peer(messages) for peer in peers]
        for answer in answers[1:]:
            for a, b in zip(answers[0], answer, strict=True):
                assert torch.allclose(a, b, atol=1e-4)
        times = np.array(
            [
                [seconds(partial(peer, messages), device) for peer in peers]
                for _ in range(options.rounds)
            ]
        )
        rate = [f"{options.batch / t:,.0f}/s" for t in np.median(times, 0)]
        ratios = [np.percentile(times[:, k] / times[:, 0], [25, 50, 75]) for k in (1, 2)]
        spread = [f"{r[1]:.1f} ({r[0]:.1f} to {r[2]:.1f})" for r in ratios]
        print(f"| {v}, {m}, {s}, {L} | " + " | ".join(rate + spread) + " |")


if __name__ == "__main__":
    main()
