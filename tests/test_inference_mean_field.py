import numpy as np
import pytest
from scipy.optimize import brentq

from lit_hier.errors import InputError
from lit_hier.inference import mean_field

PARAMETERS = [(32, 8, 2), (16, 4, 2), (24, 2, 2), (10, 20, 3), (5, 1, 2), (4, 16, 3), (8, 8, 2)]


@pytest.mark.parametrize(("v", "m", "s"), PARAMETERS)
def test_certainty_and_ignorance_are_fixed_points(v: int, m: int, s: int) -> None:
    ends = np.array([1 / v, 1.0])
    assert np.allclose(mean_field.upward(ends, v, m, s), ends)


@pytest.mark.parametrize(("v", "m", "s"), PARAMETERS)
def test_derivative_against_finite_differences(v: int, m: int, s: int) -> None:
    p, h = np.linspace(1 / v + 0.01, 0.99, 20), 1e-6
    slope = mean_field.upward(p + h, v, m, s) - mean_field.upward(p - h, v, m, s)
    assert np.allclose(mean_field.upward_derivative(p, v, m, s), slope / (2 * h), rtol=1e-6)


@pytest.mark.parametrize(("v", "m", "s"), PARAMETERS)
def test_critical_belief_against_root_finding(v: int, m: int, s: int) -> None:
    p_star = mean_field.critical_belief(v, m, s)

    def excess(p: float) -> float:
        return float(mean_field.upward(p, v, m, s) - p) / ((p - 1 / v) * (1 - p))

    a, b = 1 / v + 1e-7, 1 - 1e-7
    if excess(a) * excess(b) > 0:
        assert np.isnan(p_star)
        assert np.isnan(mean_field.critical_epsilon(v, m, s))
    else:
        assert p_star == pytest.approx(brentq(excess, a, b, xtol=1e-14), abs=1e-9)
        assert mean_field.upward_derivative(p_star, v, m, s) > 1  # repulsive


def test_the_transitions_that_the_design_names() -> None:
    assert mean_field.critical_belief(32, 8, 2) == pytest.approx(0.2917, abs=1e-4)
    assert mean_field.critical_epsilon([32, 16], [8, 4], 2) == pytest.approx(
        [0.7312, 0.8], abs=1e-4
    )


def test_limits_of_no_noise_and_full_noise() -> None:
    p = mean_field.marginals([0.0, 1.0], 32, 8, 2, 10)
    assert p.shape == (11, 2)
    assert np.allclose(p[:, 0], 1)
    assert np.allclose(p[-1, 1], 1 / 32)
    assert (p[:-1, 1] < 1.2 / 32).all()


def test_bad_parameters() -> None:
    with pytest.raises(InputError, match="make no grammar"):
        mean_field.critical_epsilon(4, 5, 2)
    with pytest.raises(InputError, match="epsilon is out of range"):
        mean_field.marginals(1.5, 32, 8, 2, 10)
    with pytest.raises(InputError, match="L is 0"):
        mean_field.marginals(0.5, 32, 8, 2, 0)
