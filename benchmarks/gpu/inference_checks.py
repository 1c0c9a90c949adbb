r"""Belief propagation on the card against plain torch operations on the CPU.

The kernel is promised to have the bits of plain operations, on the same card at least: that is the
sharper comparison, where a single rounding too many shows.

Allowed differences. Messages are sums of products of positive numbers, so that a relative error
only adds up: a product of s messages has the sum of their errors and s - 1 roundings more, a sum
of R terms R more; units are powers of two. With u = eps/2 per rounding this bounds the relative
error of every upward message, downward message and marginal by (number of roundings) u, and the
difference of two ways to compute it by (number of roundings) eps. Normalizing adds the error of
the sum. Numbers lost to underflow change an answer by at most eps of the largest entry, or the
sample is recomputed: two such answers differ by 2 eps more. Where float64 is too narrow, samples
are recomputed with logarithms. Their functions are right within 2 units in the last place, and an
error is relative to the logarithm: a rounding counts 4 times the largest logarithm that is added,
which is at most twice the sum of s of those in upward messages. A tree may differ from a node on
at which the draw is closer to a threshold than the thresholds' own error.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from card import Card
from runner import Report
from sizes import ALL, CHECKED_KERNELS, DTYPES, SIZES, Size, kernel_name
from torch import Tensor
from torch.nn.functional import one_hot
from variants import PLAIN, VARIANTS

from lit_hier.inference import BeliefPropagation
from lit_hier.inference.passes import Passes, Query
from lit_hier.inference.semirings import LinearSemiring, LogSemiring
from lit_hier.rhm import RandomHierarchyModel, Tree

QUERIES: tuple[Query, ...] = ALL
TINY = ((16, 4, 2, 3, 16), (5, 3, 3, 2, 4))
BATCH = 96
ULP_OF_FUNCTIONS = 2  # error of exp, log and logaddexp, on any device


def evidence(rhm: RandomHierarchyModel, num: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return leaf messages from flat to nearly one-hot, of any scale, and possible classes.

    Those of the last third are uniform in their logarithm, over nearly the whole range of the
    type, so that probabilities underflow. Every sample can be explained, by the tree that it was
    made from.
    """
    g = torch.Generator().manual_seed(0)
    tree = rhm.sample(num, g)
    shape = (num, rhm.num_leaves, rhm.num_features)
    power = 2.0 ** torch.linspace(-2, 7, num, dtype=torch.float64).view(-1, 1, 1)
    uniform = torch.rand(shape, generator=g, dtype=torch.float64)
    messages = (uniform**power).scatter(-1, tree[0][..., None], 1.0)
    last = num - num // 3
    messages[last:] = 2.0 ** (-uniform[last:] * (120 if dtype == torch.float32 else 1000))
    scale = 2.0 ** torch.randint(-30, 30, (num, rhm.num_leaves, 1), generator=g).double()
    return (messages * scale).to(dtype), tree[-1].flatten()


def is_recomputed(bp: BeliefPropagation, messages: Tensor) -> Tensor:
    """Return which samples are recomputed, as underflow may affect their marginals."""
    prior = bp.tables.class_prior.expand(len(messages), -1)
    passes = Passes(bp.tables, messages, prior, LinearSemiring())
    passes.marginals()
    return ~(passes.loss <= torch.finfo(messages.dtype).eps)


def rounding_factors(bp: BeliefPropagation, messages: Tensor, recomputed: Tensor) -> Tensor:
    """Return by how much a rounding of each sample counts: more than 1 for logarithms."""
    factors = torch.ones(len(messages), dtype=torch.float64)
    if messages.dtype == torch.float64 and recomputed.any():
        some = messages[recomputed]
        prior = bp.tables.class_prior.expand(len(some), -1)
        up = Passes(bp.tables, some, prior, LogSemiring()).up
        # Columns run over samples, then nodes.
        sizes = [x.abs().where(x.isfinite(), 0).amax(0).view(len(some), -1).amax(1) for x in up]
        largest = torch.stack(sizes).amax(0)
        factors[recomputed] = ULP_OF_FUNCTIONS * 2 * (1 + 2 * bp.tables.tuple_size * largest)
    return factors


def count_roundings(bp: BeliefPropagation) -> dict[Query, list[int]]:
    """Bound the number of roundings that an answer depends on, for each level."""
    tables = bp.tables
    s, v = tables.tuple_size, tables.num_features
    up = [0]
    for rounds in tables.up:
        up.append(s * up[-1] + s - 1 + len(rounds.sizes))
    down = [2]  # the prior, cast and normalized
    for level in reversed(range(tables.num_layers)):
        num_terms = max(len(rounds.sizes) for rounds in tables.down[level])
        down.append(down[-1] + (s - 1) * up[level] + s - 1 + num_terms)
    down.reverse()
    most = max(v, tables.num_classes)

    def normalized(errors: list[int]) -> list[int]:
        return [2 * error + most + 2 for error in errors]

    return {
        "upward": normalized(up),
        "downward": normalized(down),
        "marginals": normalized([a + b + 1 for a, b in zip(up, down, strict=True)]),
        "log_evidence": [up[-1] + most + 4],
        # A threshold is a sum of at most `most` products, over their total.
        "trees": [2 * (s * error + s + most) + 2 for error in up],
    }


@dataclass
class Differences:
    """What was found of one variant in one precision."""

    num_equal: int = 0
    num_tensors: int = 0
    largest: float = 0.0
    of_allowed: float = 0.0
    num_entries: int = 0
    num_nodes: int = 0
    num_other: int = 0
    margin: float = 0.0
    of_allowed_margin: float = 0.0
    worst: str = ""
    cases: list[str] = field(default_factory=list)

    def compare(
        self, case: str, found: dict[Query, Tree], wanted: dict[Query, Tree],
        roundings: dict[Query, list[int]], eps: float, factors: Tensor,
    ) -> None:  # fmt: skip
        """Compare all answers but trees; `factors` are by how much a sample's rounding counts."""
        for query in QUERIES[:-1]:
            levels = zip(found[query], wanted[query], roundings[query], strict=True)
            for level, (a, b, num) in enumerate(levels):
                a = a.cpu()
                self.num_tensors += 1
                self.num_equal += torch.equal(a, b)
                self.num_entries += a.numel()
                a, b = a.double(), b.double()
                difference = (a - b).abs()
                if query == "log_evidence":  # an absolute error; then a sum in float64
                    allowed = num * eps * factors + b.abs() * 2.0**-50
                else:
                    rounding = num * eps * factors.view(-1, 1, 1)
                    allowed = rounding * torch.maximum(a, b) + 2 * eps
                share = float((difference / allowed).nan_to_num(torch.inf).max())
                self.largest = max(self.largest, float(difference.max()))
                if share > self.of_allowed:
                    self.of_allowed = share
                    self.worst = f"{case}, {query} at level {level}"

    def compare_trees(
        self, bp: BeliefPropagation, found: Tree, wanted: Tree, draws: Tensor,
        upward: Tree, prior: Tensor, roundings: list[int], eps: Tensor,
    ) -> None:  # fmt: skip
        """Count nodes that differ, and how close to a threshold the first of them were drawn."""
        rules, s = bp.rules, bp.tables.tuple_size
        found = tuple(level.cpu() for level in found)
        self.num_nodes += sum(level.numel() for level in found)
        self.num_other += sum(int((a != b).sum()) for a, b in zip(found, wanted, strict=True))
        num_layers = len(rules)
        u = draws.split([1, *(s**k for k in range(num_layers))], dim=1)
        weights = (upward[-1].double()[:, 0] * prior)[:, None]
        self._add_margin(weights, u[0], found[-1] != wanted[-1], roundings[-1], eps)
        for level, u_level in zip(reversed(range(num_layers)), u[1:], strict=True):
            a, b = (tree[level].unflatten(1, (-1, s)) for tree in (found, wanted))
            parent = wanted[level + 1]
            differ = (a != b).any(-1) & (found[level + 1] == parent)
            symbols = rules[level][parent]  # (B, nodes, m, s)
            messages = upward[level].double().unflatten(1, (-1, s))
            factors = [messages[:, :, j].gather(-1, symbols[..., j]) for j in range(s)]
            weights = torch.stack(factors).prod(0)
            self._add_margin(weights, u_level, differ, roundings[level], eps)

    def _add_margin(
        self, weights: Tensor, u: Tensor, differ: Tensor, roundings: int, eps: Tensor
    ) -> None:
        if not differ.any():
            return
        thresholds = weights.cumsum(-1) / weights.sum(-1, keepdim=True)
        margins = (thresholds - u[..., None]).abs().amin(-1).nan_to_num(torch.inf)
        self.margin = max(self.margin, float(margins[differ].max()))
        shares = margins / (roundings * eps[:, None])
        self.of_allowed_margin = max(self.of_allowed_margin, float(shares[differ].max()))


def check_inference(card: Card, report: Report) -> None:
    """Compare plain operations with those of the CPU: queries, grammars, priors."""
    _compare(card, report, "plain", card.size(SIZES, TINY))


def check_kernel(card: Card, report: Report) -> None:
    """Compare the kernel with plain operations on the CPU, and with those on the card."""
    missing = {x[0] for x in CHECKED_KERNELS if kernel_name(*x) not in report.known}
    sizes = card.size([size for size in SIZES if size not in missing], TINY)
    if missing and not card.rehearse:
        text = f"not for {sorted(missing)}"
        report.row("kernel: compiled for every grammar", text, "all", False)
    if sizes:
        _compare(card, report, "kernel", sizes)


def _compare(card: Card, report: Report, name: str, sizes: Sequence[Size]) -> None:
    dtypes = tuple(getattr(torch, dtype) for dtype in DTYPES)
    found = {dtype: Differences() for dtype in dtypes}
    variant, batch = VARIANTS[name], card.size(BATCH, 12)
    num_tensors, others = 0, []
    num_priors, num_recomputed = 0, dict.fromkeys(dtypes, 0)
    for size in sizes:
        rhm = RandomHierarchyModel(*size)
        bp, moved = BeliefPropagation(rhm), BeliefPropagation(rhm).to(card.device)
        roundings = count_roundings(bp)
        g = torch.Generator().manual_seed(1)
        draws = torch.rand(batch, 1 + bp.tables.num_choices, generator=g, dtype=torch.float64)
        for dtype in dtypes:
            messages, classes = evidence(rhm, batch, dtype)
            recomputed = is_recomputed(bp, messages)
            num_recomputed[dtype] += int(recomputed.sum())
            factors = rounding_factors(bp, messages, recomputed)
            eps = torch.finfo(dtype).eps
            priors = {
                "uniform prior": None,
                "a prior per sample": torch.rand(batch, rhm.num_classes, generator=g) + 0.01,
                "one-hot priors": one_hot(classes, rhm.num_classes).double(),
            }
            num_priors = len(priors)
            for kind, prior in priors.items():
                case = f"{size} with {kind}"
                with PLAIN():
                    wanted = bp.condition(messages, prior).query(*QUERIES, draws=draws)
                weights = torch.ones(batch, rhm.num_classes) if prior is None else prior
                posterior = moved.condition(card.put(messages), prior)
                with variant():
                    answers = posterior.query(*QUERIES, draws=card.put(draws))
                differences = found[dtype]
                differences.cases.append(case)
                differences.compare(case, answers, wanted, roundings, eps, factors)
                differences.compare_trees(
                    bp, answers["trees"], wanted["trees"], draws, wanted["upward"], weights,
                    roundings["trees"], eps * factors,
                )  # fmt: skip
                if name == "kernel":
                    with PLAIN():
                        plain = posterior.query(*QUERIES, draws=card.put(draws))
                    for query in QUERIES:
                        for level, (a, b) in enumerate(zip(answers[query], plain[query],
                                                           strict=True)):  # fmt: skip
                            num_tensors += 1
                            if not torch.equal(a, b):
                                others.append(f"{case}, {dtype}, {query} at level {level}")
    if name == "kernel":
        report.row(
            f"kernel against plain operations on the card, {len(sizes)} grammars, both types",
            f"{num_tensors - len(others)} of {num_tensors} tensors have equal bits"
            + (f"; not {others[0]}" if others else ""),
            "equal bits",
            not others,
        )
        report.number("tensors of other bits than plain operations", others)
    for dtype, x in found.items():
        kind = f"{name}, {str(dtype).removeprefix('torch.')}"
        report.row(
            f"{kind}: upward, downward, marginals, log evidence of {len(sizes)} grammars,"
            f" {num_priors} kinds of priors, {batch} samples each; in all"
            f" {num_recomputed[dtype]} are recomputed because of underflow",
            f"{x.num_equal} of {x.num_tensors} tensors have equal bits; "
            + (
                f"largest difference {x.largest:.1e}, up to {x.of_allowed:.2g} of what is allowed"
                f" ({x.worst})"
                if x.worst
                else "no difference"
            ),
            "roundings x eps of the entry, + 2 eps",
            x.of_allowed <= 1,
        )
        report.row(
            f"{kind}: trees, {x.num_nodes:,} nodes",
            f"{x.num_other:,} nodes differ"
            + (
                f"; the first of them were drawn within {x.margin:.1e} of a threshold, up to"
                f" {x.of_allowed_margin:.2g} of what is allowed"
                if x.num_other
                else ""
            ),
            "equal, but where a draw is within roundings x eps of a threshold",
            x.of_allowed_margin <= 1,
        )
        report.number(f"{kind}", vars(x))
    with variant():
        _check_impossible(card, report)


def _check_impossible(card: Card, report: Report) -> None:
    """Check that evidence that no tree explains is named as on the CPU, not answered."""
    rhm = RandomHierarchyModel(8, 2, 2, 3)
    leaves = rhm.sample(5, torch.Generator().manual_seed(0))[0]
    messages = one_hot(leaves, 8).float()
    messages[3] = 0.0
    texts = []
    for device in (torch.device("cpu"), card.device):
        try:
            BeliefPropagation(rhm).to(device).marginals(messages.to(device))
        except ValueError as error:
            texts.append(f"{type(error).__name__}: {error}")
        else:
            texts.append("an answer")
    report.row(
        "impossible evidence in sample 3 of 5",
        texts[1][:120],
        "the CPU's error",
        texts[0] == texts[1] != "an answer",
    )
