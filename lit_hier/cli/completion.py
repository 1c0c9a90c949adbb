"""`lit-hier completion`: a script that completes commands, options, classes and configs."""

import argparse
import inspect
import sys
from importlib import import_module
from typing import Any, Final

from lit_hier.cli import configs, own_commands
from lit_hier.errors import InputError

_SHELLS: Final = ("bash", "zsh")
# Completes the value of -c: a packaged config or a file.
_PREAMBLE: Final = {
    "bash": """
_lit_hier_config() {{
  compgen -W "{names}" -- "$1"
  compgen -f -- "$1"
}}
""",
    "zsh": """
_lit_hier_config() {{
  compadd {names}
  _files
}}
""",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lit-hier completion`."""
    parser.description = (
        "Print a script that completes commands, options, classes and configs. For bash: lit-hier"
        " completion bash > ~/.local/share/bash-completion/completions/lit-hier; for zsh: lit-hier"
        " completion zsh > FOLDER/_lit-hier, with a FOLDER of $fpath. Then start a new shell."
    )
    parser.add_argument("shell", choices=_SHELLS, help="the shell")


def execute(arguments: argparse.Namespace) -> None:
    """Print the script.

    Raises:
        InputError: The package `shtab` is missing.
    """
    try:
        import shtab
    except ImportError:
        raise InputError("shell: the package shtab is missing; run `pip install shtab`") from None
    preamble = _PREAMBLE[arguments.shell].format(names=" ".join(configs.list_names()))
    sys.stdout.write(shtab.complete(build_parser(), arguments.shell, preamble=preamble))


class _Parser(argparse.ArgumentParser):
    """A parser whose arguments for configs complete their names and files."""

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        action = super().add_argument(*names, **settings)
        if {"-c", "--config", "name"} & set(names):
            action.complete = dict.fromkeys(_SHELLS, "_lit_hier_config")  # type: ignore[attr-defined]
        return action


def build_parser() -> argparse.ArgumentParser:
    """Build a parser of all commands with their options, and the classes that these take."""
    from lit_hier.cli.command import build_parsers

    parser = _Parser("lit-hier")
    parser.add_argument("--version", action="version", version="")
    commands = parser.add_subparsers(dest="command")
    for name, text in own_commands.OWN_COMMANDS.items():
        import_module(f"lit_hier.cli.{name}").add_arguments(commands.add_parser(name, help=text))
    for described in build_parsers():
        text = own_commands.TRAINER_COMMANDS[described.command]
        command = commands.add_parser(described.command, help=text, add_help=False)
        added = set()
        for names, settings in described.options:
            is_flag = "action" in settings and "-c" not in names
            command.add_argument(*names, action="store_true" if is_flag else "store")
            added |= {name.lstrip("-") for name in names}
        options: dict[str, list[str]] = {key: [] for key, _ in described.get_defaults().items()}
        options |= _list_classes(described.command)
        for name, choices in options.items():
            if name and not {name, name.replace("_", "-")} & added:
                command.add_argument(f"--{name}", choices=choices or None)
    return parser


def _list_classes(command: str) -> dict[str, list[str]]:
    """List the options that take classes, with these, and those for arguments of classes."""
    from lit_hier.cli.help_text import group_classes

    options: dict[str, list[str]] = {}
    for option, _, classes in group_classes(command):
        options.setdefault(option, []).extend(classes)
        if option in ("model", "data"):
            for kind in classes.values():
                parameters = inspect.signature(kind).parameters.values()
                for parameter in parameters:
                    if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                        options.setdefault(f"{option}.init_args.{parameter.name}", [])
    return options
