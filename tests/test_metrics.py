"""Metrics against their definitions."""

import math
from collections.abc import Callable

import jaxtyping
import numpy as np
import pytest
import torch

from lit_hier.errors import InputError
from lit_hier.inference import mean_field
from lit_hier.metrics import (
    WIDTHS,
    Histogram,
    MomentTree,
    SampleTable,
    SimilarityTo,
    Standardization,
    average,
    bootstrap_error,
    channel_moments,
    correct_baseline,
    crossing,
    curve_inversion,
    deviation,
    inversion,
    last_inversion,
    mode,
    mode_bandwidth,
    resampled_means,
    summarize,
    theory_errors,
    transition,
    transition_errors,
    transition_window,
    wilson,
)
from lit_hier.metrics.functional import standardized_cosine

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("values", "true", "tolerance"),
    [
        (np.clip(RNG.normal(0.3, 0.1, 10_000), -1, 1), 0.3, 0.02),
        (2 * RNG.beta(2, 5, 20_000) - 1, 2 * 0.2 - 1, 0.03),  # skewed; its mean is 2/7
        (2 * RNG.beta(8, 1, 5_000) - 1, 1.0, 0.02),  # densest at the upper end
        (2 * RNG.beta(1, 8, 5_000) - 1, -1.0, 0.02),
        # Two peaks: the higher one, not the mean.
        (np.r_[RNG.normal(-0.4, 0.05, 4_000), RNG.normal(0.6, 0.05, 6_000)], 0.6, 0.02),
        # As at a transition: the higher peak is near the end, but not at it.
        (np.r_[RNG.normal(0.0, 0.15, 450), np.clip(RNG.normal(0.9, 0.03, 550), -1, 1)], 0.9, 0.02),
        # Many samples are unchanged.
        (np.r_[np.ones(400), RNG.uniform(-0.5, 1, 600)], 1.0, 1e-3),
        (np.full(7, -0.25), -0.25, 1e-12),
        (np.array([0.5]), 0.5, 1e-12),
    ],
)
def test_mode_of_known_distributions(values: np.ndarray, true: float, tolerance: float) -> None:
    assert mode(values) == pytest.approx(true, abs=tolerance)


def test_mode_does_not_depend_on_the_order_of_samples() -> None:
    values = RNG.normal(0.1, 0.3, 500)
    assert mode(values) == mode(values[::-1])


def test_summary_of_three_samples_and_of_one() -> None:
    summary = summarize(np.array([0.1, 0.2, 0.6]))
    assert summary["mean"] == pytest.approx(0.3)
    assert summary["median"] == 0.2
    assert summary["std"] == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))
    assert summary["sem"] == pytest.approx(summary["std"] / math.sqrt(3))
    assert summary["count"] == 3
    assert summary["sem_within"] == summary["sem"]
    assert summary["bandwidth"] == mode_bandwidth(np.array([0.1, 0.2, 0.6]))
    assert summary["mode_sem"] > 0
    one = summarize(np.array([0.4]))
    assert [math.isnan(one[key]) for key in ("std", "sem", "sem_within", "mode_sem")] == [True] * 4
    assert (one["mode"], one["mean"], one["count"]) == pytest.approx((0.4, 0.4, 1))


def test_the_mode_depends_on_the_bandwidth_where_samples_are_identical() -> None:
    """And, by Silverman's rule, on the number of samples; the mean does not."""
    rng = np.random.default_rng(1)
    values = np.where(
        rng.random(30_000) < 0.08, 1.0, np.clip(rng.normal(0.1, 0.25, 30_000), -1, 1)
    )
    few, many = values[:1_000], values
    assert mode(few) == pytest.approx(0.1, abs=0.1)
    assert mode(many) == 1
    assert mode(many, mode_bandwidth(few)) == pytest.approx(0.1, abs=0.1)
    assert few.mean() == pytest.approx(many.mean(), abs=0.03)


def test_identical_samples_have_a_share_with_an_interval() -> None:
    values = np.r_[np.ones(15), 0.2]
    found = summarize(values, identical=values == 1)
    assert found["identical"] == 15 / 16
    # Wilson's interval, as statsmodels computes it.
    assert found["identical_low"] == pytest.approx(0.7167, abs=1e-4)
    assert found["identical_high"] == pytest.approx(0.9889, abs=1e-4)
    # Cosines of identical samples differ by rounding; their errors are unknown all the same.
    close = 1 - 1e-4 * RNG.random(16)
    unchanged = summarize(close, identical=np.ones(16, dtype=bool))
    assert unchanged["identical_low"] == pytest.approx(0.8064, abs=1e-4)
    assert unchanged["identical_high"] == 1
    assert all(math.isnan(unchanged[key]) for key in ("sem", "sem_within", "mode_sem"))
    assert "identical" not in summarize(close)


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, 1.5, math.nan, math.inf])
def test_a_bandwidth_that_smooths_nothing_or_everything_is_rejected(bandwidth: float) -> None:
    message = r"^bandwidth is \S+; give a width in similarity from 0.0005 to 1, or omit it"
    with pytest.raises(InputError, match=message):
        summarize(np.array([0.1, 0.2]), bandwidth=bandwidth)


@pytest.mark.parametrize("resamples", [1, 0, -3])
def test_a_bootstrap_needs_two_resamples(resamples: int) -> None:
    values, groups, x = np.zeros((2, 4)), np.zeros(4, dtype=int), np.arange(2.0)
    calls: tuple[Callable[[], object], ...] = (
        lambda: summarize(values[0], resamples=resamples),
        lambda: transition_errors(x, values, groups, 0.2, resamples),
        lambda: inversion(
            np.arange(2.0), np.zeros((2, 4)), np.array([[1.0] * 4, [-1] * 4]) + RNG.random((2, 4)),
            groups, resamples,
        ),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(InputError, match=rf"^resamples is {resamples}; give at least 2"):
            call()


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 4, 2)])
def test_streamed_moments_equal_those_of_one_pass(shape: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(0)
    # A mean far from zero, for which the difference of two large sums would cancel.
    x = 1e6 + torch.randn(103, *shape, generator=g)
    tree = MomentTree()
    for number, batch in enumerate(x.split(10)):
        tree.update(number, channel_moments(batch))
    values = x.double().unsqueeze(-1).flatten(2).transpose(0, 1).flatten(1)
    total = tree.compute()
    assert total.size == values.shape[1]
    assert torch.allclose(total.mean, values.mean(1), rtol=1e-14)
    assert torch.allclose(total.squares / total.size, values.var(1, correction=0), rtol=1e-9)


def test_standardized_cosine_against_its_definition() -> None:
    g = torch.Generator().manual_seed(0)
    reference = 3 + 2 * torch.randn(500, 4, 6, generator=g)
    reference[:, 2] = 1.0  # a constant channel
    standardization = Standardization.of(channel_moments(reference))
    assert standardization.num_constant == 1
    x, y = reference[:5], reference[5:10]
    mine = SimilarityTo(x, standardization)(y)
    a, b, r = (z[:, [0, 1, 3]].double().numpy() for z in (x, y, reference))
    mean, std = r.mean((0, 2), keepdims=True), r.std((0, 2), keepdims=True)
    a, b = ((a - mean) / std).reshape(5, -1), ((b - mean) / std).reshape(5, -1)
    true = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert np.abs(mine.numpy() - true).max() < 1e-6
    assert (SimilarityTo(x, standardization)(x) - 1).abs().max() < 1e-6
    # The same numbers in another memory layout.
    strided = y.transpose(1, 2).contiguous().transpose(1, 2)
    assert (SimilarityTo(x, standardization)(strided) - mine).abs().max() < 1e-6
    assert (standardized_cosine(x, y, standardization) - mine).abs().max() < 1e-6


def test_partners_are_the_next_samples_of_the_batch() -> None:
    x, y = torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    standardization = Standardization.of(channel_moments(torch.cat((x, y))))
    start = SimilarityTo(x, standardization)
    own, partners = start.with_partners(y)
    assert torch.equal(own, start(y))
    expected = standardized_cosine(x, y[[1, 2, 3, 4, 0]], standardization)
    torch.testing.assert_close(partners, expected, atol=1e-6, rtol=0)
    alone = SimilarityTo(x[:1], standardization).with_partners(y[:1])
    assert torch.equal(alone[0], SimilarityTo(x[:1], standardization)(y[:1]))
    assert alone[1].isnan().all()


def test_statistics_per_unit_remove_what_positions_have_in_common() -> None:
    """Units with means +-3 and variance 1: per channel the variance is 10, and 9 of it agree."""
    x = torch.randn(2_000, 3, 20, generator=torch.Generator().manual_seed(0))
    x += 3 * (-1) ** torch.arange(20)
    per_channel = Standardization.of(channel_moments(x))
    per_unit = Standardization.of(channel_moments(x.flatten(1)))
    assert len(per_unit.mean) == 60
    a, b = x.chunk(2)
    means = [SimilarityTo(a, each)(b).mean() for each in (per_channel, per_unit)]
    assert means == pytest.approx([0.9, 0.0], abs=0.02)
    shuffled = x.transpose(1, 2).contiguous().transpose(1, 2)  # channels last in memory
    torch.testing.assert_close(
        SimilarityTo(shuffled[:1000], per_unit)(shuffled[1000:]), SimilarityTo(a, per_unit)(b)
    )
    raw = Standardization.of(channel_moments(x), "none")
    assert torch.equal(raw(x), x)


def test_a_baseline_and_the_correction_by_it() -> None:
    values, baseline = np.array([0.9, 0.7, 0.8, 0.4]), np.array([0.2, 0.1, np.nan, 0.3])
    found = correct_baseline(values, baseline)
    assert found["baseline"] == pytest.approx(0.2)
    assert found["corrected"] == pytest.approx((0.7 - 0.2) / (1 - 0.2))
    none = correct_baseline(values, np.full(4, np.nan))
    assert np.isnan(list(none.values())).all()
    same = correct_baseline(values, np.ones(4))
    assert same["baseline"] == 1
    assert all(math.isnan(same[key]) for key in ("corrected", "corrected_sem", "baseline_sem"))
    few = correct_baseline(values[:2], baseline[:2])
    assert math.isnan(few["baseline_sem"])
    assert math.isnan(few["corrected_sem"])


@pytest.mark.parametrize("num_grammars", [1, 5])
def test_errors_of_a_baseline_are_those_of_repetitions(num_grammars: int) -> None:
    """Typical samples are similar to all others: neighbors in the chain of partners covary."""
    rng = np.random.default_rng(0)
    shape = (400, num_grammars, 60, 30)
    typical = 2 * rng.random((*shape[:3], 1))
    if num_grammars > 1:
        typical *= 1 + 0.3 * rng.standard_normal((*shape[:2], 1, 1))
    before = typical + rng.standard_normal(shape)
    after = before + 0.5 * rng.standard_normal(shape)
    before, after = (x / np.linalg.norm(x, axis=-1)[..., None] for x in (before, after))
    values, baseline = (
        (before * x).sum(-1).reshape(400, -1) for x in (after, np.roll(after, -1, axis=2))
    )
    groups = np.repeat(np.arange(num_grammars), 60)
    columns = correct_baseline(values, baseline, groups)
    if num_grammars == 1:
        naive = np.sqrt(np.mean(average(baseline, groups).sem ** 2))
        assert naive < 0.85 * columns["baseline"].std()
    for key in ("baseline", "corrected"):
        assert np.isfinite(columns[f"{key}_sem"]).mean() > 0.99
        error = np.sqrt(np.nanmean(columns[f"{key}_sem"] ** 2))
        assert error == pytest.approx(columns[key].std(ddof=1), rel=0.15), key


def test_a_sample_table_is_filled_in_any_order_and_rejects_repeated_samples() -> None:
    table = SampleTable(2, 3, num_samples=6)
    values = torch.randn(2, 3, 5)
    index = torch.tensor([5, 0, 2, 4, 1])
    table.update(index[:2], values[..., :2])
    table.update(index[2:], values[..., 2:])
    found, stored = table.compute()
    assert found.tolist() == [0, 1, 2, 4, 5]
    assert np.array_equal(stored, values[..., index.argsort()].numpy())
    table.update(torch.tensor([4]), values[..., :1])
    with pytest.raises(InputError, match="sample 4 was measured more than once"):
        table.compute()


def test_a_transition_is_interpolated_between_points() -> None:
    x = np.linspace(0, 1, 101)
    chance, steepness = 0.2, 10
    y = chance + (1 - chance) / (1 + np.exp(steepness * (x - 0.503)))
    position, width = transition(x, y, chance)
    assert position == pytest.approx(0.503, abs=1e-4)
    assert width == pytest.approx(2 * np.log(3) / steepness, abs=1e-3)
    x = np.arange(4.0)
    assert crossing(x[:3], np.array([1, 0.5, 0]), 0.5) == 1
    assert crossing(x[:3], np.array([1, 0.6, 0.2]), 0.5) == pytest.approx(1.25)
    # The first of several crossings; NaN if the curve starts below the level or stays above it.
    assert crossing(x, np.array([1, 0, 1, 0]), 0.5) == 0.5
    assert math.isnan(crossing(x[:2], np.array([0.4, 0.1]), 0.5))
    assert math.isnan(crossing(x[:2], np.array([1, 0.6]), 0.5))
    assert crossing(x[:2], np.ones(2), 1.0) == 0
    assert np.isnan(transition(x, np.ones(4), 0.2)).all()
    assert np.isnan(transition(x, np.ones(4), 1.0)).all()
    # Several curves at once.
    many = np.array([[1, 0, 1, 0], [0.4, 0.1, 0, 0], [1, 0.6, 0.6, 0.2], [0.5, 0, 0, 0]])
    found = crossing(x, many[:, None], 0.5)
    wanted = [[crossing(x, row, 0.5)] for row in many]
    assert np.array_equal(found, wanted, equal_nan=True)


def test_errors_of_a_theory() -> None:
    x = np.linspace(0, 1, 11)
    exact = theory_errors(x, 1 - x, np.zeros(11), 0.0)
    assert exact == (0, 0)
    place, width = theory_errors(x, 1 - x, np.full(11, 0.02), 0.0)
    assert (place, np.isnan(width)) == (pytest.approx(0.02), True)
    assert np.isnan(theory_errors(x, np.ones(11), np.zeros(11), 0.0)).all()


def test_errors_of_transitions() -> None:
    x, groups = np.linspace(0, 1, 21), np.arange(48) // 16
    shifts = 0.5 + 0.03 * RNG.normal(size=3)[groups] + 0.01 * RNG.normal(size=48)
    curves = 1 / (1 + np.exp(20 * (x[:, None] - shifts)))
    place, width = transition_errors(x, curves, groups, 0.0)
    spread = [shifts[groups == g].mean() for g in range(3)]
    assert place == pytest.approx(np.std(spread, ddof=1) / 3**0.5, rel=0.3)
    assert 0 < width < place
    # The same numbers each time, and for several sets of curves at once.
    again = transition_errors(
        x, np.stack([curves, curves[:, ::-1]]), groups[::-1].copy() * 0 + groups, 0.0
    )
    assert [error[0] for error in again] == pytest.approx([float(place), float(width)])
    # One unit, equal curves, or curves that do not fall have no error that is known.
    for values, which in (
        (curves[:, :1], groups[:1]),
        (curves[:, [0] * 6], groups[:6]),
        (np.ones((21, 6)), np.arange(6)),
    ):
        assert np.isnan(transition_errors(x, values, which, 0.0)).all()
    # Half of the resamples do not fall at all.
    some = np.where(np.arange(4) < 2, 1.0, curves[:, :1])
    assert np.isnan(transition_errors(x, some, np.zeros(4, dtype=int), 0.0)).all()


def test_grammars_are_the_independent_units_of_an_average() -> None:
    """Also if they have different numbers of data."""
    values, groups = np.array([1.0, 3, 10, 11, 6, 6, 7.5]), np.array([0, 0, 4, 4, 2, 2, 2])
    found = average(values, groups)
    assert found.mean == pytest.approx(np.mean([2, 10.5, 6.5]))
    assert found.grammar_std == pytest.approx(np.std([2, 10.5, 6.5], ddof=1))
    assert found.sem == pytest.approx(found.grammar_std / 3**0.5)
    assert found.sem_within == pytest.approx(math.sqrt(2 / 2 + 0.5 / 2 + 0.75 / 3) / 3)
    together = average(np.stack([values, values**2]), groups)
    assert together.sem == pytest.approx(
        [float(average(x, groups).sem) for x in (values, values**2)]
    )


def test_several_groups_on_the_same_data_are_no_further_data() -> None:
    num, size, repetitions = 4, 30, 600
    groups, rng = np.repeat(np.arange(num), size), np.random.default_rng(0)
    for of_groups, of_data in ((0.0, 1.0), (0.3, 1.0), (1.0, 0.2)):
        groups_, data = (
            scale * rng.normal(size=(repetitions, *shape))
            for scale, shape in ((of_groups, (num, 1)), (of_data, (1, size)))
        )
        values = groups_ + data + 0.1 * rng.normal(size=(repetitions, num, size))
        flat = values.reshape(repetitions, -1)
        found = average(flat, groups, crossed=True)
        np.testing.assert_allclose(found.mean, flat.mean(-1), atol=1e-12)
        within = of_data**2 / size + 0.01 / size / num
        for error, variance in (
            (found.sem, of_groups**2 / num + within), (found.sem_within, within),
        ):  # fmt: skip
            assert np.sqrt(np.square(error).mean() / variance) == pytest.approx(1, abs=0.08)
        resampled = resampled_means(flat[:50], groups, crossed=True)
        np.testing.assert_allclose(
            bootstrap_error(resampled, groups, crossed=True), found.sem[:50], rtol=0.25
        )
        low, high = wilson((flat > 0.3).astype(float), groups, crossed=True)
        spread = math.sqrt(of_groups**2 + of_data**2 + 0.01)
        true = math.erfc(0.3 / spread / 2**0.5) / 2
        assert 0.9 < ((low <= true) & (true <= high)).mean() < 0.995


def test_groups_that_agree_on_the_same_data_have_the_errors_of_one() -> None:
    values, other = RNG.uniform(-0.5, 1, (2, 5, 40))
    one, three = np.zeros(40, dtype=int), np.repeat(np.arange(3), 40)
    tiled, tiled_other = (np.tile(x, 3) for x in (values, other))
    for alone, together in (
        (average(values, one)[:3], average(tiled, three, crossed=True)[:3]),
        (wilson(abs(values), one), wilson(abs(tiled), three, crossed=True)),
        (
            list(correct_baseline(values, other, one).values()),
            list(correct_baseline(tiled, tiled_other, three, crossed=True).values()),
        ),
    ):
        np.testing.assert_allclose(together, alone, rtol=1e-9)
    found = summarize(tiled[0], three, tiled[0] > 0.9, bandwidth=0.1, crossed=True)
    expected = summarize(values[0], one, values[0] > 0.9, bandwidth=0.1)
    assert found.pop("mode_sem") == pytest.approx(expected.pop("mode_sem"), rel=0.4)
    assert found.pop("std") == pytest.approx(expected.pop("std"), rel=0.02)
    assert found == pytest.approx(expected)
    x = np.arange(5.0)
    falling = np.clip(1 - x[:, None] / 4 + 0.2 * values, 0, 1)
    errors = (
        transition_errors(x, np.tile(falling, 3), three, 0.0, crossed=True),
        transition_errors(x, falling, one, 0.0),
    )
    np.testing.assert_allclose(*errors, rtol=0.3)
    above = 1 - x[:, None] / 2 + 0.2 * values
    crossings = (
        inversion(x, 0 * np.tile(above, 3), np.tile(above, 3), three, crossed=True),
        inversion(x, 0 * above, above, one),
    )
    assert crossings[0][:5:2] == pytest.approx(crossings[1][:5:2])
    assert crossings[0].place_sem == pytest.approx(crossings[1].place_sem, rel=0.3)


def test_groups_without_their_last_data_are_averaged() -> None:
    groups = np.array([0, 0, 0, 1, 1])
    found = average(np.array([1.0, 2, 3, 2, 4]), groups, crossed=True)
    assert found.mean == 2.5
    assert found.sem == pytest.approx(np.sqrt(np.var([1.5, 3], ddof=1) / 2 + 0.5 / 2))


def test_what_is_not_known_is_nan() -> None:
    one, two = np.zeros(16, dtype=int), np.repeat([0, 1], 8)
    of_one_grammar = average(RNG.random(16), one)
    assert of_one_grammar.sem == of_one_grammar.sem_within
    assert math.isnan(of_one_grammar.grammar_std)
    # A grammar with one datum has no spread, so that within the grammars is unknown.
    assert math.isnan(average(RNG.random(3), np.array([0, 0, 1])).sem_within)
    for groups in (one, two):
        # 16 of 16, or none; equal shares are a coincidence, equal noise need not be one.
        for value, shares, is_known in [
            (1.0, True, False), (0.0, True, False), (0.5, True, False),
            (1.0, False, False), (1 - 1e-7, False, False), (0.3, False, True),
        ]:  # fmt: skip
            found = average(np.full(16, value), groups, shares)
            for error in (found.sem, found.sem_within):
                assert error == pytest.approx(0, abs=1e-15) if is_known else math.isnan(error)
    # Grammars whose means agree by chance.
    assert math.isnan(average(np.tile([0.0, 1.0], 8), two).sem)
    assert average(np.tile([0.0, 1.0], 8), two).sem_within > 0


def test_intervals_of_shares() -> None:
    one = np.zeros(16, dtype=int)
    low, high = wilson(np.ones(16), one)
    assert (low, high) == (pytest.approx(0.8064, abs=1e-4), 1)
    low, high = wilson(np.zeros(16), one)
    assert (low, high) == (0, pytest.approx(0.1936, abs=1e-4))
    low, high = wilson(np.ones(1), one[:1])
    assert (low, high) == (pytest.approx(0.2065, abs=1e-4), 1)
    # Means over nodes are never treated as less than a datum, grammars never as less than one.
    values = RNG.integers(0, 9, (20, 64)) / 8
    inner = wilson(values, np.zeros(64, dtype=int))
    outer = wilson((np.arange(64) < 64 * values.mean(1, keepdims=True)) * 1, np.arange(64) // 8)
    for ends, shares in ((inner, values.mean(1)), (outer, None)):
        assert ((ends[0] >= 0) & (ends[0] < ends[1]) & (ends[1] <= 1)).all()
        if shares is not None:
            assert ((ends[0] <= shares) & (shares <= ends[1])).all()
    assert (outer[1] - outer[0] > inner[1] - inner[0]).all()
    # Two grammars without any change are not 128 independent data.
    low, _ = wilson(np.ones(128), np.arange(128) // 64)
    assert 0.3 < low < 0.7


def test_an_inversion_needs_significant_differences_on_both_sides() -> None:
    x, groups = np.linspace(0, 1, 11), np.zeros(100, dtype=int)
    noise = 0.01 * RNG.normal(size=(2, 11, 100))
    shared = 0.2 * RNG.normal(size=100)  # of a datum: cancels in differences of pairs
    first = (1 - x)[:, None] + shared + noise[0]
    falls = (1 - x + 0.1 * (0.6 - x))[:, None] + shared + noise[1]
    found = inversion(x, first, falls, groups)
    assert found.place == pytest.approx(0.6, abs=5 * found.place_sem)
    assert 0 < found.place_sem < 0.02
    assert found.difference == pytest.approx(0.04, abs=0.005)
    assert found.difference_at == 1
    assert found.difference_sem == pytest.approx(0.01 * (2 / 100) ** 0.5, rel=0.25)
    for other in (first + 0.1, first - 0.1, first + 0.001 * noise[1], first):
        none = inversion(x, first, other, groups)
        assert math.isnan(none.place)
        assert math.isnan(none.place_sem)
    assert inversion(x, first, first - 0.1, groups).difference == pytest.approx(0.1)
    # The wrong way round: below first, above later.
    assert math.isnan(inversion(x, falls, first, groups).place)
    # Of one datum nothing is significant, nor of two grammars at so small a difference.
    assert math.isnan(inversion(x, first[:, :1], falls[:, :1], groups[:1]).place)
    assert math.isnan(inversion(x, first, falls, np.arange(100) // 50).place)


@pytest.mark.slow
def test_the_error_of_the_last_inversion_is_that_of_the_largest_place() -> None:
    x, groups, num = np.linspace(0, 1, 21), np.zeros(50, dtype=int), 60
    rng = np.random.default_rng(8)
    first = np.zeros((21, 50))
    found, places = [], []
    for _ in range(num):  # at two places that are not told apart by one standard error
        noise = 0.3 * rng.normal(size=(2, 1, 50)) + np.array([0.45, 0.5])[:, None, None]
        pairs = [inversion(x, first, part - x[:, None], groups) for part in noise]
        place, sem = last_inversion(pairs, groups)
        assert place == max(pair.place for pair in pairs)
        found.append(sem)
        places.append(place)
    assert np.mean(found) == pytest.approx(np.std(places), rel=0.25)
    unknown = inversion(x, first, first - 0.1, groups)
    assert np.isnan(last_inversion([*pairs, unknown], groups)).all()


def test_differences_that_are_equal_by_chance_are_not_significant() -> None:
    x, zero = np.arange(3.0), np.zeros((3, 6))
    equal = np.array([[0.1], [0.0], [-0.1]]).repeat(6, 1)
    found = inversion(x, zero, equal, np.zeros(6, np.int64))
    assert np.isnan([found.place, found.place_sem, found.difference_sem]).all()
    assert (found.difference, found.difference_at) == (pytest.approx(0.1), 2)


def test_curves_that_do_not_differ_seldom_cross() -> None:
    x = np.linspace(0, 1, 12)
    for groups in (np.zeros(30, dtype=int), np.arange(32) // 8):
        same = RNG.normal(size=(60, 2, 12, len(groups)))
        found = [inversion(x, first, other, groups) for first, other in same]
        assert sum(math.isfinite(each.place) for each in found) <= 2


@pytest.mark.parametrize(("L", "place"), [(5, math.nan), (7, 0.7199), (10, 0.7808)])
def test_mean_field_inverts_the_root_and_the_leaves_in_deep_trees_only(
    L: int, place: float
) -> None:
    x = np.linspace(0, 1, 2001)
    curves = mean_field.marginals(x, 16, 4, 2, L)
    found = curve_inversion(x, curves[0], curves[L])
    assert found == pytest.approx(place, abs=1e-4, nan_ok=True)


def test_deviations_inside_and_outside_the_window() -> None:
    x = np.array([0.1, 0.5, 0.52, 0.9])
    curves = np.array([1, 0.5, 0.3, 0.0]), np.array([0.9, 0.5, 0.6, 0.02])
    error = np.array([0.1, 0.2, 0.3, 0.4])
    wanted = {"largest": 0.3, "at": 0.52, "mean": 0.105, "critical": 0.5, "window": 0.04}
    wanted |= {"largest_outside": 0.1, "mean_outside": 0.06, "largest_sem": 0.3}
    assert deviation(x, *curves, 0.5, 0.04, error) == pytest.approx(wanted)
    # Also on an axis that falls with time.
    flipped = deviation(x[::-1], *(curve[::-1] for curve in curves), 0.5, 0.04, error[::-1])
    assert flipped == pytest.approx(wanted)
    unequal = np.array([1, 1, 0.6, 1])
    for critical, window in ((math.nan, 0.04), (0.52, math.nan)):
        none = deviation(x, np.ones(4), unequal, critical, window)
        assert none["largest_outside"] == none["largest"] == pytest.approx(0.4)
        assert math.isnan(none["largest_sem"])
    inside = deviation(x[1:3], np.ones(2), np.ones(2), 0.5, 0.04)
    assert math.isnan(inside["largest_outside"])
    assert math.isnan(inside["mean_outside"])


def test_windows_are_as_wide_as_the_transition_on_any_axis() -> None:
    x, root = np.array([0.0, 0.4, 0.8, 1.0]), np.array([1, 0.9, 0.1, 0.1])
    for chance in (0.1, 1.0):
        wanted = WIDTHS * 0.225 if chance < 1 else math.nan
        for scale in (1, -1, 3):
            window = transition_window(scale * x, root, chance)
            assert window == pytest.approx(abs(scale) * wanted, nan_ok=True)


def test_histograms_count_to_the_same_bits_in_any_order() -> None:
    values = torch.from_numpy(RNG.beta(1, 3, (40, 25))).float()
    values[0, :3] = torch.tensor([0.0, 1.0, 1.0])
    one, other = Histogram(2, num_bins=10), Histogram(2, num_bins=10)
    for row in values:
        one.update((1,), row)
    for part in values.flip(0).split(7):
        other.update((1,), part)
    counts = one.compute()
    assert torch.equal(counts, other.compute())
    assert counts[1].tolist() == np.histogram(values, bins=10, range=(0, 1))[0].tolist()
    assert not counts[0].any()


def test_shapes_are_checked() -> None:
    """The tests import the package with its shapes checked at run time."""
    with pytest.raises(jaxtyping.TypeCheckError):
        crossing(np.zeros(3), np.zeros(4), 0.5)
    table = SampleTable(2, num_samples=6)
    with pytest.raises(jaxtyping.TypeCheckError):
        table.update(torch.arange(3), torch.zeros(2, 4))
