"""Properties of the metrics, against exact fractions, plain Python and direct sums."""

import math
import statistics
from collections.abc import Iterable
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from conftest import examples
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import SEEDS, parts_of, rng
from torch import Tensor

from lit_hier.metrics import (
    Histogram,
    Moments,
    MomentTree,
    SampleTable,
    SimilarityTo,
    Standardization,
    average,
    channel_moments,
    crossing,
    deviation,
    mode,
    summarize,
    transition,
    wilson,
)

# Numbers of very different size, some of them equal; all are exact in float32.
numbers = st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 1.0, -1.0, 1e-6, 4097.0])
batches = st.lists(st.lists(numbers, min_size=1, max_size=7), min_size=1, max_size=12)
similarities = st.lists(st.floats(-1, 1), min_size=1, max_size=60)


def moments_of(values: Iterable[float]) -> Moments:
    """Compute the moments of one channel."""
    return channel_moments(torch.tensor(list(values), dtype=torch.float64)[:, None])


def exactly(values: Iterable[float]) -> tuple[Fraction, Fraction]:
    """Compute the mean and the sum of squared deviations."""
    exact = [Fraction(x) for x in values]
    mean = sum(exact, Fraction(0)) / len(exact)
    return mean, sum(((x - mean) ** 2 for x in exact), Fraction(0))


def equal(a: Moments, b: Moments) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@given(batches)
def test_moments_against_exact_fractions(given_batches: list[list[float]]) -> None:
    tree = MomentTree()
    for number, batch in enumerate(given_batches):
        tree.update(number, moments_of(batch))
        assert len(tree.pack()) <= math.log2(number + 1) + 1
    together = [x for batch in given_batches for x in batch]
    mean, squares = exactly(together)
    found = tree.compute()
    size = max(map(abs, together))
    assert found.size == len(together)
    assert float(found.mean) == pytest.approx(float(mean), rel=0, abs=1e-14 * size)
    # Far from zero, float64 resolves only part of the spread.
    error = 1e-13 * float(squares) + 1e-14 * size * float(squares * len(together)) ** 0.5
    error += len(together) * (1e-15 * size) ** 2
    assert abs(float(found.squares) - float(squares)) <= error
    assert float(found.squares) >= 0


@given(batches, st.data())
def test_moments_have_the_same_bits_if_batches_are_missing(
    given_batches: list[list[float]], data: st.DataObject
) -> None:
    """Batches with any numbers, in any order, gathered by processes in two stages."""
    num = len(given_batches)
    names = data.draw(st.lists(st.integers(0, 500), min_size=num, max_size=num, unique=True))
    alone = MomentTree()
    for name, batch in sorted(zip(names, given_batches, strict=True)):
        alone.update(name, moments_of(batch))
    packed = []
    for rows in data.draw(parts_of(num)):
        share = MomentTree()
        for k in rows:
            share.update(names[k], moments_of(given_batches[k]))
        packed.append(share.pack())
    cut = data.draw(st.integers(0, len(packed)))
    halves = [MomentTree.unpack(*part) for part in (packed[:cut], packed[cut:]) if part]
    together = MomentTree.unpack(*(half.pack() for half in halves))
    assert equal(alone.compute(), together.compute())
    assert equal(MomentTree.unpack(alone.pack()).compute(), alone.compute())


@given(batches.filter(lambda given_batches: len(given_batches) >= 3))
def test_merging_is_symmetric_and_associative_up_to_rounding(
    given_batches: list[list[float]],
) -> None:
    a, b, c = (moments_of(batch) for batch in given_batches[:3])
    values = [x for batch in given_batches[:3] for x in batch]
    mean, squares = (float(x) for x in exactly(values))
    size = max(map(abs, values))
    spread = 1e-12 * squares + 1e-13 * size * (squares * len(values)) ** 0.5
    spread += len(values) * (1e-14 * size) ** 2
    for merged in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(b).merge(a)):
        assert merged.size == len(values)
        assert abs(float(merged.mean) - mean) <= 1e-14 * size
        assert abs(float(merged.squares) - squares) <= spread


@given(st.integers(1, 30), st.integers(1, 3), st.integers(1, 4), SEEDS, st.data())
def test_a_sample_table_has_the_same_bits_however_samples_are_distributed(
    num: int, times: int, curves: int, seed: int, data: st.DataObject
) -> None:
    """Batches in any order, some samples missing, distributed over processes and summed."""
    values = torch.randn(times, curves, num, generator=rng(seed), dtype=torch.float64)
    sampled = sorted(data.draw(st.sets(st.integers(0, num - 1))))
    num_processes = data.draw(st.integers(1, 4))
    shares = [SampleTable(times, curves, num_samples=num) for _ in range(num_processes)]
    for number, rows in enumerate(data.draw(parts_of(len(sampled)))):
        index = torch.tensor([sampled[row] for row in rows], dtype=torch.int64)
        shares[number % num_processes].update(index, values[..., index])
    total = SampleTable(times, curves, num_samples=num)
    total.update(torch.tensor([], dtype=torch.int64), values[..., :0])
    total.values = torch.stack([share.values for share in shares]).sum(0)
    total.num_updates = torch.stack([share.num_updates for share in shares]).sum(0)
    index, found = total.compute()
    assert index.tolist() == sampled
    assert index.shape == (len(sampled),)
    assert np.array_equal(found, values[..., sampled].float().numpy())


def layers(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw activations of a reference set and of two batches, with a constant channel."""
    g = rng(seed)
    shape = (4, 3)
    scale, shift = torch.rand(4, 1, generator=g) + 0.1, 3 * torch.randn(4, 1, generator=g)
    sets = (shift + scale * torch.randn(num, *shape, generator=g) for num in (60, 5, 5))
    reference, a, b = (torch.cat((x, torch.full((len(x), 1, 3), 0.7)), 1) for x in sets)
    return reference, a, b


def similarity(reference: Tensor, a: Tensor, b: Tensor) -> Tensor:
    standard = Standardization.of(channel_moments(reference))
    return SimilarityTo(a, standard)(b)


@given(SEEDS)
@examples(60)
def test_similarity_is_symmetric_bounded_and_one_for_the_same(seed: int) -> None:
    reference, a, b = layers(seed)
    alike = similarity(reference, a, b)
    assert torch.equal(alike, similarity(reference, b, a))
    assert (alike.abs() <= 1 + 1e-6).all()
    assert (similarity(reference, a, a) - 1).abs().max() < 1e-6
    # Mirrored at the mean of the reference set, the cosine is -1.
    mean = reference.mean((0, 2), keepdim=True)
    assert (similarity(reference, a, 2 * mean - a) + 1).abs().max() < 1e-5


@given(SEEDS)
@examples(60)
def test_similarity_is_invariant_to_units_offsets_and_permutations(seed: int) -> None:
    """Each channel scaled and shifted; channels and positions permuted."""
    given_sets = layers(seed)
    g = rng(seed + 1)
    factor = torch.exp(torch.randn(1, 5, 1, generator=g)) * torch.tensor([[1.0], [-1]])[seed % 2]
    shift = 5 * torch.randn(1, 5, 1, generator=g)
    channels, positions = torch.randperm(5, generator=g), torch.randperm(3, generator=g)
    changed = [(factor * x + shift)[:, channels][:, :, positions] for x in given_sets]
    assert (similarity(*given_sets) - similarity(*changed)).abs().max() < 2e-5  # type: ignore[arg-type]
    # A constant channel does not contribute.
    without = [x[:, :4] for x in given_sets]
    assert (similarity(*given_sets) - similarity(*without)).abs().max() < 1e-6  # type: ignore[arg-type]


def density(values: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum the kernel density directly, reflected once at both ends."""
    n = len(values)
    half = sorted(values)
    shortest = min(b - a for a, b in zip(half, half[n // 2 :], strict=False))
    spread = min(np.std(values), shortest / 1.34) or np.std(values)
    bandwidth = 0.9 * spread * n**-0.2
    assume(5e-3 < bandwidth < 0.2)  # at least ten cells, and no second reflection
    points = np.concatenate((values, 2 - values, -2 - values))
    kernel = np.exp(-(((x[:, None] - points) / bandwidth) ** 2) / 2)
    total: NDArray[np.float64] = kernel.sum(1)
    return total


@given(similarities)
def test_the_density_is_largest_at_the_mode(values: list[float]) -> None:
    found = mode(np.array(values))
    assert -1 <= found <= 1
    heights = density(np.array(values), np.append(np.linspace(-1, 1, 2001), found))
    assert heights[-1] > 0.995 * heights.max()


@given(similarities, st.integers(-500, 500))
def test_the_mode_shifts_with_the_data(values: list[float], cells: int) -> None:
    """By whole cells, far from both ends, where the mode is also within the data's range."""
    cell = 2 / 4000
    x = np.rint(0.3 * np.array(values) / cell) * cell
    found = mode(x)
    assert x.min() - cell <= found <= x.max() + cell
    assert mode(x + cells * cell) == pytest.approx(found + cells * cell, abs=1e-9)


@given(similarities)
def test_summaries_against_plain_python(values: list[float]) -> None:
    found = summarize(np.array(values), resamples=20)
    n = len(values)
    assert found["count"] == n
    assert found["mean"] == pytest.approx(statistics.fmean(values), abs=1e-15)
    assert found["median"] == pytest.approx(statistics.median(values), abs=1e-15)
    wanted = float(statistics.stdev(map(Fraction, values))) if n > 1 else math.nan
    assert found["std"] == pytest.approx(wanted, rel=1e-12, abs=1e-15, nan_ok=True)
    if max(values) - min(values) > 1e-6:
        assert found["sem"] == pytest.approx(wanted / math.sqrt(n), rel=1e-12, abs=1e-15)
        assert 0 < found["mode_sem"] < 2
    else:
        assert math.isnan(found["sem"]) or found["sem"] < 1e-6
        assert math.isnan(found["mode_sem"])
    assert found["sem_within"] == pytest.approx(found["sem"], nan_ok=True)


@given(similarities, st.integers(1, 4), SEEDS)
@examples(50)
def test_summaries_are_invariant_to_order_and_reflect_with_the_data(
    values: list[float], times: int, seed: int
) -> None:
    x = np.array(values)
    summary = partial(summarize, resamples=5)
    found = summary(x)
    shuffled = summary(np.random.default_rng(seed).permutation(x))
    mirrored, repeated = summary(-x), summary(np.tile(x, times))
    assert shuffled["mode"] == found["mode"]
    assert shuffled["mode_sem"] == pytest.approx(found["mode_sem"], nan_ok=True)
    for name in ("mean", "median", "std", "sem"):
        assert shuffled[name] == pytest.approx(found[name], abs=1e-14, nan_ok=True)
        sign = -1 if name in ("mean", "median") else 1
        assert mirrored[name] == pytest.approx(sign * found[name], abs=1e-14, nan_ok=True)
    for name in ("mean", "median"):
        assert repeated[name] == pytest.approx(found[name], abs=1e-14)


falling = st.lists(st.floats(0.01, 1), min_size=2, max_size=12).map(
    lambda steps: 1 - np.cumsum([0, *steps]) / sum(steps)
)


@given(falling, st.floats(0.01, 0.99), st.floats(0.1, 10), st.floats(-5, 5), SEEDS)
def test_a_falling_curve_crosses_a_level_at_its_inverse(
    y: NDArray[np.float64], level: float, factor: float, shift: float, seed: int
) -> None:
    x = np.cumsum(np.random.default_rng(seed).uniform(0.1, 1, len(y)))
    position = crossing(x, y, level)
    assert position == pytest.approx(np.interp(level, y[::-1], x[::-1]), rel=1e-9)
    assert np.interp(position, x, y) == pytest.approx(level, abs=1e-9)
    # The crossing scales and shifts with either axis.
    assert crossing(factor * x + shift, y, level) == pytest.approx(factor * position + shift)
    assert crossing(x, factor * y + shift, factor * level + shift) == pytest.approx(position)


@given(falling, st.floats(0, 0.9), st.floats(0.1, 10), SEEDS)
def test_a_transition_does_not_depend_on_chance_and_scales_with_the_axis(
    y: NDArray[np.float64], chance: float, factor: float, seed: int
) -> None:
    """A fall from 1 to 0, rescaled to a fall from 1 to chance, keeps its position and width."""
    x = np.cumsum(np.random.default_rng(seed).uniform(0.1, 1, len(y)))
    position, width = transition(x, y, 0.0)
    assert x[0] < position < x[-1]
    assert 0 < width < x[-1] - x[0]
    lifted = transition(factor * x, chance + (1 - chance) * y, chance)
    assert lifted == pytest.approx((factor * position, factor * width), rel=1e-6)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20), SEEDS)
def test_deviations_are_distances(pairs: list[tuple[float, float]], seed: int) -> None:
    """Symmetric; zero for equal curves; no mean, and nothing outside the window, exceeds all."""
    a, b = np.array(pairs).T
    x = np.linspace(0, 1, len(a))
    critical = float(np.random.default_rng(seed).uniform(-0.5, 1.5))
    one, other = deviation(x, a, b, critical, 0.1), deviation(x, b, a, critical, 0.1)
    assert one == pytest.approx(other, nan_ok=True)
    assert 0 <= one["mean"] <= one["largest"] + 1e-15
    assert one["largest"] == pytest.approx(max(abs(p - q) for p, q in pairs))
    assert not one["largest_outside"] > one["largest"]
    assert not one["mean_outside"] > one["largest_outside"] + 1e-15
    assert deviation(x, a, a, critical, 0.1)["largest"] == 0


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), SEEDS, st.floats(-10, 10))
def test_deviation_between_groups_against_plain_python(
    groups: list[int], seed: int, shift: float
) -> None:
    values = np.random.default_rng(seed).normal(size=len(groups))
    by_group = [
        statistics.fmean(x for x, g in zip(values, groups, strict=True) if g == group)
        for group in sorted(set(groups))
    ]
    wanted = statistics.stdev(by_group) if len(by_group) > 1 else math.nan
    found = average(values, np.array(groups))
    assert found.mean == pytest.approx(statistics.fmean(by_group), abs=1e-12)
    assert found.grammar_std == pytest.approx(wanted, rel=1e-9, nan_ok=True)
    if len(by_group) > 1:
        assert found.sem == pytest.approx(wanted / len(by_group) ** 0.5, rel=1e-9)
    shifted = average(values + shift, np.array(groups))
    for error in ("sem", "sem_within", "grammar_std"):
        wanted = getattr(found, error)
        assert getattr(shifted, error) == pytest.approx(wanted, abs=1e-12, nan_ok=True)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=40))
@examples(50)
def test_intervals_of_shares_hold_the_share_and_mirror(pairs: list[tuple[int, int]]) -> None:
    """And their errors are positive or unknown."""
    groups, counts = np.array(pairs).T
    low, high = wilson(counts / 4, groups)
    found = average(counts / 4, groups, shares=True)
    assert 0 <= low <= found.mean + 1e-12
    assert found.mean - 1e-12 <= high <= 1
    assert low < high
    assert wilson(1 - counts / 4, groups) == pytest.approx((1 - high, 1 - low), abs=1e-9)
    for error in (found.sem, found.sem_within):
        assert math.isnan(error) or error > 0


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=50), st.integers(1, 40), st.data())
def test_histograms_count_every_value_in_its_bin(
    values: list[float], num_bins: int, data: st.DataObject
) -> None:
    """Every value once, in its bin, in any order and any batches."""
    histogram = Histogram(2, num_bins=num_bins)
    for rows in data.draw(parts_of(len(values))):
        histogram.update((0,), torch.tensor([values[row] for row in rows]))
    counts = histogram.compute()
    assert int(counts.sum()) == len(values)
    bins = torch.repeat_interleave(torch.arange(num_bins), counts[0])
    for value, k in zip(sorted(values), bins.tolist(), strict=True):
        assert k / num_bins - 1e-6 <= value <= (k + 1) / num_bins + 1e-6
