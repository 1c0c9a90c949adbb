"""The table of inversions: where deeper curves fall below the first one."""

import numpy as np
from pandas import DataFrame, concat

from lit_hier.callbacks.axes import Floats
from lit_hier.callbacks.curves import CurveAnalysis, Curves, Results, transpose
from lit_hier.metrics import curve_inversion, inversion


def inversion_tables(
    analysis: CurveAnalysis, results: Results, quantity: int, theory: str = ""
) -> dict[str, DataFrame]:
    """Compare every curve of a run with the first one of the same training.

    Args:
        analysis: What measured the curves.
        results: Its results.
        quantity: Index of the measurement whose averages are compared.
        theory: The column of what is predicted of each curve, if anything.

    Returns:
        The table `{name}_inversion` of `inversion_table`, by its name; none for one curve.
    """
    process = analysis.axis.process
    tables = [
        inversion_table(
            process,
            part,
            part.values[quantity],
            part.curves(theory) if theory else None,
            analysis.crossed,
        )
        for _, part in analysis.split(results)
        if len(part.lines) > 1
    ]
    return {f"{analysis.name}_inversion": concat(tables, ignore_index=True)} if tables else {}


def inversion_table(
    process: str,
    results: Results,
    values: Floats,
    theory: Curves | None = None,
    crossed: bool = False,
) -> DataFrame:
    """Compare every curve of a run with the first one, from differences sample by sample.

    Args:
        process: The name of the process.
        results: The results of the run; at least two curves.
        values: The measurement whose averages are compared, shape (T, measured curves, N).
        theory: What is predicted of each curve, if anything.
        crossed: Whether all sources have the same data, see `lit_hier.metrics.average`.

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
        found = inversion(results.x, *pair, results.source_indices, crossed=crossed)
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
