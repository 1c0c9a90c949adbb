"""How often a network predicts the same class before and after forward-backward."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn

from lit_hier.callbacks.axes import Against, Floats
from lit_hier.callbacks.curves import Columns, Line, Results
from lit_hier.callbacks.networks import NetworkAnalysis
from lit_hier.data.hierarchy import read_hierarchy
from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.figures import Panel
from lit_hier.io.devices import constant
from lit_hier.metrics import average, count_data, wilson
from lit_hier.modules import ForwardBackwardModule
from lit_hier.nn import evaluate
from lit_hier.nn.self_check import Checked, check_network


class ClassKept(NetworkAnalysis):
    """Fraction of data whose predicted class stays the same, per inversion time.

    The class that a classifier predicts for x_reversed is compared with the one that it predicts
    for x_start, whether or not that is correct. Given a tree over the classes, such as WordNet's,
    their ancestors at each depth are compared too, the root's children first.

    Writes, besides what `CurveAnalysis` lists:

    - `class_kept.csv` with columns process, time, level (`depth 1`, ..., `class`), level_index,
      kept, sem (standard error; NaN where all data are kept, or none), count, kept_low and
      kept_high (95 % confidence interval, see `lit_hier.metrics.wilson`), sem_within (within the
      grammars of an ensemble, see `lit_hier.metrics.average`; `sem` for other data).
    - `class_kept.npz` with the arrays `kept` (0 or 1; time, curve, index), `time`, `curve`,
      `index`, `source`.

    Logs to TensorBoard the curve `class_kept/kept`.

    Args:
        network: A classifier that maps `x` of the data module's batches to logits (B, classes).
        hierarchy: A file with the tree, see `lit_hier.data.hierarchy`; its leaves have the names
            of the data module's `classes`, for ImageNet WordNet's identifiers.
        against: The x axis, see `CurveAnalysis`.
        name: Replaces `class_kept` in files and tags: for several networks in one run.

    Raises:
        InputError: The hierarchy cannot be read, or the network is not a classifier.
    """

    name = "class_kept"
    quantities = ("kept",)
    logged = ("kept",)
    legend = "level"

    def __init__(
        self,
        network: nn.Module,
        hierarchy: str | None = None,
        against: Against = "time",
        name: str = "class_kept",
    ) -> None:
        super().__init__(network, against, name)
        self.hierarchy = hierarchy
        self._ancestors = torch.empty(0, 0, dtype=torch.int64)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the hierarchy; reject runs as the base class does."""
        datamodule = getattr(trainer, "datamodule", None)
        if stage == "predict" and self.hierarchy is not None and datamodule is not None:
            classes = getattr(datamodule, "classes", [])
            if not classes:
                raise InputError(
                    f"hierarchy: {type(datamodule).__name__} has no class names; leave it out"
                )
            self._ancestors = read_hierarchy(self.hierarchy, classes)
        super().setup(trainer, pl_module, stage)

    def check(self, x: Tensor) -> list[Checked]:
        """Prove that each sample's logits depend on it alone."""
        self._check_logits(evaluate(self.network, x))
        return check_network(self.network, self.network, [], x)

    def lines(self) -> list[Line]:
        """List the depths of the hierarchy, then the class itself."""
        source_indices = range(len(self.sources))
        names = [f"depth {k + 1}" for k in range(len(self._ancestors))] + ["class"]
        return [
            Line(name, {"level": name, "level_index": k}, k, k, source_indices)
            for k, name in enumerate(names)
        ]

    def num_groups(self, curve: int) -> int:
        """Count the classes at a depth, given the index of its curve; known once it has run."""
        if curve < len(self._ancestors):
            return len(self._ancestors[curve].unique())
        return self.checked[-1].shape[1]

    def _check_logits(self, logits: Tensor) -> None:
        if logits.ndim != 2:
            raise InputError(
                f"network: {type(self.network).__name__} is not a classifier: its output has shape"
                f" {tuple(logits.shape)}; give a network whose output is logits (B, classes)"
            )
        if self.hierarchy is not None and logits.shape[1] != self._ancestors.shape[1]:
            raise InputError(
                f"network: it has {logits.shape[1]} logits, but the hierarchy is over the"
                f" {self._ancestors.shape[1]} classes of the data; leave it out, or give"
                " class_offset if other logits come first"
            )

    def _classify(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Predict each datum's class, and look up its ancestors.

        Returns:
            These, int64, shape (levels, B), and whether its logits are finite, shape (B,).
        """
        logits = evaluate(self.network, x)
        self._check_logits(logits)
        predicted, finite = logits.argmax(1), logits.isfinite().all(1)
        if not len(self._ancestors):
            return predicted[None], finite
        ancestors = constant(self._ancestors, predicted.device)[:, predicted]
        return torch.cat((ancestors, predicted[None])), finite

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Compare predictions at every time: shape (1, T, levels, B)."""
        start, of_start = self._classify(record.x_start)
        kept, finite = [], [of_start]
        for x in record.x_reversed:
            found, of_found = self._classify(x)
            kept.append(found == start)
            finite.append(of_found)
        # All at once: reading a value waits for a GPU.
        if len(failed := (~torch.stack(finite)).nonzero()):
            k, sample = failed[0].tolist()
            place = f"{self.axis.symbol} = {self.times[k - 1]:g}" if k else "the start"
            raise InputError(
                f"network: {self.name}: its logits are NaN or infinite for sample"
                f" {int(record.index[sample])} at {place}; check the weights and the samples"
            )
        return torch.stack(kept)[None].float()

    def summarize(self, samples: Floats, source_indices: NDArray[np.int64], line: Line) -> Columns:
        """Compute the fraction, its errors, its confidence interval and the count."""
        kept = average(samples[0], source_indices, shares=True, crossed=self.crossed)
        low, high = wilson(samples[0], source_indices, self.crossed)
        return {
            "kept": kept.mean,
            "sem": kept.sem,
            "count": count_data(source_indices, self.crossed),
            "kept_low": low,
            "kept_high": high,
            "sem_within": kept.sem_within,
        }

    def panels(self, results: Results) -> Sequence[Panel]:
        """Draw the fractions, with their standard errors."""
        num_logits = self.checked[-1].shape[1]
        return [
            Panel(
                "predicted class kept",
                results.curves("kept"),
                bands=results.curves("sem"),
                chance={f"chance, 1/{num_logits}": 1 / num_logits},
            )
        ]
