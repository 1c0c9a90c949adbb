"""Training classifiers on nested sets of data of the Random Hierarchy Model."""

from collections.abc import Callable
from functools import partial

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from lit_hier.data.batches import Batch
from lit_hier.errors import InputError
from lit_hier.modules.nested_task import NestedTask
from lit_hier.modules.task import Stage
from lit_hier.nn import HierarchicalCNN, evaluate


class ClassifiersTask(NestedTask):
    """Trains a classifier for each entry of `data.num_train`, by cross-entropy.

    See `NestedTask` for how the networks are trained, and what is logged: here, `loss` (nats) and
    `accuracy`. `LearningCurve` writes their test errors; `TrainedClassifiers` restores them.

    Args:
        num_features: v; the command line takes this and the next four from the data module.
        num_classes: n, at least 2.
        tuple_size: s.
        num_layers: L.
        num_train: Training data of each network, ascending.
        network: The class of the networks, or anything that, called with v, n, s and L, returns a
            module that maps `x` of a batch, (B, v, s**L), to logits (B, n).
        optimizer: Any optimizer of torch, Adam by default.
        lr_scheduler: Any scheduler of torch, stepped after each step of the optimizer.
        network_seed: Seed of the initial weights, at least 0.
        trained_on: The largest training set, recorded with the weights; the command line takes it
            from the data module (`RHMDataModule.training_set`).

    Raises:
        InputError: `num_classes`, `num_train`, `network_seed` or an argument of the network is out
            of range.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        tuple_size: int,
        num_layers: int,
        num_train: list[int],
        network: Callable[[int, int, int, int], nn.Module] = HierarchicalCNN,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        network_seed: int = 0,
        trained_on: str = "",
    ) -> None:
        if num_classes < 2:
            raise InputError(f"num_classes is {num_classes}; give at least 2")
        super().__init__(
            "classifiers",
            {
                "num_features": num_features,
                "num_classes": num_classes,
                "tuple_size": tuple_size,
                "num_layers": num_layers,
            },
            partial(network, num_features, num_classes, tuple_size, num_layers),
            num_train,
            optimizer,
            lr_scheduler,
            network_seed,
            trained_on=trained_on,
            accuracy=MulticlassAccuracy(num_classes, average="micro"),
        )

    def compute_loss(
        self, network: nn.Module, batch: Batch, stage: Stage, line: str
    ) -> tuple[Tensor, int]:
        """Return a network's cross-entropy summed over a batch, nats; update its accuracy.

        Raises:
            InputError: The network fails or does not return logits.
        """
        label: Tensor = batch["label"]
        shape = (len(label), self.sizes["num_classes"])
        logits = evaluate(network, batch["x"], shape, grad=stage == "train")
        if len(label):  # a process may have no samples of a batch
            self.metric(f"{stage}/accuracy{line}").update(logits, label)
        return cross_entropy(logits, label, reduction="sum"), len(label)
