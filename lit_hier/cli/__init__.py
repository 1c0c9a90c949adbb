"""The command `lit-hier`; libraries are imported once it runs."""

import sys
from collections.abc import Sequence

__all__ = ["main", "run"]


def main(args: Sequence[str] | None = None) -> None:
    """Run one command from Python, and leave the process as it was.

    What configs may name stays limited. Numbers on a GPU are those of the command line only with
    the same settings of torch: see `lit_hier.cli.process`.

    Args:
        args: The command's arguments, as in `main(["predict", "-c", "demo.yaml"])`; those of
            `sys.argv`, if left out.

    Raises:
        SystemExit: With status 2 and one line on standard error if the input cannot be used, 130
            if the run was interrupted, and 0 for `--help`.
    """
    from lit_hier.cli import command, process

    with process.preserved():
        command.execute(args)


def run() -> None:
    """Run the command that `sys.argv` has: the entry point of `lit-hier`, which owns the process.

    Raises:
        SystemExit: See `main`.
    """
    try:
        from lit_hier.cli import command, process
    except KeyboardInterrupt:
        sys.exit(130)
    process.configure()
    command.execute(callbacks=[process.SigtermInterrupts()])
