"""Pictures of what the experiment makes."""

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer

from callbacks.analysis import Analysis
from callbacks.writers import log_figure, write_figure
from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.metrics import SampleTable
from lit_hier.modules import ForwardBackwardModule
from lit_hier.pixels import to_levels
from lit_hier.plots import grid_figure


class SampleGrid(Analysis):
    """The first images of a run beside what becomes of them at each inversion time (Figs. 1, 2).

    A row per image: x_start, then its x_reversed for inversion times that ascend (Fig. 2, left). A
    single image is laid out in several rows (Fig. 1).

    Writes `samples.png`, and logs it to TensorBoard as the picture `samples`.

    Args:
        num_images: Images shown: those of the smallest sample indices.
        num_times: The most inversion times shown, spread evenly over the run's.

    Raises:
        InputError: A number is too small.
    """

    name = "samples"

    def __init__(self, num_images: int = 6, num_times: int = 10) -> None:
        super().__init__()
        for argument, value in (("num_images", num_images), ("num_times", num_times)):
            if value < 1:
                raise InputError(f"{argument} is {value}; give at least 1")
        self.num_images = num_images
        self.num_times = num_times

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with no pictures."""
        super().on_predict_start(trainer, pl_module)
        later = np.flatnonzero(np.array(self.times) > 0)  # at 0 stands the start once more
        chosen = np.linspace(0, len(later) - 1, min(self.num_times, len(later)))
        self._shown = later[chosen.round().astype(int)]
        self._pictures: SampleTable | None = None

    def see(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> None:
        """Keep the first images and what became of them.

        Raises:
            InputError: The data are no images.
        """
        x = record.x_start
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise InputError(
                f"data: SampleGrid shows images of 1 or 3 channels, not x of {tuple(x.shape)}"
            )
        if self._pictures is None:
            shape = (1 + len(self._shown), *x.shape[1:])
            self._pictures = SampleTable(*shape, num_samples=self.num_images)
        early = record.index < self.num_images
        first = [x[early], *record.x_reversed[self._shown][:, early]]
        pictures = np.stack([to_levels(part).cpu().numpy() for part in first])
        self._pictures.update(
            record.index[early].cpu(), x.new_tensor(np.moveaxis(pictures, 1, -1), device="cpu")
        )

    def unite(self, pl_module: ForwardBackwardModule) -> NDArray[np.uint8]:
        """Gather the pictures of all processes: shape (1 + times, C, H, W, images)."""
        if self._pictures is None:
            raise InputError("data: none of this process's images can be read; give others")
        _, pictures = self._pictures.to(pl_module.device).compute()
        self._pictures = None
        return pictures.cpu().numpy().astype(np.uint8)

    def write(self, trainer: Trainer, folder: str, measured: NDArray[np.uint8]) -> None:
        """Draw the grid."""
        titles = ["start", *(f"{self.axis.symbol} = {self.times[k]:g}" for k in self._shown)]
        figure = grid_figure(np.moveaxis(measured, (-1, 1), (0, -1)), titles)
        write_figure(folder, self.name, figure)
        log_figure(trainer.loggers, self.name, figure)
