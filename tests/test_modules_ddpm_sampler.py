"""The sampler of images, with a tiny network of random weights."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    UNet2DModel,
)

from lit_hier.errors import InputError
from lit_hier.io.pixels import quantise
from lit_hier.modules import DDPMSampler

STEPS = [0, 2, 5, 10]


def batch(index: list[int]) -> dict[str, torch.Tensor]:
    levels = torch.randint(256, (12, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    x = (levels / 127.5 - 1).float()[index]
    indices = torch.tensor(index)
    return {"x": x, "label": indices % 10, "index": indices}


def test_the_record_is_complete(pipeline: str) -> None:
    sampler = DDPMSampler(pipeline, [float(k) for k in STEPS], num_steps=10, batch_size=5)
    given = batch(list(range(6)))
    record = sampler.predict_step(given, 0)
    assert record.x_reversed.shape == (4, 6, 1, 8, 8)
    assert record.x_reversed.dtype == torch.float32
    assert record.times.tolist() == STEPS
    assert record.axis.process == "ddpm"
    assert torch.equal(record.x_start, given["x"])
    assert torch.equal(record.x_reversed[0], given["x"])
    assert torch.equal(quantise(record.x_reversed), record.x_reversed)
    distance = (record.x_reversed - given["x"]).square().flatten(1).mean(1)
    assert (distance.diff() > 0).all()
    fractions = DDPMSampler(pipeline, [0, 0.2, 0.5, 1], "fraction", num_steps=10, batch_size=5)
    assert torch.equal(fractions.predict_step(given, 0).x_reversed, record.x_reversed)


def test_samples_depend_on_seed_index_and_step_only(pipeline: str) -> None:
    sampler = DDPMSampler(pipeline, [2, 5], num_steps=10)
    whole = sampler.predict_step(batch(list(range(12))), 0).x_reversed
    part = DDPMSampler(pipeline, [5], num_steps=10, batch_size=2)
    few = part.predict_step(batch([7, 3, 11]), 4).x_reversed
    assert (few[0] - whole[1][[7, 3, 11]]).abs().max() < 2.1 / 255
    assert (few[0] == whole[1][[7, 3, 11]]).float().mean() > 0.99
    other = DDPMSampler(pipeline, [5], num_steps=10, seed=1).predict_step(batch([7]), 0)
    assert not torch.equal(other.x_reversed[0], few[0][:1])


def test_the_compiled_model_is_used(pipeline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = DDPMSampler(pipeline, [5], num_steps=10).predict_step(batch([7]), 0)
    sizes: list[int] = []

    def compiled(function: Any, **kwargs: Any) -> Any:
        def call(x: torch.Tensor, timesteps: torch.Tensor) -> Any:
            sizes.append(len(x))
            return function(x, timesteps)

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    found = DDPMSampler(pipeline, [5], num_steps=10, compile=True).predict_step(batch([7]), 0)
    assert sizes == [1] * 6
    assert torch.equal(found.x_reversed, plain.x_reversed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pretrained": "none.pt"}, r"^pretrained: cannot read none.pt: No such file"),
        ({"times": []}, r"^times is \[\]; give one or more finite"),
        ({"times": [1.0, float("nan")]}, r"^times is \[1.0, nan\]; give one or more finite"),
        (
            {"times": [2.5]},
            r"^times is \[2.5\]; inversion steps are whole numbers; for fractions, give unit: fr",
        ),
        ({"times": [11]}, "^times: step 11 is out of range; give 0 to 10"),
        ({"times": [5, 2]}, "^times: inversion steps must ascend"),
        ({"times": [1.2], "unit": "fraction"}, "^times: step 12 is out of range"),
        ({"batch_size": 0}, "^batch_size is 0; give at least 1"),
        ({"seed": -1}, "^seed is -1"),
        (
            {"scheduler": DDPMScheduler(variance_type="learned_range")},
            "^scheduler: variance_type=learned_range needs a model with 2 output channels",
        ),
    ],
)
def test_invalid_arguments(pipeline: str, arguments: dict[str, Any], message: str) -> None:
    defaults = {"pretrained": pipeline, "times": [5.0], "num_steps": 10}
    with pytest.raises(InputError, match=message):
        DDPMSampler(**(defaults | arguments))


def test_the_ancestral_sampler_is_the_default_for_any_pipeline(
    pipeline: str, tmp_path: Path
) -> None:
    unet = UNet2DModel.from_pretrained(pipeline, subfolder="unet", low_cpu_mem_usage=False)
    DDIMPipeline(unet, DDIMScheduler(clip_sample=True)).save_pretrained(tmp_path)
    given = batch([0, 1])
    expected = DDPMSampler(pipeline, [2, 5], num_steps=10).predict_step(given, 0)
    found = DDPMSampler(str(tmp_path), [2, 5], num_steps=10).predict_step(given, 0)
    assert torch.equal(found.x_reversed, expected.x_reversed)
    ddim = DDPMSampler(str(tmp_path), [2, 5], num_steps=10, scheduler=DDIMScheduler())
    assert not torch.equal(ddim.predict_step(given, 0).x_reversed, expected.x_reversed)


def test_a_variance_that_the_scheduler_does_not_use_is_rejected(tmp_path: Path) -> None:
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=2,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        layers_per_block=1,
    )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    message = "^scheduler: variance_type=fixed_small needs a model with 1 output channels, this o"
    with pytest.raises(InputError, match=message):
        DDPMSampler(str(tmp_path), [5], num_steps=10)
    learned = DDPMScheduler(variance_type="learned_range")
    for scheduler in (learned, DDIMScheduler()):
        sampler = DDPMSampler(str(tmp_path), [5], num_steps=10, scheduler=scheduler)
        assert sampler.predict_step(batch([0]), 0).x_reversed.shape == (1, 1, 1, 8, 8)


def test_folders_that_are_not_a_pipeline_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^pretrained: .* it has no model_index.json$"):
        DDPMSampler(str(tmp_path), [5])
    (tmp_path / "model_index.json").write_text("{")
    for content in ("{", "[]", "{}", '{"_class_name": "NoSuchPipeline"}'):
        (tmp_path / "model_index.json").write_text(content)
        with pytest.raises(InputError, match=r"^pretrained: cannot load [^\n]*$"):
            DDPMSampler(str(tmp_path), [5])


def test_a_pipeline_that_is_nowhere_is_named() -> None:
    line = r"^pretrained: cannot load nobody/none: there is no such folder, and the hub .*; give t"
    unknown = patch.object(DiffusionPipeline, "download", side_effect=OSError("x" * 500))
    with unknown, pytest.raises(InputError, match=line) as error:
        DDPMSampler("nobody/none", [5])
    assert len(str(error.value)) <= 360


def test_images_of_another_shape_are_rejected(pipeline: str) -> None:
    sampler = DDPMSampler(pipeline, [5], num_steps=10)
    colored = batch([0, 1]) | {"x": torch.zeros(2, 3, 8, 8)}
    with pytest.raises(InputError, match="data: images have 3 channels, but the model takes 1"):
        sampler.predict_step(colored, 0)
    odd = batch([0, 1]) | {"x": torch.zeros(2, 1, 9, 8)}
    with pytest.raises(InputError, match=r"^data: images have 9 x 8 pixels, but the model halves"):
        sampler.predict_step(odd, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_values_stop_the_run_and_are_named(pipeline: str, value: float) -> None:
    sampler = DDPMSampler(pipeline, [2, 5], num_steps=10)
    forward = sampler.model.forward

    def overflowing(x: torch.Tensor, timesteps: torch.Tensor) -> Any:
        output = forward(x, timesteps)
        if timesteps[1] == sampler.process.timesteps[4]:
            output.sample[1] = value  # the second image's, at the larger step
        return output

    sampler.model.forward = overflowing
    message = r"^pretrained: the model returns NaN or infinity for sample 9 at k = 5; choose"
    with torch.no_grad(), pytest.raises(InputError, match=message):
        sampler.predict_step(batch([4, 9, 2]), 0)
