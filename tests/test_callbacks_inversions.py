"""Where layers cross the first one; and what theory predicts under another class prior."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from grammar_runs import RHM, TIMES, network, run

from lit_hier.callbacks import (
    ActivationSimilarity,
    Beliefs,
    EffectiveNoise,
    IterationMap,
    Reconstruction,
    Transition,
)
from lit_hier.callbacks.analysis import Analysis
from lit_hier.data import RHMDataModule
from lit_hier.metrics import inversion
from lit_hier.modules import BPDenoiser
from lit_hier.processes import EpsilonNoise

pytestmark = pytest.mark.filterwarnings("ignore:reference/accuracy")  # an untrained network


@pytest.fixture(scope="module")
def conditioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a run of a sampler that is conditioned on the sample's class."""
    callbacks = (
        ActivationSimilarity(network()),
        Reconstruction(),
        Transition(),
        Beliefs(),
        IterationMap(),
        EffectiveNoise(),
    )
    sampler = BPDenoiser(RHM, EpsilonNoise(), TIMES, messages=True, class_prior="class")
    data = RHMDataModule(RHM, 10, 5, 40, 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Analysis, "draw_later", lambda *_: None)
        return run(tmp_path_factory.mktemp("conditioned"), sampler, data, *callbacks)


def test_layers_are_compared_with_the_first_one_sample_by_sample(conditioned: Path) -> None:
    samples = np.load(conditioned / "similarity.npz")
    table = pd.read_csv(conditioned / "similarity_inversion.csv")
    curves = pd.read_csv(conditioned / "similarity.csv")
    assert list(table["layer"]) == list(curves["layer"][1 : 1 + len(table)])
    assert list(table["layer_index"]) == list(range(1, 1 + len(table)))
    assert "theory_inversion" not in table
    values = samples["similarity"].astype(np.float64)
    for k, row in enumerate(table.itertuples(), 1):
        difference = values[:, 0] - values[:, k]
        largest = difference.mean(-1).argmax()
        assert row.difference == pytest.approx(difference.mean(-1)[largest])
        sem = difference[largest].std(ddof=1) / np.sqrt(difference.shape[1])
        assert row.difference_sem == pytest.approx(sem)
        assert row.difference_time == samples["time"][largest]
        found = inversion(samples["time"], values[:, 0], values[:, k], samples["source"])
        assert row.inverted == ("none" if np.isnan(found.place) else "yes")
        np.testing.assert_equal(row.inversion, found.place)


def test_theory_is_unknown_where_the_class_prior_enters(conditioned: Path) -> None:
    levels = pd.read_csv(conditioned / "reconstruction.csv")
    root = levels[levels["level"] == levels["level"].max()]
    assert (root["marginal"] == 1).all()
    assert (root["unchanged"] == 1).all()
    assert levels[["theory", "theory_sem", "largest_theory"]].isna().all(axis=None)
    assert pd.read_csv(conditioned / "transition.csv")["theory"].isna().all()
    points = pd.read_csv(conditioned / "transition_points.csv")
    assert points[["theory_place", "theory_width", "critical", "exponent"]].isna().all(axis=None)
    table = pd.read_csv(conditioned / "beliefs.csv")
    known = table.groupby("message")["theory"].agg(lambda x: x.notna().mean())
    assert known.to_dict() == {"upward": 1, "downward": 0, "marginal": 0}
    assert pd.read_csv(conditioned / "iteration_map.csv")["theory"].notna().all()
    noise = pd.read_csv(conditioned / "effective_noise.csv")
    assert noise.filter(like="theory").notna().all(axis=None)
