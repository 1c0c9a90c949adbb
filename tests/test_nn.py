import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from lit_hier.errors import InputError
from lit_hier.modules import RHMClassifier
from lit_hier.nn import HierarchicalCNN, TrainedCNN, hook_layers, match_layers
from lit_hier.nn.hierarchical_cnn import PatchConv1d


def test_a_patch_convolution_is_a_convolution() -> None:
    mine = PatchConv1d(5, 7, 3)
    theirs = nn.Conv1d(5, 7, 3, stride=3)
    theirs.load_state_dict(mine.state_dict())
    x = torch.randn(4, 5, 12)
    assert torch.allclose(mine(x), theirs(x), atol=1e-6)


@pytest.mark.parametrize(("v", "n", "s", "L"), [(5, 3, 2, 4), (4, 4, 3, 2)])
def test_the_network_has_the_shape_of_the_tree(v: int, n: int, s: int, L: int) -> None:
    network = HierarchicalCNN(v, n, s, L, width=6)
    shapes: dict[str, torch.Size] = {}
    names = match_layers(network, ["layers.*", "readout"])
    with hook_layers(network, names, lambda name, out: shapes.update({name: out.shape})):
        network(torch.randn(2, v, s**L))
    expected = {f"layers.{k}": (2, 6, s ** (L - k - 1)) for k in range(L)}
    assert shapes == expected | {"readout": (2, n)}


def test_patterns_name_whole_parts() -> None:
    network = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))
    assert match_layers(network, ["1", "0.*"]) == ["0.0", "0.1", "1"]
    assert match_layers(network, ["*"]) == ["0", "1"]
    assert match_layers(network, ["0.[1]"]) == ["0.1"]
    with pytest.raises(
        InputError, match=r"^layers: pattern '0\.2' matches no layer of Sequential"
    ):
        match_layers(network, ["1", "0.2"])
    with pytest.raises(InputError, match="no pattern is given"):
        match_layers(network, [])


def test_hooks_are_gone_after_a_failure() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(3, 3))
    with pytest.raises(RuntimeError), hook_layers(network, ["0", "1"], lambda name, out: None):
        network(torch.ones(1, 2))
    assert not any(module._forward_hooks for module in network.modules())


def test_a_layer_that_puts_out_no_tensor_is_named() -> None:
    network = nn.Sequential(nn.LSTM(2, 2))
    with (
        pytest.raises(InputError, match=r"layers: '0' \(LSTM\) puts out no tensor"),
        hook_layers(network, ["0"], lambda name, out: None),
    ):
        network(torch.ones(1, 2))


def test_a_layer_that_runs_twice_is_refused() -> None:
    relu = nn.ReLU()
    network = nn.Sequential(nn.Linear(2, 2), relu, nn.Linear(2, 2), relu)
    with (
        pytest.raises(InputError, match=r"layers: '1' \(ReLU\) runs more than once in a pass"),
        hook_layers(network, ["1"], lambda name, out: None),
    ):
        network(torch.ones(1, 2))


def test_a_layer_that_never_runs_is_refused() -> None:
    network = HierarchicalCNN(4, 3, 2, 2, width=4)
    with (
        pytest.raises(InputError, match=r"layers: 'layers' \(ModuleList\) does not run in a pass"),
        hook_layers(network, ["layers", "readout"], lambda name, out: None),
    ):
        network(torch.ones(1, 4, 4))


class Attack:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.folder,)


def test_checkpoints_that_are_none_are_refused_in_one_line(tmp_path: Path) -> None:
    path, folder = tmp_path / "weights.ckpt", tmp_path / "made"
    said = {}
    with pytest.raises(InputError, match=r"^weights: cannot read .*No such file") as said[
        "missing"
    ]:
        TrainedCNN(str(path))
    path.write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="is not a tensors-only checkpoint") as said["junk"]:
        TrainedCNN(str(path))
    with path.open("wb") as file:
        pickle.dump(Attack(folder), file)
    with pytest.raises(InputError, match="is not a tensors-only checkpoint") as said["pickle"]:
        TrainedCNN(str(path))
    torch.save({"state_dict": Attack(folder)}, path)
    with pytest.raises(InputError, match="is not a tensors-only checkpoint") as said["code"]:
        TrainedCNN(str(path))
    torch.save({"weights": {}}, path)
    with pytest.raises(InputError, match="is not a Lightning checkpoint") as said["bare"]:
        TrainedCNN(str(path))
    foreign = {"state_dict": {"network.x": torch.ones(1)}, "hyper_parameters": {"width": 3}}
    torch.save(foreign, path)
    with pytest.raises(InputError, match="is of another model") as said["foreign"]:
        TrainedCNN(str(path))
    assert not folder.exists()
    assert all("\n" not in str(error.value) for error in said.values())


def test_a_trained_network_comes_back(tmp_path: Path) -> None:
    module = RHMClassifier(5, 3, 2, 4, width=6, trained_on="data")
    checkpoint = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
    }
    torch.save(checkpoint, tmp_path / "weights.ckpt")
    x = torch.randn(2, 5, 16)
    network = TrainedCNN(str(tmp_path / "weights.ckpt"))
    assert torch.equal(network(x), module(x))
    assert network.trained_on == "data"
    assert all(isinstance(value, int | str) for value in module.hparams.values())
