"""The sampler of images, with a tiny network that the test makes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

from lit_hier.errors import InputError
from lit_hier.io.pixels import quantise
from lit_hier.modules import DDPMSampler

STEPS = [0, 2, 5, 10]


def batch(index: list[int]) -> dict[str, torch.Tensor]:
    levels = torch.randint(256, (12, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    x = (levels / 127.5 - 1).float()[index]
    chosen = torch.tensor(index)
    return {"x": x, "label": chosen % 10, "index": chosen}


def test_the_record_is_whole(pipeline: str) -> None:
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


def test_an_image_depends_on_seed_index_and_step_only(pipeline: str) -> None:
    sampler = DDPMSampler(pipeline, [2, 5], num_steps=10)
    whole = sampler.predict_step(batch(list(range(12))), 0).x_reversed
    part = DDPMSampler(pipeline, [5], num_steps=10, batch_size=2)
    some = part.predict_step(batch([7, 3, 11]), 4).x_reversed
    assert (some[0] - whole[1][[7, 3, 11]]).abs().max() < 2.1 / 255
    assert (some[0] == whole[1][[7, 3, 11]]).float().mean() > 0.99
    other = DDPMSampler(pipeline, [5], num_steps=10, seed=1).predict_step(batch([7]), 0)
    assert not torch.equal(other.x_reversed[0], some[0][:1])


def test_a_compiled_model_is_the_one_that_is_used(
    pipeline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = DDPMSampler(pipeline, [5], num_steps=10).predict_step(batch([7]), 0)
    given: list[int] = []

    def compiled(function: Any, **kwargs: Any) -> Any:
        def call(x: torch.Tensor, told: torch.Tensor) -> Any:
            given.append(len(x))
            return function(x, told)

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    found = DDPMSampler(pipeline, [5], num_steps=10, compile=True).predict_step(batch([7]), 0)
    assert given == [1] * 6
    assert torch.equal(found.x_reversed, plain.x_reversed)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"pretrained": "none.pt"}, r"^pretrained: cannot read none.pt: No such file"),
        ({"times": []}, r"^times is \[\]; give one or more finite"),
        ({"times": [1.0, float("nan")]}, r"^times is \[1.0, nan\]; give one or more finite"),
        ({"times": [2.5]}, "^times: inversion steps are whole numbers; or give unit: fraction"),
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
def test_arguments_that_cannot_be_used(
    pipeline: str, arguments: dict[str, Any], said: str
) -> None:
    given = {"pretrained": pipeline, "times": [5.0], "num_steps": 10} | arguments
    with pytest.raises(InputError, match=said):
        DDPMSampler(**given)


def test_the_ancestral_sampler_is_the_default_whatever_a_folder_says(
    pipeline: str, tmp_path: Path
) -> None:
    unet = UNet2DModel.from_pretrained(pipeline, subfolder="unet", low_cpu_mem_usage=False)
    DDIMPipeline(unet, DDIMScheduler(clip_sample=True)).save_pretrained(tmp_path)
    given = batch([0, 1])
    wanted = DDPMSampler(pipeline, [2, 5], num_steps=10).predict_step(given, 0)
    found = DDPMSampler(str(tmp_path), [2, 5], num_steps=10).predict_step(given, 0)
    assert torch.equal(found.x_reversed, wanted.x_reversed)
    ddim = DDPMSampler(str(tmp_path), [2, 5], num_steps=10, scheduler=DDIMScheduler())
    assert not torch.equal(ddim.predict_step(given, 0).x_reversed, wanted.x_reversed)


def test_a_variance_that_nobody_asked_for_is_refused(tmp_path: Path) -> None:
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
    said = "^scheduler: variance_type=fixed_small needs a model with 1 output channels, this one"
    with pytest.raises(InputError, match=said):
        DDPMSampler(str(tmp_path), [5], num_steps=10)
    learned = DDPMScheduler(variance_type="learned_range")
    for scheduler in (learned, DDIMScheduler()):
        sampler = DDPMSampler(str(tmp_path), [5], num_steps=10, scheduler=scheduler)
        assert sampler.predict_step(batch([0]), 0).x_reversed.shape == (1, 1, 1, 8, 8)


def test_folders_that_are_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^pretrained: .* it has no model_index.json$"):
        DDPMSampler(str(tmp_path), [5])
    (tmp_path / "model_index.json").write_text("{")
    for content in ("{", "[]", "{}", '{"_class_name": "NoSuchPipeline"}'):
        (tmp_path / "model_index.json").write_text(content)
        with pytest.raises(InputError, match=r"^pretrained: cannot load [^\n]*$"):
            DDPMSampler(str(tmp_path), [5])


def test_images_of_other_channels_are_refused(pipeline: str) -> None:
    sampler = DDPMSampler(pipeline, [5], num_steps=10)
    coloured = batch([0, 1]) | {"x": torch.zeros(2, 3, 8, 8)}
    with pytest.raises(InputError, match="data: images have 3 channels, but the model takes 1"):
        sampler.predict_step(coloured, 0)
    odd = batch([0, 1]) | {"x": torch.zeros(2, 1, 9, 8)}
    with pytest.raises(InputError, match=r"^data: images have 9 x 8 pixels, but the model halves"):
        sampler.predict_step(odd, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_stop_the_run_and_are_named(pipeline: str, value: float) -> None:
    sampler = DDPMSampler(pipeline, [2, 5], num_steps=10)
    forward = sampler.model.forward

    def overflowing(x: torch.Tensor, told: torch.Tensor) -> Any:
        output = forward(x, told)
        if told[1] == sampler.process.timesteps[4]:
            output.sample[1] = value  # the second image's, at the larger step
        return output

    sampler.model.forward = overflowing
    said = r"^pretrained: the model returns NaN or infinity for sample 9 at k = 5; take another"
    with torch.no_grad(), pytest.raises(InputError, match=said):
        sampler.predict_step(batch([4, 9, 2]), 0)
