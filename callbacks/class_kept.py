"""How often a network finds the same class before and after the experiment."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn

from lit_hier.callbacks.curves import Floats, Line, Results
from lit_hier.callbacks.networks import NetworkAnalysis
from lit_hier.data.hierarchy import read_hierarchy
from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.figures.plots import Panel
from lit_hier.metrics import standard_error
from lit_hier.modules import ForwardBackwardModule
from lit_hier.nn import evaluate


class ClassKept(NetworkAnalysis):
    """Fraction of data whose predicted class stays the same, per inversion time.

    The class that a classifier predicts for x_reversed is compared with the one that it predicts
    for x_start, whether that is right or not. Given a tree over the classes, such as WordNet's,
    also their ancestors at each depth are compared: the root's children first.

    Writes, besides what `CurveAnalysis` lists: `class_kept.csv` with columns process, time, level
    (`depth 1`, ..., `class`), level_index, kept, sem, count; `class_kept.npz` with the arrays
    `kept` (0 or 1; time, curve, index), `time`, `curve`, `index`, `source`. Logs to TensorBoard
    the curve `class_kept/kept`.

    Args:
        network: A classifier: it takes `x` of the data module's batches and gives logits
            (B, classes).
        hierarchy: A file with the tree, see `lit_hier.data.hierarchy`; its leaves are named like
            the data module's `classes`, for ImageNet by WordNet's identifiers.
        against: See `CurveAnalysis`.
        name: Of the files and tags, in place of `class_kept`: for several networks in one run.

    Raises:
        InputError: The hierarchy cannot be read, or the network is no classifier.
    """

    name = "class_kept"
    quantities = ("kept",)
    logged = ("kept",)
    legend = "level"

    def __init__(
        self,
        network: nn.Module,
        hierarchy: str | None = None,
        against: Literal["time", "effective_noise"] = "time",
        name: str = "class_kept",
    ) -> None:
        super().__init__(network, against, name)
        self.hierarchy = hierarchy

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the hierarchy, and refuse what the base class does."""
        super().setup(trainer, pl_module, stage)
        self._ancestors = torch.empty(0, 0, dtype=torch.int64)
        if stage != "predict" or self.hierarchy is None:
            return
        classes = getattr(self.datamodule, "classes", [])
        if not classes:
            raise InputError(
                f"hierarchy: {type(self.datamodule).__name__} names no classes; leave it out"
            )
        self._ancestors = read_hierarchy(self.hierarchy, classes)

    def lines(self) -> list[Line]:
        """One per depth of the hierarchy, then the class itself."""
        sources = range(len(self.sources))
        names = [f"depth {k + 1}" for k in range(len(self._ancestors))] + ["class"]
        return [
            Line(name, {"level": name, "level_index": k}, k, k, sources)
            for k, name in enumerate(names)
        ]

    def _predict(self, x: Tensor, index: Tensor, place: str) -> Tensor:
        """Give the number of each datum's class and of its ancestors: shape (levels, B)."""
        logits = evaluate(self.network, x)
        if logits.ndim != 2:
            raise InputError(
                f"network: {type(self.network).__name__} is no classifier: it puts out"
                f" {tuple(logits.shape)}"
            )
        if self.hierarchy is not None and logits.shape[1] != self._ancestors.shape[1]:
            raise InputError(
                f"network: it tells {logits.shape[1]} classes, but the data have"
                f" {self._ancestors.shape[1]}; leave out the hierarchy"
            )
        if len(lost := index[~logits.isfinite().all(1)]):
            raise InputError(
                f"network: {self.name}: its logits are no finite numbers for sample"
                f" {int(lost[0])} {place}; check the weights and the samples"
            )
        predicted = logits.argmax(1)
        if not len(self._ancestors):
            return predicted[None]
        return torch.cat((self._ancestors.to(predicted.device)[:, predicted], predicted[None]))

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Compare predictions at every time: shape (1, T, levels, B)."""
        start = self._predict(record.x_start, record.index, "before it is turned round")
        kept = []
        for time, x in zip(self.times, record.x_reversed, strict=True):
            place = f"at {self.axis.symbol} = {time:g}"
            kept.append(self._predict(x, record.index, place) == start)
        return torch.stack(kept)[None].float()

    def summarise(
        self, samples: Floats, sources: NDArray[np.int64], time: int, line: Line
    ) -> dict[str, float]:
        """Fraction, its standard error over data, count."""
        kept = samples[0].astype(np.float64)
        return {"kept": float(kept.mean()), "sem": standard_error(kept), "count": len(kept)}

    def panels(self, results: Results) -> Sequence[Panel]:
        """Fractions, with their standard errors."""
        curves = results.curves
        return [Panel("predicted class kept", curves["kept"], bands=curves["sem"])]
