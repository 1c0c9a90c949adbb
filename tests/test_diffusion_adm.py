"""ADM checkpoints against a small definition of that network, written from its paper and facts."""

import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, silu

from lit_hier.diffusion.adm import convert, load_adm, save_pipeline, unet_config
from lit_hier.errors import InputError


class Residual(nn.Module):
    """BigGAN's residual block: resampling inside, scale and shift from the time."""

    def __init__(self, channels: int, time: int, out: int, resample: str = "") -> None:
        super().__init__()
        self.resample = resample
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, 2 * out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, out), nn.SiLU(), nn.Dropout(0), nn.Conv2d(out, out, 3, padding=1)
        )
        if out != channels:
            self.skip_connection = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = silu(self.in_layers[0](x))
        if self.resample == "down":
            h, x = avg_pool2d(h, 2), avg_pool2d(x, 2)
        elif self.resample == "up":
            h, x = (interpolate(y, scale_factor=2, mode="nearest") for y in (h, x))
        h = self.in_layers[2](h)
        scale, shift = self.emb_layers(time)[..., None, None].chunk(2, dim=1)
        h = self.out_layers[3](silu(self.out_layers[0](h) * (1 + scale) + shift))
        skip = self.skip_connection(x) if hasattr(self, "skip_connection") else x
        return skip + h


class Attention(nn.Module):
    """Heads of 64 channels, each with its own rows of queries, keys, values in the projection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        pixels = x.flatten(2)
        heads = self.qkv(self.norm(pixels)).unflatten(1, (-1, 3, 64))
        q, k, v = heads.unbind(2)
        weight = torch.softmax(torch.einsum("bhct,bhcs->bhts", q, k) / math.sqrt(64), -1)
        mixed = torch.einsum("bhts,bhcs->bhct", weight, v).flatten(1, 2)
        return (pixels + self.proj_out(mixed)).view_as(x)


class ADM(nn.Module):
    """The U-Net: two residual blocks a level on the way down, three on the way up."""

    def __init__(self, widths: tuple[int, ...], attends: tuple[bool, ...], out: int = 6) -> None:
        super().__init__()
        base, time = widths[0], 4 * widths[0]
        self.base = base
        self.time_embed = nn.Sequential(nn.Linear(base, time), nn.SiLU(), nn.Linear(time, time))
        blocks: list[list[nn.Module]] = [[nn.Conv2d(3, base, 3, padding=1)]]
        skips, now = [base], base
        for level, (width, attend) in enumerate(zip(widths, attends, strict=True)):
            for _ in range(2):
                blocks.append([Residual(now, time, width)] + [Attention(width)] * attend)
                now = width
                skips.append(now)
            if level < len(widths) - 1:
                blocks.append([Residual(now, time, now, "down")])
                skips.append(now)
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        middle = (Residual(now, time, now), Attention(now), Residual(now, time, now))
        self.middle_block = nn.ModuleList(middle)
        blocks = []
        for level in reversed(range(len(widths))):
            for k in range(3):
                block: list[nn.Module] = [Residual(now + skips.pop(), time, widths[level])]
                now = widths[level]
                block += [Attention(now)] * attends[level]
                if level and k == 2:
                    block.append(Residual(now, time, now, "up"))
                blocks.append(block)
        self.output_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        self.out = nn.Sequential(
            nn.GroupNorm(32, now), nn.SiLU(), nn.Conv2d(now, out, 3, padding=1)
        )

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        half = self.base // 2
        frequency = torch.exp(-math.log(10000) * torch.arange(half, dtype=x.dtype) / half)
        phase = step[:, None] * frequency
        time = self.time_embed(torch.cat((phase.cos(), phase.sin()), dim=1))
        skips = []
        for block in self.input_blocks:
            for layer in block:
                x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, time)
            skips.append(x)
        for layer in self.middle_block:
            x = layer(x, time)
        for block in self.output_blocks:
            x = torch.cat((x, skips.pop()), dim=1)
            for layer in block:
                x = layer(x, time)
        y: Tensor = self.out(x)
        return y


WIDTHS, ATTENDS = (32, 32, 64, 64, 128, 128), (False, False, False, True, True, True)


@pytest.fixture(scope="module")
def small() -> ADM:
    """The real topology at an eighth of its width, with weights that all matter."""
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
        true, converted = small(x, step), model(x, step).sample
        assert (converted - true).abs().max() < 1e-5 * max(1.0, float(true.abs().max()))
        exact = small.double()(x.double(), step.double())
        again = model.double()(x.double(), step.double()).sample
        # What is left is the embedding of the time, which diffusers computes in float32.
        assert (again - exact).abs().max() < 1e-6 * float(exact.abs().max())
    small.float()


def test_every_parameter_of_the_full_model_has_one_place() -> None:
    """On the meta device: names, shapes and number of the published 256 x 256 network."""
    with torch.device("meta"):
        full = ADM((256, 256, 512, 512, 1024, 1024), ATTENDS)
    weights = full.state_dict()
    assert sum(value.numel() for value in weights.values()) == 552_814_086
    with torch.device("meta"):
        model = UNet2DModel(**unet_config(weights))
    converted = convert(weights)
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in converted.items()} == wanted


def test_a_pipeline_folder_comes_back(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "pipeline"
    command = [sys.executable, "-m", "lit_hier.diffusion.adm", str(checkpoint), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    model = load_adm(checkpoint)
    same = pipeline.unet.state_dict()
    assert all(torch.equal(value, same[name]) for name, value in model.state_dict().items())
    assert pipeline.scheduler.config.variance_type == "learned_range"
    assert [path.name for path in folder.parent.iterdir()] == ["pipeline"]
    with pytest.raises(InputError, match=r"folder: .* already holds something"):
        save_pipeline(checkpoint, folder)


class Attack:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.folder,)


def spoil(kind: str, weights: dict[str, Any], path: Path) -> None:
    """Write a checkpoint that cannot be used."""
    if kind == "truncated":
        torch.save(weights, path)
        path.write_bytes(path.read_bytes()[:-2000])
        return
    if kind == "code":
        with path.open("wb") as file:
            pickle.dump(Attack(path.parent / "made"), file)
        return
    if kind == "missing":
        del weights["middle_block.1.qkv.bias"]
    elif kind == "surplus":
        weights["input_blocks.0.1.weight"] = torch.ones(3)
    elif kind == "shape":
        weights["out.2.weight"] = torch.ones(6, 64, 3, 3)
    elif kind == "conditional":
        weights["label_emb.weight"] = torch.ones(1000, 128)
    elif kind == "other":
        weights = {"layer.weight": torch.ones(2)}
    torch.save({"model": weights} if kind == "nested" else weights, path)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("truncated", "is not a tensors-only checkpoint"),
        ("code", "is not a tensors-only checkpoint"),
        ("missing", r"is another network than ADM's \(.*mid_block.attentions.0.to_q.bias"),
        ("surplus", "is another network than ADM's"),
        ("shape", r"is another network than ADM's \(.*conv_out.weight"),
        ("conditional", "is conditioned on classes"),
        ("other", "is no state dict of an ADM network"),
        ("nested", "is no state dict of an ADM network"),
    ],
)
def test_checkpoints_that_are_none_end_in_one_line(
    small: ADM, tmp_path: Path, kind: str, said: str
) -> None:
    path = tmp_path / "adm.pt"
    spoil(kind, dict(small.state_dict()), path)
    with pytest.raises(InputError, match=rf"^checkpoint: [^\n]*{said}[^\n]*$"):
        save_pipeline(path, tmp_path / "pipeline")
    assert [entry.name for entry in tmp_path.iterdir()] == ["adm.pt"]


def test_a_missing_file_ends_in_one_line_and_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lit_hier.diffusion.adm", "none.pt", "pipeline"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 2
    assert ended.stderr.startswith("lit-hier: error: checkpoint: cannot read none.pt: No such")
    assert len(ended.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
