"""How much each site of a datum changes in forward-backward: leaves, pixels, tokens of a layer.

A site's change is its spin, 1 if it changed and -1 if not, or a real number. The sites lie on a
tree, a line or a grid.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, get_args

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

Spin = Literal["median", "sign"]
"""How a pixel's change is measured; see `PixelChanges`."""


class Changes(ABC):
    """A measure of change per site.

    Attributes:
        site_means: Whether every site has a mean of its own, which is subtracted.
        unit: What a site is, for labels.
    """

    site_means: ClassVar[bool] = True
    unit: ClassVar[str]

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
        self, source: Source, process: NoiseProcess | None, times: NDArray[np.float64]
    ) -> Correlation:
        """Return what theory predicts; NaN where none applies, as by default."""
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
        self, source: Source, process: NoiseProcess | None, times: NDArray[np.float64]
    ) -> Correlation:
        """Return the closed form in the mean field."""
        return theory.correlations(source, process, times)

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
        InputError: The distance is less than 1, or there is no such measure.
    """

    unit = "pixels"

    def __init__(self, max_distance: int | None = None, spin: Spin | None = None) -> None:
        if max_distance is not None and max_distance < 1:
            raise InputError(f"max_distance is {max_distance}; give at least 1")
        if spin not in (None, *get_args(Spin)):
            raise InputError(f"spin is {spin!r}; give {' or '.join(get_args(Spin))}")
        self.max_distance = max_distance
        self.spin = spin
        self._shape: tuple[int, ...] = ()

    def setup(self, trainer: Trainer, sampler: ForwardBackwardModule) -> None:
        """Read the shape of the data."""
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
        prefix_tokens: Tokens before those of the image's patches, such as the class token; by
            default what is left over from a square number of patches, at most 5.
        channels_last: Whether the channels are on the last axis of the layer's output; found out
            by default.

    Raises:
        InputError: The pattern does not name one layer; in a run, its output has no positions, or
            these are not a line, a grid or a square number of patches.
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
        self.prefix_tokens = prefix_tokens
        self._positions: tuple[int, ...] = ()
        self._prefix = 0

    def setup(self, trainer: Trainer, sampler: ForwardBackwardModule) -> None:
        """Check the layer on the first samples, and find its positions."""
        name = self.probe.layers[0]
        x = _first_data(trainer).to(trainer.strategy.root_device)
        self.probe.network.to(x.device)
        self.probe.check(x)
        shapes: list[tuple[int, ...]] = []
        self.probe(x, lambda _, output: shapes.append(tuple(output.shape[2:])))
        positions = shapes[0]
        if not positions:
            raise InputError(
                f"layer: {name!r} has no positions, only channels; name a layer before pooling"
            )
        grammar = isinstance(sampler.sources[0], GrammarParameters)
        self._prefix = 0 if grammar else self._find_prefix(positions, x.ndim - 2)
        if len(positions) == 1 and not grammar and x.ndim == 4:
            side = math.isqrt(positions[0] - self._prefix)
            positions = (side, side)
        self._positions = positions
        self.pairs(sampler.sources[0])

    def _find_prefix(self, positions: tuple[int, ...], num_axes: int) -> int:
        """Return the number of tokens that are not patches."""
        if len(positions) > 1 or num_axes == 1:
            return 0
        num = positions[0]
        candidates = range(6) if self.prefix_tokens is None else [self.prefix_tokens]
        found = [p for p in candidates if num > p and math.isqrt(num - p) ** 2 == num - p]
        if not found:
            raise InputError(
                f"layer: {self.probe.layers[0]!r} has {num} tokens, which are not a square of"
                f" patches and {'a few' if self.prefix_tokens is None else self.prefix_tokens}"
                " others; give prefix_tokens"
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
