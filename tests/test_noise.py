import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest, norm

from lit_hier.errors import InputError
from lit_hier.noise import EpsilonNoise, GaussianNoise, MaskingNoise, NoiseProcess
from lit_hier.streams import Purpose, uniform

v, d = 5, 4000
LEAVES = torch.arange(d)[None] % v


def observe(process: NoiseProcess, time: float, seed: int = 0) -> torch.Tensor:
    num = process.num_draws(d, v)
    draws = uniform(seed, Purpose.CORRUPTION, torch.tensor([3]), time, num)
    return process.corrupt(LEAVES, time, draws, v)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_messages_are_equation_7(epsilon: float) -> None:
    process = EpsilonNoise()
    messages = process.messages(observe(process, epsilon), epsilon, v, torch.float64)
    true = messages.gather(-1, LEAVES[..., None])
    assert torch.allclose(true, torch.tensor(1 - epsilon + epsilon / v, dtype=torch.float64))
    assert torch.allclose(messages.sum(-1), torch.ones(1, d, dtype=torch.float64))
    assert (messages.topk(v - 1, largest=False).values - epsilon / v).abs().max() < 1e-15


def test_epsilon_strings_replace_symbols_uniformly() -> None:
    observed = observe(EpsilonNoise(strings=True), 0.5)
    shift = ((observed - LEAVES) % v).flatten().bincount(minlength=v)
    expected = d * torch.tensor([0.5 + 0.5 / v] + [0.5 / v] * (v - 1))
    assert chisquare(shift.numpy(), expected.numpy(), sum_check=False).pvalue > 1e-3
    assert torch.equal(observe(EpsilonNoise(strings=True), 0.0), LEAVES)


def test_masked_leaves_carry_no_information_and_kept_ones_all() -> None:
    process = MaskingNoise()
    observed = observe(process, 0.25)
    masked = observed == v
    assert abs(masked.double().mean() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / d)
    assert torch.equal(observed[~masked], LEAVES[~masked])
    messages = process.messages(observed, 0.25, v, torch.float64)
    assert (messages[masked] == 1 / v).all()
    assert torch.equal(messages[~masked].argmax(-1), LEAVES[~masked])
    assert (messages[~masked].max(-1).values == 1).all()
    assert (observe(process, 1.0) == v).all()


@pytest.mark.parametrize("time", [0.01, 0.4, 3.0])
def test_gaussian_diffuses_as_equation_9_and_believes_as_bayes(time: float) -> None:
    process = GaussianNoise()
    x_t = observe(process, time)
    alpha = math.exp(-2 * time)
    eta = (x_t - math.sqrt(alpha) * torch.eye(v)[LEAVES]) / math.sqrt(1 - alpha)
    assert kstest(eta.flatten().numpy(), "norm").pvalue > 1e-3
    centres = math.sqrt(alpha) * np.eye(v)
    likelihood = norm.logpdf(x_t.numpy()[:, :, None], centres, math.sqrt(1 - alpha)).sum(-1)
    bayes = torch.softmax(torch.from_numpy(likelihood), -1)
    messages = process.messages(x_t, time, v, torch.float64)
    assert (messages - bayes).abs().max() < 1e-12


@pytest.mark.parametrize("time", [0.0, 1e-320, 1e-9])
def test_gaussian_at_time_zero_is_certain(time: float) -> None:
    process = GaussianNoise()
    messages = process.messages(observe(process, time), time, v, torch.float32)
    assert torch.equal(messages, torch.eye(v)[LEAVES])


@pytest.mark.parametrize("process", [EpsilonNoise(), MaskingNoise(), GaussianNoise()])
@pytest.mark.parametrize("times", [[], [-0.1], [math.nan], [0.2, 0.2], [0.5, 0.1], [math.inf]])
def test_times_that_a_process_does_not_have(process: NoiseProcess, times: list[float]) -> None:
    with pytest.raises(InputError, match=r"^times: [^\n]+$"):
        process.check_times(times)
    process.check_times([0.0, 1.0])


def test_only_diffusion_goes_on_after_time_one() -> None:
    GaussianNoise().check_times([0.0, 7.0])
    with pytest.raises(InputError, match=r"times: 1\.5 is out of range; noise ε: 0 to 1"):
        EpsilonNoise().check_times([1.5])
