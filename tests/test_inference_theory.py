"""Theory: mean field, density evolution or quadrature; elsewhere it is NaN."""

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
    assert predicted == pytest.approx(mean_field.critical_epsilon(8, 3, 2), abs=1e-3)


def check_exact(prediction: theory.Prediction, *known: str) -> None:
    """Check that quantities have no error, and that all others are NaN."""
    for quantity in theory.QUANTITIES:
        error = getattr(prediction, f"{quantity}_error")
        if quantity in known:
            assert not error.any()
        else:
            assert np.isnan(getattr(prediction, quantity)).all()
            assert np.isnan(error).all()


def test_nothing_is_predicted_without_a_process() -> None:
    check_exact(theory.predict(GRAMMAR, None, TIMES))
    assert math.isnan(theory.predict(GRAMMAR, None, TIMES).critical_time)


def test_the_top_level_of_a_mean_field_has_n_parents() -> None:
    grammar = GRAMMAR._replace(n=5)
    prediction = theory.predict(grammar, EpsilonNoise(), TIMES)
    check_exact(prediction, "upward", "downward", "marginal")
    below, root = prediction.upward[:, -2], prediction.upward[:, -1]
    assert theory.parent_belief(grammar, EpsilonNoise(), below, top=True) == pytest.approx(root)
    assert prediction.marginal[-1, -1] == pytest.approx(1 / 5)
    assert prediction.critical_time == mean_field.critical_epsilon(8, 3, 2)


@pytest.mark.parametrize("process", [EpsilonNoise(True), MaskingNoise(), GaussianNoise()])
@pytest.mark.parametrize("n", [8, 5])
def test_other_processes_have_density_evolution(process: NoiseProcess, n: int) -> None:
    """Values and errors; of a channel, the effective noise and the information are the leaves'."""
    grammar = GRAMMAR._replace(n=n)
    prediction = theory.predict(grammar, process, TIMES)
    assert prediction.name == "density evolution"
    for quantity in theory.QUANTITIES:
        value, error = getattr(prediction, quantity), getattr(prediction, f"{quantity}_error")
        assert value.shape == error.shape == (4, 5)
        assert np.isfinite(value).all()
        assert (error[1:3] > 0).any()
        assert error.max() < 0.1
    noise = (1 - prediction.upward[:, 0]) * 8 / 7
    error = 5 * prediction.upward_error[:, 0] * 8 / 7 + 1e-9
    assert (np.abs(noise - theory.effective_noise(process, TIMES, 8)) < error).all()
    ends = prediction.information[[0, -1], -1]
    assert ends == pytest.approx([math.log(n), 0], abs=0.05)
    # The data hold more information on a leaf than its own observation.
    own = theory.leaf_information(process, TIMES, 8) * math.log(8)
    more = prediction.information[:, 0] - own
    assert (more > -5 * prediction.information_error[:, 0] - 1e-9).all()
    assert 0 < prediction.critical_error < 0.05 < prediction.critical_time < 0.6
    assert math.isnan(theory.critical_exponent(grammar, process))
    assert np.isnan(theory.parent_belief(grammar, process, np.array([0.5, 1]))).all()
    points = theory.fixed_points(grammar, process)
    assert np.isnan(points.belief).all()
    assert not points.stable.any()
    assert [len(part) for part in theory.critical_line(grammar, process)] == [0, 0]


def test_a_grammar_without_a_transition_has_no_exponent() -> None:
    everything = GRAMMAR._replace(m=8)
    for process in (EpsilonNoise(), MaskingNoise()):
        prediction = theory.predict(everything, process, TIMES)
        assert np.isfinite(prediction.marginal).all()
        assert math.isnan(prediction.critical_time)
        assert math.isnan(prediction.critical_error)
        assert math.isnan(theory.critical_exponent(everything, process))


def test_more_rules_than_the_kesten_stigum_bound_admits_leave_no_transition() -> None:
    for m in (1, 2, 3):
        grammar = GRAMMAR._replace(m=m)
        slope = theory.kesten_stigum(grammar)
        assert slope == pytest.approx(2 * 8 / (9 * m))
        critical = theory.predict(grammar, EpsilonNoise(), TIMES).critical_time
        assert math.isnan(critical) == (slope >= 1)


def test_distributions_have_the_posterior_of_their_class() -> None:
    mixture = GaussianMixture(8)
    prediction = theory.predict(mixture, GaussianNoise(), TIMES)
    assert prediction.marginal.tolist() == [[mixture.class_theory(time)] for time in TIMES]
    assert prediction.name == "quadrature"
    check_exact(prediction, "marginal")
    assert (theory.predict(GaussianRandomField(8), GaussianNoise(), TIMES).marginal == 1).all()
    assert theory.predict(None, None, TIMES).marginal.shape == (4, 0)


def test_effective_noise_and_information_are_those_of_the_process() -> None:
    for process in (EpsilonNoise(), EpsilonNoise(True), MaskingNoise(), GaussianNoise()):
        found = theory.effective_noise(process, TIMES, 8)
        assert found.tolist() == [process.effective_noise(time, 8) for time in TIMES]
        shares = theory.leaf_information(process, TIMES, 8)
        nats = [process.information(time, 8) for time in TIMES]
        assert shares == pytest.approx(np.array(nats) / math.log(8))
