"""Finished runs: their tables, samples and configs, averages over runs, and comparisons."""

from lit_hier.results.averages import average_tables
from lit_hier.results.comparison import (
    compare_runs,
    compare_tables,
    comparison_figure,
    find_transitions,
)
from lit_hier.results.correlations import compare_correlations
from lit_hier.results.drawing import is_drawn, table_figure
from lit_hier.results.runs import Run, read_run

__all__ = [
    "Run",
    "average_tables",
    "compare_correlations",
    "compare_runs",
    "compare_tables",
    "comparison_figure",
    "find_transitions",
    "is_drawn",
    "read_run",
    "table_figure",
]
