"""How much each site of a datum changes in forward-backward: leaves, pixels, tokens of a layer.

A site's change is its spin, 1 if it changed and -1 if not, or a real number. The sites lie on a
tree, a line or a grid.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning import Trainer
from torch import Tensor, nn

from lit_hier.callbacks.beliefs import latents_of
from lit_hier.callbacks.networks import first_samples
from lit_hier.diffusion import ForwardBackward, Source
from lit_hier.errors import InputError
from lit_hier.gaussian import Distribution
from lit_hier.inference import theory
from lit_hier.metrics import Correlation, GridPairs, Pairs, TreePairs
from lit_hier.modules import ForwardBackwardModule
from lit_hier.nn import Probe
from lit_hier.processes import NoiseProcess
from lit_hier.rhm.parameters import GrammarParameters

_MAX_PREFIX: Final = 5

Spin = Literal["median", "sign"]
"""How a pixel's change is measured; see `PixelChanges`."""


class Changes(ABC):
    """A measure of change per site.

    Attributes:
        site_means: Whether every site has a mean of its own, which is subtracted.
        unit: What a site is, for labels.
        scale: A power of two, of the order that changes may have: sums are taken in this unit.
            Known from `setup` on.
    """

    site_means: ClassVar[bool] = True
    unit: ClassVar[str]
    scale: float = 1.0

    def setup(self, trainer: Trainer, sampler: ForwardBackwardModule) -> None:
        """Check that a run has such sites, before it begins.

        Raises:
            InputError: It has not.
        """
        return None

    @abstractmethod
    def pairs(self, source: Source) -> Pairs:
        """Return the geometry of a source's sites; known from `setup` on.

        Raises:
            InputError: The sites have no distances.
        """

    def cut(self, pairs: Pairs) -> int | None:
        """Return the number of distances over which chi and xi sum; None for all pairs."""
        return None

    def predict(
        self,
        source: Source,
        process: NoiseProcess | None,
        times: NDArray[np.float64],
        reach: NDArray[np.bool_] | None = None,
    ) -> Correlation:
        """Return what theory predicts; NaN where none applies, as by default.

        Args:
            source: What the data are drawn from.
            process: How they are corrupted.
            times: Inversion times, shape (T,).
            reach: The distances over which the length and the decay are taken, as those of the
                measurement, shape (T, distances); all by default.
        """
        return theory.correlations(None, process, times)

    @abstractmethod
    def measure(self, record: ForwardBackward) -> list[Tensor]:
        """Measure a batch: per inversion time a number per site, shape (B, d)."""


class LeafChanges(Changes):
    """Leaves of the RHM: 1 if the symbol changed, else -1.

    The sites of a grammar are alike on average, so one mean serves all.
    """

    site_means = False
    unit = "leaves"

    def pairs(self, source: Source) -> Pairs:
        """Return the tree of the grammar."""
        if not isinstance(source, GrammarParameters):
            raise InputError("sites: LeafChanges is for grammars; give PixelChanges")
        return TreePairs(source.s, source.L)

    def predict(
        self,
        source: Source,
        process: NoiseProcess | None,
        times: NDArray[np.float64],
        reach: NDArray[np.bool_] | None = None,
    ) -> Correlation:
        """Return the closed form in the mean field."""
        return theory.correlations(source, process, times, reach)

    def measure(self, record: ForwardBackward) -> list[Tensor]:
        """Compare the leaves."""
        latents = latents_of(record)
        start, reversed_ = latents.tree_start[0], latents.tree_reversed[0]
        return [(leaves != start).double() * 2 - 1 for leaves in reversed_]


class PixelChanges(Changes):
    """Pixels, or positions of a field: 1 if the value changed, else -1.

    Two measures of a change:

    - `median`: its distance in color is above the median over the pixels of the datum. As one
      half of the pixels of each datum is, the covariances with all others add up to 0: chi and xi
      sum over pairs up to a distance.
    - `sign`: the mean over the channels has another sign, for data around 0. Chi and xi sum over
      all pairs. It tells how much of a datum changed, which the median does not.

    Args:
        max_distance: This distance in pixels; by default, a quarter of the shortest side for
            `median`, none for `sign`.
        spin: The measure: by default `sign` for distributions and `median` for images.

    Raises:
        InputError: The distance is not a whole number from 1 on, or there is no such measure; in
            a run, the data are drawn from a grammar.
    """

    unit = "pixels"

    def __init__(self, max_distance: int | None = None, spin: Spin | None = None) -> None:
        if max_distance is not None and (max_distance < 1 or max_distance % 1):
            raise InputError(f"max_distance is {max_distance}; give at least 1, a whole number")
        if spin not in (None, *get_args(Spin)):
            raise InputError(f"spin is {spin!r}; give {' or '.join(get_args(Spin))}")
        self.max_distance = None if max_distance is None else int(max_distance)
        self.spin = spin
        self._shape: tuple[int, ...] = ()

    def setup(self, trainer: Trainer, sampler: ForwardBackwardModule) -> None:
        """Read the shape of the data; reject grammars."""
        if isinstance(sampler.sources[0], GrammarParameters):
            raise InputError("sites: PixelChanges is for images and fields; give LeafChanges")
        self._shape = _shape_of_data(trainer, sampler)
        self._measures_sign = (
            isinstance(sampler.sources[0], Distribution)
            if self.spin is None
            else self.spin == "sign"
        )
        self.cut(self.pairs(sampler.sources[0]))

    def pairs(self, source: Source) -> Pairs:
        """Return the grid: periodic for distributions on a periodic grid."""
        return GridPairs(self._shape[1:], periodic=isinstance(source, Distribution))

    def cut(self, pairs: Pairs) -> int | None:
        """Sum up to `max_distance`."""
        if self._measures_sign and self.max_distance is None:
            return None
        last = len(pairs.counts) - 1
        distance = self.max_distance or max(1, min(pairs.shape) // 4)
        if distance > last:
            raise InputError(f"max_distance is {distance}; give at most {last} for these data")
        return distance + 1

    def measure(self, record: ForwardBackward) -> list[Tensor]:
        """Compare every pixel with that of x_start."""
        spins = []
        start = record.x_start.double().mean(1).flatten(1) > 0
        for x in record.x_reversed:
            if self._measures_sign:
                changed = (x.double().mean(1).flatten(1) > 0) != start
                spins.append(changed.double() * 2 - 1)
                continue
            change = (x.double() - record.x_start.double()).square().sum(1).flatten(1)
            middle = change.quantile(0.5, dim=1, keepdim=True)
            spins.append((change > middle).double() * 2 - 1)
        return spins


class TokenChanges(Changes):
    r"""Tokens, or positions, of one layer of a network: the length of the change.

    It is :math:`\lVert z(x_\mathrm{start}) - z(x_\mathrm{reversed}) \rVert / \sqrt{C}` for
    activations z with C channels.

    Args:
        network: A network that takes `x` of the data module's batches.
        layer: The layer's name, see `lit_hier.nn.match_layers`.
        prefix_tokens: Tokens before those of the sites, such as the class token. By default the
            fewest, at most 5, that leave the grid of a convolution of the network, such as its
            patches', or a grid of the image's shape; for a grammar, a level of the tree.
        channels_last: Whether the channels are on the last axis of the layer's output; found out
            by default.

    Raises:
        InputError: The pattern does not name one layer, or `prefix_tokens` is not a whole number
            from 0 on; in a run, its output has no positions, or these are not a line, a grid or a
            level of the tree.
    """

    unit = "tokens"

    def __init__(
        self,
        network: nn.Module,
        layer: str,
        prefix_tokens: int | None = None,
        channels_last: bool | None = None,
    ) -> None:
        self.probe = Probe(network, [layer], channels_last)
        if len(self.probe.layers) != 1:
            raise InputError(
                f"layer: {layer!r} matches {len(self.probe.layers)} layers; name one of them"
            )
        if prefix_tokens is not None and (prefix_tokens < 0 or prefix_tokens % 1):
            raise InputError(f"prefix_tokens is {prefix_tokens}; give a whole number from 0 on")
        self.prefix_tokens = prefix_tokens
        self._positions: tuple[int, ...] = ()
        self._prefix = 0

    def setup(self, trainer: Trainer, sampler: ForwardBackwardModule) -> None:
        """Check the layer on the first samples, and find its positions."""
        name = self.probe.layers[0]
        x = _first_data(trainer).to(trainer.strategy.root_device)
        self.probe.network.to(x.device)
        self.probe.check(x)
        outputs: list[Tensor] = []
        with _convolutions(self.probe.network) as grids:
            self.probe(x, lambda _, output: outputs.append(output.double()))
        positions = tuple(outputs[0].shape[2:])
        if not positions:
            raise InputError(
                f"layer: {name!r} has no positions, only channels; name a layer before pooling"
            )
        if len(positions) > 1 and self.prefix_tokens:
            raise InputError(
                f"prefix_tokens is {self.prefix_tokens}, but layer {name!r} has a grid of"
                " positions; leave it out"
            )
        self._prefix, self._positions = 0, positions
        if len(positions) == 1:
            shape = tuple(x.shape[2:])
            self._prefix, self._positions = self._arrange(
                positions[0], shape, grids, sampler.sources[0]
            )
        # Of one datum, whatever the batch size: how far positions differ, without any bias.
        tokens = outputs[0][0].flatten(1)
        size = float((tokens - tokens.mean(1, keepdim=True)).square().mean().sqrt())
        scale = 2.0 ** round(math.log2(size)) if 0 < size < math.inf else 1.0
        self.scale = trainer.strategy.broadcast(scale)  # sums of all processes have one unit
        self.pairs(sampler.sources[0])

    def _arrange(
        self, num: int, shape: tuple[int, ...], grids: Sequence[tuple[int, ...]], source: Source
    ) -> tuple[int, tuple[int, ...]]:
        """Return the number of tokens that are not sites, and the shape of the sites."""
        candidates = range(_MAX_PREFIX + 1) if self.prefix_tokens is None else [self.prefix_tokens]
        left = {prefix: num - prefix for prefix in candidates if num > prefix}
        found: list[tuple[int, tuple[int, ...]]]
        if isinstance(source, GrammarParameters):
            levels = {source.s**k for k in range(1, source.L + 1)}
            found = [(prefix, (k,)) for prefix, k in left.items() if k in levels]
        elif len(shape) == 1:
            found = [(prefix, (k,)) for prefix, k in left.items()]
        else:
            known = [(prefix, grid) for prefix, k in left.items() for grid in grids
                     if math.prod(grid) == k]  # fmt: skip
            similar = [(prefix, _similar_grid(k, shape)) for prefix, k in left.items()]
            found = known + [(prefix, grid) for prefix, grid in similar if grid]
        if not found:
            others = "at most 5" if self.prefix_tokens is None else self.prefix_tokens
            of = (
                f"a level of the tree, s^l with l from 1 to {source.L},"
                if isinstance(source, GrammarParameters)
                else f"a grid of the shape {' x '.join(map(str, shape))}"
            )
            raise InputError(
                f"layer: {self.probe.layers[0]!r} has {num} positions, which are not {of} and"
                f" {others} others; give prefix_tokens, or a layer with such positions"
            )
        return found[0]

    def pairs(self, source: Source) -> Pairs:
        """Return the tree above the positions for a grammar, else the grid of positions."""
        if isinstance(source, GrammarParameters):
            num = math.prod(self._positions)
            levels = [k for k in range(1, source.L + 1) if source.s**k == num]
            if not levels:
                raise InputError(
                    f"layer: {self.probe.layers[0]!r} has {num} positions, which are not a level"
                    f" of the tree, s^l with l from 1 to {source.L}"
                )
            return TreePairs(source.s, levels[0])
        return GridPairs(self._positions, periodic=False)

    def measure(self, record: ForwardBackward) -> list[Tensor]:
        """Compare the layer's outputs."""
        kept: list[Tensor] = []

        def keep(_: str, output: Tensor) -> None:
            tokens = output.flatten(2)[:, :, self._prefix :].double()
            kept.append(tokens)

        self.probe(record.x_start, keep)
        start = kept.pop()
        changes = []
        for x in record.x_reversed:
            self.probe(x, keep)
            difference = kept.pop() - start
            changes.append(difference.square().mean(1).sqrt())
        return changes


@contextmanager
def _convolutions(network: nn.Module) -> Iterator[list[tuple[int, ...]]]:
    """Gather the grids of the outputs of a network's convolutions in two dimensions."""
    grids: list[tuple[int, ...]] = []

    def gather(_module: nn.Module, _args: object, output: Tensor) -> None:
        grids.append(tuple(output.shape[-2:]))

    convolutions = (part for part in network.modules() if isinstance(part, nn.Conv2d))
    hooks = [part.register_forward_hook(gather) for part in convolutions]
    try:
        yield grids
    finally:
        for hook in hooks:
            hook.remove()


def _similar_grid(num: int, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the grid of `num` square patches that an image of `shape` has, if there is one."""
    height, width = shape
    for h in range(1, num + 1):
        w = num // h
        if h * w == num and max(height / (h + 1), width / (w + 1)) < min(height / h, width / w):
            return h, w
    return None


def _first_data(trainer: Trainer) -> Tensor:
    """Return the first data of a run, shape (B, ...)."""
    datamodule = getattr(trainer, "datamodule", None)
    if datamodule is None:
        raise InputError("data: ChangeCorrelation needs a data module")
    return first_samples(datamodule.predict_dataloader())


def _shape_of_data(trainer: Trainer, sampler: ForwardBackwardModule) -> tuple[int, ...]:
    """Return the shape of a datum, (C, *positions)."""
    source = sampler.sources[0]
    if isinstance(source, Distribution):
        return source.shape
    return tuple(_first_data(trainer).shape[1:])
