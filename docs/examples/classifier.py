"""A classifier of your own: any torch module that maps `x`, (B, v, s^L), to logits (B, n)."""

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn

from lit_hier.callbacks import ActivationSimilarity, ClassKept
from lit_hier.data import RHMDataModule
from lit_hier.modules import BPDenoiser
from lit_hier.processes import EpsilonNoise
from lit_hier.rhm import RandomHierarchyModel


class TwoLayers(nn.Module):
    def __init__(self, num_features: int = 8, num_leaves: int = 8, num_classes: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv1d(num_features, 32, kernel_size=2, stride=2)
        self.readout = nn.Linear(32 * num_leaves // 2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.patches(x).relu().flatten(1))


if __name__ == "__main__":
    rhm = RandomHierarchyModel(num_features=8, num_synonyms=2, tuple_size=2, num_layers=3)
    data = RHMDataModule(rhm, num_train=0, num_val=0, num_test=100, num_predict=100)
    network = TwoLayers()  # train it, or load your weights, here
    measurements = [
        ActivationSimilarity(network, layers=["patches", "readout"]),
        ClassKept(network),
    ]
    trainer = Trainer(logger=CSVLogger("logs", "classifier"), callbacks=measurements)
    sampler = BPDenoiser(rhm, EpsilonNoise(), times=[0.2, 0.4, 0.6, 0.8, 1.0])
    trainer.predict(sampler, data, return_predictions=False)
