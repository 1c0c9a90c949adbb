"""The network of ADM checkpoints, as its paper defines it."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, silu


class Residual(nn.Module):
    """BigGAN's residual block: resampling inside, scale and shift from the time."""

    def __init__(self, channels: int, time: int, out: int, resample: str = "") -> None:
        super().__init__()
        self.resample = resample
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, 2 * out))
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
        scale, shift = self.emb_layers(time)[..., None, None].chunk(2, dim=1)
        h = self.out_layers[3](silu(self.out_layers[0](h) * (1 + scale) + shift))
        skip = self.skip_connection(x) if hasattr(self, "skip_connection") else x
        return skip + h


class Attention(nn.Module):
    """Heads of 64 channels, each with its own rows of queries, keys, values in the projection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        pixels = x.flatten(2)
        heads = self.qkv(self.norm(pixels)).unflatten(1, (-1, 3, 64))
        q, k, v = heads.unbind(2)
        weight = torch.softmax(torch.einsum("bhct,bhcs->bhts", q, k) / math.sqrt(64), -1)
        mixed = torch.einsum("bhts,bhcs->bhct", weight, v).flatten(1, 2)
        return (pixels + self.proj_out(mixed)).view_as(x)


class ADM(nn.Module):
    """The U-Net: two residual blocks per level in the encoder, three in the decoder."""

    def __init__(self, widths: tuple[int, ...], attends: tuple[bool, ...], out: int = 6) -> None:
        super().__init__()
        base, time = widths[0], 4 * widths[0]
        self.base = base
        self.time_embed = nn.Sequential(nn.Linear(base, time), nn.SiLU(), nn.Linear(time, time))
        blocks: list[list[nn.Module]] = [[nn.Conv2d(3, base, 3, padding=1)]]
        skips, now = [base], base
        for level, (width, attend) in enumerate(zip(widths, attends, strict=True)):
            for _ in range(2):
                blocks.append([Residual(now, time, width)] + [Attention(width)] * attend)
                now = width
                skips.append(now)
            if level < len(widths) - 1:
                blocks.append([Residual(now, time, now, "down")])
                skips.append(now)
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        middle = (Residual(now, time, now), Attention(now), Residual(now, time, now))
        self.middle_block = nn.ModuleList(middle)
        blocks = []
        for level in reversed(range(len(widths))):
            for k in range(3):
                block: list[nn.Module] = [Residual(now + skips.pop(), time, widths[level])]
                now = widths[level]
                block += [Attention(now)] * attends[level]
                if level and k == 2:
                    block.append(Residual(now, time, now, "up"))
                blocks.append(block)
        self.output_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        self.out = nn.Sequential(
            nn.GroupNorm(32, now), nn.SiLU(), nn.Conv2d(now, out, 3, padding=1)
        )

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        half = self.base // 2
        frequency = torch.exp(-math.log(10000) * torch.arange(half, dtype=x.dtype) / half)
        phase = step[:, None] * frequency
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
