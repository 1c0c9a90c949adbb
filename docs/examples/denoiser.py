"""A denoiser of your own, which knows no more of its data than that their variance is 1."""

import math

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor

from lit_hier.callbacks import ActivationSimilarity
from lit_hier.data import RHMDataModule
from lit_hier.diffusion import ForwardBackward
from lit_hier.modules import ForwardBackwardModule
from lit_hier.nn import HierarchicalCNN
from lit_hier.processes import GaussianNoise, diffuse, normal_quantile
from lit_hier.rhm import RandomHierarchyModel
from lit_hier.streams import Purpose, uniform


class WienerDenoiser(ForwardBackwardModule):
    def __init__(self, times: list[float], seed: int = 0) -> None:
        super().__init__(times, GaussianNoise.axis, seed)

    def forward_backward(self, batch: dict[str, Tensor]) -> ForwardBackward:
        x, index, samples = batch["x"], batch["index"], []
        for t in self.track(self.times):
            draws = uniform(self.seed, Purpose.CORRUPTION, index, t, 2 * x[0].numel())
            noise, fresh = draws.chunk(2, dim=1)
            x_t, eta = diffuse(x, t, noise), normal_quantile(fresh).view(x.shape)
            samples.append(math.exp(-t) * x_t + math.sqrt(1 - math.exp(-2 * t)) * eta)
        x_reversed, times = torch.stack(samples).to(x), torch.tensor(self.times).double()
        return ForwardBackward(x, x_reversed, times, self.axis, index, batch["label"])


if __name__ == "__main__":
    data = RHMDataModule(RandomHierarchyModel(8, 2, 2, 3), 0, 0, num_test=100, num_predict=100)
    similarity = ActivationSimilarity(HierarchicalCNN(8, 8, 2, 3, width=16), ["layers.*"])
    trainer = Trainer(logger=CSVLogger("logs", "denoiser"), callbacks=[similarity])
    trainer.predict(WienerDenoiser([0.1, 0.5, 1.0]), data, return_predictions=False)
