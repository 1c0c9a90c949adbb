"""Images of a run, before and after forward-backward."""

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from lit_hier.callbacks.analysis import Analysis
from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.figures import grid_figure
from lit_hier.io.pixels import to_levels
from lit_hier.modules import ForwardBackwardModule
from lit_hier.rhm.parameters import GrammarParameters


class SampleGrid(Analysis):
    """Images of a run next to their x_reversed at each inversion time (Figs. 1, 2).

    The run is split into `num_images` equal parts, and the first image of each is shown, so that
    data sorted by class show several classes. A row per image: x_start, then x_reversed for
    ascending inversion times (Fig. 2, left). A single image fills several rows (Fig. 1).

    Writes `samples.png`. Logs to TensorBoard the figure `samples`.

    Args:
        num_images: Images shown.
        num_times: Largest number of inversion times shown, spread evenly over the run's.

    Raises:
        InputError: `num_images` or `num_times` is less than 1; in `setup`, the data are drawn from
            a grammar or a distribution that does not have the shape of images; during the run, a
            batch does not have it.
    """

    name = "samples"

    def __init__(self, num_images: int = 6, num_times: int = 10) -> None:
        super().__init__()
        for argument, value in (("num_images", num_images), ("num_times", num_times)):
            if value < 1:
                raise InputError(f"{argument} is {value}; give at least 1")
        self.num_images = num_images
        self.num_times = num_times

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reject data whose source is known not to be images, and runs as `Analysis` does."""
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        for source in self.sources:
            if isinstance(source, GrammarParameters):
                raise InputError(
                    "data: SampleGrid shows images, not strings of a grammar; leave it out"
                )
            if source is not None:
                _check_images(source.shape)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the inversion times."""
        later = np.flatnonzero(np.array(self.times) > 0)  # at 0, x_reversed equals x_start
        chosen = np.linspace(0, len(later) - 1, min(self.num_times, len(later)))
        self._shown = later[chosen.round().astype(int)]
        self._num_samples = self.num_samples(trainer)
        self._first: dict[int, tuple[int, Tensor]] = {}  # sample index and row, by part

    def update(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> None:
        """Keep each image that is the first of its part, with its x_reversed.

        Raises:
            InputError: The data are not images.
        """
        x = record.x_start
        _check_images(tuple(x.shape[1:]))
        for column, sample in enumerate(record.index.tolist()):
            part = sample * self.num_images // self._num_samples
            if part not in self._first or sample < self._first[part][0]:
                row = torch.stack(
                    [x[column], *(record.x_reversed[k, column] for k in self._shown)]
                )
                self._first[part] = sample, to_levels(row)

    def compute(self, pl_module: ForwardBackwardModule) -> NDArray[np.uint8]:
        """Gather the rows of all processes: uint8, shape (images, 1 + times, C, H, W)."""
        empty = torch.empty(0, 1, 1, 1, 1, dtype=torch.uint8, device=pl_module.device)
        rows = torch.stack([row for _, row in self._first.values()]) if self._first else empty
        pairs = [[part, sample] for part, (sample, _) in self._first.items()]
        keys = torch.tensor(pairs, dtype=torch.int64, device=pl_module.device).view(-1, 2)
        self._first = {}
        gathered = [(keys, rows)]
        if pl_module.trainer.world_size > 1:
            gathered = list(zip(gather_all_tensors(keys), gather_all_tensors(rows), strict=True))
        keys = torch.cat([keys for keys, _ in gathered])
        rows = torch.cat([rows for _, rows in gathered if len(rows)] or [empty])
        order = keys[:, 1].argsort()  # `unique` then finds the smallest sample index of each part
        _, first = np.unique(keys[order, 0].cpu().numpy(), return_index=True)
        return rows[order][first].cpu().numpy()

    def write(self, trainer: Trainer, measured: NDArray[np.uint8]) -> None:
        """Leave the grid to be drawn.

        Raises:
            InputError: No image could be read.
        """
        if not measured.size:
            raise InputError("data: none of the images can be read; check the files")
        titles = ["start", *(f"{self.axis.symbol} = {self.times[k]:g}" for k in self._shown)]
        images = np.moveaxis(measured, 2, -1)
        self.draw_later(lambda: {self.name: grid_figure(images, titles)})


def _check_images(shape: tuple[int, ...]) -> None:
    """Check that the shape of a datum is (C, H, W) with 1 or 3 channels."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(
            "data: SampleGrid shows images of shape (1, H, W) or (3, H, W), but the data have"
            f" shape {shape}; leave it out"
        )
