"""How the command line reads configs: how large they may be, and how it reports their errors."""

import argparse
import inspect
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, NoReturn, Union, get_args, get_origin

import yaml
from jsonargparse import Namespace, get_loader, set_loader
from pytorch_lightning.cli import LightningArgumentParser
from torchvision.datasets import VisionDataset

from lit_hier.cli import help_text
from lit_hier.cli.allowed import get_own_classes
from lit_hier.cli.errors import describe_parser_error, instantiate
from lit_hier.cli.exits import exit_with_error
from lit_hier.cli.options import describe_unknown_option
from lit_hier.cli.trust import get_given, get_unusable, list_names, read_values
from lit_hier.data.torch_files import check_torch_files
from lit_hier.errors import InputError, one_line

_MAX_VALUES: Final = 5_000  # in a config; an alias counts as all values that it repeats
# Entries of a list of numbers, of one with texts, which may be classes, and of one with mappings
# or lists: jsonargparse copies a list once per entry, so its time grows as the length squared, to
# three seconds at these limits. All lists of a config may take as much as two such ones.
_MAX_ENTRIES: Final = {"numbers": 500, "texts": 100, "mappings or lists": 50}
_MAX_LISTS: Final = 2
_MAX_DEPTH: Final = 50  # levels of values
_MAX_CONFIG: Final = 2**22  # bytes
_KERNEL: Final = ("/proc/", "/sys/")  # reading a file of the kernel's may wait, or have effects
_MAX_PATH: Final = 4096  # characters
_MAX_SHOWN: Final = 60  # characters of an invalid value
_TITLES: Final = {  # of groups of options, by the argument that they belong to
    "trainer": "Lightning's Trainer",
    "model": "the model",
    "data": "the data",
    **dict.fromkeys(("fit", "validate", "test", "predict"), "the command"),
}
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class OneLineParser(LightningArgumentParser):
    """A parser whose errors are one line, and whose help is short.

    Args:
        *args: Passed on, as are all others.
        command: The command whose parser this is; empty for others.

    Attributes:
        commands: The parsers of its subcommands.
        options: The options that were added to it alone, not with a class.
    """

    def __init__(self, *args: Any, command: str = "", **kwargs: Any) -> None:
        self.commands: list[OneLineParser] = []
        self.options: list[tuple[tuple[str, ...], dict[str, Any]]] = []
        self.command = command
        kwargs["formatter_class"] = help_text.WideFormatter
        kwargs["usage"] = help_text.USAGE.format(command or "COMMAND")
        super().__init__(*args, **kwargs)
        if command:
            self.add_argument("--help-all", action=_HelpAll, help="Show every option, and exit.")

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        """Add an argument; a short help shows those of this parser, and not those of classes."""
        if isinstance(self, argparse.ArgumentParser):  # jsonargparse's groups do the same
            self.options.append((args, kwargs))
        action: argparse.Action = super().add_argument(*args, **kwargs)
        return action

    def add_argument_group(self, *args: Any, **kwargs: Any) -> Any:
        """Add a group; those of a command have the titles of this project."""
        title = _TITLES.get(str(kwargs.get("name"))) if self.command else None
        return super().add_argument_group(*((title,) if title else args), **kwargs)

    def format_help(self, *args: Any) -> str:
        """Return the help: of a command what is this project's, of a class all of it."""
        if self.command:
            return help_text.format_short(self.command, self.description, self.options)
        return self.format_all(*args)

    def format_all(self, *args: Any) -> str:
        """Return the help with every option."""
        return help_text.tidy(super().format_help(*args))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and exit with status 2."""
        line = describe_unknown_option(
            message, get_given(), get_own_classes(), self._list_options()
        )
        exit_with_error(line or describe_parser_error(message, get_unusable(), list_names()))

    def _list_options(self) -> set[str]:
        """Return the options of a command, or if this is the parser of them all, of each."""
        options: set[str] = set()
        for parser in self.commands or [self]:
            flags = {name[2:] for names, _ in parser.options for name in names if name[:2] == "--"}
            destinations = {flag.replace("-", "_") for flag in flags} - flags
            options |= flags | {str(key) for key, _ in parser.get_defaults().items()}
            options -= destinations
        return options

    def add_class_arguments(self, theclass: type, *args: Any, **kwargs: Any) -> list[str]:
        """Add the arguments of a class; an integer stays one wherever a float is allowed, too."""
        with _integers_first(theclass):
            added: list[str] = super().add_class_arguments(theclass, *args, **kwargs)
        return added

    def instantiate(self, *args: Any, **kwargs: Any) -> Namespace:
        """Instantiate the classes of a config; one that rejects its arguments is named."""
        kwargs["instantiators"] = [
            (_instantiate_data_set, VisionDataset, True),
            (instantiate, object, True),
        ]
        instances: Namespace = super().instantiate(*args, **kwargs)
        return instances

    def add_subcommands(self, *args: Any, **kwargs: Any) -> Any:
        """Add subcommands whose help is their own description, not that of Trainer's method."""
        action = super().add_subcommands(*args, **kwargs)
        add_subcommand = action.add_subcommand

        def add_described(name: str, parser: OneLineParser, **options: Any) -> Any:
            self.commands.append(parser)
            return add_subcommand(name, parser, **{**options, "help": parser.description})

        action.add_subcommand = add_described  # type: ignore[assignment, method-assign]
        return action


class _HelpAll(argparse.Action):
    """Prints the help with every option."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        kwargs |= {"dest": argparse.SUPPRESS, "default": argparse.SUPPRESS, "nargs": 0}
        super().__init__(option_strings, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        assert isinstance(parser, OneLineParser)
        sys.stdout.write(parser.format_all())
        parser.exit()


def _instantiate_data_set(class_type: type[Any], *args: Any, **kwargs: Any) -> Any:
    check_torch_files(kwargs.get("root"), class_type.__name__)
    return instantiate(class_type, *args, **kwargs)


@contextmanager
def _integers_first(class_type: type) -> Iterator[None]:
    """Reorder, for a moment, the annotations of a class's arguments: see `order_numbers`."""
    changed: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for kind in inspect.getmro(class_type) if inspect.isclass(class_type) else ():
        if not inspect.isfunction(init := inspect.unwrap(vars(kind).get("__init__", kind))):
            continue
        annotations = init.__annotations__
        changed.append((annotations, dict(annotations)))
        for name, parameter in inspect.signature(init).parameters.items():
            if name in annotations:
                is_optional = parameter.default is None  # to the parser, whatever the type says
                annotations[name] = order_numbers(annotations[name], is_optional)
    try:
        yield
    finally:
        for annotations, before in changed:
            annotations.update(before)


def order_numbers(annotation: Any, is_optional: bool = False) -> Any:
    """Reorder a type so that an integer stays one where a float is allowed, too.

    The parser takes the first type of a union that fits, and an integer fits a float: 1 batch
    would become 1.0, the fraction of all batches. The order in a signature is not reliable, as
    Python may replace a union by an equal one that a library wrote in another order.

    Args:
        annotation: A type.
        is_optional: Whether null is allowed besides.

    Returns:
        A type that allows the same values.
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if not parts or origin in (Literal, Annotated, Callable):
        return annotation
    ordered = list(map(order_numbers, parts))
    if origin in (Union, UnionType):
        if int in parts and float in parts:
            ordered.remove(int)
            ordered.insert(ordered.index(float), int)
        if is_optional and NoneType not in parts:
            ordered.append(NoneType)
        return Union[tuple(ordered)]  # noqa: UP007 - given one by one, types keep their order
    unchanged = all(new is old for new, old in zip(ordered, parts, strict=True))
    return annotation if unchanged else origin[tuple(ordered)]


class _InvalidValueError(yaml.YAMLError):
    """A text that is YAML, but too large, or with a value that its type does not allow."""


def check_arguments(args: Sequence[str]) -> None:
    """Check the values of a command's arguments, which jsonargparse may also load by itself.

    Raises:
        InputError: One exceeds the limits, or cannot be built; the argument is named.
    """
    for before, argument in zip(("", *args), args, strict=False):
        name, _, value = argument.partition("=") if argument[:1] == "-" else ("", "", argument)
        option = name or (before if before[:1] == "-" and "=" not in before else "")
        check_paths(argument if argument == "-" else value, option.lstrip("-"))
        try:
            load_checked(value)
        except _InvalidValueError as error:
            raise InputError(f"{name.lstrip('-') or 'config'}: {error}") from error
        except yaml.YAMLError:  # a text that no config contains, or for the parser to report
            continue


def check_paths(value: Any, argument: str = "") -> None:
    """Check that no text in a value names standard input, a pipe or a device, or a huge config.

    jsonargparse reads the file that the value of an option names, and would wait for these.

    Args:
        value: The value of an argument or of a config.
        argument: Its option, if it is the value of an argument.

    Raises:
        InputError: One does.
    """
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            check_paths(part, argument)
    elif isinstance(value, str):
        is_config = argument in ("c", "config")
        try:
            # No path is longer; a text with a null byte is not one.
            status = os.stat(value) if 0 < len(value) < _MAX_PATH else None
        except (OSError, ValueError):
            status = None
        mode = status.st_mode if status else stat.S_IFREG
        is_folder = stat.S_ISDIR(mode) and not is_config
        is_kernel = status is not None and os.path.realpath(value).startswith(_KERNEL)
        is_file = stat.S_ISREG(mode) and not is_kernel
        if value == "-" or not (is_file or is_folder):
            name = "config" if is_config or not argument else argument
            raise InputError(f"{name}: {value} is not a regular file; give a file")
        if is_config and status and status.st_size > _MAX_CONFIG:
            raise InputError(
                f"config: {value} has more than {_MAX_CONFIG // 2**20} MiB; give a config"
            )


_load_yaml: Final = get_loader("yaml")


def _load_within_limits(text: str) -> Any:
    value = load_checked(text)
    check_paths(value)
    read_values(value)
    return value


def load_checked(text: str) -> Any:
    """Load YAML within the limits; these hold for texts in it too, which may be loaded later.

    Raises:
        YAMLError: It is not valid.
    """
    value = _load_value(text)
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.ScalarEvent) and set(event.value) & set("[{&*!"):
            try:
                _load_value(event.value)
            except _InvalidValueError:
                raise
            except yaml.YAMLError:  # a text, not a value
                continue
    return value


def _load_value(text: str) -> Any:
    try:
        _check_size(text)
        value = _load_yaml(text)
        if _check_lists(value) > _MAX_LISTS:
            raise _InvalidValueError("its lists are too long together; shorten the longest ones")
        return value
    except (yaml.YAMLError, MemoryError):
        raise
    except Exception as error:  # PyYAML lets errors of many types through
        raise _InvalidValueError(_locate(error, text)) from error


def _locate(error: Exception, text: str) -> str:
    """Describe an error of a single value, with its place if it can be found."""
    reason = f" ({one_line(error)})" if type(error) is ValueError else ""  # others tell nothing
    try:
        events = list(yaml.parse(text, Loader=_LOADER))
    except ValueError:
        return f"it is not text{reason}; save it as UTF-8"
    for event in events:
        if not isinstance(event, yaml.ScalarEvent) or event.start_mark is None:
            continue
        mark, end = event.start_mark, event.end_mark
        value = text[mark.index : end.index if end else None]
        try:
            _load_yaml(value)
        except type(error):
            value = value if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]} ..."
            place = f"line {mark.line + 1}, column {mark.column + 1}"
            return f"{place}: {value} is not a value of its type{reason}; correct it"
        except Exception:  # of a part that is not a document by itself
            continue
    return f"a value is not one of its type{reason}; correct it"


def _check_size(text: str) -> None:
    """Count the values that YAML expands to, event by event, before any of them is built.

    Raises:
        YAMLError: There are too many, or they are nested too deeply, as in a cycle of aliases.
    """
    anchors: dict[str | None, int] = {}
    open_values: list[tuple[str | None, int]] = [(None, 0)]  # anchor and size of each
    for event in yaml.parse(text, Loader=_LOADER):
        name, size = open_values.pop() if isinstance(event, yaml.CollectionEndEvent) else (None, 0)
        if isinstance(event, yaml.CollectionStartEvent):
            open_values.append((event.anchor, 1))
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in (name for name, _ in open_values):
                raise _InvalidValueError(
                    f"alias {event.anchor!r} is inside the value that it names"
                )
            size = anchors.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            name, size = event.anchor, 1
        if name is not None:
            anchors[name] = size
        anchor, total = open_values.pop()
        open_values.append((anchor, total + size))
        if total + size > _MAX_VALUES:
            raise _InvalidValueError(
                f"more than {_MAX_VALUES} values, counting aliases; shorten it"
            )
        if len(open_values) > _MAX_DEPTH:
            raise _InvalidValueError(
                f"values are nested more than {_MAX_DEPTH} levels deep; flatten them"
            )


def _check_lists(value: Any) -> float:
    """Check the lengths of the lists in a value.

    Returns:
        The time that they take, in units of that of a list of the greatest length.

    Raises:
        YAMLError: One is too long.
    """
    entries = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(entries, list):
        return 0.0
    nested = [entry for entry in entries if isinstance(entry, list | dict)]
    has_texts = any(isinstance(entry, str) for entry in entries)
    kind = "mappings or lists" if nested else "texts" if has_texts else "numbers"
    if isinstance(value, list) and len(value) > _MAX_ENTRIES[kind]:
        raise _InvalidValueError(
            f"a list with {kind} has {len(value)} entries; shorten it to {_MAX_ENTRIES[kind]}"
        )
    cost = (len(value) / _MAX_ENTRIES[kind]) ** 2 if isinstance(value, list) else 0.0
    return cost + sum(map(_check_lists, nested))


# Without the exceptions, invalid YAML would end in a traceback.
set_loader("yaml", _load_within_limits, exceptions=(yaml.YAMLError,))
