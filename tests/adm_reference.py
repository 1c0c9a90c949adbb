"""The network of ADM checkpoints, as its paper and its code define it.

Source: https://github.com/openai/guided-diffusion, `guided_diffusion/unet.py`.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, silu


class Residual(nn.Module):
    """BigGAN's residual block: resampling inside, scale and shift, or shift, from the time."""

    def __init__(
        self, channels: int, time: int, out: int, scales: bool, resample: str = ""
    ) -> None:
        super().__init__()
        self.scales, self.resample = scales, resample
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, (1 + scales) * out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, out), nn.SiLU(), nn.Dropout(0), nn.Conv2d(out, out, 3, padding=1)
        )
        if out != channels:
            self.skip_connection = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = silu(self.in_layers[0](x))
        if self.resample == "down":
            h, x = avg_pool2d(h, 2), avg_pool2d(x, 2)
        elif self.resample == "up":
            h, x = (interpolate(y, scale_factor=2, mode="nearest") for y in (h, x))
        h = self.in_layers[2](h)
        embedded = self.emb_layers(time)[..., None, None]
        if self.scales:
            scale, shift = embedded.chunk(2, dim=1)
            h = self.out_layers[0](h) * (1 + scale) + shift
        else:
            h = self.out_layers[0](h + embedded)
        h = self.out_layers[3](silu(h))
        skip = self.skip_connection(x) if hasattr(self, "skip_connection") else x
        return skip + h


class Attention(nn.Module):
    """Rows of the projection belong to (head, q k v, channel), or to (q k v, head, channel)."""

    def __init__(self, channels: int, heads: int, new_order: bool) -> None:
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        pixels = x.flatten(2)
        rows, size = self.qkv(self.norm(pixels)), pixels.shape[1] // self.heads
        mixed = []
        for head in range(self.heads):
            if self.new_order:
                starts = [(part * self.heads + head) * size for part in range(3)]
            else:
                starts = [(head * 3 + part) * size for part in range(3)]
            q, k, v = (rows[:, start : start + size] for start in starts)
            weight = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(size), -1)
            mixed.append(v @ weight.transpose(1, 2))
        return (pixels + self.proj_out(torch.cat(mixed, 1))).view_as(x)


class Downsample(nn.Module):
    """Half the resolution, by a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y: Tensor = self.op(x)
        return y


class Upsample(nn.Module):
    """Twice the resolution, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y: Tensor = self.conv(interpolate(x, scale_factor=2, mode="nearest"))
        return y


class ADM(nn.Module):
    """The U-Net; all flags by their names in guided-diffusion.

    Args:
        widths: Channels of each level.
        attends: Whether a level has attention.
        out: Channels of the output.
        num_res_blocks: Residual blocks per level in the encoder; one more in the decoder.
        num_heads: Heads of each attention layer, if `num_head_channels` is -1.
        num_head_channels: Channels of a head.
        num_heads_upsample: Heads in the decoder, if positive.
        use_new_attention_order: How the projections are ordered.
        use_scale_shift_norm: Whether the time scales, too.
        resblock_updown: Whether residual blocks change the resolution.
        step_scale: What steps are multiplied by, with `rescale_timesteps`.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        attends: tuple[bool, ...],
        out: int = 6,
        num_res_blocks: int = 2,
        num_heads: int = 4,
        num_head_channels: int = 64,
        num_heads_upsample: int = -1,
        use_new_attention_order: bool = False,
        use_scale_shift_norm: bool = True,
        resblock_updown: bool = True,
        step_scale: float = 1.0,
    ) -> None:
        super().__init__()
        base, time = widths[0], 4 * widths[0]
        self.base, self.step_scale = base, step_scale
        self.time_embed = nn.Sequential(nn.Linear(base, time), nn.SiLU(), nn.Linear(time, time))

        def residual(channels: int, out: int, resample: str = "") -> nn.Module:
            return Residual(channels, time, out, use_scale_shift_norm, resample)

        def attention(channels: int, decoder: bool = False) -> nn.Module:
            heads = num_heads_upsample if decoder and num_heads_upsample > 0 else num_heads
            if num_head_channels > 0:
                heads = channels // num_head_channels
            return Attention(channels, heads, use_new_attention_order)

        blocks: list[list[nn.Module]] = [[nn.Conv2d(3, base, 3, padding=1)]]
        skips, now = [base], base
        for level, (width, attend) in enumerate(zip(widths, attends, strict=True)):
            for _ in range(num_res_blocks):
                block = [residual(now, width)]
                blocks.append(block + ([attention(width)] if attend else []))
                now = width
                skips.append(now)
            if level < len(widths) - 1:
                blocks.append([residual(now, now, "down") if resblock_updown else Downsample(now)])
                skips.append(now)
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        self.middle_block = nn.ModuleList([residual(now, now), attention(now), residual(now, now)])
        blocks = []
        for level in reversed(range(len(widths))):
            for k in range(num_res_blocks + 1):
                block = [residual(now + skips.pop(), widths[level])]
                now = widths[level]
                if attends[level]:
                    block.append(attention(now, decoder=True))
                if level and k == num_res_blocks:
                    block.append(residual(now, now, "up") if resblock_updown else Upsample(now))
                blocks.append(block)
        self.output_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        self.out = nn.Sequential(
            nn.GroupNorm(32, now), nn.SiLU(), nn.Conv2d(now, out, 3, padding=1)
        )

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        half = self.base // 2
        frequency = torch.exp(-math.log(10000) * torch.arange(half, dtype=x.dtype) / half)
        phase = self.step_scale * step[:, None] * frequency
        time = self.time_embed(torch.cat((phase.cos(), phase.sin()), dim=1))
        skips = []
        for block in self.input_blocks:
            for layer in block:
                x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, time)
            skips.append(x)
        for layer in self.middle_block:
            x = layer(x, time)
        for block in self.output_blocks:
            x = torch.cat((x, skips.pop()), dim=1)
            for layer in block:
                x = layer(x, time)
        y: Tensor = self.out(x)
        return y
