"""ADM checkpoints against an independent definition of the network, from its paper."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from adm_reference import ADM
from attack import Attack
from diffusers import DiffusionPipeline, UNet2DModel
from torch import nn

from lit_hier.diffusion.adm import convert, load_adm, save_pipeline, unet_config
from lit_hier.errors import InputError

WIDTHS, ATTENDS = (32, 32, 64, 64, 128, 128), (False, False, False, True, True, True)


@pytest.fixture(scope="module")
def small() -> ADM:
    """The published topology at an eighth of its width; no parameter has a trivial value."""
    torch.manual_seed(0)
    network = ADM(WIDTHS, ATTENDS).eval()
    for name, value in network.named_parameters():
        if value.ndim == 1:
            nn.init.normal_(value, mean=1.0 if name.endswith("weight") else 0.0, std=0.2)
    return network


@pytest.fixture
def checkpoint(small: ADM, tmp_path: Path) -> Path:
    torch.save(small.state_dict(), tmp_path / "adm.pt")
    return tmp_path / "adm.pt"


def test_a_converted_network_computes_the_same(small: ADM, checkpoint: Path) -> None:
    model = load_adm(checkpoint, sample_size=64)
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


def test_a_converted_pipeline_is_restored(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "pipeline"
    command = [sys.executable, "-m", "lit_hier.diffusion.adm", str(checkpoint), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    model = load_adm(checkpoint)
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


def test_a_missing_file_is_one_line_and_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lit_hier.diffusion.adm", "none.pt", "pipeline"]
    completed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert completed.returncode == 2
    assert completed.stderr.startswith("lit-hier: error: checkpoint: cannot read none.pt: No such")
    assert len(completed.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
