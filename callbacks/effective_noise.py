"""The effective noise and the information at the leaves of a run."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from lit_hier.callbacks.axes import Floats, InversionTimes, measures_leaves
from lit_hier.callbacks.curves import Columns, Compared, CurveAnalysis, Line, Results
from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.figures import Panel
from lit_hier.inference import theory
from lit_hier.metrics import average
from lit_hier.modules import ForwardBackwardModule


class EffectiveNoise(CurveAnalysis):
    """The epsilon(t) of a process: the leaves' mean belief in a wrong symbol, times v (Eq. 60).

    Beside it, the information of a leaf over ln v: 1 minus the mean entropy of the beliefs in
    leaves over ln v, see `lit_hier.processes.NoiseProcess.information`. Both are measured from the
    leaf messages of the run, and compared with their expected values by quadrature (Fig. 15,
    left).

    Writes, besides what `CurveAnalysis` lists:

    - `effective_noise.csv` with columns process, time, noise, sem (standard error), count,
      quadrature, grammars, grammar_std (NaN for one grammar), sem_within: see
      `lit_hier.metrics.average`; leaf_information, leaf_information_sem,
      leaf_information_sem_within, leaf_information_quadrature (NaN for a process that does not
      know it).
    - `effective_noise.npz` with the arrays `noise` and `leaf_information` (time, curve, index),
      `time`, `curve`, `index`, `source`.

    Logs to TensorBoard the curves `effective_noise/COLUMN` for the columns noise, quadrature,
    leaf_information and leaf_information_quadrature.
    """

    name = "effective_noise"
    quantities = ("noise", "leaf_information")
    logged = ("noise", "quadrature", "leaf_information", "leaf_information_quadrature")
    legend = "observations"
    compared = (
        Compared("noise", "quadrature", "sem"),
        Compared("leaf_information", "leaf_information_quadrature", "leaf_information_sem"),
    )
    varied = frozenset("nmsL")

    def __init__(self) -> None:
        super().__init__(InversionTimes())

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compute the expected values; reject samplers without leaf messages."""
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        assert isinstance(pl_module, ForwardBackwardModule)
        if not measures_leaves(pl_module):
            raise InputError(
                "model: EffectiveNoise needs leaf messages, which"
                f" {type(pl_module).__name__} does not have; use it with a BPDenoiser"
            )
        assert self.noise_process is not None
        v = self.grammar(0).v
        self._noise = theory.effective_noise(self.noise_process, self.times, v)
        self._information = theory.leaf_information(self.noise_process, self.times, v)

    def lines(self) -> list[Line]:
        """List one curve, of all leaves."""
        return [Line("leaves", {}, 0, 0, range(len(self.sources)))]

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Return what the sampler measured: shape (2, T, 1, B)."""
        assert record.effective_noise is not None
        assert record.leaf_information is not None
        return torch.stack((record.effective_noise, record.leaf_information))[:, :, None]

    def summarize(self, samples: Floats, source_indices: NDArray[np.int64], line: Line) -> Columns:
        """Compute averages, their errors, and the expected values."""
        noise, information = (average(x, source_indices) for x in samples)
        return {
            "noise": noise.mean,
            "sem": noise.sem,
            "count": len(source_indices),
            "quadrature": self._noise,
            "grammars": len(np.unique(source_indices)),
            "grammar_std": noise.grammar_std,
            "sem_within": noise.sem_within,
            "leaf_information": information.mean,
            "leaf_information_sem": information.sem,
            "leaf_information_sem_within": information.sem_within,
            "leaf_information_quadrature": self._information,
        }

    def panels(self, results: Results) -> Sequence[Panel]:
        """Draw one panel for each."""
        labels = ("effective noise ε(t)", "information of a leaf I(x₀; x_t) / ln v")
        return [
            Panel(
                label,
                results.curves(pair.measured),
                results.curves(pair.sem),
                results.curves(pair.theory),
                "quadrature",
            )
            for label, pair in zip(labels, self.compared, strict=True)
        ]
