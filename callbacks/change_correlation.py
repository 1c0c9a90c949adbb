"""Correlated changes: how many sites change together, and over what distance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from pandas import DataFrame, concat
from pytorch_lightning import LightningModule, Trainer

from lit_hier.callbacks.analysis import Analysis, SourceGroup, check_name, find_cache
from lit_hier.callbacks.axes import Floats
from lit_hier.callbacks.changes import Changes, LeafChanges, PixelChanges
from lit_hier.callbacks.tensorboard import log_curves
from lit_hier.diffusion import ForwardBackward, Source
from lit_hier.errors import InputError
from lit_hier.figures.correlation import CorrelationCurve, correlation_figure, over_reference
from lit_hier.inference import theory
from lit_hier.io.devices import download
from lit_hier.io.memory import check_memory
from lit_hier.metrics import (
    ChangeSums,
    Correlation,
    Estimates,
    FixedPointSum,
    Pairs,
    estimate_correlation,
)
from lit_hier.modules import ForwardBackwardModule
from lit_hier.rhm.parameters import GrammarParameters

_NUM_BLOCKS: Final = 20
_LARGEST: Final = 2.0**20  # of which the squares can be summed


@dataclass(frozen=True)
class Group:
    """Sources whose data have the same sites and the same kind of denoiser.

    Attributes:
        of: All sources with this kind of denoiser.
        source: The first of them.
        indices: All of them.
        pairs: The geometry of the sites.
        cut: Distances over which chi and xi sum; None for all pairs.
    """

    of: SourceGroup
    source: Source
    indices: Sequence[int]
    pairs: Pairs
    cut: int | None

    @property
    def columns(self) -> dict[str, float]:
        """The columns of tables that identify it."""
        depth = {"L": self.source.L} if isinstance(self.source, GrammarParameters) else {}
        return {**self.of.columns, **depth}

    @property
    def name(self) -> str:
        """Its name in legends."""
        if self.of.name:
            return self.of.name
        return ", ".join(f"{key} = {value}" for key, value in self.columns.items()) or "data"


class Measured(NamedTuple):
    """The estimates of a group.

    Attributes:
        estimates: Estimates with their errors.
        num_data: Data of the sources that have two or more; those that several share count once.
        num_grammars: Sources that have two data or more; others are skipped.
    """

    estimates: Estimates
    num_data: int
    num_grammars: int


class ChangeAccumulator:
    """Sums of changes over blocks of sample indices, for each group of a run's sources.

    Memory does not depend on the number of data.

    Args:
        changes: The measure of change, after its `setup`.
        sources: The run's sources.
        source_groups: The groups of sources with the same kind of denoiser.
        num_times: Inversion times.
        crossed: Whether all sources have the same data.

    Raises:
        InputError: The sums do not fit into memory.
    """

    def __init__(
        self,
        changes: Changes,
        sources: Sequence[Source],
        source_groups: Sequence[SourceGroup],
        num_times: int,
        crossed: bool = False,
    ) -> None:
        self.changes, self.num_times, self.crossed = changes, num_times, crossed
        self.groups = []
        for of in source_groups:
            by_source: dict[Source, list[int]] = {}
            for index in of.source_indices:
                by_source.setdefault(sources[index], []).append(index)
            for source, indices in by_source.items():
                pairs = changes.pairs(source)
                self.groups.append(Group(of, source, indices, pairs, changes.cut(pairs)))
        self._place = {
            index: (group, k)
            for group, found in enumerate(self.groups)
            for k, index in enumerate(found.indices)
        }
        numbers = sum(len(group.indices) * self._num_columns(group) for group in self.groups)
        check_memory(
            16 * _NUM_BLOCKS * num_times * numbers,
            f"sites: the sums over {num_times} inversion times",
            "give fewer times",
        )
        self._counts, self._sums = [], []
        for group in self.groups:
            blocks = len(group.indices) * _NUM_BLOCKS
            self._counts.append(FixedPointSum(blocks))
            self._sums.append(FixedPointSum(blocks, num_times, self._num_columns(group)))

    def _num_columns(self, group: Group) -> int:
        sites = group.pairs.num_sites if self.changes.site_means else 0
        return 2 + len(group.pairs.counts) + sites

    def update(self, record: ForwardBackward, index: torch.Tensor) -> None:
        """Add a batch.

        Args:
            record: The batch.
            index: The index of each datum, see `Analysis.sample_index`.

        Raises:
            InputError: Its data have other sites than the run's first ones, or a change is NaN or
                infinite.
        """
        group, source = self._place[record.source_index]
        pairs = self.groups[group].pairs
        rows, finite, largest = [], [], []
        for x in self.changes.measure(record):
            if x.shape[1] != pairs.num_sites:
                raise InputError(
                    f"sites: sample {int(record.index[0])} has {x.shape[1]} {self.changes.unit},"
                    f" but the first one {pairs.num_sites}; give data of one size"
                )
            finite.append(x.isfinite().all())
            x = x / self.changes.scale
            largest.append(x.abs().max())
            mean = x.mean(1, keepdim=True)
            columns = [mean, mean.square(), pairs.means(x)]
            rows.append(torch.cat(columns + [x] * self.changes.site_means, dim=1))
        # All times at once: reading a value waits for a GPU.
        parts = [torch.stack(rows, dim=1), torch.stack(finite), torch.stack(largest)]
        sums, *checks = download(parts)
        for k, (is_finite, size) in enumerate(zip(*(x.tolist() for x in checks), strict=True)):
            if not is_finite:
                raise InputError(
                    f"sites: the changes at inversion time number {k} are NaN or infinite; check"
                    " the network"
                )
            if size >= _LARGEST:
                raise InputError(
                    f"sites: the changes at inversion time number {k} are up to"
                    f" {size:.3g} times as large as the differences within the"
                    " first datum; check the network"
                )
        block = source * _NUM_BLOCKS + index.cpu() % _NUM_BLOCKS
        self._counts[group].update(block, torch.ones(len(block)))
        self._sums[group].update(block, sums)

    def compute(self, device: torch.device) -> list[Measured]:
        """Estimate from the sums of all processes, per group."""
        found = []
        for group, counts, sums in zip(self.groups, self._counts, self._sums, strict=True):
            shape = (len(group.indices), _NUM_BLOCKS)
            count = counts.to(device).compute().cpu().unflatten(0, shape).numpy().astype(np.int64)
            total = sums.to(device).compute().cpu().unflatten(0, shape).numpy()
            split = 2 + len(group.pairs.counts)
            sites = total[..., split:] if self.changes.site_means else None
            estimates = estimate_correlation(
                ChangeSums(count, total[..., :split], sites),
                group.pairs,
                group.cut,
                self.crossed,
            ).in_units(self.changes.scale)
            used = count.sum(1)[count.sum(1) >= 2]
            num_data = used.max(initial=0) if self.crossed else used.sum()
            found.append(Measured(estimates, int(num_data), len(used)))
        return found


class ChangeCorrelation(Analysis):
    """Correlations of changes in space, susceptibility and correlation length.

    Where a site of x_reversed differs from x_start its spin is 1, else -1. Near the transition
    changes come in blocks: the susceptibility chi, the number of sites that change together, has
    a peak. See `lit_hier.metrics.functional.correlation` for the definitions and errors.

    Writes:

    - `change_correlation.csv` with columns process, time, for trained denoisers num_train and step
      (see `CurveAnalysis`), for grammars L, mean (spin), chi, sem
      (of chi), theory (of chi; NaN where none applies), count (of data), mean_sem, mean_theory,
      sem_within, length (xi, in sites; NaN where no correlation is significant), length_sem,
      length_theory, grammars (with two data or more; others are skipped), decay (slope of
      ln C(r) against ln r), decay_sem, decay_theory, grammar_std (deviation of chi between
      grammars; NaN for one), units. `sem` is over independent units: the grammars or, if there is
      one, blocks of data; its confidence is Student's, for units - 1 degrees of freedom. Both
      blocks and networks contribute for several trained networks, which share their data; units
      are then effective ones, see `lit_hier.metrics.functional.correlation`.
      `sem_within` is that of these grammars. The theory of length and decay is that of the same
      distances as the measurement.
    - `change_correlation_distance.csv` with columns process, time, likewise num_train, step and L,
      distance (the
      level of the common ancestor, or steps on the grid), length (in sites), correlation (C(r)),
      sem, theory, count (of data), pairs (at this distance), sem_within.
    - `change_correlation.png`: chi against the time; C(r) against the distance at some times; xi
      against the distance from the predicted transition; for several depths, chi on the axes of
      finite-size scaling, see `lit_hier.inference.theory.scaling`. For trained denoisers, chi of
      each training and C(r) of the last one, with those of exact inference dashed.

    Logs to TensorBoard the curves `change_correlation/chi`, `change_correlation/theory`,
    `change_correlation/mean`, `change_correlation/length` and the figure `change_correlation`.

    Args:
        sites: What changes: `LeafChanges` for grammars and `PixelChanges` for other data, by
            default, or `TokenChanges` for the tokens of a layer.
        shown_times: Inversion times whose C(r) is drawn, some of the sampler's; five around the
            largest chi by default.
        name: Replaces `change_correlation` in files and tags: for several in one run.

    Raises:
        InputError: The name is empty or has characters such as `/`; in `setup`, a time is not one
            of the sampler's, there is one inversion time, or the data have no such sites; before
            the first batch, a source has less than two data.
    """

    name = "change_correlation"
    suffixes = ("", "_distance")
    varied = frozenset("L")

    def __init__(
        self,
        sites: Changes | None = None,
        shown_times: list[float] | None = None,
        name: str = "change_correlation",
    ) -> None:
        super().__init__()
        self.sites = sites
        self.shown_times = shown_times
        self.name = check_name(name)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the sites; reject runs that have none, and as `Analysis` does."""
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        assert isinstance(pl_module, ForwardBackwardModule)
        if len(self.times) < 2:
            raise InputError("times: ChangeCorrelation draws curves; give at least two times")
        for time in self.shown_times or ():
            if time not in self.times:
                raise InputError(
                    f"shown_times has {time:g}, which is not one of the sampler's times,"
                    f" {', '.join(f'{x:g}' for x in self.times)}"
                )
        self.changes = choose_sites(self.sites, self.sources[0])
        self.changes.setup(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Allocate the sums."""
        check_num_data(self.num_samples(trainer), self.sources)
        super().on_predict_start(trainer, pl_module)
        self._sums = ChangeAccumulator(
            self.changes, self.sources, self.source_groups(), len(self.times), self.crossed
        )

    def update(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> None:
        """Add a batch."""
        self._sums.update(record, self.sample_index(trainer, record))

    def compute(self, pl_module: ForwardBackwardModule) -> list[Measured]:
        """Estimate from the samples of all processes."""
        return self._sums.compute(pl_module.device)

    def write(self, trainer: Trainer, measured: list[Measured]) -> None:
        """Write the tables, and log the curves."""
        times = np.array(self.times)
        by_time, by_distance, curves = [], [], []
        charts: dict[str, dict[str, Floats]] = {}
        for group, found in zip(self._sums.groups, measured, strict=True):
            if not found.num_data:
                continue
            reach = found.estimates.reach
            predicted = self.changes.predict(group.source, self.noise_process, times, reach)
            identity = {"process": self.axis.process}
            columns = _columns(found, predicted)
            by_time.append(DataFrame({**identity, "time": times, **group.columns, **columns}))
            by_distance.append(self._distances(group, found, predicted))
            critical = theory.predict(
                group.source, self.noise_process, times[:1], find_cache(trainer, "theory")
            ).critical_time
            curves.append(
                CorrelationCurve(
                    group.name,
                    found.estimates.estimate,
                    found.estimates.sem,
                    predicted,
                    group.pairs.lengths,
                    critical,
                    *theory.scaling(None if group.of.name else group.source, self.noise_process),
                )
            )
            for key in ("chi", "theory", "mean", "length"):
                charts.setdefault(f"{self.name}/{key}", {})[group.name] = np.asarray(columns[key])
        if not by_time:
            raise InputError("data: no two of the images can be read; check the files")
        self.add_table(f"{self.name}_distance", concat(by_distance))
        table = concat(by_time)
        self.add_table(self.name, table.assign(**self.image_counts))
        shown = [self.times.index(time) for time in self.shown_times or ()]
        exact = next((group.name for group in self.source_groups() if group.is_exact), "")
        drawn, theory_label = over_reference(curves, exact) if exact else (curves, "mean field")
        axis = self.axis
        self.draw_later(
            lambda: {
                self.name: correlation_figure(
                    times, axis.label, drawn, shown, axis.symbol, self.changes.unit, theory_label
                )
            }
        )
        log_curves(trainer.loggers, charts, self.axis, self.times)

    def _distances(self, group: Group, found: Measured, predicted: Correlation) -> DataFrame:
        """Tabulate C(r), a row per time and distance."""
        num = len(group.pairs.counts)
        columns: dict[str, Any] = {
            "process": self.axis.process,
            "time": np.repeat(self.times, num),
            **group.columns,
            "distance": np.tile(group.pairs.distances, len(self.times)),
            "length": np.tile(group.pairs.lengths, len(self.times)),
            "correlation": found.estimates.estimate.correlation.ravel(),
            "sem": found.estimates.sem.correlation.ravel(),
            "theory": np.broadcast_to(
                predicted.correlation, found.estimates.estimate.correlation.shape
            ).ravel(),
            "count": found.num_data,
            "pairs": np.tile(group.pairs.counts, len(self.times)),
            "sem_within": found.estimates.sem_within.correlation.ravel(),
        }
        return DataFrame(columns)


def _columns(found: Measured, predicted: Correlation) -> Mapping[str, Any]:
    return {
        "mean": found.estimates.estimate.mean,
        "chi": found.estimates.estimate.susceptibility,
        "sem": found.estimates.sem.susceptibility,
        "theory": predicted.susceptibility,
        "count": found.num_data,
        "mean_sem": found.estimates.sem.mean,
        "mean_theory": predicted.mean,
        "sem_within": found.estimates.sem_within.susceptibility,
        "length": found.estimates.estimate.length,
        "length_sem": found.estimates.sem.length,
        "length_theory": predicted.length,
        "grammars": found.num_grammars,
        "decay": found.estimates.estimate.decay,
        "decay_sem": found.estimates.sem.decay,
        "decay_theory": predicted.decay,
        "grammar_std": found.estimates.source_std,
        "units": found.estimates.num_units,
    }


def check_num_data(num_samples: int, sources: Sequence[Source]) -> None:
    """Reject runs in which no source has the two data that a correlation needs.

    Raises:
        InputError: There are fewer.
    """
    num_each = num_samples // len(sources)
    if num_each < 2:
        raise InputError(
            f"num_predict is {num_each}; give at least 2: correlations are those between data"
        )


def choose_sites(sites: Changes | None, source: Source) -> Changes:
    """Return what changes: by default leaves for a grammar, else pixels."""
    if sites is not None:
        return sites
    return LeafChanges() if isinstance(source, GrammarParameters) else PixelChanges()
