"""Correlated changes of several runs side by side: what tells a hierarchy from other data."""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pandas import DataFrame

from lit_hier.errors import InputError
from lit_hier.figures.correlation import Decay, control_figure
from lit_hier.metrics import power_law_misfit, significant_peak
from lit_hier.results.drawing import x_axis
from lit_hier.results.runs import Run

SENTENCE: Final = (
    "A peak of χ alone does not show a hierarchy.\nIn a hierarchy, C(r) at the peak decays as a"
    " power law of r."
)
_KEPT: Final = (
    "process", "time", "chi", "sem", "decay", "decay_sem", "decay_theory", "count"
)  # fmt: skip
_LARGEST_MISFIT: Final = 2.0  # of C(r) to a power law, as a reduced chi^2
_SIGNIFICANT: Final = 2.0  # standard errors of C(r), up to the first below which it is fitted


def compare_correlations(runs: Mapping[str, Run]) -> tuple[DataFrame, Figure]:
    """Put the susceptibility of several runs side by side, and C(r) where it is largest.

    Args:
        runs: By name; each with the tables of one `ChangeCorrelation`, of one depth.

    Returns:
        A table with a row per run: model (its name), process, time (of the inversion times, the
        one with the largest chi), chi, sem, decay (the slope of ln C(r) against ln r at this
        time), decay_sem, decay_theory, count, peak (the place of the maximum; NaN if it is not
        significant, see `lit_hier.metrics.significant_peak`), misfit (the reduced chi^2 of the
        power law, see `lit_hier.metrics.power_law_misfit`); and the figure, a column of panels per
        run, with the slope in its title unless the misfit is above 2.

    Raises:
        InputError: A run lacks a table, or has several depths or no known chi.
    """
    rows, columns = [], {}
    for name, run in runs.items():
        table = run.table("change_correlation")
        distances = run.table("change_correlation_distance")
        if table["time"].duplicated().any() or table["chi"].isna().all():
            raise InputError(
                f"correlations: {run.folder} has no chi of one depth; compare runs of one depth"
            )
        table = table.sort_values("time", ignore_index=True)
        times, chi = table["time"].to_numpy(float), table["chi"].to_numpy(float)
        largest = int(np.nanargmax(chi))
        place = significant_peak(
            times, chi, table["sem"].to_numpy(float), int(table["units"].iloc[0])
        )
        top = {str(key): values.iloc[largest] for key, values in table.items()}
        at_time = distances[distances["time"] == top["time"]]
        misfit = _misfit(*at_time[["length", "correlation", "sem"]].to_numpy(float).T)
        row = {"model": name, **{key: top[key] for key in _KEPT}, "peak": place, "misfit": misfit}
        at_top = at_time[at_time["distance"] > 0]
        unit = float(at_time[at_time["distance"] == 0]["correlation"].iloc[0])
        sem, theory = table[["sem", "theory"]].to_numpy(float).T
        r = at_top[["correlation", "sem", "theory"]].to_numpy(float) / unit
        columns[name] = Decay(
            title=_describe(name, row),
            xlabel=x_axis(table)[1],
            times=times,
            chi=chi,
            chi_sem=sem,
            chi_theory=theory,
            lengths=at_top["length"].to_numpy(float),
            correlation=r[:, 0],
            correlation_sem=r[:, 1],
            correlation_theory=r[:, 2],
        )
        rows.append(row)
    return DataFrame(rows), control_figure(list(columns.values()), SENTENCE)


def _misfit(
    lengths: NDArray[np.float64], correlation: NDArray[np.float64], sem: NDArray[np.float64]
) -> float:
    """Tell how far C(r) at one time is from a power law, up to the last significant distance."""
    noise = np.nan_to_num(sem)
    reach = np.logical_and.accumulate(correlation >= _SIGNIFICANT * noise)
    return float(power_law_misfit(correlation[None], sem[None], lengths, reach[None])[0])


def _describe(name: str, row: Mapping[str, float]) -> str:
    place, decay, error, misfit = (row[key] for key in ("peak", "decay", "decay_sem", "misfit"))
    where = f"peak at {place:.3g}" if math.isfinite(place) else "no peak"
    slope = f"C(r) ~ r^({decay:.3f} ± {error:.3f})"
    if not math.isfinite(decay + error + misfit):
        slope = "no decay of C(r) measured"
    elif misfit > _LARGEST_MISFIT:
        slope = "C(r) is not a power law"
    return f"{name}: {where}\n{slope}"
