"""The first look at a command, before anything heavy is imported.

Help without a command, the version and misspelt commands are answered here, and so are the
commands that are not methods of a Trainer. Each of these is a module of `lit_hier.cli` with two
functions: `add_arguments(parser)`, which fills an `argparse.ArgumentParser`, and
`execute(arguments)`, which runs the command, given what was parsed.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Final, NoReturn

from lit_hier import __version__
from lit_hier.cli import configs
from lit_hier.cli.exits import exit_with_error
from lit_hier.errors import InputError, suggest

TRAINER_COMMANDS: Final[Mapping[str, str]] = {
    "predict": "Run a forward-backward experiment with a sampler, such as a BPDenoiser.",
    "fit": "Train a model, such as an RHMClassifier.",
    "validate": "Evaluate a trained model on the validation data.",
    "test": "Evaluate a trained model on the test data.",
}
"""What each method of a Trainer does, by its name."""
OWN_COMMANDS: Final[Mapping[str, str]] = {
    "study": "Run an experiment once for each combination of values, and average over them.",
    "configs": "List the configs that come with this package; print or copy one, to edit it.",
    "completion": "Print a script that completes commands, options and classes in a shell.",
}
"""What each other command does, by its name; its module is `lit_hier.cli.NAME`."""
_FIRST_OPTIONS: Final = ("-h", "--help", "--help-all", "--version", "-c", "--config",
                         "--print_config")  # fmt: skip
_DESCRIPTION: Final = (
    "Probe what diffusion models and deep networks learn about hierarchical data."
)
_EXAMPLES: Final = """\
first steps:
  lit-hier fit -c demo_classifier    train the network of the demo
  lit-hier predict -c demo           run the demo; results are in logs/demo
  lit-hier configs                   list the experiments that come with this package
  lit-hier predict --help            show options, models, data and callbacks

Each experiment is one file, whose values the command line can change:
  lit-hier predict -c demo --model.init_args.seed 1
"""


class _OneLineParser(argparse.ArgumentParser):
    """Reports invalid arguments in one line."""

    def error(self, message: str) -> NoReturn:
        exit_with_error(f"{message}; see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the program's own help: it knows the commands, not their arguments."""
    parser = argparse.ArgumentParser(
        "lit-hier",
        usage="lit-hier COMMAND [-c CONFIG] [OPTION ...]",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=16),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name, text in {**TRAINER_COMMANDS, **OWN_COMMANDS}.items():
        commands.add_parser(name, help=text)
    return parser


def execute_own(args: Sequence[str]) -> list[str] | None:
    """Execute a command unless it is one of a Trainer's.

    Args:
        args: The command and its arguments.

    Returns:
        The arguments for a Trainer's command, with the paths of configs that are named; None if
        the command was executed.

    Raises:
        SystemExit: With status 2 and one line on standard error if the input is invalid; for help
            and the version; with status 2 and the help if there is no command.
    """
    name, *rest = args or [""]
    try:
        if name in ("", "-h", "--help", "--help-all"):
            sys.stdout.write(build_parser().format_help())
            sys.exit(0 if name else 2)
        if name == "--version":
            sys.stdout.write(f"lit-hier {__version__}\n")
            sys.exit(0)
        _check_first(name, rest)
        if name not in OWN_COMMANDS:
            return configs.find_all(args)
        rest = configs.find_all(rest)
    except InputError as error:
        exit_with_error(error)
    _execute(name, rest)
    return None


def _check_first(name: str, rest: Sequence[str]) -> None:
    """Reject a misspelt command or option before one, and a config that is given without -c.

    Raises:
        InputError: See above.
    """
    if name[:1] == "-":
        option = name.partition("=")[0]
        if option[:2] != "-c" and option not in _FIRST_OPTIONS:
            raise InputError(
                f"{option:.60}: no such option{suggest(option, _FIRST_OPTIONS)} before a command;"
                " give the command first, as in `lit-hier predict -c demo`"
            )
    elif name not in (commands := [*TRAINER_COMMANDS, *OWN_COMMANDS]):
        raise InputError(
            f"there is no command {name:.60}{suggest(name, commands)}; give"
            f" {', '.join(commands[:-1])} or {commands[-1]}"
        )
    elif name in TRAINER_COMMANDS and rest and rest[0] and rest[0][0] != "-":
        raise InputError(
            f"{rest[0]:.60} is not an option; if it is a config, write `lit-hier {name} -c"
            f" {shlex.quote(rest[0]):.60}`"
        )


def _execute(name: str, args: Sequence[str]) -> None:
    """Execute a command that is not a Trainer's."""
    module = import_module(f"lit_hier.cli.{name}")
    parser = _OneLineParser(f"lit-hier {name}", description=OWN_COMMANDS[name], allow_abbrev=False)
    module.add_arguments(parser)
    arguments = parser.parse_args(args)
    try:
        module.execute(arguments)
    except InputError as error:
        exit_with_error(error)
    except BrokenPipeError:  # of standard output
        raise
    except Exception as error:
        from lit_hier.cli.errors import describe_input_error

        message = describe_input_error(error)
        if message is None:
            raise
        exit_with_error(message)
