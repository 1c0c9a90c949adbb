"""The exact denoiser of data without a hierarchy."""

import torch
from torch import Tensor

from lit_hier.diffusion import ForwardBackward, Source
from lit_hier.errors import InputError
from lit_hier.gaussian import Distribution
from lit_hier.modules.forward_backward import ForwardBackwardModule
from lit_hier.processes import GaussianNoise, diffuse
from lit_hier.streams import Purpose, uniform


class GaussianDenoiser(ForwardBackwardModule):
    """Turns Gaussian data round by their closed-form posterior.

    A sample's noise and its draw from the posterior depend on (seed, sample index, inversion
    time) only. Where the data have classes, the record's trees are of one level: the class.

    Args:
        distribution: What the data are drawn from; the command line takes it from the data module.
        times: Diffusion times, ascending.
        seed: Seed of the noise and of the posterior samples, 0 to 2^64 - 1.

    Raises:
        InputError: There is no distribution, the times are none, negative or out of order, or the
            seed is out of range.
    """

    def __init__(self, distribution: Distribution, times: list[float], seed: int = 0) -> None:
        if not isinstance(distribution, Distribution):
            raise InputError(
                "model: GaussianDenoiser needs data of a distribution; give a GaussianDataModule"
            )
        process = GaussianNoise()
        process.check_times(times)
        super().__init__(times, process.axis, seed)
        self.distribution = distribution
        theory = [distribution.class_theory(time) for time in self.times]
        marginal = torch.tensor(theory, dtype=torch.float64)[:, None]
        theories = {"marginal": marginal}
        levels = int(distribution.num_classes > 1)
        self.sources = (Source(num_levels=levels, theory=theories, theory_name="quadrature"),)

    def forward_backward(self, batch: dict[str, Tensor]) -> ForwardBackward:
        """Diffuse a batch to each time and draw from the posterior.

        Args:
            batch: `x`, (B, 1, *spatial), `label`, (B,), and `index`, (B,), as `GaussianDataset`
                gives them.
        """
        x_start, index = batch["x"], batch["index"]
        x_0, num_noise = x_start.double(), x_start[0].numel()
        reversed_, labels, probabilities = [], [], []
        for time in self.track(self.times):
            noise = uniform(self.seed, Purpose.CORRUPTION, index, time, num_noise)
            num_draws = self.distribution.num_draws
            draws = uniform(self.seed, Purpose.POSTERIOR, index, time, num_draws)
            drawn = self.distribution.posterior(diffuse(x_0, time, noise), time, draws)
            reversed_.append(drawn.x_0.to(x_start.dtype))
            labels.append(drawn.label)
            probabilities.append(drawn.probabilities)
        classes = self.distribution.num_classes > 1
        x_reversed = torch.stack(reversed_)
        culprit = f"distribution: {type(self.distribution).__name__}"
        self.check_finite(x_reversed, index, culprit, "take smaller times")
        return ForwardBackward(
            x_start=x_start,
            x_reversed=x_reversed,
            times=torch.tensor(self.times, dtype=torch.float64),
            axis=self.axis,
            index=index,
            label=batch["label"],
            tree_start=(batch["label"][:, None],) if classes else None,
            tree_reversed=(torch.stack(labels)[..., None],) if classes else None,
            marginals=(torch.stack(probabilities)[:, :, None],) if classes else None,
        )
