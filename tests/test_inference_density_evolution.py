"""Density evolution against mean field, enumeration of one level, and measured thresholds."""

import math
from itertools import product
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from lit_hier.inference import density_evolution, mean_field
from lit_hier.processes import EpsilonNoise, GaussianNoise, MaskingNoise, NoiseProcess
from lit_hier.rhm import GrammarParameters, RandomHierarchyModel

SMALL = GrammarParameters(v=4, n=3, m=2, s=2, L=1)
PROCESSES = [EpsilonNoise(), EpsilonNoise(True), MaskingNoise(), GaussianNoise()]


def within(found: np.ndarray, wanted: np.ndarray | float, accuracy: float = 0.0) -> bool:
    """Tell whether values (..., 2) agree within 5 of their standard errors and an accuracy."""
    value, error = np.moveaxis(found, -1, 0)
    return bool((np.abs(value - wanted) <= 5 * error + accuracy + 1e-9).all())


def test_one_level_equals_an_average_over_grammars_and_masks() -> None:
    """L = 1: the sum over all masks of s leaves, for drawn grammars of n classes."""
    time, v, s = 0.4, SMALL.v, SMALL.s
    totals = []
    for seed in range(60):
        rhm = RandomHierarchyModel(v, SMALL.m, s, 1, SMALL.n, seed=seed)
        (rules,) = rhm.rules
        leaves = rules.flatten(0, 1)
        true, total = torch.arange(SMALL.n).repeat_interleave(SMALL.m), 0.0
        for masks in product((0, 1), repeat=s):
            masked = torch.tensor(masks).bool()
            weight = float(torch.where(masked, time, 1 - time).prod())
            same = ((leaves[:, None] == leaves[None]) | masked).all(-1).double()
            posterior = same.unflatten(1, (SMALL.n, -1)).sum(-1)
            posterior /= posterior.sum(1, keepdim=True)
            total += weight * float(posterior[torch.arange(len(true)), true].mean())
        totals.append(total)
    error = np.std(totals, ddof=1) / len(totals) ** 0.5
    found = density_evolution.evolve(SMALL, MaskingNoise(), [time]).marginal[0, -1]
    assert abs(found[0] - np.mean(totals)) < 5 * np.hypot(found[1], error)


@pytest.mark.parametrize("process", PROCESSES)
def test_no_noise_is_certainty_and_full_noise_is_ignorance(process: NoiseProcess) -> None:
    grammar = SMALL._replace(L=3)
    found = density_evolution.evolve(grammar, process, [0.0, min(process.axis.end, 30.0)])
    sizes = np.array([4, 4, 4, 3])
    assert found.marginal[0, :, 0] == pytest.approx(1)
    assert found.largest[0, :, 0] == pytest.approx(1)
    assert found.entropy[0, :, 0] == pytest.approx(0, abs=1e-12)
    assert found.upward[1, :, 0] == pytest.approx(1 / sizes, abs=0.02)
    assert found.entropy[1, -1, 0] == pytest.approx(math.log(3), abs=0.02)


@pytest.mark.parametrize("process", PROCESSES[1:])
def test_the_largest_posterior_is_not_below_the_true_one(process: NoiseProcess) -> None:
    found = density_evolution.evolve(SMALL._replace(L=2), process, [0.1, 0.3])
    assert (found.marginal[..., 0] < found.largest[..., 0] + 1e-9).all()


def test_results_are_kept_and_reused(tmp_path: Path) -> None:
    arguments = (SMALL, MaskingNoise(), [0.2, 0.35])
    first = density_evolution.evolve(*arguments, seed=7, cache=tmp_path)
    again = density_evolution.critical_time(*arguments[:2], seed=7, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    with patch.dict(density_evolution._RESULTS, clear=True):
        with patch.object(density_evolution, "_Population", side_effect=AssertionError):
            kept = density_evolution.evolve(*arguments, seed=7, cache=tmp_path)
            time = density_evolution.critical_time(*arguments[:2], seed=7, cache=tmp_path)
        assert np.array_equal(kept.marginal, first.marginal)
        assert np.array_equal(time, again, equal_nan=True)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:40])  # damaged: computed again
    with patch.dict(density_evolution._RESULTS, clear=True):
        anew = density_evolution.evolve(*arguments, seed=7, cache=tmp_path)
    assert np.array_equal(anew.marginal, first.marginal)


def test_times_do_not_change_each_other() -> None:
    both = density_evolution.evolve(SMALL, MaskingNoise(), [0.2, 0.6], seed=8)
    with patch.dict(density_evolution._RESULTS, clear=True):
        one = density_evolution.evolve(SMALL, MaskingNoise(), [0.6], seed=8)
    assert np.array_equal(both.entropy[1:], one.entropy)


PAPER = GrammarParameters(32, 32, 8, 2, 10)


@pytest.mark.slow
@pytest.mark.usefixtures("full_population")
@pytest.mark.parametrize("n", [32, 8])
def test_the_epsilon_process_agrees_with_mean_field(n: int) -> None:
    """Mean field replaces the average of a quotient by a quotient of averages."""
    grammar, times = PAPER._replace(n=n, L=6), [0.3, 0.6, 0.7, 0.8]
    found = density_evolution.evolve(grammar, EpsilonNoise(), times)
    wanted = mean_field.marginals(times, 32, 8, 2, 6, n).T
    assert within(found.marginal, wanted, accuracy=0.02)
    time, error = density_evolution.critical_time(grammar, EpsilonNoise())
    assert time == pytest.approx(mean_field.critical_epsilon(32, 8, 2), abs=5 * error + 0.005)


@pytest.mark.slow
@pytest.mark.usefixtures("full_population")
@pytest.mark.parametrize(
    ("process", "times", "place", "critical"),
    [
        (GaussianNoise(), [0.066, 0.069, 0.072, 0.075], 0.0709, 0.0703),
        (EpsilonNoise(True), [0.15, 0.155, 0.16, 0.165], 0.160, 0.153),
        (MaskingNoise(), [0.25, 0.26, 0.27, 0.28], 0.269, 0.270),
    ],
)
def test_places_at_the_papers_depth(
    process: NoiseProcess, times: list[float], place: float, critical: float
) -> None:
    """Those of another implementation, whose errors are unknown, to 2 % and the error here."""
    root = density_evolution.evolve(PAPER, process, times).marginal[:, -1]
    half = 1 / 32 + 31 / 64
    found = np.interp(-half, -root[:, 0], times)
    slope = (root[0, 0] - root[-1, 0]) / (times[-1] - times[0])
    assert found == pytest.approx(place, abs=3 * root[:, 1].max() / slope + 0.02 * place)
    time, error = density_evolution.critical_time(PAPER, process)
    assert time == pytest.approx(critical, abs=3 * error + 0.02 * critical)
