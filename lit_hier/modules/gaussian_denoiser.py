"""The exact denoiser of data without a hierarchy."""

import torch
from torch import Tensor

from lit_hier.diffusion import ForwardBackward, Latents
from lit_hier.errors import InputError
from lit_hier.gaussian import Distribution
from lit_hier.modules.forward_backward import ForwardBackwardModule
from lit_hier.processes import GaussianNoise, diffuse
from lit_hier.streams import Purpose, uniform


class GaussianDenoiser(ForwardBackwardModule):
    """Denoises diffused data by their closed-form posterior.

    The noise of a sample and its draw from the posterior depend on (seed, sample index, inversion
    time) only. Where the data have classes, the latents have one level: the class.

    Args:
        distribution: What the data are drawn from; the command line links it to the data module's.
        times: Diffusion times, ascending.
        seed: Seed of the noise and of the posterior samples, 0 to 2^64 - 1.

    Raises:
        InputError: `distribution` is not a distribution, or the times or the seed are out of range
            or out of order.
    """

    def __init__(self, distribution: Distribution, times: list[float], seed: int = 0) -> None:
        if not isinstance(distribution, Distribution):
            raise InputError(
                "model: GaussianDenoiser needs data of a distribution; give a GaussianDataModule"
            )
        process = GaussianNoise()
        process.check_times(times)
        super().__init__(times, process.axis, seed)
        self.noise_process = process
        self.distribution = distribution
        self.sources = (distribution,)

    def forward_backward(self, batch: dict[str, Tensor]) -> ForwardBackward:
        """Diffuse a batch to each time and sample the posterior.

        Args:
            batch: `x`, (B, 1, *spatial), `label`, (B,), and `index`, (B,), as `GaussianDataset`
                returns them.

        Raises:
            InputError: A posterior sample is NaN or infinite.
        """
        x_start, index = batch["x"], batch["index"]
        x_0, num_noise = x_start.double(), x_start[0].numel()
        known, device = index.cpu(), x_start.device
        samples, labels, probabilities = [], [], []
        for time in self.track(self.times):
            noise = uniform(self.seed, Purpose.CORRUPTION, known, time, num_noise, device=device)
            num_draws = self.distribution.num_draws
            draws = uniform(self.seed, Purpose.POSTERIOR, known, time, num_draws, device=device)
            drawn = self.distribution.posterior(diffuse(x_0, time, noise), time, draws)
            samples.append(drawn.x_0.to(x_start.dtype))
            labels.append(drawn.label)
            probabilities.append(drawn.probabilities)
        x_reversed = torch.stack(samples)
        culprit = f"distribution: {type(self.distribution).__name__}"
        self.check_finite(x_reversed, index, culprit, "use smaller times")
        latents = None
        if self.distribution.num_classes > 1:
            latents = Latents(
                (batch["label"][:, None],),
                (torch.stack(labels)[..., None],),
                (torch.stack(probabilities)[:, :, None],),
            )
        return ForwardBackward(
            x_start=x_start,
            x_reversed=x_reversed,
            times=torch.tensor(self.times, dtype=torch.float64),
            axis=self.axis,
            index=index,
            label=batch["label"],
            latents=latents,
        )
