r"""The record of a forward-backward experiment (Section 2.2).

.. math:: x_0 \to x_t \sim q(x_t \mid x_0) \to \hat x_0(t) \sim p(\hat x_0 \mid x_t)
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Final

import torch
from torch import Tensor

from lit_hier.gaussian import Distribution
from lit_hier.processes import TimeAxis
from lit_hier.rhm.grammar import Tree
from lit_hier.rhm.parameters import GrammarParameters

IMAGE_COUNTS: Final = ("skipped", "converted", "enlarged", "constant", "rotated")
"""Images that could not be read, were of another mode, were too small, are constant once prepared,
or whose EXIF orientation is ignored."""

Source = GrammarParameters | Distribution | None
"""What data are drawn from, as theory needs to know it; None for data sets such as images."""


def num_levels(source: Source) -> int:
    """Count the levels of the latents: those of the tree, or 1 where there are only classes."""
    if isinstance(source, GrammarParameters):
        return source.L + 1
    return int(source is not None and source.num_classes > 1)


@dataclass(frozen=True, order=True)
class Training:
    """How long a denoiser was trained, and on how many data.

    Attributes:
        num_train: Training data, P; infinity for exact inference.
        step: Optimizer steps of its training, which the best weights on the way count too; 0 for
            exact inference.
    """

    num_train: float
    step: int

    @property
    def columns(self) -> dict[str, float]:
        """The columns of tables that identify it."""
        return {"num_train": self.num_train, "step": self.step}


@dataclass(frozen=True)
class Denoising:
    """What a denoiser believes of the leaves given x_t, beside the truth of it.

    Attributes:
        beliefs: Its probabilities of the symbols of each leaf, shape (T, B, d, v).
        exact: Those of exact inference, shape (T, B, d, v).
        predicted: Whether a leaf is to be predicted: under masking those that are masked, else
            all; bool, shape (T, B, d).
    """

    beliefs: Tensor
    exact: Tensor
    predicted: Tensor


@dataclass(frozen=True)
class Latents:
    """The latent variables of a batch, level by level; for the RHM, L + 1 levels, leaves first.

    Attributes:
        tree_start: Those of x_start: tensors (B, nodes), int64.
        tree_reversed: Those of x_reversed: tensors (T, B, nodes), int64; -1 for a node below
            which no tree of the grammar explains the leaves.
        marginals: Posterior probabilities given x_t: tensors (T, B, nodes, symbols); None for a
            denoiser that does not compute them, such as a network.
        upward: The upward messages of the RHM, shaped like `marginals`; None unless the sampler
            was configured to return messages.
        downward: The downward messages; likewise.
    """

    tree_start: Tree
    tree_reversed: Tree
    marginals: Tree | None
    upward: Tree | None = None
    downward: Tree | None = None


@dataclass(frozen=True)
class ForwardBackward:
    """One batch, inverted at T times; what every sampler's `predict_step` returns.

    Attributes:
        x_start: Data x_0 as networks take them, shape (B, ...).
        x_reversed: Samples of p(x_0 | x_t), shape (T, B, ...).
        times: Inversion times, ascending, float64, shape (T,).
        axis: The meaning of these times.
        index: Sample indices within the run, int64, shape (B,).
        label: Classes of x_start, int64, shape (B,).
        latents: The latent variables, where they are known.
        effective_noise: For discrete data, the mean belief in a wrong symbol at a leaf before
            inference, times v (Eq. 60), float64, shape (T, B).
        leaf_information: Likewise, 1 minus the mean entropy of the beliefs in leaves over ln v,
            see `lit_hier.processes.NoiseProcess.information`.
        source_index: Index, in the sampler's `sources`, of what the batch is drawn from.
        denoising: For a denoiser that is held against exact inference, the beliefs of both.
        image_counts: For images from files, the numbers that `IMAGE_COUNTS` lists, int64,
            shape (5,).
    """

    x_start: Tensor
    x_reversed: Tensor
    times: Tensor
    axis: TimeAxis
    index: Tensor
    label: Tensor
    latents: Latents | None = None
    effective_noise: Tensor | None = None
    leaf_information: Tensor | None = None
    source_index: int = 0
    denoising: Denoising | None = None
    image_counts: Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "ForwardBackward":
        """Return a copy on another device; Lightning collects such copies."""
        moved: ForwardBackward = _move(self, device, non_blocking)
        return moved


def _move(value: Any, device: torch.device | str, non_blocking: bool) -> Any:
    """Move all tensors of a record."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, tuple):
        return tuple(_move(item, device, non_blocking) for item in value)
    if isinstance(value, ForwardBackward | Latents | Denoising):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        return replace(
            value, **{name: _move(part, device, non_blocking) for name, part in parts.items()}
        )
    return value
