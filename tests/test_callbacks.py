"""Analyses of a small grammar and an untrained network, against their definitions."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import RecordCollector, rows
from grammar_runs import RHM, TIMES, network, predict
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor

from lit_hier.callbacks import ActivationSimilarity, Reconstruction
from lit_hier.callbacks.tensorboard import time_steps
from lit_hier.data import RHMDataModule
from lit_hier.errors import InputError
from lit_hier.inference import mean_field
from lit_hier.io.atomic import atomic_write
from lit_hier.modules import RHMClassifier
from lit_hier.nn import HierarchicalCNN
from lit_hier.rhm import RandomHierarchyModel

LAYERS = ["layers.0", "layers.1", "layers.2", "readout"]


pytestmark = pytest.mark.filterwarnings("ignore:.*close to chance")  # the network is untrained


def test_similarity_against_its_definition(tmp_path: Path) -> None:
    keep, net = RecordCollector(), network()
    folder = predict(tmp_path, ActivationSimilarity(net, ["layers.*", "readout"]), keep)
    data = RHMDataModule(RHM, 10, 5, 300, 50)
    data.setup()
    reference = data._splits["test"][torch.arange(300)]["x"]

    def activations(x: Tensor) -> list[np.ndarray]:
        """Evaluate layer by layer, without hooks."""
        out = []
        for layer in net.layers:
            x = layer(x)
            out.append(x)
        return [a.detach().double().numpy() for a in (*out, net.readout(x.flatten(1)))]

    statistics = [
        (
            a.mean((0, *range(2, a.ndim)), keepdims=True),
            a.std((0, *range(2, a.ndim)), keepdims=True),
        )
        for a in activations(reference)
    ]

    def standard(x: Tensor) -> list[np.ndarray]:
        pairs = zip(activations(x), statistics, strict=True)
        return [
            np.where(std > 0, (a - mean) / np.where(std > 0, std, 1), 0).reshape(len(a), -1)
            for a, (mean, std) in pairs
        ]

    start = standard(torch.cat([record.x_start for record in keep.records]))
    x_reversed = torch.cat([record.x_reversed for record in keep.records], dim=1)
    true = np.array(
        [
            [
                (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
                for a, b in zip(start, standard(x), strict=True)
            ]
            for x in x_reversed
        ]
    )
    stored = np.load(folder / "similarity.npz", allow_pickle=False)
    assert stored["similarity"].shape == (4, 4, 50)
    assert np.abs(stored["similarity"] - true).max() < 1e-5
    assert stored["time"].tolist() == TIMES
    assert stored["curve"].tolist() == LAYERS
    assert stored["index"].tolist() == list(range(50))
    table = rows(folder / "similarity.csv")
    columns = "process,time,layer,layer_index,mode,mean,median,std,sem,count"
    assert ",".join(table[0]).startswith(columns)
    assert len(table) == 16
    for k, time in enumerate(TIMES):
        for j, layer in enumerate(LAYERS):
            row = table[4 * k + j]
            assert (row["process"], float(row["time"])) == ("epsilon", time)
            assert (row["layer"], int(row["layer_index"])) == (layer, j)
            assert float(row["mean"]) == pytest.approx(true[k, j].mean(), abs=1e-5)
            assert float(row["median"]) == pytest.approx(np.median(true[k, j]), abs=1e-5)
            assert int(row["count"]) == 50
    assert float(table[0]["mode"]) == 1.0
    assert (folder / "similarity.png").read_bytes().startswith(b"\x89PNG")


def test_reconstruction_against_its_definition(tmp_path: Path) -> None:
    keep = RecordCollector()
    folder = predict(tmp_path, Reconstruction(), keep)
    table = rows(folder / "reconstruction.csv")
    columns = "process,time,level,marginal,unchanged,sem,count,theory"
    assert ",".join(table[0]).startswith(columns)
    theory = mean_field.marginals(TIMES, 6, 3, 2, 3)
    for k, _ in enumerate(TIMES):
        for level in range(4):
            row = table[4 * k + level]
            beliefs, unchanged = [], []
            for record in keep.records:
                latents = record.latents
                assert latents is not None
                for b, symbols in enumerate(latents.tree_start[level].tolist()):
                    belief = latents.marginals[level][k, b]
                    beliefs.append(np.mean([belief[i, x] for i, x in enumerate(symbols)]))
                    new = latents.tree_reversed[level][k, b].tolist()
                    unchanged.append(np.mean([x == y for x, y in zip(new, symbols, strict=True)]))
            assert float(row["marginal"]) == pytest.approx(np.mean(beliefs), abs=1e-6)
            assert float(row["unchanged"]) == pytest.approx(np.mean(unchanged), abs=1e-6)
            sem = np.std(beliefs, ddof=1) / 50**0.5
            if k:
                assert float(row["sem"]) == pytest.approx(sem, abs=1e-6)
            else:  # without noise all beliefs are 1, which is no evidence of an error of 0
                assert math.isnan(float(row["sem"]))
            assert float(row["theory"]) == pytest.approx(theory[level, k])


def test_batch_size_changes_rounding_only(tmp_path: Path) -> None:
    stored = []
    for size in (16, 50, 7):
        similarity = ActivationSimilarity(network(), ["layers.*", "readout"])
        folder = predict(tmp_path, similarity, Reconstruction(), size=size)
        stored.append([np.load(folder / f"{n}.npz") for n in ("similarity", "reconstruction")])
    for similarity, reconstruction in stored[1:]:
        difference = np.abs(similarity["similarity"] - stored[0][0]["similarity"])
        assert difference.max() < 1e-5
        # The trees are equal, symbol by symbol.
        assert np.array_equal(reconstruction["unchanged"], stored[0][1]["unchanged"])


class Breaks(HierarchicalCNN):
    """Raises in the middle of a forward pass, after the reference set and the first times."""

    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        for k, layer in enumerate(self.layers):
            if self.passes > 21 and k == 2:
                raise RuntimeError("forward failed")
            x = layer(x)
        logits: Tensor = self.readout(x.flatten(1))
        return logits


def test_a_failed_run_leaves_no_hooks_and_no_tables(tmp_path: Path) -> None:
    net = Breaks(6, 6, 2, 3, width=10)
    with pytest.raises(
        InputError, match=r"^network: Breaks does not take x of .*: forward failed$"
    ):
        predict(tmp_path, Reconstruction(), ActivationSimilarity(net, ["layers.*"]))
    assert net.passes == 22
    assert not any(module._forward_hooks for module in net.modules())
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes.isdisjoint({".csv", ".npz", ".png"})


def test_a_file_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "table.csv") as file:
        file.write(b"old")
    with suppress(RuntimeError), atomic_write(tmp_path / "table.csv") as file:
        file.write(b"ne")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    assert (tmp_path / "table.csv").read_bytes() == b"old"


def test_a_run_of_a_single_sample(tmp_path: Path) -> None:
    folder = predict(tmp_path, Reconstruction(), num=1)
    assert {row["count"] for row in rows(folder / "reconstruction.csv")} == {"1"}
    with np.load(folder / "reconstruction.npz") as arrays:
        assert arrays["marginal"].shape == (len(TIMES), 4, 1)
        assert arrays["index"].tolist() == arrays["source"].tolist() == [0]


@pytest.mark.parametrize("process_times", [[0.1, 0.2], [0.0001, 0.0002]])
def test_tensorboard_steps_are_distinct_and_ascend(process_times: list[float]) -> None:
    steps, unit = time_steps(process_times)
    assert steps == sorted(set(steps))
    assert [step / unit for step in steps] == process_times


@pytest.mark.filterwarnings("ignore:.*log_dir")
def test_runs_without_a_sampler_are_rejected(tmp_path: Path) -> None:
    trainer = Trainer(
        accelerator="cpu",
        logger=CSVLogger(tmp_path),
        callbacks=[Reconstruction()],
        enable_progress_bar=False,
    )
    with pytest.raises(InputError, match=r"model: Reconstruction measures samplers"):
        trainer.predict(RHMClassifier(6, 6, 2, 3), RHMDataModule(RHM, 10, 5, 5, 5))


def test_an_accuracy_close_to_chance_is_reported(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"reference/accuracy is .* close to chance"):
        predict(tmp_path, ActivationSimilarity(network(), ["readout"]))


def test_a_network_for_other_data_is_rejected(tmp_path: Path) -> None:
    deeper = HierarchicalCNN(6, 6, 2, 4, width=10)
    with pytest.raises(InputError, match=r"network: HierarchicalCNN does not take x of shape"):
        predict(tmp_path, ActivationSimilarity(deeper, ["readout"]))
    other = network()
    data = RHMDataModule(RandomHierarchyModel(6, 3, 2, 3, seed=2), 10, 5, 300, 50)
    other.trained_on = data.training_set
    again = RandomHierarchyModel.from_rules(data.rhm.rules)
    assert RHMDataModule(again, 10, 5, 5, 5).training_set == data.training_set
    with pytest.raises(InputError, match=r"weights: the network was trained on .* seed=0, but"):
        predict(tmp_path, ActivationSimilarity(other, ["readout"]))


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_other_precisions_agree(tmp_path: Path, precision: Any) -> None:
    similarity = ActivationSimilarity(network(), ["layers.*", "readout"])
    folder = predict(tmp_path, similarity, precision=precision)
    exact = predict(tmp_path, ActivationSimilarity(network(), ["layers.*", "readout"]))
    tables = [np.load(path / "similarity.npz")["similarity"] for path in (folder, exact)]
    assert np.abs(tables[0] - tables[1]).mean() < (1e-6 if precision == "64-true" else 0.02)
