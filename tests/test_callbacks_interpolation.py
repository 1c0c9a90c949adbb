"""Training to interpolation: errors on the training set, counted with fixed weights."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn

from lit_hier.callbacks import Interpolation
from lit_hier.data import RHMDataModule
from lit_hier.errors import InputError
from lit_hier.modules import BPDenoiser, ClassificationTask, RHMClassifier
from lit_hier.nn import TrainedNetwork
from lit_hier.processes import EpsilonNoise
from lit_hier.rhm import RandomHierarchyModel

RHM = RandomHierarchyModel(4, 3, 2, 2)


def fit(
    folder: Path,
    task: ClassificationTask,
    epochs: int,
    threshold: float = 0.9,
    factor: float = 1.0,
    **options: Any,
) -> tuple[Trainer, RHMDataModule]:
    """Train on 60 data, with a checkpoint per epoch; return the trainer and the data."""
    torch.manual_seed(0)
    data = RHMDataModule(RHM, 60, 0, 0, 4, batch_size=16, eval_batch_size=25)
    keep = ModelCheckpoint(folder / "weights", "{epoch}", save_top_k=-1)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        limit_val_batches=0,
        callbacks=[Interpolation(threshold, factor), keep],
        logger=CSVLogger(folder / "logs"),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(task, data)
    return trainer, data


def count(network: nn.Module, data: RHMDataModule) -> int:
    """Count the misclassified training data, all at once."""
    batch = data._splits["train"][torch.arange(60)]
    with torch.no_grad():
        return int((network.eval()(batch["x"]).argmax(-1) != batch["label"]).sum())


def classifier(lr: float) -> RHMClassifier:
    torch.manual_seed(0)  # whatever other tests have drawn
    return RHMClassifier(4, 4, 2, 2, 32, partial(torch.optim.Adam, lr=lr))


def test_training_stops_once_no_training_datum_is_misclassified(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, data = fit(tmp_path, classifier(0.02), 100)
    last = trainer.current_epoch - 1
    assert last < 60
    networks = [TrainedNetwork(str(tmp_path / f"weights/epoch={k}.ckpt")) for k in range(last + 1)]
    assert networks[last].training_errors == (0, 60)
    counted = [network for network in networks if network.training_errors is not None]
    assert 1 < len(counted) < len(networks)  # only where the accuracy was promising
    for network in counted:
        assert network.training_errors == (count(network, data), 60)
    assert all(network.training_errors != (0, 60) for network in counted[:-1])
    assert trainer.callback_metrics["train/errors"] == 0
    assert not [record for record in caplog.records if record.name == "lit_hier"]


def test_the_learning_rate_falls_with_each_count_that_leaves_errors(tmp_path: Path) -> None:
    trainer, _ = fit(tmp_path, classifier(0.001), 3, threshold=0.0, factor=0.5)
    for epoch in range(3):
        path = tmp_path / f"weights/epoch={epoch}.ckpt"
        (state,) = torch.load(path, weights_only=True)["optimizer_states"]
        assert state["param_groups"][0]["lr"] == 0.001 * 0.5 ** (epoch + 1)
    assert trainer.callback_metrics["train/errors"] > 0
    with pytest.raises(InputError, match=r"^factor is 0; give a number above 0"):
        Interpolation(factor=0)


@pytest.mark.filterwarnings("ignore:Found 1 module")
def test_errors_that_remain_are_counted_in_evaluation_mode_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Dropout is off in a count, and on again in training."""
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 4))
    network[0].eval()  # a mode that training must find again
    task = ClassificationTask(network, 4, partial(torch.optim.SGD, lr=1e-3))
    with caplog.at_level(logging.WARNING, "lit_hier"):
        trainer, data = fit(tmp_path, task, 2, threshold=0)
    assert trainer.current_epoch == 2
    assert [module.training for module in network] == [False, True, True]
    assert task.training_errors is not None
    errors, num = task.training_errors
    assert 0 < errors == count(network, data)
    assert num == 60
    (record,) = [record for record in caplog.records if record.name == "lit_hier"]
    assert f"{errors} of 60 data are misclassified after epoch 2:" in record.getMessage()


def test_the_last_epoch_is_counted_whatever_its_accuracy(tmp_path: Path) -> None:
    limits: list[dict[str, Any]] = [{"epochs": 1}, {"epochs": 9, "max_steps": 4}]
    for k, options in enumerate(limits):
        trainer, _ = fit(tmp_path / str(k), task := classifier(0.0), threshold=1, **options)
        assert trainer.global_step == 4
        assert task.training_errors is not None
        assert task.training_errors[0] > 20


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_invalid_thresholds(threshold: float) -> None:
    with pytest.raises(InputError, match="threshold is "):
        Interpolation(threshold)


def test_models_and_data_that_cannot_be_counted_are_rejected() -> None:
    sampler = BPDenoiser(RHM, EpsilonNoise(), [0.5])
    with pytest.raises(InputError, match=r"model: Interpolation counts .* not of BPDenoiser"):
        Interpolation().setup(Trainer(logger=False, accelerator="cpu"), sampler, "fit")
    with pytest.raises(InputError, match="data: Interpolation needs a data module"):
        Interpolation().setup(Trainer(logger=False, accelerator="cpu"), classifier(0.1), "fit")


def test_a_damaged_count_is_rejected(tmp_path: Path) -> None:
    fit(tmp_path, classifier(0.0), 1)
    path = tmp_path / "weights/epoch=0.ckpt"
    checkpoint = torch.load(path)
    for damaged in (7, [3], [1.0, 2], [True, 2], [-1, 2], [3, 2], ["a", "b"]):
        checkpoint["lit_hier"]["training_errors"] = damaged
        torch.save(checkpoint, path)
        with pytest.raises(InputError, match="damaged count of training errors"):
            TrainedNetwork(str(path))
