r"""Proof on a few samples that what a network outputs can be measured, before anything is.

Three samples of the run's own data are evaluated together, two of them again in another order
(twice, with other random numbers), and one alone. Each layer's output must be finite, must not
differ between the two equal evaluations, and must hold for each sample the same values in any
batch. The one axis whose size is the number of samples is the batch.

Differences count as rounding if their root mean square is at most

.. math:: \sqrt\epsilon \, \sigma + \min(256 \epsilon, \sqrt\epsilon) \, \mu

with :math:`\epsilon` that of the coarsest data type of the network, :math:`\mu` the root mean
square of the layer's output and :math:`\sigma` that of its deviations from the samples' mean: a
perturbation of :math:`\sqrt\epsilon` changes a cosine by :math:`\epsilon`.

Channels are on axis 1 or on the last axis of an output (B, ...). Up to three witnesses tell which:

- the effects of the same values at the one end and at the other end of an empty input, which are
  alike along channels and not along positions;
- the number of channels of the last linear map, convolution or normalization that ran, and if both
  axes have it the axis on which that has them;
- the positions, if neither of these can tell: as many as the input has, or a square of them.

A layer for which they contradict each other, or that has none of them, is rejected.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lit_hier.errors import InputError
from lit_hier.nn.evaluation import evaluate, floating_type
from lit_hier.nn.layers import hook_layers, named_layers

_NUM_SAMPLES: Final = 3
_OUTPUT: Final = ""  # the name of the network's own output
_SIZES: Final = ("out_features", "out_channels", "num_features", "num_channels", "embedding_dim")
_CHANNELS_FIRST: Final = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm),
)
_CHANNELS_LAST: Final = (nn.Linear, nn.LayerNorm, nn.Embedding)  # but not their subclasses
_ALIKE: Final = 0.5  # least overlap, of 0 to 1, of two effects along channels
_DISTINCT: Final = 0.3  # largest overlap along positions


class _Channels(NamedTuple):
    """The channels that a linear map or the like returns: their number, and whether last."""

    size: int
    last: bool | None


class Layout(NamedTuple):
    """The axes of a layer's output.

    Attributes:
        batch: The axis of the samples.
        channels: The axis of the channels after the samples were moved to axis 0.
    """

    batch: int = 0
    channels: int = 1

    def __call__(self, output: Tensor) -> Tensor:
        """Move the axes of an output to (B, C, ...)."""
        return output.movedim(self.batch, 0).movedim(self.channels, 1)


@dataclass(frozen=True)
class Checked:
    """What the check found of one layer.

    Attributes:
        name: The layer; empty for the network's output.
        shape: Of the output for one sample.
        layout: Its axes.
        rounding: The largest difference between evaluations of a sample, relative to the root
            mean square of the output.
    """

    name: str
    shape: tuple[int, ...]
    layout: Layout
    rounding: float

    def __str__(self) -> str:
        """Describe it in one line."""
        names = list(map(str, self.shape))
        names[self.layout.batch] = "B"
        axes = [k for k in range(len(names)) if k != self.layout.batch]
        channels = self.shape[axes[self.layout.channels - 1]]
        shape = f"{self.name or 'output'}: {' x '.join(names)}, {channels} channels"
        return f"{shape}, rounding {self.rounding:.0e}"


def check_network(
    network: nn.Module,
    hooked: nn.Module,
    layers: Sequence[str],
    x: Tensor,
    channels_last: bool | None = None,
) -> list[Checked]:
    """Prove that the outputs of a network and of its layers are functions of each sample.

    The states of all random number generators stay as they are.

    Args:
        network: Takes one tensor and returns one.
        hooked: The module that the names of layers refer to.
        layers: Names of layers.
        x: At least one sample, shape (B, ...), as the run will pass it.
        channels_last: Whether the layers' channels are on the last axis of their outputs; by
            default that is found out.

    Returns:
        What was found of each layer, then of the network's output.

    Raises:
        InputError: The network or a layer cannot be measured.
    """
    x = _three_samples(x)
    with _other_random_numbers(x.device):
        with _watch_channels(hooked) as watched:
            sizes: dict[str, _Channels | None] = {}
            together = _run(network, hooked, layers, x, sizes, watched)
        subject = _Subject(network, named_layers(hooked), _epsilon(network, together.values()))
        for name, output in together.items():
            subject.check_values(name, output)
        pair, again = (_run(network, hooked, layers, x[[2, 0]]) for _ in range(2))
        for name, output in together.items():
            subject.compare(name, pair[name], again[name], output, _REPEATED)
        try:
            alone = _run(network, hooked, layers, x[:1])
        except InputError as error:
            raise InputError(f"{error}; it takes three: {_USE_EVAL}") from error
        checked = []
        batch: dict[str, int] = {}
        rounding: dict[str, float] = {}
        for name, output in together.items():
            axis = batch[name] = subject.find_batch(name, output, pair[name], alone[name])
            rounding[name] = max(
                subject.compare(
                    name, output.select(axis, k), other.select(axis, j), output, _ACCOMPANIED, axis
                )
                for other, k, j in ((pair[name], 2, 0), (pair[name], 0, 1), (alone[name], 0, 0))
            )
        changed = _change_ends(network, hooked, layers, x[:1])
        for name, output in together.items():
            axis, found = batch[name], 1
            first = output.movedim(axis, 0)
            if first.ndim > 2 and name:
                effects = None
                if changed is not None:
                    empty, *ends = changed[name].movedim(axis, 0).double()
                    effects = (torch.stack(ends) - empty).square()
                if channels_last is not None:
                    found = first.ndim - 1 if channels_last else 1
                else:
                    declared = getattr(network, "channels_last_layers", None)
                    votes = (_by_effect(effects), _by_size(first, sizes[name]))
                    found = subject.find_channels(name, first, votes, x, declared)
            layout = Layout(axis, found)
            checked.append(Checked(name, tuple(alone[name].shape), layout, rounding[name]))
    return checked


_REPEATED: Final = (
    "differs by {0:.2g} of its size between two evaluations of one batch: it is not a function of"
    " the input; turn off dropout and other random numbers or state in eval mode"
)
_USE_EVAL: Final = "use running statistics (eval mode), not those of a batch"
_ACCOMPANIED: Final = (
    "differs by {0:.2g} of its size for a sample in another batch: it depends on the other"
    f" samples; {_USE_EVAL}"
)


@dataclass
class _Subject:
    """A network under examination.

    Attributes:
        network: As given.
        modules: Its layers by name.
        epsilon: Relative spacing of its coarsest data type.
    """

    network: nn.Module
    modules: Mapping[str, nn.Module]
    epsilon: float

    def reject(self, name: str, reason: str) -> InputError:
        """Return the error that names the network, the layer and what was seen."""
        kind = type(self.network).__name__
        if not name:
            return InputError(f"network: {kind}: its output {reason}")
        layer = type(self.modules[name]).__name__
        return InputError(f"layers: {name!r} ({layer}) of {kind}: its output {reason}")

    def check_values(self, name: str, output: Tensor) -> None:
        """Reject outputs that are not finite floating-point numbers."""
        if not output.is_floating_point():
            dtype = str(output.dtype).removeprefix("torch.")
            raise self.reject(name, f"is {dtype}; choose one with floating-point numbers")
        if not output.isfinite().all():
            raise self.reject(
                name, "is NaN or infinite for a sample of the data; check the weights and the data"
            )

    def compare(
        self,
        name: str,
        one: Tensor,
        other: Tensor,
        scale: Tensor,
        reason: str,
        axis: int = 0,
    ) -> float:
        """Return the relative difference of two outputs; reject it if it is not rounding."""
        if one.shape != other.shape:
            raise self.reject(
                name,
                f"changes its shape between evaluations, from {tuple(one.shape)} to"
                f" {tuple(other.shape)}; choose another layer",
            )
        deviations = scale - scale.mean(axis, keepdim=True)
        size, deviation, difference = _sizes(scale, deviations, one - other)
        rough = math.sqrt(self.epsilon)
        if difference > rough * deviation + min(256 * self.epsilon, rough) * size:
            raise self.reject(name, reason.format(difference / (size or 1)))
        return difference / (size or 1)

    def find_batch(self, name: str, together: Tensor, pair: Tensor, alone: Tensor) -> int:
        """Return the axis of the samples, from the outputs for three, two and one of them."""
        shapes = [tuple(output.shape) for output in (together, pair, alone)]
        if len({len(shape) for shape in shapes}) == 1:
            sizes = list(zip(*shapes, strict=True))
            varied = [k for k, size in enumerate(sizes) if len(set(size)) > 1]
            if len(varied) == 1 and sizes[varied[0]] == (3, 2, 1):
                axis = varied[0]
                if axis and not name:
                    raise self.reject(
                        name, f"has the samples on axis {axis}; return them on axis 0"
                    )
                return axis
            rows = sizes[varied[0]][2] if varied else 0
            if len(varied) == 1 and sizes[varied[0]] == (3 * rows, 2 * rows, rows):
                raise self.reject(
                    name,
                    f"has {rows} rows for every sample on axis {varied[0]}, such as windows or"
                    " heads; choose a layer around it",
                )
        shown = ", ".join(" x ".join(map(str, shape)) for shape in shapes)
        raise self.reject(
            name,
            f"is {shown} for 3, 2, 1 samples: no axis holds the samples; choose another layer",
        )

    def find_channels(
        self,
        name: str,
        output: Tensor,
        votes: Sequence[int | None],
        x: Tensor,
        declared: bool | None,
    ) -> int:
        """Return the axis of the channels of an output (B, ...) as the witnesses have it."""
        found = {vote for vote in votes if vote is not None}
        if not found:
            vote = _by_positions(output, x)
            found = {vote} if vote is not None else set()
        if not found and declared is not None:
            found = {output.ndim - 1 if declared else 1}
        if len(found) == 1:
            return found.pop()
        shape = " x ".join(("B", *map(str, output.shape[1:])))
        raise self.reject(
            name,
            f"is {shape}, and whether channels are on its axis 1 or last cannot be told; set"
            " channels_last: true for the last axis or false for axis 1, or choose other layers",
        )


def relative_difference(one: Tensor, other: Tensor) -> float:
    """Return the root mean square of a difference, relative to that of the first."""
    difference, size = _sizes(one - other, one)
    return difference / (size or 1)


def _sizes(*tensors: Tensor) -> list[float]:
    """Return the root mean square of each; 0 for one without elements."""
    sizes = [x.double().square().mean().sqrt() for x in tensors]
    return [
        size if x.numel() else 0.0
        for x, size in zip(tensors, torch.stack(sizes).tolist(), strict=True)
    ]


def _epsilon(network: nn.Module, outputs: Any) -> float:
    types = {floating_type(network), *(output.dtype for output in outputs)}
    return max(torch.finfo(dtype).eps for dtype in types if dtype.is_floating_point)


def _three_samples(x: Tensor) -> Tensor:
    """Return three samples; if there are fewer, shift positions of those that there are."""
    x = x[:_NUM_SAMPLES]
    while len(x) < _NUM_SAMPLES:
        x = torch.cat((x, x[-1:].roll(1, -1)))
    return x


def _run(
    network: nn.Module,
    hooked: nn.Module,
    layers: Sequence[str],
    x: Tensor,
    sizes: dict[str, _Channels | None] | None = None,
    watched: Sequence[_Channels] = (),
) -> dict[str, Tensor]:
    """Return copies of all outputs, as later layers may change them."""
    torch.randint(2**31, ())  # a network that restores the state of a generator meets another one
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        outputs[name] = output.clone()
        if sizes is not None:
            sizes[name] = watched[-1] if watched else None

    with hook_layers(hooked, layers, keep):
        output = evaluate(network, x)
    return outputs | {_OUTPUT: output}


@contextmanager
def _watch_channels(hooked: nn.Module) -> Iterator[list[_Channels]]:
    """Record the number of output channels of linear maps and the like, in the order they run."""
    watched: list[_Channels] = []
    handles = []
    for module in hooked.modules():
        weight = getattr(module, "weight", None)
        sizes = (getattr(module, attribute, None) for attribute in _SIZES)
        size = next((size for size in sizes if isinstance(size, int)), None)
        if isinstance(weight, Tensor):
            if size is None and weight.ndim == 1:
                size = len(weight)
            if size is not None:
                last = True if type(module) in _CHANNELS_LAST else None
                found = _Channels(size, False if isinstance(module, _CHANNELS_FIRST) else last)
                handles.append(module.register_forward_hook(partial(_record, watched, found)))
    try:
        yield watched
    finally:
        for handle in handles:
            handle.remove()


def _record(watched: list[_Channels], found: _Channels, *_: object) -> None:
    watched.append(found)


@contextmanager
def _other_random_numbers(device: torch.device) -> Iterator[None]:
    """Restore the state of all random number generators at the end."""
    devices = [device] if device.type == "cuda" else []
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


def _change_ends(
    network: nn.Module, hooked: nn.Module, layers: Sequence[str], x: Tensor
) -> dict[str, Tensor] | None:
    """Evaluate an empty sample, and the first half of a sample at its one end and at its other.

    Returns:
        Outputs for the three; None if the data have no positions, or the network fails on these.
    """
    if x.ndim < 3:
        return None
    samples = torch.zeros_like(x[:1]).repeat(3, *(1 for _ in x.shape[1:]))
    _, first, last = samples  # views
    part = x[0]
    for axis, n in enumerate(x.shape[2:], start=1):
        part, first = (values.narrow(axis, 0, n // 2) for values in (part, first))
        last = last.narrow(axis, n - n // 2, n // 2)
    first.copy_(part)
    last.copy_(part)
    try:
        return _run(network, hooked, layers, samples)
    except InputError:
        return None


def _by_effect(effects: Tensor | None) -> int | None:
    """Return the axis along which two effects, shape (2, ...), are more alike."""
    if effects is None or not effects.isfinite().all() or not effects.flatten(1).sum(1).all():
        return None
    overlaps = {}
    for axis in (1, effects.ndim - 1):
        if effects.shape[axis] == 1:
            return None
        others = [k for k in range(1, effects.ndim) if k != axis]
        profile = effects.sum(others)
        profile = profile / profile.sum(1, keepdim=True)
        overlaps[axis] = float(profile.amin(0).sum())
    if min(overlaps.values()) > _DISTINCT or max(overlaps.values()) < _ALIKE:
        return None
    return max(overlaps, key=lambda axis: overlaps[axis])


def _by_size(output: Tensor, channels: _Channels | None) -> int | None:
    """Return the one of the two axes that has the channels' number, or where they belong."""
    if channels is None:
        return None
    axes = [axis for axis in (1, output.ndim - 1) if output.shape[axis] == channels.size]
    if len(axes) == 2 and channels.last is not None:
        return axes[channels.last]
    return axes[0] if len(axes) == 1 else None


def _by_positions(output: Tensor, x: Tensor) -> int | None:
    """Return the axis left over if the others are as long as the input's, or form a square."""
    inner, outer = output.shape[1:-1], output.shape[2:]
    fits = {1: outer == x.shape[2:], output.ndim - 1: inner == x.shape[2:]}
    if len(set(fits.values())) == 1 and output.ndim > 3:
        fits = {1: len(set(outer)) == 1, output.ndim - 1: len(set(inner)) == 1}
    axes = [axis for axis, fit in fits.items() if fit]
    return axes[0] if len(axes) == 1 else None
