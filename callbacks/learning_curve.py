"""The test error of classifiers against the number of training data."""

import math
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from pandas import DataFrame
from pytorch_lightning import Callback, LightningModule, Trainer

from lit_hier.callbacks.result import Result, draw_figures
from lit_hier.callbacks.tensorboard import log_curves
from lit_hier.data import RHMDataModule
from lit_hier.errors import InputError
from lit_hier.figures import Panel, curve_figure
from lit_hier.io.figures import FigureFormat
from lit_hier.io.tables import write_table
from lit_hier.metrics import average, crossing, wilson
from lit_hier.modules import ClassifiersTask
from lit_hier.nn import evaluate
from lit_hier.processes import TimeAxis
from lit_hier.rhm.parameters import GrammarParameters

_AXIS: Final = TimeAxis("training data", "training data P", "P", math.inf)


class LearningCurve(Callback):
    r"""The test error of each network of a `ClassifiersTask` against its number of training data.

    After `fit`, and in `test`, every network classifies the data module's test split with its best
    weights, as analyses run it (`lit_hier.nn.evaluate`). The number of data that deep networks
    need is predicted to be :math:`P^* = n m^L` (Cagnetta et al., "How Deep Neural Networks Learn
    Compositional Data: The Random Hierarchy Model", 2023); half of the drop from chance is where
    the error, interpolated linearly in ln P, falls to :math:`(1 - 1/n) / 2`.

    Networks of one run share training data, test data and a grammar. Errors are therefore those of
    the test data alone; for those of networks and of grammars, average the runs of a study.

    Writes into the logger's directory:

    - `learning_curve.csv` with columns network (its class), num_train, best_step (of the weights),
      error (share of the test data that is misclassified), sem (its standard error over test
      data; NaN where it is 0 or 1), low, high (Wilson's 95 % confidence interval), count (test
      data), chance (1 - 1/n), sample_complexity (n m^L), half (the number of training data at half
      of the drop; NaN if the error does not fall so far, or no network is above).
    - `learning_curve.png`, and in `figure_format`.

    Logs to TensorBoard the curve `learning_curve/error` and the figure `learning_curve`.

    Attributes:
        result: Table and figure, also without files; empty on other ranks than zero.

    Raises:
        InputError: At the start, the model is not a `ClassifiersTask`, or its data are not of an
            `RHMDataModule` with test data.
    """

    name = "learning_curve"
    figure_format: FigureFormat = "png"
    """In which figures are written beside PNG; the command line's option has this name."""

    def __init__(self) -> None:
        self.result = Result()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the model and the data."""
        if stage not in ("fit", "test"):
            return
        self.result = Result()
        if not isinstance(pl_module, ClassifiersTask):
            raise InputError(
                "model: LearningCurve measures networks of several training sets, not"
                f" {type(pl_module).__name__}; use it with a ClassifiersTask"
            )
        data = _datamodule(trainer)
        if not isinstance(data, RHMDataModule):
            raise InputError("data: LearningCurve needs the grammar; give an RHMDataModule")
        if not data.sizes["test"]:
            raise InputError("num_test is 0; give at least 1, or leave out LearningCurve")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, write and draw, unless training was a dry run."""
        if not getattr(trainer, "fast_dev_run", False):
            self._measure(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, write and draw."""
        self._measure(trainer, pl_module)

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ClassifiersTask)
        counts = _count_errors(trainer, pl_module)
        folder = trainer.log_dir  # a collective operation: every process must query it
        if not trainer.is_global_zero:
            return
        table = _tabulate(pl_module, GrammarParameters.of(_datamodule(trainer).rhm), counts)
        self.result.add_table(self.name, table)
        if trainer.logger is None:
            folder = None
        if folder is not None:
            write_table(folder, self.name, table)
        curves = {f"{self.name}/error": {"error": table["error"].to_numpy()}}
        log_curves(trainer.loggers, curves, _AXIS, pl_module.num_train)
        draw_figures(
            self.name,
            lambda: {self.name: _draw(table)},
            self.result,
            folder,
            self.figure_format,
            trainer.loggers,
        )


def _count_errors(trainer: Trainer, task: ClassifiersTask) -> NDArray[np.int64]:
    """Count misclassified test data and all of them, for each network: shape (networks, 2)."""
    networks = [task.select_network(k) for k in range(len(task.num_train))]
    modes = {module: module.training for module in task.modules()}
    task.eval()
    counts = torch.zeros(len(networks), 2, dtype=torch.int64, device=task.device)
    for raw in _datamodule(trainer).test_dataloader():
        batch = trainer.strategy.batch_to_device(raw, dataloader_idx=0)
        if len(label := batch["label"]):
            wrong = [(evaluate(net, batch["x"]).argmax(-1) != label).sum() for net in networks]
            counts[:, 0] += torch.stack(wrong)
            counts[:, 1] += len(label)
    for module, mode in modes.items():
        module.training = mode
    total = trainer.strategy.reduce(counts, reduce_op="sum")
    assert isinstance(total, torch.Tensor)
    return total.cpu().numpy()


def _tabulate(
    task: ClassifiersTask, grammar: GrammarParameters, counts: NDArray[np.int64]
) -> DataFrame:
    chance = 1 - 1 / grammar.n
    rows = []
    for k, (num_train, (wrong, count)) in enumerate(
        zip(task.num_train, counts.tolist(), strict=True)
    ):
        is_wrong = (np.arange(count) < wrong).astype(np.float64)
        one = np.zeros(count, dtype=np.int64)
        found = average(is_wrong, one, shares=True)
        low, high = wilson(is_wrong, one)
        best = int(task.best_step[k])
        rows.append(
            {
                "network": type(task.networks[0]).__name__,
                "num_train": num_train,
                "best_step": best if best >= 0 else task.global_step,
                "error": float(found.mean),
                "sem": float(found.sem),
                "low": float(low),
                "high": float(high),
                "count": count,
                "chance": chance,
                "sample_complexity": grammar.n * grammar.m**grammar.L,
            }
        )
    table = DataFrame(rows)
    log_size, error = np.log(table["num_train"].to_numpy(float)), table["error"].to_numpy()
    return table.assign(half=float(np.exp(crossing(log_size, error, chance / 2))))


def _draw(table: DataFrame) -> Any:
    name = str(table["network"].iloc[0])
    panel = Panel(
        "test error",
        {name: table["error"]},
        bands={name: table["sem"]},
        chance={"chance": float(table["chance"].iloc[0])},
    )
    return curve_figure(
        table["num_train"],
        "training data P",
        [panel],
        "",
        float(table["sample_complexity"].iloc[0]),
        log=True,
        critical_label="$n m^L$",
    )


def _datamodule(trainer: Trainer) -> Any:
    return getattr(trainer, "datamodule", None)
