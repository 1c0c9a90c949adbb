"""How the beliefs of belief propagation are distributed at one inversion time."""

from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import one_hot

from lit_hier.callbacks.analysis import Analysis
from lit_hier.callbacks.beliefs import MESSAGES, beliefs_of
from lit_hier.callbacks.writers import log_figure, write_csv, write_figure
from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.figures.plots import histogram_figure
from lit_hier.metrics import Histogram
from lit_hier.modules import ForwardBackwardModule


class BeliefHistogram(Analysis):
    """Histograms of all entries of all messages of a level, true symbols apart (Fig. 11).

    Writes `belief_histogram.csv` with columns process, time, message (upward, downward or
    marginal), level, low, high (the bin's ends), true, other (how many probabilities of true and
    of other symbols lie there), `belief_histogram_deviation.csv` with columns message, level, mean
    (of the true symbols' beliefs), theory (mean field), distance, and `belief_histogram.png` of
    the lowest levels. Logs the picture to TensorBoard.

    The sampler must give messages: `messages: true`.

    Args:
        time: The inversion time; it must be one of the sampler's.
        num_bins: Bins of [0, 1].
        num_levels: Levels that the picture shows, leaves first.

    Raises:
        InputError: There are no bins or no levels; later, the sampler does not stop at `time`.
    """

    name = "belief_histogram"
    needs_messages = True

    def __init__(self, time: float = 0.5, num_bins: int = 64, num_levels: int = 5) -> None:
        super().__init__()
        for argument, value in (("num_bins", num_bins), ("num_levels", num_levels)):
            if value < 1:
                raise InputError(f"{argument} is {value}; give at least 1")
        self.time = time
        self.num_bins = num_bins
        self.num_levels = num_levels

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the time; refuse what `Analysis` does."""
        super().setup(trainer, pl_module, stage)
        if stage == "predict":
            if self.time not in self.times:
                raise InputError(f"time is {self.time:g}; give one of the sampler's times")
            self._number = self.times.index(self.time)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        shape = (len(MESSAGES), self.sources[0].num_levels, 2)
        self._histogram = Histogram(*shape, num_bins=self.num_bins)

    def update(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> None:
        """Count a batch."""
        given = beliefs_of(record)
        assert record.tree_start is not None
        for message, tree in enumerate(given):
            for level, (beliefs, true) in enumerate(zip(tree, record.tree_start, strict=True)):
                values = beliefs[self._number]
                is_true = one_hot(true, values.shape[-1]).bool()
                for kind, mask in enumerate((is_true, ~is_true)):
                    self._histogram.update((message, level, kind), values[mask].cpu())

    def compute(self, pl_module: ForwardBackwardModule) -> tuple[Tensor, Tensor]:
        """Add up the processes' counts."""
        counts, means = self._histogram.to(pl_module.device).compute()
        return counts.cpu(), means.cpu()

    def write(self, trainer: Trainer, folder: str, measured: tuple[Tensor, Tensor]) -> None:
        """Write the table and the picture."""
        counts, means = measured
        edges = np.linspace(0, 1, self.num_bins + 1).tolist()
        rows: list[dict[str, Any]] = [
            {
                "process": self.axis.process,
                "time": self.time,
                "message": MESSAGES[message],
                "level": level,
                "low": edges[k],
                "high": edges[k + 1],
                "true": int(counts[message, level, 0, k]),
                "other": int(counts[message, level, 1, k]),
            }
            for message, level, k in np.ndindex(*counts.shape[:2], self.num_bins)
        ]
        write_csv(folder, self.name, rows)
        predicted = [self.sources[0].theory[name][self._number] for name in MESSAGES]
        mean, theory = means[..., 0].numpy(), torch.stack(predicted).numpy()
        deviations = [
            {
                "message": MESSAGES[message],
                "level": level,
                "mean": mean[message, level],
                "theory": theory[message, level],
                "distance": abs(mean[message, level] - theory[message, level]),
            }
            for message, level in np.ndindex(*mean.shape)
        ]
        write_csv(folder, f"{self.name}_deviation", deviations)
        shown = slice(0, self.num_levels)
        figure = histogram_figure(
            counts[:, shown].numpy(),
            mean[:, shown],
            theory[:, shown],
            [f"{message} belief" for message in MESSAGES],
            f"{self.axis.label} = {self.time:g}",
        )
        write_figure(folder, self.name, figure)
        log_figure(trainer.loggers, self.name, figure)
