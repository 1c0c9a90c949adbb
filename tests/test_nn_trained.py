"""Networks restored from checkpoints, of any format, and rejected ones."""

import pickle
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from attack import Attack
from conftest import ROOT, inside, rows
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from lit_hier.cli import main
from lit_hier.errors import InputError
from lit_hier.io.formats import CHECKPOINT_FORMAT as FORMAT
from lit_hier.modules import ClassificationTask, ImageClassifier, RHMClassifier
from lit_hier.nn import HierarchicalCNN, Probe, TrainedCNN, TrainedImageCNN, TrainedNetwork

# Written by the version of 2026-11 before checkpoints had a format, by `lit-hier fit`.
OLD = ROOT / "tests/checkpoints"
OLD_RHM = torch.linspace(-1, 1, 32).view(1, 4, 8)
OLD_RHM_LOGITS = [
    0.6295408606529236,
    0.6209037899971008,
    -0.5364264845848083,
    0.002143092453479767,
]
OLD_IMAGE = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
OLD_IMAGE_LOGITS = [
    0.15364301204681396, 0.09801732003688812, -0.7260693311691284, 0.3309060335159302,
    -0.38291481137275696, -0.47313475608825684, 0.22520528733730316, -0.10199426114559174,
    -0.07418622076511383, 0.4424205720424652,
]  # fmt: skip


class Net(nn.Module):
    """A user's own network."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(40, width), nn.ReLU())
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits


def save(module: LightningModule, path: Path, **changes: Any) -> str:
    """Write what Lightning writes of a module; `changes` replace entries of its record."""
    checkpoint: dict[str, Any] = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
    }
    module.on_save_checkpoint(checkpoint)
    checkpoint["lit_hier"] |= changes
    torch.save(checkpoint, path)
    return str(path)


@pytest.fixture
def rhm() -> RHMClassifier:
    return RHMClassifier(5, 3, 2, 3, width=6, trained_on="data")


@pytest.fixture
def image() -> ImageClassifier:
    return ImageClassifier(1, 3, [4, 6], trained_on="images")


def test_both_classifiers_are_restored_by_one_class(
    rhm: RHMClassifier, image: ImageClassifier, tmp_path: Path
) -> None:
    for module, x, kind in (
        (rhm, torch.randn(2, 5, 8), TrainedCNN),
        (image, torch.randn(2, 1, 8, 8), TrainedImageCNN),
    ):
        path = save(module, tmp_path / "weights.ckpt")
        for network in (TrainedNetwork(path), kind(path)):
            assert not network.training
            assert torch.equal(network(x), module.eval()(x))
            assert network.trained_on == module.trained_on
            assert network.paper_layers == ("layers.*", "readout")
            names = [f"layers.{k}" for k in range(len(network.hooked.layers))]
            assert Probe(network).layers == [*names, "readout"]


def test_hyperparameters_and_record_are_plain_values(
    rhm: RHMClassifier, image: ImageClassifier
) -> None:
    for module in (rhm, image):
        assert all(isinstance(value, int | str | list) for value in module.hparams.values())
        checkpoint: dict[str, Any] = {}
        module.on_save_checkpoint(checkpoint)
        record = checkpoint["lit_hier"]
        assert record.pop("format") == FORMAT
        assert record.pop("network") == type(module.network).__name__
        assert record.pop("trained_on") == module.trained_on
        assert record.pop("training_errors") is None
        restored = type(module.network)(**record.pop("arguments"))
        assert record == {}
        assert restored.state_dict().keys() == module.network.state_dict().keys()


@pytest.mark.parametrize("kind", [TrainedNetwork, TrainedCNN])
def test_checkpoints_of_format_1_of_the_rhm_are_read(kind: type[TrainedNetwork]) -> None:
    network = kind(str(OLD / "rhm_classifier.ckpt"))
    assert network(OLD_RHM).squeeze().tolist() == pytest.approx(OLD_RHM_LOGITS, abs=1e-6)
    assert network.trained_on.startswith("an RHM(v=4, n=4, m=2, s=2, L=3) with rules 95ed5c")


@pytest.mark.parametrize("kind", [TrainedNetwork, TrainedImageCNN])
def test_checkpoints_of_format_1_of_images_are_read(kind: type[TrainedNetwork]) -> None:
    network = kind(str(OLD / "image_classifier.ckpt"))
    assert network(OLD_IMAGE).squeeze().tolist() == pytest.approx(OLD_IMAGE_LOGITS, abs=1e-6)
    assert network.trained_on == "1197 digits of 8 pixels, seed=0"


# The checkpoint may be from a newer version of Lightning than the one installed.
@pytest.mark.filterwarnings("ignore:The loaded checkpoint was produced with")
@pytest.mark.parametrize("command", ["test", "fit"])
def test_ckpt_path_accepts_format_1(command: str, tmp_path: Path) -> None:
    """The optimizer's state and the epoch are restored, too: `fit` trains one more epoch."""
    numbers = {"num_features": 4, "num_synonyms": 2, "num_layers": 3}
    line = [
        "lit-hier", command, "-c", f"{ROOT}/configs/demo_classifier.yaml",
        f"--ckpt_path={OLD}/rhm_classifier.ckpt", "--model.init_args.width=3",
        "--trainer.max_epochs=2", "--trainer.enable_progress_bar=false",
        "--data.init_args.num_train=40",
        *(f"--data.init_args.num_{split}=20" for split in ("val", "test", "predict")),
        *(f"--data.init_args.rhm.init_args.{key}={value}" for key, value in numbers.items()),
    ]  # fmt: skip
    with inside(tmp_path), patch.object(sys, "argv", line):
        main()
    if command == "fit":
        path = tmp_path / "logs/demo_classifier/weights/classifier.ckpt"
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint["global_step"] == 2
        assert checkpoint["lit_hier"]["network"] == "HierarchicalCNN"
        assert TrainedCNN(str(path)).trained_on == checkpoint["hyper_parameters"]["trained_on"]


def test_a_newer_format_is_rejected_with_that_reason(rhm: RHMClassifier, tmp_path: Path) -> None:
    path = save(rhm, tmp_path / "weights.ckpt", format=FORMAT + 1)
    reason = f"has format {FORMAT + 1}, but this version of lit-hier reads formats 1 to {FORMAT}"
    with pytest.raises(InputError, match=rf"^weights: {path} {reason}; update lit-hier$"):
        TrainedCNN(path)
    checkpoint = torch.load(path, weights_only=True)
    with pytest.raises(InputError, match=rf"^ckpt_path: the checkpoint {reason}"):
        rhm.on_load_checkpoint(checkpoint)
    for damaged in (None, "2", True, 0, []):
        path = save(rhm, tmp_path / "weights.ckpt", format=damaged)
        with pytest.raises(InputError, match=rf"^weights: {path} has a damaged "):
            TrainedCNN(path)


def test_a_users_own_network_is_trained_and_restored(tmp_path: Path) -> None:
    task = ClassificationTask(Net(), 3, trained_on="data")
    path = save(task, tmp_path / "weights.ckpt")
    x = torch.randn(2, 5, 8)
    network = TrainedNetwork(path, Net())
    assert torch.equal(network(x), task.eval()(x))
    assert network.trained_on == "data"
    assert Probe(network, ["body.*", "head"]).layers == ["body.0", "body.1", "body.2", "head"]
    with pytest.raises(InputError, match=r"^layers: Net has no default layers; give patterns"):
        Probe(network)
    with pytest.raises(InputError, match=r"does not name a network that lit-hier can build"):
        TrainedNetwork(path)


def test_a_tensor_outside_the_network_is_rejected(tmp_path: Path) -> None:
    path = Path(save(ClassificationTask(Net(), 3), tmp_path / "weights.ckpt"))
    content = torch.load(path, weights_only=True)
    content["state_dict"]["..x"] = torch.zeros(1)
    torch.save(content, path)
    with pytest.raises(InputError, match=r"^weights: \S+: '..x' is unexpected; give a checkpoint"):
        TrainedNetwork(str(path), Net())


def test_attributes_of_a_wrapped_network_are_passed_on(tmp_path: Path) -> None:
    network = Net()
    network.hooked, network.transform = network.body, "a transform"  # type: ignore[assignment]
    network.channels_last_layers = True  # type: ignore[assignment]
    path = save(ClassificationTask(network, 3), tmp_path / "weights.ckpt")
    trained = TrainedNetwork(path, network)
    assert trained.hooked is network.body
    assert trained.transform == "a transform"
    assert trained.channels_last_layers
    assert " 'a transform' None ['1']" in Probe(trained, ["1"]).identity


DATA = """
data:
  class_path: RHMDataModule
  init_args:
    rhm:
      class_path: RandomHierarchyModel
      init_args: {num_features: 4, num_synonyms: 2, tuple_size: 2, num_layers: 3}
    num_train: 40
    num_val: 20
    num_test: 20
    num_predict: 20
"""
FIT = """
model:
  class_path: ClassificationTask
  init_args:
    network:
      class_path: HierarchicalCNN
      init_args: {num_features: 4, num_classes: 4, tuple_size: 2, num_layers: 3, width: 3}
trainer:
  max_epochs: 1
  callbacks:
    - {class_path: ModelCheckpoint, init_args: {dirpath: weights, filename: network}}
"""
PREDICT = """
model:
  class_path: BPDenoiser
  init_args: {process: EpsilonNoise, times: [0.2, 0.8]}
trainer:
  callbacks:
    - class_path: ActivationSimilarity
      init_args:
        network: {class_path: TrainedNetwork, init_args: {weights: weights/network.ckpt}}
"""


@pytest.mark.filterwarnings("ignore:.*close to chance")  # after one epoch
def test_a_network_from_yaml_is_trained_and_analyzed(tmp_path: Path) -> None:
    """The generic task and the generic network, by their short names."""
    with inside(tmp_path):
        for command, config in (("fit", FIT), ("predict", PREDICT)):
            Path(f"{command}.yaml").write_text(DATA + config)
            line = ["lit-hier", command, "-c", f"{command}.yaml"]
            with patch.object(sys, "argv", [*line, "--trainer.enable_progress_bar=false"]):
                main()
    checkpoint = torch.load(tmp_path / "weights/network.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"].keys() == {"num_classes", "trained_on"}
    (table,) = tmp_path.rglob("similarity.csv")
    names = {f"layers.{k}" for k in range(3)} | {"readout"}
    assert {row["layer"] for row in rows(table)} == names


def test_outputs_that_are_not_logits_are_named() -> None:
    task = ClassificationTask(nn.Flatten(), 3)
    with pytest.raises(InputError, match=r"^network: Flatten returns shape \(2, 40\), not \(2, 3"):
        task.training_step({"x": torch.zeros(2, 5, 8), "label": torch.zeros(2).long()}, 0)
    with pytest.raises(InputError, match=r"^num_classes is 1; give at least 2$"):
        ClassificationTask(Net(), 1)


def test_a_checkpoint_of_another_network_is_rejected(
    rhm: RHMClassifier, image: ImageClassifier, tmp_path: Path
) -> None:
    paths = save(rhm, tmp_path / "rhm.ckpt"), save(image, tmp_path / "image.ckpt")
    with pytest.raises(InputError, match=r"its network is HierarchicalCNN, not ImageCNN; give"):
        TrainedImageCNN(paths[0])
    with pytest.raises(
        InputError,
        match=r"its network is ImageCNN, not HierarchicalCNN; give a",
    ):
        TrainedCNN(paths[1])
    with pytest.raises(InputError, match=r"does not fit Net: body\.1\.weight is missing; give a"):
        TrainedNetwork(paths[0], Net())


@pytest.mark.parametrize("own", [False, True])
def test_tensors_that_do_not_fit_are_named(own: bool, rhm: RHMClassifier, tmp_path: Path) -> None:
    path = tmp_path / "weights.ckpt"
    for change, reason in (
        ({"network.readout.bias": None}, "readout.bias is missing"),
        ({"network.readout.other": torch.ones(2)}, "readout.other is unexpected"),
        ({"network.readout.bias": torch.ones(4)}, r"readout.bias has shape \(4,\), not \(3,\)"),
    ):
        save(rhm, path)
        checkpoint = torch.load(path, weights_only=True)
        state = checkpoint["state_dict"] | change
        checkpoint["state_dict"] = {key: x for key, x in state.items() if x is not None}
        torch.save(checkpoint, path)
        network = HierarchicalCNN(5, 3, 2, 3, 6) if own else None
        with pytest.raises(InputError, match=rf"^weights: .* HierarchicalCNN: {reason}; give a"):
            TrainedNetwork(str(path), network)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"network": "os.system"}, "does not name a network that lit-hier can build"),
        ({"network": ["HierarchicalCNN"]}, "does not name a network that lit-hier can build"),
        ({"arguments": {}}, "has invalid arguments for HierarchicalCNN"),
        ({"arguments": [3]}, "has invalid arguments for HierarchicalCNN"),
        ({"network": "ImageCNN"}, "has invalid arguments for ImageCNN"),
    ],
)
def test_damaged_records_are_rejected_in_one_line(
    changes: dict[str, Any], reason: str, rhm: RHMClassifier, tmp_path: Path
) -> None:
    path = save(rhm, tmp_path / "weights.ckpt", **changes)
    with pytest.raises(InputError, match=rf"^weights: {path} {reason}[^\n]*; give a checkpoint"):
        TrainedCNN(path)


def test_a_damaged_number_allocates_no_memory(rhm: RHMClassifier, tmp_path: Path) -> None:
    """A width of 2^27 asks for 2^55 weights per layer; the shapes are compared first."""
    arguments = rhm.network.arguments | {"width": 2**27}
    path = save(rhm, tmp_path / "weights.ckpt", arguments=arguments)
    with pytest.raises(
        InputError, match=r"layers\.0\.0\.weight has shape \(6, 5, 2\), not \(1342"
    ):
        TrainedCNN(path)


def test_unreadable_checkpoints_are_rejected_in_one_line(tmp_path: Path) -> None:
    path, folder = tmp_path / "weights.ckpt", tmp_path / "created"

    def reject(reason: str) -> None:
        with pytest.raises(InputError, match=rf"^weights: [^\n]*{reason}[^\n]*$"):
            TrainedCNN(str(path))

    reject("cannot read .*No such file")
    path.write_bytes(b"no checkpoint")
    reject("is not a tensors-only checkpoint")
    with path.open("wb") as file:
        pickle.dump(Attack(folder), file)
    reject("is not a tensors-only checkpoint")
    torch.save({"state_dict": Attack(folder)}, path)
    reject("is not a tensors-only checkpoint")
    torch.save({"weights": {}}, path)
    reject("is not a Lightning checkpoint")
    torch.save({"state_dict": {"network.x": 3}}, path)
    reject("has a damaged state dict")
    foreign = {"state_dict": {"network.x": torch.ones(1)}, "hyper_parameters": {"width": 3}}
    torch.save(foreign, path)
    reject("does not name a network that lit-hier can build")
    assert not folder.exists()
