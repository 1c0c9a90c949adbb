"""Corruption processes against their equations, Bayes' rule and numerical integration."""

import math

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.integrate import dblquad, quad
from scipy.special import expit
from scipy.stats import chisquare, kstest, multivariate_normal, norm

from lit_hier.errors import InputError
from lit_hier.modules import BPDenoiser
from lit_hier.processes import EpsilonNoise, GaussianNoise, MaskingNoise, NoiseProcess
from lit_hier.rhm import RandomHierarchyModel
from lit_hier.streams import Purpose, uniform

v, d = 5, 4000
LEAVES = torch.arange(d)[None] % v


def observe(process: NoiseProcess, time: float, seed: int = 0) -> torch.Tensor:
    num = process.num_draws(d, v)
    draws = uniform(seed, Purpose.CORRUPTION, torch.tensor([3]), time, num)
    return process.corrupt(LEAVES, time, draws, v)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_messages_equal_equation_7(epsilon: float) -> None:
    process = EpsilonNoise()
    messages = process.messages(observe(process, epsilon), epsilon, v, torch.float64)
    true = messages.gather(-1, LEAVES[..., None])
    assert torch.allclose(true, torch.tensor(1 - epsilon + epsilon / v, dtype=torch.float64))
    assert torch.allclose(messages.sum(-1), torch.ones(1, d, dtype=torch.float64))
    assert (messages.topk(v - 1, largest=False).values - epsilon / v).abs().max() < 1e-15


def test_corrupted_strings_have_uniform_replacements() -> None:
    observed = observe(EpsilonNoise(strings=True), 0.5)
    shift = ((observed - LEAVES) % v).flatten().bincount(minlength=v)
    probabilities = [0.5 + 0.5 / v] + [0.5 / v] * (v - 1)
    expected = d * torch.tensor(probabilities, dtype=torch.float64)
    assert chisquare(shift.numpy(), expected.numpy()).pvalue > 1e-3
    assert torch.equal(observe(EpsilonNoise(strings=True), 0.0), LEAVES)


def test_masked_leaves_have_uniform_and_kept_leaves_one_hot_beliefs() -> None:
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
def test_diffusion_follows_equation_9_and_its_messages_follow_from_bayes(time: float) -> None:
    process = GaussianNoise()
    x_t = observe(process, time)
    alpha = math.exp(-2 * time)
    eta = (x_t - math.sqrt(alpha) * torch.eye(v)[LEAVES]) / math.sqrt(1 - alpha)
    assert kstest(eta.flatten().numpy(), "norm").pvalue > 1e-3
    centers = math.sqrt(alpha) * np.eye(v)
    likelihood = norm.logpdf(x_t.numpy()[:, :, None], centers, math.sqrt(1 - alpha)).sum(-1)
    bayes = torch.softmax(torch.from_numpy(likelihood), -1)
    messages = process.messages(x_t, time, v, torch.float64)
    assert (messages - bayes).abs().max() < 1e-12


@pytest.mark.parametrize("time", [0.0, 1e-320, 1e-9])
def test_messages_of_diffusion_are_one_hot_at_time_zero(time: float) -> None:
    process = GaussianNoise()
    messages = process.messages(observe(process, time), time, v, torch.float32)
    assert torch.equal(messages, torch.eye(v)[LEAVES])


@pytest.mark.parametrize("process", [EpsilonNoise(), MaskingNoise(), GaussianNoise()])
@pytest.mark.parametrize("times", [[], [-0.1], [math.nan], [0.2, 0.2], [0.5, 0.1], [math.inf]])
def test_invalid_inversion_times_are_rejected(process: NoiseProcess, times: list[float]) -> None:
    with pytest.raises(InputError, match=r"^times: [^\n]+$"):
        process.check_times(times)
    process.check_times([0.0, 1.0])


def test_only_diffusion_has_times_above_one() -> None:
    GaussianNoise().check_times([0.0, 7.0])
    with pytest.raises(InputError, match=r"times: 1\.5 is out of range; noise ε: 0 to 1"):
        EpsilonNoise().check_times([1.5])


PROCESSES = [EpsilonNoise(), EpsilonNoise(strings=True), MaskingNoise(), GaussianNoise()]


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("time", [0.02, 0.3, 0.8])
def test_effective_noise_is_the_expected_belief_in_wrong_symbols(
    process: NoiseProcess, time: float
) -> None:
    index = torch.arange(20)
    draws = uniform(1, Purpose.CORRUPTION, index, time, process.num_draws(d, v))
    leaves = LEAVES.expand(20, -1)
    messages = process.messages(process.corrupt(leaves, time, draws, v), time, v, torch.float64)
    wrong = messages.sum(-1) - messages.gather(-1, leaves[..., None]).squeeze(-1)
    noise = wrong / (v - 1) * v
    error = float(noise.std()) / noise.numel() ** 0.5
    expected = process.effective_noise(time, v)
    assert expected == pytest.approx(float(noise.mean()), abs=5 * error + 1e-12)


@pytest.mark.parametrize("time", [0.004, 0.03, 0.1, 0.5, 3.0])
def test_effective_noise_of_diffusion_equals_direct_integrals(time: float) -> None:
    """For v = 2, an integral over the log odds; for v = 3, over two correlated log odds."""
    snr = 1 / math.expm1(2 * time)
    spread = math.sqrt(2 * snr)
    right, _ = quad(lambda z: expit(snr + spread * z) * norm.pdf(z), -12, 12, epsabs=1e-10)
    assert GaussianNoise().effective_noise(time, 2) == pytest.approx(2 * (1 - right), abs=1e-7)
    pair = multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]])

    def integrand(y: float, z: float) -> float:
        odds = np.exp(np.clip([spread * y - snr, spread * z - snr], -700, 300)).sum()
        return float(pair.pdf([y, z]) / (1 + odds))

    right, _ = dblquad(integrand, -7, 7, -7, 7, epsabs=1e-6)
    assert GaussianNoise().effective_noise(time, 3) == pytest.approx(1.5 * (1 - right), abs=1e-5)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("time", [0.02, 0.3, 0.8])
def test_information_is_ln_v_minus_the_mean_entropy_of_beliefs(
    process: NoiseProcess, time: float
) -> None:
    index = torch.arange(20)
    draws = uniform(1, Purpose.CORRUPTION, index, time, process.num_draws(d, v))
    observed = process.corrupt(LEAVES.expand(20, -1), time, draws, v)
    messages = process.messages(observed, time, v, torch.float64)
    measured = math.log(v) - torch.special.entr(messages).sum(-1)
    error = float(measured.std()) / measured.numel() ** 0.5
    expected = process.information(time, v)
    assert expected == pytest.approx(float(measured.mean()), abs=5 * error + 1e-12)


def test_information_of_channels_is_the_mutual_information_of_their_tables() -> None:
    """Sum p(x, y) ln p(x, y)/(p(x) p(y)) over symbols and what is observed of them."""
    replaced = np.full((v, v), 0.3 / v) + np.eye(v) * 0.7
    masked = np.concatenate((np.eye(v) * 0.7, np.full((v, 1), 0.3)), axis=1)
    for process, channel in ((EpsilonNoise(True), replaced), (MaskingNoise(), masked)):
        joint = channel / v
        independent = joint.sum(0) * joint.sum(1, keepdims=True)
        nonzero = joint > 0
        mutual = (joint[nonzero] * np.log(joint[nonzero] / independent[nonzero])).sum()
        assert process.information(0.3, v) == pytest.approx(mutual)


@pytest.mark.parametrize("time", [0.004, 0.03, 0.1, 0.5, 3.0])
def test_information_of_diffusion_equals_a_direct_integral(time: float) -> None:
    """For v = 2, over the log odds."""
    snr = 1 / math.expm1(2 * time)
    spread = math.sqrt(2 * snr)
    lost, _ = quad(
        lambda z: np.logaddexp(0, -snr - spread * z) * norm.pdf(z), -12, 12, epsabs=1e-10
    )
    assert GaussianNoise().information(time, 2) == pytest.approx(math.log(2) - lost, abs=1e-7)


def test_information_falls_from_ln_v_to_zero() -> None:
    for process in PROCESSES:
        end = min(process.axis.end, 30.0)
        for symbols in (2, v, 1000):
            nats = [process.information(time, symbols) for time in np.linspace(0, end, 40)]
            assert nats[0] == pytest.approx(math.log(symbols))
            assert nats[-1] == pytest.approx(0, abs=1e-9)
            assert (np.diff(nats) < 1e-12).all()


def test_effective_noise_rises_from_zero_to_one() -> None:
    for process in PROCESSES:
        end = min(process.axis.end, 30.0)
        noise = [process.effective_noise(time, v) for time in np.linspace(0, end, 40)]
        assert noise[0] == 0
        assert noise[-1] == pytest.approx(1, abs=1e-9)
        assert (np.diff(noise) > -1e-12).all()


class Shortened(EpsilonNoise):
    """A user's process that loses the last leaf; its annotations are not checked."""

    def messages(
        self, observed: torch.Tensor, time: float, num_features: int, dtype: torch.dtype
    ) -> torch.Tensor:
        return super().messages(observed, time, num_features, dtype)[:, :-1]


def test_shapes_are_checked_in_tests() -> None:
    leaves, no_draws = torch.zeros(2, 4, dtype=torch.int64), torch.empty(2, 0).double()
    for wrong_leaves, wrong_draws in (
        (leaves[0], no_draws),
        (leaves.float(), no_draws),
        (leaves, no_draws[:1]),
        (leaves, no_draws.float()),
    ):
        with pytest.raises(TypeCheckError):
            EpsilonNoise().corrupt(wrong_leaves, 0.5, wrong_draws, v)
    observed = GaussianNoise().corrupt(leaves, 0.5, torch.rand(2, 4 * v).double(), v)
    with pytest.raises(TypeCheckError):
        GaussianNoise().messages(observed, 0.5, v + 1, torch.float64)


class Unknown(Shortened):
    information = NoiseProcess.information


def test_the_information_of_a_users_process_is_unknown_by_default() -> None:
    assert math.isnan(Unknown().information(0.5, v))


def test_a_users_process_with_messages_of_the_wrong_shape_is_rejected() -> None:
    rhm = RandomHierarchyModel(v, 2, 2, 2)
    leaves = rhm.sample(3, torch.Generator().manual_seed(0))[0]
    batch = {"x": leaves, "leaves": leaves, "label": leaves[:, 0], "index": torch.arange(3)}
    with pytest.raises(InputError, match=r"^[^\n]*leaf_messages has shape \(3, 3, 5\)[^\n]*$"):
        BPDenoiser(rhm, Shortened(strings=True), [0.5]).predict_step(batch, 0)
