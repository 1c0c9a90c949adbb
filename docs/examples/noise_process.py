"""A noise process of your own: a symbol is mistaken for the next one of the alphabet."""

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor
from torch.nn.functional import one_hot

from lit_hier.callbacks import Reconstruction
from lit_hier.data import RHMDataModule
from lit_hier.modules import BPDenoiser
from lit_hier.processes import NoiseProcess, TimeAxis
from lit_hier.rhm import RandomHierarchyModel


class TypewriterNoise(NoiseProcess):
    axis = TimeAxis("typewriter", "probability of the next symbol", "p", 0.5)

    def num_draws(self, num_leaves: int, num_features: int) -> int:
        return num_leaves

    def corrupt(self, leaves, time, draws, num_features) -> Tensor:
        return (leaves + (draws < time)) % num_features

    def messages(self, observed, time, num_features, dtype) -> Tensor:
        same, previous = (
            one_hot(x % num_features, num_features) for x in (observed, observed - 1)
        )
        return ((1 - time) * same + time * previous).to(dtype)

    def effective_noise(self, time: float, num_features: int) -> float:
        wrong = 2 * time * (1 - time)  # the mean belief in other symbols than the true one
        return wrong * num_features / (num_features - 1)


if __name__ == "__main__":
    data = RHMDataModule(rhm := RandomHierarchyModel(8, 2, 2, 4), 0, 0, 0, num_predict=100)
    trainer = Trainer(logger=CSVLogger("logs", "noise_process"), callbacks=[Reconstruction()])
    model = BPDenoiser(rhm, TypewriterNoise(), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    trainer.predict(model, data, return_predictions=False)
