"""Statistics of the draws of different samples, purposes, times and seeds."""

import torch
from scipy.stats import kstest

from lit_hier.streams import Purpose, uniform


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
