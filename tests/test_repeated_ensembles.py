"""Errors of averages against the spread of repeated measurements, one grammar and several.

A pool of grammars, each with a pool of data, is measured once. Repetitions draw grammars and data
from it with replacement, so that the pool is what they estimate.
"""

from collections.abc import Mapping
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn

from lit_hier.callbacks import (
    Beliefs,
    ClassKept,
    EffectiveNoise,
    IterationMap,
    Reconstruction,
    Transition,
)
from lit_hier.callbacks.curves import CurveAnalysis
from lit_hier.data import RHMDataModule
from lit_hier.inference.theory import Prediction
from lit_hier.metrics import inversion, summarize, transition, transition_errors
from lit_hier.modules import BPDenoiser
from lit_hier.processes import EpsilonNoise
from lit_hier.rhm import GrammarEnsemble, GrammarParameters

TIMES: Final = [0.1, 0.25, 0.45, 0.6, 0.75, 0.9]
POOL: Final = 16  # grammars
DATA: Final = 48  # of each
NUM: Final = 16  # data of a grammar in one repetition
REPETITIONS: Final = 400

Floats = np.ndarray[Any, np.dtype[np.float64]]


@pytest.fixture(scope="module")
def rhm() -> GrammarEnsemble:
    return GrammarEnsemble(4, 2, 2, 3, seeds=range(POOL))


@pytest.fixture(scope="module")
def pool(rhm: GrammarEnsemble) -> dict[str, Floats]:
    """Measure by the callbacks: shape (quantities, T, curves, grammars, data)."""
    sampler = BPDenoiser(rhm, EpsilonNoise(), TIMES, messages=True)
    data = RHMDataModule(rhm, 0, 0, 0, DATA)
    data.setup()
    batches = data.predict_dataloader().dataset
    records = [
        sampler.predict_step(batches[torch.arange(DATA) + DATA * k], 0) for k in range(POOL)
    ]
    measured = {}
    for analysis in (Reconstruction(), Transition(), Beliefs(), IterationMap()):
        nothing: Any = None
        parts = [analysis.measure(nothing, sampler, record) for record in records]
        measured[analysis.name] = torch.stack(parts, -2).double().numpy()
    # Any number and any share serve: the leaves' beliefs, and whether the class is unchanged.
    measured["effective_noise"] = measured["reconstruction"][[0, 3], :, :1]
    measured["class_kept"] = measured["reconstruction"][1:2, :, -1:]
    return measured


def draw(values: Floats, num_grammars: int, fixed: bool = False, seed: int = 0) -> Floats:
    """Repeat a measurement: shape (..., repetitions, data).

    Args:
        values: The pool, shape (..., grammars, data).
        num_grammars: Grammars of a repetition; one is always the same.
        fixed: Whether all repetitions have the same grammars.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    grammars = rng.integers(POOL, size=(REPETITIONS, num_grammars, 1))
    if fixed or num_grammars == 1:
        grammars[:] = grammars[0]
    data = rng.integers(DATA, size=(REPETITIONS, num_grammars, NUM))
    return values[..., grammars, data].reshape(*values.shape[:-2], REPETITIONS, -1)


def first_grammar() -> int:
    """Return the grammar that `draw` takes if it is to take one."""
    return int(draw(np.arange(POOL)[:, None].repeat(DATA, 1).astype(float), 1)[0, 0])


def sources(num_grammars: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.repeat(np.arange(num_grammars), NUM)


def columns(
    analysis: CurveAnalysis, rhm: GrammarEnsemble, samples: Floats, num_grammars: int
) -> list[Mapping[str, Floats]]:
    """Summarize all repetitions by a callback: per curve, columns of shape (T, repetitions)."""
    analysis.sources = tuple(map(GrammarParameters.of, rhm.grammars))
    analysis.noise_process = EpsilonNoise()
    num = len(TIMES) * REPETITIONS
    none = Prediction.of("none", (num, 4))
    found = []
    with (
        patch.object(CurveAnalysis, "prediction", return_value=none),
        patch.object(CurveAnalysis, "comparison", return_value=None),
    ):
        for line in analysis.lines():
            flat = samples[:, :, line.curve].reshape(len(samples), num, -1)
            summary = analysis.summarize(flat, sources(num_grammars), line)
            found.append({
                key: np.reshape(np.broadcast_to(column, num), (len(TIMES), REPETITIONS))
                for key, column in summary.items()
            })  # fmt: skip
    return found


def check(errors: Floats, estimates: Floats, what: object) -> None:
    """Compare the root mean square of errors with the spread of estimates, on the last axis.

    An error that is NaN found no deviation. Quantities that do not vary have no error to hold.
    """
    spread = estimates.std(-1, ddof=1)
    claimed = np.sqrt(np.square(np.nan_to_num(errors)).mean(-1))
    varies = spread > 1e-4
    ratio = claimed[varies] / spread[varies]
    assert ((ratio > 0.75) & (ratio < 1.25)).all(), (what, ratio)
    assert (claimed[~varies] < 1e-3).all(), what


OF_TRUTH: Final = (
    *("marginal:sem", "unchanged:unchanged_sem", "largest:largest_sem"),
    "information:information_sem",
)
ANALYSES: Final = {
    "reconstruction": OF_TRUTH,
    "transition": OF_TRUTH,
    "beliefs": ("true:sem", "largest:largest_sem"),
    "iteration_map": ("above:sem", "belief:belief_sem"),
    "effective_noise": ("noise:sem", "leaf_information:leaf_information_sem"),
    "class_kept": ("kept:sem",),
}


def analysis_of(name: str) -> CurveAnalysis:
    kinds = (Reconstruction(), Transition(), Beliefs(), IterationMap(), EffectiveNoise(),
             ClassKept(nn.Identity()))  # fmt: skip
    analysis = next(kind for kind in kinds if kind.name == name)
    if isinstance(analysis, EffectiveNoise):
        analysis._noise = analysis._information = np.zeros(len(TIMES) * REPETITIONS)
    return analysis


@pytest.mark.parametrize("num_grammars", [1, 4])
@pytest.mark.parametrize("name", ANALYSES)
def test_errors_are_the_spread_of_repeated_measurements(
    name: str, num_grammars: int, rhm: GrammarEnsemble, pool: dict[str, Floats]
) -> None:
    analysis = analysis_of(name)
    repeated = draw(pool[name], num_grammars)
    within = draw(pool[name], num_grammars, fixed=True, seed=1)
    for curve in columns(analysis, rhm, repeated, num_grammars):
        for pair in ANALYSES[name]:
            estimate, error = pair.split(":")
            check(curve[error], curve[estimate], (name, error))
    for curve in columns(analysis, rhm, within, num_grammars):
        for pair in ANALYSES[name]:
            estimate, error = pair.split(":")
            check(curve[f"{error}_within"], curve[estimate], (name, f"{error}_within"))


@pytest.mark.parametrize("num_grammars", [1, 4])
def test_intervals_of_shares_hold_the_truth_in_95_of_100_measurements(
    num_grammars: int, rhm: GrammarEnsemble, pool: dict[str, Floats]
) -> None:
    name = "reconstruction"
    repeated = columns(Reconstruction(), rhm, draw(pool[name], num_grammars), num_grammars)
    held = []
    for level, curve in enumerate(repeated):
        grammars = pool[name][1, :, level].mean(-1)
        true = grammars.mean(-1, keepdims=True)
        if num_grammars == 1:
            true = grammars[:, [first_grammar()]]
        low, high = curve["unchanged_low"], curve["unchanged_high"]
        held.append(((low <= true) & (true <= high)).mean(-1))
    assert np.min(held) > 0.88
    assert 0.93 < np.mean(held) < 0.98


@pytest.mark.parametrize("num_grammars", [1, 4])
def test_errors_of_places_and_widths(num_grammars: int, pool: dict[str, Floats]) -> None:
    root = pool["reconstruction"][0, :, -1]
    samples = draw(root, num_grammars).swapaxes(0, 1)
    x, chance = np.array(TIMES), 1 / 4
    found = transition(x, samples.mean(-1), chance)
    errors = transition_errors(x, samples, sources(num_grammars), chance)
    for error, estimate, what in zip(errors, found, ("place_sem", "width_sem"), strict=True):
        exists = np.isfinite(estimate)
        assert exists.mean() > 0.98
        assert np.isfinite(error).mean() > 0.9
        known = exists & np.isfinite(error)
        check(error[known], np.asarray(estimate)[known], what)


@pytest.mark.parametrize("num_grammars", [1, 6])
def test_errors_of_modes(num_grammars: int) -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        of_grammars = 0.2 + 0.05 * rng.normal(size=(num_grammars, 1)) * (num_grammars > 1)
        values = np.clip(of_grammars + 0.15 * rng.normal(size=(num_grammars, 3 * NUM)), -1, 1)
        groups = np.repeat(np.arange(num_grammars), 3 * NUM)
        found.append(summarize(values.ravel(), groups, bandwidth=0.08, resamples=50))
    errors, modes, sems, means = (
        np.array([each[key] for each in found]) for key in ("mode_sem", "mode", "sem", "mean")
    )
    check(errors, modes, "mode_sem")
    check(sems, means, "sem")


@pytest.mark.parametrize("num_grammars", [1, 5])
def test_errors_of_inversions(num_grammars: int) -> None:
    rng, x = np.random.default_rng(0), np.linspace(0, 1, 9)
    found = []
    for _ in range(60):
        place = 0.5 + 0.03 * rng.normal(size=(num_grammars, 1)) * (num_grammars > 1)
        place = (place + 0.05 * rng.normal(size=(num_grammars, NUM))).ravel()
        first = 1 - x[:, None] + 0.3 * rng.normal(size=len(place))
        other = first + 0.4 * (place - x[:, None]) + 0.02 * rng.normal(size=(9, len(place)))
        found.append(inversion(x, first, other, sources(num_grammars), resamples=50))
    for error in ("place", "difference"):
        estimates, errors = (
            np.array([getattr(each, key) for each in found]) for key in (error, f"{error}_sem")
        )
        assert np.isfinite(estimates).all()
        check(errors, estimates, error)
