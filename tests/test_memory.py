"""What a run retains in memory: its tables, and nothing else that grows with its length.

`tests/memory.py` measures the same from outside, on runs a hundred times as long.
"""

import gc
import tracemalloc
import weakref
from pathlib import Path
from typing import Any

import grammar_runs as grammars
import image_runs as images
import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from lit_hier.callbacks import (
    ActivationSimilarity,
    BeliefHistogram,
    Beliefs,
    ChangeCorrelation,
    EffectiveNoise,
    IterationMap,
    Reconstruction,
    SampleGrid,
)
from lit_hier.data import RHMDataModule
from lit_hier.io.arrays import write_samples
from lit_hier.metrics import SampleTable
from lit_hier.modules import BPDenoiser, RHMClassifier, StoredSamples
from lit_hier.processes import EpsilonNoise

EARLY, LATE = 3, 12  # batches

pytestmark = pytest.mark.filterwarnings("ignore:.*close to chance")  # networks are untrained


class Census(Callback):
    """Counts the live objects before an early batch and before a late one."""

    def __init__(self) -> None:
        self.records: list[list[weakref.ref[Any]]] = []
        self.alive: list[int] = []
        self.tensors: list[int] = []
        self.bytes: list[int] = []

    def _count(self, batch_idx: int) -> None:
        if batch_idx not in (EARLY, LATE):
            return
        gc.collect()
        self.alive.append(sum(any(part() is not None for part in ref) for ref in self.records))
        tensors = [x for x in gc.get_objects() if type(x) is Tensor]
        storages = (x.untyped_storage() for x in tensors)
        self.tensors.append(len(tensors))
        self.bytes.append(sum({x.data_ptr(): x.nbytes() for x in storages}.values()))

    def on_predict_batch_start(self, *args: Any) -> None:
        self._count(args[3])

    def on_train_batch_start(self, *args: Any) -> None:
        self._count(args[3])

    def on_predict_batch_end(self, *args: Any) -> None:
        record = args[2]
        marginals = record.latents.marginals if record.latents is not None else ()
        parts = (record, record.x_start, record.x_reversed, *marginals)
        self.records.append([weakref.ref(part) for part in parts])

    def check(self) -> None:
        """Check that no more objects are alive late than early, and only the last record."""
        assert len(self.bytes) == 2, "the run was too short"
        assert max(self.alive, default=0) <= 1
        assert self.tensors[1] <= self.tensors[0]
        assert self.bytes[1] <= self.bytes[0]


@pytest.mark.slow
def test_a_run_on_a_grammar_retains_no_record(tmp_path: Path) -> None:
    census = Census()
    network = grammars.network()
    analyses: list[Callback] = [ActivationSimilarity(network, ["layers.*", "readout"])]
    analyses += [Reconstruction(), Beliefs(), BeliefHistogram(0.4), IterationMap()]
    analyses += [ChangeCorrelation()]
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[*analyses, EffectiveNoise(), census],
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=TensorBoardLogger(tmp_path, default_hp_metric=False),
    )
    data = RHMDataModule(grammars.RHM, 10, 5, 300, 5 * (LATE + 2), eval_batch_size=5)
    module = BPDenoiser(grammars.RHM, EpsilonNoise(), grammars.TIMES, messages=True)
    trainer.predict(module, data, return_predictions=False)
    census.check()


@pytest.mark.slow
def test_runs_on_images_retain_no_record(pipeline: str, tmp_path: Path) -> None:
    """This holds for a run that samples, and for replays in the same batches or in others."""
    samples = tmp_path / "samples"
    making = images.sampler(pipeline, samples, times=[0.0, 2.0])
    size = {"num_predict": 4 * (LATE + 2), "num_test": 40}
    for model, each in ((making, 4), (None, 4), (None, 3)):
        census = Census()
        given = {**size, "eval_batch_size": each}
        similarity, kept, _ = images.analyses()
        callbacks = [similarity, kept, SampleGrid(1), census]
        images.predict(tmp_path, model or StoredSamples(str(samples)), callbacks, **given)
        census.check()


def test_training_retains_nothing_of_a_batch(tmp_path: Path) -> None:
    census = Census()
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[census],
        max_epochs=1,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=TensorBoardLogger(tmp_path, default_hp_metric=False),
    )
    data = RHMDataModule(grammars.RHM, 10 * (LATE + 2), 5, 5, 5, batch_size=10)
    trainer.fit(RHMClassifier(6, 6, 2, 3, width=8), data)
    census.check()


def test_a_table_is_in_memory_once() -> None:
    """There is no copy of its initial value, nor of the computed one."""
    table = SampleTable(5, 7, num_samples=1000)
    assert table._defaults["values"].untyped_storage().nbytes() < 100
    values = torch.rand(5, 7, 1000)
    table.update(torch.arange(1000), values)
    _, found = table.compute()
    assert np.shares_memory(found, table.values.numpy())
    table.reset()
    assert not table.values.any()
    table.update(torch.arange(10), values[..., :10])
    assert np.array_equal(table.compute()[1], values[..., :10].numpy())


def test_samples_are_written_in_pieces_and_keep_their_bits(tmp_path: Path) -> None:
    """Numpy's writer copies 16 MiB at a time, for arrays of any size."""
    table = np.random.default_rng(0).random((4, 10), dtype=np.float32)
    arrays: dict[str, Any] = {
        "table": table,
        "transposed": table.T,
        "one": np.array(3),
        "none": [],
    }
    write_samples(str(tmp_path), "small", arrays | {"names": np.array(["a", "bcd"])})
    with np.load(tmp_path / "small.npz") as found:
        for name, wanted in arrays.items():
            assert found[name].dtype == np.asarray(wanted).dtype
            assert found[name].shape == np.shape(wanted)
            assert found[name].tobytes() == np.asarray(wanted).tobytes()
        assert found["names"].tolist() == ["a", "bcd"]
    large = np.zeros(2**25, dtype=np.float32)
    tracemalloc.start()
    try:
        write_samples(str(tmp_path), "large", {"zeros": large})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < large.nbytes / 4
