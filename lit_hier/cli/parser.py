"""How the command line reads configs: how large they may be, and how it reports their errors."""

from collections.abc import Callable
from typing import Any, Final, NoReturn

import yaml
from jsonargparse import Namespace, get_loader, set_loader
from pytorch_lightning.cli import LightningArgumentParser

from lit_hier.cli.errors import describe_parser_error, exit_with_error, instantiate
from lit_hier.cli.options import describe_unknown_option
from lit_hier.cli.trust import get_given, get_own_classes, get_unusable, list_names, read_values
from lit_hier.errors import one_line

_MAX_VALUES: Final = 100_000  # in a config; an alias counts as all values that it repeats
_MAX_DEPTH: Final = 50  # levels of values
_MAX_SHOWN: Final = 60  # characters of an invalid value
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class OneLineParser(LightningArgumentParser):
    """A parser whose errors are one line.

    Attributes:
        commands: The parsers of its subcommands.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Pass all arguments on."""
        self.commands: list[LightningArgumentParser] = []
        super().__init__(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and exit with status 2."""
        line = describe_unknown_option(
            message, get_given(), get_own_classes(), self._list_options()
        )
        exit_with_error(line or describe_parser_error(message, get_unusable(), list_names()))

    def _list_options(self) -> set[str]:
        """Return the options of a command, or if this is the parser of them all, of each."""
        parsers = self.commands or [self]
        return {str(option) for parser in parsers for option in parser.get_defaults().keys()}

    def instantiate(self, *args: Any, **kwargs: Any) -> Namespace:
        """Instantiate the classes of a config; one that rejects its arguments is named."""
        kwargs["instantiators"] = [(instantiate, object, True)]
        instances: Namespace = super().instantiate(*args, **kwargs)
        return instances

    def add_subcommands(self, *args: Any, **kwargs: Any) -> Any:
        """Add subcommands whose help is their own description, not that of Trainer's method."""
        action = super().add_subcommands(*args, **kwargs)
        add_subcommand = action.add_subcommand

        def add_described(name: str, parser: LightningArgumentParser, **options: Any) -> Any:
            self.commands.append(parser)
            return add_subcommand(name, parser, **{**options, "help": parser.description})

        action.add_subcommand = add_described  # type: ignore[assignment, method-assign]
        return action


def _limit_configs() -> None:
    """Limit how large a config may be, in any process that imports this module."""
    load = get_loader("yaml")

    def load_within_limits(text: str) -> Any:
        try:
            _check_size(text)
            value = load(text)
        except (yaml.YAMLError, MemoryError):
            raise
        except Exception as error:  # PyYAML lets errors of many types through
            raise yaml.YAMLError(_locate(error, text, load)) from error
        read_values(value)
        return value

    # Without the exceptions, invalid YAML would end in a traceback.
    set_loader("yaml", load_within_limits, exceptions=(yaml.YAMLError,))


def _locate(error: Exception, text: str, load: Callable[[str], Any]) -> str:
    """Describe an error of a single value, with its place if it can be found."""
    reason = one_line(error) or type(error).__name__
    for node in _list_scalars(text):
        value = text[node.start_mark.index : node.end_mark.index]
        try:
            load(value)
        except type(error):
            place = f"line {node.start_mark.line + 1}, column {node.start_mark.column + 1}"
            value = value if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]} ..."
            return f"{place}: {value} is not a valid value ({reason}); correct it"
        except Exception:  # of a part that is no document by itself
            continue
    return f"{reason}; correct it"


def _list_scalars(text: str) -> list[Any]:
    try:
        events = list(yaml.parse(text, Loader=_LOADER))
    except (yaml.YAMLError, ValueError):  # not even text, such as lone surrogates
        return []
    return [event for event in events if isinstance(event, yaml.ScalarEvent)]


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
                raise yaml.YAMLError(f"alias {event.anchor!r} is inside the value that it names")
            size = anchors.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            name, size = event.anchor, 1
        if name is not None:
            anchors[name] = size
        anchor, total = open_values.pop()
        open_values.append((anchor, total + size))
        if total + size > _MAX_VALUES:
            raise yaml.YAMLError(f"more than {_MAX_VALUES} values, counting aliases")
        if len(open_values) > _MAX_DEPTH:
            raise yaml.YAMLError(f"values are nested more than {_MAX_DEPTH} levels deep")


_limit_configs()
