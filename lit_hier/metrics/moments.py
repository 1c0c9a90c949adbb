r"""Mean and variance of activations, streamed over batches, the same to the last bit in any order.

Two sets of :math:`n_a` and :math:`n_b` numbers, with means :math:`\mu` and summed squared
deviations :math:`M`, merge into

.. math:: \mu = \mu_a + (\mu_b - \mu_a) \frac{n_b}{n}, \qquad
   M = M_a + M_b + (\mu_b - \mu_a)^2 \frac{n_a n_b}{n}

Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances" (1979).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Moments of some numbers per channel.

    Attributes:
        number: How many numbers per channel, float64, shape ().
        mean: float64, shape (C,).
        squares: Sum of squared deviations from the mean, float64, shape (C,).
    """

    number: Tensor
    mean: Tensor
    squares: Tensor

    def merge(self, other: "Moments") -> "Moments":
        """Moments of both sets together."""
        number = self.number + other.number
        shift = other.mean - self.mean
        weight = other.number / number
        return Moments(
            number,
            self.mean + shift * weight,
            self.squares + other.squares + shift.square() * (self.number * weight),
        )


def channel_moments(x: Tensor) -> Moments:
    """Moments of each channel over samples and positions.

    Args:
        x: Activations, shape (B, C, ...): units of a linear layer are channels of one position.

    Returns:
        Moments per channel, float64.
    """
    values = x.to(torch.float64, copy=True)
    others = [axis for axis in range(x.ndim) if axis != 1]
    number = values.new_tensor(values.numel() / values.shape[1])
    mean = values.sum(others, keepdim=True).div_(number)
    squares = values.sub_(mean).square_().sum(others)
    return Moments(number, mean.flatten(), squares)


class MomentTree:
    """Moments of numbered batches, merged along a fixed binary tree over the numbers.

    The node (height, k) stands for the batches k 2^height to (k + 1) 2^height - 1; siblings merge
    as soon as both are there. So the result depends on the batches alone, not on the order in
    which they come or on how they are shared among processes, and a run of n neighbours is kept as
    O(log n) nodes.
    """

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, int], Moments] = {}

    def add(self, batch: int, moments: Moments) -> None:
        """Take in a batch's moments."""
        self._insert((0, batch), moments)

    def _insert(self, key: tuple[int, int], moments: Moments) -> None:
        height, k = key
        while (sibling := self._nodes.pop((height, k ^ 1), None)) is not None:
            left, right = (sibling, moments) if k % 2 else (moments, sibling)
            moments = left.merge(right)
            height, k = height + 1, k // 2
        self._nodes[height, k] = moments

    def pack(self) -> Tensor:
        """Put the nodes into one float64 tensor, a row each, for another process to `unpack`."""
        if not self._nodes:
            return torch.empty(0, 3, dtype=torch.float64)
        rows = [
            torch.cat((mean.new_tensor(key), number[None], mean, squares))
            for key, (number, mean, squares) in sorted(self._nodes.items())
        ]
        return torch.stack(rows)

    @classmethod
    def unpack(cls, *packed: Tensor) -> "MomentTree":
        """Unite the nodes of several processes."""
        tree = cls()
        for row in (row for rows in packed for row in rows):
            mean, squares = row[3:].chunk(2)
            tree._insert((int(row[0]), int(row[1])), Moments(row[2], mean, squares))
        return tree

    def total(self) -> Moments:
        """Moments of all batches: nodes without a sibling move up as they are."""
        nodes = sorted(self._nodes.items(), key=lambda item: item[0][1] << item[0][0])
        result = nodes[-1][1]
        for _, moments in reversed(nodes[:-1]):
            result = moments.merge(result)
        return result
