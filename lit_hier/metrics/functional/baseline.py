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

is unbiased up to terms of order 1/N for a chain in which only neighbors are correlated.
"""

import math

import numpy as np
from jaxtyping import Float, Float64

from lit_hier.metrics.functional.averages import RESOLUTION, Groups, average


def correct_baseline(
    values: Float[np.ndarray, " N"],
    baseline: Float[np.ndarray, " N"],
    groups: Groups | None = None,
) -> dict[str, float]:
    """Summarize the similarities of one curve at one time relative to a baseline: see the module.

    Args:
        values: Similarity of each sample to itself, in the order of the chain of partners.
        baseline: Similarity to its partner, in the same order; NaN for a sample that has none.
        groups: The grammar of each sample; by default one for all.

    Returns:
        baseline and corrected, NaN if no sample has a partner or the baseline is 1; baseline_sem
        and corrected_sem, NaN where `average` has an error that is not known, for less than three
        samples of one grammar, and where the estimated variance is not positive.
    """
    c, b = (np.asarray(x, dtype=np.float64) for x in (values, baseline))
    which = np.zeros(len(c), dtype=np.int64) if groups is None else groups
    known = np.isfinite(b)
    summary = dict.fromkeys(("baseline", "baseline_sem", "corrected", "corrected_sem"), math.nan)
    if not known.any():
        return summary
    mean, level = float(average(c, which).mean), float(average(b[known], which[known]).mean)
    summary |= {"baseline": level, "baseline_sem": _error(b[known], which[known])}
    if 1 - level > RESOLUTION:
        # Averages of `shares` over all samples are those of the baseline over the known ones.
        shares = np.where(known, b, 0)
        for group in np.unique(which):
            chosen = which == group
            num_known = np.count_nonzero(known[chosen])
            shares[chosen] *= np.count_nonzero(chosen) / num_known if num_known else math.nan
        linear = c / (1 - level) - (1 - mean) / (1 - level) ** 2 * shares
        error = math.nan if np.isnan(average(c, which).sem) else _error(linear, which)
        summary |= {"corrected": (mean - level) / (1 - level), "corrected_sem": error}
    return summary


def _error(values: Float64[np.ndarray, " N"], groups: Groups) -> float:
    """Compute the standard error of an average; for one grammar, of a chain."""
    sem, num = float(average(values, groups).sem), len(values)
    if math.isnan(sem) or len(np.unique(groups)) > 1:
        return sem
    d = values - values.mean()
    squares = (d**2).sum() + 2 * (d[1:] * d[:-1]).sum()
    return float((squares / (num - 1) / (num - 2)) ** 0.5) if num > 2 and squares > 0 else math.nan
