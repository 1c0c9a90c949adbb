"""Where the transition lies, by several estimators."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pandas import DataFrame
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from lit_hier.callbacks.analysis import check_name
from lit_hier.callbacks.axes import Floats, InversionTimes
from lit_hier.callbacks.beliefs import belief_in_truth, latents_of
from lit_hier.callbacks.change_correlation import (
    ChangeAccumulator,
    Measured,
    check_num_data,
    choose_sites,
)
from lit_hier.callbacks.changes import Changes
from lit_hier.callbacks.class_kept import ClassKept
from lit_hier.callbacks.curves import Columns, CurveAnalysis, Line, Results
from lit_hier.diffusion import ForwardBackward, num_levels
from lit_hier.errors import InputError
from lit_hier.figures import Panel, curve_figure
from lit_hier.figures.places import Place, place_figure
from lit_hier.inference import theory
from lit_hier.metrics import (
    Inversion,
    average,
    bootstrap_error,
    count_data,
    curve_inversion,
    inversion,
    last_inversion,
    peak,
    resampled_means,
    significant_peak,
    steepest,
    theory_errors,
    transition,
)
from lit_hier.modules import ForwardBackwardModule
from lit_hier.rhm.parameters import GrammarParameters
from lit_hier.streams import Purpose, uniform

_NO_LATENTS: Final = "the data have no latents"
_NO_POSTERIOR: Final = "p(class | x_t) is unknown"
_ONE_SAMPLE: Final = "one sample of p(x_0 | x_t) is drawn per datum"
_NO_THEORY: Final = math.nan, math.nan


class _Found(NamedTuple):
    """A place with its error, its prediction with its error, and why it is unknown, if it is."""

    place: float
    sem: float = math.nan
    theory: float = math.nan
    reason: str = ""
    theory_sem: float = math.nan


class TransitionTime(CurveAnalysis):
    r"""The place of the transition by several estimators, in one table.

    They are those of `lit_hier.metrics`, as is that of `Transition`, which has the phase diagram
    and the widths over m and L.

    - `half`: the probability of the true class, or the share of data whose predicted class is
      kept, falls halfway to chance; with a tree over the classes also `half, depth k`.
    - `steepest drop`: it falls most steeply.
    - `inversion, root below leaves`, `inversion, all levels`: the curve of the root falls below
      that of the leaves; the last of all levels' curves falls below that of the level under it.
    - `peak of chi`: of the susceptibility of `ChangeCorrelation`, if it is significant, see
      `lit_hier.metrics.significant_peak`.
    - `entropy rate`: the entropy of the class given x_t grows fastest.
    - `clones`: two independent samples of p(x_0 | x_t) agree in class halfway to chance. For a
      channel, such as strings, masking and Gaussian diffusion, they agree as often as the class is
      kept, as :math:`E[p(\mathrm{true})] = E[\sum_c p(c)^2]`; under the epsilon-process, which is
      none, they do not. The second sample's class is drawn from the posterior with a random
      stream of its own.

    Denoisers that do not compute the posterior of the class, such as networks, have neither the
    entropy rate nor clones, and their probability of the true class is the share of data whose
    class is unchanged, as in `Reconstruction`.
    - `speciation`: :math:`\frac{1}{2} \ln \Lambda`, see `lit_hier.inference.theory`.
    - `predicted`: the transition as L grows.

    Writes, besides what `CurveAnalysis` lists:

    - `transition_time.csv` with columns process, for trained denoisers num_train and step (see
      `CurveAnalysis`), estimator, place, sem (by the bootstrap over grammars or, with one, over
      data or, for chi, blocks of data; 0 for closed forms), theory (the same estimator on the
      theory at this depth and these times; NaN where none applies), reason (why the place is
      unknown), theory_sem (standard error of `theory`: 0 for a closed form; NaN where that of a
      theory with errors does not follow, see `lit_hier.metrics.theory_errors`).
    - `transition_time_curves.csv` with columns process, time, likewise, level, marginal, sem,
      entropy (nats), entropy_sem, clones (share that agrees), clones_sem, count.
    - `transition_time.npz` with the arrays `marginal`, `entropy` and `clones` (time, curve,
      index), `time`, `curve`, `index`, `source`.
    - `transition_time.png`.

    Logs to TensorBoard the curves `transition_time/marginal`, `transition_time/entropy`,
    `transition_time/clones` and the figure `transition_time`.

    Args:
        classes: For data without latents, such as images: how their class is predicted.
        sites: For the peak of chi, see `ChangeCorrelation`.
        name: Replaces `transition_time` in files and tags: for several in one run.

    Raises:
        InputError: In `setup`, the data have neither latents nor `classes`, or as
            `ChangeCorrelation` raises.
    """

    name = "transition_time"
    suffixes = ("", "_curves")
    quantities = ("marginal", "entropy", "clones")
    logged = quantities
    legend = "level"

    def __init__(
        self,
        classes: ClassKept | None = None,
        sites: Changes | None = None,
        name: str = "transition_time",
    ) -> None:
        super().__init__(InversionTimes(), check_name(name))
        self.classes = classes
        self.sites = sites

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find classes and sites; reject runs without, and as the base class does."""
        if stage == "predict" and self.classes is not None:
            self.classes.setup(trainer, pl_module, stage)
        if stage == "predict" and isinstance(pl_module, ForwardBackwardModule):
            self._has_latents = num_levels(pl_module.sources[0]) > 0
            if not self._has_latents and self.classes is None:
                raise InputError(
                    "model: TransitionTime needs classes, which these data do not have; give"
                    " classes: a ClassKept with a network that predicts them"
                )
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        assert isinstance(pl_module, ForwardBackwardModule)
        self.changes = choose_sites(self.sites, self.sources[0])
        self.changes.setup(trainer, pl_module)

    def lines(self) -> list[Line]:
        """One per level, leaves first; or one per depth of the classes' tree."""
        if self.classes is not None and not num_levels(self.sources[0]):
            return self.classes.lines()
        source_indices = range(len(self.sources))
        levels = range(num_levels(self.sources[0]))
        return [Line(f"level {k}", {"level": k}, k, k, source_indices) for k in levels]

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Allocate tables and sums."""
        check_num_data(self.num_samples(trainer), self.sources)
        super().on_predict_start(trainer, pl_module)
        if self.classes is not None:
            self.classes.on_predict_start(trainer, pl_module)
        self._sums = ChangeAccumulator(
            self.changes, self.sources, self.source_groups(), len(self.times), self.crossed
        )

    def update(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> None:
        """Measure a batch."""
        super().update(trainer, pl_module, record)
        self._sums.update(record, self.sample_index(trainer, record))

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Compute the belief in the truth, the entropy, and whether clones agree."""
        if not self._has_latents:
            assert self.classes is not None
            kept = self.classes.measure(trainer, pl_module, record)
            return torch.cat((kept, torch.full_like(kept, math.nan).expand(2, *kept.shape[1:])))
        latents = latents_of(record)
        if latents.marginals is None:
            pairs = zip(latents.tree_start, latents.tree_reversed, strict=True)
            kept = torch.stack([(x == true).float().mean(-1) for true, x in pairs], dim=1)
            return torch.stack((kept, *[torch.full_like(kept, math.nan)] * 2))
        levels = []
        for true, beliefs in zip(latents.tree_start, latents.marginals, strict=True):
            belief = belief_in_truth(beliefs, true).mean(-1)
            entropy = -torch.special.xlogy(beliefs, beliefs).sum(-1).mean(-1)
            levels.append(torch.stack((belief, entropy, torch.full_like(belief, math.nan))))
        root, drawn = latents.marginals[-1][:, :, 0], latents.tree_reversed[-1][:, :, 0]
        index, device = self.sample_index(trainer, record).cpu(), root.device
        for k, time in enumerate(self.times):
            draws = uniform(pl_module.seed, Purpose.CLONE, index, time, 1, device=device)
            cumulative = root[k].double().cumsum(1)
            clone = (cumulative <= draws * cumulative[:, -1:]).sum(1).clamp(max=root.shape[2] - 1)
            levels[-1][2, k] = (clone == drawn[k]).to(root)
        return torch.stack(levels, dim=2)

    def compute(self, pl_module: ForwardBackwardModule) -> list[NDArray[Any]]:
        """Gather the samples of all processes, and estimate chi."""
        by_group = zip(self._sums.groups, self._sums.compute(pl_module.device), strict=True)
        self._chi = {group.of.name: found for group, found in by_group}
        return super().compute(pl_module)

    def summarize(self, samples: Floats, source_indices: NDArray[np.int64], line: Line) -> Columns:
        """Compute averages and errors."""
        columns: dict[str, Any] = {}
        for name, values in zip(self.quantities, samples, strict=True):
            shares = name == "clones" or not self._has_latents
            found = average(values, source_indices, shares=shares, crossed=self.crossed)
            columns |= {name: found.mean, f"{name}_sem": found.sem}
        columns["sem"] = columns.pop("marginal_sem")
        return columns | {"count": count_data(source_indices, self.crossed)}

    def tables(self, results: Results) -> dict[str, DataFrame]:
        """Tabulate the places."""
        rows = [
            {
                "process": self.axis.process,
                **group.columns,
                "estimator": name,
                **found._asdict(),
            }
            for group, part in self.split(results)
            for name, found in self._places(part, self._chi[group.name]).items()
        ]
        return {self.name: DataFrame(rows)}

    @property
    def curves_name(self) -> str:
        """The name of the table of curves; that of the run is the places'."""
        return f"{self.name}_curves"

    def _places(self, results: Results, chi: Measured) -> dict[str, _Found]:
        """Apply all estimators."""
        x, groups = results.x, results.source_indices
        root = results.lines[-1].curve
        marginal, entropy, clones = (values[:, root].astype(float) for values in results.values)
        predicted = self.prediction(results.lines[-1])
        unknown_curve = np.full(len(x), np.nan)
        has_theory = predicted.marginal.size > 0
        curve = predicted.marginal[:, -1] if has_theory else unknown_curve
        error = predicted.marginal_error[:, -1] if has_theory else unknown_curve
        chance = self._chance(results.lines[-1])

        def half(values: Floats, chance: float = chance) -> Floats:
            return np.asarray(transition(x, values, chance)[0])

        def found(
            estimator: Callable[[Floats], Any],
            values: Floats,
            by_theory: float,
            theory_sem: float,
            reason: str,
        ) -> _Found:
            place = float(estimator(average(values, groups).mean))
            resampled = resampled_means(values, groups, crossed=self.crossed)
            sem = float(bootstrap_error(np.asarray(estimator(resampled)), groups, self.crossed))
            return _Found(place, sem, by_theory, reason * math.isnan(place), theory_sem)

        not_reached = "the curve does not fall halfway between these times"
        no_peak = "the steepest change is at an end of the times"
        by_theory = float(half(curve)), theory_errors(x, curve, error, chance)[0]
        places = {"half": found(half, marginal, *by_theory, not_reached)}
        for line in results.lines[:-1] if not self._has_latents else ():
            values = results.values[0, :, line.curve].astype(float)
            estimator = partial(half, chance=self._chance(line))
            places[f"half, {line.name}"] = found(estimator, values, *_NO_THEORY, not_reached)
        places["steepest drop"] = found(
            lambda y: steepest(x, y), marginal, *_exactly(steepest(x, curve), error), no_peak
        )
        places |= self._inversions(results, predicted)
        places["peak of chi"] = self._peak_of_chi(x, chi)
        known = bool(np.isfinite(entropy).all())
        unknown = _Found(math.nan, reason=_NO_POSTERIOR)
        source, process = self.sources[0], self.noise_process
        expected, entropy_error = theory.class_entropy(source, process, predicted).T
        rate = _exactly(steepest(x, expected, falling=False), entropy_error)
        places["entropy rate"] = (
            found(lambda y: steepest(x, y, falling=False), entropy, *rate, no_peak)
            if known
            else unknown
        )
        is_channel = not theory.mean_field_applies(self.noise_process)
        places["clones"] = (
            found(half, clones, *(by_theory if is_channel else _NO_THEORY), not_reached)
            if known
            else _Found(math.nan, reason=_ONE_SAMPLE)
        )
        time = theory.speciation_time(self.sources[0], self.noise_process)
        reason = "the means of the classes coincide" if self._is_grammar else "no closed form"
        places["speciation"] = _exact(time, 0.0, reason)
        places["predicted"] = _exact(
            predicted.critical_time, predicted.critical_error, "no theory of the transition"
        )
        return places

    def _inversions(self, results: Results, predicted: theory.Prediction) -> dict[str, _Found]:
        """Compare the root with the leaves, and every level with the one under it."""
        names = ("inversion, root below leaves", "inversion, all levels")
        lines = results.lines
        if not self._has_latents or len(lines) < 2:
            reason = "there is one level" if self._has_latents else _NO_LATENTS
            return dict.fromkeys(names, _Found(math.nan, reason=reason))
        x, groups = results.x, results.source_indices
        marginal = results.values[0].astype(float)

        def compare(first: Line, other: Line) -> tuple[Inversion, float]:
            pair = marginal[:, first.curve], marginal[:, other.curve]
            theories = predicted.marginal[:, first.level], predicted.marginal[:, other.level]
            return inversion(x, *pair, groups, crossed=self.crossed), curve_inversion(x, *theories)

        all_levels = [compare(*pair) for pair in pairwise(lines)]
        found = [
            last_inversion([measured for measured, _ in pairs], groups, self.crossed)
            + _exactly(np.max([by_theory for _, by_theory in pairs]), predicted.marginal_error)
            for pairs in ([compare(lines[0], lines[-1])], all_levels)
        ]
        return {
            name: _Found(place, sem, by_theory, "not significant" * math.isnan(place), theory_sem)
            for name, (place, sem, by_theory, theory_sem) in zip(names, found, strict=True)
        }

    def _peak_of_chi(self, x: Floats, chi: Measured) -> _Found:
        """Locate the maximum of the susceptibility."""
        estimates = chi.estimates
        place = significant_peak(
            x, estimates.estimate.susceptibility, estimates.sem.susceptibility, estimates.num_units
        )
        units = np.arange(estimates.num_units)
        sem = float(bootstrap_error(np.asarray(peak(x, estimates.resampled)), units))
        times = np.array(self.times)
        curve = self.changes.predict(self.sources[0], self.noise_process, times).susceptibility
        by_theory, theory_sem = _exactly(peak(x, curve), curve * 0)
        if math.isnan(place):
            reason = "chi has no significant peak"
            return _Found(place, math.nan, by_theory, reason, theory_sem)
        return _Found(place, sem, by_theory, "", theory_sem)

    def _chance(self, line: Line) -> float:
        """Return the share that is kept by chance."""
        if self.classes is not None and not self._has_latents:
            return 1 / self.classes.num_groups(line.curve)
        source = self.sources[0]
        assert source is not None
        return 1 / (source.n if isinstance(source, GrammarParameters) else source.num_classes)

    def figures(self, results: Results, tables: Mapping[str, DataFrame]) -> dict[str, Figure]:
        """Draw the curves, and the places with their errors; of several trainings, the curves."""
        groups = [group for group, _ in self.split(results)]
        if groups[0].columns:
            return {self.name: self._training_figure(results)}
        root = results.lines[-1].name
        curves = {
            "class kept": results.curves("marginal")[root],
            "clones agree": results.curves("clones")[root],
        }
        table = tables[self.name]
        return {
            self.name: place_figure(
                results.x,
                results.xlabel,
                {name: y for name, y in curves.items() if np.isfinite(y).any()},
                self._chi[groups[0].name].estimates.estimate.susceptibility,
                [Place(*row) for row in table[["estimator", "place", "sem", "theory"]].to_numpy()],
            )
        }

    def _training_figure(self, results: Results) -> Figure:
        """Draw the share of data whose class is kept, and chi, of each training."""
        kept, sem, chi, chi_sem = ({} for _ in range(4))
        for group, part in self.split(results):
            root, found = part.lines[-1].name, self._chi[group.name].estimates
            kept[group.name] = part.curves("marginal")[root]
            sem[group.name] = part.curves("sem")[root]
            chi[group.name] = found.estimate.susceptibility
            chi_sem[group.name] = found.sem.susceptibility
        panels = [
            Panel("class kept", kept, bands=sem),
            Panel(f"susceptibility χ ({self.changes.unit})", chi, bands=chi_sem, unit="sites"),
        ]
        return curve_figure(results.x, results.xlabel, panels, "training")

    @property
    def _is_grammar(self) -> bool:
        return isinstance(self.sources[0], GrammarParameters)


def _exact(place: float, sem: float, reason: str) -> _Found:
    """Return a place that theory gives."""
    if math.isnan(place):
        return _Found(place, reason=reason)
    return _Found(place, sem, place, theory_sem=sem)


def _exactly(place: np.floating | Floats, error: Floats) -> tuple[float, float]:
    """Return a theory's place and its standard error: 0 if the theory is exact, else NaN."""
    is_exact = not np.nan_to_num(error).any()
    return float(place), float(place) * 0 if is_exact else math.nan
