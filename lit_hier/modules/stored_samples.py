"""A sampler that reads the samples of an earlier run."""

from torch import Tensor

from lit_hier.diffusion.images import ImageBatch
from lit_hier.diffusion.store import SampleStore
from lit_hier.errors import InputError
from lit_hier.modules.image_sampler import ImageSampler


class StoredSamples(ImageSampler):
    """Reads samples that a `DDPMSampler` saved, to analyze them with another network.

    The data module must be that of the run that saved them: its images are compared with the
    saved ones, and it provides the reference set. The batch size may differ.

    Args:
        samples: The folder.
        times: Some of its inversion steps, ascending; all by default.

    Raises:
        InputError: The folder cannot be read, or does not have these steps.
    """

    def __init__(self, samples: str, times: list[int] | None = None) -> None:
        self._store = SampleStore.open(samples)
        steps = list(self._store.steps if times is None else times)
        missing = [k for k in steps if k not in self._store.steps]
        if missing or steps != sorted(set(steps)) or not steps:
            saved = ", ".join(map(str, self._store.steps))
            raise InputError(
                f"times is {steps}, but {samples} has steps {saved}; give some of these, ascending"
            )
        super().__init__(steps, self._store.num_steps)

    @property
    def image_size(self) -> int | None:
        """Pixels per side of the saved samples; `None` if there are none."""
        return self._store.image_size

    def _reject_size(self, size: int) -> None:
        raise InputError(
            f"size: the images have {size} pixels per side, but the saved samples"
            f" {self.image_size}; leave out the data module's size, which is then that of"
            " the samples"
        )

    def sample(self, images: ImageBatch) -> Tensor:
        """Read the samples of a batch.

        Args:
            images: The batch.

        Returns:
            Samples of 256 levels, float32, shape (T, B, C, H, W).

        Raises:
            InputError: They are missing, damaged or of other images.
        """
        return self._store.load(images, self.steps).to(images.x_start.device)
