"""Images take the size of the model that they are sampled with, unless the user gives one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import RecordCollector, rejection
from images import folder_of, mnist, picture, save
from pytorch_lightning import LightningDataModule, Trainer

from lit_hier.data import DigitsDataModule, ImageDataModule, ImageFiles
from lit_hier.errors import InputError
from lit_hier.modules import DDPMSampler, StoredSamples


def pictures(root: Path) -> ImageFiles:
    return folder_of(root, **{f"{k}.png": save(picture(20, 30), "PNG") for k in range(3)})


def predict(model: DDPMSampler | StoredSamples, data: LightningDataModule) -> Any:
    keep = RecordCollector()
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[keep],
                      enable_checkpointing=False, enable_model_summary=False)  # fmt: skip
    trainer.predict(model, data, return_predictions=False)
    return keep.records[0]


class Doubled(DDPMSampler):
    """A model that says that it was trained on images of 16 pixels."""

    @property
    def image_size(self) -> int:
        return 16


def sampler(pipeline: str, kind: type[DDPMSampler] = DDPMSampler, **options: Any) -> DDPMSampler:
    return kind(pipeline, times=[1], num_steps=2, **options)


def test_images_without_a_size_have_that_of_the_model(pipeline: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"channels": 1, "num_per_class": None}
    files = pictures(tmp_path / "in")
    data = ImageDataModule(files, **options)
    samples = str(tmp_path / "samples")
    record = predict(sampler(pipeline, samples=samples), data)
    given = predict(sampler(pipeline), ImageDataModule(files, size=8, **options))
    assert record.x_start.shape == (3, 1, 8, 8)
    for name in ("x_start", "x_reversed"):
        assert torch.equal(getattr(record, name), getattr(given, name))
    explicit = ImageDataModule(files, size=8, **options)
    assert data.fingerprint("test") == explicit.fingerprint("test")
    stored = predict(StoredSamples(samples), ImageDataModule(files, **options))
    assert torch.equal(stored.x_reversed, record.x_reversed)


def test_every_run_has_the_size_of_its_own_model(pipeline: str, tmp_path: Path) -> None:
    files = ImageDataModule(pictures(tmp_path), channels=1, num_per_class=None)
    for data in (files, DigitsDataModule(num_predict=2, num_test=2)):
        for kind, side in ((DDPMSampler, 8), (Doubled, 16), (DDPMSampler, 8)):
            assert predict(sampler(pipeline, kind), data).x_start.shape[2:] == (side, side)
            assert data.size == side


@pytest.mark.parametrize("kind", ["files", "digits"])
def test_a_size_other_than_the_models_is_said_in_one_line(
    pipeline: str, tmp_path: Path, kind: str
) -> None:
    data: LightningDataModule = DigitsDataModule(size=12, num_predict=2, num_test=2)
    if kind == "files":
        data = ImageDataModule(pictures(tmp_path), size=12, channels=1, num_per_class=None)
    line = (
        r"^size: the images have 12 pixels per side, but the model was trained on 8, and [^\n]*$"
    )
    samples = str(tmp_path / "samples")
    with pytest.warns(UserWarning, match=line):
        predict(sampler(pipeline, samples=samples), data)
    data.size = 16
    with pytest.raises(InputError, match=r"^size: the images have 16 .* saved samples 12;"):
        predict(StoredSamples(samples), data)


def test_a_size_that_nothing_tells_is_asked_for(tmp_path: Path) -> None:
    files = pictures(tmp_path)
    data = ImageDataModule(files, files, channels=1, num_per_class=None)
    for loader in (data.predict_dataloader, data.test_dataloader, data.train_dataloader):
        with pytest.raises(InputError, match=r"^size is not given, and there is no sampler whose"):
            loader()


def test_training_needs_a_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mnist(tmp_path / "data", 20)
    (tmp_path / "config.yaml").write_text("""
        data:
          class_path: ImageDataModule
          init_args:
            held_out: &m {class_path: torchvision.datasets.MNIST, init_args: {root: data}}
            train: *m
            num_per_class: 1
            channels: 1
        trainer: {accelerator: cpu, enable_progress_bar: false, max_epochs: 1}
        """)
    model = "{class_path: DDPMTask, init_args: {save_to: pipeline}}"
    line = rejection(tmp_path, capsys, "fit", "-c", "config.yaml", f"--model={model}")
    assert line.startswith("size is not given")
