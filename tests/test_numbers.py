"""Non-finite values stop a run; the error names the model or layer, the sample and the time."""

import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from conftest import ROOT, inside
from image_runs import Net, predict, sampler
from torch import Tensor

from lit_hier.callbacks import ActivationSimilarity, ClassKept
from lit_hier.cli import main
from lit_hier.errors import InputError
from lit_hier.gaussian import GaussianMixture
from lit_hier.modules import BPDenoiser, GaussianDenoiser
from lit_hier.processes import EpsilonNoise
from lit_hier.rhm import RandomHierarchyModel

RHM = RandomHierarchyModel(8, 3, 2, 3, seed=1)
pytestmark = pytest.mark.filterwarnings("ignore:.*close to chance")  # networks are untrained


class Failing(Net):
    """A network that outputs NaN for one image of one batch, at one layer."""

    def __init__(self, call: int, row: int, layer: int) -> None:
        super().__init__()
        self.call, self.row = call, row
        self[layer].register_forward_hook(self._spoil)

    def _spoil(self, module: object, given: object, output: Tensor) -> None:
        if self.call == 0:
            output[self.row] = float("nan")
        self.call -= 1


# Evaluations of a few samples before the run; for logits one more, of their shape.
CHECK = 5


# Four batches of the reference set and a few samples of it, then x_start, then x_reversed at each
# of four times.
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (2, r"1 outputs NaN or infinity for sample 23 of the reference set \(split test\)"),
        (5, "1 outputs NaN or infinity for sample 3 at k = 0 or at the start"),
        (8, "1 outputs NaN or infinity for sample 3 at k = 6 or at the start"),
    ],
)
def test_non_finite_activations(pipeline: str, tmp_path: Path, call: int, message: str) -> None:
    similarity = ActivationSimilarity(Failing(CHECK + call, 3, layer=1), ["0", "1", "3"])
    with pytest.raises(InputError, match=f"^network: {message}"):
        predict(tmp_path, sampler(pipeline, None), [similarity])
    assert not list(tmp_path.rglob("*.csv"))
    assert not list(tmp_path.rglob("similarity*"))


@pytest.mark.parametrize(
    ("call", "message"), [(0, "at the start"), (2, "at k = 2"), (5, "at the start")]
)
def test_non_finite_logits(pipeline: str, tmp_path: Path, call: int, message: str) -> None:
    number = 13 if call == 5 else 3
    message = f"^network: class_kept: its logits are NaN or infinite for sample {number} {message}"
    with pytest.raises(InputError, match=message):
        predict(
            tmp_path, sampler(pipeline, None), [ClassKept(Failing(CHECK + 1 + call, 3, layer=3))]
        )


class Wrong(EpsilonNoise):
    """Returns an invalid message for one sample."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def messages(self, observed: Tensor, time: float, v: int, dtype: torch.dtype) -> Tensor:
        given = super().messages(observed, time, v, dtype)
        if time == 0.7:
            given[4, 2] = self.value
        return given


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "messages that are not probabilities"),
        (float("inf"), "messages that are not probabilities"),
        (-1.0, "messages that are not probabilities"),
        (0.0, "messages that no tree of the grammar explains"),
    ],
)
def test_invalid_messages(value: float, message: str) -> None:
    leaves = RHM.sample(10, generator=torch.Generator().manual_seed(0))[0]
    index = torch.arange(100, 110)
    batch = {"leaves": leaves, "index": index, "x": leaves, "label": leaves[:, 0]}
    message = rf"^process: returns {message} for sample 104 \(and 0 more\) at ε = 0\.7"
    with pytest.raises(InputError, match=message):
        BPDenoiser(RHM, Wrong(value), [0.3, 0.7]).predict_step(batch, 0)


def test_non_finite_samples_of_a_closed_form() -> None:
    mixture = GaussianMixture()
    x, label = mixture.sample(torch.full((3, mixture.num_draws), 0.3, dtype=torch.float64))
    x[1, 0, 5] = float("nan")
    batch = {"x": x, "index": torch.tensor([4, 7, 9]), "label": label}
    message = r"^distribution: GaussianMixture returns NaN or infinity for sample 7 at t = 0\.5"
    with pytest.raises(InputError, match=message):
        GaussianDenoiser(mixture, [0.5, 1.0]).predict_step(batch, 0)


def test_a_non_finite_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The checkpoint is that of the last epoch with a finite loss."""
    config = ROOT / "configs/demo_classifier.yaml"
    command = [
        *("lit-hier", "fit", "-c", str(config), "--data.init_args.num_train=512"),
        *("--data.init_args.num_val=50", "--data.init_args.num_test=50"),
        *("--data.init_args.rhm.init_args.num_layers=3", "--trainer.enable_progress_bar=false"),
        *("--model.init_args.optimizer=torch.optim.SGD", "--trainer.max_epochs=9"),
        "--model.init_args.optimizer.init_args.lr=1e4",
    ]
    with inside(tmp_path), patch.object(sys, "argv", command), pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("lit-hier: error: train/loss is nan in epoch ")
    kept = list(tmp_path.rglob("*.ckpt"))
    epoch = int(line.split("epoch ")[1].split(";")[0])
    assert len(kept) == (epoch > 0)
    for path in kept:
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint["epoch"] == epoch - 1
