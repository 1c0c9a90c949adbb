"""Properties of per-sample random numbers, against explicitly set counters of the generator."""

import random

import numpy as np
import torch
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest
from strategies import parts_of

from lit_hier.streams import Purpose, generators, uniform

runs_seeds = st.integers(0, 2**64 - 1)
purposes = st.sampled_from(Purpose)
times = st.floats(0, 1e6)
indices = st.integers(0, 2**40)
MASK = 2**64 - 1


def expected(seed: int, purpose: Purpose, sample: int, time: float, num: int) -> list[float]:
    """Return a sample's numbers, block by block: the counter is set, never advanced."""
    blocks = -(-num // 4)
    # Without a dtype, numpy would round large integers to float64.
    key = np.array([seed, np.float64(time).view(np.uint64)], dtype=np.uint64)
    words: list[int] = []
    for block in range(sample * blocks, (sample + 1) * blocks):
        counter = np.array([block & MASK, block >> 64, purpose, 0], dtype=np.uint64)
        bits = np.random.Philox(key=key, counter=counter)
        words += map(int, bits.random_raw(4))
    return [(word >> 11) / 2**53 for word in words[:num]]


@given(runs_seeds, purposes, st.lists(indices, min_size=1, max_size=4), times, st.integers(1, 11))
def test_draws_use_the_counters_of_their_sample(
    seed: int, purpose: Purpose, samples: list[int], time: float, num: int
) -> None:
    draws = uniform(seed, purpose, torch.tensor(samples), time, num)
    assert draws.dtype == torch.float64
    assert draws.tolist() == [expected(seed, purpose, sample, time, num) for sample in samples]


@given(runs_seeds, purposes, indices, times, st.integers(1, 40), st.data())
@examples(60)
def test_draws_depend_on_neither_order_nor_batches(
    seed: int, purpose: Purpose, first: int, time: float, num: int, data: st.DataObject
) -> None:
    """Including batches that are empty or contain a sample twice."""
    index = torch.arange(first, first + 9)
    together = uniform(seed, purpose, index, time, num)
    assert together.shape == (9, num)
    assert ((together >= 0) & (together < 1)).all()
    for rows in data.draw(parts_of(9)):
        rows += rows[:1]
        part = uniform(seed, purpose, index[rows], time, num)
        assert part.shape == (len(rows), num)
        assert torch.equal(part, together[rows])


@given(runs_seeds, purposes, indices, st.floats(0, 1e3), st.integers(1, 8))
@examples(60)
def test_different_keys_have_independent_numbers(
    seed: int, purpose: Purpose, first: int, time: float, num: int
) -> None:
    """Another seed, purpose, sample or time, even by the smallest step: no common number."""
    num_samples = 16
    others = [(seed ^ 1, purpose, first, time), (seed, purpose, first + num_samples, time)]
    others += [(seed, other, first, time) for other in Purpose if other != purpose]
    others += [(seed, purpose, first, float(np.nextafter(time, np.inf)))]
    draws = [
        uniform(s, p, torch.arange(i, i + num_samples), t, num)
        for s, p, i, t in [(seed, purpose, first, time), *others]
    ]
    numbers = torch.stack(draws)
    # Of a thousand numbers with 53 bits, two are equal with probability 1e-10.
    assert len(numbers.unique()) == numbers.numel()


@given(runs_seeds, purposes, indices, times)
@examples(20)
def test_draws_are_uniform_within_a_sample_and_across_samples(
    seed: int, purpose: Purpose, first: int, time: float
) -> None:
    within = uniform(seed, purpose, torch.tensor([first]), time, 4000).flatten()
    between = uniform(seed, purpose, torch.arange(first, first + 4000), time, 1).flatten()
    for numbers in (within, between):
        assert kstest(numbers.numpy(), "uniform").pvalue > 1e-6
        neighbors = torch.stack((numbers[:-1], numbers[1:])).corrcoef()[0, 1]
        assert abs(float(neighbors)) < 6 / 4000**0.5
    assert abs(float(torch.stack((within, between)).corrcoef()[0, 1])) < 6 / 4000**0.5


@given(runs_seeds, st.lists(st.integers(0, 10**9), min_size=1, max_size=5, unique=True), times)
@examples(40)
def test_the_global_generators_are_not_used(seed: int, samples: list[int], time: float) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    uniform(seed, Purpose.DATA, torch.tensor(samples), time, 5)
    for generator in generators(seed, torch.tensor(samples), 3):
        torch.rand(2, generator=generator)
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    assert before[2] == after[2]


@given(
    runs_seeds,
    st.lists(st.integers(0, 10**9), min_size=2, max_size=6, unique=True),
    st.integers(0, 1000),
)
@examples(60)
def test_each_sample_and_step_has_a_generator_of_its_own(
    seed: int, samples: list[int], step: int
) -> None:
    """It is the same in every batch, and differs between samples, steps and seeds."""

    def draws(*args: int, of: list[int]) -> list[list[float]]:
        streams = generators(args[0], torch.tensor(of), args[1])
        return [torch.rand(3, generator=g, dtype=torch.float64).tolist() for g in streams]

    together = draws(seed, step, of=samples)
    assert draws(seed, step, of=samples[::-1]) == together[::-1]
    assert [draws(seed, step, of=[sample])[0] for sample in samples] == together
    others = [
        *draws(seed ^ 1, step, of=samples),
        *draws(seed, step + 1, of=samples),
        *draws(step, seed % 1000, of=samples[:1] if seed % 1000 != step else []),
    ]
    numbers = [number for row in together + others for number in row]
    assert len(set(numbers)) == len(numbers)
