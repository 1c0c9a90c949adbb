"""The table of inversions: where deeper curves fall below the first one."""

import numpy as np
from pandas import DataFrame

from lit_hier.callbacks.axes import Floats
from lit_hier.callbacks.curves import Curves, Results, transpose
from lit_hier.metrics import curve_inversion, inversion


def inversion_table(
    process: str, results: Results, values: Floats, theory: Curves | None = None
) -> DataFrame:
    """Compare every curve of a run with the first one, from differences sample by sample.

    Args:
        process: The name of the process.
        results: The results of the run; at least two curves.
        values: The measurement whose averages are compared, shape (T, measured curves, N).
        theory: What is predicted of each curve, if anything.

    Returns:
        A row per curve but the first, with columns process, those that identify the curve,
        inversion (the x at which it falls below the first one; NaN if that is not significant, see
        `lit_hier.metrics.functional.inversion`), inversion_sem, difference (the largest by which
        the first one is above it), difference_sem, difference_time (its x), with `theory`
        theory_inversion (NaN if there is none), and inverted (`yes` or `none`).
    """
    first, *others = results.lines
    rows = []
    for line in others:
        pair = values[:, first.curve], values[:, line.curve]
        found = inversion(results.x, *pair, results.source_indices)
        row = {
            "process": process,
            **line.columns,
            "inversion": found.place,
            "inversion_sem": found.place_sem,
            "difference": found.difference,
            "difference_sem": found.difference_sem,
            "difference_time": found.difference_at,
        }
        if theory is not None:
            curves = theory[first.name], theory[line.name]
            row["theory_inversion"] = curve_inversion(results.x, *curves)
        rows.append(row | {"inverted": "none" if np.isnan(found.place) else "yes"})
    return DataFrame(transpose(rows))
