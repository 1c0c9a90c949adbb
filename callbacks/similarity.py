"""Similarity of a network's activations before and after forward-backward."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pandas import DataFrame
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lit_hier.callbacks.agreement import (
    accuracy_holds,
    describe_numbers,
    describe_permutation,
)
from lit_hier.callbacks.axes import Against, Floats
from lit_hier.callbacks.curves import Columns, Line, Results, transpose
from lit_hier.callbacks.inversions import inversion_tables
from lit_hier.callbacks.networks import NetworkAnalysis
from lit_hier.callbacks.reference import Reference, load_or_compute
from lit_hier.diffusion import IMAGE_COUNTS, ForwardBackward
from lit_hier.errors import InputError
from lit_hier.figures import Panel
from lit_hier.io.devices import upload
from lit_hier.metrics import (
    Per,
    SimilarityTo,
    Standardization,
    StandardizationKind,
    check_bandwidth,
    check_standardization,
    correct_baseline,
    summarize,
)
from lit_hier.modules import ForwardBackwardModule
from lit_hier.nn import Probe
from lit_hier.nn.self_check import Checked
from lit_hier.rhm.parameters import GrammarParameters


class ActivationSimilarity(NetworkAnalysis):
    """Standardized cosine similarity of hidden layers per inversion time (Figs. 2, 8, 16).

    Before the first batch, the mean and standard deviation of every channel over the samples and
    positions of a reference set (of every unit, for a layer without positions or with `per: unit`)
    are computed exactly, or loaded from an earlier run, see `lit_hier.callbacks.reference`. Each
    layer's activations for x_start and for x_reversed are then centered and scaled by these,
    flattened per sample, and compared by the cosine of their angle. The captions of Figs. 2 and 16
    say that activations are standardized and that curves are the mode over data; that of Fig. 8
    says neither.

    The baseline compares x_start with the x_reversed of another sample, the partner: the next one
    of the batch, and for the last one the first. Batches are those of the data module's plan, each
    of one grammar, so that partners do not depend on the number of processes; with another batch
    size, the last samples of batches have other partners. An only sample has none: NaN.

    On the RHM a share of the samples comes back identical, so that the mode depends on their
    number and on the bandwidth, and the mean is drawn first; for other data the mode.

    The data module's reference batches are dictionaries with the network's input `x` and the
    class `label`, and its data loader's sampler is a `PlannedBatches`.

    Writes, besides what `CurveAnalysis` lists:

    - `similarity.csv` with columns process, time, layer, layer_index, mode, mean, median, std
      (over samples), sem (standard error of `mean`), count, sem_within (the same within these
      grammars), mode_sem (standard error of `mode`), bandwidth, identical (share of the samples
      whose x_reversed equals x_start in every element), identical_low and identical_high (its 95 %
      confidence interval), see `lit_hier.metrics.summarize`, baseline (mean cosine with the
      partner), baseline_sem, corrected ((mean - baseline) / (1 - baseline)) and corrected_sem, see
      `lit_hier.metrics.correct_baseline`.
    - `similarity_inversion.csv`, for several layers, with a row per layer but the first: process,
      layer, layer_index, inversion (where its mean falls below that of the first layer, on the x
      axis; NaN if that is not significant), inversion_sem, difference, difference_sem,
      difference_time, inverted: see `lit_hier.callbacks.inversions.inversion_table`.
    - `similarity.npz` with the arrays `similarity` and `baseline` (time, curve, index),
      `identical` (true or false; time, index), `time`, `curve`, `index`, `source`.
    - `similarity_reference.csv` with columns split, count, skipped, converted, enlarged, constant,
      rotated, top1, top5 (NaN if the network is not a classifier, the data have no classes, or
      these are named and more or fewer than the logits), constant_channels (of units with
      `per: unit`).

    The figure has the curves of mean and mode with bands of one standard error, and the baseline,
    dotted. Logs to TensorBoard the curves `similarity/mean`, `similarity/mode`,
    `similarity/baseline` and `similarity/corrected` and, for a classifier, the scalars
    `reference/accuracy` and `reference/top5`: a check that weights and data belong together. Warns
    of another number of logits than classes, and where a permutation of the classes makes the
    accuracy far higher.

    Args:
        network: A network that maps `x` of the data module's batches to logits (B, classes), or to
            an output of another shape if it is not a classifier.
        layers: Patterns of layer names, see `lit_hier.nn.match_layers`; if omitted, the layers
            that the paper studies, for the networks of the paper.
        reference: The data module's split from which the standardization is computed.
        standardization: `paper`, `released` or `none` (raw activations), see
            `lit_hier.metrics.functional.similarity`.
        against: The x axis, see `CurveAnalysis`.
        name: Replaces `similarity` in files and tags: for several networks in one run.
        channels_last: Whether channels are on the last axis of the layers' outputs (true) or on
            axis 1 (false); by default that is found out, layer by layer.
        bandwidth: Of the density whose maximum is the mode, in units of the cosine, 5e-4 to 1; by
            default Silverman's for each time and layer, see `lit_hier.metrics.mode_bandwidth`.
        per: What has a mean and a standard deviation of its own: each `channel` over all
            positions, as in the paper, or each `unit`, a channel at a position.

    Raises:
        InputError: A pattern matches no layer, or a bandwidth, a standardization or `per` is not
            allowed; during the run, `x` does not fit the network, an activation is NaN or
            infinite, or the statistics of all units do not fit into memory.
    """

    name = "similarity"
    suffixes = ("", "_deviation", "_inversion", "_reference")
    quantities = ("similarity", "baseline", "identical")
    logged = ("mean", "mode", "baseline", "corrected")
    legend = "layer"

    def __init__(
        self,
        network: nn.Module,
        layers: list[str] | None = None,
        reference: Literal["val", "test", "predict"] = "test",
        standardization: StandardizationKind = "paper",
        against: Against = "time",
        name: str = "similarity",
        channels_last: bool | None = None,
        bandwidth: float | None = None,
        per: Per = "channel",
    ) -> None:
        super().__init__(network, against, name)
        check_bandwidth(bandwidth)
        check_standardization(standardization, per)
        self.probe = Probe(network, layers, channels_last)
        self.reference = reference
        self.standardization = standardization
        self.bandwidth = bandwidth
        self.per = per
        self.standardizations: dict[str, Standardization] = {}

    def lines(self) -> list[Line]:
        """List the layers, in the network's order."""
        source_indices = range(len(self.sources))
        return [
            Line(name, {"layer": name, "layer_index": k}, k, k, source_indices)
            for k, name in enumerate(self.probe.layers)
        ]

    def check(self, x: Tensor) -> list[Checked]:
        """Prove that the layers can be measured, and find their axes."""
        return self.probe.check(x)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reject runs, and find the layers' axes, as the base class does."""
        super().setup(trainer, pl_module, stage)
        self.probe.checked = self.checked
        if stage == "predict" and len(shape := self.checked[-1].shape) == 2:
            line = describe_numbers(shape[1], *self._classes())
            if line:
                rank_zero_warn(line)

    def _classes(self) -> tuple[int, list[str]]:
        """Return the number of the data's classes, 0 if unknown, and their names, if any."""
        names = getattr(self.datamodule, "classes", None) or ()
        return getattr(self.datamodule, "num_classes", 0), list(map(str, names))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute or load the statistics of the reference set."""
        super().on_predict_start(trainer, pl_module)
        reference = load_or_compute(trainer, self.probe, self.datamodule, self.reference, self.per)
        self._num_constant = 0
        for layer, moments, flat in zip(
            self.probe.layers, reference.moments, reference.without_positions, strict=True
        ):
            pooled = flat and self.per == "channel"
            standardization = Standardization.of(moments, self.standardization, pooled)
            self._num_constant += standardization.num_constant
            self.standardizations[layer] = Standardization(
                *(upload(part, pl_module.device) for part in standardization)
            )
        self._report(trainer, reference)

    def _report(self, trainer: Trainer, reference: Reference) -> None:
        """Report the accuracy on the reference set; warn if it does not hold, or is chance."""
        count, num_labeled, *image_counts = reference.counts.tolist()
        top1, top5, permuted = reference.accuracy.tolist()
        num_logits = reference.num_logits
        if num_logits and (line := describe_permutation(num_labeled, top1, permuted)):
            rank_zero_warn(line)
        if not accuracy_holds(num_logits, *self._classes()):
            top1 = top5 = math.nan
        constant = self._num_constant
        self._reference_columns = {
            "split": [self.reference],
            "count": [count],
            **{name: [number] for name, number in zip(IMAGE_COUNTS, image_counts, strict=True)},
            "top1": [top1],
            "top5": [top5],
            "constant_channels": [constant],
        }
        accuracy = ""
        if not math.isnan(top1):
            accuracy = f", top-1 accuracy {top1:.2%}, top-5 accuracy {top5:.2%}"
            if top1 < min(2 / num_logits, (1 + 1 / num_logits) / 2):
                rank_zero_warn(
                    f"reference/accuracy is {top1:.2%}, close to chance: do the weights belong to"
                    " these data and their classes?"
                )
            of = f" ({self.name})" * (self.name != type(self).name)
            self.numbers = {
                f"{name}{of}": (share, _share_error(share, num_labeled))
                for name, share in (("accuracy", top1), ("top5", top5))
            }
            for logger in trainer.loggers:
                logger.log_metrics({"reference/accuracy": top1, "reference/top5": top5}, step=0)
        rank_zero_info(
            f"reference: {count} samples of the {self.reference} split{accuracy}, {constant}"
            " constant channels"
        )

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Compare x_start with x_reversed at every time: shape (3, T, layers, B)."""
        similarity_to: dict[str, SimilarityTo] = {}
        cosines: dict[str, list[Tensor]] = {name: [] for name in self.probe.layers}

        def start(name: str, output: Tensor) -> None:
            similarity_to[name] = SimilarityTo(output, self.standardizations[name])

        def compare(name: str, output: Tensor) -> None:
            cosines[name].append(similarity_to[name].with_partners(output))

        self.probe(record.x_start, start)
        for k, _ in enumerate(pl_module.track(record.times.tolist())):
            self.probe(record.x_reversed[k], compare)
        # Shape (T, layers, 2, B): with the sample itself, and with its partner.
        found = torch.stack([torch.stack(values) for values in cosines.values()], dim=1)
        similarity, baseline = found.unbind(2)
        if not similarity.isfinite().all():
            k, layer, sample = (~similarity.isfinite()).nonzero()[0].tolist()
            raise InputError(
                f"network: {self.probe.layers[layer]} outputs NaN or infinity for sample"
                f" {int(record.index[sample])} at {self.axis.symbol} = {self.times[k]:g} or at the"
                " start; check the weights and the samples"
            )
        same = [(x == record.x_start).flatten(1).all(1) for x in record.x_reversed]
        identical = torch.stack(same).to(similarity)[:, None].expand_as(similarity)
        return torch.stack((similarity, baseline, identical))

    def arrays(self, values: Floats) -> Mapping[str, NDArray[Any]]:
        """Name the measurements; whether samples are identical does not depend on the layer."""
        similarity, baseline, identical = values
        return {
            "similarity": similarity,
            "baseline": baseline,
            "identical": identical[:, 0].astype(bool),
        }

    def tables(self, results: Results) -> dict[str, DataFrame]:
        """Add the table on the reference set, and where layers cross the first one."""
        tables = super().tables(results)
        tables[f"{self.name}_reference"] = DataFrame(self._reference_columns)
        return tables | inversion_tables(self, results, 0)

    def summarize(self, samples: Floats, source_indices: NDArray[np.int64], line: Line) -> Columns:
        """Compute averages, the mode, the share of identical samples and the baseline."""
        similarity, baseline, identical = samples
        rows = [
            summarize(cosines, source_indices, same > 0, self.bandwidth, crossed=self.crossed)
            for cosines, same in zip(similarity, identical, strict=True)
        ]
        corrected = correct_baseline(similarity, baseline, source_indices, self.crossed)
        return transpose(rows) | corrected

    def panels(self, results: Results) -> Sequence[Panel]:
        """Draw the mean next to the mode: on the RHM the mean first, for other data the mode.

        Bands are one standard error.
        """
        baseline = results.curves("baseline")
        panels = [
            Panel(
                f"cosine similarity, {column} over data",
                results.curves(column),
                bands=results.curves(error),
                compared=baseline,
                compared_label="another sample",
            )
            for column, error in (("mean", "sem"), ("mode", "mode_sem"))
        ]
        on_grammars = all(isinstance(source, GrammarParameters) for source in self.sources)
        return panels if on_grammars else panels[::-1]


def _share_error(share: float, count: int) -> float:
    """Return the standard error of a share; NaN where it is 0 or 1, or nothing was counted."""
    return math.sqrt(share * (1 - share) / count) if count and 0 < share < 1 else math.nan
