"""The reverse process against its formulas in float64; all inversion steps against each alone."""

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

# Of diffusers' own use of numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array_(_|wrap__) (implementation|must)")

B, SHAPE = 5, (3, 8, 8)
INDEX = torch.tensor([3, 4, 9, 0, 7])


def images() -> Tensor:
    return torch.rand(B, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def model(x: Tensor, told: Tensor) -> Tensor:
    """Something smooth that depends on all of its input; six channels of output."""
    mixed = torch.tanh(x + 0.3 * x.roll(1, dims=1) + told.view(-1, 1, 1, 1) / 1000)
    return torch.cat((mixed, torch.tanh(x.flip(1))), dim=1)


def turn(
    process: ReverseProcess, steps: list[int], batch_size: int = 4, index: Tensor = INDEX
) -> Tensor:
    x_0 = images()[: len(index)]
    own = [generators(0, index, k) for k in steps]
    return process.sample(model, x_0, steps, own, batch_size)


def test_respaced_steps_are_those_of_the_original() -> None:
    process = ReverseProcess(adm_scheduler(), 250)
    named = {25: 100, 50: 201, 100: 401, 125: 502, 150: 602, 200: 802, 225: 903, 249: 999}
    assert {k: process.timesteps[k] for k in named} == named
    assert process.timesteps == sorted(set(process.timesteps))
    assert len(process.timesteps) == 250


def test_every_step_is_the_posterior_in_float64() -> None:
    """Direct transcription of the improved DDPM's posterior, at all 250 steps."""
    process = ReverseProcess(adm_scheduler(), 250)
    alphas = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000, dtype=np.float64))[process.timesteps]
    before = np.append(1.0, alphas[:-1])
    betas = 1 - alphas / before
    variance = betas * (1 - before) / (1 - alphas)
    lowest = np.log(np.append(variance[1], variance[1:]))
    x = images()[:2]
    for j in range(250):
        own = generators(1, torch.arange(2), j)
        eta = torch.cat([torch.randn(1, *SHAPE, generator=g) for g in own]).double().numpy()
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
        true = mean + (spread * eta if j else 0)
        assert np.abs(stepped.numpy() - true).max() < 1e-6 * max(1, np.abs(true).max())


@pytest.mark.parametrize("convention", ["aligned", "released"])
def test_no_step_returns_the_image_and_all_steps_forget_it(convention: Any) -> None:
    process = ReverseProcess(adm_scheduler(), 20, convention)
    out = turn(process, [0, 20])
    assert torch.equal(out[0], images())
    own = [generators(0, INDEX, 20)]
    other = process.sample(model, torch.zeros(B, *SHAPE), [20], own, 4)
    assert torch.equal(out[1], other[0])


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
def test_all_steps_together_equal_a_run_for_each(scheduler: Any, convention: Any) -> None:
    process = ReverseProcess(scheduler, 20, convention)
    steps = [1, 3, 4, 11, 20]
    together = turn(process, steps, batch_size=7)
    alone = torch.cat([turn(process, [k], batch_size=100) for k in steps])
    assert (together - alone).abs().max() < 1e-5 * max(1.0, float(alone.abs().max()))
    assert together.isfinite().all()


def test_all_steps_together_draw_the_same_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process, steps = ReverseProcess(adm_scheduler(), 20), [3, 11, 20]
    randn, drawn = torch.randn, {}

    def recorded(*args: Any, generator: torch.Generator, **kwargs: Any) -> Tensor:
        numbers = randn(*args, generator=generator, **kwargs)
        drawn.setdefault(generator.initial_seed(), []).append(numbers)
        return numbers

    monkeypatch.setattr(torch, "randn", recorded)
    turn(process, steps, batch_size=7)
    together, drawn = drawn, {}
    for k in steps:
        turn(process, [k], batch_size=100)
    assert together.keys() == drawn.keys()
    assert len(drawn) == B * len(steps)
    for seed, numbers in drawn.items():
        assert len(numbers) == len(together[seed]) >= 4
        assert all(map(torch.equal, numbers, together[seed]))


def test_an_image_depends_on_itself_alone() -> None:
    process = ReverseProcess(adm_scheduler(), 20)
    whole, part = turn(process, [5, 9]), turn(process, [5, 9], index=INDEX[:2])
    assert torch.allclose(whole[:, :2], part, atol=1e-6)
    numbers = [torch.randn(4, generator=g) for g in generators(0, INDEX, 5)]
    again = [torch.randn(4, generator=g) for g in generators(0, INDEX[2:3], 5)]
    assert torch.equal(numbers[2], again[0])
    assert len({tuple(x.tolist()) for x in numbers}) == B


@pytest.mark.parametrize(("convention", "number"), [("aligned", 6 + 12 + 20), ("released", 36)])
def test_every_image_is_told_every_step_once(convention: Any, number: int) -> None:
    process = ReverseProcess(adm_scheduler(), 20, convention)
    told: Counter[int] = Counter()

    def watched(x: Tensor, step: Tensor) -> Tensor:
        told.update(step.tolist())
        return model(x, step)

    steps = [0, 5, 11, 20]
    own = [generators(0, INDEX, k) for k in steps]
    process.sample(watched, images(), steps, own, batch_size=4)
    each = [process.num_evaluations(k) for k in steps]
    assert sum(each) == number
    for j, step in enumerate(process.timesteps):
        assert told[step] == B * sum(num > j for num in each)


@pytest.mark.parametrize("num", [1, 2, 5, 6, 8, 13])
@pytest.mark.parametrize("batch_size", [1, 4, 6, 7])
@pytest.mark.parametrize("steps", [[20], [3, 5, 8], [0, 1, 2, 7, 20]])
def test_the_model_is_given_full_batches(num: int, batch_size: int, steps: list[int]) -> None:
    """As few as can be: of work that is cut into steps, the longest goes first."""
    process = ReverseProcess(adm_scheduler(), 20)
    given: list[int] = []

    def watched(x: Tensor, told: Tensor) -> Tensor:
        given.append(len(x))
        return model(x, told)

    index = torch.arange(num)
    x_0 = torch.zeros(num, *SHAPE)
    process.sample(watched, x_0, steps, [generators(0, index, k) for k in steps], batch_size)
    each = [process.num_evaluations(k) for k in steps]
    assert max(given) <= batch_size
    assert sum(given) == num * sum(each)
    assert len(given) == max(max(each), -(-num * sum(each) // batch_size))
    if len(given) > max(each):
        assert set(given[:-1]) == {batch_size}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_steps": 1}, "num_steps is 1; give 2 to 1000"),
        ({"num_steps": 1001}, "num_steps is 1001"),
        ({"convention": "other"}, "convention is 'other'; give aligned or released"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ReverseProcess(adm_scheduler(), **arguments)


@pytest.mark.parametrize("steps", [[-1], [21], [3, 2], [4, 4]])
def test_steps_that_there_are_not(steps: list[int]) -> None:
    with pytest.raises(InputError, match=r"^times: "):
        ReverseProcess(adm_scheduler(), 20).sample(model, images(), steps, [], 4)


def gaussian_denoiser(process: ReverseProcess, variance: float) -> Denoise:
    """The exact noise in Gaussian data: E[eta | x_t]."""

    def denoise(x: Tensor, told: Tensor) -> Tensor:
        alpha = process.alphas_cumprod[told].float().view(-1, 1, 1, 1)
        return x * (1 - alpha) ** 0.5 / (alpha * variance + 1 - alpha)

    return denoise


@pytest.mark.parametrize(
    "name", ["DDPM", "DDIM", "DPMSolverMultistep", "DEISMultistep", "UniPCMultistep", "SASolver"]
)
def test_schedulers_bring_gaussian_data_back(name: str) -> None:
    kind = getattr(diffusers, f"{name}Scheduler")
    clips = "clip_sample" in inspect.signature(kind.__init__).parameters
    process = ReverseProcess(kind(**({"clip_sample": False} if clips else {})), 100)
    x_0 = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) / 2
    steps, index = [10, 50, 100], torch.arange(64)
    own = [generators(0, index, k) for k in steps]
    x = process.sample(gaussian_denoiser(process, 0.25), x_0, steps, own, 64)
    for k in range(3):
        assert float(x[k].var()) == pytest.approx(0.25, rel=0.15)
    # The less noise, the more of the start is left.
    alike = [float(torch.nn.functional.cosine_similarity(x[k].flatten(), x_0.flatten(), dim=0))
             for k in range(3)]  # fmt: skip
    assert alike[0] > alike[1] > alike[2] - 0.05
    assert abs(alike[2]) < 0.1


@pytest.mark.parametrize(
    "name",
    [
        "PNDM", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "LMSDiscrete",
        "EulerDiscrete", "EulerAncestralDiscrete", "EDMEuler", "FlowMatchEulerDiscrete",
        "DDIMInverse", "DPMSolverMultistepInverse", "UnCLIP", "ScoreSdeVe",
    ],
)  # fmt: skip
def test_schedulers_of_another_kind_are_refused(name: str) -> None:
    said = f"^scheduler: {name}Scheduler does not go down the steps one by one, from images noised"
    with pytest.raises(InputError, match=said):
        ReverseProcess(getattr(diffusers, f"{name}Scheduler")(), 50)
