"""`lit-hier plot`: the figures of finished runs, drawn again from their tables."""

import argparse
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lit_hier.errors import InputError, one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS: Final = ("pdf", "svg", "png")
_WIDTHS: Final = (1.0, 40.0)  # inches
_NARROW: Final = 5.0  # inches, below which letters are smaller
_ASPECT: Final = 0.75
_DPI: Final = 300
_MAX_STYLE: Final = 2**16  # bytes
# Settings that a style may have: others import modules, start programs or choose files.
_ALLOWED: Final = re.compile(
    r"(axes|errorbar|font|grid|hatch|image|legend|lines|markers|mathtext|patch|scatter|[xy]axis"
    r"|[xy]tick)\..+|figure\.(?!hooks).+|savefig\.(?!directory).+|text\.(antialiased|color)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lit-hier plot`."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders such as logs/demo")
    parser.add_argument("--format", choices=FORMATS, default="pdf", help="by default pdf")
    parser.add_argument(
        "--width",
        type=float,
        metavar="INCHES",
        help="one figure per quantity, of this width, with letters of 7 points below 5 inches; by"
        " default all quantities of a table are in one figure",
    )
    parser.add_argument("--style", metavar="FILE", help="a style sheet of matplotlib's")
    parser.add_argument(
        "--folder", help="where to write; by default the folder `plots` of each run"
    )


def execute(arguments: argparse.Namespace) -> None:
    """Draw and write the figures.

    Raises:
        InputError: A run or the style cannot be read, the width is out of range, a run has no
            table with curves, or a figure cannot be written.
    """
    width = arguments.width
    if width is not None and not _WIDTHS[0] <= width <= _WIDTHS[1]:
        raise InputError(
            f"--width is {width:g}; give inches from {_WIDTHS[0]:g} to {_WIDTHS[1]:g}"
        )
    from lit_hier.results import Run, read_run, table_figure
    from lit_hier.results.drawing import list_quantities

    def draw(run: Run) -> Iterator[tuple[str, "Figure"]]:
        for name in run.figures:
            table = run.table(name)
            if width is None:
                yield name, table_figure(table)
                continue
            for column in list_quantities(table):
                figure = table_figure(table, column)
                figure.set_size_inches(width, width * _ASPECT)
                yield f"{name}_{column}", figure

    opened = [read_run(path) for path in arguments.runs]
    for run in opened:
        if not run.figures:
            raise InputError(
                f"run: {run.folder!s:.100} has no table with curves to draw; it has"
                f" {', '.join(run.tables)[:200] or 'none'}"
            )
    with styled(arguments.style, width):
        for run in opened:
            folder = run.folder / "plots"
            if arguments.folder is not None:
                folder = Path(arguments.folder)
                if len(opened) > 1:
                    folder = folder.joinpath(*run.folder.absolute().parts[-2:])
            for name, figure in draw(run):
                save(folder / f"{name}.{arguments.format}", figure)


@contextmanager
def styled(style: str | None, width: float | None = None) -> Iterator[None]:
    """Draw in this package's style, with a user's style sheet on it.

    Raises:
        InputError: The sheet cannot be read.
    """
    import matplotlib

    from lit_hier.figures import figure_style

    with figure_style():
        matplotlib.rcParams["text.parse_math"] = False  # names of layers are no formulas
        matplotlib.rcParams["svg.fonttype"] = "none"  # letters stay letters, to search and edit
        if width is not None and width < _NARROW:
            matplotlib.rcParams.update({"font.size": 7, "lines.linewidth": 1})
        if style is not None:
            matplotlib.rcParams.update(_read_style(style))
        yield


def _read_style(path: str) -> Any:
    import logging
    import tempfile

    import matplotlib

    from lit_hier.io.safe_read import read_file, reading

    with reading("--style", path, "give a style sheet of matplotlib's"):
        content = read_file(path, _MAX_STYLE)
        content.decode()
        with tempfile.NamedTemporaryFile(suffix=".mplstyle") as file:
            file.write(content)
            file.flush()
            problems: list[str] = []

            def note(record: logging.LogRecord) -> bool:
                problems.append(record.getMessage())
                return False

            log = logging.getLogger("matplotlib")  # which skips what it cannot read
            log.addFilter(note)
            try:
                found = matplotlib.rc_params_from_file(file.name, use_default_template=False)
            finally:
                log.removeFilter(note)
    if problems:
        reason = one_line(problems[0]).replace(file.name, path)
        raise InputError(f"--style: {reason[:250]}; correct this line")
    return {name: value for name, value in found.items() if _ALLOWED.fullmatch(name)}


def save(path: Path, figure: "Figure") -> None:
    """Write a figure in the format that the file's suffix names, and print where.

    Raises:
        InputError: It cannot be drawn or written.
    """
    from lit_hier.io.atomic import atomic_write
    from lit_hier.io.figures import NO_DATE

    kind, content = path.suffix[1:], BytesIO()
    try:
        figure.savefig(content, format=kind, dpi=_DPI, **NO_DATE[kind])
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"figure: cannot draw {path.name}: {one_line(error)[:150]}; change the width or the"
            " style"
        ) from error
    try:
        with atomic_write(path) as file:
            file.write(content.getvalue())
    except OSError as error:
        raise InputError(
            f"figure: cannot write {path!s:.100}: {error.strerror}; give --folder"
        ) from error
    sys.stdout.write(f"figure   {path}\n")
