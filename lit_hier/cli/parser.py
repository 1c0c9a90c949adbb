"""How the command line reads configs: which classes they may name, and how large they may be."""

import importlib
import os
import sys
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Final, NoReturn

import yaml
from jsonargparse import add_instantiator, get_loader, set_loader, set_parsing_settings
from pytorch_lightning.cli import LightningArgumentParser

import lit_hier
from lit_hier.cli.errors import (
    TRUST_VARIABLE,
    describe_parser_error,
    exit_with_error,
    instantiate,
    shorten,
)
from lit_hier.errors import InputError

ENTRY_POINTS: Final = "lit_hier"  # the group in which packages declare their classes
_OWN: Final = tuple(
    f"lit_hier.{name}"
    for name in ("callbacks", "data", "gaussian", "modules", "nn", "processes", "rhm")
)
# Modules of the classes that a config may name; importing any other might run code.
_ALLOWED: Final = (
    *_OWN,
    *(f"lit_hier.{name}" for name in lit_hier.__all__),
    "diffusers",
    "lightning_fabric",
    "pytorch_lightning",
    "torch.nn",
    "torch.optim",
    "torchvision.datasets",
    "torchvision.transforms",
)
# Parts of these whose functions fetch, unpack, unpickle or import what an argument names: a config
# may also name a function where a class takes one, such as a data set's `loader`.
_DENIED: Final = (
    "*",
    *(f"diffusers.{part}" for part in ("commands", "loaders", "pipelines", "utils")),
    "lightning_fabric.utilities",
    *(f"pytorch_lightning.{part}" for part in ("cli", "core.saving", "demos", "utilities")),
    "torchvision.datasets.lsun",
    "torchvision.datasets.utils",
)
_MAX_VALUES: Final = 100_000  # in a config; an alias counts as all values that it repeats
_MAX_DEPTH: Final = 50  # levels of values
_broken_entry_points: Final[dict[str, str]] = {}  # by a class's name, why it cannot be used


class OneLineParser(LightningArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and exit with status 2."""
        exit_with_error(describe_parser_error(message, _broken_entry_points, _list_names()))

    def add_subcommands(self, *args: Any, **kwargs: Any) -> Any:
        """Add subcommands whose help is their own description, not that of Trainer's method."""
        action = super().add_subcommands(*args, **kwargs)
        add_subcommand = action.add_subcommand

        def add_described(name: str, parser: LightningArgumentParser, **options: Any) -> Any:
            return add_subcommand(name, parser, **{**options, "help": parser.description})

        action.add_subcommand = add_described  # type: ignore[assignment, method-assign]
        return action


def allow_trusted_classes() -> None:
    """Let configs name what the environment trusts and what installed packages declare.

    A package declares a class by an entry point of group `lit_hier`, whose name is the class's:
    `MyCallback = "my_package.my_module:MyCallback"`. Nothing else of the package may be named.

    Raises:
        InputError: The environment variable has an entry that is not a dotted name.
    """
    trusted = [name for name in os.environ.get(TRUST_VARIABLE, "").split(",") if name]
    for name in trusted:
        if not all(part.isidentifier() for part in name.split(".")):
            raise InputError(
                f"{TRUST_VARIABLE} has {name!r}; give packages, modules or classes, as in"
                f" {TRUST_VARIABLE}=my_package,my_module.MyClass"
            )
    _broken_entry_points.clear()
    declared = [path for point in entry_points(group=ENTRY_POINTS) for path in _load(point)]
    set_parsing_settings(import_path_allowlist=[*trusted, *declared])


def _load(point: EntryPoint) -> set[str]:
    """Import a declared class; return the paths that name it. Failures are kept for `error`."""
    package = point.dist.name if point.dist else "an installed package"
    try:
        declared = point.load()
    except Exception as error:  # of the package's own code
        reason = f"{type(error).__name__}: {error}"
        _broken_entry_points[point.name] = shorten(
            f"{package} declares {point.name} as {point.value}, which cannot be imported:"
            f" {reason}; reinstall or update {package}"
        )
        return set()
    if not isinstance(declared, type) or declared.__name__ != point.name:
        _broken_entry_points[point.name] = (
            f"{package} declares {point.name} as {point.value}, which is not a class of this name;"
            f" correct the entry point of {package}"
        )
        return set()
    # Shorter paths may lead to it too; saved configs then contain one of these.
    modules = {point.module, declared.__module__}
    parts = [module.split(".") for module in modules]
    packages = {".".join(names[:k]) for names in parts for k in range(1, len(names) + 1)}
    return {
        f"{name}.{point.name}"
        for name in packages
        if getattr(sys.modules.get(name), point.name, None) is declared
    }


def _list_names() -> set[str]:
    """Return the short names of this project's classes, and of declared ones."""
    modules: list[ModuleType] = [importlib.import_module(name) for name in _OWN]
    names = {name for module in modules for name in vars(module) if name[0].isupper()}
    return names | {point.name for point in entry_points(group=ENTRY_POINTS)}


def _limit_configs() -> None:
    """Limit what configs may name, fetch and hold, in any process that imports this module."""
    set_parsing_settings(
        import_path_denylist=list(_DENIED),
        import_path_allowlist=list(_ALLOWED),
        config_read_mode_fsspec_enabled=False,
    )
    add_instantiator(instantiate, object)
    load = get_loader("yaml")

    def load_within_limits(text: str) -> Any:
        _check_size(text)
        return load(text)

    # Without the exceptions, invalid YAML would end in a traceback.
    set_loader("yaml", load_within_limits, exceptions=(yaml.YAMLError,))


def _check_size(text: str) -> None:
    """Count the values that YAML expands to, event by event, before any of them is built.

    Raises:
        YAMLError: There are too many, or they are nested too deeply, as in a cycle of aliases.
    """
    anchors: dict[str | None, int] = {}
    open_values: list[tuple[str | None, int]] = [(None, 0)]  # anchor and size of each
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
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
