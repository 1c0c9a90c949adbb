r"""Mean-field theory of denoising the RHM under the epsilon-process, for n = v.

Messages are replaced by their average over random rules, so that one number describes each: the
belief p in the true symbol, from 1/v (no information) to 1 (certainty). With
:math:`f = (mv - 1)/(v^s - 1)` (Eq. 29), one level of the tree maps

.. math::
   F_\uparrow(p) &= \frac{p^s + f \frac{m-1}{mv-1} (1 - p^s)}{p^s + f (1 - p^s)}
   && \text{(Eq. 38, 55)} \\
   F_\downarrow(q, p) &= \frac{q p^{s-1} + f \frac{m-q}{mv-1} (1 - p^{s-1})}
   {q p^{s-1} + f \frac{m-q}{mv-1} (1 - p^{s-1}) + (v-1) f \frac{m-q}{mv-1}}
   && \text{(Eq. 56)}

starting from :math:`p_\uparrow^{(0)} = 1 - \epsilon + \epsilon/v` and
:math:`p_\downarrow^{(L)} = 1/v` (Eq. 57-58). If :math:`F'(1) < 1`, a repulsive fixed point
:math:`p^*` between the attractive ones 1/v and 1 separates noise below which the class is
recovered from noise above which it is lost, as L grows.

All functions are vectorized: v, m, s, epsilon and beliefs broadcast, to a shape (...) below, and
results are float64. Every function raises `InputError` if v, m and s do not define an RHM: v >= 2,
m >= 1, s >= 2 and m v <= v^s are required. Source: Appendix B of the paper.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import ArrayLike

from lit_hier.errors import InputError

Numbers = ArrayLike | Sequence[Any]
"""A number, an array or sequences of numbers; at run time a tuple is not an `ArrayLike`."""

_BISECTIONS: Final = 60  # more than the 53 bits of a float64's mantissa


def _parameters(
    v: Numbers, m: Numbers, s: Numbers
) -> tuple[Float64[np.ndarray, "..."], Float64[np.ndarray, "..."], Float64[np.ndarray, "..."]]:
    v_, m_, s_ = (np.asarray(x, dtype=np.float64) for x in (v, m, s))
    invalid = np.asarray((v_ < 2) | (m_ < 1) | (s_ < 2) | (m_ * v_ > v_**s_))
    if invalid.any():
        first = [x[invalid][0] for x in np.broadcast_arrays(v_, m_, s_)]
        raise InputError(
            "v = {:g}, m = {:g}, s = {:g} do not define an RHM:"
            " give v >= 2, m >= 1, s >= 2 and m v <= v^s".format(*first)
        )
    return v_, m_, s_


def _belief(epsilon: Numbers, v: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    eps = np.asarray(epsilon, dtype=np.float64)
    invalid = eps[~((eps >= 0) & (eps <= 1))]
    if invalid.size:
        raise InputError(f"epsilon is {invalid[0]:g}; give noise from 0 to 1")
    return np.asarray(1 - eps + eps / v)


def rule_density(v: Numbers, m: Numbers, s: Numbers) -> Float64[np.ndarray, "..."]:
    """Fraction f = (mv - 1)/(v^s - 1) of all other tuples that are rules (Eq. 29), shape (...)."""
    v, m, s = _parameters(v, m, s)
    return np.asarray((m * v - 1) / (v**s - 1))


def upward(p: Numbers, v: Numbers, m: Numbers, s: Numbers) -> Float64[np.ndarray, "..."]:
    """Belief in a parent whose children have belief p: F of Eq. 38, shape (...)."""
    f = rule_density(v, m, s)
    v, m, s = _parameters(v, m, s)
    intact = np.asarray(p, dtype=np.float64) ** s
    broken = f * (1 - intact)
    return np.asarray((intact + broken * (m - 1) / (m * v - 1)) / (intact + broken))


def upward_derivative(
    p: Numbers, v: Numbers, m: Numbers, s: Numbers
) -> Float64[np.ndarray, "..."]:
    """Derivative F'(p) of `upward` (Eq. 39), shape (...)."""
    f = rule_density(v, m, s)
    v, m, s = _parameters(v, m, s)
    p = np.asarray(p, dtype=np.float64)
    slope = f * s * p ** (s - 1) / (p**s + f * (1 - p**s)) ** 2
    return np.asarray(m * (v - 1) / (m * v - 1) * slope)


def downward(
    q: Numbers, p: Numbers, v: Numbers, m: Numbers, s: Numbers
) -> Float64[np.ndarray, "..."]:
    """Belief sent to a child by a parent with downward belief q and siblings with belief p.

    Eq. 56; shape (...).
    """
    f = rule_density(v, m, s)
    v, m, s = _parameters(v, m, s)
    q = np.asarray(q, dtype=np.float64)
    intact = np.asarray(p, dtype=np.float64) ** (s - 1)
    others = f * (m - q) / (m * v - 1)
    right = q * intact + others * (1 - intact)
    return np.asarray(right / (right + (v - 1) * others))


def beliefs(
    epsilon: Numbers, v: Numbers, m: Numbers, s: Numbers, L: int
) -> tuple[Float64[np.ndarray, " levels *shape"], Float64[np.ndarray, " levels *shape"]]:
    """Upward and downward beliefs at all levels (Eq. 54, 57-58).

    Args:
        epsilon: Noise in [0, 1].
        v: Symbols in the alphabet.
        m: Synonyms, rules per symbol.
        s: Branching.
        L: Depth, at least 1.

    Returns:
        Upward and downward beliefs in the true symbol, each (L + 1, ...), leaves first.

    Raises:
        InputError: `epsilon` or L is out of range, or v, m and s do not define an RHM.
    """
    if L < 1:
        raise InputError(f"L is {L}; give at least 1")
    v, m, s = _parameters(v, m, s)
    leaves, v, m, s = np.broadcast_arrays(_belief(epsilon, v), v, m, s)
    up = [leaves]
    for _ in range(L):
        up.append(upward(up[-1], v, m, s))
    down = [1 / v]
    for p in reversed(up[:-1]):
        down.append(downward(down[-1], p, v, m, s))
    return np.stack(up), np.stack(down[::-1])


def marginals(
    epsilon: Numbers, v: Numbers, m: Numbers, s: Numbers, L: int
) -> Float64[np.ndarray, " levels *shape"]:
    """Posterior probability of the true symbol at every level (Eq. 59): see `beliefs`.

    Returns:
        Shape (L + 1, ...), leaves first.
    """
    up, down = beliefs(epsilon, v, m, s, L)
    right = up * down
    wrong = (1 - up) * (1 - down) / (np.asarray(v, dtype=np.float64) - 1)
    return np.asarray(right / (right + wrong))


FloatOrArray = np.float64 | Float64[np.ndarray, "..."]
"""A scalar for scalar arguments, else an array."""


class FixedPoints(NamedTuple):
    """Fixed points p = F(p) of the upward map, on a first axis of three.

    Attributes:
        belief: 1/v, p*, 1, shape (3, ...); p* is NaN if it does not exist.
        slope: F'(p) at each of them, same shape.
    """

    belief: Float64[np.ndarray, " 3 *shape"]
    slope: Float64[np.ndarray, " 3 *shape"]

    @property
    def stable(self) -> Bool[np.ndarray, " 3 *shape"]:
        """Whether each point attracts, |F'| < 1; False where p* does not exist."""
        return np.asarray(np.abs(self.slope) < 1)


def fixed_points(v: Numbers, m: Numbers, s: Numbers) -> FixedPoints:
    """All fixed points of Eq. 38 in [1/v, 1] with their stability (Fig. 10, left).

    F(p) - p vanishes at 1/v and at 1. If both attract, F'(1) < 1 and F'(1/v) < 1, it changes sign
    once between them, from minus to plus, at the repulsive p*.
    """
    v, m, s = np.broadcast_arrays(*_parameters(v, m, s))
    low, high = 1 / v, np.ones(v.shape)
    ends = upward_derivative(np.stack((low, high)), v, m, s)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = upward(middle, v, m, s) > middle
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    between = np.where((ends < 1).all(0), (low + high) / 2, np.nan)
    belief = np.stack((1 / v, between, np.ones(v.shape)))
    return FixedPoints(belief, upward_derivative(belief, v, m, s))


def critical_belief(v: Numbers, m: Numbers, s: Numbers) -> FloatOrArray:
    """Repulsive fixed point p* of Eq. 38, between 1/v and 1; NaN if it does not exist."""
    return _unwrap(fixed_points(v, m, s).belief[1])


def critical_epsilon(v: Numbers, m: Numbers, s: Numbers) -> FloatOrArray:
    """Noise at the transition, 1 - epsilon* + epsilon*/v = p*; NaN if there is none."""
    p = critical_belief(v, m, s)
    return _unwrap((1 - p) / (1 - 1 / np.asarray(v, dtype=np.float64)))


def critical_exponent(v: Numbers, m: Numbers, s: Numbers) -> FloatOrArray:
    r"""Exponent nu of the correlation length; NaN if there is no transition.

    Near the transition :math:`\xi \sim |\epsilon - \epsilon^*|^{-\nu}` with
    :math:`\nu = \ln s / \ln F'(p^*)`: each level multiplies the distance from p* by F'(p*),
    and lengths by s.
    """
    slope = fixed_points(v, m, s).slope[1]
    return _unwrap(np.log(np.asarray(s, dtype=np.float64)) / np.log(slope))


def critical_density(v: Numbers, m: Numbers, s: Numbers) -> FloatOrArray:
    """The s f below which the class can be recovered: F'(1) = 1 in its finite-size form (Eq. 41).

    It tends to 1 as v grows. If s times `rule_density` is below it, there is a transition, unless
    so few strings are data that 1/v is repulsive: then the class is recovered at any noise below 1
    (m = 1).
    """
    v, m, s = _parameters(v, m, s)
    return _unwrap((m * v - 1) / (m * (v - 1)))


def _unwrap(x: FloatOrArray) -> FloatOrArray:
    """Convert an array without axes to a scalar."""
    unwrapped: FloatOrArray = np.asarray(x)[()]
    return unwrapped
