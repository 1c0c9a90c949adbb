r"""The one operation of belief propagation on the RHM, as a few large vector operations.

Upward (Eq. 13) and downward (Eq. 15) alike, a message to a node with symbol r sums, over the rules
that contain r, the product of one incoming message per other node of the rule:

.. math:: \text{out}(r) = \bigoplus_{\text{rules } \rho \ni r} \;
   \bigotimes_j \text{in}_j\big(\text{symbol of } \rho \text{ at } j\big)

A message is a matrix (symbols, columns), one column per node and sample. Rules are taken in
rounds, at most one rule per r each, so that a round gathers rows, multiplies and adds: the work
is (number of rules) x (number of operands) per column, and no tensor has a larger axis than v.
Sums run in a fixed order within a column, so a column's result has the same bits whatever stands
beside it; torch's own reductions do not promise that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Semiring:
    """What sum and product mean.

    Attributes:
        plus: The sum of two messages.
        times: The product of two messages.
        over: The quotient of two messages.
        zero: The neutral element of `plus`.
        normalise: Makes probabilities of messages, shape (K, ...), of any scale.
    """

    plus: Callable[..., Tensor]
    times: Callable[..., Tensor]
    over: Callable[..., Tensor]
    zero: float
    normalise: Callable[[Tensor], Tensor]


def pairwise_sum(x: Tensor) -> Tensor:
    """Sum over the first axis by halving, in an order that depends on its length only.

    Args:
        x: Shape (K, ...), K at least 1.

    Returns:
        Shape (...).
    """
    while len(x) > 1:
        half = len(x) // 2
        rest = x[2 * half :]
        x = x[:half] + x[half : 2 * half]
        if len(rest):
            x = torch.cat((x, rest))
    return x[0]


def _over_sum(x: Tensor) -> Tensor:
    """Divide by the `pairwise_sum`; what is all of it gets 1 exactly."""
    total = pairwise_sum(x)
    return torch.where(x == total, 1, x * total.reciprocal())


LINEAR = Semiring(torch.add, torch.mul, torch.div, 0.0, _over_sum)
LOGARITHMIC = Semiring(
    torch.logaddexp, torch.add, torch.sub, -torch.inf, partial(torch.softmax, dim=0)
)


class Rounds(nn.Module):
    """Rules in the order in which `sum_product` takes them.

    Args:
        targets: The row that each rule adds to, int64, shape (number of rules,).
        sources: The row that each rule takes of each operand, shape (J, number of rules).
        num_rows: Rows of the result.

    Attributes:
        index: `sources`, rounds one after another.
        sizes: Rules in each round, descending: a round serves the first rows of the sum.
        order: Where each row of the result stands in the sum.
    """

    index: Tensor
    order: Tensor

    def __init__(self, targets: Tensor, sources: Tensor, num_rows: int) -> None:
        super().__init__()
        counts = torch.bincount(targets, minlength=num_rows)
        busiest_first = torch.argsort(counts, descending=True, stable=True)
        order = torch.empty_like(busiest_first)
        order[busiest_first] = torch.arange(num_rows)
        # A rule's turn: how many rules of the same target come before it.
        by_target = torch.argsort(order[targets], stable=True)
        counts = counts[busiest_first]
        first = torch.cumsum(counts, 0) - counts
        turn = torch.arange(len(targets)) - first[order[targets[by_target]]]
        by_turn = by_target[torch.argsort(turn, stable=True)]
        self.sizes: list[int] = torch.bincount(turn).tolist()
        self.num_rows = num_rows
        self.in_place = torch.equal(order, torch.arange(num_rows))
        self.register_buffer("index", sources[:, by_turn], persistent=False)
        self.register_buffer("order", order, persistent=False)


def sum_product(operands: Sequence[Tensor], rounds: Rounds, semiring: Semiring) -> Tensor:
    """Sum products of rows (Eq. 13 and 15, unnormalised).

    Args:
        operands: J messages, each (symbols, columns).
        rounds: Which rows make which.
        semiring: What sum and product mean.

    Returns:
        Messages, shape (rows, columns).
    """
    out = operands[0].new_full((rounds.num_rows, operands[0].shape[1]), semiring.zero)
    for index in rounds.index.split(rounds.sizes, dim=1):
        term = operands[0].index_select(0, index[0])
        for operand, rows in zip(operands[1:], index[1:], strict=True):
            semiring.times(term, operand.index_select(0, rows), out=term)
        head = out[: len(term)]
        semiring.plus(head, term, out=head)
    return out if rounds.in_place else out.index_select(0, rounds.order)
