"""Pictures of what the experiment makes."""

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from lit_hier.callbacks.analysis import Analysis
from lit_hier.callbacks.writers import log_figure, write_figure
from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.figures.plots import grid_figure
from lit_hier.io.pixels import to_levels
from lit_hier.modules import ForwardBackwardModule


class SampleGrid(Analysis):
    """Images of a run beside what becomes of them at each inversion time (Figs. 1, 2).

    The run's samples are cut into equally many parts, and the first image of each is shown, so
    that classes that stand together in the data do not fill the picture. A row per image: x_start,
    then its x_reversed for inversion times that ascend (Fig. 2, left). A single image is laid out
    in several rows (Fig. 1).

    Writes `samples.png`, and logs it to TensorBoard as the picture `samples`.

    Args:
        num_images: Images shown.
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
        later = np.flatnonzero(np.array(self.times) > 0)  # at 0 stands the start once more
        chosen = np.linspace(0, len(later) - 1, min(self.num_times, len(later)))
        self._shown = later[chosen.round().astype(int)]
        self._num_samples = self.num_samples(trainer)
        self._first: dict[int, tuple[int, Tensor]] = {}  # sample and pictures, by part

    def update(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> None:
        """Keep an image and what became of it, if it is the first of its part.

        Raises:
            InputError: The data are no images.
        """
        x = record.x_start
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise InputError(
                f"data: SampleGrid shows images of 1 or 3 channels, not x of {tuple(x.shape)}"
            )
        for column, sample in enumerate(record.index.tolist()):
            part = sample * self.num_images // self._num_samples
            if part not in self._first or sample < self._first[part][0]:
                row = torch.stack(
                    [x[column], *(record.x_reversed[k, column] for k in self._shown)]
                )
                self._first[part] = sample, to_levels(row)

    def compute(self, pl_module: ForwardBackwardModule) -> NDArray[np.uint8]:
        """Gather the pictures of all processes: shape (images, 1 + times, C, H, W)."""
        none = torch.empty(0, 1, 1, 1, 1, dtype=torch.uint8, device=pl_module.device)
        rows = [pictures for _, pictures in self._first.values()]
        pictures = torch.stack(rows) if rows else none
        numbers = [[part, sample] for part, (sample, _) in self._first.items()]
        keys = torch.tensor(numbers, dtype=torch.int64, device=pl_module.device).view(-1, 2)
        self._first = {}
        shares = [(keys, pictures)]
        if pl_module.trainer.world_size > 1:
            shares = list(zip(gather_all_tensors(keys), gather_all_tensors(pictures), strict=True))
        keys = torch.cat([share for share, _ in shares])
        pictures = torch.cat([share for _, share in shares if len(share)] or [none])
        order = keys[:, 1].argsort()  # the first of each part is the smallest of it
        _, rows_of = np.unique(keys[order, 0].cpu().numpy(), return_index=True)
        return pictures[order][rows_of].cpu().numpy()

    def write(self, trainer: Trainer, folder: str, measured: NDArray[np.uint8]) -> None:
        """Draw the grid.

        Raises:
            InputError: There is nothing to show.
        """
        if not measured.size:
            raise InputError("data: none of the images can be read; give others")
        titles = ["start", *(f"{self.axis.symbol} = {self.times[k]:g}" for k in self._shown)]
        figure = grid_figure(np.moveaxis(measured, 2, -1), titles)
        write_figure(folder, self.name, figure)
        log_figure(trainer.loggers, self.name, figure)
