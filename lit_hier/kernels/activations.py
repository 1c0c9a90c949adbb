"""Similarity and moments of activations on an NVIDIA GPU: kernels in Triton, and their launch.

What takes time there is memory, so each value is read once. Per value of a layer, with b bytes
each (4 in float32, 2 in bfloat16 and float16):

- `cosines` moves 2 b bytes, those of both activations, and up to b / 8 more, as each group of 8
  samples reads one of the next; sums of a block of 1,024 values add less than 0.04 bytes.
- `moments` moves b bytes, and at most 1 more for the moments of chunks of 32 values per channel,
  in small layers; in large ones chunks are larger.

Rounding:

- `cosines` standardizes in float32, centering first, sums products within a block in float32, in
  at most 15 additions one after another, and all else in float64. Its error is less than
  24 u = 2.9e-6, with u = 2**-23 the spacing of float32 at 1.
- `moments` computes in float64, as the torch operations do. Deviations are those from the mean of
  the first of a chunk's k tiles, at most sqrt(k - 1) standard deviations from the mean of the
  chunk; subtracting the squared difference then loses at most a factor k. Chunks merge by Chan's
  formula, in which nothing cancels. The relative error of the variance is less than
  4 k (k + 20) 2**-53, where k is 1 plus 1 per 2 million values of a layer; the variance of a
  constant channel is 0.

All partial results have a place of their own and are added in a fixed order: equal inputs give
equal bits. With TRITON_INTERPRET=1 the kernels run without a GPU.
"""

import math

import torch
import triton
import triton.language as tl

_SAMPLES = 8  # that a program compares, one after another
_BLOCK = 1024  # values whose products are summed at once
_TILE = 2048  # values whose mean is computed at once
_ACROSS = 64  # neighboring values in memory of a tile's row
_PROGRAMS = 1024  # above which a program takes several tiles


def _jit(*variables):
    """Compile a function for a GPU, with these integers as variables whatever their values."""
    return triton.jit(do_not_specialize=variables)


@_jit("batch", "inner", "count")
def _sum_products(
    start, x, mean, inverse_std, sums, batch, features, inner, count,
    SAMPLES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum z'z, z'z of the next sample, z'z' and zz over a block, for z' at the start."""
    block, first = tl.program_id(0), tl.program_id(1) * SAMPLES
    blocks, last = tl.num_programs(0), tl.minimum(first + SAMPLES, batch)
    feature = block * BLOCK + tl.arange(0, BLOCK)
    used = feature < features
    center = tl.load(mean + feature // inner % count, used, 0.0)
    scale = tl.load(inverse_std + feature // inner % count, used, 0.0)
    values = tl.load(x + tl.cast(first, tl.int64) * features + feature, used, 0.0)
    z = (values.to(tl.float32) - center) * scale
    for sample in tl.range(first, last, num_stages=2):
        values = tl.load(start + tl.cast(sample, tl.int64) * features + feature, used, 0.0)
        z_start = (values.to(tl.float32) - center) * scale
        after = (sample + 1) % batch
        values = tl.load(x + tl.cast(after, tl.int64) * features + feature, used, 0.0)
        z_after = (values.to(tl.float32) - center) * scale
        place = sums + tl.cast(sample, tl.int64) * 4 * blocks + block
        tl.store(place, tl.sum(z_start * z))
        tl.store(place + blocks, tl.sum(z_start * z_after))
        tl.store(place + 2 * blocks, tl.sum(z_start * z_start))
        tl.store(place + 3 * blocks, tl.sum(z * z))
        z = z_after


@_jit("batch", "blocks", "min_length")
def _divide(sums, found, batch, blocks, min_length, BLOCK: tl.constexpr):
    """Add the blocks of a sample, and divide by lengths."""
    sample = tl.program_id(0)
    after = (sample + 1) % batch
    own = tl.zeros([BLOCK], tl.float64)
    partner, start, x, x_after = own, own, own, own
    for first in range(0, blocks, BLOCK):
        block = first + tl.arange(0, BLOCK)
        used = block < blocks
        place = sums + tl.cast(sample, tl.int64) * 4 * blocks + block
        place_after = sums + tl.cast(after, tl.int64) * 4 * blocks + block
        own += tl.load(place, used, 0.0)
        partner += tl.load(place + blocks, used, 0.0)
        start += tl.load(place + 2 * blocks, used, 0.0)
        x += tl.load(place + 3 * blocks, used, 0.0)
        x_after += tl.load(place_after + 3 * blocks, used, 0.0)
    length = tl.maximum(tl.sqrt(tl.sum(start)), min_length)
    own_cosine = tl.sum(own) / (length * tl.maximum(tl.sqrt(tl.sum(x)), min_length))
    cosine = tl.sum(partner) / (length * tl.maximum(tl.sqrt(tl.sum(x_after)), min_length))
    tl.store(found + sample, own_cosine)
    tl.store(found + batch + sample, tl.where(batch > 1, cosine, float("nan")))


def cosines(start, x, mean, inverse_std, axes, min_length):
    """Compare activations with those at the start: see `SimilarityTo.with_partners`.

    Args:
        start: Activations, shape (B, C, *positions).
        x: Activations, same shape.
        mean: Of the standardization, float32.
        inverse_std: Of the standardization, float32.
        axes: The axes of `start` in the order of its memory; the first is 0.
        min_length: Of a standardized activation.

    Returns:
        Cosines with the sample itself, then with its partner, float32, shape (2, B).
    """
    units = x.shape[1:]
    inner = math.prod(x.shape[axis] for axis in axes[axes.index(1) + 1 :])
    if len(mean) == math.prod(units):  # a pair of numbers per unit, which the order concerns
        order = [axis - 1 for axis in axes[1:]]
        mean, inverse_std = (
            part.view(units).permute(order).contiguous() for part in (mean, inverse_std)
        )
        inner = 1
    start, x = (values.permute(axes).contiguous() for values in (start, x))
    batch, features = len(x), math.prod(units)
    blocks, count = triton.cdiv(features, _BLOCK), mean.numel()
    sums = torch.empty(batch, 4, blocks, device=x.device)
    found = torch.empty(2, batch, device=x.device)
    _sum_products[blocks, triton.cdiv(batch, _SAMPLES)](
        start, x, mean, inverse_std, sums, batch, features, inner, count, _SAMPLES, _BLOCK
    )
    _divide[(batch,)](sums, found, batch, blocks, min_length, 256)
    return found


@_jit("size", "rows")
def _chunk_moments(
    x, parts, size, channels, inner, rows, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Compute the mean and squared deviations of `rows` values of each of a few channels."""
    chunk, chunks = tl.program_id(1), tl.num_programs(1)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    first, last = chunk * rows, tl.minimum((chunk + 1) * rows, size)
    center = tl.zeros([CHANNELS], tl.float64)
    sums = tl.zeros([ROWS, CHANNELS], tl.float64)
    squares = sums
    for at in tl.range(first, last, ROWS, num_stages=2):
        row = at + tl.arange(0, ROWS)
        used = (row < last)[:, None] & (channel < channels)[None, :]
        offset = (row // inner).to(tl.int64) * channels * inner + row % inner
        values = tl.load(x + offset[:, None] + (channel * inner)[None, :], used, 0.0)
        values = values.to(tl.float64)
        if at == first:
            center = tl.sum(values, 0) / tl.cast(tl.minimum(last - first, ROWS), tl.float64)
        deviation = tl.where(used, values - center[None, :], 0.0)
        sums += deviation
        squares += deviation * deviation
    shift = tl.sum(sums, 0) / tl.cast(last - first, tl.float64)
    place = parts + tl.cast(channel, tl.int64) * chunks + chunk
    tl.store(place, center + shift, channel < channels)
    place += tl.cast(channels, tl.int64) * chunks
    tl.store(place, tl.sum(squares, 0) - shift * tl.sum(sums, 0), channel < channels)


@_jit("size", "rows", "chunks")
def _merge_moments(parts, found, size, rows, chunks, BLOCK: tl.constexpr):
    """Merge the moments of a channel's chunks."""
    channel, channels, chunk = tl.program_id(0), tl.num_programs(0), tl.arange(0, BLOCK)
    place, used = parts + tl.cast(channel, tl.int64) * chunks, chunk < chunks
    count = tl.cast(tl.minimum(size - chunk * rows, rows), tl.float64)
    one_mean = tl.load(place)
    shift = tl.where(used, tl.load(place + chunk, used, 0.0) - one_mean, 0.0)
    mean_shift = tl.sum(shift * count) / tl.cast(size, tl.float64)
    between = tl.where(used, (shift - mean_shift) * (shift - mean_shift) * count, 0.0)
    squares = tl.load(place + tl.cast(channels, tl.int64) * chunks + chunk, used, 0.0)
    tl.store(found + channel, one_mean + mean_shift)
    tl.store(found + channels + channel, tl.sum(squares + between))


def moments(x):
    """Compute the mean and the summed squared deviations of each channel: see `channel_moments`.

    Args:
        x: Activations, shape (B, C, *positions).

    Returns:
        float64, shape (2, C).
    """
    axes = sorted(range(x.ndim), key=lambda axis: -x.stride(axis))
    inner = math.prod(x.shape[axis] for axis in axes[axes.index(1) + 1 :])
    channels, size = x.shape[1], x.numel() // x.shape[1]
    across = max(1, _ACROSS // triton.next_power_of_2(inner))
    groups, tiles = triton.cdiv(channels, across), triton.cdiv(size, _TILE // across)
    rows = max(1, groups * tiles // _PROGRAMS) * (_TILE // across)
    chunks = triton.cdiv(size, rows)  # less than 2 _PROGRAMS
    parts = torch.empty(2, channels, chunks, dtype=torch.float64, device=x.device)
    _chunk_moments[groups, chunks](
        x.permute(axes).contiguous(), parts, size, channels, inner, rows, _TILE // across, across,
    )  # fmt: skip
    if chunks == 1:
        return parts[..., 0]
    found = torch.empty(2, channels, dtype=torch.float64, device=x.device)
    _merge_moments[(channels,)](parts, found, size, rows, chunks, 2 * _PROGRAMS)
    return found
