r"""Random numbers for each sample, independent of batches.

Every draw is a function of (seed, purpose, sample index, inversion time, step) alone: batches,
processes and order do not matter. The counter-based generator Philox 4x64 makes this random access
cheap: its key is (seed, time), and sample ``i`` uses the counters :math:`[i b, (i + 1) b)` of its
purpose and step, ``b`` blocks of four words each.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011), as in numpy.
"""

from enum import IntEnum
from typing import Final

import numpy as np
import torch
from torch import Tensor

from lit_hier.io.devices import upload

_WORDS_PER_BLOCK: Final = 4


class Purpose(IntEnum):
    """What draws are for; each purpose has an independent stream."""

    CORRUPTION = 0
    POSTERIOR = 1
    DATA = 2
    TRAINING = 3
    VALIDATION = 4
    CLONE = 5
    REVERSE = 6
    SYNONYM = 7


def uniform(
    seed: int,
    purpose: Purpose,
    index: Tensor,
    time: float,
    num: int,
    step: int = 0,
    device: torch.device | None = None,
) -> Tensor:
    """Draw uniform numbers for each sample at one inversion time.

    Args:
        seed: The run's seed, at least 0.
        purpose: What the numbers are used for.
        index: Sample indices, int64, shape (B,). Give those of a GPU as a copy on the CPU, or
            each call waits for the GPU.
        time: Inversion time; times that differ in any bit have independent numbers.
        num: Numbers per sample.
        step: Step of an iteration, at least 0; each has independent numbers.
        device: Where the numbers are put; by default the device of `index`.

    Returns:
        float64 numbers in [0, 1) with 53 random bits, shape (B, num).
    """
    blocks = -(-num // _WORDS_PER_BLOCK)
    # `+ 0.0` converts -0.0 to 0.0, so that equal times have equal bits.
    key = np.array([seed, np.float64(time + 0.0).view(np.uint64)], dtype=np.uint64)
    indices = index.cpu().numpy()
    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    draws = np.empty((len(indices), blocks * _WORDS_PER_BLOCK))
    row = 0
    for run in runs:
        if not len(run):
            continue
        bits = np.random.Philox(key=key, counter=[0, 0, int(purpose), step])
        bits.advance(int(run[0]) * blocks)
        np.random.Generator(bits).random(out=draws[row : row + len(run)])
        row += len(run)
    return upload(torch.from_numpy(draws[:, :num].copy()), device or index.device)


def generators(
    seed: int, index: Tensor, time: int, purpose: Purpose = Purpose.CORRUPTION
) -> list[torch.Generator]:
    """Return a generator for each sample at one inversion step, for draws one after another.

    Args:
        seed: The run's seed, at least 0.
        index: Sample indices, int64, shape (B,).
        time: Inversion step; in training, the epoch.
        purpose: What the numbers are used for.

    Returns:
        Generators on the CPU, each seeded by (seed, sample index, step, purpose) alone.
    """
    result = []
    for sample in index.tolist():
        # A trailing zero does not change the stream, so that CORRUPTION's key is (sample, time).
        key = (sample, time, int(purpose)) if purpose else (sample, time)
        sequence = np.random.SeedSequence(seed, spawn_key=key)
        (state,) = sequence.generate_state(1, np.uint64)
        result.append(torch.Generator().manual_seed(int(state >> 1)))
    return result
