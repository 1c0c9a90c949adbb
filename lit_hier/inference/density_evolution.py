r"""Density evolution: the beliefs of an RHM averaged over random rules, under any process.

Mean field (`lit_hier.inference.mean_field`) follows the average message of a level. Density
evolution follows the distribution of the messages, as a population of samples: leaf messages are
drawn from the process, a level's messages from those below (Eq. 13-16) with rules drawn anew, and
so on up to the root, then down. Correlations between subtrees are absent, as on a tree with random
rules. The one approximation is that all nodes have rules of their own, while nodes of one level
of an RHM share theirs.

By symmetry, every node's true symbol is called 0 and the true tuple is (0, ..., 0). The other
m n - 1 rules of n parents are drawn without replacement from the v^s - 1 other tuples, the first
m - 1 for the true parent.

The population consists of `NUM_REPLICAS` independent parts; their spread gives the standard error
of every result. All times have the same draws, so that curves are smooth.

Source: the population dynamics of Mezard and Montanari, Information, Physics, and Computation
(2009), Section 14.6.3, for the ensemble of Section 2 of the paper.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor
from torch.quasirandom import SobolEngine

from lit_hier.inference import mean_field
from lit_hier.io.arrays import write_samples
from lit_hier.io.safe_read import open_regular
from lit_hier.processes import NoiseProcess
from lit_hier.rhm.parameters import GrammarParameters
from lit_hier.rhm.sampling import sample_distinct_words

NUM_REPLICAS: Final = 8
# Errors grow from level to level near a transition, so the population is largest at the leaves.
_MAX_SIZE: Final = 4096  # of a replica at the leaves; half as large at each level above
_MIN_SIZE: Final = 1024
_MAX_PRODUCTS: Final = 2**21  # of a level and a replica, which bounds memory and cost
_NODES_PER_RULES: Final = 4  # that share one draw of rules
_MAX_RANKED: Final = 65536  # tuples up to which random ranks choose the rules
_RECOVERED: Final = 0.9  # of the way from ignorance to certainty
_LOST: Final = 0.02
_MAX_RULES: Final = 12  # levels that have rules of their own; those above share the last ones
_MAX_LEVELS: Final = 100  # to decide on which side of the transition a time is
_NUM_BISECTIONS: Final = 12
_RESOLUTION: Final = 1e-9  # of beliefs that are sorted: rounding must not decide their order
_FORMAT: Final = 2  # of kept results; those of another version are computed again
_RESULTS: Final[dict[str, Float64[np.ndarray, "..."]]] = {}  # of this process, by digest
_FIRST_TIME: Final = 0.0625  # tried

Messages = Float64[Tensor, "replicas _ _"]  # of a population, over symbols
Rules = Int64[Tensor, "_ _ s"]  # sets, rules, positions


@dataclass(frozen=True)
class Evolution:
    """Averages over nodes and random rules, each of shape (T, L + 1, 2): value, standard error.

    Attributes:
        upward: Upward belief in the true symbol, leaves first.
        downward: Downward belief in it.
        marginal: Posterior probability of it.
        largest: Largest posterior probability.
        entropy: Entropy of the posterior, in nats.
    """

    upward: Float64[np.ndarray, "T levels 2"]
    downward: Float64[np.ndarray, "T levels 2"]
    marginal: Float64[np.ndarray, "T levels 2"]
    largest: Float64[np.ndarray, "T levels 2"]
    entropy: Float64[np.ndarray, "T levels 2"]


def evolve(
    grammar: GrammarParameters,
    process: NoiseProcess,
    times: Float64[np.ndarray, " T"] | Sequence[float],
    seed: int = 0,
    cache: str | PathLike[str] | None = None,
) -> Evolution:
    """Compute the beliefs at every level of the tree.

    Args:
        grammar: The parameters.
        process: How leaves are corrupted.
        times: Inversion times, T of them.
        seed: Seed of the population.
        cache: A folder in which the result is kept, and looked for.
    """
    start = functools.cache(partial(_start, grammar, seed))  # rules are drawn where needed
    found = np.empty((5, len(times), grammar.L + 1, 2))
    for k, time in enumerate(map(float, times)):
        key = repr((grammar, process.key, time, seed))
        found[:, k] = _cached(cache, "beliefs", key, partial(_evolve, start, process, time))
    return Evolution(*found)


def _start(grammar: GrammarParameters, seed: int) -> tuple["_Population", list[Rules]]:
    v, n, _, _, L = grammar
    population = _Population(grammar, seed)
    return population, [
        population.draw_rules(level, n if level == L else v) for level in range(1, L + 1)
    ]


def _evolve(
    start: Callable[[], tuple["_Population", list[Rules]]], process: NoiseProcess, time: float
) -> Float64[np.ndarray, "5 levels 2"]:
    """Compute value and standard error of the five quantities at one time."""
    population, rules = start()
    population.restart()
    up = [population.draw_leaves(process, [time] * NUM_REPLICAS)]
    for drawn in rules:
        up.append(population.ascend(up[-1], drawn))
    down = [torch.full_like(up[-1], 1 / up[-1].shape[-1])]
    for level in reversed(range(len(rules))):
        down.append(population.descend(down[-1], up[level], rules[level]))
    levels = []
    for upward, downward in zip(up, reversed(down), strict=True):
        below, above = population.draw(downward.shape[1], upward, downward)
        posterior = _normalize(below * above)
        entropy = -torch.special.xlogy(posterior, posterior).sum(-1)
        beliefs = (upward[..., 0], downward[..., 0], posterior[..., 0], posterior.amax(-1))
        levels.append(torch.stack([part.mean(1) for part in (*beliefs, entropy)]))
    found = torch.stack(levels, 1)  # (quantities, levels, replicas)
    error = found.std(-1) / math.sqrt(NUM_REPLICAS)
    return torch.stack((found.mean(-1), error), -1).numpy()


def critical_time(
    grammar: GrammarParameters,
    process: NoiseProcess,
    seed: int = 0,
    cache: str | PathLike[str] | None = None,
) -> tuple[float, float]:
    """Find the inversion time of the transition as L grows, by bisection in each replica.

    Args:
        grammar: The parameters; n and L do not matter.
        process: How leaves are corrupted.
        seed: Seed of the population.
        cache: A folder in which the result is kept, and looked for.

    Returns:
        The time and its standard error; NaN if there is no transition.
    """
    grammar = grammar._replace(n=grammar.v, L=1)
    key = repr((grammar, process.key, seed))
    find = partial(_find_critical_time, grammar, process, seed)
    time, error = _cached(cache, "critical_time", key, find).tolist()
    return time, error


def _find_critical_time(
    grammar: GrammarParameters, process: NoiseProcess, seed: int
) -> Float64[np.ndarray, " 2"]:
    v, _, m, s, _ = grammar
    if math.isnan(mean_field.critical_epsilon(v, m, s)):
        return np.full(2, np.nan)
    population = _Population(grammar, seed)
    rules = [population.draw_rules(level, v) for level in range(1, _MAX_RULES + 1)]
    end, first = process.axis.end, np.full(NUM_REPLICAS, _FIRST_TIME)
    while first[0] < end and _recovers(population, process, first, rules).any():
        first *= 2
    low, high = np.zeros(NUM_REPLICAS), np.minimum(first, end)
    for _ in range(_NUM_BISECTIONS):
        middle = (low + high) / 2
        recovered = _recovers(population, process, middle, rules)
        low, high = np.where(recovered, middle, low), np.where(recovered, high, middle)
    found = (low + high) / 2
    return np.array([found.mean(), found.std(ddof=1) / math.sqrt(NUM_REPLICAS)])


def _recovers(
    population: "_Population",
    process: NoiseProcess,
    times: Float64[np.ndarray, " replicas"],
    rules: Sequence[Rules],
) -> Bool[np.ndarray, " replicas"]:
    """Tell for each replica, at a time of its own, whether the class is recovered as L grows."""
    population.restart()
    messages = population.draw_leaves(process, times.tolist())
    ignorance = 1 / population.v
    for level in range(_MAX_LEVELS):
        messages = population.ascend(messages, rules[min(level, len(rules) - 1)])
        progress = (messages[..., 0].mean(1) - ignorance) / (1 - ignorance)
        if ((progress > _RECOVERED) | (progress < _LOST)).all():
            break
    return np.asarray(progress > (_RECOVERED + _LOST) / 2)


def _cached(
    folder: str | PathLike[str] | None,
    kind: str,
    key: str,
    compute: Callable[[], Float64[np.ndarray, "..."]],
) -> Float64[np.ndarray, "..."]:
    """Return a result from memory or from a folder, or compute and keep it."""
    settings = (
        *(_FORMAT, _MAX_SIZE, _MIN_SIZE, _MAX_PRODUCTS, _NODES_PER_RULES, NUM_REPLICAS),
        *(_MAX_RULES, _MAX_LEVELS, _NUM_BISECTIONS),
    )
    digest = hashlib.sha256(repr((settings, kind, key)).encode()).hexdigest()[:32]
    if digest not in _RESULTS:
        path = None if folder is None else Path(folder, f"{kind}_{digest}.npz")
        found = None if path is None else _load(path, digest)
        if found is None:
            found = compute()
            if path is not None:
                write_samples(str(path.parent), path.stem, {digest: found, "key": key})
        _RESULTS[digest] = found
    return _RESULTS[digest]


def _load(path: Path, digest: str) -> Float64[np.ndarray, "..."] | None:
    """Load a kept result; None if it is missing or damaged."""
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as arrays:
            found = arrays[digest]
    except Exception:  # numpy raises almost any error on a damaged file, which is computed again
        return None
    return found if found.dtype == np.float64 else None


class _Population:
    """Draws and maps messages, all of shape (replicas, population, symbols)."""

    def __init__(self, grammar: GrammarParameters, seed: int) -> None:
        self.v, n, self.m, self.s, _ = grammar
        self.seed = seed
        self.generator = torch.Generator()
        self.restart()
        most = min(_MAX_SIZE, _MAX_PRODUCTS // (self.m * max(self.v, n)))
        self.max_sets = 2 ** int(math.log2(max(1, most // _NODES_PER_RULES)))

    def restart(self) -> None:
        """Draw the same numbers again."""
        self.generator.manual_seed(self.seed)

    def draw_leaves(self, process: NoiseProcess, times: Sequence[float]) -> Messages:
        """Draw leaf messages, each replica at a time of its own.

        Each of the uniform draws behind them is stratified: a Latin hypercube, which leaves little
        noise where it would grow most.
        """
        size = self.max_sets * _NODES_PER_RULES
        leaves = torch.zeros(size, 1, dtype=torch.int64)
        messages = []
        for time in times:
            shape = (size, process.num_draws(1, self.v))
            draws = torch.rand(shape, generator=self.generator, dtype=torch.float64)
            strata = torch.rand(shape, generator=self.generator).argsort(0)
            observed = process.corrupt(leaves, time, (strata + draws) / size, self.v)
            messages.append(process.messages(observed, time, self.v, torch.float64)[:, 0])
        return torch.stack(messages)

    def draw_rules(self, level: int, num_parents: int) -> Rules:
        """Draw rules for the nodes of a level, m for each parent in turn; the first is zeros."""
        least = min(self.max_sets, _MIN_SIZE // _NODES_PER_RULES)
        num_sets = NUM_REPLICAS * max(self.max_sets >> (level - 1), least)
        num, total = self.m * num_parents, self.v**self.s
        if total <= _MAX_RANKED:
            chunks = torch.arange(num_sets).split(max(1, 2**24 // total))
            ranks = torch.cat([self._choose(len(chunk), num - 1, total) for chunk in chunks])
            powers = self.v ** torch.arange(self.s)
            return ranks[..., None] // powers % self.v
        generator = np.random.default_rng((self.seed, level))
        drawn = np.empty((num_sets, num, self.s), dtype=np.int64)
        for rules in drawn:
            rules[:] = sample_distinct_words(generator, num, [self.v] * self.s, "rules")
            true = np.flatnonzero(~rules.any(1))
            rules[true[0] if len(true) else 0] = rules[0]
            rules[0] = 0
        return torch.from_numpy(drawn)

    def _choose(self, num_sets: int, num: int, total: int) -> Int64[Tensor, "_ _"]:
        """Choose tuples without replacement, by their rank: 0, then others in random order."""
        keys = torch.rand(num_sets, total - 1, generator=self.generator)
        others = 1 + keys.argsort(dim=1, stable=True)[:, :num]
        return torch.cat((others.new_zeros(num_sets, 1), others), 1)

    def draw(self, size: int, *parts: Messages) -> list[Messages]:
        """Draw tuples of independent messages from several populations.

        Sobol points choose them among the messages sorted by belief in the truth (array-RQMC:
        L'Ecuyer, Lecot and Tuffin, Operations Research 56, 958, 2008).
        """
        seeds = torch.randint(2**31, (NUM_REPLICAS,), generator=self.generator).tolist()
        engines = [SobolEngine(len(parts), scramble=True, seed=seed) for seed in seeds]
        points = torch.stack([engine.draw(size, dtype=torch.float64) for engine in engines])
        drawn = []
        for part, position in zip(parts, points.unbind(-1), strict=True):
            rank = (position * part.shape[1]).long().clamp(max=part.shape[1] - 1)
            order = (part[..., 0] / _RESOLUTION).round().argsort(dim=1, stable=True)
            index = order.gather(1, rank)
            drawn.append(part.gather(1, index[..., None].expand(-1, -1, part.shape[-1])))
        return drawn

    def ascend(self, messages: Messages, rules: Rules) -> Messages:
        """Draw the upward messages of a level from those of the level below."""
        children = self.draw(_num_nodes(rules), *[messages] * self.s)
        weights = _weigh(children, rules)
        return _ungroup(weights.unflatten(-1, (-1, self.m)).sum(-1))

    def descend(self, downward: Messages, siblings: Messages, rules: Rules) -> Messages:
        """Draw the downward messages of a level from those above and the siblings' upward ones."""
        parent, *others = self.draw(_num_nodes(rules), downward, *[siblings] * (self.s - 1))
        weights = _group(parent, rules).repeat_interleave(self.m, -1)
        weights = weights * _weigh(others, rules[..., 1:])
        children = rules[:, None, :, 0].expand_as(weights)
        sums = weights.new_zeros(*weights.shape[:2], self.v)
        return _ungroup(sums.scatter_add_(-1, children, weights))


def _num_nodes(rules: Rules) -> int:
    """Return the number of nodes of a replica."""
    return len(rules) // NUM_REPLICAS * _NODES_PER_RULES


def _weigh(children: Sequence[Messages], rules: Rules) -> Float64[Tensor, "_ _ _"]:
    """Multiply the children's messages, for each rule."""
    weights = torch.ones((), dtype=torch.float64)
    for child, symbols in zip(children, rules.unbind(-1), strict=True):
        index = symbols[:, None].expand(-1, _NODES_PER_RULES, -1)
        weights = weights * _group(child, rules).gather(-1, index)
    return weights


def _group(messages: Messages, rules: Rules) -> Float64[Tensor, "_ _ _"]:
    return messages.reshape(len(rules), _NODES_PER_RULES, -1)


def _ungroup(messages: Float64[Tensor, "_ _ _"]) -> Messages:
    return _normalize(messages.reshape(NUM_REPLICAS, -1, messages.shape[-1]))


def _normalize(messages: Messages) -> Messages:
    return messages / messages.sum(-1, keepdim=True)
