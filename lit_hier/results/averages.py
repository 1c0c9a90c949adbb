"""Averages of a table over runs, with errors that count groups of runs as independent."""

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
from pandas import DataFrame
from pandas.api.types import is_float_dtype, is_integer_dtype

from lit_hier.errors import InputError
from lit_hier.metrics import average

_IDENTITIES: Final = ("time", "num_train")  # numbers that identify rows
# Columns on one run's errors: averages have errors of their own.
_ERRORS: Final = re.compile(r"(?:.*_)?(?:sem|sem_within|grammar_std|low|high)")
_THEORY: Final = re.compile(r"(?:.*_)?theory")  # has no error that is estimated from runs


def average_tables(tables: Sequence[DataFrame], groups: Sequence[str]) -> DataFrame:
    """Average tables with the same rows over runs, and give each average its standard errors.

    Runs are averaged within groups, and groups, the independent units, have the same weight: see
    `lit_hier.metrics.functional.averages`.

    Args:
        tables: One per run.
        groups: The group of each run, such as its grammar.

    Returns:
        The columns that identify rows (texts, `time`, `num_train` and whole numbers that all runs
        share). For
        each other column its average under its own name, with `{column}_sem`, the standard error
        of the average over groups, NaN for one group, and `{column}_sem_within`, the part of it
        that more runs of the same groups would reduce, NaN for one run per group. Theory has no
        errors, and the columns on errors of single runs are left out. Last, `runs` and `groups`,
        their numbers. Errors are NaN too where `average` says so.

    Raises:
        InputError: The tables have different columns or rows.
    """
    first = tables[0]
    for table in tables[1:]:
        if list(table.columns) != list(first.columns) or len(table) != len(first):
            raise InputError(
                "average: the runs' tables have different columns or numbers of rows; vary only"
                " what leaves them as they are"
            )
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    columns: dict[str, object] = {}
    for name in map(str, first.columns):
        same = all(table[name].equals(first[name]) for table in tables[1:])
        if is_float_dtype(first[name]) and name not in _IDENTITIES:
            if _ERRORS.fullmatch(name):
                continue
            values = np.stack([table[name].to_numpy(float) for table in tables], axis=-1)
            # What is the same in all rows of all runs is exact, elsewhere equal by chance.
            found = average(values, codes, shares=not same)
            columns[name] = found.mean
            if not _THEORY.fullmatch(name):
                unknown = np.full_like(found.mean, np.nan)
                columns[f"{name}_sem"] = found.sem if len(names) > 1 else unknown
                columns[f"{name}_sem_within"] = found.sem_within
        elif same:
            columns[name] = first[name]
        elif not is_integer_dtype(first[name]):
            raise InputError(
                f"average: the runs' tables differ in {name}, so that their rows cannot be"
                " averaged; vary only what leaves it as it is"
            )
    return DataFrame(columns | {"runs": len(tables), "groups": len(names)})
