"""The passes of belief propagation over the tree, in one arithmetic.

Inside, the messages of a level are one matrix (symbols, columns), the columns running over samples
and, within a sample, over nodes; outside they are (B, nodes, symbols). Each column is scaled to a
maximum of one: a maximum, unlike a sum, has no rounding, and neither the depth of the tree nor
the scale of the leaves can make the messages overflow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Final, cast

import torch
from torch import Tensor, nn

from lit_hier.inference.sum_product import LINEAR, Rounds, Semiring, pairwise_sum, sum_product

if TYPE_CHECKING:
    from lit_hier.inference.belief_propagation import BeliefPropagation
    from lit_hier.rhm.grammar import Tree

# Columns worked on at once on a CPU, so that a tile stays in the cache; changes no bit.
_CPU_TILE: Final = 8192


class Passes:
    """Up, down and sampling passes for one batch of leaf messages.

    Where a message vanishes, results are NaN or meaningless for that sample; `floor` tells.

    Args:
        bp: The grammar's belief propagation.
        leaves: Leaf messages, shape (B, s**L, v), or their logarithms.
        semiring: The arithmetic: `LINEAR`, or `LOGARITHMIC`.

    Attributes:
        floor: The smallest factor that a message of each sample was divided by, shape (B,): what
            is far below it may have been lost to underflow. In `LOGARITHMIC` arithmetic its
            logarithm, which is -inf or NaN where the evidence is impossible. The leaves' own
            scale, which is the caller's, is left out.
    """

    def __init__(self, bp: BeliefPropagation, leaves: Tensor, semiring: Semiring) -> None:
        self.bp = bp
        self.semiring = semiring
        self.batch_size = len(leaves)
        self.floor = leaves.new_full((self.batch_size,), torch.inf)
        prior = bp.class_prior if semiring is LINEAR else bp.class_prior.log()
        self.prior = prior.to(leaves.dtype)[:, None].repeat(1, self.batch_size)
        x = leaves.flatten(0, 1).T.contiguous()
        scale = x.amax(0)
        self.up = [semiring.over(x, scale)]
        self.scales = [scale]  # per level, what the upward messages were divided by
        for level, rounds in enumerate(bp.up_rounds):
            x = torch.cat(
                [
                    sum_product(part, cast("Rounds", rounds), semiring)
                    for _, part in self._tiles(level)
                ],
                dim=1,
            )
            x, scale = self._scaled(x)
            self.up.append(x)
            self.scales.append(scale)
        self._scaled(semiring.times(self.up[-1], self.prior))

    def _scaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Divide each column by its maximum, and lower the floor."""
        scale = x.amax(0)
        self._lower_floor(scale)
        return self.semiring.over(x, scale), scale

    def _lower_floor(self, scale: Tensor) -> None:
        self.floor = torch.minimum(self.floor, self._by_sample(scale).amin(-1))

    def _by_sample(self, x: Tensor) -> Tensor:
        """Split columns, the last axis, into (B, nodes)."""
        return x.unflatten(-1, (self.batch_size, -1))

    def _children(self, level: int, parents: slice) -> tuple[Tensor, ...]:
        """Give the s children's upward messages to some columns of the level above."""
        s = self.bp.tuple_size
        part = self.up[level][:, parents.start * s : parents.stop * s].unflatten(1, (-1, s))
        return tuple(part.permute(2, 0, 1).contiguous().unbind(0))

    def _tiles(self, level: int) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
        """Cut a level into families: columns of the level above, and their children's messages."""
        messages = self.up[level]
        num_columns = messages.shape[1] // self.bp.tuple_size
        tile = _CPU_TILE if messages.device.type == "cpu" else num_columns
        for start in range(0, num_columns, tile):
            columns = slice(start, min(start + tile, num_columns))
            yield columns, self._children(level, columns)

    @cached_property
    def down(self) -> list[Tensor]:
        """Downward messages, leaves first, scaled to a maximum of one."""
        s = self.bp.tuple_size
        down = [self.prior]
        for level in reversed(range(self.bp.num_layers)):
            above, x = down[-1], torch.empty_like(self.up[level])
            received = x.unflatten(1, (-1, s))
            for columns, children in self._tiles(level):
                parent = above[:, columns].contiguous()
                for j, rounds in enumerate(cast("nn.ModuleList", self.bp.down_rounds[level])):
                    siblings = children[:j] + children[j + 1 :]
                    received[:, columns, j] = sum_product(
                        (parent, *siblings), cast("Rounds", rounds), self.semiring
                    )
            down.append(self._scaled(x)[0])
        return down[::-1]

    def marginals(self) -> list[Tensor]:
        """Unnormalised posterior probabilities, leaves first, scaled to a maximum of one."""
        levels = zip(self.up, self.down, strict=True)
        return [self._scaled(self.semiring.times(up, down))[0] for up, down in levels]

    def probabilities(self, messages: list[Tensor]) -> Tree:
        """Normalise, and turn the layout outwards: (B, nodes, symbols) per level."""
        if self.semiring is LINEAR:
            normalised = (x / pairwise_sum(x) for x in messages)
        else:
            normalised = (torch.softmax(x, dim=0) for x in messages)
        return tuple(self._by_sample(x).permute(1, 2, 0) for x in normalised)

    def log_evidence(self) -> Tensor:
        """Log evidence in nats, float64, shape (B,).

        Every node above the leaves chooses one of its m rules; scaling took a factor per node.
        """
        root = self.semiring.times(self.up[-1], self.prior).double()
        if self.semiring is LINEAR:
            root = root.log()
        total = torch.logsumexp(root, 0) - self.bp.num_choices * math.log(self.bp.num_synonyms)
        for scale in self.scales:
            factors = scale.double()
            if self.semiring is LINEAR:
                factors = factors.log()
            total = total + self._by_sample(factors).sum(-1)
        return total

    def sample(self, draws: Tensor) -> Tree:
        """Draw trees from the root down; see `Posterior.sample`."""
        u = draws.T.split([1, *(self.bp.tuple_size**k for k in range(self.bp.num_layers))])
        root = self.semiring.times(self.up[-1], self.prior)
        levels = [self._choose(root, u[0].flatten())]
        for level, u_level in zip(reversed(range(self.bp.num_layers)), u[1:], strict=True):
            rules = self.bp.rules[level][levels[-1]]  # (columns, m, s)
            weights = None
            children = self._children(level, slice(0, len(rules)))
            for child, symbols in zip(children, rules.unbind(-1), strict=True):
                factor = child.gather(0, symbols.T)
                weights = factor if weights is None else self.semiring.times(weights, factor)
            assert weights is not None
            chosen = self._choose(weights, u_level.T.flatten())
            levels.append(rules[torch.arange(len(rules), device=rules.device), chosen].flatten())
        return tuple(self._by_sample(x) for x in reversed(levels))

    def _choose(self, weights: Tensor, u: Tensor) -> Tensor:
        """Draw a row for each column with probability proportional to its weights.

        Args:
            weights: Shape (K, columns).
            u: Uniform numbers, float64 in [0, 1), shape (columns,).
        """
        weights, _ = self._scaled(weights)
        if self.semiring is not LINEAR:
            weights = weights.exp()
        if weights.dtype == torch.float32:
            # Keep the first 24 bits: u stays below 1, and u * total below the total.
            u = (u * 2.0**24).floor() * 2.0**-24
        cumulative = weights.cumsum(0)
        threshold = cumulative[-1] * u.to(weights.dtype)
        return (cumulative <= threshold).sum(0).clamp_(max=len(weights) - 1)
