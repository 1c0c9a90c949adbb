r"""Theoretical predictions for a forward-backward experiment: one function per quantity.

The arguments are the parameters of the grammar or the distribution of the data, the process that
corrupts them and, where the quantity depends on them, the inversion times. The result is NaN where
no theory applies. The theories are:

- mean field (Eq. 38, 54-59), for the RHM with n = v under the epsilon-process whose beliefs are
  centered on the true symbols, see `lit_hier.inference.mean_field`;
- the posterior of the true class by quadrature, for mixtures of Gaussians, see
  `Distribution.class_theory`.

A theory for another process or for n != v belongs in `predict`, `critical_time` and
`critical_exponent`, next to the test of `mean_field_applies`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from lit_hier.gaussian import Distribution
from lit_hier.inference import mean_field
from lit_hier.processes import EpsilonNoise, NoiseProcess
from lit_hier.rhm.parameters import GrammarParameters


@dataclass(frozen=True)
class Prediction:
    """Expected posterior beliefs in the true symbols, per inversion time and level.

    Attributes:
        name: The name of the theory, for legends.
        upward: Of the upward messages, float64, shape (T, levels), leaves first; NaN where
            nothing is known, as in all fields.
        downward: Of the downward messages, same shape.
        marginal: Of the marginals, same shape.
        critical_time: The inversion time of the transition as L grows.
    """

    name: str
    upward: Float64[np.ndarray, "T levels"]
    downward: Float64[np.ndarray, "T levels"]
    marginal: Float64[np.ndarray, "T levels"]
    critical_time: float


def mean_field_applies(grammar: GrammarParameters, process: NoiseProcess | None) -> bool:
    """Tell whether mean field describes the beliefs: under Eq. 6-7, for n = v."""
    return isinstance(process, EpsilonNoise) and not process.strings and grammar.n == grammar.v


def predict(
    source: GrammarParameters | Distribution | None,
    process: NoiseProcess | None,
    times: Float64[np.ndarray, " T"] | Sequence[float],
) -> Prediction:
    """Predict the beliefs in the true symbols at every level.

    Args:
        source: What the data are drawn from; None for data without a theory.
        process: How they are corrupted; None likewise.
        times: Inversion times on the process's axis, shape (T,).

    Returns:
        L + 1 levels for a grammar, one level (the class) for a distribution, none otherwise.
    """
    times = np.asarray(times, dtype=np.float64)
    if isinstance(source, GrammarParameters):
        return _predict_grammar(source, process, times)
    if isinstance(source, Distribution):
        marginal = [[source.class_theory(time)] for time in times.tolist()]
        unknown = np.full((len(times), 1), np.nan)
        return Prediction("quadrature", unknown, unknown, np.array(marginal), math.nan)
    unknown = np.empty((len(times), 0))
    return Prediction("theory", unknown, unknown, unknown, math.nan)


def _predict_grammar(
    grammar: GrammarParameters, process: NoiseProcess | None, times: Float64[np.ndarray, " T"]
) -> Prediction:
    v, _, m, s, L = grammar
    if mean_field_applies(grammar, process):
        up, down = mean_field.beliefs(times, v, m, s, L)
        marginal = mean_field.marginals(times, v, m, s, L)
    else:
        up = down = marginal = np.full((L + 1, len(times)), np.nan)
    return Prediction("mean field", up.T, down.T, marginal.T, critical_time(grammar, process))


def critical_time(grammar: GrammarParameters, process: NoiseProcess | None) -> float:
    """Return the inversion time of the transition as L grows; NaN where it is unknown."""
    if not mean_field_applies(grammar, process):
        return math.nan
    return float(mean_field.critical_epsilon(grammar.v, grammar.m, grammar.s))


def critical_exponent(grammar: GrammarParameters, process: NoiseProcess | None) -> float:
    """Return the exponent nu of the correlation length; NaN without a predicted transition."""
    if not math.isfinite(critical_time(grammar, process)):
        return math.nan
    return float(mean_field.critical_exponent(grammar.v, grammar.m, grammar.s))


def critical_line(
    grammar: GrammarParameters, process: NoiseProcess | None
) -> tuple[Float64[np.ndarray, " points"], Float64[np.ndarray, " points"]]:
    """Return the line of transitions over s f, with m from 1 to v^(s-1) as a real number.

    Returns:
        Critical times, and s f, each of shape (400,); empty where no theory applies.
    """
    v, _, _, s, _ = grammar
    num = 400 if mean_field_applies(grammar, process) else 0
    m = np.linspace(1, v ** (s - 1), num)
    s_f = np.asarray(s * mean_field.rule_density(v, m, s))
    return np.asarray(mean_field.critical_epsilon(v, m, s)), s_f


def scaled_density(grammar: GrammarParameters) -> float:
    """Return s f, with the density of rules f in its finite-size form (Eq. 29)."""
    return float(grammar.s * mean_field.rule_density(grammar.v, grammar.m, grammar.s))


def parent_belief(
    grammar: GrammarParameters,
    process: NoiseProcess | None,
    belief: Float64[np.ndarray, "*shape"] | float,
) -> Float64[np.ndarray, "*shape"]:
    """Map the upward belief of a level to that of the level above (Eq. 38).

    Args:
        grammar: The parameters.
        process: How the leaves are corrupted.
        belief: Upward beliefs in the true symbol, any shape.

    Returns:
        F(belief), the shape of `belief`; NaN where no theory applies.
    """
    if not mean_field_applies(grammar, process):
        return np.full(np.shape(belief), np.nan)
    return mean_field.upward(belief, grammar.v, grammar.m, grammar.s)


def fixed_points(
    grammar: GrammarParameters, process: NoiseProcess | None
) -> mean_field.FixedPoints:
    """Return the fixed points of `parent_belief`; NaN where no theory applies."""
    if not mean_field_applies(grammar, process):
        return mean_field.FixedPoints(np.full(3, np.nan), np.full(3, np.nan))
    return mean_field.fixed_points(grammar.v, grammar.m, grammar.s)


def effective_noise(
    process: NoiseProcess, times: Sequence[float], v: int
) -> Float64[np.ndarray, " T"]:
    """Return the expected effective noise of a process (Eq. 60).

    Args:
        process: How the leaves are corrupted.
        times: Inversion times, T of them.
        v: Symbols in the alphabet.

    Returns:
        epsilon(t), float64, shape (T,).
    """
    return np.array([process.effective_noise(time, v) for time in times], dtype=np.float64)
