"""Runs of forward-backward on digits, with an untrained network and small analyses."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn

from lit_hier.callbacks import ActivationSimilarity, ClassKept, SampleGrid, TimeProgressBar
from lit_hier.data import DigitsDataModule
from lit_hier.modules import DDPMSampler

TIMES = [0.0, 2.0, 6.0, 10.0]


SIZE = {"eval_batch_size": 10, "num_predict": 23, "num_test": 40}


class Net(nn.Sequential):
    """A classifier with random weights."""

    def __init__(self, seed: int = 0, width: int = 6) -> None:
        torch.manual_seed(seed)
        super().__init__(
            nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU()),
            nn.Sequential(nn.Conv2d(width, width, 3), nn.ReLU()),
            nn.Flatten(),
            nn.Linear(16 * width, 10),
        )


def analyses(seed: int = 0, **kwargs: Any) -> list[Callback]:
    return [
        ActivationSimilarity(Net(seed), ["0", "1", "3"], **kwargs),
        ClassKept(Net(seed)),
        SampleGrid(3),
    ]


def predict(
    folder: Path, model: LightningModule, callbacks: list[Callback], precision: Any = None,
    **size: int,
) -> Path:  # fmt: skip
    logger = TensorBoardLogger(folder / "logs", name="run", default_hp_metric=False)
    trainer = Trainer(
        accelerator="cpu",
        callbacks=callbacks,
        logger=logger,
        precision=precision,
        enable_progress_bar=any(isinstance(c, TimeProgressBar) for c in callbacks),
        enable_model_summary=False,
    )
    data = DigitsDataModule(**(SIZE | size))
    trainer.predict(model, data, return_predictions=False)
    return Path(logger.log_dir)


def sampler(pipeline: str, samples: Path | None, **kwargs: Any) -> DDPMSampler:
    given = {"times": TIMES, "num_steps": 10, "batch_size": 8} | kwargs
    return DDPMSampler(pipeline, samples=None if samples is None else str(samples), **given)


def same_tables(one: Path, other: Path) -> None:
    for name in ("similarity", "class_kept"):
        assert (one / f"{name}.csv").read_bytes() == (other / f"{name}.csv").read_bytes()
        arrays = [dict(np.load(folder / f"{name}.npz")) for folder in (one, other)]
        assert arrays[0].keys() == arrays[1].keys()
        for key, value in arrays[0].items():
            assert np.array_equal(value, arrays[1][key]), key
