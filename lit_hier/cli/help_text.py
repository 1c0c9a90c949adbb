"""The help of a Trainer's commands: what is this project's on two screens, and all of it."""

import argparse
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Final

from jsonargparse import DefaultHelpFormatter
from pytorch_lightning import Callback, LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import Dataset

from lit_hier.cli.allowed import ALLOWED, get_own_classes
from lit_hier.gaussian import Distribution
from lit_hier.modules import ForwardBackwardModule
from lit_hier.processes import NoiseProcess
from lit_hier.rhm import Grammars

_OF_LIGHTNING: Final = "callbacks of Lightning"
_GROUPS: Final = (  # of this project's classes: the option, what they are, and their base class
    ("data", "data", LightningDataModule),
    ("trainer.callbacks+", "callbacks of this project", Callback),
    ("model.init_args.process", "noise processes", NoiseProcess),
    ("data.init_args.rhm", "grammars", Grammars),
    ("data.init_args.distribution", "distributions", Distribution),
    ("data.init_args.held_out", "images, besides data sets of torchvision", Dataset),
    ("", "networks and classifiers, for arguments of callbacks", nn.Module),
)
_STAGES: Final = {"fit": ("fit", "train"), "validate": ("validation",)}  # others: their own name
Options = Sequence[tuple[tuple[str, ...], dict[str, Any]]]
"""The names of options and what else `add_argument` was given for each."""

USAGE: Final = "lit-hier {} -c CONFIG [-c CONFIG ...] [OPTION VALUE ...]"
_MAX_WIDTH: Final = 99
_INDENT: Final = 24
_GAP: Final = 2
# Lightning's options that are changed most often, in this project's words.
_TRAINER_OPTIONS: Final = {
    "--ckpt_path FILE": "Checkpoint to resume `fit` from, or to evaluate.",
    "--trainer.accelerator NAME": "cpu, gpu or auto.",
    "--trainer.devices NUMBER": "Processes, one per GPU or on CPUs.",
    "--trainer.max_epochs NUMBER": "Epochs of training.",
    "--trainer.callbacks+ CLASS": "One more callback; --trainer.callbacks.ARGUMENT VALUE"
    " may follow.",
    "--trainer.logger.save_dir FOLDER": "Where the folders of runs are; logs by default.",
}
# What other options do that Lightning and the parser add, likewise.
_WORDS: Final = {
    "-h": "Show this help, and exit.",
    "-c": "A config: a file, or a name that `lit-hier configs` lists; later ones go first.",
    "--print_config": "Print the config with all arguments, and exit.",
    "--seed_everything": "Seed of training, and of what has no seed of its own.",
}
# Words of Python and of Sphinx in a library's help, and what they stand for.
_MARKUP: Final = (
    (r":math:`([^`]*)`", r"\1"),
    (r"\\(alpha|epsilon)", r"\1"),
    (r":\w+:`~?(?:\w+\.)*(\w+)`", r"\1"),
    (r"``?([^`]*)``?", r"\1"),
    (r"<class '(?:\w+\.)*(\w+)'>", r"\1"),
    (r"\bOptional\[(\w+)\]", r"\1 or null"),
    (r"\bNone\b", "null"),
)
_KNOWN: Final = re.compile(r", known subclasses: ([\w., ]*)")


class WideFormatter(DefaultHelpFormatter):
    """Formats each argument in a line of any length, which `tidy` wraps."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=10**6)


def format_short(command: str, description: str | None, options: Options) -> str:
    """Return the help of a command, with what is this project's.

    Args:
        command: The command.
        description: What it does.
        options: The options of the command that are not Lightning's.
    """
    lines = [f"usage: {USAGE.format(command)}", ""]
    lines += [description or "", "", "options:"]
    for names, settings in options:
        if settings.get("help") != argparse.SUPPRESS and names != ("--print_shtab",):
            text = _WORDS.get(names[0]) or str(settings.get("help"))
            value = "" if "action" in settings and names[0] != "-c" else _get_metavar(names)
            lines += _wrap_entry(", ".join(names) + value, text)
    room = _get_width() - _INDENT
    lines += ["", "options of Lightning's Trainer that are often changed:"]
    for name, text in _TRAINER_OPTIONS.items():
        if command != "fit" and "max_epochs" in name:
            continue
        lines += _wrap_entry(name, text)
    for option, title, classes in group_classes(command):
        lines += ["", f"{title}, for --{option}:" if option else f"{title}:"]
        if title == _OF_LIGHTNING:
            lines += _wrap_indented(", ".join(classes), 2)
        else:
            for name, kind in classes.items():
                first = (inspect.getdoc(kind) or "").partition("\n")[0]
                lines += _wrap_entry(
                    name, textwrap.shorten(_drop_markup(first), room, placeholder=" ...")
                )
    lines += [
        "",
        *_wrap_text(
            f"The arguments of a class: lit-hier {command} --model.help CLASS, and likewise"
            " --data.help and --trainer.callbacks.help. Values of a config are changed by options:"
            " --model.init_args.ARGUMENT VALUE. Every option: --help-all."
        ),
    ]
    return "\n".join(lines) + "\n"


def tidy(text: str) -> str:
    """Wrap a library's help, and leave out what is Python's or what no config may name.

    Args:
        text: What `WideFormatter` has formatted.
    """
    lines: list[str] = []
    for line in text.splitlines():
        line = _KNOWN.sub(_name_allowed, _drop_markup(line))
        indent = len(line) - len(line.lstrip())
        entry = re.split(r" {2,}", line.strip(), maxsplit=1)
        if 0 < indent < _INDENT and len(entry) == 2:
            lines += _wrap_entry(entry[0], entry[1])
        elif indent and len(line) > _get_width():
            lines += _wrap_indented(line.strip(), indent)
        else:
            lines += _wrap_text(line) if len(line) > _get_width() else [line]
    return "\n".join(lines) + "\n"


def _drop_markup(text: str) -> str:
    for pattern, words in _MARKUP:
        text = re.sub(pattern, words, text)
    return text


def _name_allowed(match: re.Match[str]) -> str:
    """Return the short names of the classes in a list that a config may name."""
    names = [path.rpartition(".")[2] for path in match[1].split(", ") if path in ALLOWED]
    return f", classes: {', '.join(names)}" if names else ""


def _get_metavar(names: Sequence[str]) -> str:
    return " CONFIG" if "-c" in names else " VALUE"


def group_classes(command: str) -> Iterator[tuple[str, str, dict[str, type]]]:
    """Group the classes that a config may name by the option that takes them.

    Args:
        command: The command, which decides the models and the project's callbacks.

    Yields:
        The option without dashes, empty for classes that several take; what the classes are; the
        classes by their short names.
    """
    own = {name: kind for name, kind in sorted(get_own_classes().items()) if not _is_base(kind)}
    models = {name: kind for name, kind in own.items() if issubclass(kind, LightningModule)}
    samples = command == "predict"
    rest = {name: kind for name, kind in own.items() if name not in models}
    fitting = {
        name: kind
        for name, kind in models.items()
        if issubclass(kind, ForwardBackwardModule) is samples
    }
    yield "model", "samplers" if samples else "tasks", fitting
    for option, title, wanted in _GROUPS:
        found = {name: kind for name, kind in rest.items() if issubclass(kind, wanted)}
        rest = {name: kind for name, kind in rest.items() if name not in found}
        if wanted is Callback:
            found = {name: kind for name, kind in found.items() if _acts_in(kind, command)}
        if samples or option != "model.init_args.process":
            yield option, title, found
    library = {
        kind.__name__: kind
        for kind in ALLOWED.values()
        if issubclass(kind, Callback)
        and not _is_base(kind)
        and not kind.__module__.startswith("lit_hier.")
        and (command != "predict" or _acts_in(kind, command))
    }
    yield "trainer.callbacks+", _OF_LIGHTNING, dict(sorted(library.items()))


def _acts_in(callback: type, command: str) -> bool:
    """Return whether a callback has a hook of Lightning's in a command."""
    stages = _STAGES.get(command, (command,))
    hooks = [name for name in dir(Callback) if name.split("_")[1:2] in [[x] for x in stages]]
    return any(getattr(callback, name) is not getattr(Callback, name) for name in hooks)


def _is_base(kind: type) -> bool:
    """Return whether a class is there to be derived from, and not to be named."""
    return inspect.isabstract(kind) or kind in (LightningModule, LightningDataModule, Callback)


def _get_width() -> int:
    return min(_MAX_WIDTH, max(60, shutil.get_terminal_size((100, 50)).columns - 1))


def _wrap_text(text: str) -> list[str]:
    return textwrap.wrap(text, _get_width()) or [""]


def _wrap_indented(text: str, indent: int) -> list[str]:
    space = " " * indent
    return textwrap.wrap(text, _get_width(), initial_indent=space, subsequent_indent=space)


def _wrap_entry(name: str, text: str) -> list[str]:
    """Return a name and its description, in two columns."""
    lines = _wrap_indented(text, _INDENT)
    if len(name) + 2 * _GAP > _INDENT or not lines:
        return [f"  {name}", *lines]
    return [f"  {name}".ljust(_INDENT) + lines[0].lstrip(), *lines[1:]]
