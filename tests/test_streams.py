import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from lit_hier.streams import Purpose, uniform


@given(st.lists(st.integers(0, 500), max_size=12), st.integers(1, 9), st.floats(0, 5))
def test_a_sample_has_the_same_numbers_in_every_batch(
    index: list[int], num: int, time: float
) -> None:
    together = uniform(7, Purpose.CORRUPTION, torch.arange(501), time, num)
    batch = uniform(7, Purpose.CORRUPTION, torch.tensor(index, dtype=torch.int64), time, num)
    assert batch.shape == (len(index), num)
    assert torch.equal(batch, together[index])


def test_draws_are_uniform_and_differ_by_seed_purpose_sample_and_time() -> None:
    draws = [
        uniform(seed, purpose, torch.arange(200), time, 50)
        for seed in (0, 1)
        for purpose in Purpose
        for time in (0.0, 0.1, 0.1 + 2**-50)
    ]
    numbers = torch.stack(draws)
    assert len(numbers.unique()) == numbers.numel()
    assert kstest(numbers.flatten().numpy(), "uniform").pvalue > 1e-3
    assert numbers.flatten(1).corrcoef().fill_diagonal_(0).abs().max() < 0.05
    assert torch.equal(
        uniform(0, Purpose.POSTERIOR, torch.arange(3), 0.0, 5),
        uniform(0, Purpose.POSTERIOR, torch.arange(3), -0.0, 5),
    )
