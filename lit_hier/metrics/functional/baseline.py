r"""Similarities relative to those of unrelated samples.

With :math:`c_i` the similarity of sample i to itself before and after, :math:`b_i` that of sample
i before to its partner after, the next sample, and :math:`\bar c, \bar b` their averages, see
`average`,

.. math:: \mathrm{corrected} = \frac{\bar c - \bar b}{1 - \bar b}

is 1 where nothing changes and 0 where a sample is no more similar to itself than to another. Its
error is that of the average of

.. math:: u_i = \frac{c_i}{1 - \bar b} - \frac{1 - \bar c}{(1 - \bar b)^2} \, b_i

(the delta method), which keeps :math:`c_i` and :math:`b_i` of a sample together. With several
grammars these are the independent units. With one, samples that follow each other are not
independent, as :math:`b_i` and :math:`b_{i + 1}` share sample i + 1; with
:math:`d_i = u_i - \bar u` for N samples,

.. math::
   \mathrm{sem}^2 = \frac{1}{(N - 1)(N - 2)}
      \Big( \sum_i d_i^2 + 2 \sum_i d_i d_{i + 1} \Big)

is unbiased up to terms of order 1/N for a chain in which only neighbors are correlated. Where
several groups measured the same data, this is the error of the data, for averages over groups;
that of the groups is added, see `average`.
"""

import numpy as np
from jaxtyping import Float, Float64

from lit_hier.metrics.functional.averages import (
    RESOLUTION,
    Groups,
    average,
    independent_units,
    standard_error,
)


def correct_baseline(
    values: Float[np.ndarray, "*shape N"],
    baseline: Float[np.ndarray, "*shape N"],
    groups: Groups | None = None,
    crossed: bool = False,
) -> dict[str, Float64[np.ndarray, "*shape"]]:
    """Summarize similarities relative to a baseline: see the module.

    Args:
        values: Similarity of each sample to itself, in the order of the chain of partners.
        baseline: Similarity to its partner, in the same order; NaN for a sample that has none.
        groups: The grammar of each sample; by default one for all.
        crossed: Whether all groups measured the same data, see `average`.

    Returns:
        baseline and corrected, NaN if no sample has a partner or the baseline is 1; baseline_sem
        and corrected_sem, NaN where `average` has an error that is not known, for less than three
        samples of one grammar, and where the estimated variance is not positive.
    """
    c = np.asarray(values, dtype=np.float64)
    b = np.asarray(baseline, dtype=np.float64)
    which = np.zeros(c.shape[-1], dtype=np.int64) if groups is None else groups
    known = np.asarray(np.isfinite(b).reshape(-1, len(which)).all(0))
    if not known.any():
        names = ("baseline", "baseline_sem", "corrected", "corrected_sem")
        return {name: np.full(c.shape[:-1], np.nan) for name in names}
    itself = average(c, which, crossed=crossed)
    level = average(b[..., known], which[known]).mean
    room = np.asarray(np.where(1 - level > RESOLUTION, 1 - level, np.nan))
    # Averages of `shares` over all samples are those of the baseline over the known ones, less
    # `level`, as a sample without a partner would else count as one with a baseline of 0.
    weights = known.astype(np.float64)
    for group in np.unique(which):
        chosen = which == group
        weights[chosen] /= known[chosen].mean() or np.nan
    shares = np.where(known, b - level[..., None], 0) * weights
    linear = (c - ((1 - itself.mean) / room)[..., None] * shares) / room[..., None]
    return {
        "baseline": level,
        "baseline_sem": _error(b[..., known], which[known], crossed),
        "corrected": np.asarray((itself.mean - level) / room),
        "corrected_sem": np.where(np.isnan(itself.sem), np.nan, _error(linear, which, crossed)),
    }


def _error(
    values: Float64[np.ndarray, "*shape N"], groups: Groups, crossed: bool
) -> Float64[np.ndarray, "*shape"]:
    """Compute the standard error of an average; for one grammar or crossed groups, of a chain."""
    found = average(values, groups, crossed=crossed)
    if len(np.unique(groups)) > 1 and not crossed:
        return found.sem
    chain, *others = independent_units(values, groups, crossed)
    num = chain.shape[-1]
    d = chain - found.mean[..., None]
    squares = (d**2).sum(-1) + 2 * (d[..., 1:] * d[..., :-1]).sum(-1)
    exists = np.isfinite(found.sem) & (squares > 0) & (num > 2)
    variance = np.where(exists, squares, np.nan) / max((num - 1) * (num - 2), 1)
    return np.asarray(np.sqrt(variance + standard_error(others) ** 2))
