r"""Everything that belief propagation derives from a grammar's rules and the class prior.

`RuleTables` is built in one place, so that the torch passes, the native kernel and the posterior
cannot disagree about the grammar.

A message to a node with symbol r (Eq. 13 and 15) sums, over the rules that contain r, the product
of one incoming message per other node of the rule:

.. math:: \text{out}(r) = \bigoplus_{\text{rules } \rho \ni r} \;
   \bigotimes_j \text{in}_j\big(\text{symbol of } \rho \text{ at } j\big)

For the torch passes the rules are grouped into rounds (`Rounds`), at most one rule per r in each,
so that a round gathers rows, multiplies and adds: the work is (number of rules) x (number of
operands) per column, and no tensor has an axis longer than v. Sums run in a fixed order within a
column, so a column's bits do not depend on the other columns; torch's own reductions do not
promise that.
"""

import copy
import math
from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Float64, Int32, Int64
from torch import Tensor

from lit_hier.errors import InputError
from lit_hier.inference.semirings import Semiring, pairwise_sum
from lit_hier.rhm.grammar import RandomHierarchyModel


class Rounds:
    """The rules of one sum of products, in the order in which it is computed.

    Args:
        targets: The row of the result that each rule contributes to, shape (number of rules,).
        sources: The row of each operand that each rule multiplies, shape (J, number of rules).
        num_rows: Rows of the result.

    Attributes:
        index: `sources`, sorted by round.
        sizes: Rules in each round, descending: a round contributes to the first rows of the sum.
        order: Position of each row of the result in the sum.
    """

    def __init__(
        self,
        targets: Int64[Tensor, " rules"],
        sources: Int64[Tensor, "operands rules"],
        num_rows: int,
    ) -> None:
        counts = torch.bincount(targets, minlength=num_rows)
        most_first = torch.argsort(counts, descending=True, stable=True)
        order = torch.empty_like(most_first)
        order[most_first] = torch.arange(num_rows)
        # A rule's round: how many rules of the same target come before it.
        by_target = torch.argsort(order[targets], stable=True)
        counts = counts[most_first]
        first = torch.cumsum(counts, 0) - counts
        rounds = torch.arange(len(targets)) - first[order[targets[by_target]]]
        by_round = by_target[torch.argsort(rounds, stable=True)]
        self.sizes: list[int] = torch.bincount(rounds).tolist()
        self.num_rows = num_rows
        self.in_order = torch.equal(order, torch.arange(num_rows))
        self.index = sources[:, by_round]
        self.order = order

    def sum_products(self, operands: Sequence[Tensor], semiring: Semiring) -> Tensor:
        """Sum products of rows (Eq. 13 and 15, unnormalized).

        Args:
            operands: J messages, each (symbols, columns).
            semiring: The arithmetic.

        Returns:
            Messages, shape (rows, columns).
        """
        first, *others = operands
        out = first.new_full((self.num_rows, first.shape[1]), semiring.zero)
        for rows, *other_rows in self.index.split(self.sizes, dim=1):
            term = first.index_select(0, rows)
            for operand, other in zip(others, other_rows, strict=True):
                semiring.multiply(term, operand.index_select(0, other), out=term)
            head = out[: len(term)]
            semiring.add(head, term, out=head)
        return out if self.in_order else out.index_select(0, self.order)

    def to(self, device: torch.device) -> "Rounds":
        """Return a copy on a device."""
        moved = copy.copy(self)
        moved.index, moved.order = self.index.to(device), self.order.to(device)
        return moved


class KernelTables:
    """The rules as the native kernel reads them, int32, always on the CPU.

    Args:
        rules: For each level, shape (parents, m, s).
        num_features: v, symbols of a level below the root.

    Attributes:
        rules: The levels one after the other; i v is added to the symbol of the i-th child.
        targets: For each level, position among the s children and symbol: the symbol, and how many
            rules have it at this position; in descending order of that number.
        terms: These rules, in the order of the targets: the parent, and the entries of `rules` of
            the other children.
    """

    rules: Int32[Tensor, " entries"]
    targets: Int32[Tensor, " pairs"]
    terms: Int32[Tensor, " entries"]

    def __init__(self, rules: Sequence[Int64[Tensor, "_ m s"]], num_features: int) -> None:
        all_rules, targets, terms = [], [], []
        for rule in rules:
            parents, m, s = rule.shape
            parent = torch.arange(parents).repeat_interleave(m)
            entries = (rule + num_features * torch.arange(s)).flatten(0, 1)
            all_rules.append(entries.flatten())
            for j, child in enumerate(rule.flatten(0, 1).T):
                counts = child.bincount(minlength=num_features)
                symbols = counts.argsort(descending=True, stable=True)
                targets.append(torch.stack((symbols, counts[symbols]), dim=1).flatten())
                others = torch.cat((parent[:, None], entries[:, :j], entries[:, j + 1 :]), dim=1)
                terms.append(others[symbols.argsort()[child].argsort(stable=True)].flatten())
        self.rules = torch.cat(all_rules).int()
        self.targets = torch.cat(targets).int()
        self.terms = torch.cat(terms).int()


class RuleTables:
    """A grammar's sizes, rules, class prior and the index tables derived from them.

    Immutable: another grammar needs new tables, and another device a copy. Tensors of the caller
    are copied; do not write to those of the tables.

    Args:
        rules: rules[l], int64, shape (parents, m, s): rules of an RHM, checked by the caller.
        num_features: v, symbols in the alphabet of every level below the root.
        class_prior: Probability of each class, as `normalize_prior` returns it, shape (n,).

    Attributes:
        rules: A copy of those given.
        class_prior: Likewise.
        num_features: v.
        num_classes: n.
        num_synonyms: m, rules per symbol.
        tuple_size: s.
        num_layers: L.
        num_leaves: d = s^L.
        num_choices: Nodes above the leaves, (d - 1) / (s - 1).
        log_derivations: Logarithm of the number of trees of a class, `num_choices` ln m.
        level_shapes: For each level, its nodes and symbols.
        up: For each level below the root, the sums of Eq. 13.
        down: For each level below the root and position in a tuple, the sums of Eq. 15.
        kernel: The rules as the native kernel reads them.
    """

    def __init__(
        self,
        rules: Sequence[Int64[Tensor, "_ m s"]],
        num_features: int,
        class_prior: Float64[Tensor, " classes"],
    ) -> None:
        self.rules = tuple(rule.clone() for rule in rules)
        self.num_features = num_features
        self.num_classes, self.num_synonyms, self.tuple_size = self.rules[-1].shape
        self.num_layers = len(self.rules)
        self.num_leaves = self.tuple_size**self.num_layers
        self.num_choices = (self.num_leaves - 1) // (self.tuple_size - 1)
        self.log_derivations = self.num_choices * math.log(self.num_synonyms)
        self.level_shapes = tuple(
            (
                self.tuple_size ** (self.num_layers - level),
                self.num_classes if level == self.num_layers else num_features,
            )
            for level in range(self.num_layers + 1)
        )
        self.class_prior = class_prior.clone()
        self.up = tuple(_upward_rounds(rule) for rule in self.rules)
        self.down = tuple(_downward_rounds(rule, num_features) for rule in self.rules)
        self.kernel = KernelTables(self.rules, num_features)

    @property
    def device(self) -> torch.device:
        """Where the tables are; those of the kernel stay on the CPU."""
        return self.class_prior.device

    @cached_property
    def grammar(self) -> RandomHierarchyModel:
        """The grammar of these rules, on the CPU."""
        rules = [rule.cpu() for rule in self.rules]
        return RandomHierarchyModel.from_rules(rules, self.num_features)

    def to(self, device: torch.device) -> "RuleTables":
        """Return a copy on a device, with the same types and values."""
        moved = copy.copy(self)
        moved.rules = tuple(rule.to(device) for rule in self.rules)
        moved.class_prior = self.class_prior.to(device)
        moved.up = tuple(rounds.to(device) for rounds in self.up)
        moved.down = tuple(tuple(rounds.to(device) for rounds in level) for level in self.down)
        return moved


def normalize_prior(
    class_prior: Tensor, num_classes: int, batch_size: int | None = None
) -> Float64[Tensor, "*batch classes"]:
    """Check a class prior of any positive scale, and divide it by its sum.

    Args:
        class_prior: Shape (n,) or, with `batch_size`, also (B, n).
        num_classes: n.
        batch_size: B, where each sample may have a prior of its own.

    Returns:
        The shape of `class_prior`, on the CPU.

    Raises:
        InputError: It has another shape, or an entry is negative or non-finite, or all of a prior
            are zero.
    """
    prior = torch.as_tensor(class_prior, dtype=torch.float64, device="cpu")
    shapes = [(num_classes,)] + [(batch_size, num_classes)] * (batch_size is not None)
    if tuple(prior.shape) not in shapes:
        allowed = " or ".join(map(str, shapes))
        raise InputError(f"class_prior has shape {tuple(prior.shape)}; give {allowed}")
    invalid = prior[~(prior.isfinite() & (prior >= 0))].tolist()
    if invalid:
        raise InputError(
            f"class_prior has the entry {invalid[0]:g}; give finite, non-negative numbers"
        )
    if not prior.any(-1).all():
        raise InputError("class_prior is zero for every class; give a positive number to one")
    columns = prior.movedim(-1, 0)
    total = pairwise_sum(columns)
    if total.isinf().any():
        columns = columns / columns.amax(0)
        total = pairwise_sum(columns)
    return (columns / total).movedim(0, -1).contiguous()


def _upward_rounds(rule: Int64[Tensor, "parents m s"]) -> Rounds:
    parent = torch.arange(len(rule)).repeat_interleave(rule.shape[1])
    return Rounds(parent, rule.flatten(0, 1).T, len(rule))


def _downward_rounds(rule: Int64[Tensor, "parents m s"], num_features: int) -> tuple[Rounds, ...]:
    """Rounds of the messages to each of the s children."""
    parent = torch.arange(len(rule)).repeat_interleave(rule.shape[1])
    children = rule.flatten(0, 1).T
    return tuple(
        Rounds(child, torch.stack((parent, *children[:j], *children[j + 1 :])), num_features)
        for j, child in enumerate(children)
    )
