"""Runs have the same numbers on one process and on two nodes of several; see `processes`.

`make soak` runs every config; these are the configs with something specific to several processes.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import inside
from processes import QUIET, command, launch, prepare, tables, trained
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_hier.cli import main

TRAINED = ("demo_classifier", "learned_train", "digits_ddpm", "digits_classifier")
# An idle process; data without a grammar; a trained network; stored samples; sums over samples.
PREDICTED = (
    *("fig11_14", "gaussian_mixture", "demo", "digits", "correlations_digits", "collapse"),
    "transition_time",
)


def curves(folder: Path, name: str) -> dict[str, list[float]]:
    """Read the curves of a training run from its TensorBoard events."""
    events = EventAccumulator(str(folder / f"logs/{name}/version_0"))
    events.Reload()
    return {
        tag: [point.value for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag.startswith(("train/", "val/"))
    }


@pytest.mark.filterwarnings("ignore")  # of configs much smaller than their defaults
@pytest.mark.parametrize(
    ("trained_names", "predicted_names", "per_node"),
    [
        pytest.param(TRAINED[:1], ("demo",), 1, id="two processes"),
        pytest.param(TRAINED, PREDICTED, 2, id="four processes", marks=pytest.mark.slow),
    ],
)
def test_two_nodes_write_the_tables_and_the_losses_of_one_process(
    tmp_path: Path,
    trained_names: tuple[str, ...],
    predicted_names: tuple[str, ...],
    per_node: int,
) -> None:
    """Tables have equal bits; losses agree within 1e-3, accuracies within 5e-3."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for folder in (alone, shared):
        prepare(folder)
    with inside(alone):
        for name in (*trained_names, *predicted_names):
            main([*command(name), "--trainer.accelerator=cpu", *QUIET])
    trained(alone, shared)
    stored = Path("logs/digits/samples")
    first = shared / stored / "start/00000000.png"
    if "digits" in predicted_names:  # as if one process was interrupted after the first batch
        for path in ("manifest.json", "batches/00000000.json", *(
            f"{name}/{sample:08d}.png" for name in ("start", "k_0000", "k_0001", "k_0004")
            for sample in range(3)
        )):  # fmt: skip
            (shared / stored / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(alone / stored / path, shared / stored / path)
        written = first.stat().st_mtime_ns
    launch(shared, (*predicted_names, *trained_names), nodes=2, per_node=per_node)
    if "digits" in predicted_names:
        assert first.stat().st_mtime_ns == written
    found, wanted = tables(shared), tables(alone)
    assert {name.split("/")[1] for name in wanted} == set(predicted_names)
    assert found == wanted
    for name in trained_names:
        several, single = curves(shared, name), curves(alone, name)
        lines = ["/P=30", "/P=90"] if name == "learned_train" else [""]
        losses = {f"{stage}/loss{line}" for stage in ("train", "val") for line in lines}
        assert several.keys() == single.keys() >= losses
        for tag, values in single.items():
            assert len(values) == len(several[tag]) > 0
            # Rounding may change the class of a sample whose two best logits are almost equal.
            tolerance = {"atol": 5e-3} if tag.endswith("accuracy") else {"rtol": 1e-3}
            if tag.endswith("errors"):
                tolerance = {"atol": 1}
            np.testing.assert_allclose(several[tag], values, **tolerance, err_msg=f"{name} {tag}")
