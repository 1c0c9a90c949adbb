r"""The record of a forward-backward experiment (Section 2.2).

.. math:: x_0 \to x_t \sim q(x_t \mid x_0) \to \hat x_0(t) \sim p(\hat x_0 \mid x_t)
"""

import math
from dataclasses import dataclass

from torch import Tensor

from lit_hier.noise import TimeAxis
from lit_hier.rhm.grammar import Tree


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
        tree_start: For the RHM, the trees of x_start: L + 1 tensors (B, nodes), int64.
        tree_reversed: For the RHM, the trees of the samples: L + 1 tensors (T, B, nodes).
        marginals: For the RHM, posterior probabilities: L + 1 tensors (T, B, nodes, symbols).
        theory: For the RHM, the mean-field probability of the true symbol, float64, shape
            (T, L + 1); NaN where the theory says nothing.
        critical_time: Where the theory puts the transition; NaN where it says nothing.
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
    theory: Tensor | None = None
    critical_time: float = math.nan
