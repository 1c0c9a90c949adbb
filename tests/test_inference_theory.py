"""Theory: where it applies, it is mean field or quadrature; elsewhere it is NaN."""

import math

import numpy as np
import pytest

from lit_hier.gaussian import GaussianMixture, GaussianRandomField
from lit_hier.inference import mean_field, theory
from lit_hier.processes import EpsilonNoise, GaussianNoise, MaskingNoise, NoiseProcess
from lit_hier.rhm import RandomHierarchyModel
from lit_hier.rhm.parameters import GrammarParameters

TIMES = [0.0, 0.3, 0.7, 1.0]
GRAMMAR = GrammarParameters.of(RandomHierarchyModel(8, 3, 2, 4))


def test_the_epsilon_process_has_a_mean_field() -> None:
    assert GRAMMAR == (8, 8, 3, 2, 4)
    prediction = theory.predict(GRAMMAR, EpsilonNoise(), TIMES)
    up, down = mean_field.beliefs(TIMES, 8, 3, 2, 4)
    assert np.array_equal(prediction.upward, up.T)
    assert np.array_equal(prediction.downward, down.T)
    assert np.array_equal(prediction.marginal, mean_field.marginals(TIMES, 8, 3, 2, 4).T)
    assert prediction.name == "mean field"
    assert prediction.critical_time == mean_field.critical_epsilon(8, 3, 2)
    exponent = theory.critical_exponent(GRAMMAR, EpsilonNoise())
    assert exponent == mean_field.critical_exponent(8, 3, 2)
    beliefs = np.linspace(1 / 8, 1, 5)
    assert np.array_equal(
        theory.parent_belief(GRAMMAR, EpsilonNoise(), beliefs), mean_field.upward(beliefs, 8, 3, 2)
    )
    points = theory.fixed_points(GRAMMAR, EpsilonNoise()).belief
    assert theory.parent_belief(GRAMMAR, EpsilonNoise(), points) == pytest.approx(points)


def test_the_critical_line_passes_through_integer_numbers_of_synonyms() -> None:
    times, densities = theory.critical_line(GRAMMAR, EpsilonNoise())
    assert densities[0] == theory.scaled_density(GRAMMAR._replace(m=1))
    assert densities[-1] == 2
    predicted = np.interp(theory.scaled_density(GRAMMAR), densities, times)
    assert predicted == pytest.approx(theory.critical_time(GRAMMAR, EpsilonNoise()), abs=1e-3)


@pytest.mark.parametrize(
    ("grammar", "process"),
    [
        (GRAMMAR._replace(n=5), EpsilonNoise()),
        (GRAMMAR, EpsilonNoise(True)),
        (GRAMMAR, MaskingNoise()),
        (GRAMMAR, GaussianNoise()),
        (GRAMMAR, None),
    ],
)
def test_unknown_predictions_are_nan(
    grammar: GrammarParameters, process: NoiseProcess | None
) -> None:
    prediction = theory.predict(grammar, process, TIMES)
    for beliefs in (prediction.upward, prediction.downward, prediction.marginal):
        assert beliefs.shape == (4, 5)
        assert np.isnan(beliefs).all()
    assert math.isnan(prediction.critical_time)
    assert math.isnan(theory.critical_exponent(grammar, process))
    assert np.isnan(theory.parent_belief(grammar, process, np.array([0.5, 1]))).all()
    for points in theory.fixed_points(grammar, process):
        assert points.shape == (3,)
        assert np.isnan(points).all()
    assert [len(part) for part in theory.critical_line(grammar, process)] == [0, 0]


def test_a_grammar_without_a_transition_has_no_exponent() -> None:
    everything = GRAMMAR._replace(m=8)
    assert np.isfinite(theory.predict(everything, EpsilonNoise(), TIMES).marginal).all()
    assert math.isnan(theory.critical_time(everything, EpsilonNoise()))
    assert math.isnan(theory.critical_exponent(everything, EpsilonNoise()))


def test_distributions_have_the_posterior_of_their_class() -> None:
    mixture = GaussianMixture(8)
    prediction = theory.predict(mixture, GaussianNoise(), TIMES)
    assert prediction.marginal.tolist() == [[mixture.class_theory(time)] for time in TIMES]
    assert prediction.name == "quadrature"
    assert np.isnan(prediction.upward).all()
    assert (theory.predict(GaussianRandomField(8), GaussianNoise(), TIMES).marginal == 1).all()
    assert theory.predict(None, None, TIMES).marginal.shape == (4, 0)


def test_effective_noise_is_that_of_the_process() -> None:
    for process in (EpsilonNoise(), EpsilonNoise(True), MaskingNoise(), GaussianNoise()):
        found = theory.effective_noise(process, TIMES, 8)
        assert found.tolist() == [process.effective_noise(time, 8) for time in TIMES]
