"""The configs of the full experiment, on a few small images and with random weights."""

import csv
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from conftest import ROOT, inside, random_pipeline
from PIL import Image

from lit_hier.cli import main

WNIDS = ("n01440764", "n02123394", "n04037443")
# Of the same kinds as the real ones, and faster.
SMALLER = {
    "convnext_base, weights: IMAGENET1K_V1": "convnext_tiny, weights: random",
    "resnet50, weights: IMAGENET1K_V2": "resnet50, weights: random",
    "wide_resnet50_2, weights: IMAGENET1K_V2": "resnet18, weights: random",
    "resnet152, weights: IMAGENET1K_V2": "resnet34, weights: random",
}


def smaller(name: str, folder: Path) -> str:
    """Copy a config with smaller networks."""
    text = (ROOT / f"configs/{name}.yaml").read_text()
    for long, short in SMALLER.items():
        text = text.replace(f"torchvision/{long}", f"torchvision/{short}")
    assert "IMAGENET1K" not in text
    (folder / f"{name}.yaml").write_text(text)
    return f"{name}.yaml"


@pytest.mark.filterwarnings("ignore:.*close to chance")
@pytest.mark.filterwarnings("ignore:.*suggested max number of worker")
def test_figures_2_and_16(tmp_path: Path) -> None:
    for k, wnid in enumerate(WNIDS):
        (tmp_path / "val" / wnid).mkdir(parents=True)
        for i in range(2):
            noise = np.random.default_rng([k, i]).integers(0, 256, (12, 10, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / f"val/{wnid}/{i}.JPEG")
    random_pipeline(tmp_path / "pipeline", channels=3)
    small = (
        "--data.init_args.held_out.init_args.root=val",
        "--data.init_args.num_per_class=1",
        "--data.init_args.size=8",
        "--data.init_args.eval_batch_size=2",
        "--data.init_args.num_workers=0",
        "--trainer.enable_progress_bar=false",
    )
    model = ("--model.init_args.pretrained=pipeline", "--model.init_args.num_steps=250")
    with inside(tmp_path):
        for name, arguments in (("fig2", (*small, *model)), ("fig16", small)):
            config = smaller(name, tmp_path)
            with patch.object(sys, "argv", ["lit-hier", "predict", "-c", config, *arguments]):
                main()
    expected = {
        "fig2/version_0/similarity": ("features.0", "classifier", 23),
        "fig16/version_0/resnet50": ("layer1.0", "fc", 17),
        "fig16/version_0/wide_resnet50_2": ("layer1.0", "fc", 9),
        "fig16/version_0/resnet152": ("layer1.0", "fc", 17),
    }
    for path, (first, last, number) in expected.items():
        with (tmp_path / f"logs/{path}.csv").open() as file:
            table = list(csv.DictReader(file))
        layers = list(dict.fromkeys(row["layer"] for row in table))
        assert (layers[0], layers[-1], len(layers)) == (first, last, number)
        assert sorted({float(row["time"]) for row in table}) == list(range(25, 251, 25))
        assert {row["count"] for row in table} == {"3"}
    assert len(list((tmp_path / "logs/fig2/samples/k_0125").iterdir())) == 3
