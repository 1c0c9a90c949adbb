"""The configs of Figs. 2 and 16, on a few small images and with random weights."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import pytest
from conftest import inside
from processes import IMAGES, command, prepare

from lit_hier.cli import main

FIG2 = ["predict", "-c", "fig2.yaml", *IMAGES, "--model.init_args.pretrained=pipeline"]


@pytest.mark.filterwarnings("ignore:.*close to chance")
@pytest.mark.filterwarnings("ignore:.*suggested max number of worker")
@pytest.mark.parametrize(
    ("fig2", "times"),
    [
        pytest.param(command("fig2"), [0, 1, 4], id="few times and steps"),
        pytest.param(FIG2, range(25, 251, 25), id="own times and steps"),
    ],
)
@pytest.mark.slow
def test_figures_2_and_16_have_every_layer_and_time(
    tmp_path: Path, fig2: list[str], times: Sequence[int]
) -> None:
    prepare(tmp_path)
    with inside(tmp_path):
        for arguments in (fig2, command("fig16"), command("correlations_imagenet")):
            given = ["lit-hier", *arguments, "--trainer.enable_progress_bar=false"]
            with patch.object(sys, "argv", given):
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
        assert sorted({float(row["time"]) for row in table}) == list(times)
        assert {row["count"] for row in table} == {"3"}
    folder = tmp_path / "logs/correlations_imagenet/version_0"
    for name, furthest in (("", 4), ("_tokens", 5)):  # 8 x 8 pixels, 10 x 10 patches
        with (folder / f"change_correlation{name}_distance.csv").open() as file:
            assert max(float(row["distance"]) for row in csv.DictReader(file)) == furthest
    assert "half" in (folder / "transition_time.csv").read_text()
    assert len(list((tmp_path / f"logs/fig2/samples/k_{times[-1]:04}").iterdir())) == 3
