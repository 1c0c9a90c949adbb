"""How a network of guided-diffusion was trained: its flags, under their own names.

Source: https://github.com/openai/guided-diffusion, `guided_diffusion/script_util.py`.
"""

from dataclasses import dataclass, fields
from typing import Final, Literal

from lit_hier.errors import InputError

ADM_SUFFIXES: Final = (".pt", ".pth")
"""Suffixes of checkpoints."""

_HEAD_CHANNELS: Final = 64  # of the published networks
_NUM_HEADS: Final = 4  # guided-diffusion's default, without `num_head_channels`
_MIN_STEPS, _MAX_STEPS = 21, 100_000  # the linear schedule's last beta is 20 / diffusion_steps
# What a checkpoint does not tell, besides the heads.
_UNTOLD: Final = (
    "use_new_attention_order",
    "image_size",
    "diffusion_steps",
    "noise_schedule",
    "rescale_timesteps",
    "predict_xstart",
)


@dataclass(frozen=True)
class ADMFlags:
    """The flags that an ADM network was trained with, as guided-diffusion names them.

    The first nine are not part of a checkpoint; by default they are those of the published
    unconditional model of 256 x 256 pixels. The others are read from the checkpoint, and compared
    with it if they are given.

    Args:
        image_size: Pixels per side.
        num_heads: Heads of an attention layer; without effect beside `num_head_channels`.
        num_head_channels: Channels of a head; -1 if the number of heads is fixed instead. By
            default 64, or -1 if `num_heads` is given.
        num_heads_upsample: Heads in the decoder; -1 for as many as in the encoder.
        use_new_attention_order: Whether projections are ordered as (3, heads, channels), not as
            (heads, 3, channels).
        diffusion_steps: Steps of the noise schedule in training.
        noise_schedule: The schedule, `linear` or `cosine`.
        rescale_timesteps: Whether the network sees steps scaled to 0 ... 1000.
        predict_xstart: Whether the network predicts x_0, not the noise.
        num_channels: Channels of the first level.
        num_res_blocks: Residual blocks per level of the encoder.
        channel_mult: Channels of each level, in multiples of `num_channels`, as in `1,2,3,4`.
        attention_resolutions: Sizes in pixels at which there is attention, as in `32,16,8`.
        learn_sigma: Whether the network predicts a variance.
        class_cond: Whether the network is conditioned on classes; such networks are rejected.
        use_scale_shift_norm: Whether the time scales and shifts activations, not only shifts them.
        resblock_updown: Whether residual blocks change the resolution.

    Raises:
        InputError: A flag is out of range.
    """

    image_size: int = 256
    num_heads: int | None = None
    num_head_channels: int | None = None
    num_heads_upsample: int = -1
    use_new_attention_order: bool = False
    diffusion_steps: int = 1000
    noise_schedule: Literal["linear", "cosine"] = "linear"
    rescale_timesteps: bool = False
    predict_xstart: bool = False
    num_channels: int | None = None
    num_res_blocks: int | None = None
    channel_mult: str | int | None = None
    attention_resolutions: str | int | None = None
    learn_sigma: bool | None = None
    class_cond: bool | None = None
    use_scale_shift_norm: bool | None = None
    resblock_updown: bool | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("image_size", "num_heads", "num_channels", "num_res_blocks"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"adm: {name} is {value}; give at least 1")
        for name in ("num_head_channels", "num_heads_upsample"):
            value = getattr(self, name)
            if value is not None and value < 1 and value != -1:
                raise InputError(f"adm: {name} is {value}; give at least 1, or -1 to leave it out")
        if not _MIN_STEPS <= self.diffusion_steps <= _MAX_STEPS:
            raise InputError(
                f"adm: diffusion_steps is {self.diffusion_steps}; give {_MIN_STEPS} to"
                f" {_MAX_STEPS}"
            )
        if self.noise_schedule not in ("linear", "cosine"):
            raise InputError(
                f"adm: noise_schedule is {self.noise_schedule!r}; give linear or cosine"
            )
        for name in ("channel_mult", "attention_resolutions"):
            self.get_numbers(name)

    @property
    def _size(self) -> int:
        """Channels of a head; 0 if the number of heads is fixed."""
        if self.num_head_channels is None:
            return _HEAD_CHANNELS if self.num_heads is None else 0
        return max(0, self.num_head_channels)

    @property
    def _num_heads(self) -> int:
        return self.num_heads or _NUM_HEADS

    def get_numbers(self, name: str) -> list[float]:
        """Return the numbers in a flag that lists some; none if it is not given.

        Raises:
            InputError: It lists something else.
        """
        text = getattr(self, name)
        try:
            numbers = (
                [float(part) for part in str(text).split(",")] if text not in (None, "") else []
            )
        except ValueError:
            numbers = [0.0]
        if not all(0 < number < float("inf") for number in numbers):
            raise InputError(f"adm: {name} is {text!r}; give positive numbers, as in 32,16,8")
        return numbers

    def get_head_channels(self, channels: int, in_decoder: bool) -> int:
        """Return the channels of a head.

        Args:
            channels: Those of the attention layer.
            in_decoder: Whether the layer is in the decoder.

        Raises:
            InputError: The heads do not divide the channels.
        """
        divisor, flag = self._size or self._num_heads, "num_head_channels"
        if not self._size:
            upsample = in_decoder and self.num_heads_upsample > 0
            divisor = self.num_heads_upsample if upsample else self._num_heads
            flag = "num_heads_upsample" if upsample else "num_heads"
        if channels % divisor:
            raise InputError(
                f"adm: {flag} is {divisor}, which does not divide the {channels} channels of an"
                " attention layer of the checkpoint; give num_heads or num_head_channels as in its"
                " training"
            )
        return divisor if self._size else channels // divisor

    def describe(self) -> str:
        """Describe what is assumed of a checkpoint, which does not tell it."""
        heads = f"num_head_channels={self._size}" if self._size else f"num_heads={self._num_heads}"
        return ", ".join([heads, *(f"{name}={getattr(self, name)}" for name in _UNTOLD)])


FLAG_NAMES: Final = tuple(field.name for field in fields(ADMFlags))
"""The names of all flags."""
