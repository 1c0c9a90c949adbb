r"""The record of a forward-backward experiment (Section 2.2).

.. math:: x_0 \to x_t \sim q(x_t \mid x_0) \to \hat x_0(t) \sim p(\hat x_0 \mid x_t)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from torch import Tensor

from lit_hier.processes import TimeAxis
from lit_hier.rhm.grammar import Tree

IMAGE_COUNTS: Final = ("skipped", "converted", "enlarged")
"""What is done about images that cannot be read, are of another mode, or are too small."""


@dataclass(frozen=True)
class Source:
    """What data come from, such as one grammar of an ensemble, and what theory says of it.

    Attributes:
        parameters: Its numbers by name; sources that differ in none may be averaged.
        num_levels: Levels of the trees in its records; 0 if there are none.
        theory: Predictions by the name of what they predict, float64, shape (T, curves); NaN
            where the theory says nothing. For the RHM `upward`, `downward` and `marginal`, the
            mean-field beliefs in the true symbol, a curve per level, and `effective_noise`, one
            curve.
        theory_name: What the theory is called, for legends.
        critical_time: Where the theory puts the transition; NaN where it says nothing.
    """

    parameters: Mapping[str, int] = field(default_factory=dict)
    num_levels: int = 0
    theory: Mapping[str, Tensor] = field(default_factory=dict)
    theory_name: str = "theory"
    critical_time: float = math.nan


@dataclass(frozen=True)
class ForwardBackward:
    """One batch, turned round at T inversion times; what every sampler's `predict_step` returns.

    Attributes:
        x_start: Data x_0 as networks take them, shape (B, ...).
        x_reversed: Samples of p(x_0 | x_t), shape (T, B, ...).
        times: Inversion times, ascending, float64, shape (T,).
        axis: What these times mean.
        index: Sample indices within the run, int64, shape (B,).
        label: Classes of x_start, int64, shape (B,).
        tree_start: The latents of x_start, level by level: for the RHM, L + 1 tensors
            (B, nodes), int64.
        tree_reversed: The latents of the samples: tensors (T, B, nodes).
        marginals: Posterior probabilities of the latents: tensors (T, B, nodes, symbols).
        upward: For the RHM, if the sampler was asked for messages, the upward ones, like
            `marginals`.
        downward: Likewise.
        effective_noise: For discrete data, the mean belief in a wrong symbol at a leaf before
            inference, times v (Eq. 60), float64, shape (T, B).
        source: Which of the sampler's sources the batch is from.
        image_counts: For images from files, how many were skipped, converted and enlarged, as
            `IMAGE_COUNTS` lists them; int64, shape (3,).
    """

    x_start: Tensor
    x_reversed: Tensor
    times: Tensor
    axis: TimeAxis
    index: Tensor
    label: Tensor
    tree_start: Tree | None = None
    tree_reversed: Tree | None = None
    marginals: Tree | None = None
    upward: Tree | None = None
    downward: Tree | None = None
    effective_noise: Tensor | None = None
    source: int = 0
    image_counts: Tensor | None = None
