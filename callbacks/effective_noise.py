"""The effective noise at the leaves of a run."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from lit_hier.callbacks.axes import Floats, InversionTimes, measures_effective_noise
from lit_hier.callbacks.curves import Columns, CurveAnalysis, Line, Results
from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.figures import Panel
from lit_hier.inference import theory
from lit_hier.metrics import average
from lit_hier.modules import ForwardBackwardModule


class EffectiveNoise(CurveAnalysis):
    """The epsilon(t) of a process: the leaves' mean belief in a wrong symbol, times v (Eq. 60).

    Measured from the leaf messages of the run, and compared with its expected value by quadrature
    (Fig. 15, left).

    Writes, besides what `CurveAnalysis` lists:

    - `effective_noise.csv` with columns process, time, noise, sem (standard error), count,
      quadrature, grammars, grammar_std (NaN for one grammar), sem_within: see
      `lit_hier.metrics.average`.
    - `effective_noise.npz` with the arrays `noise` (time, curve, index), `time`, `curve`, `index`,
      `source`.

    Logs to TensorBoard the curves `effective_noise/noise` and `effective_noise/quadrature`.
    """

    name = "effective_noise"
    quantities = ("noise",)
    logged = ("noise", "quadrature")
    legend = "effective noise"
    compared = ("noise", "quadrature")
    varied = frozenset("nmsL")

    def __init__(self) -> None:
        super().__init__(InversionTimes())

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compute the expected noise; reject samplers without leaf messages."""
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        assert isinstance(pl_module, ForwardBackwardModule)
        if not measures_effective_noise(pl_module):
            raise InputError(
                "model: EffectiveNoise needs leaf messages, which"
                f" {type(pl_module).__name__} does not have; use it with a BPDenoiser"
            )
        assert self.noise_process is not None
        v = self.grammar(0).v
        self._expected = theory.effective_noise(self.noise_process, self.times, v)

    def lines(self) -> list[Line]:
        """List one curve, of all leaves."""
        return [Line("leaves", {}, 0, 0, range(len(self.sources)))]

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Return what the sampler measured: shape (1, T, 1, B)."""
        assert record.effective_noise is not None
        return record.effective_noise[None, :, None]

    def summarize(self, samples: Floats, source_indices: NDArray[np.int64], line: Line) -> Columns:
        """Compute the average, its errors, and the expected value."""
        noise = average(samples[0], source_indices)
        return {
            "noise": noise.mean,
            "sem": noise.sem,
            "count": len(source_indices),
            "quadrature": self._expected,
            "grammars": len(np.unique(source_indices)),
            "grammar_std": noise.grammar_std,
            "sem_within": noise.sem_within,
        }

    def panels(self, results: Results) -> Sequence[Panel]:
        """Draw one panel."""
        noise, sem, quadrature = map(results.curves, ("noise", "sem", "quadrature"))
        return [Panel("effective noise ε(t)", noise, sem, quadrature, "quadrature")]
