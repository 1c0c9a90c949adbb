r"""Mean-field theory of denoising the RHM under the epsilon-process.

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
:math:`p_\downarrow^{(L)} = 1/v` (Eq. 57-58). If 1/v and 1 attract, a repulsive fixed point
:math:`p^*` between them separates noise below which the class is recovered from noise above which
it is lost, as L grows.

With n != v classes, only the top level changes: its rules number m n, so that m v becomes m n in
Eq. 29, 38 and 56, and the root's prior is 1/n. The fixed points are those of the levels below.

All functions are vectorized: v, m, s, n, epsilon and beliefs broadcast, to a shape (...) below,
and results are float64. n is v by default. Every function raises `InputError` if v, m, s and n do
not define an RHM: whole numbers v >= 2, s >= 2 and n >= 1, and m >= 1 with m v <= v^s and
m n <= v^s are required. Source: Appendix B of the paper.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import ArrayLike
from scipy.special import xlogy

from lit_hier.errors import InputError

Numbers = ArrayLike | Sequence[Any]
"""A number, an array or sequences of numbers; at run time a tuple is not an `ArrayLike`."""

_BISECTIONS: Final = 60  # more than the 53 bits of a float64's mantissa


class _Grammar(NamedTuple):
    """The parameters as float64 arrays of any shapes that broadcast."""

    v: Float64[np.ndarray, "..."]
    m: Float64[np.ndarray, "..."]
    s: Float64[np.ndarray, "..."]
    n: Float64[np.ndarray, "..."]

    @classmethod
    def of(cls, v: Numbers, m: Numbers, s: Numbers, n: Numbers | None = None) -> "_Grammar":
        """Check parameters; n is v by default."""
        v_, m_, s_, n_ = (
            np.asarray(x, dtype=np.float64) for x in (v, m, s, v if n is None else n)
        )
        in_range = (v_ >= 2) & (m_ >= 1) & (s_ >= 2) & (n_ >= 1)
        whole = (v_ % 1 == 0) & (s_ % 1 == 0) & (n_ % 1 == 0)
        valid = np.asarray(in_range & whole & (m_ * np.maximum(v_, n_) <= v_**s_))
        if not valid.all():
            parts = np.broadcast_arrays(v_, m_, s_, n_)
            first = [x[~np.broadcast_to(valid, x.shape)][0] for x in parts]
            raise InputError(
                "v = {:g}, m = {:g}, s = {:g}, n = {:g} do not define an RHM: give whole numbers"
                " v >= 2, s >= 2 and n >= 1, and m >= 1 with m v <= v^s and m n <= v^s".format(
                    *first
                )
            )
        return cls(v_, m_, s_, n_)

    @property
    def others(self) -> Float64[np.ndarray, "..."]:
        """Number of tuples other than a given one, v^s - 1."""
        return np.asarray(self.v**self.s - 1)

    @property
    def density(self) -> Float64[np.ndarray, "..."]:
        """The share of them that are rules of n parents: f of Eq. 29."""
        return np.asarray((self.m * self.n - 1) / self.others)

    @property
    def synonym_density(self) -> Float64[np.ndarray, "..."]:
        """The share of them that are rules of the true parent: f (m - 1)/(m n - 1)."""
        return np.asarray((self.m - 1) / self.others)


def _belief(epsilon: Numbers, v: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    eps = np.asarray(epsilon, dtype=np.float64)
    invalid = eps[~((eps >= 0) & (eps <= 1))]
    if invalid.size:
        raise InputError(f"epsilon is {invalid[0]:g}; give noise from 0 to 1")
    return np.asarray(1 - eps + eps / v)


def rule_density(v: Numbers, m: Numbers, s: Numbers) -> Float64[np.ndarray, "..."]:
    """Fraction f = (mv - 1)/(v^s - 1) of all other tuples that are rules (Eq. 29), shape (...)."""
    return _Grammar.of(v, m, s).density


def upward(
    p: Numbers, v: Numbers, m: Numbers, s: Numbers, n: Numbers | None = None
) -> Float64[np.ndarray, "..."]:
    """Belief in one of n parents whose children have belief p: F of Eq. 38, shape (...)."""
    grammar = _Grammar.of(v, m, s, n)
    intact = np.asarray(p, dtype=np.float64) ** grammar.s
    right = intact + grammar.synonym_density * (1 - intact)
    return np.asarray(right / (intact + grammar.density * (1 - intact)))


def upward_derivative(
    p: Numbers, v: Numbers, m: Numbers, s: Numbers, n: Numbers | None = None
) -> Float64[np.ndarray, "..."]:
    """Derivative F'(p) of `upward` (Eq. 39), shape (...)."""
    grammar = _Grammar.of(v, m, s, n)
    p, f = np.asarray(p, dtype=np.float64), grammar.density
    slope = grammar.s * p ** (grammar.s - 1) / (p**grammar.s + f * (1 - p**grammar.s)) ** 2
    return np.asarray(grammar.m * (grammar.n - 1) / grammar.others * slope)


def downward(
    q: Numbers, p: Numbers, v: Numbers, m: Numbers, s: Numbers
) -> Float64[np.ndarray, "..."]:
    """Belief sent to a child by a parent with downward belief q and siblings with belief p.

    Eq. 56, which does not depend on the number of parents; shape (...).
    """
    grammar = _Grammar.of(v, m, s)
    q = np.asarray(q, dtype=np.float64)
    intact = np.asarray(p, dtype=np.float64) ** (grammar.s - 1)
    others = (grammar.m - q) / grammar.others
    right = q * intact + others * (1 - intact)
    return np.asarray(right / (right + (grammar.v - 1) * others))


def beliefs(
    epsilon: Numbers, v: Numbers, m: Numbers, s: Numbers, L: int, n: Numbers | None = None
) -> tuple[Float64[np.ndarray, " levels *shape"], Float64[np.ndarray, " levels *shape"]]:
    """Upward and downward beliefs at all levels (Eq. 54, 57-58).

    Args:
        epsilon: Noise in [0, 1].
        v: Symbols in the alphabet.
        m: Synonyms, rules per symbol.
        s: Branching.
        L: Depth, at least 1.
        n: Classes, v by default.

    Returns:
        Upward and downward beliefs in the true symbol, each (L + 1, ...), leaves first.

    Raises:
        InputError: `epsilon` or L is out of range, or v, m, s and n do not define an RHM.
    """
    if L < 1:
        raise InputError(f"L is {L}; give at least 1")
    grammar = _Grammar.of(v, m, s, n)
    leaves, v, m, s, n = np.broadcast_arrays(_belief(epsilon, grammar.v), *grammar)
    up = [leaves]
    for level in range(1, L + 1):
        up.append(upward(up[-1], v, m, s, n if level == L else v))
    down = [1 / n]
    for p in reversed(up[:-1]):
        down.append(downward(down[-1], p, v, m, s))
    return np.stack(up), np.stack(down[::-1])


def marginals(
    epsilon: Numbers, v: Numbers, m: Numbers, s: Numbers, L: int, n: Numbers | None = None
) -> Float64[np.ndarray, " levels *shape"]:
    """Posterior probability of the true symbol at every level (Eq. 59): see `beliefs`.

    Returns:
        Shape (L + 1, ...), leaves first.
    """
    up, down = beliefs(epsilon, v, m, s, L, n)
    right = up * down
    others = np.asarray(v, dtype=np.float64) - 1
    belief = np.asarray(right / (right + (1 - up) * (1 - down) / others))
    belief[-1] = up[-1]  # the prior of the root is uniform
    return belief


FloatOrArray = np.float64 | Float64[np.ndarray, "..."]
"""A scalar for scalar arguments, else an array."""


class FixedPoints(NamedTuple):
    """Fixed points p = F(p) of the upward map, on a first axis of three.

    Attributes:
        belief: 1/v, p*, 1, shape (3, ...); p* is NaN if it does not exist.
        slope: F'(p) at each of them, same shape.
        stable: Whether each point attracts, F' < 1, same shape; False where p* does not exist.
    """

    belief: Float64[np.ndarray, " 3 *shape"]
    slope: Float64[np.ndarray, " 3 *shape"]
    stable: Bool[np.ndarray, " 3 *shape"]


def fixed_points(v: Numbers, m: Numbers, s: Numbers) -> FixedPoints:
    """All fixed points of Eq. 38 in [1/v, 1] with their stability (Fig. 10, left).

    F(p) - p vanishes at 1/v and at 1. If both attract, it changes sign once between them, from
    minus to plus, at the repulsive p*. Whether they attract is decided exactly, in rational
    numbers; a marginal point, F' = 1, does not attract.
    """
    v, m, s = np.broadcast_arrays(*_Grammar.of(v, m, s)[:3])
    critical = 1 - _critical_loss(v, m, s)
    belief = np.stack((1 / v, critical, np.ones(v.shape)))
    never = np.zeros(v.shape, dtype=bool)
    stable = np.stack((_ignorance_attracts(v, m, s), never, _certainty_attracts(v, m, s)))
    return FixedPoints(belief, upward_derivative(belief, v, m, s), stable)


def _critical_loss(v: Numbers, m: Numbers, s: Numbers) -> Float64[np.ndarray, "..."]:
    """Bisect 1 - p*, which may be so small that p* has few digits; NaN if it does not exist."""
    grammar = _Grammar.of(v, m, s)
    v, m, s = np.broadcast_arrays(*grammar[:3])
    low, high = np.zeros(v.shape), 1 - 1 / v
    for _ in range(_BISECTIONS):
        loss = (low + high) / 2
        broken = -np.expm1(s * np.log1p(-loss))  # 1 - p^s
        mapped = m * (v - 1) / grammar.others * broken / (1 - broken + grammar.density * broken)
        low, high = np.where(mapped < loss, loss, low), np.where(mapped < loss, high, loss)
    exists = _ignorance_attracts(v, m, s) & _certainty_attracts(v, m, s)
    return np.where(exists, (low + high) / 2, np.nan)


@partial(np.vectorize, otypes=[bool])
def _certainty_attracts(v: float, m: float, s: float) -> bool:
    """Tell whether F'(1) < 1: s m (v - 1) < v^s - 1."""
    symbols, branching = int(v), int(s)
    return bool(branching * Fraction(m) * (symbols - 1) < symbols**branching - 1)


@partial(np.vectorize, otypes=[bool])
def _ignorance_attracts(v: float, m: float, s: float) -> bool:
    """Tell whether F'(1/v) < 1: s (v - 1) v^(s-1) < m (v^s - 1)."""
    symbols, branching = int(v), int(s)
    slope = branching * (symbols - 1) * symbols ** (branching - 1)
    return bool(slope < Fraction(m) * (symbols**branching - 1))


def critical_belief(v: Numbers, m: Numbers, s: Numbers) -> FloatOrArray:
    """Repulsive fixed point p* of Eq. 38, between 1/v and 1; NaN if it does not exist."""
    return _unwrap(fixed_points(v, m, s).belief[1])


def critical_epsilon(v: Numbers, m: Numbers, s: Numbers) -> FloatOrArray:
    """Noise at the transition, 1 - epsilon* + epsilon*/v = p*; NaN if there is none."""
    return _unwrap(_critical_loss(v, m, s) / (1 - 1 / np.asarray(v, dtype=np.float64)))


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
    `kesten_stigum` is 1 or more.
    """
    grammar = _Grammar.of(v, m, s)
    return _unwrap((grammar.m * grammar.v - 1) / (grammar.m * (grammar.v - 1)))


def kesten_stigum(v: Numbers, m: Numbers, s: Numbers) -> FloatOrArray:
    """Slope F'(1/v), by which a level multiplies a small amount of information.

    It is s (v - 1) v^(s-1) / (m (v^s - 1)); for s = 2, s v / ((v + 1) m). Below 1, the
    Kesten-Stigum bound, a small amount of information about the leaves vanishes on the way to the
    root. Above 1, the class is recovered at any noise below 1 as L grows: there is no transition.
    """
    return _unwrap(fixed_points(v, m, s).slope[0])


def _unwrap(x: FloatOrArray) -> FloatOrArray:
    """Convert an array without axes to a scalar."""
    unwrapped: FloatOrArray = np.asarray(x)[()]
    return unwrapped


class Correlations(NamedTuple):
    """Correlated changes of the leaves: see `correlations`.

    Attributes:
        mean: Mean spin mu, shape (...).
        correlation: C_l of two leaves whose common ancestor is at level l, shape (L + 1, ...);
            C_0 is the variance of a spin.
        susceptibility: chi, shape (...); NaN where no spin varies.
    """

    mean: Float64[np.ndarray, "*shape"]
    correlation: Float64[np.ndarray, " levels *shape"]
    susceptibility: Float64[np.ndarray, "*shape"]


class CorrelationDecay(NamedTuple):
    """How correlations decay at the transition; NaN if there is none.

    Attributes:
        factor: lambda, by which a level reduces the difference that a changed ancestor makes.
        growth: s lambda^2, by which a level multiplies the susceptibility: as L grows this
            diverges if it is above 1, and saturates if it is below.
        exponent: 2 ln lambda / ln s: C ~ r^exponent at the distance of r leaves.
    """

    factor: FloatOrArray
    growth: FloatOrArray
    exponent: FloatOrArray


def correlations(
    epsilon: Numbers, v: Numbers, m: Numbers, s: Numbers, L: int, n: Numbers | None = None
) -> Correlations:
    r"""Correlations of the leaves' changes between x_start and a posterior sample.

    The spin of a leaf is 1 if it changed, -1 if not. The posterior sample is drawn from the root,
    which is unchanged with probability :math:`p^{(L)}`, to the leaves, with a rule per node. If a
    node changed, its s children are unchanged independently, each with the belief p of their
    level, given that not all are: no other parent has the true tuple. If it is unchanged, its
    rule is the true one with probability

    .. math:: w = \frac{p^s}{p^s + f \frac{m - 1}{m v - 1} (1 - p^s)}

    and else as if it had changed. With :math:`c^{(l)}` the probability that a child at level l is
    unchanged, given the state of its parent, the expected spins of a leaf below a node at level l
    that changed and that is unchanged differ by

    .. math:: \delta_l = 2 \prod_{k<l}
       (c^{(k)}_\mathrm{unchanged} - c^{(k)}_\mathrm{changed})

    and with P the probability that a node is unchanged and :math:`P_2` that two siblings are,
    both of level l - 1,

    .. math::
       C_0 = 4 P^{(0)} (1 - P^{(0)}), \qquad
       C_l = \delta_{l-1}^2 \left(P_2^{(l-1)} - (P^{(l-1)})^2\right), \qquad
       \chi = 1 + \sum_{l=1}^L (s^l - s^{l-1}) \frac{C_l}{C_0}

    as two leaves whose common ancestor is at level l are independent given its children.
    :math:`\chi` sums the covariances of a leaf with all leaves.

    Source: the definitions of Sclocchi, Favero, Levi, Wyart, "Probing the latent hierarchical
    structure of data via diffusion models" (2024), in the approximation of Eq. 38.

    Args:
        epsilon: Noise in [0, 1].
        v: Symbols in the alphabet.
        m: Synonyms, rules per symbol.
        s: Branching.
        L: Depth, at least 1.
        n: Classes, v by default.

    Raises:
        InputError: As for `beliefs`.
    """
    up, _ = beliefs(epsilon, v, m, s, L, n)
    levels = [_Children.of(p, v, m, s) for p in up[:-1]]
    difference = [np.full_like(up[0], 2.0)]
    for below in levels[:-1]:
        difference.append(difference[-1] * (below.single[1] - below.single[0]))
    probability = np.stack((1 - up[-1], up[-1]))
    from_root: list[Float64[np.ndarray, ...]] = []
    for below, delta in zip(reversed(levels), reversed(difference), strict=True):
        both, unchanged = ((probability * x).sum(0) for x in (below.both, below.single))
        from_root.append(delta**2 * (both - unchanged**2))
        probability = np.stack((1 - unchanged, unchanged))
    own = 4 * probability[0] * probability[1]
    correlation = np.stack([own, *reversed(from_root)])
    branching = np.broadcast_to(np.asarray(s, dtype=np.float64), own.shape)
    size = branching ** np.arange(1, L + 1).reshape(-1, *(1,) * own.ndim)
    joint = (size - size / branching) * correlation[1:]  # summed over the leaves of a level
    with np.errstate(divide="ignore", invalid="ignore"):
        susceptibility = np.where(own > 0, 1 + joint.sum(0) / own, np.nan)
    return Correlations(probability[0] - probability[1], correlation, susceptibility)


def entropy(belief: Numbers, num_symbols: Numbers) -> Float64[np.ndarray, "*shape"]:
    """Return the entropy of a marginal with a belief in the true symbol, and the rest shared.

    The other symbols have equal probabilities, as in the approximation of Eq. 38.

    Args:
        belief: Belief in the true symbol.
        num_symbols: Symbols, v, or n at the root.

    Returns:
        Nats, float64.
    """
    p, k = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (belief, num_symbols)))
    shared = xlogy(1 - p, np.maximum(k - 1, 1))
    return np.asarray(shared - xlogy(p, p) - xlogy(1 - p, 1 - p))


def correlation_decay(v: Numbers, m: Numbers, s: Numbers) -> CorrelationDecay:
    """Return how correlations decay with the distance at p*: see `correlations`."""
    p = fixed_points(v, m, s).belief[1]
    changed, unchanged = _Children.of(p, v, m, s).single
    factor, branching = unchanged - changed, np.asarray(s, dtype=np.float64)
    exponent = 2 * np.log(factor) / np.log(branching)
    return CorrelationDecay(*map(_unwrap, (factor, branching * factor**2, exponent)))


class _Children(NamedTuple):
    """Probabilities of a node's children, if it changed and if it is unchanged: shape (2, ...).

    Attributes:
        single: A child is unchanged.
        both: Two children are unchanged.
    """

    single: Float64[np.ndarray, " 2 *shape"]
    both: Float64[np.ndarray, " 2 *shape"]

    @classmethod
    def of(cls, p: Numbers, v: Numbers, m: Numbers, s: Numbers) -> "_Children":
        """Compute them from the children's belief."""
        grammar = _Grammar.of(v, m, s)
        p, s_ = np.broadcast_arrays(np.asarray(p, dtype=np.float64), grammar.s)
        intact, broken = p**s_, -np.expm1(s_ * np.log(p))
        # Given that one child at least changed; the limits are those of p = 1.
        safe = np.where(broken > 0, broken, 1.0)
        single = np.where(broken > 0, -p * np.expm1((s_ - 1) * np.log(p)) / safe, (s_ - 1) / s_)
        both = np.where(broken > 0, -(p**2) * np.expm1((s_ - 2) * np.log(p)) / safe, (s_ - 2) / s_)
        true_rule = intact / (intact + grammar.synonym_density * broken)
        return cls(
            np.stack((single, true_rule + (1 - true_rule) * single)),
            np.stack((both, true_rule + (1 - true_rule) * both)),
        )
