r"""The arithmetic of belief propagation, as semirings with the same operations.

The same passes run on messages (`LinearSemiring`) or on their logarithms (`LogSemiring`). The
first is fast and bounds the error due to underflow; the second does not underflow.

Messages are matrices (symbols, columns). Each column is divided by its unit, so that neither the
depth of the tree nor the scale of the leaves makes them overflow. In linear arithmetic the unit is
the power of two that brings the maximum into [1/2, 1): dividing by it is exact.

Two numbers per column bound the error due to underflow. A product of messages can underflow only
if the product of their smallest positive entries, `smallest`, does; `loss` is an upper bound on
the error so far, relative to the largest entry.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor


class ScaledMessages(NamedTuple):
    """Messages divided by their units.

    Attributes:
        messages: Shape (symbols, columns).
        exponents: Exponents of the units, in base 2 or e, shape (columns,).
        loss: Upper bound on the error due to underflow, relative to the largest entry, shape
            (columns,); above 1 or NaN if there is no useful bound.
        smallest: Smallest positive entries, shape (columns,).
    """

    messages: Float[Tensor, "symbols columns"]
    exponents: Shaped[Tensor, " columns"]
    loss: Float[Tensor, " columns"]
    smallest: Float[Tensor, " columns"]


class Semiring(ABC):
    """Operations on messages, in linear numbers or in logarithms."""

    zero: float
    """The neutral element of `add`."""

    @abstractmethod
    def encode(self, probabilities: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Convert from linear numbers."""

    @abstractmethod
    def weights(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Convert scaled messages to linear numbers."""

    @abstractmethod
    def add(self, x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], *, out: Tensor) -> None:
        """Write the sum of two messages into `out`."""

    @abstractmethod
    def multiply(
        self, x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], *, out: Tensor | None = None
    ) -> Float[Tensor, "*shape"]:
        """Product of two messages, written into `out` if given."""

    @abstractmethod
    def normalize(self, x: Float[Tensor, " symbols *rest"]) -> Float[Tensor, " symbols *rest"]:
        """Probabilities from messages of any scale, with sum 1 over the first axis."""

    @abstractmethod
    def leaf_loss(self, x: Float[Tensor, "symbols columns"]) -> Float[Tensor, " columns"]:
        """Infinity where leaf messages cannot be scaled exactly, else 0."""

    @abstractmethod
    def smallest(self, x: Float[Tensor, "symbols columns"]) -> Float[Tensor, " columns"]:
        """Smallest positive entry of each column; 1 if nothing can underflow."""

    @abstractmethod
    def scale(
        self,
        x: Float[Tensor, "symbols columns"],
        loss: Float[Tensor, " columns"],
        smallest: Float[Tensor, " columns"],
    ) -> ScaledMessages:
        """Divide each column by its unit.

        Args:
            x: Messages, each a sum of products, shape (symbols, columns).
            loss: Upper bound on the error that `x` inherits from the factors, shape (columns,).
            smallest: Product of the factors' smallest entries, shape (columns,).
        """

    @abstractmethod
    def log_evidence(
        self,
        root: Float[Tensor, "batch classes"],
        exponents: Shaped[Tensor, " batch"],
        prior: Float64[Tensor, "batch classes"],
    ) -> Float64[Tensor, " batch"]:
        """Logarithm of the prior's expectation of the root's upward messages, nats.

        Args:
            root: The root's upward messages, scaled, shape (B, n).
            exponents: Sum of the exponents of all units below and at the root, shape (B,).
            prior: Probability of each class, linear, shape (B, n).
        """


@final
class LinearSemiring(Semiring):
    """Sum and product of floating-point numbers."""

    zero = 0.0

    def encode(self, probabilities: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the numbers themselves."""
        return probabilities

    def weights(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the messages themselves."""
        return x

    def add(self, x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], *, out: Tensor) -> None:
        """Write x + y into `out`."""
        torch.add(x, y, out=out)

    def multiply(
        self, x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], *, out: Tensor | None = None
    ) -> Float[Tensor, "*shape"]:
        """Product x y."""
        return torch.mul(x, y, out=out)

    def normalize(self, x: Float[Tensor, " symbols *rest"]) -> Float[Tensor, " symbols *rest"]:
        """Divide by the `pairwise_sum`; an entry that equals the sum becomes exactly 1."""
        total = pairwise_sum(x)
        return torch.where(x == total, 1, x * total.reciprocal())

    def leaf_loss(self, x: Float[Tensor, "symbols columns"]) -> Float[Tensor, " columns"]:
        """Infinity where a power of two may not scale the maximum exactly."""
        largest = x.amax(0)
        tiny = torch.finfo(x.dtype).tiny
        return torch.where((largest >= tiny) & (largest < 0.25 / tiny), 0.0, torch.inf)

    def smallest(self, x: Float[Tensor, "symbols columns"]) -> Float[Tensor, " columns"]:
        """Smallest positive entry of each column; infinity where no entry is positive."""
        return torch.where(x > 0, x, torch.inf).amin(0)

    def scale(
        self,
        x: Float[Tensor, "symbols columns"],
        loss: Float[Tensor, " columns"],
        smallest: Float[Tensor, " columns"],
    ) -> ScaledMessages:
        """Divide each column by the power of two that brings its maximum into [1/2, 1)."""
        largest = x.amax(0)
        mantissa, exponents = torch.frexp(largest)
        unit = largest / mantissa
        loss = _add_underflow(smallest, loss) / largest
        smallest = self.smallest(x) / unit
        return ScaledMessages(x / unit, exponents, _add_underflow(smallest, loss), smallest)

    def log_evidence(
        self,
        root: Float[Tensor, "batch classes"],
        exponents: Shaped[Tensor, " batch"],
        prior: Float64[Tensor, "batch classes"],
    ) -> Float64[Tensor, " batch"]:
        """Logarithm of the pairwise sum, plus the exponents times ln 2."""
        weights = (root * prior.to(root.dtype)).double()
        return pairwise_sum(weights.T).log() + exponents.double() * math.log(2)


@final
class LogSemiring(Semiring):
    """Sum and product of numbers represented by their logarithms.

    Nothing underflows: `loss` is 0, or NaN where a whole column is impossible.
    """

    zero = -torch.inf

    def encode(self, probabilities: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Logarithms."""
        return probabilities.log()

    def weights(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Exponentials."""
        return x.exp()

    def add(self, x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], *, out: Tensor) -> None:
        """Write log(e^x + e^y) into `out`."""
        torch.logaddexp(x, y, out=out)

    def multiply(
        self, x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], *, out: Tensor | None = None
    ) -> Float[Tensor, "*shape"]:
        """Sum x + y."""
        return torch.add(x, y, out=out)

    def normalize(self, x: Float[Tensor, " symbols *rest"]) -> Float[Tensor, " symbols *rest"]:
        """Softmax over the first axis."""
        return torch.softmax(x, dim=0)

    def leaf_loss(self, x: Float[Tensor, "symbols columns"]) -> Float[Tensor, " columns"]:
        """Zeros: any maximum can be subtracted."""
        return torch.zeros_like(x[0])

    def smallest(self, x: Float[Tensor, "symbols columns"]) -> Float[Tensor, " columns"]:
        """Ones: nothing underflows."""
        return torch.ones_like(x[0])

    def scale(
        self,
        x: Float[Tensor, "symbols columns"],
        loss: Float[Tensor, " columns"],
        smallest: Float[Tensor, " columns"],
    ) -> ScaledMessages:
        """Subtract each column's maximum."""
        largest = x.amax(0)
        loss = torch.where(largest > -torch.inf, 0.0, torch.nan)
        return ScaledMessages(x - largest, largest, loss, smallest)

    def log_evidence(
        self,
        root: Float[Tensor, "batch classes"],
        exponents: Shaped[Tensor, " batch"],
        prior: Float64[Tensor, "batch classes"],
    ) -> Float64[Tensor, " batch"]:
        """Logarithm of the sum of exponentials, plus the exponents."""
        return (root + prior.log()).logsumexp(-1) + exponents


def pairwise_sum(x: Float[Tensor, " terms *rest"]) -> Float[Tensor, "*rest"]:
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


def _add_underflow(
    smallest: Float[Tensor, " columns"], loss: Float[Tensor, " columns"]
) -> Float[Tensor, " columns"]:
    """Add the underflow error of numbers below the smallest normal one."""
    tiny = torch.finfo(smallest.dtype).tiny
    return torch.where(smallest < tiny, loss + tiny, loss)
