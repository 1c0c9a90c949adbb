"""Batches of images and a small store of samples."""

from pathlib import Path

import torch
from torch import Tensor

from lit_hier.diffusion.images import ImageBatch
from lit_hier.diffusion.store import SampleStore
from lit_hier.io.pixels import from_levels

STEPS = (0, 3, 25)


SETTINGS = {"seed": 0, "convention": "aligned"}


def images(*shape: int, seed: int = 0) -> Tensor:
    levels = torch.randint(256, shape, generator=torch.Generator().manual_seed(seed))
    return from_levels(levels.to(torch.uint8))


def batch(x_start: Tensor, samples: list[int], planned: list[int] | None = None) -> ImageBatch:
    """Samples of the images that begin with sample 4."""
    index = torch.tensor(samples)
    wanted = index if planned is None else torch.tensor(planned)
    names = [f"{sample}.png" for sample in samples]
    return ImageBatch(x_start[index - 4], index, index % 3, wanted, names)


def filled(folder: Path, channels: int = 3) -> tuple[SampleStore, Tensor, Tensor]:
    """Two batches, of samples 4 to 8 and 9 to 10; of the second, sample 11 could not be read."""
    store = SampleStore.create(folder, STEPS, 25, SETTINGS)
    x_start, x_reversed = images(7, channels, 6, 5), images(3, 7, channels, 6, 5, seed=1)
    store.save(batch(x_start, [4, 5, 6, 7, 8]), x_reversed[:, :5])
    store.save(batch(x_start, [9, 10], [9, 10, 11]), x_reversed[:, 5:])
    return store, x_start, x_reversed
