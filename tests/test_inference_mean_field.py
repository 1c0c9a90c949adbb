import itertools
import math

import numpy as np
import pytest
from scipy.stats import entropy

from lit_hier.errors import InputError
from lit_hier.inference import mean_field, theory
from lit_hier.processes import EpsilonNoise
from lit_hier.rhm import RandomHierarchyModel
from lit_hier.rhm.parameters import GrammarParameters

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


def patterns(p: float, v: int, m: int, s: int) -> dict[bool, dict[tuple[bool, ...], float]]:
    """Return the probability of which children are unchanged, if the parent is and if not.

    The parent's other m - 1 rules, or those of another parent, have j of s true symbols as often
    as random tuples that are not the true one.
    """
    q = (1 - p) / (v - 1)
    weights: dict[bool, dict[tuple[bool, ...], float]] = {}
    for parent in (True, False):
        found = {}
        for pattern in itertools.product((True, False), repeat=s):
            j = sum(pattern)
            tuples = (v - 1) ** (s - j) / (v**s - 1)
            weight = (m - 1 if parent else m) * tuples * p**j * q ** (s - j)
            found[pattern] = (p**s if parent else 0.0) if j == s else weight
        total = sum(found.values())
        weights[parent] = {pattern: weight / total for pattern, weight in found.items()}
    return weights


@pytest.mark.parametrize("parameters", [(8, 3, 2, 2, 8), (5, 4, 3, 2, 3), (4, 2, 2, 3, 7)])
@pytest.mark.parametrize("epsilon", [0.2, 0.6, 0.95])
def test_correlations_are_those_of_all_outcomes(
    parameters: tuple[int, ...], epsilon: float
) -> None:
    v, m, s, L, n = parameters
    up = mean_field.beliefs(np.array([epsilon]), v, m, s, L, n)[0]
    outcomes = {(True,): float(up[L][0]), (False,): 1 - float(up[L][0])}
    for level in range(L - 1, -1, -1):
        laws = patterns(float(up[level][0]), v, m, s)
        finer: dict[tuple[bool, ...], float] = {}
        for nodes, weight in outcomes.items():
            for children in itertools.product(*(laws[node].items() for node in nodes)):
                chance = weight * math.prod(x for _, x in children)
                leaves = tuple(itertools.chain(*(pattern for pattern, _ in children)))
                finer[leaves] = finer.get(leaves, 0.0) + chance
        outcomes = finer
    spins = np.array([[-1 if leaf else 1 for leaf in leaves] for leaves in outcomes])
    weights = np.array(list(outcomes.values()))
    mean = float(weights @ spins.mean(1))
    covariance = (weights[:, None] * spins).T @ spins - mean**2
    found = mean_field.correlations(epsilon, v, m, s, L, n)
    assert found.mean == pytest.approx(mean)
    assert found.correlation == pytest.approx([covariance[0, s**k - 1] for k in range(L + 1)])
    assert found.susceptibility == pytest.approx(covariance.sum() / covariance.trace())
    sizes = np.array([0, *(s**k for k in range(1, L + 1) for _ in range(s**k - s ** (k - 1)))])
    source = GrammarParameters(v, n, m, s, L)
    (length,) = theory.correlations(source, EpsilonNoise(), np.array([epsilon])).length
    assert length == pytest.approx(sizes**2 @ covariance[0] / (sizes @ covariance[0]))


def test_known_correlations() -> None:
    found = mean_field.correlations([0.6, 0.72, 0.76, 0.8], 32, 8, 2, 8)
    assert found.susceptibility == pytest.approx([2.11, 6.31, 4.21, 2.52], abs=0.005)
    ratios = found.correlation[1:5, 1] / found.correlation[0, 1]
    assert ratios == pytest.approx([0.634, 0.322, 0.168, 0.086], abs=0.01)
    assert mean_field.correlation_decay(32, 8, 2).growth == pytest.approx(1.040, abs=5e-4)
    assert mean_field.correlation_decay(16, 4, 2).growth == pytest.approx(0.925, abs=5e-4)
    none = mean_field.correlation_decay(4, 4, 2)  # no transition
    assert np.isnan(none).all()
    certain = mean_field.correlations([0.0, 1.0], 8, 2, 2, 3)
    assert np.isnan(certain.susceptibility[0])
    assert certain.mean[0] == -1
    assert np.isfinite(certain.susceptibility[1])


def test_the_length_of_the_closed_form_diverges_with_the_exponent_nu() -> None:
    away = np.geomspace(0.015, 0.06, 6)
    noise = mean_field.critical_epsilon(32, 8, 2) + away
    source, nu = GrammarParameters(32, 32, 8, 2, 14), mean_field.critical_exponent(32, 8, 2)
    length = theory.correlations(source, EpsilonNoise(), noise).length
    slopes = np.diff(np.log(length)) / np.diff(np.log(away))
    assert slopes == pytest.approx(np.full(5, -nu), abs=0.05)


def test_correlations_of_deep_trees_are_stable() -> None:
    noise = np.array([0.5, 0.6, 0.7, 0.76, 0.9])
    found = [
        theory.correlations(GrammarParameters(32, 32, 8, 2, L), EpsilonNoise(), noise)
        for L in (24, 30)
    ]
    assert found[1].length == pytest.approx(found[0].length, rel=1e-3)
    assert found[1].susceptibility == pytest.approx(found[0].susceptibility, rel=1e-6)
    assert (found[1].correlation >= 0).all()


def test_the_entropy_of_a_belief_whose_rest_is_shared() -> None:
    p = np.array([1 / 8, 0.5, 0.9])
    expected = [entropy([x, *[(1 - x) / 7] * 7]) for x in p]
    assert mean_field.entropy(p, 8) == pytest.approx(expected)
    assert mean_field.entropy([0.0, 1.0], 8) == pytest.approx([np.log(7), 0])
    assert mean_field.entropy(1.0, 1) == 0


@pytest.mark.parametrize("grammar", [(32, 8, 2), (16, 4, 2), (8, 16, 3)])
def test_correlations_decay_by_a_factor_per_level_at_the_transition(
    grammar: tuple[int, int, int],
) -> None:
    v, m, s = grammar
    decay = mean_field.correlation_decay(v, m, s)
    epsilon = mean_field.critical_epsilon(v, m, s)
    correlation = mean_field.correlations(epsilon, v, m, s, 24).correlation
    steps = correlation[7:14] / correlation[6:13]
    assert steps == pytest.approx(np.full(7, decay.factor**2), rel=0.03)
    assert decay.growth == pytest.approx(s * decay.factor**2)
    assert s**decay.exponent == pytest.approx(decay.factor**2)
