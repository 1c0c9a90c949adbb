r"""Means over all pairs of sites at a distance, without a matrix of all pairs.

.. math:: P_r = \frac{1}{N_r} \sum_{(i, j): \, |i - j| = r} x_i x_j

over ordered pairs, so that r = 0 is the mean square. On a tree the distance of two leaves is the
level of their common ancestor, and :math:`P_r` follows from sums over the leaves below each node:
O(d) for d leaves. On a line or a grid it is the Euclidean distance, rounded to whole steps, and
:math:`P_r` follows from the autocorrelation by fast Fourier transforms: O(d log d).
"""

import math
from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from lit_hier.errors import InputError
from lit_hier.io.devices import constant


class Pairs(ABC):
    """The pairs of sites of a geometry, by their distance.

    Attributes:
        shape: Shape of the sites.
        counts: Ordered pairs at each distance, int64, shape (distances,); the first are the sites
            themselves.
    """

    shape: tuple[int, ...]
    counts: Int64[np.ndarray, " distances"]

    @property
    def num_sites(self) -> int:
        """Number of sites d."""
        return math.prod(self.shape)

    @property
    @abstractmethod
    def distances(self) -> Float64[np.ndarray, " distances"]:
        """The distances as they are tabulated, ascending from 0: levels on a tree, else steps."""

    @property
    @abstractmethod
    def lengths(self) -> Float64[np.ndarray, " distances"]:
        """The distances in sites, ascending: s^level on a tree, else steps."""

    @abstractmethod
    def means(self, x: Float[Tensor, "*batch d"]) -> Float64[Tensor, "*batch distances"]:
        """Compute the means over pairs.

        Args:
            x: A number per site, sites in order on the last axis.
        """

    @cached_property
    def _counts(self) -> Tensor:
        return torch.from_numpy(self.counts).double()


class TreePairs(Pairs):
    """The leaves of a tree.

    Args:
        branching: s, at least 2.
        num_levels: L, at least 1.

    Raises:
        InputError: The number of pairs does not fit into int64.
    """

    def __init__(self, branching: int, num_levels: int) -> None:
        if branching ** (2 * num_levels) >= 2**63:
            raise InputError(
                f"num_layers is {num_levels}: a tree of {branching}^{num_levels} leaves has too"
                " many pairs to be counted; give less"
            )
        self.branching, self.num_levels = branching, num_levels
        self.shape = (branching**num_levels,)
        sizes = branching ** np.arange(num_levels + 1)
        self.counts = self.num_sites * np.diff(sizes, prepend=0).astype(np.int64)

    @property
    def distances(self) -> Float64[np.ndarray, " distances"]:
        """Levels of the common ancestor, 0 to L."""
        return np.arange(self.num_levels + 1, dtype=np.float64)

    @property
    def lengths(self) -> Float64[np.ndarray, " distances"]:
        """Leaves below the common ancestor."""
        return np.asarray(float(self.branching) ** self.distances)

    def means(self, x: Float[Tensor, "*batch d"]) -> Float64[Tensor, "*batch distances"]:
        """Square the sums below all nodes of each level; their differences are pairs."""
        sums = x.double()
        squares = [sums.square().sum(-1)]
        for _ in range(self.num_levels):
            sums = sums.unflatten(-1, (-1, self.branching)).sum(-1)
            squares.append(sums.square().sum(-1))
        totals = torch.stack(squares, dim=-1)
        pairs = torch.diff(totals, dim=-1, prepend=torch.zeros_like(totals[..., :1]))
        return pairs / constant(self._counts, x.device)


class GridPairs(Pairs):
    """The sites of a line or a grid.

    Args:
        shape: Sites along each axis, one axis or two.
        periodic: Whether opposite ends are neighbors.

    Raises:
        InputError: There are no two sites, or other than one or two axes.
    """

    def __init__(self, shape: tuple[int, ...], periodic: bool = False) -> None:
        if len(shape) not in (1, 2) or math.prod(shape) < 2:
            raise InputError(f"sites of shape {shape} have no distances; give a line or a grid")
        self.shape, self.periodic = shape, periodic
        self._padded = shape if periodic else tuple(2 * size for size in shape)
        steps = [
            np.minimum(np.arange(size), size - np.arange(size)).astype(np.float64)
            for size in self._padded
        ]
        grid = np.hypot.reduce(np.meshgrid(*steps, indexing="ij")) if len(steps) > 1 else steps[0]
        # Up to half of the shortest axis that is longer than one site, in all directions.
        last = min(size for size in shape if size > 1) // 2
        bins = np.rint(grid).astype(np.int64)
        self._bins = torch.from_numpy(np.where(bins <= last, bins, last + 1).ravel())
        self._num = last + 1
        ones = self._autocorrelation(torch.ones(1, self.num_sites, dtype=torch.float64))
        self.counts = self._sum(ones)[0].round().long().numpy()

    @property
    def distances(self) -> Float64[np.ndarray, " distances"]:
        """Steps, 0 to half of the shortest axis."""
        return np.arange(self._num, dtype=np.float64)

    @property
    def lengths(self) -> Float64[np.ndarray, " distances"]:
        """Steps."""
        return self.distances

    def means(self, x: Float[Tensor, "*batch d"]) -> Float64[Tensor, "*batch distances"]:
        """Sum the autocorrelation over all displacements of a length."""
        flat = self._autocorrelation(x.double().flatten(0, -2) if x.ndim > 1 else x[None].double())
        found = self._sum(flat) / constant(self._counts, x.device)
        return found.reshape(*x.shape[:-1], self._num)

    def _autocorrelation(self, x: Float64[Tensor, "B d"]) -> Float64[Tensor, "B displacements"]:
        axes = tuple(range(1, 1 + len(self.shape)))
        modes = torch.fft.rfftn(x.unflatten(1, self.shape), s=self._padded, dim=axes)
        power = modes.real.square() + modes.imag.square()
        products: Tensor = torch.fft.irfftn(power, s=self._padded, dim=axes)
        return products.flatten(1)

    def _sum(self, x: Float64[Tensor, "B displacements"]) -> Float64[Tensor, "B distances"]:
        sums = x.new_zeros(len(x), self._num + 1)
        sums.index_add_(1, constant(self._bins, x.device), x)
        return sums[:, : self._num]
