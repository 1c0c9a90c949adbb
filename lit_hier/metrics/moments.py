"""Moments of indexed batches, the same to the last bit in any order."""

import torch
from jaxtyping import Float64
from torch import Tensor

from lit_hier.metrics.functional.moments import Moments


class MomentTree:
    """Moments of indexed batches, merged along a fixed binary tree over their indices.

    The node (height, k) stands for the batches k 2^height to (k + 1) 2^height - 1; two siblings
    merge as soon as both are known. The result therefore depends on the batches only, not on
    their order or on their distribution over processes, and n consecutive batches are kept as
    O(log n) nodes.
    """

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, int], Moments] = {}

    def update(self, batch: int, moments: Moments) -> None:
        """Add the moments of a batch."""
        self._insert((0, batch), moments)

    def _insert(self, key: tuple[int, int], moments: Moments) -> None:
        height, k = key
        while (sibling := self._nodes.pop((height, k ^ 1), None)) is not None:
            left, right = (sibling, moments) if k % 2 else (moments, sibling)
            moments = left.merge(right)
            height, k = height + 1, k // 2
        self._nodes[height, k] = moments

    def pack(self) -> Float64[Tensor, "nodes columns"]:
        """Pack the nodes into one tensor, a row each, for another process to `unpack`."""
        if not self._nodes:
            return torch.empty(0, 3, dtype=torch.float64)
        rows = [
            torch.cat((mean.new_tensor(key), size[None], mean, squares))
            for key, (size, mean, squares) in sorted(self._nodes.items())
        ]
        return torch.stack(rows)

    @classmethod
    def unpack(cls, *packed: Float64[Tensor, "_ _"]) -> "MomentTree":
        """Merge the nodes of several processes."""
        tree = cls()
        for row in (row for rows in packed for row in rows):
            mean, squares = row[3:].chunk(2)
            tree._insert((int(row[0]), int(row[1])), Moments(row[2], mean, squares))
        return tree

    def compute(self) -> Moments:
        """Merge all nodes; a node without a sibling moves up unchanged."""
        nodes = sorted(self._nodes.items(), key=lambda item: item[0][1] << item[0][0])
        result = nodes[-1][1]
        for _, moments in reversed(nodes[:-1]):
            result = moments.merge(result)
        return result
