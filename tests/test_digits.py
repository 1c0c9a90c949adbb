"""Handwritten digits, and models trained on them by the command line."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, rows, run_in
from diffusers import DiffusionPipeline
from images import mnist
from PIL import Image

from lit_hier.data import DigitsDataModule
from lit_hier.diffusion.pipelines import write_pipeline
from lit_hier.errors import InputError
from lit_hier.modules import DDPMTask
from lit_hier.nn.trained import check_training_set
from lit_hier.streams import Purpose

NO_BAR = "--trainer.enable_progress_bar=false"
SPLITS = ("train", "val", "test", "predict")


def test_splits_of_digits_are_disjoint() -> None:
    data = DigitsDataModule(num_test=300, num_predict=200, num_val=100, eval_batch_size=64)
    data.setup()
    batches = {split: list(getattr(data, f"{split}_dataloader")()) for split in SPLITS}
    sizes = {split: sum(len(batch["label"]) for batch in batches[split]) for split in SPLITS}
    assert sizes == {"train": 1197, "val": 100, "test": 300, "predict": 200}
    from sklearn.datasets import load_digits

    found = np.concatenate(
        [(b["x"].flatten(1).numpy() + 1) / 2 * 16 for part in batches.values() for b in part]
    )
    original = load_digits().data
    assert np.abs(np.sort(found, axis=0) - np.sort(original, axis=0)).max() < 0.04
    labels = [batch["label"] for part in batches.values() for batch in part]
    assert torch.cat(labels).bincount().tolist() == np.bincount(load_digits().target).tolist()
    index = torch.cat([batch["index"] for batch in batches["predict"]])
    assert index.tolist() == list(range(200))
    repeated = DigitsDataModule(num_test=300, num_predict=200, num_val=100, eval_batch_size=64)
    repeated.setup()
    first = next(iter(repeated.predict_dataloader()))
    assert torch.equal(first["x"], batches["predict"][0]["x"])
    other = DigitsDataModule(size=12, seed=1)
    other.setup()
    enlarged = next(iter(other.test_dataloader()))["x"]
    assert enlarged.shape[1:] == (1, 12, 12)
    assert enlarged.abs().max() <= 1


def test_the_training_set_does_not_depend_on_how_few_digits_are_held_out() -> None:
    """Before, fewer test images or images for prediction moved it."""
    modules = [
        DigitsDataModule(**numbers)
        for numbers in ({}, {"num_predict": 23}, {"num_test": 100}, {"num_test": 1, "num_val": 50})
    ]
    for module in modules:
        module.setup()
    assert {module.training_set for module in modules} == {"1197 digits of 8 pixels, seed=0"}
    trains: list[Any] = [module._splits["train"] for module in modules]
    assert all(torch.equal(train.images, trains[0].images) for train in trains)
    vals: list[Any] = [module._splits["val"] for module in modules]
    assert torch.equal(vals[1].images, vals[0].images)
    predicted: list[Any] = [module._splits["predict"] for module in modules]
    assert torch.equal(predicted[1].images, predicted[0].images[:23])
    more = DigitsDataModule(num_predict=300)
    assert more.training_set == "1097 digits of 8 pixels, seed=0"
    with pytest.raises(
        InputError, match=r"^weights: [^\n]*: other data, or held-out data"
    ) as raised:
        check_training_set(modules[0].training_set, more.training_set, "weights")
    assert "grammar" not in str(raised.value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DigitsDataModule(num_predict=0), "num_predict is 0; give at least 1"),
        (lambda: DigitsDataModule(num_test=1500), r"num_test \+ num_predict \+ num_val = 1800 of"),
        (lambda: DigitsDataModule(size=7), "size is 7; give at least 8"),
        (lambda: DigitsDataModule(seed=-1), "seed is -1"),
        (lambda: DDPMTask(8, "x", widths=[12]), r"widths is \[12\]; give multiples of 8"),
        (lambda: DDPMTask(9, "x"), "size is 9; give a multiple of 2"),
        (lambda: DDPMTask(8, "x", ema_decay=1), "ema_decay is 1; give at least 0 and less"),
    ],
)
def test_invalid_arguments_are_rejected(build: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"^{message}[^\n]*$"):
        build()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the commands of `make demo-images` with a smaller diffusion model and fewer epochs."""
    folder, configs = tmp_path_factory.mktemp("digits"), ROOT / "configs"
    small = ("--trainer.max_epochs=3", "--model.init_args.widths=[8,16]")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*logging interval")
        run_in(folder, "fit", "-c", f"{configs}/digits_ddpm.yaml", *small, NO_BAR)
        run_in(folder, "fit", "-c", f"{configs}/digits_classifier.yaml", NO_BAR)
    few = ("--model.init_args.num_steps=10", "--model.init_args.times=[0,3,6,10]")
    run_in(folder, "predict", "-c", f"{configs}/digits.yaml", *few, NO_BAR)
    run_in(folder, "predict", "-c", f"{configs}/digits_bands.yaml", NO_BAR)
    return folder / "logs"


def test_training_writes_a_complete_pipeline(digits: Path) -> None:
    folder = digits / "digits_ddpm"
    unet = DiffusionPipeline.from_pretrained(folder / "pipeline", low_cpu_mem_usage=False).unet
    assert unet.config.in_channels == 1
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_forward_backward_on_digits_loses_their_class_with_time(digits: Path) -> None:
    run = digits / "digits/version_0"
    (reference,) = rows(run / "similarity_reference.csv")
    assert float(reference["top1"]) > 0.95
    table = rows(run / "similarity.csv")
    assert {row["process"] for row in table} == {"ddpm"}
    start = [float(row["mean"]) for row in table if float(row["time"]) == 0]
    assert start == pytest.approx([1, 1, 1, 1], abs=1e-5)
    kept = {float(row["time"]): float(row["kept"]) for row in rows(run / "class_kept.csv")}
    assert kept[0] == 1
    assert kept[10] < 0.4
    # The replayed run has the same digits, scale by scale.
    bands = rows(digits / "digits_bands/version_0/similarity.csv")
    assert {float(row["time"]) for row in bands} == {0, 3, 6, 10}
    assert {row["count"] for row in bands} == {"200"}


def test_a_pipeline_overwrites_only_a_pipeline(digits: Path, tmp_path: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(
        digits / "digits_ddpm/pipeline", low_cpu_mem_usage=False
    )
    for _ in range(2):
        write_pipeline(pipeline.unet, pipeline.scheduler, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("words")
    for target in ("thesis", "thesis/chapter.tex"):
        reason = "holds something other than a pipeline; give a new folder"
        with pytest.raises(InputError, match=rf"^folder: .* {reason}"):
            write_pipeline(pipeline.unet, pipeline.scheduler, tmp_path / target)
        with pytest.raises(InputError, match=rf"^save_to: .* {reason}"):
            DDPMTask(8, str(tmp_path / target))
    assert (tmp_path / "thesis/chapter.tex").read_text() == "words"


@pytest.mark.filterwarnings("ignore:.*logging interval", "ignore:.*close to chance")
def test_the_configs_of_digits_accept_datasets_of_torchvision(tmp_path: Path) -> None:
    mnist(tmp_path / "data", 60)
    configs = ROOT / "configs"
    few = ("--data.init_args.num_val=20", "--data.init_args.num_per_class=1")
    once = ("--trainer.max_epochs=1", "--model.init_args.widths=[8,8]")
    steps = ("--model.init_args.num_steps=4", "--model.init_args.times=[1,4]")
    for command, name, arguments in (
        ("fit", "digits_ddpm", once),
        ("fit", "digits_classifier", once),
        ("predict", "digits", steps),
    ):
        both = ("-c", f"{configs}/{name}.yaml", "-c", f"{configs}/mnist.yaml")
        run_in(tmp_path, command, *both, *few, *arguments, NO_BAR)
    (row,) = {row["count"] for row in rows(tmp_path / "logs/digits/version_0/class_kept.csv")}
    assert row == "10"
    with Image.open(next((tmp_path / "logs/digits/samples/k_0004").iterdir())) as image:
        assert (image.size, image.mode) == ((28, 28), "L")


def test_training_lowers_the_loss_and_averages_the_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = DDPMTask(8, str(tmp_path / "pipeline"), widths=[8, 16], ema_decay=0.5)
    data = DigitsDataModule()
    data.setup()
    batch = data._splits["train"][torch.arange(64)]
    optimizer = module.configure_optimizers()
    before = module._loss(module.model, batch, 0, Purpose.VALIDATION)
    start = [value.clone() for value in module.model.parameters()]
    for epoch in range(30):
        optimizer.zero_grad()
        (module._loss(module.model, batch, epoch, Purpose.TRAINING) / 64).backward()
        optimizer.step()
    after = module._loss(module.model, batch, 0, Purpose.VALIDATION)
    assert after < before
    still = torch.optim.SGD([torch.zeros(1, requires_grad=True)])  # leaves the weights unchanged
    # The first update copies the weights; the second averages with decay 2/11, as it is so early.
    module.optimizer_step(0, 0, still)
    first = [value.clone() for value in module.model.parameters()]
    with torch.no_grad():
        for value, old in zip(module.model.parameters(), start, strict=True):
            value.copy_(old)
    module.optimizer_step(0, 0, still)
    averages = zip(module.averaged.module.parameters(), start, first, strict=True)
    assert all(torch.allclose(mean, (9 * a + 2 * b) / 11, atol=1e-6) for mean, a, b in averages)
