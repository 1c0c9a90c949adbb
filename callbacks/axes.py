"""What curves are drawn against: the inversion time, or the effective noise of a run."""

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lit_hier.diffusion import ForwardBackward, Source
from lit_hier.errors import InputError
from lit_hier.inference.theory import Prediction, predict
from lit_hier.processes import EpsilonNoise, NoiseProcess, TimeAxis
from lit_hier.rhm.parameters import GrammarParameters

Floats = NDArray[np.floating]
Against = Literal["time", "effective_noise"]
"""The name of an x axis in configs."""


class CurveAxis(ABC):
    """An x axis: what it gathers of each sample, its values and label, and predictions on it.

    Attributes:
        suffix: Appended to the names of files and tags.
        column: The column of its values in tables; empty where these are the inversion times.
    """

    suffix: ClassVar[str] = ""
    column: ClassVar[str] = ""

    def measure(self, record: ForwardBackward, sampler: str) -> Tensor | None:
        """Return what the axis gathers of each sample, shape (T, B); None for nothing.

        Args:
            record: A batch.
            sampler: The name of the sampler's class, for the error's message.

        Raises:
            InputError: The sampler does not measure it.
        """
        return None

    @abstractmethod
    def label(self, times: TimeAxis) -> str:
        """Label the axis of a figure."""

    @abstractmethod
    def values(self, times: tuple[float, ...], measured: Floats | None) -> Floats:
        """Compute the values at the end of a run.

        Args:
            times: Inversion times, T of them.
            measured: What `measure` returned, of all samples, shape (T, N).

        Returns:
            float64, shape (T,).
        """

    @abstractmethod
    def critical_value(self, time: float, process: NoiseProcess | None, source: Source) -> float:
        """Convert a critical inversion time to this axis; NaN if there is none."""

    @abstractmethod
    def predict(
        self, source: Source, process: NoiseProcess | None, times: tuple[float, ...], x: Floats
    ) -> Prediction:
        """Predict curves as functions of this axis's values `x`, shape (T,)."""


class InversionTimes(CurveAxis):
    """The inversion times themselves."""

    def label(self, times: TimeAxis) -> str:
        """Use the process's own label."""
        return times.label

    def values(self, times: tuple[float, ...], measured: Floats | None) -> Floats:
        """Return the times."""
        return np.array(times)

    def critical_value(self, time: float, process: NoiseProcess | None, source: Source) -> float:
        """Return the time."""
        return time

    def predict(
        self, source: Source, process: NoiseProcess | None, times: tuple[float, ...], x: Floats
    ) -> Prediction:
        """Predict the process at its times."""
        return predict(source, process, times)


class EffectiveNoiseAxis(CurveAxis):
    """The effective noise epsilon(t) at the leaves, averaged over the run (Eq. 60)."""

    suffix = "_against_noise"
    column = "effective_noise"

    def measure(self, record: ForwardBackward, sampler: str) -> Tensor:
        """Return the effective noise of each sample."""
        if record.effective_noise is None:
            raise InputError(
                f"against: {sampler} measures no effective noise; omit `against` to draw against"
                " the time"
            )
        return record.effective_noise

    def label(self, times: TimeAxis) -> str:
        """Name the effective noise."""
        return "effective noise ε(t)"

    def values(self, times: tuple[float, ...], measured: Floats | None) -> Floats:
        """Average over the samples."""
        assert measured is not None
        mean: Floats = measured.astype(np.float64).mean(-1)
        return mean

    def critical_value(self, time: float, process: NoiseProcess | None, source: Source) -> float:
        """Return the effective noise that the process has at a time."""
        if not isinstance(source, GrammarParameters) or process is None or math.isnan(time):
            return math.nan
        return process.effective_noise(time, source.v)

    def predict(
        self, source: Source, process: NoiseProcess | None, times: tuple[float, ...], x: Floats
    ) -> Prediction:
        """Predict the epsilon-process at equal noise: a comparison, without a critical time."""
        compared = predict(source, EpsilonNoise(), np.clip(x, 0, 1))
        return replace(compared, name=f"{compared.name}, ε-process", critical_time=math.nan)


CURVE_AXES: Final[dict[Against, CurveAxis]] = {
    "time": InversionTimes(),
    "effective_noise": EffectiveNoiseAxis(),
}
