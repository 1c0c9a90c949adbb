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
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from lit_hier.gaussian import Distribution
from lit_hier.inference import density_evolution, mean_field
from lit_hier.metrics.functional import Correlation, TreePairs, correlation_length, fit_decay
from lit_hier.processes import EpsilonNoise, GaussianNoise, NoiseProcess
from lit_hier.rhm.parameters import GrammarParameters

QUANTITIES: Final = ("upward", "downward", "marginal", "largest", "information")
"""What is predicted; see `Prediction`."""


@dataclass(frozen=True)
class Prediction:
    """Expected posterior beliefs, per inversion time and level.

    Fields named after a quantity have shape (T, levels), leaves first; NaN where nothing is known.
    Their standard errors, `..._error`, are 0 for a closed form.

    Attributes:
        name: The name of the theory, for legends.
        upward: Upward messages' belief in the true symbol.
        downward: Downward messages' belief in it.
        marginal: Marginals' belief in it.
        largest: Largest marginals.
        information: ln k minus the marginals' entropy, in nats, with k the number of symbols of
            the level.
        critical_time: The inversion time of the transition as L grows.
        critical_error: Its standard error; 0 for a closed form.
    """

    name: str
    upward: Float64[np.ndarray, "T levels"]
    upward_error: Float64[np.ndarray, "T levels"]
    downward: Float64[np.ndarray, "T levels"]
    downward_error: Float64[np.ndarray, "T levels"]
    marginal: Float64[np.ndarray, "T levels"]
    marginal_error: Float64[np.ndarray, "T levels"]
    largest: Float64[np.ndarray, "T levels"]
    largest_error: Float64[np.ndarray, "T levels"]
    information: Float64[np.ndarray, "T levels"]
    information_error: Float64[np.ndarray, "T levels"]
    critical_time: float = math.nan
    critical_error: float = math.nan

    @classmethod
    def of(
        cls,
        name: str,
        shape: tuple[int, int],
        critical: tuple[float, float] = (math.nan, math.nan),
        **known: Float64[np.ndarray, "T levels 2"],
    ) -> "Prediction":
        """Return a prediction of some quantities: values and standard errors."""
        parts = {}
        for quantity in QUANTITIES:
            found = known.get(quantity, np.full((*shape, 2), np.nan))
            parts[quantity], parts[f"{quantity}_error"] = np.moveaxis(found, -1, 0)
        return cls(name, **parts, critical_time=critical[0], critical_error=critical[1])

    def upward_only(self) -> "Prediction":
        """Return what holds for any prior of the class: upward messages, and nothing else."""
        known = np.stack((self.upward, self.upward_error), axis=-1)
        num_times, num_levels = self.upward.shape
        return Prediction.of(self.name, (num_times, num_levels), upward=known)


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
        return Prediction.of("quadrature", marginal.shape, marginal=_exact(marginal))
    return Prediction.of("theory", (len(times), 0))


def _exact(values: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape 2"]:
    """Append an error of 0; NaN where the value is."""
    return np.stack((values, values * 0), axis=-1)


def _predict_grammar(
    grammar: GrammarParameters,
    process: NoiseProcess | None,
    times: Float64[np.ndarray, " T"],
    cache: str | PathLike[str] | None,
) -> Prediction:
    v, n, m, s, L = grammar
    shape = (len(times), L + 1)
    if process is None:
        return Prediction.of("theory", shape)
    if mean_field_applies(process):
        up, down = mean_field.beliefs(times, v, m, s, L, n)
        critical = float(mean_field.critical_epsilon(v, m, s))
        return Prediction.of(
            "mean field",
            shape,
            (critical, critical * 0),
            upward=_exact(up.T),
            downward=_exact(down.T),
            marginal=_exact(mean_field.marginals(times, v, m, s, L, n).T),
        )
    evolution = density_evolution.evolve(grammar, process, times, cache=cache)
    ignorance = np.zeros((L + 1, 2))
    ignorance[:, 0] = np.log([v] * L + [n])
    return Prediction.of(
        "density evolution",
        shape,
        density_evolution.critical_time(grammar, process, cache=cache),
        upward=evolution.upward,
        downward=evolution.downward,
        marginal=evolution.marginal,
        largest=evolution.largest,
        information=np.abs(ignorance - evolution.entropy),
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


def kesten_stigum(grammar: GrammarParameters) -> float:
    """Return F'(1/v), see `mean_field.kesten_stigum`; there is a transition only below 1."""
    return float(mean_field.kesten_stigum(grammar.v, grammar.m, grammar.s))


def parent_belief(
    grammar: GrammarParameters,
    process: NoiseProcess | None,
    belief: Float64[np.ndarray, "*shape"] | float,
    top: bool = False,
) -> Float64[np.ndarray, "*shape"]:
    """Map the upward belief of a level to that of the level above (Eq. 38).

    Args:
        grammar: The parameters.
        process: How the leaves are corrupted.
        belief: Upward beliefs in the true symbol, any shape.
        top: Whether the parents are roots, which have n symbols instead of v.

    Returns:
        F(belief), the shape of `belief`; NaN where no theory applies.
    """
    if not mean_field_applies(process):
        return np.full(np.shape(belief), np.nan)
    num_parents = grammar.n if top else grammar.v
    return mean_field.upward(belief, grammar.v, grammar.m, grammar.s, num_parents)


def parent_slope(
    grammar: GrammarParameters,
    process: NoiseProcess | None,
    belief: Float64[np.ndarray, "*shape"] | float,
    top: bool = False,
) -> Float64[np.ndarray, "*shape"]:
    """Return the derivative of `parent_belief`, with the same arguments and shape."""
    if not mean_field_applies(process):
        return np.full(np.shape(belief), np.nan)
    num_parents = grammar.n if top else grammar.v
    return mean_field.upward_derivative(belief, grammar.v, grammar.m, grammar.s, num_parents)


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
    reach: Bool[np.ndarray, "T distances"] | None = None,
) -> Correlation:
    """Predict correlated changes of the leaves; NaN where no theory applies.

    Args:
        source: What the data are drawn from; None for data without a theory.
        process: How they are corrupted; None likewise.
        times: Inversion times on the process's axis, shape (T,).
        reach: The distances over which the length and the decay are taken, as those of a
            measurement; all by default.

    Returns:
        See `lit_hier.metrics.Correlation`; for a grammar, one distance per level of the common
        ancestor, else one.
    """
    if isinstance(source, GrammarParameters) and mean_field_applies(process):
        v, n, m, s, L = source
        found = mean_field.correlations(times, v, m, s, L, n)
        correlation, pairs = found.correlation.T, TreePairs(s, L)
        return Correlation(
            found.mean,
            correlation,
            found.susceptibility,
            correlation_length(correlation, pairs, reach),
            fit_decay(
                correlation, pairs.lengths, np.isfinite(correlation) if reach is None else reach
            ),
        )
    unknown = np.full(len(times), np.nan)
    return Correlation(unknown, unknown[:, None], unknown, unknown, unknown)


def class_entropy(
    source: GrammarParameters | Distribution | None,
    process: NoiseProcess | None,
    prediction: Prediction,
) -> Float64[np.ndarray, "T 2"]:
    """Return the expected entropy of the class given x_t, and its standard error, in nats.

    Under the mean field it is that of its belief, see `mean_field.entropy`.

    Args:
        source: What the data are drawn from.
        process: How they are corrupted.
        prediction: What `predict` returned for them.

    Returns:
        Shape (T, 2); NaN where no theory applies.
    """
    if not isinstance(source, GrammarParameters):
        return np.full((len(prediction.marginal), 2), np.nan)
    if mean_field_applies(process):
        return _exact(mean_field.entropy(prediction.marginal[:, -1], source.n))
    information, error = prediction.information[:, -1], prediction.information_error[:, -1]
    return np.stack((math.log(source.n) - information, error), axis=-1)


class Scaling(NamedTuple):
    """How correlated changes of leaves scale at the transition; NaN where no theory applies.

    Attributes:
        exponent: nu.
        stretch: s^(L/nu): curves of all depths are functions of the time's distance from the
            transition times this number.
        growth: The sum of (s lambda^2)^l over the levels l = 0 to L: the susceptibility is
            proportional to it. As L grows it becomes proportional to (s lambda^2)^L if
            s lambda^2 > 1, which takes many levels near 1, and saturates if not.
    """

    exponent: float
    stretch: float
    growth: float


def scaling(
    source: GrammarParameters | Distribution | None, process: NoiseProcess | None
) -> Scaling:
    """Return how correlated changes scale with the depth."""
    if not isinstance(source, GrammarParameters) or not mean_field_applies(process):
        return Scaling(math.nan, math.nan, math.nan)
    v, _, m, s, L = source
    exponent = critical_exponent(source, process)
    growth = float(mean_field.correlation_decay(v, m, s).growth)
    return Scaling(exponent, s ** (L / exponent), sum(growth**level for level in range(L + 1)))


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


def leaf_information(
    process: NoiseProcess, times: Sequence[float], v: int
) -> Float64[np.ndarray, " T"]:
    """Return the expected information of a leaf's observation, over ln v.

    Args:
        process: How the leaves are corrupted.
        times: Inversion times, T of them.
        v: Symbols in the alphabet.

    Returns:
        From 1 to 0, float64, shape (T,); NaN if the process does not know it, see
        `NoiseProcess.information`.
    """
    nats = [process.information(time, v) for time in times]
    return np.array(nats, dtype=np.float64) / math.log(v)
