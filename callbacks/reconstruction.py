"""How much of a datum's tree survives the forward-backward experiment."""

from collections.abc import Mapping, Sequence

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from callbacks.curves import CurveAnalysis, Curves, Floats
from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.metrics import standard_error
from lit_hier.modules import ForwardBackwardModule
from lit_hier.plots import Panel


class Reconstruction(CurveAnalysis):
    """Probability of the true symbol, and the share of unchanged symbols, per level (Figs. 5, 7).

    Both are averaged over the nodes of a level, then over data: `marginal` is the posterior
    probability that belief propagation gives the symbol of x_start, `unchanged` says how often
    the sample drawn from the posterior has it again. Their expectations are equal.

    Writes, besides what `CurveAnalysis` lists: `reconstruction.csv` with columns process, time,
    level, marginal, unchanged, sem (of `marginal`, over data), count, theory (mean field; NaN
    where it says nothing), unchanged_sem; `reconstruction.npz` with the arrays `marginal` and
    `unchanged` (time, curve, index), `time`, `curve`, `index`. Logs to TensorBoard the curves
    `reconstruction/marginal`, `reconstruction/unchanged` and `reconstruction/theory`.
    """

    name = "reconstruction"
    quantities = ("marginal", "unchanged")
    logged = ("marginal", "unchanged", "theory")
    legend = "level"

    def lines(self) -> list[tuple[str, dict[str, str | int]]]:
        """One per level, leaves first."""
        return [(f"level {k}", {"level": k}) for k in range(self.num_levels)]

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Average over the nodes of each level: shape (2, T, levels, B).

        Raises:
            InputError: The record has no trees.
        """
        if record.tree_start is None or record.tree_reversed is None or record.marginals is None:
            raise InputError(
                f"model: Reconstruction needs trees, which {type(pl_module).__name__} does not"
                " give; use it with a BPDenoiser"
            )
        self.num_levels = len(record.tree_start)
        marginal = [
            belief.gather(-1, true.expand(len(belief), -1, -1)[..., None]).squeeze(-1).mean(-1)
            for belief, true in zip(record.marginals, record.tree_start, strict=True)
        ]
        unchanged = [
            (new == true).float().mean(-1)
            for new, true in zip(record.tree_reversed, record.tree_start, strict=True)
        ]
        return torch.stack((torch.stack(marginal, 1), torch.stack(unchanged, 1)))

    def summarise(self, samples: Floats, time: int, line: int) -> dict[str, float]:
        """Means over data with their standard errors, and the theory."""
        marginal, unchanged = samples.astype("float64")
        return {
            "marginal": float(marginal.mean()),
            "unchanged": float(unchanged.mean()),
            "sem": standard_error(marginal),
            "count": len(marginal),
            "theory": self.theory[time][line] if self.theory else torch.nan,
            "unchanged_sem": standard_error(unchanged),
        }

    def panels(self, curves: Mapping[str, Curves]) -> Sequence[Panel]:
        """Marginals with the theory over them, beside the samples."""
        return [
            Panel(
                "probability of the true symbol",
                curves["marginal"],
                bands=curves["sem"],
                theory=curves["theory"],
            ),
            Panel("unchanged symbols", curves["unchanged"], bands=curves["unchanged_sem"]),
        ]
