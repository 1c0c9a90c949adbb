"""`lit_hier.forward_backward`: modules in memory, results in memory, and nothing else changed."""

import logging
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from grammar_runs import RHM, TIMES, network, predict
from PIL import Image
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import Dataset

import lit_hier
from lit_hier.callbacks import ActivationSimilarity, Reconstruction, SampleGrid
from lit_hier.data import RHMDataModule
from lit_hier.errors import InputError
from lit_hier.io.arrays import read_samples
from lit_hier.io.tables import read_table
from lit_hier.modules import BPDenoiser, DDPMSampler
from lit_hier.processes import EpsilonNoise


def denoiser() -> BPDenoiser:
    return BPDenoiser(RHM, EpsilonNoise(), TIMES)


def pipeline() -> DDPMPipeline:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    unet = UNet2DModel(8, 1, 1, block_out_channels=(8,), norm_num_groups=4, layers_per_block=1,
                       **blocks)  # fmt: skip
    return DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=20, clip_sample=False))


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))


def levels(num: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (num, 1, 8, 8), dtype=torch.uint8, generator=generator)


class Pictures(Dataset[Any]):
    """A data set of no library, with classes."""

    classes = ("a", "b", "c", "d")
    targets = (0, 1, 2, 3)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(levels(4)[index, 0].numpy()), self.targets[index]


def process_state() -> list[Any]:
    log = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    return [
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]  # noqa: NPY002
        signal.getsignal(signal.SIGTERM),
        warnings.filters[:],
        warnings.showwarning,
        [*log.filters, *logging.getLogger("lit_hier").filters],
        torch.are_deterministic_algorithms_enabled(),
        dict(os.environ),
        Path.cwd(),
    ]


def test_results_are_those_of_a_run_with_files_and_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = process_state()
    data = RHMDataModule(RHM, 10, 5, 300, 50, eval_batch_size=16)
    result = lit_hier.forward_backward(denoiser(), data, Reconstruction())
    assert process_state() == before
    assert not any(tmp_path.iterdir())
    folder = predict(tmp_path / "logs", Reconstruction())
    assert lit_hier.read_run(folder).tables == result.tables
    assert result.tables == (
        "reconstruction",
        "reconstruction_deviation",
        "reconstruction_inversion",
    )
    for name in result.tables:
        file = folder / f"{name}.csv"
        written = read_table(file, "table", "").to_csv(index=False)
        assert written == result.table(name).to_csv(index=False)
    arrays = read_samples(folder / "reconstruction.npz", "samples", "")
    for name, array in result.samples("reconstruction").items():
        np.testing.assert_array_equal(array, arrays[name])
    assert result.figures == ("reconstruction",)
    assert len(result.figure("reconstruction").axes) == 4
    with pytest.raises(InputError, match=r"no table similarity; there is reconstruction,"):
        result.table("similarity")


@pytest.mark.slow
@pytest.mark.filterwarnings("default:reference/accuracy")
def test_a_grammar_is_data_and_a_folder_gets_the_files(tmp_path: Path) -> None:
    similarity = ActivationSimilarity(network(), ["layers.*"])
    folder = tmp_path / "run"
    result = lit_hier.forward_backward(
        denoiser(), RHM, similarity, reference=40, num_samples=20, folder=folder
    )
    assert result.table("similarity")["count"].eq(20).all()
    assert result.table("similarity_reference")["count"].tolist() == [40]
    run = lit_hier.read_run(folder)
    assert run.tables == result.tables
    assert run.config == {}
    assert run.provenance["status"] == "complete"
    assert run.provenance["duration"] > 0
    assert run.provenance["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert any("close to chance" in line for line in run.provenance["warnings"])
    with pytest.raises(InputError, match=r"^folder: .* is not empty; give a new one$"):
        lit_hier.forward_backward(denoiser(), RHM, Reconstruction(), folder=folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:reference/accuracy")
def test_a_pipeline_and_a_torch_classifier_in_memory() -> None:
    pipe, net = pipeline(), classifier()
    sampler = DDPMSampler.from_pipeline(pipe, [0, 2, 4], num_steps=4)
    measurements = [ActivationSimilarity(net, ["0", "1"]), SampleGrid()]
    result = lit_hier.forward_backward(sampler, levels(5), measurements, reference=levels(6))
    table = result.table("similarity")
    assert table["mean"][0] == pytest.approx(1)  # nothing was noised
    assert table["count"].eq(5).all()
    assert {"samples", "similarity"} <= set(result.figures)
    # Values in [-1, 1] and levels are the same images, and so are those of a data set.
    floats = levels(4) / 127.5 - 1
    given = [floats, Pictures()]
    same = [
        lit_hier.forward_backward(
            sampler, data, ActivationSimilarity(net, ["0"]), reference=data
        ).samples("similarity")["similarity"]
        for data in given
    ]
    np.testing.assert_array_equal(*same)


def test_a_plain_trainer_keeps_results_and_returns_records(tmp_path: Path) -> None:
    measurement = Reconstruction()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        callbacks=[measurement],
        default_root_dir=tmp_path,
        enable_progress_bar=False,
    )
    records = trainer.predict(denoiser(), RHMDataModule(RHM, 0, 0, 0, 12, eval_batch_size=6))
    assert [record.index.tolist() for record in records] == [[*range(6)], [*range(6, 12)]]  # type: ignore[union-attr]
    assert measurement.result.table("reconstruction")["count"].eq(12).all()
    assert not any(tmp_path.iterdir())


NETWORK = classifier()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((NETWORK, RHM, Reconstruction()), r"^sampler: Sequential is not a sampler; give"),
        (("bp", RHM, []), r"^measurements is empty; give"),
        (("bp", RHM, [NETWORK]), r"^measurements: .* is not a measurement; give"),
        (
            ("bp", levels(2), Reconstruction()),
            r"^data: BPDenoiser needs the grammar .* not Tensor",
        ),
        (("ddpm", RHM, SampleGrid()), r"^data: DDPMSampler needs images"),
        (
            ("ddpm", levels(2) / 255, SampleGrid()),
            r"values from 0\.\d+ to 1; give values in \[-1, 1\]",
        ),
        (("ddpm", levels(2)[:, 0], SampleGrid()), r"^data: a tensor of shape \(2, 8, 8\) is not"),
        (("ddpm", [1, 2], SampleGrid()), r"^data: an item of list is int; give"),
        (("ddpm", 3, SampleGrid()), r"^data: int is not images; give"),
        (
            ("ddpm", levels(2), ActivationSimilarity(NETWORK, ["0"])),
            r"^reference: ActivationSimilarity needs a reference set; give",
        ),
    ],
)
def test_wrong_arguments_are_one_line(arguments: tuple[Any, ...], message: str) -> None:
    sampler, data, measurements = arguments
    if sampler == "bp":
        sampler = denoiser()
    elif sampler == "ddpm":
        sampler = DDPMSampler.from_pipeline(pipeline(), [0, 1], num_steps=2)
    with pytest.raises(InputError, match=message) as caught:
        lit_hier.forward_backward(sampler, data, measurements)
    assert "\n" not in str(caught.value)


def test_a_pipeline_of_another_kind_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^pipeline: Sequential has no unet and scheduler"):
        DDPMSampler.from_pipeline(NETWORK, [0])
    with pytest.raises(InputError, match=r"^pretrained: from_pipeline has no such argument"):
        DDPMSampler.from_pipeline(pipeline(), [0], pretrained="x")
