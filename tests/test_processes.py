"""The same numbers on one process and on several, on one node and on two; see `processes`.

`make soak` goes through every config; here are those that bring something of their own.
"""

from pathlib import Path

import numpy as np
import pytest
from processes import FITS, launch, prepare, tables, trained
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TRAINED = ("demo_classifier", "digits_ddpm", "digits_classifier")
# An idle process; data without a grammar; a trained network; samples that are kept.
TURNED = ("fig11_14", "gaussian_mixture", "demo", "digits")


def curves(folder: Path, name: str) -> dict[str, list[float]]:
    """Read the losses of a training from its log."""
    events = EventAccumulator(str(folder / f"logs/{name}/version_0"))
    events.Reload()
    return {
        tag: [point.value for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag.startswith(("train/", "val/"))
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process."""
    folder = tmp_path_factory.mktemp("alone")
    prepare(folder)
    launch(folder, (*TRAINED, *TURNED))
    return folder


def test_three_processes_one_of_them_idle(alone: Path, tmp_path: Path) -> None:
    """Equal bits of every table; training whose losses are equal within 1e-3."""
    prepare(tmp_path)
    trained(alone, tmp_path)
    launch(tmp_path, (*TURNED, *TRAINED), per_node=3)
    found, wanted = tables(tmp_path), tables(alone)
    assert {name.split("/")[1] for name in wanted} == set(TURNED)
    assert found == wanted
    for name in TRAINED:
        alike, single = curves(tmp_path, name), curves(alone, name)
        assert alike.keys() == single.keys() >= {"train/loss", "val/loss"}
        for tag, values in single.items():
            assert len(values) == len(alike[tag]) > 0
            np.testing.assert_allclose(alike[tag], values, rtol=1e-3, err_msg=f"{name} {tag}")
    assert set(FITS) >= set(TRAINED)


def test_two_nodes(alone: Path, tmp_path: Path) -> None:
    """Of one process each, which find each other on loopback."""
    prepare(tmp_path)
    trained(alone, tmp_path)
    launch(tmp_path, ("demo", "digits"), nodes=2)
    wanted = {
        name: x for name, x in tables(alone).items() if name.split("/")[1] in ("demo", "digits")
    }
    assert tables(tmp_path) == wanted
