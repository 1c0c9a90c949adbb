"""A small image classifier, trained on digits by the command line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, run_in
from torch import nn

from lit_hier.data import DigitsDataModule
from lit_hier.errors import InputError
from lit_hier.modules import ImageClassifier
from lit_hier.nn import ImageCNN, TrainedImageCNN, hook_layers, match_layers

DIGITS = (
    *("-c", str(ROOT / "configs/digits_classifier.yaml")),
    "--trainer.enable_progress_bar=false",
)


def test_each_layer_but_the_first_halves_the_image() -> None:
    network = ImageCNN(2, 5, widths=[3, 4, 6])
    names = match_layers(network, network.paper_layers)
    shapes: dict[str, torch.Size] = {}
    with hook_layers(network, names, lambda name, out: shapes.update({name: out.shape})):
        network(torch.randn(7, 2, 8, 12))
    expected = {"layers.0": (7, 3, 8, 12), "layers.1": (7, 4, 4, 6), "layers.2": (7, 6, 2, 3)}
    assert shapes == expected | {"readout": (7, 5)}


def test_training_on_digits_and_restoring_the_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_in(tmp_path, "fit", *DIGITS, "--trainer.max_epochs=4")
    path = tmp_path / "logs/digits_classifier/weights/classifier.ckpt"
    network = TrainedImageCNN(str(path)).eval()
    data = DigitsDataModule()
    data.setup()
    assert network.trained_on == data.training_set
    held_out = data._splits["predict"][torch.arange(200)]
    with torch.inference_mode():
        correct = network(held_out["x"]).argmax(1) == held_out["label"]
    assert correct.float().mean() > 0.93
    checkpoint = f"--ckpt_path={path}"
    run_in(tmp_path, "test", *DIGITS, checkpoint)
    with pytest.raises(SystemExit):
        run_in(tmp_path, "test", *DIGITS, checkpoint, "--data.init_args.seed=1")
    assert "error: ckpt_path: the network was trained on 1197 digits" in capsys.readouterr().err


def test_a_label_out_of_range_is_named() -> None:
    batch = {"x": torch.zeros(2, 1, 8, 8), "label": torch.tensor([1, 9])}
    with pytest.raises(InputError, match="num_classes is 4, but a label is 9; give"):
        ImageClassifier(num_classes=4).training_step(batch, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "channels is 0; give at least 1"),
        ({"num_classes": 1}, "num_classes is 1; give at least 2"),
        ({"widths": []}, r"widths is \[\]; give one or more"),
        ({"widths": [8, 0]}, r"widths is \[8, 0\]; give one or more"),
    ],
)
def test_invalid_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"^{message}[^\n]*$"):
        ImageClassifier(**arguments)


def test_images_of_another_shape_are_rejected() -> None:
    network: nn.Module = ImageCNN(1, 10)
    for shape in ((2, 3, 8, 8), (2, 1, 8)):
        with pytest.raises(InputError, match=r"^network: this ImageCNN takes images of 1 chan"):
            network(torch.zeros(shape))
