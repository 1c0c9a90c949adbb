"""What a network outputs is a function of each sample, whose axes are found, or refused."""

import random
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lit_hier.errors import InputError
from lit_hier.nn import FourierBands, HierarchicalCNN, ImageCNN, Probe, evaluate
from lit_hier.rhm import RandomHierarchyModel, whitened_one_hot

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
RHM = RandomHierarchyModel(16, 4, 2, 3)
LEAVES = whitened_one_hot(RHM.sample(4, generator=torch.Generator().manual_seed(0))[0], 16)


class Apply(nn.Module):
    """Calls a function."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def around(function: Callable[[Tensor], Any], *after: nn.Module) -> nn.Sequential:
    """An embedding of images as (B, 16 tokens, 12), a function, and a sum over all but B."""
    torch.manual_seed(0)
    tokens = nn.Sequential(nn.Conv2d(1, 12, 2, 2), nn.Flatten(2), Apply(lambda x: x.mT))
    return nn.Sequential(tokens, Apply(function), *after)


class Transformer(nn.Module):
    """Blocks of attention over leaves."""

    def __init__(self, width: int, batch_first: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(16, width)
        self.position = nn.Parameter(torch.randn(8, 1, width) / 10)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=batch_first)
            for _ in range(2)
        )
        self.head = nn.Linear(width, 4)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.permute(2, 0, 1)) + self.position
        x = x.transpose(0, 1) if self.batch_first else x
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x.mean(1 if self.batch_first else 0))
        return logits


def shapes(network: nn.Module, layers: list[str], x: Tensor, **kwargs: Any) -> list[tuple[int]]:
    found: list[Any] = []
    Probe(network, layers, **kwargs)(x, lambda name, output: found.append(tuple(output.shape)))
    return found


@pytest.mark.parametrize("width", [8, 12])  # there are 8 leaves
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("num", [4, 8])  # as many samples as leaves: a coincidence
def test_channels_of_a_transformer_over_leaves(width: int, batch_first: bool, num: int) -> None:
    x = LEAVES.repeat(2, 1, 1)[:num]
    found = shapes(Transformer(width, batch_first), ["blocks.*", "head"], x)
    assert found == 2 * [(num, width, 8)] + [(num, 4)]


def test_channels_of_our_networks() -> None:
    for width in (2, 4, 8):  # as many as there are positions, or not
        network = HierarchicalCNN(16, 4, 2, 3, width=width)
        found = shapes(network, ["layers.*", "readout"], LEAVES)
        assert found == [(4, width, 4), (4, width, 2), (4, width, 1), (4, 4)]
    assert shapes(FourierBands(8, 1), ["bands.*"], LEAVES) == 3 * [(4, 16, 8)]
    assert shapes(FourierBands(8, 2), ["bands.*"], IMAGES) == 3 * [(4, 1, 8, 8)]
    for seed in range(5):
        torch.manual_seed(seed)
        network = ImageCNN(1, 10, (8, 4, 2))
        assert shapes(network, ["layers.*"], IMAGES) == [(4, 8, 8, 8), (4, 4, 4, 4), (4, 2, 2, 2)]


def test_channels_of_images_with_channels_last() -> None:
    def images(width: int) -> nn.Module:
        torch.manual_seed(0)
        last = Apply(lambda x: x.permute(0, 2, 3, 1))
        return nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), last, nn.Linear(width, width), nn.Flatten()
        )

    for width in (5, 8):  # there are 8 positions per side
        assert shapes(images(width), ["0", "1", "2"], IMAGES) == 3 * [(4, width, 8, 8)]


def test_what_cannot_be_told_is_refused_with_the_option_that_settles_it() -> None:
    mixed = around(lambda x: (x @ x.mT).flatten(1).cumsum(1).view(-1, 16, 16), nn.Flatten())
    with pytest.raises(InputError, match=r"its output is B x 16 x 16, .*; set channels_last: tru"):
        Probe(mixed, ["1"]).check(IMAGES)
    assert shapes(mixed, ["1"], IMAGES, channels_last=True) == [(4, 16, 16)]
    outputs: list[Tensor] = []
    for told in (False, True):
        Probe(mixed, ["1"], told)(IMAGES, lambda name, output: outputs.append(output.clone()))
    assert torch.equal(outputs[0], outputs[1].mT)


NORM = nn.BatchNorm1d(16)


def _draw_elsewhere(x: Tensor) -> Tensor:
    """Leave the state of the generator as it was."""
    state = torch.get_rng_state()
    x = x + torch.randn(x.shape)
    torch.set_rng_state(state)
    return x


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (functional.dropout, "between two evaluations of one batch"),
        (lambda x: x + random.random(), "between two evaluations of one batch"),
        (lambda x: x + np.random.default_rng().normal(), "between two evaluations of one batch"),
        (_draw_elsewhere, "between two evaluations of one batch"),
        (lambda x: NORM.train()(x), "for a sample in another batch"),
        (lambda x: x - x.mean(), "for a sample in another batch"),
        (lambda x: x + torch.arange(len(x))[:, None, None], "for a sample in another batch"),
        (lambda x: x + 1e3 + (len(x) == 1), "for a sample in another batch"),
        (lambda x: x.reshape(-1, 4, 12), "has 4 rows for every sample on axis 0, such as windows"),
        (lambda x: x.flatten(1) @ x.flatten(1).T, "no axis holds the samples"),
        (lambda x: x.mean(0), "no axis holds the samples"),
        (lambda x: x.argmax(2), "is int64; choose one with floating-point numbers"),
        (lambda x: x.log(), "is NaN or infinite for a sample of the data"),
        (lambda x: (x, x), "does not return one tensor"),
        (lambda x: {"x": x}, "does not return one tensor"),
        (lambda x: x.sum((1, 2)), "does not return one tensor"),
    ],
)
def test_a_layer_that_is_no_function_of_each_sample_is_refused(
    function: Callable[[Tensor], Any], message: str
) -> None:
    network = around(function, Apply(lambda x: torch.zeros(3, 2)))
    with pytest.raises(InputError, match=message) as raised:
        Probe(network, ["1"]).check(IMAGES)
    assert str(raised.value).startswith("layers: '1' (Apply)")
    assert len(str(raised.value)) <= 360


def test_statistics_of_a_batch_are_named_where_one_sample_has_none() -> None:
    network = nn.Sequential(nn.Flatten(), Apply(lambda x: NORM.train()(x[:, :16])))
    with pytest.raises(InputError, match="it takes three: use running statistics") as raised:
        Probe(network, ["1"]).check(IMAGES)
    assert len(str(raised.value)) <= 360


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_run_in_their_own_precision(dtype: torch.dtype) -> None:
    network = HierarchicalCNN(16, 4, 2, 3, width=8).to(dtype)
    *_, output = Probe(network, ["layers.*", "readout"]).check(LEAVES)
    assert output.shape == (1, 4)
    assert evaluate(network, LEAVES).dtype == dtype
    with pytest.raises(InputError, match="two evaluations of one batch"):
        Probe(nn.Sequential(network, nn.Identity(), Apply(functional.dropout)), ["1"]).check(
            LEAVES
        )


def test_random_numbers_and_the_input_stay_as_they_are() -> None:
    x = IMAGES.clone()
    network = around(lambda x: x.mul_(2), nn.ReLU(inplace=True), nn.Flatten())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    Probe(network, ["0", "1", "2"]).check(x)
    evaluate(Apply(lambda x: x.sub_(0.3).mul_(2)), x)
    assert torch.equal(x, IMAGES)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # noqa: NPY002


def test_outputs_are_those_at_the_time_of_their_layer() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Flatten())
    least: list[float] = []
    Probe(network, ["0", "1"])(IMAGES, lambda name, output: least.append(float(output.min())))
    assert least[0] < 0 == least[1]


def test_one_sample_is_enough() -> None:
    checked = Probe(ImageCNN(1, 10, (8,)), ["layers.*"]).check(IMAGES[:1])
    assert str(checked[0]).startswith("layers.0: B x 8 x 8 x 8, 8 channels, rounding ")


def test_any_error_of_a_network_is_one_line() -> None:
    def fail(x: Tensor) -> Tensor:
        raise KeyError("not\nhere " + 1000 * "x")

    with pytest.raises(InputError, match=r"^network: Apply does not take x of shape") as raised:
        evaluate(Apply(fail), IMAGES)
    assert len(str(raised.value)) <= 360


@pytest.mark.slow  # importing the compiler takes seconds
@pytest.mark.parametrize("compiled", [lambda net: torch.compile(net), lambda net: net])
def test_layers_of_compiled_networks(compiled: Callable[[nn.Module], Any]) -> None:
    network = HierarchicalCNN(16, 4, 2, 3, width=8)
    expected: list[Tensor] = []
    Probe(network, ["layers.*"])(LEAVES, lambda name, output: expected.append(output))
    network.layers[1] = torch.compile(network.layers[1])
    network.compile()
    probe, found = Probe(compiled(network), ["layers.*"]), []
    probe(LEAVES, lambda name, output: found.append(output))
    assert probe.layers == ["layers.0", "layers.1", "layers.2"]
    assert all(map(torch.equal, found, expected))


def test_a_layer_with_two_names() -> None:
    torch.manual_seed(0)
    block = nn.Linear(8, 8)
    network = nn.Sequential(OrderedDict(flat=nn.Flatten(), embed=nn.Linear(64, 8), block=block))
    network.readout = nn.Module()
    network.readout.alias = network.embed
    assert Probe(network, ["*"]).layers == ["flat", "embed", "block", "readout"]
    assert Probe(network, ["readout.alias"]).layers == ["readout.alias"]
    twice = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), block, nn.ReLU(), block)
    with pytest.raises(InputError, match=r"'4' .* runs more than once .*, also as '2', so its"):
        Probe(twice, ["4"]).check(IMAGES)
