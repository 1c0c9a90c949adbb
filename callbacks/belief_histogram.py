"""The distribution of beliefs at one inversion time."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pandas import DataFrame
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import one_hot

from lit_hier.callbacks.analysis import Analysis, find_cache
from lit_hier.callbacks.axes import Floats
from lit_hier.callbacks.beliefs import MESSAGES, belief_in_truth, latents_of, messages_of
from lit_hier.diffusion import ForwardBackward, num_levels
from lit_hier.errors import InputError
from lit_hier.figures import histogram_figure
from lit_hier.inference.theory import predict
from lit_hier.io.devices import download
from lit_hier.metrics import Histogram, SampleTable, average
from lit_hier.modules import ForwardBackwardModule


class BeliefHistogram(Analysis):
    """Histograms of all entries of all messages, of true and of other symbols (Fig. 11).

    Writes:

    - `belief_histogram.csv` with columns process, time, message (upward, downward or marginal),
      level, low, high (the edges of the bin), true, other (the number of probabilities of true and
      of other symbols in the bin).
    - `belief_histogram_deviation.csv` with columns message, level, mean (of the beliefs in true
      symbols, over data, then over grammars), theory (see `lit_hier.inference.theory`; NaN where
      none applies), distance, sem (standard error of `mean`), sem_within, grammars, grammar_std,
      count: see `lit_hier.metrics.average`; theory_sem (of `theory`; 0 for a closed form).
    - `belief_histogram.png` of the lowest levels.

    Logs to TensorBoard the figure `belief_histogram`.

    The sampler must return messages: `messages: true`.

    Args:
        time: The inversion time, one of the sampler's.
        num_bins: Bins of [0, 1].
        num_levels: Levels in the figure, leaves first.

    Raises:
        InputError: `num_bins` or `num_levels` is less than 1; in `setup`, `time` is not one of the
            sampler's.
    """

    name = "belief_histogram"
    suffixes = ("", "_deviation")
    needs_latents = True
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
        """Find the time; reject runs as `Analysis` does."""
        super().setup(trainer, pl_module, stage)
        if stage == "predict":
            if self.time not in self.times:
                raise InputError(f"time is {self.time:g}; give one of the sampler's times")
            self._time = self.times.index(self.time)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Allocate the histograms, and the table of each datum's means."""
        shape = (len(MESSAGES), num_levels(self.sources[0]))
        self._histogram = Histogram(*shape, 2, num_bins=self.num_bins)
        num = self.num_samples(trainer)
        self._means = SampleTable(*shape, num_samples=num)
        self._source_indices = SampleTable(num_samples=num)

    def update(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> None:
        """Count a batch."""
        tree_start = latents_of(record).tree_start
        means, values, masks = [], [], []
        for tree in messages_of(record):
            for beliefs, true in zip(tree, tree_start, strict=True):
                values.append(beliefs[self._time])
                masks.append(one_hot(true, beliefs.shape[-1]).bool())
                means.append(belief_in_truth(values[-1][None], true)[0].double().mean(-1))
        index, by_level, *parts = download([record.index, torch.stack(means), *values, *masks])
        for place, (beliefs, is_true) in enumerate(
            zip(parts[: len(values)], parts[len(values) :], strict=True)
        ):
            message, level = divmod(place, len(tree_start))
            for kind, mask in enumerate((is_true, ~is_true)):
                self._histogram.update((message, level, kind), beliefs[mask])
        self._means.update(index, by_level.unflatten(0, (len(MESSAGES), -1)))
        self._source_indices.update(index, torch.full_like(index, record.source_index))

    def compute(self, pl_module: ForwardBackwardModule) -> tuple[Tensor, Floats, NDArray[Any]]:
        """Gather all processes: counts, means of each datum, and source indices."""
        counts = self._histogram.to(pl_module.device).compute().cpu()
        tables = (self._means, self._source_indices)
        (_, means), (_, groups) = (table.to(pl_module.device).compute() for table in tables)
        return counts, means, groups.astype(np.int64)

    def write(self, trainer: Trainer, measured: tuple[Tensor, Floats, NDArray[Any]]) -> None:
        """Add the tables."""
        counts, groups = measured[0].numpy(), measured[2]
        found = average(measured[1], groups, self.is_random)
        mean = found.mean
        edges = np.linspace(0, 1, self.num_bins + 1)
        names = np.array(MESSAGES)
        message, level, k = np.indices((*mean.shape, self.num_bins)).reshape(3, -1)
        columns = {
            "process": self.axis.process,
            "time": self.time,
            "message": names[message],
            "level": level,
            "low": edges[k],
            "high": edges[k + 1],
            "true": counts[message, level, 0, k],
            "other": counts[message, level, 1, k],
        }
        self.add_table(self.name, DataFrame(columns))
        cache = find_cache(trainer, "theory")
        predicted = predict(self.sources[0], self.noise_process, [self.time], cache)
        if not self.uniform_prior:
            predicted = predicted.upward_only()
        theory, theory_sem = (
            np.stack([getattr(predicted, f"{name}{suffix}")[0] for name in MESSAGES])
            for suffix in ("", "_error")
        )
        message, level = np.indices(mean.shape).reshape(2, -1)
        deviations = {
            "message": names[message],
            "level": level,
            "mean": mean.ravel(),
            "theory": theory.ravel(),
            "distance": np.abs(mean - theory).ravel(),
            "sem": found.sem.ravel(),
            "sem_within": found.sem_within.ravel(),
            "grammars": len(np.unique(groups)),
            "grammar_std": found.grammar_std.ravel(),
            "count": len(groups),
            "theory_sem": theory_sem.ravel(),
        }
        self.add_table(f"{self.name}_deviation", DataFrame(deviations))
        shown = slice(0, self.num_levels)
        self.draw_later(
            lambda: {
                self.name: histogram_figure(
                    counts[:, shown],
                    mean[:, shown],
                    theory[:, shown],
                    [f"{message} belief" for message in MESSAGES],
                    f"{self.axis.label} = {self.time:g}",
                    predicted.name,
                )
            }
        )
