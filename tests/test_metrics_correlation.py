"""Correlated changes: pairs, sums and estimates against their definitions; places of curves."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_hier.errors import InputError
from lit_hier.inference import mean_field
from lit_hier.metrics import (
    ChangeSums,
    Correlation,
    FixedPointSum,
    GridPairs,
    Pairs,
    TreePairs,
    bootstrap_error,
    collapse_spread,
    estimate_correlation,
    fit_exponent,
    jackknife_error,
    peak,
    power_law_misfit,
    resampled_means,
    significant_peak,
    steepest,
)

RNG = np.random.default_rng(0)
GEOMETRIES = {
    "tree, s = 2": TreePairs(2, 4),
    "tree, s = 3": TreePairs(3, 2),
    "line": GridPairs((9,)),
    "ring": GridPairs((8,), periodic=True),
    "grid": GridPairs((5, 4)),
    "torus": GridPairs((4, 6), periodic=True),
    "row": GridPairs((1, 7)),
}


def distance(pairs: Pairs, i: int, j: int) -> int:
    """Return the index of the distance of two sites; by definition."""
    if isinstance(pairs, TreePairs):
        s = pairs.branching
        return next(k for k in range(pairs.num_levels + 1) if i // s**k == j // s**k)
    assert isinstance(pairs, GridPairs)
    squares = 0
    for (a, b), size in zip(np.unravel_index([i, j], pairs.shape), pairs.shape, strict=True):
        step = abs(int(a) - int(b))
        squares += min(step, size - step if pairs.periodic else step) ** 2
    return round(squares**0.5)


def matrix_of(pairs: Pairs) -> np.ndarray:
    d = pairs.num_sites
    return np.array([[distance(pairs, i, j) for j in range(d)] for i in range(d)])


@pytest.mark.parametrize("pairs", GEOMETRIES.values(), ids=GEOMETRIES)
def test_means_over_pairs_are_those_of_all_pairs(pairs: Pairs) -> None:
    x = RNG.normal(size=(2, 3, pairs.num_sites))
    distances = matrix_of(pairs)
    products = x[..., :, None] * x[..., None, :]
    for k, (count, length) in enumerate(zip(pairs.counts, pairs.lengths, strict=True)):
        chosen = distances == k
        assert count == chosen.sum() > 0
        if isinstance(pairs, TreePairs):
            assert length == pairs.branching**k
        found = pairs.means(torch.from_numpy(x))[..., k].numpy()
        np.testing.assert_allclose(found, products[..., chosen].mean(-1), atol=1e-12)
    alone = pairs.means(torch.from_numpy(x[0, 0]))
    assert torch.allclose(alone, pairs.means(torch.from_numpy(x))[0, 0])
    if isinstance(pairs, TreePairs):
        assert pairs.counts.sum() == pairs.num_sites**2


@pytest.mark.parametrize("shape", [(1,), (1, 1), (2, 2, 2)])
def test_sites_without_distances_are_rejected(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"^sites of shape .* have no distances; give a line"):
        GridPairs(shape)


def test_trees_whose_pairs_cannot_be_counted_are_rejected() -> None:
    assert TreePairs(2, 31).counts[-1] == 2**61
    with pytest.raises(
        InputError, match=r"^num_layers is 32: a tree of 2\^32 leaves has too many"
    ):
        TreePairs(2, 32)


def test_sums_have_the_same_bits_in_any_order_and_over_any_processes() -> None:
    values = torch.from_numpy(RNG.normal(size=(500, 3)) * 10.0 ** RNG.integers(-6, 3, (500, 1)))
    block = torch.from_numpy(RNG.integers(0, 4, 500))
    sums = []
    for order, split in ((np.arange(500), 500), (RNG.permutation(500), 123)):
        parts = [FixedPointSum(4, 3), FixedPointSum(4, 3)]
        for part, chosen in zip(parts, np.split(order, [split]), strict=True):
            for batch in np.array_split(chosen, 7):
                part.update(block[batch], values[batch])
        parts[0].parts += parts[1].parts  # as torchmetrics sums over processes
        sums.append(parts[0].compute())
    assert torch.equal(*sums)
    exact = torch.zeros(4, 3, dtype=torch.float64).index_add_(0, block, values)
    assert torch.allclose(sums[0], exact, rtol=0, atol=500 * 2.0**-40)


def sums_of(x: np.ndarray, pairs: Pairs, num_blocks: int = 20, sites: bool = True) -> ChangeSums:
    """Sum spins, shape (sources, N, T, d), as a run does."""
    spins = torch.from_numpy(x)
    mean = spins.mean(-1, keepdim=True)
    columns = torch.cat((mean, mean.square(), pairs.means(spins)), dim=-1).numpy()
    blocks = [np.arange(x.shape[1]) % num_blocks == k for k in range(num_blocks)]
    counts = np.tile([int(block.sum()) for block in blocks], (len(x), 1))
    site_sums = np.stack([x[:, block].sum(1) for block in blocks], axis=1) if sites else None
    return ChangeSums(
        counts, np.stack([columns[:, block].sum(1) for block in blocks], axis=1), site_sums
    )


def by_definition(x: np.ndarray, pairs: Pairs, sites: bool) -> Correlation:
    """Estimate from the matrix of covariances, of one source, shape (N, T, d)."""
    distances, num = matrix_of(pairs), len(x)
    weights = np.where(
        distances > 0, pairs.lengths[np.minimum(distances, len(pairs.counts) - 1)], 0
    )
    found = []
    for spins in x.transpose(1, 0, 2):
        center = spins.mean(0) if sites else spins.mean()
        C = (spins - center).T @ (spins - center) / (num - sites)
        if not sites:  # the variance of the common mean
            C = C + spins.mean(1).var(ddof=1) / num
        correlation = np.array([C[distances == k].mean() for k in range(len(pairs.counts))])
        decay = np.polyfit(np.log(pairs.lengths[1:]), np.log(correlation[1:]), 1)[0]
        chi, xi = C.sum() / C.trace(), (weights**2 * C).sum() / (weights * C).sum()
        found.append((spins.mean(), correlation, chi, xi, decay))
    return Correlation(*map(np.array, zip(*found, strict=True)))


def blocks_of_spins(
    num: int, pairs: TreePairs, rng: np.random.Generator, num_times: int = 2
) -> np.ndarray:
    """Draw spins that are equal with a part of their relatives: shape (num, times, d)."""
    d = pairs.num_sites
    near, all_ = rng.normal(size=(num, num_times, d // 4)), rng.normal(size=(num, num_times, 1))
    noise = np.linspace(0.4, 1.2, num_times)[:, None] * rng.normal(size=(num, num_times, d))
    return np.where(np.repeat(near, 4, axis=-1) + all_ + noise > 0.3, 1.0, -1.0)


@pytest.mark.parametrize("sites", [True, False])
def test_estimates_follow_from_the_matrix_of_covariances(sites: bool) -> None:
    pairs = TreePairs(2, 4)
    x = blocks_of_spins(300, pairs, np.random.default_rng(1))
    found = estimate_correlation(sums_of(x[None], pairs, sites=sites), pairs).estimate
    for name, expected in by_definition(x, pairs, sites)._asdict().items():
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-9, err_msg=name)


def test_a_cut_leaves_out_distant_pairs() -> None:
    pairs = GridPairs((6, 6))
    x = RNG.choice([-1.0, 1.0], size=(200, 1, 36)) * RNG.choice([-1.0, 1.0], size=(200, 1, 1))
    found = estimate_correlation(sums_of(x[None], pairs), pairs, cut=3).estimate
    spins = x[:, 0] - x[:, 0].mean(0)
    C = spins.T @ spins / 199
    near = (matrix_of(pairs) < 3) * C
    assert found.susceptibility == pytest.approx(near.sum() / C.trace())


def test_grammars_are_independent_and_have_the_same_weight() -> None:
    pairs = TreePairs(2, 3)
    x = np.stack([blocks_of_spins(60, pairs, np.random.default_rng(k)) for k in range(5)])
    x[1] = x[1, :, ::-1]  # so that grammars differ more than their data explain
    found = estimate_correlation(sums_of(x, pairs, sites=False), pairs)
    parts = [by_definition(part, pairs, sites=False).correlation for part in x]
    np.testing.assert_allclose(found.estimate.correlation, np.mean(parts, 0), rtol=1e-9)
    np.testing.assert_allclose(
        found.sem.correlation, np.std(parts, axis=0, ddof=1) / 5**0.5, rtol=1e-9
    )
    assert found.num_units == 5
    assert found.resampled.std(0, ddof=1) * (5 / 4) ** 0.5 == pytest.approx(
        found.sem.susceptibility, rel=0.3
    )
    assert (found.sem_within.susceptibility < found.sem.susceptibility).all()
    one_empty = sums_of(x, pairs, sites=False)
    one_empty.num_data[0], one_empty.sums[0] = 0, 0
    fewer = estimate_correlation(one_empty, pairs).estimate
    np.testing.assert_allclose(fewer.correlation, np.mean(parts[1:], 0), rtol=1e-9)


@pytest.mark.parametrize("num_grammars", [1, 8])
def test_errors_are_the_spread_over_repetitions(num_grammars: int) -> None:
    pairs, rng = TreePairs(2, 3), np.random.default_rng(2)
    # Repetitions take the place of times: in each quarter of them data are nearly alike.
    x = np.stack([blocks_of_spins(100, pairs, rng, 200) for _ in range(num_grammars)])
    if num_grammars > 1:  # which differ: in each, other shares are -1
        erased = rng.uniform(size=(num_grammars, 1, 200, 1)) * 0.5
        x = np.where(rng.uniform(size=x.shape) < erased, -1.0, x)
    found = estimate_correlation(sums_of(x, pairs, sites=False), pairs)
    for name in ("mean", "correlation", "susceptibility"):
        values, errors = getattr(found.estimate, name), getattr(found.sem, name)
        groups = np.split(np.arange(200), 4)
        spread = np.sqrt(np.mean([values[group].var(0, ddof=1) for group in groups], axis=0))
        ratio = np.sqrt((errors**2).mean(0)) / spread
        assert (abs(ratio - 1) < 0.25).all(), (name, ratio)


def test_what_does_not_vary_has_neither_chi_nor_length() -> None:
    pairs = TreePairs(2, 2)
    unchanged = estimate_correlation(sums_of(np.full((1, 40, 1, 4), -1.0), pairs), pairs)
    assert np.isnan(unchanged.estimate.susceptibility).all()
    assert np.isnan(unchanged.estimate.length).all()
    assert np.isnan(unchanged.sem.susceptibility).all()
    none = estimate_correlation(sums_of(np.ones((1, 1, 1, 4)), pairs), pairs)  # one datum
    for value in itertools.chain(none.estimate, none.sem, none.sem_within):
        assert np.isnan(value).all()
    assert none.num_units == 0
    assert np.isnan(none.resampled).all()
    assert np.isnan(jackknife_error(np.ones((1, 2)))).all()


@pytest.mark.parametrize("num", [2, 3, 20])
def test_independent_spins_do_not_change_together_however_few_data_there_are(num: int) -> None:
    pairs, rng = TreePairs(2, 3), np.random.default_rng(6)
    x = np.where(rng.uniform(size=(1200 // num, num, 1, 8)) < 0.3, 1.0, -1.0)
    found = estimate_correlation(sums_of(x, pairs, num_blocks=1, sites=False), pairs)
    assert found.estimate.susceptibility[0] == pytest.approx(
        1, abs=4 * found.sem.susceptibility[0]
    )
    assert (abs(found.estimate.correlation[0, 1:]) < 4 * found.sem.correlation[0, 1:]).all()
    assert found.estimate.correlation[0, 0] == pytest.approx(0.84, abs=0.03)


@pytest.mark.parametrize("sites", [True, False])
def test_the_unit_of_changes_is_that_of_the_estimates(sites: bool) -> None:
    pairs = TreePairs(2, 4)
    x = blocks_of_spins(100, pairs, np.random.default_rng(7))[None]
    one = estimate_correlation(sums_of(x, pairs, sites=sites), pairs)
    small = one.in_units(2.0**-20)
    assert (small.estimate.mean == one.estimate.mean * 2.0**-20).all()
    assert (small.sem.correlation == one.sem.correlation * 2.0**-40).all()
    assert (small.estimate.susceptibility == one.estimate.susceptibility).all()


def test_sums_reject_what_fixed_point_cannot_hold() -> None:
    for value in (2.0**40, float("nan"), float("-inf")):
        with pytest.raises(InputError, match=r"^values: the largest is .*; sums in fixed point"):
            FixedPointSum(1).update(torch.tensor([0]), torch.tensor([value]))


def test_a_power_law_fits_and_a_bent_curve_does_not() -> None:
    r = 2.0 ** np.arange(9)
    law, bent = r**-0.94, r**-0.5 * np.exp(-r / 20)
    curves = np.stack((law, np.full(9, 0.03), bent))
    reach = np.ones_like(curves, dtype=bool)
    misfit = power_law_misfit(curves, 0.01 * curves, r, reach)
    assert (misfit[:2] < 1e-9).all()
    assert misfit[2] > 10
    assert power_law_misfit(bent[None], 3 * bent[None], r, reach[:1])[0] < 2
    assert np.isnan(power_law_misfit(curves, curves, r, np.arange(9) < 3 * reach)).all()


def parabola(x: np.ndarray) -> np.ndarray:
    return 1 - (x - 0.43) ** 2


@pytest.mark.parametrize(
    ("x", "curve", "place"),
    [
        (np.linspace(0, 1, 11), parabola, 0.43),
        (np.array([0, 0.3, 0.4, 0.7, 1]), parabola, 0.43),
        (np.linspace(0.5, 1, 6), parabola, np.nan),
        (np.linspace(0, 0.4, 5), parabola, np.nan),
        (np.array([0.0, 1.0]), parabola, np.nan),
    ],
)
def test_a_peak_is_that_of_a_parabola(
    x: np.ndarray, curve: Callable[[np.ndarray], np.ndarray], place: float
) -> None:
    np.testing.assert_allclose(peak(x, curve(x)), place, atol=1e-12)
    np.testing.assert_allclose(peak(x, np.stack((curve(x), curve(x) * 2))), [place, place])


def test_a_peak_is_significant_above_both_ends() -> None:
    x, y = np.linspace(0, 1, 11), parabola(np.linspace(0, 1, 11))
    many = 10_000
    assert significant_peak(x, y, np.full(11, 0.04), many) == pytest.approx(0.43)
    assert np.isnan(significant_peak(x, y, np.full(11, 0.05), many))  # the first is 0.18 below
    assert np.isnan(significant_peak(x, y, np.full(11, 0.04), 4))
    assert significant_peak(x, y, np.full(11, 0.01), 4) == pytest.approx(0.43)
    assert np.isnan(significant_peak(x, y, np.full(11, 1e-9), 1))
    assert np.isnan(significant_peak(x, np.minimum(y, y[5]), np.full(11, np.nan), many))
    assert np.isnan(significant_peak(x[:2], y[:2], np.full(2, 0.0), many))
    below = np.r_[np.nan, y[1:]]
    assert significant_peak(x, below, np.full(11, 0.01), many) == pytest.approx(0.43)


@pytest.mark.parametrize("num_units", [2, 3, 8])
def test_flat_curves_have_no_significant_peak(num_units: int) -> None:
    rng = np.random.default_rng(4)
    x, num = np.arange(26.0), 400
    curves = 2 + 0.2 * rng.normal(size=(num, num_units, 26))
    sem = curves.std(1, ddof=1) / num_units**0.5
    pairs = zip(curves.mean(1), sem, strict=True)
    found = [significant_peak(x, y, error, num_units) for y, error in pairs]
    assert np.isfinite(found).mean() < 0.02


@pytest.mark.slow
def test_the_error_of_a_peak_is_its_deviation_over_repetitions() -> None:
    x = np.r_[0.2, 0.4, np.arange(0.5, 0.7, 0.05), np.arange(0.68, 0.82, 0.01), 0.84, 0.9, 1]
    chi = mean_field.correlations(x, 16, 4, 2, 7).susceptibility
    rng, groups, num = np.random.default_rng(5), np.arange(8), 150
    measured = chi * (1 + 0.08 * rng.normal(size=(num, 8, len(x))))
    places = np.asarray(peak(x, measured.mean(1)))
    errors = np.array(
        [bootstrap_error(np.asarray(peak(x, resampled_means(y.T, groups))), groups)
         for y in measured]
    )  # fmt: skip
    assert np.isfinite(errors).mean() > 0.95
    deviation = places.std()
    assert np.nanmean(errors**2) ** 0.5 == pytest.approx(deviation, rel=0.25)
    away = abs(places - peak(x, chi))
    assert (away < errors).mean() == pytest.approx(0.65, abs=0.1)
    assert (away < 2 * errors).mean() > 0.88


def test_the_steepest_fall_and_rise() -> None:
    x = np.linspace(0, 1, 101)
    y = np.tanh((0.37 - x) / 0.1)
    assert steepest(x, y) == pytest.approx(0.37, abs=1e-3)
    assert steepest(x, -y, falling=False) == pytest.approx(0.37, abs=1e-3)
    assert np.isnan(steepest(x, -y))


def test_one_run_keeps_as_much_for_many_data_as_for_few() -> None:
    few, many = FixedPointSum(20, 3, 5), FixedPointSum(20, 3, 5)
    sizes: list[int] = []
    for part, num in ((few, 2), (many, 2000)):
        values: Tensor = torch.ones(num, 3, 5)
        part.update(torch.arange(num) % 20, values)
        sizes.append(sum(x.numel() for x in part.metric_state.values()))
    assert sizes[0] == sizes[1] == 2 * 20 * 3 * 5


def test_the_exponent_of_a_power_law_and_its_error() -> None:
    log_size = np.array([7.0, 8.0, 9.0, 10.0]) * np.log(2)
    width = 3 * np.exp(-log_size / 1.9)
    unknown = np.full(4, np.nan)
    assert fit_exponent(log_size, width, unknown).value == pytest.approx(1.9)
    assert np.isnan(fit_exponent(log_size, width, unknown).sem)
    error = np.array([0.01, 0.04, 0.02, 0.03])
    rng = np.random.default_rng(3)
    noisy = [width * np.exp(error * rng.normal(size=4)) for _ in range(2000)]
    fits = np.array([fit_exponent(log_size, y, y * error) for y in noisy])
    assert fits[:, 0].mean() == pytest.approx(1.9, abs=0.01)
    # The Birge ratio is 1.14 on average: chi^2 / 2 of two degrees of freedom is exponential.
    assert fits[:, 1].mean() == pytest.approx(1.14 * fits[:, 0].std(), rel=0.1)
    understated = np.array([fit_exponent(log_size, y, y * error / 3).sem for y in noisy])
    assert understated.mean() == pytest.approx(fits[:, 0].std(), rel=0.2)
    equal = np.array([fit_exponent(log_size, y, unknown).value for y in noisy])
    assert fits[:, 0].std() < equal.std()  # the weights are those of least error
    for bad in (width[::-1].copy(), np.array([0.1, np.nan, np.nan, np.nan])):
        assert np.isnan(fit_exponent(log_size, bad, unknown)).all()


def test_the_spread_of_curves_is_their_largest_distance() -> None:
    x = np.linspace(-1, 1, 21)
    wide, narrow = x * 2, x
    assert collapse_spread([wide, narrow], [wide / 3, narrow / 3]) == pytest.approx(0)
    assert collapse_spread([wide, narrow], [wide / 3, narrow / 3 + 0.1 * x]) == pytest.approx(0.1)
    assert np.isnan(collapse_spread([x, x + 3], [x, x]))
    assert np.isnan(collapse_spread([x, x], [x, x * np.nan]))
