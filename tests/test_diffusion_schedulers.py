"""Schedulers: what they must sample, and what they inherit from a model's training."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import yaml
from conftest import inside
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    LCMScheduler,
    SASolverScheduler,
    UNet2DModel,
)
from pytorch_lightning import Trainer
from torch import Tensor

from lit_hier.cli.command import execute
from lit_hier.data import DigitsDataModule
from lit_hier.diffusion import Latents
from lit_hier.diffusion.exactness import measure
from lit_hier.diffusion.inheritance import inherit
from lit_hier.diffusion.reverse import ReverseProcess
from lit_hier.errors import InputError
from lit_hier.modules import DDPMSampler
from lit_hier.streams import generators

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array_(_|wrap__) (implementation|must)",  # diffusers' own use of numpy
    "ignore:.*suggested max number of worker",
)

CONVENTIONS = ("aligned", "released")
ACCEPTED = (
    "DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep", "DPMSolverMultistep",
    "DPMSolverSinglestep", "UniPCMultistep",
)  # fmt: skip
NOT_BUILT = ("Amused", "CosineDPMSolverMultistep", "DPMSolverSDE", "RFD4Proteina", "VQDiffusion")
"""Schedulers that need arguments or a package that is not installed."""
REJECTED = sorted(
    {name.removesuffix("Scheduler") for name in dir(diffusers) if name.endswith("Scheduler")}
    - {*ACCEPTED, *NOT_BUILT}
)


def build(name: str, **kwargs: Any) -> Any:
    return getattr(diffusers, f"{name}Scheduler")(**kwargs)


# What a scheduler samples.


def reconstruct(process: ReverseProcess, covariance: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Run the exact denoiser of N(0.1, covariance) on many samples; return x_0 and x_reversed."""
    dim, mean = len(covariance), 0.1
    numbers = torch.randn(4, 1, 4000, dim, generator=torch.Generator().manual_seed(0))
    x_0 = mean + numbers @ torch.linalg.cholesky(covariance).T

    def denoise(x: Tensor, timesteps: Tensor) -> Tensor:
        alpha = process.alphas_cumprod[timesteps[0]].float()
        total = alpha * covariance + (1 - alpha) * torch.eye(dim)
        eta: Tensor = (x - alpha.sqrt() * mean) @ torch.linalg.inv(total) * (1 - alpha).sqrt()
        return eta

    streams = [generators(0, torch.arange(4), k)]
    x = process.sample(denoise, x_0, [k], streams, 4)[0]
    return x_0.reshape(-1, dim), x.reshape(-1, dim)


@pytest.mark.parametrize("name", ["DPMSolverMultistep", "DEISMultistep", "UniPCMultistep"])
def test_few_steps_of_a_multistep_solver_keep_the_contrast(name: str) -> None:
    """DPM-Solver++ at 20 of these steps gave 0.617, where it gives 0.473 at steps of its own."""
    process = ReverseProcess(build(name), 20)
    _, x = reconstruct(process, torch.tensor([[0.25]]), 20)
    assert 0.465 < float(x.std()) < 0.53


@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_correlated_gaussian_data_come_back_as_they_must(
    stochastic: bool, convention: Any
) -> None:
    """Against the closed form in matrices: the posterior, or the probability flow."""
    options = {"algorithm_type": "sde-dpmsolver++"} if stochastic else {}
    process = ReverseProcess(DPMSolverMultistepScheduler(**options), 40, convention)
    covariance, k = torch.tensor([[0.25, 0.15], [0.15, 0.25]]), 12
    x_0, x = reconstruct(process, covariance, k)
    noised = process.alphas_cumprod[process.timesteps[k]].float()
    told = process.alphas_cumprod[process.timesteps[k - (convention == "released")]].float()
    total = told * covariance + (1 - told) * torch.eye(2)
    if stochastic:
        gain = told.sqrt() * covariance @ torch.linalg.inv(total)
        added = covariance - told.sqrt() * gain @ covariance
    else:
        values, axes = torch.linalg.eigh(covariance)
        scale = (values / (told * values + 1 - told)).sqrt()
        gain, added = axes @ scale.diag() @ axes.T, torch.zeros(2, 2)
    cross = noised.sqrt() * covariance @ gain
    expected = gain @ (noised * covariance + (1 - noised) * torch.eye(2)) @ gain + added
    found = torch.cov(torch.cat((x_0, x), 1).T)
    assert (x.mean(0) - 0.1).abs().max() < 0.02
    assert (found[2:, 2:] - expected).abs().max() < 0.02
    assert (found[:2, 2:] - cross).abs().max() < 0.02


def worst(process: ReverseProcess, steps: Sequence[int]) -> float:
    """Return the largest deviation, as a fraction of what is allowed."""
    return max(
        float((abs(found - exact) / allowed).max())
        for k in steps
        for found, exact, allowed in zip(*measure(process, k), strict=True)
    )


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_accepted_is_exact_from_every_step(name: str, convention: Any) -> None:
    assert worst(ReverseProcess(build(name), 5, convention), range(1, 6)) < 1


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [10, 20, 50, 100, 250])
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_accepted_is_exact_at_any_number_of_steps(
    name: str, convention: Any, num_steps: int
) -> None:
    process = ReverseProcess(build(name), num_steps, convention)
    steps = {1, 2, 3, *range(4, num_steps, num_steps // 7), num_steps - 1, num_steps}
    assert worst(process, sorted(steps)) < 1


def test_the_allowed_deviation_shrinks_with_the_number_of_steps() -> None:
    for options, power in (({}, 1.0), ({"algorithm_type": "sde-dpmsolver++"}, 0.75)):
        allowed = []
        for num in (4, 20):
            process = ReverseProcess(DPMSolverMultistepScheduler(**options), num)
            allowed.append(measure(process, num)[2].standard_deviation[1] / 0.5 - 0.01)
        assert allowed[1] / allowed[0] < 5 ** (-0.6 * power)


def test_moments_are_those_of_samples() -> None:
    """The moments without sampling error against those of many samples."""
    process = ReverseProcess(DDPMScheduler(), 12)
    x_0, x = reconstruct(process, torch.tensor([[0.25]]), 4)
    found = [float(value[1]) for value in measure(process, 4)[0]]
    correlation = float(torch.corrcoef(torch.cat((x_0, x), 1).T)[0, 1])
    assert found == pytest.approx([float(x.mean()), float(x.std()), correlation], abs=0.02)


@pytest.mark.parametrize("name", REJECTED)
def test_what_cannot_be_exact_is_named(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = build(name)
    with pytest.raises(InputError) as caught:
        ReverseProcess(scheduler, 30)
    message = str(caught.value)
    assert message.startswith("scheduler: ")
    assert f"{name}Scheduler" in message
    assert len(message) <= 360
    assert message.isprintable()


class Unseeded(DDPMScheduler):  # type: ignore[misc]
    def step(self, model_output: Any, timestep: Any, sample: Any, generator: Any = None) -> Any:
        return super().step(model_output, timestep, sample, generator=None)


class Bright(DDIMScheduler):  # type: ignore[misc]
    def step(self, model_output: Any, timestep: int, sample: Any) -> Any:
        stepped = super().step(model_output, timestep, sample)
        stepped.prev_sample = stepped.prev_sample * 1.01
        return stepped


class Broken(DDIMScheduler):  # type: ignore[misc]
    def step(self, model_output: Any, timestep: int, sample: Any) -> Any:
        raise RuntimeError("one\ntwo" + "x" * 500)


class OtherNoise(DDIMScheduler):  # type: ignore[misc]
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alphas_cumprod = self.alphas_cumprod**2


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (Unseeded(), "Unseeded draws noise without the generator"),
        (Bright(), "Bright is wrong for this model: on Gaussian data"),
        (Broken(), "Broken fails from step 1 of 40: RuntimeError: one two"),
        (OtherNoise(), "this OtherNoise changes the noise schedule"),
        (DDIMScheduler(clip_sample_range=0.05), "DDIMScheduler is wrong for this model"),
        (DDPMScheduler(variance_type="fixed_large_log"), "DDPMScheduler is wrong for this model"),
        (SASolverScheduler(), "SASolverScheduler is wrong for this model"),
        (LCMScheduler(), "LCMScheduler is wrong for this model"),
        (DPMSolverMultistepScheduler(use_karras_sigmas=True), "does not take 40 steps: Cannot"),
        (DPMSolverMultistepScheduler(prediction_type="flow_prediction"), "has prediction_type='f"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_scheduler_that_samples_something_else_is_rejected(scheduler: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^scheduler: .*{message}") as caught:
        ReverseProcess(scheduler, 40)
    assert len(str(caught.value)) <= 360


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_a_solver_between_the_kinds_is_accepted_where_it_is_one_of_them(tau: float) -> None:
    ReverseProcess(SASolverScheduler(tau_func=lambda t: tau), 40)


def test_single_tables_are_in_float64_too() -> None:
    """A float32 one beside the others in float64 gave a negative variance, NaN."""
    process = ReverseProcess(DDIMScheduler(set_alpha_to_one=False), 10)
    assert process.scheduler.final_alpha_cumprod == process.alphas_cumprod[0]
    assert worst(process, range(1, 11)) < 1


# What a scheduler inherits.

TRAINED = DDPMScheduler(
    prediction_type="v_prediction",
    beta_schedule="squaredcos_cap_v2",
    rescale_betas_zero_snr=True,
    clip_sample_range=2.0,
)


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_scheduler_inherits_the_training(name: str) -> None:
    scheduler = inherit(build(name), TRAINED)
    assert scheduler.config.prediction_type == "v_prediction"
    assert torch.allclose(scheduler.betas, TRAINED.betas, rtol=1e-6)
    assert scheduler.config.get("clip_sample_range", 2.0) == 2.0
    if "rescale_betas_zero_snr" in scheduler.config:
        ReverseProcess(scheduler, 10)
    else:  # it divides by sqrt(alpha), which is 0 at the end
        with pytest.raises(InputError, match=f"^scheduler: {name}Scheduler is wrong for this mod"):
            ReverseProcess(scheduler, 10)


def test_what_the_user_chooses_stays() -> None:
    given = DPMSolverMultistepScheduler(solver_order=3, prediction_type="v_prediction")
    scheduler = inherit(given, TRAINED)
    assert scheduler.config.solver_order == 3
    assert inherit(DDPMScheduler(variance_type="fixed_large"), TRAINED).variance_type == (
        "fixed_large"
    )
    assert inherit(TRAINED, TRAINED) is TRAINED


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prediction_type": "epsilon"}, "prediction_type is 'epsilon', but .* 'v_prediction'"),
        ({"beta_schedule": "linear"}, "beta_schedule is 'linear', but .* 'squaredcos_cap_v2'"),
        ({"num_train_timesteps": 500}, "num_train_timesteps is 500, but .* 1000"),
        ({"rescale_betas_zero_snr": False}, "rescale_betas_zero_snr is False, but .* True"),
        ({"trained_betas": [0.1] * 1000}, r"trained_betas is \[0.1, 0.1, .* None"),
        ({"clip_sample": False}, "clip_sample is False, but .* True"),
        ({"clip_sample_range": 1.0}, r"clip_sample_range is 1.0, but .* 2.0"),
        ({"thresholding": True}, "thresholding is True, but .* False"),
    ],
)
def test_what_contradicts_the_training_is_rejected(given: dict[str, Any], message: str) -> None:
    expected = f"^scheduler: {message}; leave {next(iter(given))} out$"
    with pytest.raises(InputError, match=expected) as caught:
        inherit(DDIMScheduler(**given), TRAINED)
    assert len(str(caught.value)) <= 360


def test_a_scheduler_that_fails_on_the_training_is_named() -> None:
    line = "^scheduler: UnCLIPScheduler cannot take what the model was trained with: UnCLIPSch"
    with pytest.raises(InputError, match=line):
        inherit(build("UnCLIP"), DDPMScheduler())


def test_an_argument_given_by_position_is_given() -> None:
    with pytest.raises(InputError, match=r"^scheduler: num_train_timesteps is 500"):
        inherit(DDIMScheduler(500), TRAINED)


def test_betas_may_be_described_in_another_way() -> None:
    betas = DDPMScheduler(beta_schedule="sigmoid")  # which DDIM does not know
    scheduler = inherit(DDIMScheduler(trained_betas=betas.betas.tolist()), betas)
    assert torch.allclose(scheduler.betas, betas.betas)


def test_the_defaults_of_the_models_own_scheduler_are_inherited() -> None:
    """The betas of this class have other defaults than those of DDPM."""
    trained = LCMScheduler()
    for given in (None, DDIMScheduler(), DDPMScheduler()):
        assert torch.equal(inherit(given, trained).betas, trained.betas)


def test_a_model_without_such_a_noise_schedule_is_named() -> None:
    trained = build("FlowMatchEulerDiscrete")
    with pytest.raises(InputError, match=r"^scheduler: the model comes with FlowMatchEulerDisc"):
        inherit(DDIMScheduler(), trained)
    with pytest.raises(InputError, match=r"^scheduler: FlowMatchEulerDiscreteScheduler does "):
        ReverseProcess(inherit(None, trained), 10)


CONFIG = """
model:
  class_path: DDPMSampler
  init_args: {pretrained: model, num_steps: 4, times: [2], scheduler: SCHEDULER}
data: {class_path: DigitsDataModule, init_args: {num_predict: 2}}
trainer: {accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}
"""


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("slow", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_config_inherits_what_it_does_not_spell_out(
    pipeline: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], slow: bool
) -> None:
    unet = UNet2DModel.from_pretrained(pipeline, subfolder="unet", low_cpu_mem_usage=False)
    DDPMPipeline(unet, TRAINED).save_pretrained(tmp_path / "model")
    config = tmp_path / "config.yaml"
    ddim = "{class_path: diffusers.DDIMScheduler, init_args: {set_alpha_to_one: false}}"
    spelled = "{class_path: diffusers.DDIMScheduler, init_args: {prediction_type: epsilon}}"
    option = "--model.init_args.scheduler.init_args.prediction_type=epsilon"
    with inside(tmp_path):
        config.write_text(CONFIG.replace("SCHEDULER", spelled if slow else ddim))
        with pytest.raises(SystemExit, match="2"):
            execute(["predict", "-c", "config.yaml", *([] if slow else [option])])
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.endswith(
            "scheduler: prediction_type is 'epsilon', but the model was trained with"
            " 'v_prediction'; leave prediction_type out"
        )
        assert not os.path.exists("logs")
        config.write_text(CONFIG.replace("SCHEDULER", ddim))
        execute(["predict", "-c", "config.yaml"])
        saved = "logs/run/version_0/config.yaml"
        model = yaml.safe_load(Path(saved).read_text())["model"]
        assert model["init_args"]["scheduler"]["init_args"] == {"set_alpha_to_one": False}
        if slow:
            execute(["predict", "-c", saved])  # the run may be repeated


# Models that are not plain, and records.


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_predict_returns_records(pipeline: str) -> None:
    """Lightning moves what it returns to the CPU, and rejected a frozen record after the run."""
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    sampler = DDPMSampler(pipeline, [0, 1], num_steps=3)
    data = DigitsDataModule(num_predict=3, eval_batch_size=2)
    records: Any = trainer.predict(sampler, data)
    assert [record.x_reversed.shape for record in records] == [(2, 2, 1, 8, 8), (2, 1, 1, 8, 8)]
    given = records[0]
    moved = given.to("meta")
    assert moved.axis is given.axis
    assert all(value.is_meta for value in (moved.x_start, moved.times, moved.index, moved.label))
    latents = Latents((given.x_start,), (given.x_start,), (given.x_start,))
    moved = replace(given, latents=latents).to("meta")
    assert moved.latents.tree_start[0].is_meta
    assert moved.latents.upward is None


def save(folder: Path, unet: Any, **kwargs: Any) -> str:
    DDIMPipeline(unet, DDIMScheduler()).save_pretrained(folder, **kwargs)
    return str(folder)


def tiny(**kwargs: Any) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        layers_per_block=1,
        **kwargs,
    )


@pytest.mark.parametrize(
    "options",
    [{"variant": "fp16"}, {"variant": "fp16", "max_shard_size": "3KB"}],
    ids=["one file", "shards"],
)
def test_a_variant_of_the_weights_is_found(tmp_path: Path, options: dict[str, Any]) -> None:
    unet = tiny()
    sampler = DDPMSampler(save(tmp_path, unet, **options), [1], num_steps=3)
    for name, value in sampler.model.state_dict().items():
        assert torch.equal(value, unet.state_dict()[name])


def test_weights_of_several_variants_are_ambiguous(tmp_path: Path) -> None:
    folder = save(tmp_path, tiny(), variant="fp16")
    save(tmp_path, tiny(), variant="ema")
    with pytest.raises(InputError, match=r"it has weights of ema, fp16; keep those of one$"):
        DDPMSampler(folder, [1], num_steps=3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_weights_of_another_precision_run_in_that_of_the_trainer(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    sampler = DDPMSampler(save(tmp_path, tiny().to(dtype)), [1], num_steps=3)
    assert sampler.model.dtype == torch.float32
    batch = {"x": torch.zeros(1, 1, 8, 8), "label": torch.tensor([0]), "index": torch.tensor([0])}
    assert sampler.predict_step(batch, 0).x_reversed.isfinite().all()


@pytest.mark.parametrize("option", [{"num_class_embeds": 3}, {"class_embed_type": "identity"}])
def test_class_conditional_models_are_named(tmp_path: Path, option: dict[str, Any]) -> None:
    message = "is a class-conditional model; give an unconditional model of pixels, such as a DDPM"
    with pytest.raises(InputError, match=f"^pretrained: .* {message}"):
        DDPMSampler(save(tmp_path, tiny(**option)), [1], num_steps=3)
