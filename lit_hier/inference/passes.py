"""The passes of belief propagation over the tree, as plain torch operations.

Inside, the messages of a level are one matrix (symbols, columns), whose columns run over samples
and, within a sample, over nodes; outside they are (B, nodes, symbols). How columns are scaled, and
how underflow is bounded, is part of the arithmetic: see `lit_hier.inference.semirings`.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Final, Literal

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from lit_hier.inference.semirings import ScaledMessages, Semiring
from lit_hier.inference.tables import RuleTables

Query = Literal["upward", "downward", "marginals", "log_evidence", "trees"]
"""A query about a posterior; see `Posterior.query`."""

# Columns per tile on a CPU, so that a tile stays in the cache; changes no bit.
_CPU_TILE: Final = 8192


class Passes:
    """Upward, downward and sampling passes for one batch of leaf messages.

    Args:
        tables: The grammar's tables.
        leaves: Leaf messages, shape (B, s**L, v).
        class_prior: Probability of each class, shape (B, n).
        semiring: The arithmetic.

    Attributes:
        loss: Upper bound on the error due to underflow of any message that the last answer depends
            on, relative to the message's largest entry, shape (B,); above 1 or NaN if there is no
            useful bound. With logarithms it is 0, or NaN where the evidence is impossible.
    """

    def __init__(
        self,
        tables: RuleTables,
        leaves: Float[Tensor, "batch leaves symbols"],
        class_prior: Float64[Tensor, "batch classes"],
        semiring: Semiring,
    ) -> None:
        self.tables = tables
        self.class_prior = class_prior
        self.semiring = semiring
        self.batch_size = len(leaves)
        self.loss = leaves.new_zeros(self.batch_size)
        self.prior = semiring.encode(class_prior).to(leaves.dtype).T.contiguous()
        x = semiring.encode(leaves).flatten(0, 1).T.contiguous()
        self._record_loss(semiring.leaf_loss(x))
        self.up: list[Tensor] = []
        self.up_loss: list[Tensor] = []
        self.up_smallest: list[Tensor] = []
        # Sums over the units of all upward messages, shape (B,).
        self.exponents = self._append_upward(x, torch.zeros_like(x[0]), torch.ones_like(x[0]))
        for level, rounds in enumerate(tables.up):
            tiles = [rounds.sum_products(part, semiring) for _, part in self._tiles(level)]
            loss, smallest = self._children_bounds(level)
            self.exponents = self.exponents + self._append_upward(
                torch.cat(tiles, dim=1), len(rounds.sizes) * loss, smallest
            )
        self.prior_smallest = semiring.smallest(self.prior)
        root = semiring.multiply(self.up[-1], self.prior)
        smallest = self.up_smallest[-1] * self.prior_smallest
        self.root = self._scale(root, self.up_loss[-1], smallest).messages
        self._upward_loss = self.loss
        self._down: list[Tensor] = []

    def _append_upward(self, x: Tensor, loss: Tensor, smallest: Tensor) -> Tensor:
        """Append the next level's messages; return the sum of their exponents, shape (B,)."""
        scaled = self._scale(x, loss, smallest)
        self.up.append(scaled.messages)
        self.up_loss.append(scaled.loss)
        self.up_smallest.append(scaled.smallest)
        return self._by_sample(scaled.exponents).sum(-1)

    def _scale(self, x: Tensor, loss: Tensor, smallest: Tensor) -> ScaledMessages:
        """Divide each column by its unit, and record the error due to underflow."""
        scaled = self.semiring.scale(x, loss, smallest)
        self._record_loss(scaled.loss)
        return scaled

    def _record_loss(self, loss: Tensor) -> None:
        self.loss = torch.maximum(self.loss, self._by_sample(loss).amax(-1))

    def _by_sample(self, x: Tensor) -> Tensor:
        """Split columns, the last axis, into (B, nodes)."""
        split: Tensor = x.unflatten(-1, (self.batch_size, -1))
        return split

    def _children(self, level: int, parents: slice) -> tuple[Tensor, ...]:
        """The s children's upward messages to some columns of the level above."""
        part = self._siblings(self.up[level])[:, parents]
        return tuple(part.permute(2, 0, 1).contiguous().unbind(0))

    def _children_bounds(self, level: int) -> tuple[Tensor, Tensor]:
        """Sum the error bounds of each node's s children, and multiply their smallest entries."""
        first, *others = self._siblings(self.up_smallest[level]).unbind(-1)
        return self._siblings(self.up_loss[level]).sum(-1), math.prod(others, start=first)

    def _tiles(self, level: int) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
        """Cut a level into tiles: columns of the level above, and their children's messages."""
        messages = self.up[level]
        num_columns = messages.shape[1] // self.tables.tuple_size
        tile = _CPU_TILE if messages.device.type == "cpu" else num_columns
        for start in range(0, num_columns, tile):
            columns = slice(start, min(start + tile, num_columns))
            yield columns, self._children(level, columns)

    def _siblings(self, x: Tensor) -> Tensor:
        """Split a level's columns, the last axis, into (parents, s)."""
        split: Tensor = x.unflatten(-1, (-1, self.tables.tuple_size))
        return split

    def answer(
        self, query: Query, draws: Float64[Tensor, "batch choices"] | None
    ) -> tuple[Tensor, ...]:
        """Answer one of the queries of `Posterior.query`."""
        if query == "trees":
            assert draws is not None
            return self.trees(draws)
        answer: tuple[Tensor, ...] = getattr(self, query)()
        return answer

    def upward(self) -> tuple[Float[Tensor, "batch _ _"], ...]:
        """Upward messages, normalized, leaves first."""
        self.loss = self._upward_loss
        return self._probabilities(self.up)

    def downward(self) -> tuple[Float[Tensor, "batch _ _"], ...]:
        """Downward messages, normalized, leaves first."""
        return self._probabilities(self._downward())

    def _downward(self) -> list[Tensor]:
        """Return the downward messages, computed once, and record their error due to underflow."""
        if not self._down:
            self._pass_down()
        self.loss = self._upward_loss
        for loss in self._down_loss:
            self._record_loss(loss)
        return self._down

    def _pass_down(self) -> None:
        down, self._down_loss = [self.prior], [torch.zeros_like(self.up_loss[-1])]
        self._down_smallest = [self.prior_smallest]
        for level in reversed(range(self.tables.num_layers)):
            above, x = down[-1], torch.empty_like(self.up[level])
            received = self._siblings(x)
            rounds_of_children = self.tables.down[level]
            for columns, children in self._tiles(level):
                parent = above[:, columns].contiguous()
                for j, rounds in enumerate(rounds_of_children):
                    operands = (parent, *children[:j], *children[j + 1 :])
                    received[:, columns, j] = rounds.sum_products(operands, self.semiring)
            siblings = self._siblings(self.up_loss[level])
            loss = siblings.sum(-1, keepdim=True) - siblings + self._down_loss[-1][:, None]
            num_rounds = max(len(rounds.sizes) for rounds in rounds_of_children)
            factors = self._siblings(self.up_smallest[level]).unbind(-1)
            start = self._down_smallest[-1]
            products = [
                math.prod(factors[:j] + factors[j + 1 :], start=start) for j in range(len(factors))
            ]
            smallest = torch.stack(products, dim=-1).flatten()
            scaled = self._scale(x, num_rounds * loss.flatten(), smallest)
            down.append(scaled.messages)
            self._down_loss.append(scaled.loss)
            self._down_smallest.append(scaled.smallest)
        self._down_loss.reverse()
        self._down_smallest.reverse()
        self._down = down[::-1]

    def marginals(self) -> tuple[Float[Tensor, "batch _ _"], ...]:
        """Posterior probabilities, leaves first."""
        down = self._downward()
        levels = zip(
            self.up_loss, self._down_loss, self.up_smallest, self._down_smallest, strict=True
        )
        bounds = [(loss_up + loss_down, up * down) for loss_up, loss_down, up, down in levels]
        return self._probabilities(
            self._scale(self.semiring.multiply(x, y), loss, smallest).messages
            for x, y, (loss, smallest) in zip(self.up, down, bounds, strict=True)
        )

    def _probabilities(self, messages: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """Normalize, and permute each level to (B, nodes, symbols)."""
        normalized = map(self.semiring.normalize, messages)
        return tuple(self._by_sample(x).permute(1, 2, 0) for x in normalized)

    def log_evidence(self) -> tuple[Float64[Tensor, " batch"]]:
        """Log evidence in nats, float64, shape (B,)."""
        self.loss = self._upward_loss
        root = self.up[-1].T
        return (log_evidence(self.tables, self.class_prior, root, self.exponents, self.semiring),)

    def trees(
        self, draws: Float64[Tensor, "batch choices"]
    ) -> tuple[Int64[Tensor, "batch _"], ...]:
        """Draw trees from the root down; see `Posterior.sample`."""
        self.loss = self._upward_loss
        tables = self.tables
        u = draws.T.split([1, *(tables.tuple_size**k for k in range(tables.num_layers))])
        zero = torch.zeros_like(self.up_loss[-1])
        levels = [self._draw_rows(self.root, u[0].flatten(), zero, zero + 1)]
        for level, u_level in zip(reversed(range(tables.num_layers)), u[1:], strict=True):
            rules = tables.rules[level][levels[-1]]  # (columns, m, s)
            weights = None
            children = self._children(level, slice(0, len(rules)))
            for child, symbols in zip(children, rules.unbind(-1), strict=True):
                factor = child.gather(0, symbols.T)
                weights = factor if weights is None else self.semiring.multiply(weights, factor)
            assert weights is not None
            chosen = self._draw_rows(weights, u_level.T.flatten(), *self._children_bounds(level))
            levels.append(rules[torch.arange(len(rules), device=rules.device), chosen].flatten())
        return tuple(self._by_sample(x) for x in reversed(levels))

    def _draw_rows(
        self,
        weights: Float[Tensor, "rows columns"],
        u: Float64[Tensor, " columns"],
        loss: Float[Tensor, " columns"],
        smallest: Float[Tensor, " columns"],
    ) -> Int64[Tensor, " columns"]:
        """Draw a row for each column with probability proportional to its weights.

        Args:
            weights: Shape (K, columns).
            u: Uniform numbers in [0, 1), shape (columns,).
            loss: Upper bound on the error that the weights inherit from their factors, shape
                (columns,).
            smallest: Product of these factors' smallest entries, shape (columns,).
        """
        weights = self.semiring.weights(self._scale(weights, loss, smallest).messages)
        if weights.dtype == torch.float32:
            # Keep the first 24 bits: u stays below 1, and u * total below the total.
            u = (u * 2.0**24).floor() * 2.0**-24
        # Summed in a fixed order: torch's cumulative sum does not specify its rounding.
        cumulative = torch.stack(list(accumulate(weights.unbind(0))))
        threshold = cumulative[-1] * u.to(weights.dtype)
        return (cumulative <= threshold).sum(0).clamp_(max=len(weights) - 1)


def log_evidence(
    tables: RuleTables,
    class_prior: Float64[Tensor, "batch classes"],
    root: Float[Tensor, "batch classes"],
    exponents: Tensor,
    semiring: Semiring,
) -> Float64[Tensor, " batch"]:
    """Logarithm of the evidence: every node above the leaves chooses one of m rules uniformly.

    Args:
        tables: The grammar's tables.
        class_prior: Probability of each class, shape (B, n).
        root: The root's upward messages, scaled, shape (B, n).
        exponents: Sum of the exponents of all upward messages' units, shape (B,).
        semiring: The arithmetic in which they were computed.

    Returns:
        Nats, float64, shape (B,).
    """
    nats: Tensor = semiring.log_evidence(root, exponents, class_prior)
    return nats.sub(tables.log_derivations)
