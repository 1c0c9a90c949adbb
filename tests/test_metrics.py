"""Metrics against their definitions."""

import math

import jaxtyping
import numpy as np
import pytest
import torch

from lit_hier.errors import InputError
from lit_hier.metrics import (
    Histogram,
    MomentTree,
    SampleTable,
    SimilarityTo,
    Standardization,
    channel_moments,
    crossing,
    deviation,
    mode,
    std_between,
    summarize,
    transition,
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
    assert summarize(np.array([0.4]))["sem"] == 0


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


def test_the_deviation_between_groups_is_that_of_their_means() -> None:
    values, groups = np.array([1.0, 3, 10, 10, 6, 6]), np.array([0, 0, 4, 4, 2, 2])
    assert std_between(values, groups) == pytest.approx(np.std([2, 10, 6], ddof=1))
    assert std_between(values, np.zeros(6, dtype=int)) == 0


def test_deviations_inside_and_outside_the_window() -> None:
    x = np.array([0.1, 0.5, 0.52, 0.9])
    found = deviation(x, np.array([1, 0.5, 0.3, 0.0]), np.array([0.9, 0.5, 0.6, 0.02]), 0.5)
    wanted = {"largest": 0.3, "at": 0.52, "mean": 0.105, "critical": 0.5}
    wanted |= {"largest_outside": 0.1, "mean_outside": 0.06}
    assert found == pytest.approx(wanted)
    none = deviation(x, np.ones(4), np.array([1, 1, 0.6, 1]), math.nan)
    assert none["largest_outside"] == none["largest"] == pytest.approx(0.4)
    inside = deviation(x[1:3], np.ones(2), np.ones(2), 0.5)
    assert math.isnan(inside["largest_outside"])
    assert math.isnan(inside["mean_outside"])


def test_histograms_count_and_average_to_the_same_bits_in_any_order() -> None:
    values = torch.from_numpy(RNG.beta(1, 3, (40, 25))).float()
    values[0, :3] = torch.tensor([0.0, 1.0, 1.0])
    one, other = Histogram(2, num_bins=10), Histogram(2, num_bins=10)
    for row in values:
        one.update((1,), row)
    for part in values.flip(0).split(7):
        other.update((1,), part)
    (counts, means), (again, same) = one.compute(), other.compute()
    assert torch.equal(counts, again)
    assert torch.equal(means[1], same[1])
    assert counts[1].tolist() == np.histogram(values, bins=10, range=(0, 1))[0].tolist()
    assert float(means[1]) == pytest.approx(float(values.double().mean()), abs=1e-8)
    assert not counts[0].any()
    assert means[0].isnan()


def test_shapes_are_checked() -> None:
    """The tests import the package with its shapes checked at run time."""
    with pytest.raises(jaxtyping.TypeCheckError):
        crossing(np.zeros(3), np.zeros(4), 0.5)
    table = SampleTable(2, num_samples=6)
    with pytest.raises(jaxtyping.TypeCheckError):
        table.update(torch.arange(3), torch.zeros(2, 4))
