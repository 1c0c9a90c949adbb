r"""Images as the paper's diffusion model takes them: levels of equal squares.

As long as the short side is at least twice what is wanted, boxes of 2 x 2 pixels are averaged;
then the image is scaled bicubically, by

.. math:: \text{size} / \min(\text{width}, \text{height}),

and the square in its middle is cut out. Nothing else is done: an image that a camera says to
turn stays as it is stored.

Source: Dhariwal and Nichol, "Diffusion models beat GANs on image synthesis" (2021), whose code
gives the same bits.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lit_hier.errors import InputError

_MODES: Final = {1: "L", 3: "RGB"}
_MOST: Final = 2**28  # pixels of a scaled image: a strip of one pixel would fill any memory


class Prepared(NamedTuple):
    """An image as networks take it, and what it needed for that.

    Attributes:
        levels: uint8, shape (size, size, C).
        converted: Whether it had other channels, or a palette, or 16 bits.
        enlarged: Whether its short side was less than `size`.
    """

    levels: NDArray[np.uint8]
    converted: bool
    enlarged: bool


def centre_crop(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Scale an image until its short side fits, and cut out the square in its middle.

    Args:
        image: Of mode L or RGB.
        size: Pixels per side.

    Returns:
        uint8, shape (size, size) or (size, size, 3).

    Raises:
        ValueError: It is so long and narrow that it would fill the memory.
    """
    while min(image.size) >= 2 * size:
        image = _resize(image, image.width // 2, image.height // 2, Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    if width * height > _MOST:
        raise ValueError(f"it is too long and narrow: scaled, it has {width} x {height} pixels")
    scaled = np.array(_resize(image, width, height, Image.Resampling.BICUBIC))
    top, left = (height - size) // 2, (width - size) // 2
    return scaled[top : top + size, left : left + size]


def _resize(image: Image.Image, width: int, height: int, kind: Image.Resampling) -> Image.Image:
    """Resize rows, round, then columns: from version 13 on, Pillow itself may change the order."""
    return image.resize((width, image.height), kind).resize((width, height), kind)


def prepare(image: Any, size: int, channels: int) -> Prepared:
    """Convert an image, of an animation the first one, and crop it: see `centre_crop`.

    16 bits are reduced to the upper 8.

    Args:
        image: A PIL image; or uint8 levels, an array (H, W) or (H, W, C), or a tensor (C, H, W).
        size: Pixels per side.
        channels: 1, grey, or 3, colours.

    Raises:
        InputError: It is none of these.
        ValueError: It cannot be converted. PIL raises other errors too, of files read lazily.
    """
    if not isinstance(image, Image.Image):
        image = _from_levels(image)
    mode = _MODES[channels]
    converted = image.mode != mode
    enlarged = min(image.size) < size
    if image.mode[0] in "IF":
        image = _upper_byte(image)
    levels = centre_crop(image.convert(mode), size)
    return Prepared(levels.reshape(size, size, channels), converted, enlarged)


def _from_levels(levels: Any) -> Image.Image:
    """Make a PIL image of a tensor, channels first, or of an array, channels last."""
    if isinstance(levels, Tensor):
        levels = levels.movedim(0, -1) if levels.ndim == 3 else levels
        levels = levels.numpy()
    if getattr(levels, "dtype", None) != np.uint8:
        kind = getattr(levels, "dtype", type(levels).__name__)
        raise InputError(
            f"transform: images come as {kind}; leave the data set's transform out, or let it"
            " give PIL images or uint8 levels"
        )
    if levels.ndim == 3 and levels.shape[2] not in (1, 3, 4):
        raise ValueError(f"it has {levels.shape[2]} channels")
    return Image.fromarray(levels[..., 0] if levels.shape[2:] == (1,) else levels)


def _upper_byte(image: Image.Image) -> Image.Image:
    """Reduce 16 bits to 8, which PIL would cut off at 255."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError(f"its values, of mode {image.mode}, are not of 8 or 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))
