"""Samples of an earlier run, as a sampler that only reads."""

from torch import Tensor

from lit_hier.diffusion.pictures import Images
from lit_hier.diffusion.store import SampleStore
from lit_hier.errors import InputError
from lit_hier.modules.image_sampler import ImageSampler


class StoredSamples(ImageSampler):
    """Reads back what a `DDPMSampler` kept, to put it through another network.

    The data module is that of the run which kept them: it brings the images that were turned
    round, which are compared with those that were kept, and the reference set. Batches may be of
    another size.

    Args:
        samples: The folder.
        times: Some of its inversion steps, ascending; all, if left out.

    Raises:
        InputError: There is no such folder, or it has no such steps.
    """

    def __init__(self, samples: str, times: list[int] | None = None) -> None:
        self._store = SampleStore.open(samples)
        steps = list(self._store.steps if times is None else times)
        missing = [k for k in steps if k not in self._store.steps]
        if missing or steps != sorted(set(steps)) or not steps:
            have = ", ".join(map(str, self._store.steps))
            raise InputError(f"times is {steps}; {samples} has {have}; give some, ascending")
        super().__init__(steps, self._store.num_steps)

    def sample(self, images: Images) -> Tensor:
        """Read the samples of a batch.

        Raises:
            InputError: They are not there, they are damaged, or they are of other images.
        """
        return self._store.load(images, self.steps).to(images.x_start)
