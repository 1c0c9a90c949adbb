"""Runs of forward-backward on a small grammar, with an untrained network."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from lit_hier.data import RHMDataModule
from lit_hier.modules import BPDenoiser
from lit_hier.nn import HierarchicalCNN
from lit_hier.processes import EpsilonNoise
from lit_hier.rhm import RandomHierarchyModel

RHM = RandomHierarchyModel(6, 3, 2, 3, seed=1)


TIMES = [0.0, 0.4, 0.8, 1.0]


def network() -> HierarchicalCNN:
    torch.manual_seed(0)
    return HierarchicalCNN(6, 6, 2, 3, width=10)


def run(folder: Path, module: Any, data: Any, *callbacks: Callback, **kwargs: Any) -> Path:
    """Run `predict` with a logger in a folder and options of the trainer; return its directory."""
    logger = TensorBoardLogger(folder, name="run", default_hp_metric=False)
    trainer = Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **({"logger": logger} | kwargs),
    )
    trainer.predict(module, data, return_predictions=False)
    return Path(logger.log_dir)


def predict(
    folder: Path, *callbacks: Callback, num: int = 50, size: int = 16, **kwargs: Any
) -> Path:
    data = RHMDataModule(RHM, 10, 5, 300, num, eval_batch_size=size)
    return run(folder, BPDenoiser(RHM, EpsilonNoise(), TIMES), data, *callbacks, **kwargs)
