r"""Squared distances that a change moves a representation, relative to those between data.

With :math:`a_i = \|f(x_i) - f(x'_i)\|^2` for sample i and its changed copy, and :math:`b_i` the
average of :math:`\|f(x_i) - f(x_j)\|^2` over other samples j,

.. math:: S = \bar a / \bar b

is 0 where f is invariant to the change, and 1 where the changed copy is as far away as another
sample. Its standard error is that of the average of :math:`(a_i - 2 S b_i) / \bar b` (the delta
method; the 2 is of the projection of :math:`\bar b`, a U-statistic of order 2: Hoeffding, "A class
of statistics with asymptotically normal distribution", 1948). Several grammars have a ratio each,
and are the independent units, see `average`.
"""

import numpy as np
from jaxtyping import Float, Float64

from lit_hier.metrics.functional.averages import Groups, average


def relative_distance(
    moved: Float[np.ndarray, "*shape N"], pairs: Float[np.ndarray, "*shape N"], groups: Groups
) -> dict[str, Float64[np.ndarray, "*shape"]]:
    """Compute distances relative to those between data: see the module.

    Args:
        moved: Squared distance of each sample from its changed copy.
        pairs: Average squared distance of each sample from others; NaN for a sample without
            another one, which is then left out.
        groups: The grammar of each sample.

    Returns:
        sensitivity, NaN where all data are represented alike; its standard error sem, and
        sem_within, the error as an estimate for these grammars.
    """
    ratios, errors = [], []
    for group in np.unique(groups):
        a, b = (np.asarray(x[..., groups == group], dtype=np.float64) for x in (moved, pairs))
        known = np.isfinite(b).reshape(-1, b.shape[-1]).all(0)
        if not known.any():
            ratios.append(np.full(a.shape[:-1], np.nan))
            errors.append(ratios[-1])
            continue
        a, b = a[..., known], b[..., known]
        scale = np.where((mean := b.mean(-1)) > 0, mean, np.nan)
        ratio = np.asarray(a.mean(-1) / scale)
        linear = (a - 2 * ratio[..., None] * b) / scale[..., None]
        ratios.append(ratio)
        errors.append(average(linear, np.zeros(a.shape[-1], dtype=np.int64)).sem)
    within = np.asarray(np.sqrt(np.square(errors).sum(0)) / len(errors))
    each = np.stack(ratios, axis=-1)
    found = average(each, np.zeros(len(ratios), dtype=np.int64))
    sem = found.sem if len(ratios) > 1 else within
    return {"sensitivity": found.mean, "sem": np.asarray(sem), "sem_within": within}
