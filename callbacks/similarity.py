"""How alike a network finds data before and after the forward-backward experiment."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torchmetrics.aggregation import MeanMetric
from torchmetrics.utilities.distributed import gather_all_tensors

from callbacks.curves import CurveAnalysis, Floats, Line, Results
from lit_hier.checkpoints import check_training_set
from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.metrics import MomentTree, Standardization, channel_moments, summarize
from lit_hier.modules import ForwardBackwardModule
from lit_hier.nn import match_layers, watch_layers
from lit_hier.plots import Panel


class ActivationSimilarity(CurveAnalysis):
    """Standardised cosine similarity of hidden layers per inversion time (Figs. 2, 8, 16).

    Before the first batch the network sees a reference set, and the mean and standard deviation
    of every channel over its samples and positions (of every unit, where a layer has no
    positions) are taken, exactly. Then each layer's activations for x_start and for x_reversed
    are centred and scaled by these, flattened per sample, and compared by the cosine of their
    angle.

    The data module's reference batches are dictionaries with the network's input `x` and the
    class `label`, and its data loader's sampler is a `PlannedBatches`.

    Writes, besides what `CurveAnalysis` lists: `similarity.csv` with columns process, time,
    layer, layer_index, mode, mean, median, std, sem, count; `similarity.npz` with the arrays
    `similarity` (time, curve, index), `time`, `curve`, `index`, `source`. Logs to TensorBoard the
    curves `similarity/mode` and `similarity/mean`, and the scalar `reference/accuracy` of a
    classifier: a check that weights and data belong together.

    Args:
        network: The network looked into; it takes `x` of the data module's batches and gives
            logits (B, classes), or something of another shape if it is no classifier.
        layers: Patterns of layer names, see `lit_hier.nn.match_layers`.
        reference: The data module's split that standardises.
        against: See `CurveAnalysis`.

    Raises:
        InputError: A pattern matches no layer; later, `x` does not fit the network.
    """

    name = "similarity"
    quantities = ("similarity",)
    logged = ("mode", "mean")
    legend = "layer"

    def __init__(
        self,
        network: nn.Module,
        layers: list[str],
        reference: Literal["val", "test", "predict"] = "test",
        against: Literal["time", "effective_noise"] = "time",
    ) -> None:
        super().__init__(against)
        self.network = network.eval().requires_grad_(False)
        self.layers = match_layers(network, layers)
        self.reference = reference
        self.standardizations: dict[str, Standardization] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse runs without a reference set, and networks that were trained on other data.

        Raises:
            InputError: There is no data module; the network says what it was `trained_on`, and
                this is not the data module's `training_set`; or what the base class refuses.
        """
        super().setup(trainer, pl_module, stage)
        self.datamodule: LightningDataModule | None = getattr(trainer, "datamodule", None)
        if stage != "predict":
            return
        if self.datamodule is None:
            raise InputError(
                "data: ActivationSimilarity takes its reference set from a data module"
            )
        trained_on = getattr(self.network, "trained_on", "")
        training_set = getattr(self.datamodule, "training_set", "")
        check_training_set(trained_on, training_set, "weights")

    def lines(self) -> list[Line]:
        """One per layer, in the network's order."""
        sources = range(len(self.sources))
        return [
            Line(name, {"layer": name, "layer_index": k}, k, k, sources)
            for k, name in enumerate(self.layers)
        ]

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the statistics of the reference set."""
        super().on_predict_start(trainer, pl_module)
        self.network.to(pl_module.device)
        loader = getattr(self.datamodule, f"{self.reference}_dataloader")()
        trees = {name: MomentTree() for name in self.layers}
        accuracy = MeanMetric().to(pl_module.device)
        for number, raw in zip(loader.sampler.numbers, loader, strict=True):
            batch = trainer.strategy.batch_to_device(raw, dataloader_idx=0)

            def see(name: str, output: Tensor, number: int = number) -> None:
                trees[name].add(number, channel_moments(output))

            try:
                logits = self._run(trainer, batch["x"], see)
            except RuntimeError as error:
                if "shape" not in str(error) and "size" not in str(error).lower():
                    raise
                raise InputError(
                    f"network: {type(self.network).__name__} does not take x of shape"
                    f" {tuple(batch['x'].shape)}: {error}"
                ) from error
            is_classifier = logits.ndim == 2
            if is_classifier:
                accuracy.update((logits.argmax(1) == batch["label"]).float())
        for name, tree in trees.items():
            if trainer.world_size > 1:
                tree = MomentTree.unpack(*gather_all_tensors(tree.pack()))
            self.standardizations[name] = Standardization.of(tree.total())
        if is_classifier:
            self._report(trainer, len(loader.dataset), float(accuracy.compute()), logits.shape[1])

    def _run(self, trainer: Trainer, x: Tensor, see: Callable[[str, Tensor], None]) -> Tensor:
        """Run the network under hooks that are gone afterwards."""
        with (
            torch.inference_mode(),
            trainer.precision_plugin.forward_context(),
            watch_layers(self.network, self.layers, see),
        ):
            logits: Tensor = self.network(x.float())
        return logits

    def _report(self, trainer: Trainer, count: int, accuracy: float, num_classes: int) -> None:
        """Say whether weights and data fit together."""
        if accuracy < min(2 / num_classes, (1 + 1 / num_classes) / 2):
            rank_zero_warn(
                f"reference/accuracy is {accuracy:.2%}, close to chance: do the weights belong to"
                " this grammar and this data?"
            )
        constant = sum(standard.num_constant for standard in self.standardizations.values())
        rank_zero_info(
            f"reference: {count} data of the {self.reference} split, accuracy {accuracy:.2%},"
            f" {constant} channels that never vary"
        )
        for logger in trainer.loggers:
            logger.log_metrics({"reference/accuracy": accuracy}, step=0)

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Compare x_start with x_reversed at every time: shape (1, T, layers, B)."""
        start: dict[str, Tensor] = {}
        alike: dict[str, list[Tensor]] = {name: [] for name in self.layers}

        def see_start(name: str, output: Tensor) -> None:
            start[name] = self.standardizations[name](output)

        def see_reversed(name: str, output: Tensor) -> None:
            standardized = self.standardizations[name](output)
            alike[name].append(cosine_similarity(start[name], standardized, dim=1))

        self._run(trainer, record.x_start, see_start)
        for k, _ in enumerate(pl_module.track(record.times.tolist())):
            self._run(trainer, record.x_reversed[k], see_reversed)
        return torch.stack([torch.stack(values) for values in alike.values()], dim=1)[None]

    def summarise(
        self, samples: Floats, sources: NDArray[np.int64], time: int, line: Line
    ) -> dict[str, float]:
        """Mode, mean, median, std, sem, count."""
        return summarize(samples[0])

    def panels(self, results: Results) -> Sequence[Panel]:
        """The mode, as in the paper, beside the mean."""
        return [
            Panel("cosine similarity, mode over data", results.curves["mode"]),
            Panel("cosine similarity, mean over data", results.curves["mean"]),
        ]
