"""ADM checkpoints against an independent definition of the network, from its paper."""

import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from adm_reference import ADM
from attack import Attack
from conftest import rejection
from diffusers import DiffusionPipeline, UNet2DModel
from PIL import Image
from torch import nn

from lit_hier.diffusion.adm import (
    adm_scheduler,
    convert,
    load_adm,
    save_pipeline,
    unet_config,
)
from lit_hier.diffusion.adm_flags import ADMFlags
from lit_hier.diffusion.pretrained import load_pretrained
from lit_hier.errors import InputError
from lit_hier.modules import DDPMSampler
from lit_hier.nn.fingerprint import fingerprint

WIDTHS, ATTENDS = (32, 32, 64, 64, 128, 128), (False, False, False, True, True, True)


@pytest.fixture(scope="module")
def small() -> ADM:
    """The published topology at an eighth of its width; no parameter has a trivial value."""
    torch.manual_seed(0)
    return nontrivial(ADM(WIDTHS, ATTENDS))


def nontrivial(network: ADM) -> ADM:
    """Set the parameters that torch initializes to 0 or 1."""
    for name, value in network.named_parameters():
        if value.ndim == 1:
            nn.init.normal_(value, mean=1.0 if name.endswith("weight") else 0.0, std=0.2)
    return network.eval()


@pytest.fixture
def checkpoint(small: ADM, tmp_path: Path) -> Path:
    torch.save(small.state_dict(), tmp_path / "adm.pt")
    return tmp_path / "adm.pt"


def test_a_converted_network_computes_the_same(small: ADM, checkpoint: Path) -> None:
    model = load_adm(checkpoint, ADMFlags(image_size=64))
    assert not model.training
    x, step = torch.randn(2, 3, 64, 64), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        expected, converted = small(x, step), model(x, step).sample
        assert (converted - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))
        exact = small.double()(x.double(), step.double())
        double = model.double()(x.double(), step.double()).sample
        # diffusers computes the time embedding in float32.
        assert (double - exact).abs().max() < 1e-6 * float(exact.abs().max())
    small.float()


# Flags that change the network, each with those of the reference.
TRAININGS: dict[str, dict[str, Any]] = {
    "num_heads": {"num_heads": 4, "num_head_channels": -1},
    "num_head_channels": {"num_head_channels": 32},
    "num_heads_upsample": {"num_heads": 2, "num_head_channels": -1, "num_heads_upsample": 8},
    "use_new_attention_order": {"use_new_attention_order": True, "num_head_channels": 16},
    "both": {"use_new_attention_order": True, "num_heads": 4, "num_head_channels": -1},
    "use_scale_shift_norm": {"use_scale_shift_norm": False},
    "resblock_updown": {"resblock_updown": False},
    "num_res_blocks": {"num_res_blocks": 3, "resblock_updown": False},
    "one block": {"num_res_blocks": 1, "use_scale_shift_norm": False},
}


@pytest.mark.parametrize("name", TRAININGS)
def test_flags_of_guided_diffusion_are_obeyed(name: str, tmp_path: Path) -> None:
    """The file alone does not tell heads and order: without the flags, the output is another."""
    torch.manual_seed(1)
    reference = nontrivial(ADM((32, 64, 128), (False, True, True), **TRAININGS[name]))
    torch.save(reference.state_dict(), tmp_path / "adm.pt")
    model = load_adm(tmp_path / "adm.pt", ADMFlags(image_size=16, **TRAININGS[name]))
    x, step = torch.randn(2, 3, 16, 16), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        expected, converted = reference(x, step), model(x, step).sample
    assert (converted - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


def test_steps_and_predictions_are_those_of_the_training(tmp_path: Path) -> None:
    """As improved-diffusion trains: 4,000 steps, cosine, steps rescaled to 1,000, no variance."""
    torch.manual_seed(2)
    reference = nontrivial(ADM((32, 64), (False, True), out=3, step_scale=0.25))
    torch.save(reference.state_dict(), tmp_path / "adm.pt")
    flags = ADMFlags(
        image_size=16, diffusion_steps=4000, noise_schedule="cosine", rescale_timesteps=True,
        predict_xstart=True,
    )  # fmt: skip
    model, scheduler = load_pretrained(str(tmp_path / "adm.pt"), adm=flags)
    x, step = torch.randn(2, 3, 16, 16), torch.tensor([3.0, 3900.0])
    with torch.no_grad():
        assert torch.allclose(model(x, step).sample, reference(x, step), atol=1e-5)
    found = scheduler.config
    assert (found.variance_type, found.prediction_type) == ("fixed_large", "sample")
    t = torch.arange(4001, dtype=torch.float64) / 4000
    signal = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
    assert torch.allclose(scheduler.alphas_cumprod.double(), signal[1:] / signal[0], atol=1e-5)
    linear = adm_scheduler(ADMFlags(diffusion_steps=250)).betas
    assert torch.allclose(linear[[0, -1]], torch.tensor([4e-4, 0.08]))


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"num_heads": 3}, "num_heads is 3, which does not divide the 64 channels"),
        ({"num_head_channels": 48}, "num_head_channels is 48, which does not divide the 64"),
        ({"num_heads": 4, "num_heads_upsample": 5}, "num_heads_upsample is 5, which does not"),
        ({"num_heads": 0}, "num_heads is 0; give at least 1"),
        ({"num_head_channels": -2}, "num_head_channels is -2; give at least 1, or -1"),
        ({"diffusion_steps": 20}, "diffusion_steps is 20; give 21 to 100000"),
        ({"image_size": 100}, "image_size is 100, but the network halves images 5 times"),
        ({"num_channels": 64}, "num_channels is 64, but the checkpoint has 32"),
        ({"num_res_blocks": 3}, "num_res_blocks is 3, but the checkpoint has 2"),
        ({"channel_mult": "1,2,4"}, r"channel_mult is 1,2,4, .* but the checkpoint has \[32, 32,"),
        ({"channel_mult": "1,-2"}, "channel_mult is '1,-2'; give positive numbers"),
        ({"attention_resolutions": 0}, "attention_resolutions is 0; give positive numbers"),
        ({"channel_mult": "1,x"}, "channel_mult is '1,x'; give positive numbers"),
        ({"attention_resolutions": "32,16"}, r"attention_resolutions is 32,16, .* \[32, 16, 8\]"),
        ({"learn_sigma": False}, "learn_sigma is False, but the checkpoint has True"),
        ({"class_cond": True}, "class_cond is True, but the checkpoint has False"),
        ({"use_scale_shift_norm": False}, "use_scale_shift_norm is False, but the checkpoint"),
        ({"resblock_updown": False}, "resblock_updown is False, but the checkpoint has True"),
    ],
)
def test_flags_of_another_network_are_rejected(
    checkpoint: Path, flags: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError, match=rf"^adm: [^\n]*{reason}") as error:
        load_adm(checkpoint, ADMFlags(**flags))
    assert len(str(error.value)) <= 360


def test_all_flags_of_a_published_training_may_be_given(checkpoint: Path) -> None:
    load_adm(
        checkpoint,
        ADMFlags(
            attention_resolutions="32,16,8", class_cond=False, diffusion_steps=1000,
            image_size=256, learn_sigma=True, noise_schedule="linear", num_channels=32,
            num_head_channels=64, num_heads=4, num_res_blocks=2, resblock_updown=True,
            use_scale_shift_norm=True, channel_mult="1,1,2,2,4,4",
        ),
    )  # fmt: skip


IMAGES = """
data:
  class_path: ImageDataModule
  init_args:
    held_out: {class_path: ImageFiles, init_args: {root: images}}
    num_per_class: null
    size: 16
    num_workers: 0
model:
  class_path: DDPMSampler
  init_args: {pretrained: adm.pt, times: [0, 1], num_steps: 4, adm: {image_size: 16, FLAGS}}
"""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("num_heads: 3", "adm: num_heads is 3, which does not divide the 64 channels of an"),
        ("num_hads: 3", "model.init_args.adm.num_hads: .* (did you mean num_heads?)"),
    ],
)
def test_a_config_gives_the_flags_by_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str, message: str
) -> None:
    torch.save(ADM((32, 64), (False, True)).state_dict(), tmp_path / "adm.pt")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "images/0.png")
    (tmp_path / "run.yaml").write_text(IMAGES.replace("FLAGS", flags))
    error = rejection(tmp_path, capsys, "predict", "-c", "run.yaml")
    parts = map(re.escape, message.split(".*"))
    assert re.match(".*".join(parts), error)
    assert len(error) <= 360


def test_a_sampler_says_what_it_assumes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(ADM((32, 64), (False, True)).state_dict(), tmp_path / "adm.pt")
    flags = ADMFlags(image_size=16, num_heads=2)
    with caplog.at_level("INFO"):
        sampler = DDPMSampler(str(tmp_path / "adm.pt"), times=[1.0], adm=flags)
    (line,) = [message for message in caplog.messages if "assumed" in message]
    assert "num_heads=2, use_new_attention_order=False, image_size=16, diffusion_st" in line
    sampler.trainer = trainer = Mock(datamodule=Mock(size=64))
    with pytest.warns(UserWarning, match=r"64 pixels .* trained on 16 \(adm.image_size; correct"):
        sampler.compare_sizes()
    del trainer
    other = load_adm(tmp_path / "adm.pt", ADMFlags(image_size=16, num_heads=4))
    assert fingerprint(sampler.model) != fingerprint(other)


def test_what_a_pipeline_cannot_state_is_not_saved(checkpoint: Path, tmp_path: Path) -> None:
    for flags, name in (
        (ADMFlags(num_heads=4), "num_heads"),
        (ADMFlags(diffusion_steps=500, rescale_timesteps=True), "rescale_timesteps"),
    ):
        with pytest.raises(InputError, match=f"^adm: {name}: a pipeline cannot state it"):
            save_pipeline(checkpoint, tmp_path / "pipeline", flags)
    assert not (tmp_path / "pipeline").exists()


def test_flags_belong_to_a_checkpoint(pipeline: str) -> None:
    with pytest.raises(InputError, match=r"^adm: pretrained is .*, not an ADM checkpoint"):
        load_pretrained(pipeline, adm=ADMFlags())


def test_every_parameter_of_the_published_network_is_converted() -> None:
    """Names, shapes and number, on the meta device, of the 256 x 256 network."""
    with torch.device("meta"):
        full = ADM((256, 256, 512, 512, 1024, 1024), ATTENDS)
    weights = full.state_dict()
    assert sum(value.numel() for value in weights.values()) == 552_814_086
    with torch.device("meta"):
        model = UNet2DModel(**unet_config(weights))
    converted = convert(weights)
    expected = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in converted.items()} == expected


@pytest.mark.slow
def test_a_converted_pipeline_is_restored(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "pipeline"
    command = [sys.executable, "-m", "lit_hier.diffusion.adm", str(checkpoint), str(folder),
               "--num_head_channels=16", "--image_size=64"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    model = load_adm(checkpoint, ADMFlags(num_head_channels=16))
    assert pipeline.unet.config.attention_head_dim == 16
    assert pipeline.unet.config.sample_size == 64
    restored = pipeline.unet.state_dict()
    assert all(torch.equal(value, restored[name]) for name, value in model.state_dict().items())
    assert pipeline.scheduler.config.variance_type == "learned_range"
    assert [path.name for path in folder.parent.iterdir()] == ["pipeline"]
    with pytest.raises(InputError, match=r"folder: .* is not empty; give a new one"):
        save_pipeline(checkpoint, folder)


def damage(kind: str, weights: dict[str, Any], path: Path) -> None:
    """Write a checkpoint that cannot be used."""
    if kind == "truncated":
        torch.save(weights, path)
        path.write_bytes(path.read_bytes()[:-2000])
        return
    if kind == "code":
        with path.open("wb") as file:
            pickle.dump(Attack(path.parent / "created"), file)
        return
    if kind == "missing":
        del weights["middle_block.1.qkv.bias"]
    elif kind == "unexpected":
        weights["input_blocks.0.1.weight"] = torch.ones(3)
    elif kind == "shape":
        weights["out.2.weight"] = torch.ones(6, 64, 3, 3)
    elif kind == "conditional":
        weights["label_emb.weight"] = torch.ones(1000, 128)
    elif kind == "other":
        weights = {"layer.weight": torch.ones(2)}
    torch.save({"model": weights} if kind == "nested" else weights, path)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncated", "is not a tensors-only checkpoint"),
        ("code", "is not a tensors-only checkpoint"),
        ("missing", r"does not fit the ADM U-Net: mid_block.attentions.0.to_q.bias is missing"),
        ("unexpected", "is not a state dict of an ADM network: "),
        ("shape", r"does not fit the ADM U-Net: conv_out.weight has shape \(6, 64, 3, 3\), not"),
        ("conditional", "is conditioned on classes"),
        ("other", "is not a state dict of an ADM network"),
        ("nested", "is not a state dict; give an unconditional ADM"),
    ],
)
def test_invalid_checkpoints_are_rejected_in_one_line(
    small: ADM, tmp_path: Path, kind: str, reason: str
) -> None:
    path = tmp_path / "adm.pt"
    damage(kind, dict(small.state_dict()), path)
    with pytest.raises(InputError, match=rf"^checkpoint: [^\n]*{reason}[^\n]*$"):
        save_pipeline(path, tmp_path / "pipeline")
    assert [entry.name for entry in tmp_path.iterdir()] == ["adm.pt"]


@pytest.mark.slow
def test_a_missing_file_is_one_line_and_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lit_hier.diffusion.adm", "none.pt", "pipeline"]
    completed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert completed.returncode == 2
    assert completed.stderr.startswith("lit-hier: error: checkpoint: cannot read none.pt: No such")
    assert len(completed.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
