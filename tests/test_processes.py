"""Equal results on one process and on several, on two nodes; see `processes`.

`make soak` runs every config; here are those that differ in kind.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import inside
from processes import QUIET, command, launch, prepare, tables, trained
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_hier.cli import main

TRAINED = ("demo_classifier", "digits_ddpm", "digits_classifier")
# An idle process; data without a grammar; a trained network; stored samples.
PREDICTED = ("fig11_14", "gaussian_mixture", "demo", "digits")


def curves(folder: Path, name: str) -> dict[str, list[float]]:
    """Read the losses of a training run from its log."""
    events = EventAccumulator(str(folder / f"logs/{name}/version_0"))
    events.Reload()
    return {
        tag: [point.value for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag.startswith(("train/", "val/"))
    }


@pytest.mark.filterwarnings("ignore")  # of configs at toy size
def test_two_nodes_of_two_processes(tmp_path: Path) -> None:
    """Tables have equal bits; training losses agree within 1e-3, accuracies within 5e-3."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for folder in (alone, shared):
        prepare(folder)
    with inside(alone):
        for name in (*TRAINED, *PREDICTED):
            main([*command(name), "--trainer.accelerator=cpu", *QUIET])
    trained(alone, shared)
    # A run of one process was interrupted after the first samples.
    kept = Path("logs/digits/samples")
    for path in ("manifest.json", "batches/00000000.json", *(
        f"{place}/{sample:08d}.png" for place in ("start", "k_0000", "k_0001", "k_0004")
        for sample in range(3)
    )):  # fmt: skip
        (shared / kept / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(alone / kept / path, shared / kept / path)
    modified = (shared / kept / "start/00000000.png").stat().st_mtime_ns
    launch(shared, (*PREDICTED, *TRAINED), nodes=2, per_node=2)
    assert (shared / kept / "start/00000000.png").stat().st_mtime_ns == modified
    found, wanted = tables(shared), tables(alone)
    assert {name.split("/")[1] for name in wanted} == set(PREDICTED)
    assert found == wanted
    for name in TRAINED:
        alike, single = curves(shared, name), curves(alone, name)
        assert alike.keys() == single.keys() >= {"train/loss", "val/loss"}
        for tag, values in single.items():
            assert len(values) == len(alike[tag]) > 0
            # A class may change where two have almost equal logits.
            within = {"atol": 5e-3} if tag.endswith("accuracy") else {"rtol": 1e-3}
            np.testing.assert_allclose(alike[tag], values, **within, err_msg=f"{name} {tag}")
