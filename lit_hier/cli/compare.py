"""`lit-hier compare`: two finished runs on the same axes, with their differences."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lit_hier.cli.plot import FORMATS, save, styled
from lit_hier.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lit-hier compare`."""
    parser.add_argument("first", metavar="A", help="the folder of a run, such as logs/demo")
    parser.add_argument("second", metavar="B", help="that of another run")
    parser.add_argument(
        "--folder", default="comparison", help="where to write; by default comparison"
    )
    parser.add_argument("--format", choices=FORMATS, default="png", help="by default png")
    parser.add_argument("--style", metavar="FILE", help="a style sheet of matplotlib's")


def execute(arguments: argparse.Namespace) -> None:
    """Write a table and a figure per table that both runs have, and print the transitions.

    Raises:
        InputError: A run cannot be read, the two have no curves in common, or a file cannot be
            written.
    """
    from lit_hier.io.tables import write_table
    from lit_hier.results import read_run
    from lit_hier.results.comparison import (
        compare_tables,
        comparison_figure,
        difference_of_transitions,
        list_comparable,
    )

    first, second = read_run(arguments.first), read_run(arguments.second)
    folder = Path(arguments.folder)
    written = {}
    for name in list_comparable(first, second):
        written[name] = compare_tables(first.table(name), second.table(name))
    transitions = difference_of_transitions(first, second)

    def write(name: str, table: "DataFrame") -> None:
        try:
            write_table(folder, name, table)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"--folder: cannot write {folder!s:.100}: {reason}") from error
        sys.stdout.write(f"table    {folder / name}.csv\n")

    with styled(arguments.style):
        for name, table in written.items():
            write(f"compare_{name}", table)
            figure = comparison_figure(table, (first.name, second.name))
            save(folder / f"compare_{name}.{arguments.format}", figure)
            whole = max(len(first.table(name)), len(second.table(name)))
            if len(table) < whole:
                sys.stdout.write(
                    f"note     {name}: {len(table)} of {whole} rows are in both runs\n"
                )
    if len(transitions):
        write("compare_transitions", transitions)
        for row in transitions.to_dict("records"):
            for quantity in ("place", "width"):
                a, b, difference = (
                    f"{row[f'{quantity}_{part}']:.4g} ± {row[f'{quantity}_{part}_sem']:.2g}"
                    for part in ("a", "b", "difference")
                )
                sys.stdout.write(
                    f"{quantity:<8} {row['table']} ({row['axis']}): A {a}, B {b}, B - A"
                    f" {difference}\n"
                )
