"""How much noise the leaves of a run carry."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning import Trainer
from torch import Tensor

from lit_hier.callbacks.curves import CurveAnalysis, Floats, Line, Results
from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.figures.plots import Panel
from lit_hier.metrics import standard_error
from lit_hier.modules import ForwardBackwardModule


class EffectiveNoise(CurveAnalysis):
    """The epsilon(t) of a process: its leaves' mean belief in a wrong symbol, times v (Eq. 60).

    Measured from the leaf messages of the run, beside its expectation by quadrature (Fig. 15,
    left).

    Writes, besides what `CurveAnalysis` lists: `effective_noise.csv` with columns process, time,
    noise, sem (over data), count, quadrature; `effective_noise.npz` with the arrays `noise` (time,
    curve, index), `time`, `curve`, `index`, `source`. Logs to TensorBoard the curves
    `effective_noise/noise` and `effective_noise/quadrature`.
    """

    name = "effective_noise"
    quantities = ("noise",)
    logged = ("noise", "quadrature")
    legend = "effective noise"
    compared = ("noise", "quadrature")
    varied = frozenset("nmsL")

    def __init__(self) -> None:
        super().__init__()

    def lines(self) -> list[Line]:
        """One: all leaves."""
        return [Line("leaves", {}, 0, 0, range(len(self.sources)))]

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Take what the sampler measured: shape (1, T, 1, B).

        Raises:
            InputError: The sampler measures no effective noise.
        """
        if record.effective_noise is None:
            raise InputError(
                f"model: EffectiveNoise needs leaves, which {type(pl_module).__name__} does not"
                " have; use it with a BPDenoiser"
            )
        return record.effective_noise[None, :, None]

    def summarise(
        self, samples: Floats, sources: NDArray[np.int64], time: int, line: Line
    ) -> dict[str, float]:
        """The mean over data with its standard error, and the expectation."""
        noise = samples[0].astype("float64")
        return {
            "noise": float(noise.mean()),
            "sem": standard_error(noise),
            "count": len(noise),
            "quadrature": float(self.theory(line, "effective_noise")[time]),
        }

    def panels(self, results: Results) -> Sequence[Panel]:
        """One panel."""
        curves = results.curves
        theory = curves["quadrature"]
        return [
            Panel("effective noise ε(t)", curves["noise"], curves["sem"], theory, "quadrature")
        ]
