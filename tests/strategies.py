"""Hypothesis strategies and random inputs: grammars, messages, draws, batches."""

import math
from itertools import pairwise
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from lit_hier.processes import EpsilonNoise, GaussianNoise, MaskingNoise, NoiseProcess
from lit_hier.rhm import RandomHierarchyModel

PROCESSES: list[NoiseProcess] = [
    EpsilonNoise(),
    EpsilonNoise(strings=True),
    MaskingNoise(),
    GaussianNoise(),
]
LAST_DRAW = 1 - 2**-53  # the largest double below one
SEEDS = st.integers(0, 2**32 - 1)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def num_data(v: int, m: int, s: int, L: int, n: int) -> int:
    """Count data: a class, and a rule for each node above the leaves."""
    return n * m ** sum(s**k for k in range(L))


@st.composite
def grammars(
    draw: st.DrawFn, most_data: float = math.inf, most_leaves: int = 81, min_layers: int = 1
) -> RandomHierarchyModel:
    """Draw grammars with n = v or not, m from 1 to its maximum and bounded numbers of data."""
    v, s = draw(st.integers(2, 8)), draw(st.integers(2, 4))
    max_layers = max(L for L in range(1, 7) if s**L <= most_leaves)
    L = draw(st.integers(min(min_layers, max_layers), max_layers))
    n = draw(st.integers(1, min(12, v**s)) | st.just(v))
    max_synonyms = min(v**s // (max(v, n) if L > 1 else n), 12)
    allowed = [m for m in range(1, max_synonyms + 1) if num_data(v, m, s, L, n) <= most_data]
    m = draw(st.sampled_from(allowed or [1]))
    return RandomHierarchyModel(v, m, s, L, n, seed=draw(SEEDS))


def small_messages(rhm: RandomHierarchyModel, num: int, seed: int) -> Tensor:
    """Return leaf messages of integers from 0 to 15 with positive evidence."""
    g = rng(seed)
    shape = (num, rhm.num_leaves, rhm.num_features)
    messages = torch.randint(0, 16, shape, generator=g)
    messages *= torch.rand(shape, generator=g) < torch.rand(num, 1, 1, generator=g)
    possible = rhm.sample(num, g)[0][..., None]
    positive = messages.gather(-1, possible).clamp(min=1)
    return messages.scatter(-1, possible, positive).double()


def messages_of_any_scale(rhm: RandomHierarchyModel, num: int, seed: int) -> Tensor:
    """Return small messages, those of each leaf times a power of two from 2^-300 to 2^300."""
    messages = small_messages(rhm, num, seed)
    powers = torch.randint(-300, 301, (num, rhm.num_leaves, 1), generator=rng(seed + 1))
    return torch.ldexp(messages, powers)


def renamed(rhm: RandomHierarchyModel, names: list[Tensor]) -> RandomHierarchyModel:
    """Return the grammar whose symbol names[l][x] is symbol x of level l of the given one."""
    rules = []
    for level, rule in enumerate(rhm.rules):
        new = torch.empty_like(rule)
        new[names[level + 1]] = names[level][rule]
        rules.append(new)
    return RandomHierarchyModel.from_rules(rules, rhm.num_features)


def random_names(rhm: RandomHierarchyModel, seed: int) -> list[Tensor]:
    """Return a random permutation of the symbols of each level."""
    g = rng(seed)
    sizes = [rhm.num_features] * rhm.num_layers + [rhm.num_classes]
    return [torch.randperm(size, generator=g) for size in sizes]


def draws_of(num: int, each: int, seed: int) -> Tensor:
    """Return uniform numbers, some at the ends of their range."""
    g = rng(seed)
    draws = torch.rand(num, each, generator=g, dtype=torch.float64)
    kind = torch.randint(0, 6, draws.shape, generator=g)
    draws[kind == 0] = 0.0
    draws[kind == 1] = LAST_DRAW
    return draws


def parts_of(num: int) -> st.SearchStrategy[list[list[int]]]:
    """Draw divisions of 0 to num - 1, in any order, into batches, some of them empty."""

    def cut(order_and_ends: tuple[list[int], list[int]]) -> list[list[int]]:
        order, ends = order_and_ends
        bounds = [0, *sorted(ends), num]
        return [order[a:b] for a, b in pairwise(bounds)]

    ends: Any = st.lists(st.integers(0, num), max_size=5)
    return st.tuples(st.permutations(range(num)), ends).map(cut)


def messages_of_different_sharpness(
    rhm: RandomHierarchyModel, num: int, seed: int, dtype: torch.dtype
) -> Tensor:
    """Messages of very different scales, from rounding alone to underflow alone, some zero."""
    g = rng(seed)
    shape = (num, rhm.num_leaves, rhm.num_features)
    messages = torch.rand(shape, generator=g, dtype=torch.float64)
    true = torch.nn.functional.one_hot(rhm.sample(num, g)[0], rhm.num_features).bool()
    messages *= (torch.rand(shape, generator=g) < 0.7) | true
    sharpness = torch.rand(num, 1, 1, generator=g, dtype=torch.float64) * 30
    scale = torch.exp(8 * torch.randn(num, rhm.num_leaves, 1, generator=g).double())
    messages = (messages**sharpness * scale).clamp(max=1e30)
    return torch.where(true, messages.clamp(min=1e-30), messages).to(dtype)


def random_draws(rhm: RandomHierarchyModel, num: int) -> Tensor:
    """Uniform numbers that choose a tree, for each of some samples."""
    return torch.rand(num, 1 + rhm.num_choices, generator=rng(num), dtype=torch.float64)
