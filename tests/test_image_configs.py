"""Configs of the full experiment, on a few small images and with random weights."""

import csv
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from conftest import inside
from processes import IMAGES, prepare

from lit_hier.cli import main


@pytest.mark.filterwarnings("ignore:.*close to chance")
@pytest.mark.filterwarnings("ignore:.*suggested max number of worker")
def test_figures_2_and_16(tmp_path: Path) -> None:
    prepare(tmp_path)
    small = (*IMAGES, "--trainer.enable_progress_bar=false")
    with inside(tmp_path):
        for name, model in (("fig2", ("--model.init_args.pretrained=pipeline",)), ("fig16", ())):
            command = ["lit-hier", "predict", "-c", f"{name}.yaml", *small, *model]
            with patch.object(sys, "argv", command):
                main()
    expected = {
        "fig2/version_0/similarity": ("features.0", "classifier", 23),
        "fig16/version_0/resnet50": ("layer1.0", "fc", 9),
        "fig16/version_0/wide_resnet50_2": ("layer1.0", "fc", 9),
        "fig16/version_0/resnet152": ("layer1.0", "fc", 9),
    }
    for path, (first, last, number) in expected.items():
        with (tmp_path / f"logs/{path}.csv").open() as file:
            table = list(csv.DictReader(file))
        layers = list(dict.fromkeys(row["layer"] for row in table))
        assert (layers[0], layers[-1], len(layers)) == (first, last, number)
        assert sorted({float(row["time"]) for row in table}) == list(range(25, 251, 25))
        assert {row["count"] for row in table} == {"3"}
    assert len(list((tmp_path / "logs/fig2/samples/k_0125").iterdir())) == 3
