import numpy as np
import pytest

from lit_hier.errors import InputError
from lit_hier.inference import mean_field
from lit_hier.rhm import RandomHierarchyModel

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
def test_fixed_points_against_root_finding(v: int, m: int, s: int) -> None:
    """All real roots in [1/v, 1] of the polynomial (F(p) - p) x denominator, by numpy."""
    f = (m * v - 1) / (v**s - 1)
    share = f * (m - 1) / (m * v - 1)
    polynomial = np.zeros(s + 2)  # highest power first
    polynomial[0] -= 1 - f
    polynomial[1] += 1 - share
    polynomial[-2] -= f
    polynomial[-1] += share
    roots = np.roots(np.trim_zeros(polynomial, "f"))
    real = np.sort(roots[np.abs(roots.imag) < 1e-7].real)
    real = real[(real > 1 / v - 1e-6) & (real < 1 + 1e-6)]
    points = mean_field.fixed_points(v, m, s)
    found = points.belief[~np.isnan(points.belief)]
    inner = real[(real > 1 / v + 1e-5) & (real < 1 - 1e-5)]
    assert np.allclose(found, [1 / v, *inner, 1], atol=1e-7)
    # A point attracts if one step from nearby leads closer to it.
    for p, stable in zip(points.belief, points.stable, strict=True):
        if np.isnan(p):
            assert not stable
            continue
        near = np.clip(np.array([p - 1e-3, p + 1e-3]), 1 / v, 1)
        near = near[np.abs(near - p) > 0]
        moved = mean_field.upward(near, v, m, s)
        assert stable == bool((np.abs(moved - p) < np.abs(near - p)).all())
    has_transition = not np.isnan(points.belief[1])
    density = s * mean_field.rule_density(v, m, s)
    recovers = density < mean_field.critical_density(v, m, s)
    assert recovers == points.stable[2]
    assert has_transition == (recovers and points.stable[0])
    assert has_transition == (not np.isnan(mean_field.critical_epsilon(v, m, s)))
    nu = mean_field.critical_exponent(v, m, s)
    if has_transition:
        assert nu == pytest.approx(np.log(s) / np.log(points.slope[1]))
        assert nu > 0
    else:
        assert np.isnan(nu)


def test_parameters_broadcast() -> None:
    v, m = np.array([8, 16, 32])[:, None], np.array([1, 2, 4, 8])
    points = mean_field.fixed_points(v, m, 2)
    assert points.belief.shape == points.slope.shape == (3, 3, 4)
    for i, j in np.ndindex(3, 4):
        alone = mean_field.fixed_points(v[i, 0], m[j], 2).belief
        np.testing.assert_allclose(points.belief[:, i, j], alone, rtol=1e-14)
    epsilon = np.linspace(0, 1, 5)[:, None, None]
    up, down = mean_field.beliefs(epsilon, v, m, 2, 4)
    both = mean_field.marginals(epsilon, v, m, 2, 4)
    assert up.shape == down.shape == both.shape == (5, 5, 3, 4)
    for i, j in np.ndindex(3, 4):
        alone = mean_field.marginals(np.linspace(0, 1, 5), v[i, 0], m[j], 2, 4)
        np.testing.assert_allclose(both[..., i, j], alone, rtol=1e-14)


@pytest.mark.parametrize(("v", "m", "s"), [(4, 2, 2), (3, 2, 3), (5, 5, 2)])
def test_maps_against_averages_over_random_rules(v: int, m: int, s: int) -> None:
    """Average unnormalized messages over grammars, given the rule that produced the tuple."""
    p, q = 0.6, 0.5
    up, down = np.zeros(2), np.zeros(2)
    other = (1 - p) / (v - 1)
    for seed in range(4000):
        rules = RandomHierarchyModel(v, m, s, 1, seed=seed).rules[0].numpy()
        true = rules[0, 0]
        beliefs = np.where(np.arange(v) == true[:, None], p, other)  # (s, v)
        weights = np.prod([beliefs[j, rules[..., j]] for j in range(s)], axis=0)  # (v, m)
        up += weights[0].sum(), weights.sum()
        above = np.where(np.arange(v) == 0, q, (1 - q) / (v - 1))[:, None]
        rest = above * np.prod([beliefs[j, rules[..., j]] for j in range(1, s)], axis=0)
        down += rest[rules[..., 0] == true[0]].sum(), rest.sum()
    assert up[0] / up[1] == pytest.approx(mean_field.upward(p, v, m, s), rel=0.02)
    assert down[0] / down[1] == pytest.approx(mean_field.downward(q, p, v, m, s), rel=0.02)


def test_the_transitions_of_the_paper() -> None:
    assert mean_field.critical_belief(32, 8, 2) == pytest.approx(0.2917, abs=1e-4)
    assert mean_field.critical_epsilon([32, 16], [8, 4], 2) == pytest.approx(
        [0.7312, 0.8], abs=1e-4
    )


def test_limits_without_noise_and_without_information() -> None:
    p = mean_field.marginals([0.0, 1.0], 32, 8, 2, 10)
    assert p.shape == (11, 2)
    assert np.allclose(p[:, 0], 1)
    assert np.allclose(p[-1, 1], 1 / 32)
    assert (p[:-1, 1] < 1.2 / 32).all()


def test_invalid_parameters() -> None:
    with pytest.raises(
        InputError, match=r"^v = 4, m = 5, s = 2, n = 4 do not define an RHM: give [^\n]*$"
    ):
        mean_field.critical_epsilon(4, np.arange(1, 2000), 2)
    with pytest.raises(InputError, match=r"^epsilon is 1.5; give noise from 0 to 1$"):
        mean_field.marginals((0.5, 1.5), 32, 8, 2, 10)
    with pytest.raises(InputError, match="L is 0"):
        mean_field.marginals(0.5, 32, 8, 2, 0)
