"""Properties of planned batches, pixel levels, encodings and Fourier modes."""

import itertools
import math

import pytest
import torch
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from lit_hier.data.batches import PlannedBatches
from lit_hier.gaussian.fourier import wavenumber
from lit_hier.io.pixels import from_levels, quantise, to_levels
from lit_hier.nn import FourierBands
from lit_hier.rhm import whitened_one_hot


@given(
    st.integers(1, 5), st.integers(1, 30), st.integers(1, 12), st.integers(1, 6), st.integers(0, 5)
)
def test_several_processes_have_the_batches_of_one(
    num_blocks: int, block: int, size: int, processes: int, rank: int
) -> None:
    """Each sample occurs once, in order; no batch spans two blocks; there are as few as possible.

    Processes differ by at most one batch, and a plan can be iterated again.
    """
    num = num_blocks * block
    alone = [batch.tolist() for batch in PlannedBatches(num, size, num_blocks=num_blocks)]
    assert list(itertools.chain(*alone)) == list(range(num))
    assert len(alone) == num_blocks * math.ceil(block / size)
    assert all(len(batch) <= size for batch in alone)
    assert all(batch[0] // block == batch[-1] // block for batch in alone)
    plans = [
        PlannedBatches(num, size, k, processes, num_blocks=num_blocks) for k in range(processes)
    ]
    shared = [[batch.tolist() for batch in plan if len(batch)] for plan in plans]
    assert list(itertools.chain(*shared)) == alone
    lengths = [len(batches) for batches in shared]
    assert max(lengths) - min(lengths) <= 1
    plan = plans[rank % processes]
    again = [batch.tolist() for batch in plan if len(batch)]
    assert again == shared[rank % processes]
    assert len(plan) == len(list(plan)) > 0  # a process without a batch gets an empty one
    assert [alone[index] for index in plan.indices if index < len(alone)] == again


images = st.lists(st.floats(-1.5, 1.5, width=16), min_size=1, max_size=20)
types = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])


@given(images, types)
def test_quantisation_is_to_the_nearest_level_monotonic_and_idempotent(
    values: list[float], dtype: torch.dtype
) -> None:
    x = torch.tensor(values, dtype=dtype)
    levels = to_levels(x)
    all_levels = from_levels(torch.arange(256, dtype=torch.uint8)).double()
    clamped = x.double().clamp(-1, 1)
    distance = (clamped[:, None] - all_levels).abs()
    chosen = distance.gather(1, levels.long()[:, None])[:, 0]
    assert (chosen <= distance.amin(1) + 1e-7).all()
    assert (levels[x.argsort()].int().diff() >= 0).all()
    once = quantise(x)
    assert once.dtype == torch.float32
    assert torch.equal(to_levels(once), levels)
    assert torch.equal(quantise(once), once)
    # Quantisation commutes with inversion, except for ties.
    tie = (distance.topk(2, largest=False).values.diff() < 1e-6).any(1)
    assert torch.equal(to_levels(-x)[~tie].int(), 255 - levels[~tie].int())


@given(st.integers(2, 30), st.lists(st.integers(0, 29), min_size=2, max_size=9))
def test_whitened_one_hot_vectors_are_the_vertices_of_a_regular_simplex(
    v: int, symbols: list[int]
) -> None:
    x = torch.tensor([symbol % v for symbol in symbols])
    code = whitened_one_hot(x[None], v)[0].double()
    assert torch.equal(code.argmax(0), x)
    distance = (code[:, :, None] - code[:, None]).square().sum(0)
    wanted = 2.0 * v * (x[:, None] != x)
    assert (distance - wanted).abs().max() < 1e-4
    assert (code.square().sum(0) - (v - 1)).abs().max() < 1e-4


@given(st.integers(4, 24), st.sampled_from([1, 2]), st.data())
@examples(60)
def test_a_plane_wave_has_its_power_at_its_wavenumber(
    size: int, dimensions: int, data: st.DataObject
) -> None:
    """|k| of a plane wave is its number of periods per side."""
    periods = data.draw(st.lists(st.integers(0, size // 2), min_size=dimensions,
                                 max_size=dimensions))  # fmt: skip
    positions = torch.meshgrid(*[torch.arange(size).double()] * dimensions, indexing="ij")
    phase = sum(2 * math.pi * k * x / size for k, x in zip(periods, positions, strict=True))
    power = torch.fft.rfftn(torch.cos(torch.as_tensor(phase))).abs().square()
    at = wavenumber(size, dimensions)
    assert at.shape == power.shape
    wanted = math.hypot(*periods)
    mean = float((at * power).sum() / power.sum())
    assert mean == pytest.approx(wanted, abs=1e-9)
    assert float((at[power > 1e-9 * power.max()] - wanted).abs().max()) < 1e-9


@given(st.integers(4, 200))
def test_an_octave_begins_at_its_power_of_two(size: int) -> None:
    """In one dimension, band j has the integers from 2^j to 2^(j+1) - 1, at any size."""
    *finer, last = [band.mask for band in FourierBands(size, 1).bands]
    assert last.nonzero().flatten().tolist() == [0, 1]
    for octave, mask in enumerate(reversed(finer), 1):
        end = min(2 ** (octave + 1), size // 2 + 1)
        assert mask.nonzero().flatten().tolist() == list(range(2**octave, end))
