"""The style of figures: matplotlib's defaults, whatever matplotlibrc is found."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw and save figures in matplotlib's default style, wherever the program runs.

    The environment variable `MATPLOTLIBRC`, a file or a folder with `matplotlibrc`, replaces it.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        if given := os.environ.get("MATPLOTLIBRC"):
            path = Path(given, "matplotlibrc") if Path(given).is_dir() else Path(given)
            matplotlib.rcParams.update(matplotlib.rc_params_from_file(path))
        yield
