r"""Correlated changes: estimates from sums over blocks of samples, and their errors.

With :math:`\sigma_i` the spin of site i, 1 if it changed and -1 if not (or any other measure of
its change), averages over data :math:`\langle \cdot \rangle` and d sites,

.. math::
   C(r) = \frac{1}{N_r} \sum_{|i - j| = r}
   \langle \sigma_i \sigma_j \rangle - \langle \sigma_i \rangle \langle \sigma_j \rangle, \qquad
   \chi = \frac{\sum_{ij} C_{ij}}{\sum_i C_{ii}} = \frac{d \, \mathrm{Var}(\bar \sigma)}{C(0)},
   \qquad \xi = \frac{\sum_{i \ne j} |i - j|^2 \, C_{ij}}{\sum_{i \ne j} |i - j| \, C_{ij}}

over all ordered pairs, in :math:`\xi` up to the last distance before C(r) first falls below two of
its standard errors. :math:`\chi` is the number of sites that change together, :math:`\xi` the
mean distance of two sites, weighted by their distance and their correlation; on a tree, a distance
is the number of leaves below the common ancestor. There C(r) at the transition falls nearly as
1/r, so that the sum of C alone grows only as a logarithm of the size of the blocks that change
together: a mean distance weighted by C alone would not be proportional to their size.

The slope of ln C(r) against ln r, by least squares over the same distances, is the exponent of a
power law; it is 0 for a C(r) that is flat.

Covariances are unbiased for N data. Where sites have means of their own, they are the sums of
products of deviations from these, over N - 1. Where all have the same mean, estimated by the
average :math:`\bar m` over data and sites,

.. math::
   C(r) = P_r - \bar m^2 + \frac{1}{N} \mathrm{Var}(\bar \sigma)

with the mean products :math:`P_r`, as :math:`\bar m` has the variance
:math:`\mathrm{Var}(\bar \sigma) / N`.

With several grammars, covariances are those within each that has two data or more, averaged with
equal weights before the ratios are taken. The units are the grammars or, with one grammar, blocks
of its data. Errors are the jackknife's over units; resamples of the units serve for what is not
smooth, such as the place of a peak.

If all sources measured the same data, as several networks do, each block of data is left out of
all of them at once. The squared errors of blocks and of sources are then added, and U - 1 is the
effective number of degrees of freedom, see `lit_hier.metrics.functional.averages`.

Source: Sclocchi, Favero, Levi, Wyart, "Probing the latent hierarchical structure of data via
diffusion models" (2024), who sum over i <= j; Efron and Tibshirani, "An Introduction to the
Bootstrap" (1993), Chapter 11.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from lit_hier.metrics.functional.bootstrap import RESAMPLES, resample
from lit_hier.metrics.functional.pairs import Pairs

_MEAN: Final = 0  # of the sums: mean spin, its square, then the products at each distance
_SQUARE: Final = 1
_PRODUCTS: Final = 2
_SIGNIFICANT: Final = 2.0  # standard errors
_DEPARTURE: Final = 0.15  # of ln C(r) of a tree from a power law
_TINY: Final = 1e-12  # variances and errors that are rounding, of changes of order 1


class Correlation(NamedTuple):
    """Estimates, or their standard errors, at T inversion times.

    Attributes:
        mean: Mean spin, shape (T,).
        correlation: C(r), shape (T, distances).
        susceptibility: chi, shape (T,); NaN where no spin varies.
        length: xi in sites, shape (T,); NaN where no distance counts.
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
        num_units: Grammars, or blocks of data of the only one; 0 without two data. For sources
            that measured the same data, one more than the effective degrees of freedom, rounded.
        reach: The distances over which the length and the decay are taken.
        source_std: Standard deviation of the susceptibility between sources, to first order, shape
            (T,); NaN for one.
        resampled: The susceptibility of resamples of the units, shape (resamples, T); NaN for
            fewer than two units.
    """

    estimate: Correlation
    sem: Correlation
    sem_within: Correlation
    num_units: int
    reach: Bool[np.ndarray, "T distances"]
    source_std: Float64[np.ndarray, " T"]
    resampled: Float64[np.ndarray, "resamples T"]

    def in_units(self, unit: float) -> "Estimates":
        """Return the estimates of changes that were divided by `unit` before they were summed."""
        means, sems, within = (
            x._replace(mean=x.mean * unit, correlation=x.correlation * unit**2)
            for x in (self.estimate, self.sem, self.sem_within)
        )
        return self._replace(estimate=means, sem=sems, sem_within=within)


def estimate_correlation(
    found: ChangeSums, pairs: Pairs, cut: int | None = None, crossed: bool = False
) -> Estimates:
    """Estimate correlated changes and their errors.

    Args:
        found: The sums of changes of order 1; sources without two data are skipped.
        pairs: The geometry of the sites.
        cut: The number of distances, from 0 on, over which chi and xi sum; all pairs by default.
        crossed: Whether all sources measured the same data, in the same blocks.
    """
    kept = found.num_data.sum(1) >= 2
    parts = [
        (count, sums, None if found.site_sums is None else found.site_sums[k])
        for k, (count, sums) in enumerate(zip(found.num_data, found.sums, strict=True))
        if kept[k]
    ]
    if not parts:
        nan = np.full(found.sums.shape[2:], np.nan)
        none = np.isfinite(nan[:, _PRODUCTS:])
        unknown = _ratios(nan, pairs, cut, none)
        chi = np.full((RESAMPLES, len(nan)), np.nan)
        return Estimates(unknown, unknown, unknown, 0, none, unknown.susceptibility, chi)
    covariances = [_covariances(*_total(part), pairs) for part in parts]
    mean, num = np.mean(covariances, axis=0), len(parts)
    # The averages without each block of data, by grammar, and without each grammar.
    within = [
        [mean + (_covariances(*left, pairs) - covariance) / num for left in _leave_out(part)]
        for part, covariance in zip(parts, covariances, strict=True)
    ]
    if crossed:
        within = [[mean + sum(x - mean for x in left) for left in zip(*within, strict=False)]]
    by_source = [[(num * mean - left) / (num - 1) for left in covariances]] if num > 1 else []
    kinds = [np.stack(x) for x in (within if num == 1 or crossed else []) + by_source]
    noise = np.nan_to_num(_total_error(x[..., _PRODUCTS:] for x in kinds))
    reach = np.logical_and.accumulate(mean[:, _PRODUCTS:] >= _SIGNIFICANT * noise, axis=1)

    def error(groups: Iterable[Iterable[Float64[np.ndarray, "T columns"]]]) -> Correlation:
        ratios = [[_ratios(x, pairs, cut, reach) for x in group] for group in groups]
        columns = [[np.stack(values) for values in zip(*group, strict=True)] for group in ratios]
        return Correlation(*(_known(_total_error(x)) for x in zip(*columns, strict=True)))

    num_units = _count_units(kinds, pairs, cut)
    chi = np.full((RESAMPLES, len(mean)), np.nan)
    if num_units > 1:
        # The units' own values, of which these are the averages: a block's is its pseudo-value.
        units = [np.moveaxis(mean + (len(x) - 1) * (x.mean(0) - x), 0, -1) for x in kinds]
        resampled = resample(units)
        if len(kinds) > 1:
            # `bootstrap_error` will take these for resamples of `num_units` units.
            num_first = len(kinds[0])
            scale = num_first / (num_first - 1) * (num_units - 1) / num_units
            resampled = mean + scale**0.5 * (resampled - mean)
        chi = _susceptibility(resampled, pairs, cut)
    # The jackknife's error of an average over G sources is their deviation over sqrt(G).
    std = error(by_source).susceptibility * num**0.5 if by_source else np.full(len(mean), np.nan)
    estimate = _ratios(mean, pairs, cut, reach)
    return Estimates(estimate, error(kinds), error(within), num_units, reach, std, chi)


def _count_units(
    kinds: Sequence[Float64[np.ndarray, "_ T columns"]], pairs: Pairs, cut: int | None
) -> int:
    """Count units, of two kinds by Satterthwaite's degrees of freedom of chi over all times."""
    numbers = [len(x) for x in kinds]
    if len(kinds) == 1 or numbers[0] < 2:
        return numbers[0]
    variances = [np.nansum(jackknife_error(_susceptibility(x, pairs, cut)) ** 2) for x in kinds]
    squares = sum(x**2 / (num - 1) for x, num in zip(variances, numbers, strict=True))
    return 1 + round(float(sum(variances) ** 2 / squares)) if squares > 0 else numbers[0]


def _total_error(
    without: Iterable[Float64[np.ndarray, "..."]],
) -> Float64[np.ndarray, "*shape"]:
    """Add the squared errors of kinds of units, or of grammars, given estimates without each."""
    return np.asarray(sum(jackknife_error(x) ** 2 for x in without) ** 0.5)


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
    mean, products = means[:, _MEAN, None], means[:, _PRODUCTS:]
    unbiased = num / (num - 1)
    variance = unbiased * (means[:, _SQUARE, None] - mean**2)
    if site_sums is None:
        correlation = products - mean**2 + variance / num
    else:
        subtracted = pairs.means(torch.from_numpy(site_sums / num)).numpy()
        correlation = unbiased * (products - subtracted)
    return np.concatenate((mean, variance, correlation), axis=1)


def _ratios(
    covariances: Float64[np.ndarray, "T columns"],
    pairs: Pairs,
    cut: int | None,
    reach: Bool[np.ndarray, "T distances"],
) -> Correlation:
    """Return the estimates; `reach` tells the distances over which xi sums."""
    correlation = covariances[:, _PRODUCTS:]
    return Correlation(
        covariances[:, _MEAN],
        correlation,
        _susceptibility(covariances, pairs, cut),
        correlation_length(correlation[:, :cut], pairs, reach[:, :cut]),
        fit_decay(correlation[:, :cut], pairs.lengths[:cut], reach[:, :cut]),
    )


def _susceptibility(
    covariances: Float64[np.ndarray, "*shape columns"], pairs: Pairs, cut: int | None
) -> Float64[np.ndarray, "*shape"]:
    """Return chi, over the first `cut` distances."""
    own = covariances[..., _PRODUCTS]
    near = covariances[..., _PRODUCTS:][..., 1:cut]
    varies = own > _TINY
    total = (
        pairs.num_sites * covariances[..., _SQUARE]
        if cut is None
        else own + near @ (pairs.counts[1:cut] / pairs.num_sites)
    )
    return np.where(varies, total / np.where(varies, own, 1.0), np.nan)


def correlation_length(
    correlation: Float64[np.ndarray, "T distances"],
    pairs: Pairs,
    reach: Bool[np.ndarray, "T distances"] | None = None,
) -> Float64[np.ndarray, " T"]:
    """Compute xi at each time: see the module.

    Args:
        correlation: C(r), for the first of the distances or all.
        pairs: The geometry of the sites.
        reach: Which distances count, of these; all by default.

    Returns:
        xi in sites; NaN where the sum of r C(r) is not positive.
    """
    num = correlation.shape[1]
    counted = correlation if reach is None else np.where(reach, correlation, 0.0)
    joint = counted * pairs.counts[:num]
    joint[:, 0] = 0
    first = joint @ pairs.lengths[:num]
    positive = first > 0
    second = joint @ pairs.lengths[:num] ** 2
    return np.where(positive, second / np.where(positive, first, 1.0), np.nan)


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
    return _fit_power_law(correlation, lengths, reach)[0]


def power_law_misfit(
    correlation: Float64[np.ndarray, "T distances"],
    sem: Float64[np.ndarray, "T distances"],
    lengths: Float64[np.ndarray, " distances"],
    reach: Bool[np.ndarray, "T distances"],
) -> Float64[np.ndarray, " T"]:
    r"""Compute the reduced :math:`\chi^2` of the fit of `fit_decay`, at each time.

    To the standard errors of ln C(r) 0.15 is added in quadrature: at a finite depth C(r) of a
    tree departs from a power law, at its largest distances, by 0.12 in the mean square.

    Args:
        correlation: C(r); the first distance is left out.
        sem: Its standard errors; NaN counts as 0.
        lengths: Distances r.
        reach: Which distances count; of these, those with C(r) > 0.

    Returns:
        About 1 or less for a power law; NaN where fewer than three distances count.
    """
    residual, kept = _fit_power_law(correlation, lengths, reach)[1:]
    relative = np.nan_to_num(sem[:, 1:]) / np.where(kept, correlation[:, 1:], 1.0)
    squares = (np.where(kept, residual, 0.0) ** 2 / (relative**2 + _DEPARTURE**2)).sum(1)
    freedom = kept.sum(1) - 2
    return np.where(freedom > 0, squares / np.maximum(freedom, 1), np.nan)


def _fit_power_law(
    correlation: Float64[np.ndarray, "T distances"],
    lengths: Float64[np.ndarray, " distances"],
    reach: Bool[np.ndarray, "T distances"],
) -> tuple[
    Float64[np.ndarray, " T"], Float64[np.ndarray, "T others"], Bool[np.ndarray, "T others"]
]:
    """Return the slope, the residuals of ln C(r), and which distances count."""
    kept = (reach & (correlation > 0))[:, 1:]
    x = np.log(lengths[1:])
    y = np.log(np.where(kept, correlation[:, 1:], 1.0))
    num = np.maximum(kept.sum(1), 1)
    away = np.where(kept, x - ((kept * x).sum(1) / num)[:, None], 0.0)
    squares = (away**2).sum(1)
    known = kept.sum(1) > 2
    slope = np.where(known, (away * y).sum(1) / np.where(known, squares, 1.0), np.nan)
    residual = y - ((kept * y).sum(1) / num)[:, None] - slope[:, None] * away
    return slope, residual, kept


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
