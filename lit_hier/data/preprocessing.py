r"""Preprocessing of images as for the paper's diffusion model: scaled square crops.

While the short side is at least twice the target size, boxes of 2 x 2 pixels are averaged. Then
the image is scaled bicubically by

.. math:: \text{size} / \min(\text{width}, \text{height})

and the central square is cropped. Nothing else changes. The orientation in EXIF data is ignored,
as for that model: a photograph whose file says that it was taken sideways stays sideways. Such
images are counted as `rotated`.

Source: Dhariwal and Nichol, "Diffusion models beat GANs on image synthesis" (2021), whose code
returns the same bits.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lit_hier.data.levels import to_8_bits
from lit_hier.errors import InputError

_MODES: Final = {1: "L", 3: "RGB"}
_MAX_LENGTH: Final = 2**22  # pixels of the long side, once scaled; PIL has 40 bytes for each
_ORIENTATION: Final = 0x0112  # tag of EXIF data
_UPRIGHT: Final = 1  # its usual value; up to 8, others rotate or reflect
_STRIP: Final = 2**24  # pixels that are resampled at a time


class PreparedImage(NamedTuple):
    """A preprocessed image, and what its preprocessing required.

    Attributes:
        levels: Pixel levels, uint8, shape (size, size, C).
        converted: Whether the image had another mode: other channels, a palette or 16 bits.
        enlarged: Whether its short side was below `size`.
        constant: Whether all its pixels are equal.
        rotated: Whether its EXIF data state another orientation, which is ignored.
    """

    levels: NDArray[np.uint8]
    converted: bool
    enlarged: bool
    constant: bool
    rotated: bool


def center_crop(image: Image.Image, size: int, mode: str | None = None) -> NDArray[np.uint8]:
    """Scale the short side of an image to `size` and crop the central square.

    What is cropped is never kept, so that memory is bounded by the image itself.

    Args:
        image: The image.
        size: Pixels per side.
        mode: L or RGB, to which the image is converted first; by default, it has one of these.

    Returns:
        Pixel levels, uint8, shape (size, size) or (size, size, 3).

    Raises:
        ValueError: The image is so narrow that its long side would be too long once scaled, or it
            cannot be converted.
    """
    mode = mode or image.mode
    while min(image.size) >= 2 * size:
        image = _resize(image, (image.width // 2, image.height // 2), Image.Resampling.BOX, mode)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    if max(width, height) > _MAX_LENGTH:
        raise ValueError(f"it is too narrow: once scaled, it has {width} x {height} pixels")
    return np.array(_resize(image, (width, height), Image.Resampling.BICUBIC, mode, size))


def _resize(
    image: Image.Image,
    shape: tuple[int, int],
    kind: Image.Resampling,
    mode: str,
    size: int | None = None,
) -> Image.Image:
    """Resize rows, round, then resize columns; from version 13, Pillow may change the order.

    Args:
        image: The image, of any mode.
        shape: Width and height of the result.
        kind: The filter.
        mode: L or RGB, to which the image is converted first.
        size: Pixels per side of the central square, all that is kept; by default everything is.
    """
    for axis in (0, 1):
        image = _resize_axis(image, axis, shape[axis], kind, mode, size)
    return image


def _resize_axis(
    image: Image.Image,
    axis: int,
    length: int,
    kind: Image.Resampling,
    mode: str,
    size: int | None,
) -> Image.Image:
    """Resize one axis, 0 for the width or 1 for the height, strip by strip of the other one."""
    others = image.size[1 - axis]
    kept = length if size is None else size
    first = (length - kept) // 2
    resized = Image.new(mode, _along(axis, kept, others))
    thickness = max(1, _STRIP // max(length, image.size[axis]))
    for start in range(0, others, thickness):
        end = min(start + thickness, others)
        box = (*_along(axis, 0, start), *_along(axis, image.size[axis], end))
        strip = image.crop(box).convert(mode).resize(_along(axis, length, end - start), kind)
        box = (*_along(axis, first, 0), *_along(axis, first + kept, end - start))
        resized.paste(strip.crop(box), _along(axis, 0, start))
    return resized


def _along(axis: int, value: int, other: int) -> tuple[int, int]:
    """Return x and y, of which `value` belongs to the axis."""
    return (value, other) if axis == 0 else (other, value)


def prepare(image: Any, size: int, channels: int, max_level: float | None = None) -> PreparedImage:
    """Convert an image, the first frame of an animation, and crop it with `center_crop`.

    Args:
        image: A PIL image; or uint8 levels: an array (H, W) or (H, W, C), or a tensor (C, H, W).
        size: Pixels per side.
        channels: 1 for grayscale or 3 for color.
        max_level: The level of white in an image of more than 8 bits, see `lit_hier.data.levels`.

    Raises:
        InputError: `image` has another type, or more than 8 bits without `max_level`.
        ValueError: The image cannot be converted. PIL may raise other exceptions on lazily read
            files.
    """
    if not isinstance(image, Image.Image):
        image = _from_levels(image)
    mode = _MODES[channels]
    converted = image.mode != mode
    enlarged = min(image.size) < size
    rotated = _is_rotated(image)
    if image.mode[0] in "IF":
        if max_level is None:
            raise InputError(
                f"max_level: an image of mode {image.mode} has more than 8 bits, and no level that"
                " is known to be white; give ImageFiles with max_level, or images of 8 bits"
            )
        image = to_8_bits(image, max_level)
    levels = center_crop(image, size, mode).reshape(size, size, channels)
    constant = bool((levels == levels[0, 0]).all())
    return PreparedImage(levels, converted, enlarged, constant, rotated)


def _is_rotated(image: Image.Image) -> bool:
    try:
        return image.getexif().get(_ORIENTATION, _UPRIGHT) in range(_UPRIGHT + 1, 9)
    except Exception:  # PIL may raise anything on malformed EXIF data, which state nothing
        return False


def _from_levels(levels: Any) -> Image.Image:
    """Convert a tensor, channels first, or an array, channels last, to a PIL image."""
    if isinstance(levels, Tensor):
        levels = levels.movedim(0, -1) if levels.ndim == 3 else levels
        levels = levels.numpy()
    if getattr(levels, "dtype", None) != np.uint8:
        kind = getattr(levels, "dtype", type(levels).__name__)
        raise InputError(
            f"transform: images are {kind}; remove the dataset's transform, or make it return PIL"
            " images or uint8 levels"
        )
    if levels.ndim == 3 and levels.shape[2] not in (1, 3, 4):
        raise ValueError(f"it has {levels.shape[2]} channels")
    return Image.fromarray(levels[..., 0] if levels.shape[2:] == (1,) else levels)
