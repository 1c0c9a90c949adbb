"""The commands that are not methods of a Trainer, found before LightningCLI is imported.

Each is a module of `lit_hier.cli` with two functions: `add_arguments(parser)`, which fills an
`argparse.ArgumentParser`, and `execute(arguments)`, which runs the command, given what was parsed.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Final, NoReturn

OWN_COMMANDS: Final[Mapping[str, str]] = {
    "study": "Run an experiment once for each combination of values, and average over them.",
}
"""What each command does, by its name; its module is `lit_hier.cli.NAME`."""


class _OneLineParser(argparse.ArgumentParser):
    """Reports invalid arguments in one line."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"lit-hier: error: {message}; see {self.prog} --help\n")
        sys.exit(2)


def execute_own(args: Sequence[str]) -> bool:
    """Execute a command if it is one of this module's.

    Args:
        args: The command and its arguments.

    Returns:
        Whether it was.

    Raises:
        SystemExit: With status 2 and one line on standard error if the input is invalid.
    """
    if not args or args[0] not in OWN_COMMANDS:
        return False
    name, *rest = args
    module = import_module(f"lit_hier.cli.{name}")
    parser = _OneLineParser(f"lit-hier {name}", description=OWN_COMMANDS[name], allow_abbrev=False)
    module.add_arguments(parser)
    arguments = parser.parse_args(rest)
    from lit_hier.cli.errors import describe_input_error, exit_with_error

    try:
        module.execute(arguments)
    except Exception as error:
        message = describe_input_error(error)
        if message is None:
            raise
        exit_with_error(message)
    return True
