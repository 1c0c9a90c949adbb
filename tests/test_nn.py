"""Our own networks, layers chosen by name, and hooks on them."""

import copy
import functools
import linecache
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lit_hier.errors import InputError
from lit_hier.nn import FourierBands, HierarchicalCNN, hook_layers, match_layers
from lit_hier.nn.fingerprint import fingerprint
from lit_hier.nn.hierarchical_cnn import PatchConv1d


def test_patch_convolution_equals_conv1d() -> None:
    patches = PatchConv1d(5, 7, 3)
    reference = nn.Conv1d(5, 7, 3, stride=3)
    reference.load_state_dict(patches.state_dict())
    x = torch.randn(4, 5, 12)
    assert torch.allclose(patches(x), reference(x), atol=1e-6)


@pytest.mark.parametrize(("v", "n", "s", "L"), [(5, 3, 2, 4), (4, 4, 3, 2)])
def test_the_network_has_the_shape_of_the_tree(v: int, n: int, s: int, L: int) -> None:
    network = HierarchicalCNN(v, n, s, L, width=6)
    shapes: dict[str, torch.Size] = {}
    names = match_layers(network, ["layers.*", "readout"])
    with hook_layers(network, names, lambda name, out: shapes.update({name: out.shape})):
        network(torch.randn(2, v, s**L))
    expected = {f"layers.{k}": (2, 6, s ** (L - k - 1)) for k in range(L)}
    assert shapes == expected | {"readout": (2, n)}


def test_patterns_match_whole_components() -> None:
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


def test_hooks_are_removed_after_an_error() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(3, 3))
    with pytest.raises(RuntimeError), hook_layers(network, ["0", "1"], lambda name, out: None):
        network(torch.ones(1, 2))
    assert not any(module._forward_hooks for module in network.modules())


def test_a_layer_that_returns_no_tensor_is_named() -> None:
    network = nn.Sequential(nn.LSTM(2, 2))
    with (
        pytest.raises(InputError, match=r"layers: '0' \(LSTM\) does not return one tensor"),
        hook_layers(network, ["0"], lambda name, out: None),
    ):
        network(torch.ones(1, 2))


def test_a_layer_that_runs_twice_is_rejected() -> None:
    relu = nn.ReLU()
    network = nn.Sequential(nn.Linear(2, 2), relu, nn.Linear(2, 2), relu)
    with (
        pytest.raises(
            InputError, match=r"layers: '1' \(ReLU\) runs more than once in a forward pass"
        ),
        hook_layers(network, ["1"], lambda name, out: None),
    ):
        network(torch.ones(1, 2))


def test_a_layer_that_never_runs_is_rejected() -> None:
    network = HierarchicalCNN(4, 3, 2, 2, width=4)
    with (
        pytest.raises(InputError, match=r"'layers' \(ModuleList\) does not run in a forward pass"),
        hook_layers(network, ["layers", "readout"], lambda name, out: None),
    ):
        network(torch.ones(1, 4, 4))


class Shift(nn.Module):
    """Has tensors that the state dict does not contain."""

    def __init__(self, buffer: float, attribute: float) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([buffer]), persistent=False)
        self.scale = torch.tensor([attribute])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shifted: torch.Tensor = x * self.scale + self.shift
        return shifted


def test_the_fingerprint_covers_tensors_outside_the_state_dict() -> None:
    numbers = [(1, 2), (1, 3), (2, 2)]
    digests = [fingerprint(nn.Sequential(Shift(*pair))) for pair in numbers]
    assert digests == [fingerprint(nn.Sequential(Shift(*pair))) for pair in numbers]
    assert len(set(digests)) == 3
    bands = [fingerprint(FourierBands(8, dimensions)) for dimensions in (1, 2)]
    assert bands[0] != bands[1]


def test_the_fingerprint_covers_the_code_of_inner_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, digests = tmp_path / "own.py", []
    for power in (2, 3, 2):
        lines = ("from torch import nn", "class Own(nn.Module):", "    def forward(self, x):",
                 f"        return x**{power}", "")  # fmt: skip
        path.write_text("\n".join(lines))
        linecache.clearcache()
        module = ModuleType("own")
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, "own", module)
        exec(compile(path.read_text(), path, "exec"), vars(module))
        digests.append(fingerprint(nn.Sequential(module.Own())))
    assert digests[0] == digests[2] != digests[1]


GAIN = 1.0
TABLE = {"gain": 1.0}


def amplify(x: torch.Tensor) -> torch.Tensor:
    """Code that a network calls, with a global number."""
    return x * GAIN * TABLE["gain"]


class Amplifier(nn.Module):
    """Depends on private attributes, on a plain object and on what it calls."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self._private = given.get("private", 1.0)
        self._tensor = torch.tensor(given.get("tensor", 1.0))
        self.options = {"gain": given.get("option", 1.0)}
        self.object = SimpleNamespace(gain=given.get("object", 1.0))
        self.function = given.get("function", lambda x: x)
        self.bound = functools.partial(torch.mul, given.get("partial", 1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return amplify(self.function(x))


def scaled(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: x * factor


def test_the_fingerprint_covers_state_of_every_kind_and_the_code_that_is_called() -> None:
    here = sys.modules[__name__]

    def hooked(factor: float) -> nn.Module:
        network = nn.Sequential(nn.Identity())
        network[0].register_forward_hook(lambda module, args, output: output * factor)
        return network

    def attached(value: Any) -> nn.Module:
        network = nn.Sequential(nn.Identity())
        network._value = value
        return network

    def patched(name: str, value: Any) -> str:
        with patch.object(here, name, value):
            return fingerprint(Amplifier())

    digests = [fingerprint(Amplifier())] + [
        fingerprint(Amplifier(**{name: 0.7}))
        for name in ("private", "tensor", "option", "object", "partial")
    ]
    digests += [fingerprint(Amplifier(function=f)) for f in (scaled(1.0), scaled(0.7))]
    digests += [fingerprint(Amplifier(function=f)) for f in (lambda x: x * 2, lambda x: x + 2)]
    built_in = (torch.tanh, torch.relu, functional.gelu)
    digests += [fingerprint(Amplifier(function=f)) for f in built_in]
    digests += [fingerprint(Amplifier(function=functools.cache(scaled(k)))) for k in (3, 4)]
    digests += [patched("GAIN", 0.7), patched("TABLE", {"gain": 0.7}), patched("amplify", scaled)]
    digests += [fingerprint(hooked(factor)) for factor in (1.0, 0.7)]
    values = (1.0, 0.7, torch.ones(2), torch.zeros(2), np.ones(2), np.zeros(2), scaled(1.0))
    digests += [fingerprint(attached(value)) for value in values]
    digests += [fingerprint(nn.utils.parametrizations.weight_norm(nn.Linear(1, 1, False)))]
    assert len(set(digests)) == len(digests)
    assert fingerprint(Amplifier()) == digests[0] == fingerprint(copy.deepcopy(Amplifier()))
    assert fingerprint(attached(scaled(1.0))) == fingerprint(attached(scaled(1.0)))


def test_the_fingerprint_is_the_same_in_another_process_and_for_objects_in_a_circle() -> None:
    network = Amplifier()
    network.options["circle"] = network.options
    network.object.itself = network.object
    network.names = {"a", "b", "c"}
    assert fingerprint(network) == fingerprint(copy.deepcopy(network))
    plain = nn.Sequential(nn.Conv2d(1, 1, 1), nn.GELU())
    with torch.no_grad():
        plain[0].weight.fill_(1)
        plain[0].bias.fill_(0)
    # Part of the identity of stored samples.
    assert fingerprint(plain) == "f8314a07efd9899c737639fe790911da356c3fc7000aa8db2f23bfff0db7d7de"
