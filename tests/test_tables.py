"""The tables of every analysis, cell by cell, against tables that are kept in `tests/tables`.

python tests/test_tables.py                # write all of them again, after an intended change
python tests/test_tables.py networks       # or those of some runs
"""

import csv
import dataclasses
import math
import re
import shutil
import sys
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from conftest import ROOT, SMALL_POPULATION
from grammar_runs import run
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from pytorch_lightning import Callback, LightningDataModule, LightningModule

from lit_hier.callbacks import (
    ActivationSimilarity,
    BeliefHistogram,
    Beliefs,
    ClassKept,
    EffectiveNoise,
    IterationMap,
    Reconstruction,
    Transition,
)
from lit_hier.data import GaussianDataModule, RHMDataModule
from lit_hier.diffusion import ForwardBackward
from lit_hier.gaussian import GaussianMixture
from lit_hier.inference import density_evolution
from lit_hier.io.tables import write_table
from lit_hier.modules import BPDenoiser, GaussianDenoiser
from lit_hier.nn import HierarchicalCNN
from lit_hier.processes import EpsilonNoise, GaussianNoise, MaskingNoise
from lit_hier.rhm import GrammarEnsemble, RandomHierarchyModel

TABLES = ROOT / "tests" / "tables"
TIMES = [0.0, 0.3, 0.7, 1.0]

pytestmark = pytest.mark.filterwarnings("ignore:.*close to chance")  # networks are untrained


class ImageCounting(BPDenoiser):
    """Reports image counts with every batch, as samplers of images from files do."""

    def forward_backward(self, batch: dict[str, torch.Tensor]) -> ForwardBackward:
        record = super().forward_backward(batch)
        return dataclasses.replace(record, image_counts=torch.tensor([0, 1, 2, 3, 4]))


def ensemble(**kwargs: Any) -> GrammarEnsemble:
    numbers = {"num_features": 4, "num_synonyms": 2, "tuple_size": 2, "num_layers": 3}
    return GrammarEnsemble(**(numbers | {"seeds": [0, 1]} | kwargs))


def network() -> HierarchicalCNN:
    torch.manual_seed(0)
    return HierarchicalCNN(4, 4, 2, 3, width=6)


def theory() -> tuple[Any, Any, list[Callback]]:
    rhm = ensemble()
    analyses = [
        Beliefs(),
        Beliefs("effective_noise"),
        BeliefHistogram(0.3, num_bins=4),
        EffectiveNoise(),
        Reconstruction(),
        Reconstruction("effective_noise"),
    ]
    return BPDenoiser(rhm, EpsilonNoise(), TIMES, messages=True), rhm, analyses


def ensembles() -> tuple[Any, Any, list[Callback]]:
    rhm = ensemble(num_synonyms=[2, 3, 4])
    sampler = BPDenoiser(rhm, EpsilonNoise(), TIMES, messages=True)
    return sampler, rhm, [IterationMap(), Transition()]


def depths() -> tuple[Any, Any, list[Callback]]:
    rhm = ensemble(num_layers=[2, 3])
    return BPDenoiser(rhm, MaskingNoise(), TIMES), rhm, [Transition()]


def diffusion() -> tuple[Any, Any, list[Callback]]:
    rhm = ensemble()
    analyses = [EffectiveNoise(), Reconstruction("effective_noise")]
    return BPDenoiser(rhm, GaussianNoise(), [0.0, 0.1, 0.5]), rhm, analyses


def classes() -> tuple[Any, Any, list[Callback]]:
    rhm = ensemble(num_classes=3)
    return BPDenoiser(rhm, EpsilonNoise(), TIMES), rhm, [Reconstruction()]


def networks() -> tuple[Any, Any, list[Callback]]:
    rhm = RandomHierarchyModel(4, 2, 2, 3, seed=1)
    analyses = [
        ActivationSimilarity(network()),
        ActivationSimilarity(network(), standardization="released", name="released"),
        ActivationSimilarity(network(), against="effective_noise"),
        ClassKept(network()),
    ]
    return ImageCounting(rhm, EpsilonNoise(), TIMES), rhm, analyses


def mixture() -> tuple[Any, Any, list[Callback]]:
    distribution = GaussianMixture(4)
    return GaussianDenoiser(distribution, [0.0, 0.5, 2.0]), distribution, [Reconstruction()]


RUNS = (theory, ensembles, depths, diffusion, classes, networks, mixture)


def predict(
    folder: Path, sampler: LightningModule, drawn_from: Any, analyses: list[Callback]
) -> Path:
    data: LightningDataModule
    if isinstance(drawn_from, GaussianMixture):
        data = GaussianDataModule(drawn_from, 10, 10)
    else:
        reference = 40 if isinstance(drawn_from, RandomHierarchyModel) else 0
        data = RHMDataModule(drawn_from, 0, 0, reference, 6, eval_batch_size=4)
    return run(folder, sampler, data, *analyses)


def cells(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
def test_tables_keep_every_cell(run: Any, tmp_path: Path) -> None:
    """Another machine may round the last digits of floats; all other cells are the same text."""
    folder = predict(tmp_path, *run())
    tables = sorted((TABLES / run.__name__).glob("*.csv"))
    assert [path.name for path in sorted(folder.glob("*.csv"))] == [path.name for path in tables]
    for path in tables:
        assert (folder / path.name).read_bytes().endswith(b"\n")
        assert b"\r" not in (folder / path.name).read_bytes()
        found, wanted = cells(folder / path.name), cells(path)
        assert [len(row) for row in found] == [len(row) for row in wanted]
        for new, old in zip(chain(*found), chain(*wanted), strict=True):
            if re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?|-?inf", old) and not old.isdigit():
                assert new == repr(float(new)), path.name
                close = math.isclose(float(new), float(old), rel_tol=1e-5, abs_tol=1e-6)
                assert close, (path.name, new, old)
            else:
                assert new == old, path.name


@given(
    st.lists(
        st.tuples(st.floats(), st.integers(-(2**63), 2**63 - 1), st.sampled_from(["a b", "ε"])),
        min_size=1,
    )
)
def test_cells_are_written_as_python_writes_them(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, int, str]]
) -> None:
    """Floats with all their digits, whole numbers without a point, NaN as `nan`."""
    folder = tmp_path_factory.mktemp("tables")
    write_table(folder, "table", DataFrame(rows, columns=["x", "count", "name"]))
    lines = ["x,count,name", *(",".join(map(str, row)) for row in rows)]
    assert (folder / "table.csv").read_text().split("\n") == [*lines, ""]


def write_tables(names: list[str]) -> None:
    """Write the tables of runs, by default of all, into `tests/tables`."""
    for made in RUNS:
        if not names or made.__name__ in names:
            shutil.rmtree(TABLES / made.__name__, ignore_errors=True)
            (TABLES / made.__name__).mkdir()
            with tempfile.TemporaryDirectory() as folder:
                for path in predict(Path(folder), *made()).glob("*.csv"):
                    shutil.copy(path, TABLES / made.__name__)


if __name__ == "__main__":
    with patch.multiple(density_evolution, **SMALL_POPULATION):  # as the tests do
        write_tables(sys.argv[1:])
