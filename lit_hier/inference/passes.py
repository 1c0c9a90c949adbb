"""The passes of belief propagation over the tree, as plain torch operations in one arithmetic.

Inside, the messages of a level are one matrix (symbols, columns), the columns running over samples
and, within a sample, over nodes; outside they are (B, nodes, symbols). Each column is divided by
the power of two that brings its maximum into [1/2, 1): that takes no rounding, and neither the
depth of the tree nor the scale of the leaves can make the messages overflow.

Products may underflow. Two numbers per column keep account of that: the smallest entry above zero
says whether a product of messages can, and a bound on what has been lost, as a share of the
largest entry, goes from message to message.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Literal, cast

import torch
from torch import Tensor, nn

from lit_hier.inference.sum_product import LINEAR, Rounds, Semiring, pairwise_sum, sum_product

if TYPE_CHECKING:
    from lit_hier.inference.belief_propagation import BeliefPropagation
    from lit_hier.rhm.grammar import Tree

Query = Literal["upward", "downward", "marginals", "log_evidence", "trees"]
"""What can be asked of a posterior; see `Posterior.query`."""

# Columns worked on at once on a CPU, so that a tile stays in the cache; changes no bit.
_CPU_TILE: Final = 8192


class Passes:
    """Up, down and sampling passes for one batch of leaf messages.

    Args:
        bp: The grammar's belief propagation.
        leaves: Leaf messages, shape (B, s**L, v), or their logarithms.
        semiring: The arithmetic: `LINEAR`, or `LOGARITHMIC`.

    Attributes:
        lost: For each sample, shape (B,), a bound on what underflow has taken of any message that
            went into the last answer, as a share of the message's largest entry; above 1, or NaN,
            nothing can be said of the sample. In `LOGARITHMIC` arithmetic nothing is lost: 0, and
            NaN where the evidence is impossible.
    """

    def __init__(self, bp: BeliefPropagation, leaves: Tensor, semiring: Semiring) -> None:
        self.bp = bp
        self.semiring = semiring
        self.batch_size = len(leaves)
        self.lost = leaves.new_zeros(self.batch_size)
        prior = bp.class_prior if semiring is LINEAR else bp.class_prior.log()
        self.prior = prior.to(leaves.dtype)[:, None].repeat(1, self.batch_size)
        x = leaves.flatten(0, 1).T.contiguous()
        top = x.amax(0)
        if semiring is LINEAR:
            # What a power of two may not scale exactly is left to a larger range.
            tiny = torch.finfo(top.dtype).tiny
            self._note(torch.where((top >= tiny) & (top < 0.25 / tiny), 0.0, torch.inf))
        unit, exponent = self._unit(top)
        self.up = [semiring.over(x, unit)]
        self.exponents = self._by_sample(exponent).sum(-1)  # of the upward messages' units
        low = self._lowest(x) / unit
        lost = self._underflow(low, torch.zeros_like(top))
        self._note(lost)
        self.up_lost, self.up_low = [lost], [low]
        for level, rounds in enumerate(bp.up_rounds):
            assert isinstance(rounds, Rounds)
            tiles = [sum_product(part, rounds, semiring) for _, part in self._tiles(level)]
            lost, low = self._children_bounds(level)
            x, exponent, lost, low = self._scaled(
                torch.cat(tiles, dim=1), len(rounds.sizes) * lost, low
            )
            self.up.append(x)
            self.exponents = self.exponents + self._by_sample(exponent).sum(-1)
            self.up_lost.append(lost)
            self.up_low.append(low)
        self.prior_low = self._lowest(self.prior)
        root, low = semiring.times(self.up[-1], self.prior), self.up_low[-1] * self.prior_low
        self.root = self._scaled(root, self.up_lost[-1], low)[0]
        self._up_lost_most = self.lost
        self._down: list[Tensor] = []

    def _unit(self, top: Tensor) -> tuple[Tensor, Tensor]:
        """Choose a power of two to divide columns with these maxima by, and give its exponent.

        Of logarithms, this is the maximum, twice.
        """
        if self.semiring is not LINEAR:
            return top, top
        mantissa, exponent = torch.frexp(top)
        return top / mantissa, exponent

    def _lowest(self, x: Tensor) -> Tensor:
        """Find each column's smallest entry above zero, in linear arithmetic."""
        if self.semiring is not LINEAR:
            return torch.ones_like(x[0])
        return torch.where(x > 0, x, torch.inf).amin(0)

    def _underflow(self, low: Tensor, lost: Tensor) -> Tensor:
        """Add what may be lost where numbers as small as these are made."""
        tiny = torch.finfo(low.dtype).tiny
        return torch.where(low < tiny, lost + tiny, lost)

    def _scaled(
        self, x: Tensor, lost: Tensor, low: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Divide each column by its unit.

        Args:
            x: Messages, shape (symbols, columns).
            lost: Bound on what their summands' factors had lost, shape (columns,).
            low: Product of these factors' smallest entries, shape (columns,).

        Returns:
            The scaled messages, their units' exponents, the bound on what they have lost, and
            their smallest entries.
        """
        top = x.amax(0)
        unit, exponent = self._unit(top)
        if self.semiring is LINEAR:
            low, before = self._lowest(x) / unit, low
            lost = self._underflow(low, self._underflow(before, lost) / top)
        else:
            lost = torch.where(top > -torch.inf, 0.0, torch.nan)
        self._note(lost)
        return self.semiring.over(x, unit), exponent, lost, low

    def _note(self, lost: Tensor) -> None:
        self.lost = torch.maximum(self.lost, self._by_sample(lost).amax(-1))

    def _by_sample(self, x: Tensor) -> Tensor:
        """Split columns, the last axis, into (B, nodes)."""
        split: Tensor = x.unflatten(-1, (self.batch_size, -1))
        return split

    def _children(self, level: int, parents: slice) -> tuple[Tensor, ...]:
        """Give the s children's upward messages to some columns of the level above."""
        part = self._siblings(self.up[level])[:, parents]
        return tuple(part.permute(2, 0, 1).contiguous().unbind(0))

    def _children_bounds(self, level: int) -> tuple[Tensor, Tensor]:
        """Add what each family's s messages have lost, and multiply their smallest entries."""
        first, *others = self._siblings(self.up_low[level]).unbind(-1)
        return self._siblings(self.up_lost[level]).sum(-1), math.prod(others, start=first)

    def _tiles(self, level: int) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
        """Cut a level into families: columns of the level above, and their children's messages."""
        messages = self.up[level]
        num_columns = messages.shape[1] // self.bp.tuple_size
        tile = _CPU_TILE if messages.device.type == "cpu" else num_columns
        for start in range(0, num_columns, tile):
            columns = slice(start, min(start + tile, num_columns))
            yield columns, self._children(level, columns)

    def _siblings(self, x: Tensor) -> Tensor:
        """Split a level's columns, the last axis, into (families, s)."""
        split: Tensor = x.unflatten(-1, (-1, self.bp.tuple_size))
        return split

    def answer(self, question: Query, draws: Tensor | None) -> Tree:
        """Answer one of the questions of `Posterior.query`."""
        if question == "trees":
            assert draws is not None
            return self.trees(draws)
        answer: Tree = getattr(self, question)()
        return answer

    def upward(self) -> Tree:
        """Upward messages, normalised, leaves first."""
        self.lost = self._up_lost_most
        return self._probabilities(self.up)

    def downward(self) -> Tree:
        """Downward messages, normalised, leaves first."""
        return self._probabilities(self._downward())

    def _downward(self) -> list[Tensor]:
        if not self._down:
            self._go_down()
        self.lost = self._up_lost_most
        for lost in self._down_lost:
            self._note(lost)
        return self._down

    def _go_down(self) -> None:
        down, self._down_lost = [self.prior], [torch.zeros_like(self.up_lost[-1])]
        self._down_low = [self.prior_low]
        for level in reversed(range(self.bp.num_layers)):
            above, x = down[-1], torch.empty_like(self.up[level])
            received = self._siblings(x)
            to_children = cast("nn.ModuleList", self.bp.down_rounds[level])
            for columns, children in self._tiles(level):
                parent = above[:, columns].contiguous()
                for j, rounds in enumerate(to_children):
                    operands = (parent, *children[:j], *children[j + 1 :])
                    assert isinstance(rounds, Rounds)
                    received[:, columns, j] = sum_product(operands, rounds, self.semiring)
            families = self._siblings(self.up_lost[level])
            lost = families.sum(-1, keepdim=True) - families + self._down_lost[-1][:, None]
            num_rounds = max(len(cast("Rounds", rounds).sizes) for rounds in to_children)
            lows = self._siblings(self.up_low[level]).unbind(-1)
            above = self._down_low[-1]
            low = [math.prod(lows[:j] + lows[j + 1 :], start=above) for j in range(len(lows))]
            low_of_each = torch.stack(low, dim=-1).flatten()
            x, _, lost, low_of_each = self._scaled(x, num_rounds * lost.flatten(), low_of_each)
            down.append(x)
            self._down_lost.append(lost)
            self._down_low.append(low_of_each)
        self._down_lost.reverse()
        self._down_low.reverse()
        self._down = down[::-1]

    def marginals(self) -> Tree:
        """Posterior probabilities, leaves first."""
        down = self._downward()
        levels = zip(self.up_lost, self._down_lost, self.up_low, self._down_low, strict=True)
        bounds = [(up + down, low * other) for up, down, low, other in levels]
        return self._probabilities(
            self._scaled(self.semiring.times(x, y), lost, low)[0]
            for x, y, (lost, low) in zip(self.up, down, bounds, strict=True)
        )

    def _probabilities(self, messages: Iterable[Tensor]) -> Tree:
        """Normalise, and turn the layout outwards: (B, nodes, symbols) per level."""
        normalised = map(self.semiring.normalise, messages)
        return tuple(self._by_sample(x).permute(1, 2, 0) for x in normalised)

    def log_evidence(self) -> tuple[Tensor]:
        """Log evidence in nats, float64, shape (B,)."""
        self.lost = self._up_lost_most
        return (log_evidence(self.bp, self.up[-1].T, self.exponents, self.semiring),)

    def trees(self, draws: Tensor) -> Tree:
        """Draw trees from the root down; see `Posterior.sample`."""
        self.lost = self._up_lost_most
        u = draws.T.split([1, *(self.bp.tuple_size**k for k in range(self.bp.num_layers))])
        nothing = torch.zeros_like(self.up_lost[-1])
        levels = [self._choose(self.root, u[0].flatten(), nothing, nothing + 1)]
        for level, u_level in zip(reversed(range(self.bp.num_layers)), u[1:], strict=True):
            rules = self.bp.rules[level][levels[-1]]  # (columns, m, s)
            weights = None
            children = self._children(level, slice(0, len(rules)))
            for child, symbols in zip(children, rules.unbind(-1), strict=True):
                factor = child.gather(0, symbols.T)
                weights = factor if weights is None else self.semiring.times(weights, factor)
            assert weights is not None
            chosen = self._choose(weights, u_level.T.flatten(), *self._children_bounds(level))
            levels.append(rules[torch.arange(len(rules), device=rules.device), chosen].flatten())
        return tuple(self._by_sample(x) for x in reversed(levels))

    def _choose(self, weights: Tensor, u: Tensor, lost: Tensor, low: Tensor) -> Tensor:
        """Draw a row for each column with probability proportional to its weights.

        Args:
            weights: Shape (K, columns).
            u: Uniform numbers, float64 in [0, 1), shape (columns,).
            lost: Bound on what the weights' factors had lost, shape (columns,).
            low: Product of these factors' smallest entries, shape (columns,).
        """
        weights = self._scaled(weights, lost, low)[0]
        if self.semiring is not LINEAR:
            weights = weights.exp()
        if weights.dtype == torch.float32:
            # Keep the first 24 bits: u stays below 1, and u * total below the total.
            u = (u * 2.0**24).floor() * 2.0**-24
        # One after another: torch's own cumulative sum does not say how it rounds.
        cumulative = torch.stack(list(accumulate(weights.unbind(0))))
        threshold = cumulative[-1] * u.to(weights.dtype)
        return (cumulative <= threshold).sum(0).clamp_(max=len(weights) - 1)


def log_evidence(
    bp: BeliefPropagation, root: Tensor, exponents: Tensor, semiring: Semiring
) -> Tensor:
    """Take the logarithm of the evidence: every node above the leaves chooses one of m rules.

    Args:
        bp: The grammar's belief propagation.
        root: The root's upward messages as scaled, shape (B, n).
        exponents: What they have been divided by, in all: of two, or of e, shape (B,).
        semiring: The arithmetic that they come from.

    Returns:
        Nats, float64, shape (B,).
    """
    if semiring is LINEAR:
        weights = (root * bp.class_prior.to(root.dtype)).double()
        nats = pairwise_sum(weights.T).log() + exponents.double() * math.log(2)
    else:
        nats = (root + bp.class_prior.log()).logsumexp(-1) + exponents
    return nats - bp.num_choices * math.log(bp.num_synonyms)
