"""Correlated changes of several runs side by side: what tells a hierarchy from other data."""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from pandas import DataFrame

from lit_hier.errors import InputError
from lit_hier.figures.correlation import Decay, control_figure
from lit_hier.metrics import significant_peak
from lit_hier.results.drawing import x_axis
from lit_hier.results.runs import Run

SENTENCE: Final = (
    "A peak of χ alone does not show a hierarchy. In one, C(r) at the peak also decays as a power"
    " law of r;\nin a mixture it is flat, as all sites change together, and in a field χ has no"
    " peak."
)
_KEPT: Final = (
    "process", "time", "chi", "sem", "decay", "decay_sem", "decay_theory", "count"
)  # fmt: skip


def compare_correlations(runs: Mapping[str, Run]) -> tuple[DataFrame, Figure]:
    """Put the susceptibility of several runs side by side, and C(r) where it is largest.

    Args:
        runs: By name; each with the tables of one `ChangeCorrelation`, of one depth.

    Returns:
        A table with a row per run: model (its name), process, time (of the inversion times, the
        one with the largest chi), chi, sem, decay (the slope of ln C(r) against ln r at this
        time), decay_sem, decay_theory, count, peak (the place of the maximum; NaN if it is not
        significant, see `lit_hier.metrics.significant_peak`); and the figure, a column of panels
        per run.

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
        place = significant_peak(times, chi, table["sem"].to_numpy(float))
        top = {str(key): values.iloc[largest] for key, values in table.items()}
        row = {"model": name, **{key: top[key] for key in _KEPT}, "peak": place}
        at_top = distances[(distances["time"] == top["time"]) & (distances["distance"] > 0)]
        own = distances[(distances["time"] == top["time"]) & (distances["distance"] == 0)]
        unit = float(own["correlation"].iloc[0])
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


def _describe(name: str, row: Mapping[str, float]) -> str:
    place, decay, error = row["peak"], row["decay"], row["decay_sem"]
    where = f"peak at {place:.3g}" if math.isfinite(place) else "no peak"
    slope = f"C(r) ~ r^({decay:.3f} ± {error:.3f})"
    return f"{name}: {where}\n{slope if math.isfinite(decay + error) else 'C(r) is short'}"
