"""The command `lit-hier`; libraries are imported only when it runs."""

import os
import sys
from collections.abc import Sequence
from contextlib import chdir, suppress

from lit_hier.cli import exits

__all__ = ["main", "run"]


def main(args: Sequence[str] | None = None) -> None:
    """Run one command from Python, and leave the process as it was.

    What configs may name stays limited. On a GPU, results equal those of the command line only
    under the same flags of torch, which are the caller's here: see `lit_hier.cli.process`.

    Args:
        args: The command's arguments, as in `main(["predict", "-c", "demo"])`; by default those
            of `sys.argv`.

    Raises:
        SystemExit: With status 2 and one line on standard error if the input is invalid, 130 if
            the run was interrupted, 143 if it was terminated, and 0 for `--help`.
    """
    with exits.interrupts_as_status():
        from lit_hier.cli import own_commands

        given = own_commands.execute_own(sys.argv[1:] if args is None else args)
        if given is None:
            return
        _import_matplotlib()
        from lit_hier.cli import command, process

        with process.preserved():
            command.execute(given)


def run() -> None:
    """Run the command in `sys.argv`: the entry point of `lit-hier`, which owns the process.

    After SIGTERM or SIGINT the process ends within 20 seconds with status 143 or 130, whatever is
    running then. It ends with status 141, quietly, if who reads
    its output has closed it.

    Raises:
        SystemExit: See `main`.
    """
    with exits.interrupts_as_status(), exits.closed_pipes_end_quietly():
        from lit_hier.cli import own_commands

        given = own_commands.execute_own(sys.argv[1:])
        if given is None:
            return
        with exits.interrupted_at_once():
            _import_matplotlib()
            from lit_hier.cli import command, process

            process.configure()
        command.execute(given, callbacks=[process.SigtermInterrupts()])


def _import_matplotlib() -> None:
    """Import matplotlib elsewhere: as it is imported, it reads the working directory's settings.

    A `matplotlibrc` there may be damaged, or a pipe. `lit_hier.figures.figure_style` is the style.
    """
    with suppress(FileNotFoundError), chdir(os.sep):  # if the working directory is gone
        import matplotlib  # noqa: F401
