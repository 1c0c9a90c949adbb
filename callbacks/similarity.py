"""How alike a network finds data before and after the forward-backward experiment."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lit_hier.callbacks.curves import Floats, Line, Results, Row
from lit_hier.callbacks.networks import NetworkAnalysis
from lit_hier.callbacks.reference import Reference, reference_of
from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.figures.plots import Panel
from lit_hier.metrics import SimilarityTo, Standardization, StandardizationKind, summarize
from lit_hier.modules import ForwardBackwardModule
from lit_hier.nn import Probe


class ActivationSimilarity(NetworkAnalysis):
    """Standardised cosine similarity of hidden layers per inversion time (Figs. 2, 8, 16).

    Before the first batch the network sees a reference set, and the mean and standard deviation
    of every channel over its samples and positions (of every unit, where a layer has no
    positions) are computed, exactly; or they are read from an earlier run, see
    `lit_hier.callbacks.reference`. Then each layer's activations for x_start and for x_reversed
    are centred and scaled by these, flattened per sample, and compared by the cosine of their
    angle.

    The data module's reference batches are dictionaries with the network's input `x` and the
    class `label`, and its data loader's sampler is a `PlannedBatches`.

    Writes, besides what `CurveAnalysis` lists: `similarity.csv` with columns process, time,
    layer, layer_index, mode, mean, median, std, sem, count; `similarity.npz` with the arrays
    `similarity` (time, curve, index), `time`, `curve`, `index`, `source`;
    `similarity_reference.csv` with columns split, count, skipped, converted, enlarged, top1, top5
    (NaN if the network is no classifier, or the data have no classes), constant_channels. Logs to
    TensorBoard the curves `similarity/mode` and `similarity/mean`, and the scalars
    `reference/accuracy` and `reference/top5` of a classifier: a check that weights and data belong
    together.

    Args:
        network: The network looked into; it takes `x` of the data module's batches and gives
            logits (B, classes), or something of another shape if it is no classifier.
        layers: Patterns of layer names, see `lit_hier.nn.match_layers`; those that the paper looks
            into, if left out and the network is one of the paper's.
        reference: The data module's split that standardises.
        standardization: `paper` or `released`, see `lit_hier.metrics.similarity`.
        against: See `CurveAnalysis`.
        name: Of the files and tags, in place of `similarity`: for several networks in one run.

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
        layers: list[str] | None = None,
        reference: Literal["val", "test", "predict"] = "test",
        standardization: StandardizationKind = "paper",
        against: Literal["time", "effective_noise"] = "time",
        name: str = "similarity",
    ) -> None:
        super().__init__(network, against, name)
        self.probe = Probe(network, layers)
        self.reference = reference
        self.protocol = standardization
        self.standardizations: dict[str, Standardization] = {}

    def lines(self) -> list[Line]:
        """One per layer, in the network's order."""
        sources = range(len(self.sources))
        return [
            Line(name, {"layer": name, "layer_index": k}, k, k, sources)
            for k, name in enumerate(self.probe.layers)
        ]

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the statistics of the reference set."""
        super().on_predict_start(trainer, pl_module)
        taken = reference_of(trainer, self.probe, self.datamodule, self.reference)
        for layer, moments, flat in zip(
            self.probe.layers, taken.moments, taken.without_positions, strict=True
        ):
            standard = Standardization.of(moments, self.protocol, pooled=flat)
            self.standardizations[layer] = Standardization(
                *(part.to(pl_module.device) for part in standard)
            )
        self._report(trainer, taken)

    def _report(self, trainer: Trainer, taken: Reference) -> None:
        """Say whether weights and data fit together."""
        count, skipped, converted, enlarged = taken.counts.tolist()
        top1, top5 = taken.accuracy.tolist()
        constant = sum(standard.num_constant for standard in self.standardizations.values())
        self._reference_row: Row = {
            "split": self.reference,
            "count": count,
            "skipped": skipped,
            "converted": converted,
            "enlarged": enlarged,
            "top1": top1,
            "top5": top5,
            "constant_channels": constant,
        }
        accuracy = ""
        if taken.num_classes:
            accuracy = f", accuracy {top1:.2%}, among the best five {top5:.2%}"
            if top1 < min(2 / taken.num_classes, (1 + 1 / taken.num_classes) / 2):
                rank_zero_warn(
                    f"reference/accuracy is {top1:.2%}, close to chance: do the weights belong to"
                    " these data and their classes?"
                )
            for logger in trainer.loggers:
                logger.log_metrics({"reference/accuracy": top1, "reference/top5": top5}, step=0)
        rank_zero_info(
            f"reference: {count} data of the {self.reference} split{accuracy}, {constant} channels"
            " that never vary"
        )

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Compare x_start with x_reversed at every time: shape (1, T, layers, B)."""
        similarity_to: dict[str, SimilarityTo] = {}
        alike: dict[str, list[Tensor]] = {name: [] for name in self.probe.layers}

        def see_start(name: str, output: Tensor) -> None:
            similarity_to[name] = SimilarityTo(output, self.standardizations[name])

        def see_reversed(name: str, output: Tensor) -> None:
            alike[name].append(similarity_to[name](output))

        self.probe(record.x_start, see_start)
        for k, _ in enumerate(pl_module.track(record.times.tolist())):
            self.probe(record.x_reversed[k], see_reversed)
        similarity = torch.stack([torch.stack(values) for values in alike.values()], dim=1)
        if not similarity.isfinite().all():
            k, layer, sample = (~similarity.isfinite()).nonzero()[0].tolist()
            raise InputError(
                f"network: {self.probe.layers[layer]} puts out no finite numbers for sample"
                f" {int(record.index[sample])} at {self.axis.symbol} = {self.times[k]:g} or for"
                " its start; check the weights and the samples"
            )
        return similarity[None]

    def tables(self, results: Results) -> dict[str, list[Row]]:
        """The reference set, beside what the base class compares."""
        return {**super().tables(results), f"{self.name}_reference": [self._reference_row]}

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
