"""What curves are drawn against: time, or a run's effective noise or information at leaves."""

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lit_hier.diffusion import ForwardBackward, Source
from lit_hier.errors import InputError
from lit_hier.inference.theory import Prediction, leaf_information, predict
from lit_hier.modules import ForwardBackwardModule
from lit_hier.processes import EpsilonNoise, NoiseProcess, TimeAxis
from lit_hier.rhm.parameters import GrammarParameters

Floats = NDArray[np.floating]
Against = Literal["time", "effective_noise", "information"]
"""The name of an x axis in configs."""


def measures_leaves(sampler: ForwardBackwardModule) -> bool:
    """Tell whether records hold what leaf messages tell: for grammars under a process."""
    grammars = all(isinstance(source, GrammarParameters) for source in sampler.sources)
    return grammars and sampler.noise_process is not None


class CurveAxis(ABC):
    """An x axis: what it gathers of each sample, its values and label, and predictions on it.

    Attributes:
        suffix: Appended to the names of files and tags.
        column: The column of its values in tables; empty where these are the inversion times, and
            nothing is gathered.
    """

    suffix: ClassVar[str] = ""
    column: ClassVar[str] = ""

    def check(self, sampler: ForwardBackwardModule) -> None:
        """Check, before the run, that a sampler's records hold what the axis gathers.

        Raises:
            InputError: They do not.
        """
        return None

    def measure(self, record: ForwardBackward) -> Tensor | None:
        """Return what the axis gathers of a batch's samples, shape (T, B); None if nothing."""
        return None

    @abstractmethod
    def label(self, axis: TimeAxis) -> str:
        """Label the axis of a figure, given the meaning of the times."""

    @abstractmethod
    def values(self, times: tuple[float, ...], measured: Floats | None) -> Floats:
        """Compute the values at the end of a run, ascending or descending in time.

        Args:
            times: Inversion times, T of them.
            measured: What `measure` returned, of all samples, shape (T, N); None if the axis has
                no `column`.

        Returns:
            float64, shape (T,).
        """

    @abstractmethod
    def critical_value(self, time: float, process: NoiseProcess | None, source: Source) -> float:
        """Convert a critical inversion time to this axis; NaN if there is none."""

    def compare(self, source: Source, x: Floats) -> Prediction | None:
        """Predict another process at this axis's values `x`, shape (T,); None for none."""
        return None


class InversionTimes(CurveAxis):
    """The inversion times themselves."""

    def label(self, axis: TimeAxis) -> str:
        """Return the label of the inversion times."""
        return axis.label

    def values(self, times: tuple[float, ...], measured: Floats | None) -> Floats:
        """Return the times."""
        return np.array(times)

    def critical_value(self, time: float, process: NoiseProcess | None, source: Source) -> float:
        """Return the time."""
        return time


class _LeafAxis(CurveAxis):
    """A number that the leaf messages of the run tell, averaged over it."""

    quantity: ClassVar[str]
    """What it is called in messages."""

    def check(self, sampler: ForwardBackwardModule) -> None:
        """Check that the sampler measures the leaf messages."""
        if not measures_leaves(sampler):
            raise InputError(
                f"against: {type(sampler).__name__} measures no {self.quantity}; omit `against` to"
                " draw against the time"
            )

    def measure(self, record: ForwardBackward) -> Tensor:
        """Return the number for each sample."""
        measured: Tensor | None = getattr(record, self.column)
        assert measured is not None, f"the sampler's records lack the {self.quantity}"
        return measured

    def values(self, times: tuple[float, ...], measured: Floats | None) -> Floats:
        """Average over the samples."""
        assert measured is not None
        mean: Floats = measured.astype(np.float64).mean(-1)
        return mean


class InformationAxis(_LeafAxis):
    """The information I(x_0; x_t) of a leaf over ln v, averaged over the run; it falls with time.

    See `lit_hier.processes.NoiseProcess.information`.
    """

    suffix = "_against_information"
    column = "leaf_information"
    quantity = "information of a leaf"

    def label(self, axis: TimeAxis) -> str:
        """Name the information."""
        return "information of a leaf I(x₀; x_t) / ln v"

    def critical_value(self, time: float, process: NoiseProcess | None, source: Source) -> float:
        """Return the information that a leaf has at a time."""
        if not isinstance(source, GrammarParameters) or process is None or math.isnan(time):
            return math.nan
        return float(leaf_information(process, [time], source.v)[0])


class EffectiveNoiseAxis(_LeafAxis):
    """The effective noise epsilon(t) at the leaves, averaged over the run (Eq. 60)."""

    suffix = "_against_noise"
    column = "effective_noise"
    quantity = "effective noise"

    def label(self, axis: TimeAxis) -> str:
        """Name the effective noise."""
        return "effective noise ε(t)"

    def critical_value(self, time: float, process: NoiseProcess | None, source: Source) -> float:
        """Return the effective noise that the process has at a time."""
        if not isinstance(source, GrammarParameters) or process is None or math.isnan(time):
            return math.nan
        return process.effective_noise(time, source.v)

    def compare(self, source: Source, x: Floats) -> Prediction:
        """Predict the epsilon-process at equal noise."""
        compared = predict(source, EpsilonNoise(), np.clip(x, 0, 1))
        return replace(compared, name=f"{compared.name}, ε-process")


def choose_axis(against: Against) -> CurveAxis:
    """Return the x axis of a name.

    Args:
        against: The name.

    Raises:
        InputError: There is no such axis.
    """
    if against == "time":
        return InversionTimes()
    if against == "effective_noise":
        return EffectiveNoiseAxis()
    if against == "information":
        return InformationAxis()
    raise InputError(f"against is {against!r}; give {' or '.join(get_args(Against))}")
