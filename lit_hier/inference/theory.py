r"""Theoretical predictions for a forward-backward experiment: one function per quantity.

The arguments are the parameters of the grammar or the distribution of the data, the process that
corrupts them and, where the quantity depends on them, the inversion times. The result is NaN where
no theory applies. The theories are:

- mean field (Eq. 38, 54-59), for the RHM under the epsilon-process whose beliefs are centered on
  the true symbols, see `lit_hier.inference.mean_field`;
- density evolution, for the RHM under every other process, see
  `lit_hier.inference.density_evolution`: seconds per inversion time; results are reused within a
  process and, with `cache`, in later ones;
- the posterior of the true class by quadrature, for mixtures of Gaussians, see
  `Distribution.class_theory`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
from jaxtyping import Float64

from lit_hier.gaussian import Distribution
from lit_hier.inference import density_evolution, mean_field
from lit_hier.metrics.functional.correlation import Correlation
from lit_hier.processes import EpsilonNoise, GaussianNoise, NoiseProcess
from lit_hier.rhm.parameters import GrammarParameters


@dataclass(frozen=True)
class Prediction:
    """Expected posterior beliefs, per inversion time and level.

    Attributes:
        name: The name of the theory, for legends.
        upward: Upward messages' belief in the true symbol, float64, shape (T, levels), leaves
            first; NaN where nothing is known, as in all fields.
        downward: Downward messages' belief in it, same shape.
        marginal: Marginals' belief in it, same shape.
        marginal_error: Standard error of `marginal`, same shape; 0 for a closed form.
        largest: Largest marginals, same shape.
        critical_time: The inversion time of the transition as L grows.
        critical_error: Its standard error; 0 for a closed form.
    """

    name: str
    upward: Float64[np.ndarray, "T levels"]
    downward: Float64[np.ndarray, "T levels"]
    marginal: Float64[np.ndarray, "T levels"]
    marginal_error: Float64[np.ndarray, "T levels"]
    largest: Float64[np.ndarray, "T levels"]
    critical_time: float = math.nan
    critical_error: float = math.nan


def mean_field_applies(process: NoiseProcess | None) -> bool:
    """Tell whether mean field describes the beliefs about an RHM: under Eq. 6-7."""
    return isinstance(process, EpsilonNoise) and not process.strings


def predict(
    source: GrammarParameters | Distribution | None,
    process: NoiseProcess | None,
    times: Float64[np.ndarray, " T"] | Sequence[float],
    cache: str | PathLike[str] | None = None,
) -> Prediction:
    """Predict the beliefs in the true symbols at every level.

    Args:
        source: What the data are drawn from; None for data without a theory.
        process: How they are corrupted; None likewise.
        times: Inversion times on the process's axis, shape (T,).
        cache: A folder in which results that take long are kept.

    Returns:
        L + 1 levels for a grammar, one level (the class) for a distribution, none otherwise.
    """
    times = np.asarray(times, dtype=np.float64)
    if isinstance(source, GrammarParameters):
        return _predict_grammar(source, process, times, cache)
    if isinstance(source, Distribution):
        marginal = np.array([[source.class_theory(time)] for time in times.tolist()])
        unknown = np.full_like(marginal, np.nan)
        exact = np.where(np.isnan(marginal), np.nan, 0.0)
        return Prediction("quadrature", unknown, unknown, marginal, exact, unknown)
    unknown = np.empty((len(times), 0))
    return Prediction("theory", unknown, unknown, unknown, unknown, unknown)


def _predict_grammar(
    grammar: GrammarParameters,
    process: NoiseProcess | None,
    times: Float64[np.ndarray, " T"],
    cache: str | PathLike[str] | None,
) -> Prediction:
    v, n, m, s, L = grammar
    if process is None:
        unknown = np.full((len(times), L + 1), np.nan)
        return Prediction("theory", unknown, unknown, unknown, unknown, unknown)
    if mean_field_applies(process):
        up, down = mean_field.beliefs(times, v, m, s, L, n)
        marginal = mean_field.marginals(times, v, m, s, L, n).T
        unknown = np.full_like(marginal, np.nan)
        critical = float(mean_field.critical_epsilon(v, m, s))
        error = critical * 0
        return Prediction(
            "mean field", up.T, down.T, marginal, np.zeros_like(marginal), unknown, critical, error
        )
    evolution = density_evolution.evolve(grammar, process, times, cache=cache)
    value, error = np.moveaxis(evolution.marginal, -1, 0)
    return Prediction(
        "density evolution",
        evolution.upward[..., 0],
        evolution.downward[..., 0],
        value,
        error,
        evolution.largest[..., 0],
        *density_evolution.critical_time(grammar, process, cache=cache),
    )


def critical_exponent(grammar: GrammarParameters, process: NoiseProcess | None) -> float:
    """Return the exponent nu of the correlation length; NaN where it is unknown."""
    if not mean_field_applies(process):
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
    num = 400 if mean_field_applies(process) else 0
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
    if not mean_field_applies(process):
        return np.full(np.shape(belief), np.nan)
    return mean_field.upward(belief, grammar.v, grammar.m, grammar.s)


def fixed_points(
    grammar: GrammarParameters, process: NoiseProcess | None
) -> mean_field.FixedPoints:
    """Return the fixed points of `parent_belief`; NaN where no theory applies."""
    if not mean_field_applies(process):
        unknown = np.full(3, np.nan)
        return mean_field.FixedPoints(unknown, unknown, np.zeros(3, dtype=bool))
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


def correlations(
    source: GrammarParameters | Distribution | None,
    process: NoiseProcess | None,
    times: Float64[np.ndarray, " T"],
) -> Correlation:
    """Predict correlated changes of the leaves; NaN where no theory applies.

    Returns:
        See `lit_hier.metrics.Correlation`; for a grammar, one distance per level of the common
        ancestor, else one.
    """
    if isinstance(source, GrammarParameters) and mean_field_applies(process):
        v, n, m, s, L = source
        found = mean_field.correlations(times, v, m, s, L, n)
        return Correlation(found.mean, found.correlation.T, found.susceptibility, found.length)
    unknown = np.full(len(times), np.nan)
    return Correlation(unknown, unknown[:, None], unknown, unknown)


def speciation_time(
    source: GrammarParameters | Distribution | None, process: NoiseProcess | None
) -> float:
    r"""Return the diffusion time at which the classes of a distribution split.

    It is :math:`t_S = \frac{1}{2} \ln \Lambda`, with :math:`\Lambda` the largest eigenvalue of the
    covariance of the data. Source: Biroli, Bonnaire, de Bortoli, Mezard, "Dynamical regimes of
    diffusion models" (2024).

    Returns:
        The time; NaN if there are no classes, their means coincide, as those of the RHM do,
        :math:`\Lambda < 1`, or the process is not Gaussian diffusion.
    """
    if not isinstance(source, Distribution) or not isinstance(process, GaussianNoise):
        return math.nan
    return source.speciation_time()
