"""The reverse process against its formulas in float64; joint steps against single ones."""

import inspect
from collections import Counter
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from lit_hier.diffusion.adm import adm_scheduler
from lit_hier.diffusion.reverse import Denoise, ReverseProcess
from lit_hier.errors import InputError
from lit_hier.streams import generators

# diffusers' own use of numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array_(_|wrap__) (implementation|must)")

B, SHAPE = 5, (3, 8, 8)
INDEX = torch.tensor([3, 4, 9, 0, 7])


def images() -> Tensor:
    return torch.rand(B, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def model(x: Tensor, timesteps: Tensor) -> Tensor:
    """A smooth function of all of its input, with six channels of output."""
    mixed = torch.tanh(x + 0.3 * x.roll(1, dims=1) + timesteps.view(-1, 1, 1, 1) / 1000)
    return torch.cat((mixed, torch.tanh(x.flip(1))), dim=1)


def run(
    process: ReverseProcess, steps: list[int], batch_size: int = 4, index: Tensor = INDEX
) -> Tensor:
    x_0 = images()[: len(index)]
    streams = [generators(0, index, k) for k in steps]
    return process.sample(model, x_0, steps, streams, batch_size)


def test_respaced_steps_are_those_of_the_original() -> None:
    process = ReverseProcess(adm_scheduler(), 250)
    expected = {25: 100, 50: 201, 100: 401, 125: 502, 150: 602, 200: 802, 225: 903, 249: 999}
    assert {k: process.timesteps[k] for k in expected} == expected
    assert process.timesteps == sorted(set(process.timesteps))
    assert len(process.timesteps) == 250


def test_every_step_is_the_posterior_in_float64() -> None:
    """A direct transcription of the posterior of improved DDPM, at all 250 steps."""
    process = ReverseProcess(adm_scheduler(), 250)
    alphas = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000, dtype=np.float64))[process.timesteps]
    before = np.append(1.0, alphas[:-1])
    betas = 1 - alphas / before
    variance = betas * (1 - before) / (1 - alphas)
    lowest = np.log(np.append(variance[1], variance[1:]))
    x = images()[:2]
    for j in range(250):
        streams = generators(1, torch.arange(2), j)
        eta = torch.cat([torch.randn(1, *SHAPE, generator=g) for g in streams]).double().numpy()
        output = model(x, torch.tensor(process.timesteps[j]))
        scheduler: Any = process.scheduler
        stepped = scheduler.step(
            output, process.timesteps[j], x, generator=generators(1, torch.arange(2), j)
        ).prev_sample
        epsilon, share = (part.double().numpy() for part in output.chunk(2, dim=1))
        now = x.double().numpy()
        x_0 = (now - np.sqrt(1 - alphas[j]) * epsilon) / np.sqrt(alphas[j])
        x_0 = np.clip(x_0, -1, 1)
        mean = np.sqrt(before[j]) * betas[j] / (1 - alphas[j]) * x_0
        mean = mean + np.sqrt(1 - betas[j]) * (1 - before[j]) / (1 - alphas[j]) * now
        share = (share + 1) / 2
        spread = np.exp(0.5 * (share * np.log(betas[j]) + (1 - share) * lowest[j]))
        expected = mean + (spread * eta if j else 0)
        assert np.abs(stepped.numpy() - expected).max() < 1e-6 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("convention", ["aligned", "released"])
def test_step_0_returns_the_image_and_step_s_is_independent_of_it(convention: Any) -> None:
    process = ReverseProcess(adm_scheduler(), 20, convention)
    samples = run(process, [0, 20])
    assert torch.equal(samples[0], images())
    streams = [generators(0, INDEX, 20)]
    other = process.sample(model, torch.zeros(B, *SHAPE), [20], streams, 4)
    assert torch.equal(samples[1], other[0])


@pytest.mark.parametrize(
    "scheduler",
    [
        adm_scheduler(),
        DDPMScheduler(variance_type="fixed_small"),
        DDIMScheduler(timestep_spacing="leading"),
        DPMSolverMultistepScheduler(),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
@pytest.mark.parametrize("convention", ["aligned", "released"])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers
def test_joint_inversion_steps_equal_single_ones(scheduler: Any, convention: Any) -> None:
    process = ReverseProcess(scheduler, 20, convention)
    steps = [1, 3, 4, 11, 20]
    joint = run(process, steps, batch_size=7)
    single = torch.cat([run(process, [k], batch_size=100) for k in steps])
    assert (joint - single).abs().max() < 1e-5 * max(1.0, float(single.abs().max()))
    assert joint.isfinite().all()


def test_joint_inversion_steps_draw_the_same_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process, steps = ReverseProcess(adm_scheduler(), 20), [3, 11, 20]
    randn, drawn = torch.randn, {}

    def recorded(*args: Any, generator: torch.Generator, **kwargs: Any) -> Tensor:
        numbers = randn(*args, generator=generator, **kwargs)
        drawn.setdefault(generator.initial_seed(), []).append(numbers)
        return numbers

    monkeypatch.setattr(torch, "randn", recorded)
    run(process, steps, batch_size=7)
    joint, drawn = drawn, {}
    for k in steps:
        run(process, [k], batch_size=100)
    assert joint.keys() == drawn.keys()
    assert len(drawn) == B * len(steps)
    for seed, numbers in drawn.items():
        assert len(numbers) == len(joint[seed]) >= 4
        assert all(map(torch.equal, numbers, joint[seed]))


def test_samples_are_independent_of_the_batch() -> None:
    process = ReverseProcess(adm_scheduler(), 20)
    whole, part = run(process, [5, 9]), run(process, [5, 9], index=INDEX[:2])
    assert torch.allclose(whole[:, :2], part, atol=1e-6)
    numbers = [torch.randn(4, generator=g) for g in generators(0, INDEX, 5)]
    repeated = [torch.randn(4, generator=g) for g in generators(0, INDEX[2:3], 5)]
    assert torch.equal(numbers[2], repeated[0])
    assert len({tuple(x.tolist()) for x in numbers}) == B


@pytest.mark.parametrize(("convention", "number"), [("aligned", 6 + 12 + 20), ("released", 36)])
def test_every_image_is_evaluated_once_at_every_step(convention: Any, number: int) -> None:
    process = ReverseProcess(adm_scheduler(), 20, convention)
    evaluated: Counter[int] = Counter()

    def counted(x: Tensor, timesteps: Tensor) -> Tensor:
        evaluated.update(timesteps.tolist())
        return model(x, timesteps)

    steps = [0, 5, 11, 20]
    streams = [generators(0, INDEX, k) for k in steps]
    process.sample(counted, images(), steps, streams, batch_size=4)
    nums = [process.num_evaluations(k) for k in steps]
    assert sum(nums) == number
    for j, step in enumerate(process.timesteps):
        assert evaluated[step] == B * sum(num > j for num in nums)


@pytest.mark.parametrize("num", [1, 2, 5, 6, 8, 13])
@pytest.mark.parametrize("batch_size", [1, 4, 6, 7])
@pytest.mark.parametrize("steps", [[20], [3, 5, 8], [0, 1, 2, 7, 20]])
def test_model_batches_are_full(num: int, batch_size: int, steps: list[int]) -> None:
    """Longest first is the optimal schedule, so the number of batches is the minimum."""
    process = ReverseProcess(adm_scheduler(), 20)
    sizes: list[int] = []

    def recorded(x: Tensor, timesteps: Tensor) -> Tensor:
        sizes.append(len(x))
        return model(x, timesteps)

    index = torch.arange(num)
    x_0 = torch.zeros(num, *SHAPE)
    process.sample(recorded, x_0, steps, [generators(0, index, k) for k in steps], batch_size)
    nums = [process.num_evaluations(k) for k in steps]
    assert max(sizes) <= batch_size
    assert sum(sizes) == num * sum(nums)
    assert len(sizes) == max(max(nums), -(-num * sum(nums) // batch_size))
    if len(sizes) > max(nums):
        assert set(sizes[:-1]) == {batch_size}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 1}, "num_steps is 1; give 2 to 1000"),
        ({"num_steps": 1001}, "num_steps is 1001"),
        ({"convention": "other"}, "convention is 'other'; give aligned or released"),
    ],
)
def test_invalid_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ReverseProcess(adm_scheduler(), **arguments)


@pytest.mark.parametrize("steps", [[-1], [21], [3, 2], [4, 4]])
def test_invalid_inversion_steps(steps: list[int]) -> None:
    with pytest.raises(InputError, match=r"^times: "):
        ReverseProcess(adm_scheduler(), 20).sample(model, images(), steps, [], 4)


def gaussian_denoiser(process: ReverseProcess, variance: float) -> Denoise:
    """The exact noise in Gaussian data: E[eta | x_t]."""

    def denoise(x: Tensor, timesteps: Tensor) -> Tensor:
        alpha = process.alphas_cumprod[timesteps].float().view(-1, 1, 1, 1)
        return x * (1 - alpha) ** 0.5 / (alpha * variance + 1 - alpha)

    return denoise


@pytest.mark.parametrize(
    "name", ["DDPM", "DDIM", "DPMSolverMultistep", "DEISMultistep", "UniPCMultistep"]
)
def test_schedulers_sample_gaussian_data(name: str) -> None:
    kind = getattr(diffusers, f"{name}Scheduler")
    clips = "clip_sample" in inspect.signature(kind.__init__).parameters
    process = ReverseProcess(kind(**({"clip_sample": False} if clips else {})), 100)
    x_0 = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) / 2
    steps, index = [10, 50, 100], torch.arange(64)
    streams = [generators(0, index, k) for k in steps]
    x = process.sample(gaussian_denoiser(process, 0.25), x_0, steps, streams, 64)
    for k in range(3):
        assert float(x[k].var()) == pytest.approx(0.25, rel=0.15)
    # The correlation with the start falls with the noise.
    cosine = [float(torch.nn.functional.cosine_similarity(x[k].flatten(), x_0.flatten(), dim=0))
             for k in range(3)]  # fmt: skip
    assert cosine[0] > cosine[1] > cosine[2] - 0.05
    assert abs(cosine[2]) < 0.1


@pytest.mark.parametrize(
    "name",
    [
        "PNDM", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "LMSDiscrete",
        "EulerDiscrete", "EulerAncestralDiscrete", "EDMEuler", "FlowMatchEulerDiscrete",
        "DDIMInverse", "DPMSolverMultistepInverse", "UnCLIP", "ScoreSdeVe",
    ],
)  # fmt: skip
def test_schedulers_of_another_kind_are_rejected(name: str) -> None:
    message = f"^scheduler: {name}Scheduler does not evaluate the model once per step on images"
    with pytest.raises(InputError, match=message):
        ReverseProcess(getattr(diffusers, f"{name}Scheduler")(), 50)
