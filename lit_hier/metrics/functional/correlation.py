r"""Correlated changes: estimates from sums over blocks of samples, and their errors.

With :math:`\sigma_i` the spin of site i, 1 if it changed and -1 if not (or any other measure of
its change), averages over data :math:`\langle \cdot \rangle` and d sites,

.. math::
   C(r) = \frac{1}{N_r} \sum_{|i - j| = r}
   \langle \sigma_i \sigma_j \rangle - \langle \sigma_i \rangle \langle \sigma_j \rangle, \qquad
   \chi = \frac{\sum_{ij} C_{ij}}{\sum_i C_{ii}} = \frac{d \, \mathrm{Var}(\bar \sigma)}{C(0)},
   \qquad \xi = \frac{\sum_{i \ne j} |i - j| \, C_{ij}}{\sum_{i \ne j} C_{ij}}

over all ordered pairs, in :math:`\xi` up to the last distance before C(r) first falls below two of
its standard errors. :math:`\chi` is the number of sites that change together, :math:`\xi` the
mean distance of two sites, weighted by their correlation; on a tree, a distance is the number of
leaves below the common ancestor. How C(r) decays is told by the slope of ln C(r) against ln r, by
least squares over the same distances: the exponent of a power law, 0 for a C(r) that is flat.
Covariances are divided by N - 1 for N data.

With several grammars, covariances are those within each, averaged with equal weights before the
ratios are taken. Errors are the jackknife's over grammars or, with one grammar, over blocks of its
data.

Source: Sclocchi, Favero, Levi, Wyart, "Probing the latent hierarchical structure of data via
diffusion models" (2024), who sum over i <= j; Efron and Tibshirani, "An Introduction to the
Bootstrap" (1993), Chapter 11.
"""

from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from lit_hier.metrics.functional.pairs import Pairs

_MEAN: Final = 0  # of the sums: mean spin, its square, then the products at each distance
_SQUARE: Final = 1
_PRODUCTS: Final = 2
_SIGNIFICANT: Final = 2.0  # standard errors
_TINY: Final = 1e-12  # errors that are rounding


class Correlation(NamedTuple):
    """Estimates, or their standard errors, at T inversion times.

    Attributes:
        mean: Mean spin, shape (T,).
        correlation: C(r), shape (T, distances).
        susceptibility: chi, shape (T,); NaN where no spin varies.
        length: xi in sites, shape (T,); NaN where the correlations do not add up to a positive
            number.
        decay: Slope of ln C(r) against ln r, shape (T,); NaN for fewer than three distances.
    """

    mean: Float64[np.ndarray, " T"]
    correlation: Float64[np.ndarray, "T distances"]
    susceptibility: Float64[np.ndarray, " T"]
    length: Float64[np.ndarray, " T"]
    decay: Float64[np.ndarray, " T"]


class ChangeSums(NamedTuple):
    """Sums over the data of each block of each source.

    Attributes:
        num_data: Data, int64, shape (sources, blocks).
        sums: Sums of the mean spin of a datum, of its square, and of the mean product of its spins
            at each distance, shape (sources, blocks, T, 2 + distances).
        site_sums: Sums of every site's spin, shape (sources, blocks, T, d); None if sites are
            alike, so that their means need not be told apart.
    """

    num_data: Int64[np.ndarray, "sources blocks"]
    sums: Float64[np.ndarray, "sources blocks T columns"]
    site_sums: Float64[np.ndarray, "sources blocks T d"] | None = None


class Estimates(NamedTuple):
    """Estimates with their errors.

    Attributes:
        estimate: The estimates.
        sem: Their standard errors, as estimates for all grammars. An error is NaN where it is
            unknown: for one unit, or if the units agree exactly.
        sem_within: Their standard errors, as estimates for these grammars.
        without: The estimates without each unit: a grammar, or a block of data of the only one.
    """

    estimate: Correlation
    sem: Correlation
    sem_within: Correlation
    without: list[Correlation]


def estimate_correlation(found: ChangeSums, pairs: Pairs, cut: int | None = None) -> Estimates:
    """Estimate correlated changes and their errors.

    Args:
        found: The sums; sources without two data are skipped.
        pairs: The geometry of the sites.
        cut: The number of distances, from 0 on, over which chi and xi sum; all pairs by default.
    """
    kept = found.num_data.sum(1) >= 2
    parts = [
        (count, sums, None if found.site_sums is None else found.site_sums[k])
        for k, (count, sums) in enumerate(zip(found.num_data, found.sums, strict=True))
        if kept[k]
    ]
    if not parts:
        nan = np.full(found.sums.shape[2:], np.nan)
        unknown = _ratios(nan, pairs, cut, np.isfinite(nan[:, _PRODUCTS:]))
        return Estimates(unknown, unknown, unknown, [])
    covariances = [_covariances(*_total(part), pairs) for part in parts]
    mean, num = np.mean(covariances, axis=0), len(parts)
    # The averages without each block of data, by grammar, and without each grammar.
    within = [
        [mean + (_covariances(*left, pairs) - covariance) / num for left in _leave_out(part)]
        for part, covariance in zip(parts, covariances, strict=True)
    ]
    units = within[0] if num == 1 else [(num * mean - left) / (num - 1) for left in covariances]
    noise = np.nan_to_num(jackknife_error(np.stack(units))[:, _PRODUCTS:])
    reach = np.logical_and.accumulate(mean[:, _PRODUCTS:] >= _SIGNIFICANT * noise, axis=1)

    def ratios(group: list[Float64[np.ndarray, "T columns"]]) -> list[Correlation]:
        return [_ratios(x, pairs, cut, reach) for x in group]

    def error(*groups: list[Correlation]) -> Correlation:
        columns = [[np.stack(values) for values in zip(*group, strict=True)] for group in groups]
        return Correlation(
            *(
                _known(sum(jackknife_error(x) ** 2 for x in by_group) ** 0.5)
                for by_group in zip(*columns, strict=True)
            )
        )

    without = ratios(units)
    return Estimates(
        _ratios(mean, pairs, cut, reach), error(without), error(*map(ratios, within)), without
    )


_Part = tuple[
    Int64[np.ndarray, " blocks"],
    Float64[np.ndarray, "blocks T columns"],
    Float64[np.ndarray, "blocks T d"] | None,
]
_Total = tuple[float, Float64[np.ndarray, "T columns"], Float64[np.ndarray, "T d"] | None]


def _total(part: _Part) -> _Total:
    count, sums, site_sums = part
    return float(count.sum()), sums.sum(0), None if site_sums is None else site_sums.sum(0)


def _leave_out(part: _Part) -> list[_Total]:
    """Return the totals without each of the blocks that have data, where two data are left."""
    count, sums, site_sums = part
    num, total, sites = _total(part)
    return [
        (
            num - count[k],
            total - sums[k],
            None if sites is None or site_sums is None else sites - site_sums[k],
        )
        for k in np.flatnonzero(count)
        if num - count[k] >= 2
    ] or [(num, total, sites)]


def _covariances(
    num: float,
    sums: Float64[np.ndarray, "T columns"],
    site_sums: Float64[np.ndarray, "T d"] | None,
    pairs: Pairs,
) -> Float64[np.ndarray, "T columns"]:
    """Return the mean spin, the variance of its mean over sites, and C(r) of one source."""
    means = sums / num
    mean = means[:, _MEAN, None]
    subtracted: Float64[np.ndarray, "T _"] = mean**2
    if site_sums is not None:
        subtracted = pairs.means(torch.from_numpy(site_sums / num)).numpy()
    unbiased = num / (num - 1)
    variance = unbiased * (means[:, _SQUARE, None] - mean**2)
    correlation = unbiased * (means[:, _PRODUCTS:] - subtracted)
    return np.concatenate((mean, variance, correlation), axis=1)


def _ratios(
    covariances: Float64[np.ndarray, "T columns"],
    pairs: Pairs,
    cut: int | None,
    reach: Bool[np.ndarray, "T distances"],
) -> Correlation:
    """Return the estimates; `reach` tells the distances over which xi sums."""
    mean, variance = covariances[:, _MEAN], covariances[:, _SQUARE]
    correlation = covariances[:, _PRODUCTS:]
    weights = (pairs.counts / pairs.num_sites)[:cut]
    joint = (weights * correlation[:, :cut])[:, 1:]
    near = np.where(reach[:, 1:cut], joint, 0.0)
    total = near.sum(1)
    varies = correlation[:, 0] > 1e-12
    safe = np.where(varies, correlation[:, 0], 1.0)
    chi = pairs.num_sites * variance / safe if cut is None else 1 + joint.sum(1) / safe
    positive = varies & (total > 1e-12)
    length = (near * pairs.lengths[1:cut]).sum(1) / np.where(positive, total, 1.0)
    return Correlation(
        mean,
        correlation,
        np.where(varies, chi, np.nan),
        np.where(positive, length, np.nan),
        fit_decay(correlation[:, :cut], pairs.lengths[:cut], reach[:, :cut]),
    )


def fit_decay(
    correlation: Float64[np.ndarray, "T distances"],
    lengths: Float64[np.ndarray, " distances"],
    reach: Bool[np.ndarray, "T distances"],
) -> Float64[np.ndarray, " T"]:
    """Fit the slope of ln C(r) against ln r by least squares, at each time.

    Args:
        correlation: C(r); the first distance, that of a site to itself, is left out.
        lengths: Distances r.
        reach: Which distances count; of these, those with C(r) > 0.

    Returns:
        The slope; NaN where fewer than three distances count.
    """
    kept = (reach & (correlation > 0))[:, 1:]
    x = np.log(lengths[1:])
    y = np.log(np.where(kept, correlation[:, 1:], 1.0))
    num = np.maximum(kept.sum(1), 1)
    away = np.where(kept, x - ((kept * x).sum(1) / num)[:, None], 0.0)
    squares = (away**2).sum(1)
    known = kept.sum(1) > 2
    return np.where(known, (away * y).sum(1) / np.where(known, squares, 1.0), np.nan)


def jackknife_error(
    without: Float64[np.ndarray, " units *shape"],
) -> Float64[np.ndarray, "*shape"]:
    """Compute a standard error from an estimate without each unit.

    Args:
        without: The estimates, on the first axis.

    Returns:
        The error; NaN for one unit.
    """
    num = len(without)
    factor = (num - 1) / num if num > 1 else np.nan
    return np.asarray(np.sqrt(factor * ((without - without.mean(0)) ** 2).sum(0)))


def _known(error: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """Replace errors that are rounding by NaN."""
    return np.where(error > _TINY, error, np.nan)
