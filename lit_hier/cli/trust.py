"""Which classes configs may name, and how those of other packages are imported.

Limits hold in any process that imports this module. What the environment trusts and what installed
packages declare is allowed during a run only, and imported only when it is named.
"""

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from jsonargparse import set_parsing_settings
from PIL import EpsImagePlugin

from lit_hier.cli.allowed import (
    ALLOWED,
    LAZY,
    check_address,
    find_paths,
    get_allowed_prefix,
    get_own_classes,
)
from lit_hier.cli.errors import TRUST_VARIABLE
from lit_hier.cli.exits import shorten
from lit_hier.errors import InputError
from lit_hier.io.safe_read import only_regular_files

ENTRY_POINTS: Final = "lit_hier"  # the group in which packages declare their classes


class _Run:
    """What one run may name besides this project's classes.

    Attributes:
        trusted: Packages, modules and classes that the environment trusts.
        declared: Declared classes that are not imported yet, by name.
        unusable: Why a class must not be named, by its name and by its path.
        denied: Trusted paths that cannot be imported.
        changed: Names whose permission differs from that of other runs.
        given: The values of its configs and arguments.
    """

    def __init__(self) -> None:
        self.trusted: list[str] = []
        self.declared: dict[str, EntryPoint] = {}
        self.unusable: dict[str, str] = {}
        self.denied: set[str] = set()
        self.changed: set[str] = set()
        self.given: list[Any] = []

    def allow(self, paths: list[str]) -> None:
        self.changed.update(paths)
        set_parsing_settings(import_path_allowlist=paths)

    def deny(self, path: str, reason: str) -> None:
        self.unusable[path] = shorten(reason)
        self.denied.add(path)
        self.changed.add(path)
        set_parsing_settings(import_path_denylist=[path])

    def read_environment(self) -> None:
        self.trusted = [name for name in os.environ.get(TRUST_VARIABLE, "").split(",") if name]
        for name in self.trusted:
            parts = name.split(".")
            if parts[0] == "jsonargparse":  # its functions could lift the limits
                raise InputError(
                    f"{TRUST_VARIABLE} has {name!r}, which can never be trusted; give your own"
                    " packages, modules or classes"
                )
            if not all(part.isidentifier() for part in parts):
                raise InputError(
                    f"{TRUST_VARIABLE} has {name!r}; give packages, modules or classes, as in"
                    f" {TRUST_VARIABLE}=my_package,my_module.MyClass"
                )
        self.allow(self.trusted)

    def read_declarations(self) -> None:
        """Collect the declared classes; reject names that are this project's, or not unique."""
        points: dict[str, dict[str, EntryPoint]] = {}
        for point in entry_points(group=ENTRY_POINTS):
            points.setdefault(point.name, {})[_get_path(point)] = point
        own = get_own_classes()
        for name, by_path in points.items():
            packages = " and ".join(dict.fromkeys(map(_get_package, by_path.values())))
            for path, point in by_path.items():
                remedy = f"to use this one, set {TRUST_VARIABLE}={path} and write {path}"
                if name in own:
                    self.unusable[path] = (
                        f"{packages} declares {name}, but lit_hier has a class of this name;"
                        f" {remedy}"
                    )
                elif len(by_path) > 1:
                    self.unusable[path] = f"{packages} both declare {name}; {remedy}"
                    self.unusable[name] = (
                        f"{packages} both declare {name}; uninstall one, or to use the first, set"
                        f" {TRUST_VARIABLE}={next(iter(by_path))} and write that path"
                    )
                else:
                    self.declared[name] = point

    def import_declared(self, name: str) -> None:
        """Import a declared class and allow the paths that lead to it, or keep the reason."""
        point = self.declared.pop(name)
        package, path = _get_package(point), _get_path(point)
        declaration = f"{package} declares {name} as {point.value}, which"
        try:
            with only_regular_files():  # of any size
                declared = point.load()
        except (Exception, SystemExit) as error:  # of the package's own code
            reason = (
                f"{declaration} cannot be imported: {type(error).__name__}: {error}; reinstall or"
                f" update {package}"
            )
            self.unusable[name] = self.unusable[path] = shorten(reason)
            return
        if not isinstance(declared, type) or declared.__name__ != name:
            self.unusable[name] = (
                f"{declaration} is not a class of this name; correct the entry point of {package}"
            )
            return
        self.allow(find_paths(declared, point.module))

    def import_trusted(self, path: str) -> None:
        """Import the module of a trusted path; deny the path if that fails."""
        module = path.rpartition(".")[0]
        failure: BaseException
        while module and path not in self.denied:
            try:
                with only_regular_files():  # of any size
                    importlib.import_module(module)
                return
            except ModuleNotFoundError as error:
                parent = module.rpartition(".")[0]
                if error.name == module and parent:
                    module = parent  # the path may be that of a class's attribute
                    continue
                missing, failure = error.name, error
                remedy = f"install {missing}, which {module} imports"
                if missing == module:
                    remedy = (
                        "check its spelling, install its package, or set PYTHONPATH=. if it is in"
                        " this folder"
                    )
            except (Exception, SystemExit) as error:  # of the user's own code
                failure, remedy = error, f"correct {module}"
            cause = f"{type(failure).__name__}: {failure}"
            self.deny(path, f"cannot import {path}: {cause}; {remedy}")

    def import_name(self, name: str) -> None:
        """Import the class that a name or path stands for, if another package's."""
        package, _, last = name.rpartition(".")
        if last in self.declared:
            top = self.declared[last].module.partition(".")[0]
            if not package or package.partition(".")[0] == top:
                self.import_declared(last)
        if (module := LAZY.get(last)) and package.partition(".")[0] in ("", module):
            self.allow(find_paths(getattr(importlib.import_module(module), last), module))
        if prefix := get_allowed_prefix(name):  # of a method, or of a module that it imports
            self.deny(name, f"{name} is part of {prefix}; name the class itself")
        is_trusted = any(f"{name}.".startswith(f"{entry}.") for entry in self.trusted)
        if is_trusted and all(part.isidentifier() for part in name.split(".")):
            self.import_trusted(name)


_idle = _Run()
_run = _idle


@contextmanager
def trusted_classes(args: Sequence[str]) -> Iterator[None]:
    """Let the configs of one run name what the environment trusts and what packages declare.

    A package declares a class by an entry point of group `lit_hier`, whose name is the class's:
    `MyCallback = "my_package.my_module:MyCallback"`. Nothing else of the package may be named.

    Args:
        args: The command's arguments.

    Raises:
        InputError: The environment variable has an entry that is not a dotted name.
    """
    global _run
    outer, _run = _run, _Run()
    try:
        _run.read_environment()
        _run.read_declarations()
        if {"-h", "--help", "--help-all"} & set(args):  # lists all classes
            for name in list(_run.declared):
                _run.import_declared(name)
        pairs = [argument.removeprefix("--").partition("=") for argument in args]
        read_values({key.removesuffix("+"): value or key for key, _, value in pairs})
        yield
    finally:
        changed, _run = _run.changed, outer
        set_parsing_settings(
            import_path_allowlist=[path for path in changed if path in ALLOWED],
            import_path_denylist=[path for path in changed if path not in ALLOWED],
        )


def read_values(value: Any) -> None:
    """Import the declared and trusted classes that a value of a config names, if in a run.

    Raises:
        InputError: A text in it is an address.
    """
    if _run is not _idle:
        _run.given.append(value)
        _read_value(value, "config")


def _read_value(value: Any, key: str) -> None:
    if isinstance(value, str):
        check_address(key, value)
        _run.import_name(value)
    elif isinstance(value, dict):
        for name, item in value.items():
            _read_value(item, str(name))
    elif isinstance(value, list):
        for item in value:
            _read_value(item, key)


def get_given() -> list[Any]:
    """Return the values of the run's arguments and configs, in the order of reading."""
    return _run.given


def get_unusable() -> dict[str, str]:
    """Return why a class cannot be named in this run, by its name and by its path."""
    return _run.unusable


def list_names() -> set[str]:
    """Return the short names of this project's classes, and of declared ones."""
    return get_own_classes().keys() | {point.name for point in entry_points(group=ENTRY_POINTS)}


def _get_package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an installed package"


def _get_path(point: EntryPoint) -> str:
    return f"{point.module}.{point.attr}"


set_parsing_settings(
    import_path_denylist=["*"],
    import_path_allowlist=sorted(ALLOWED),
    config_read_mode_fsspec_enabled=False,
    # A class is built only where an argument's type names it.
    instantiate_subclass_spec_in_any=False,
)
EpsImagePlugin.gs_binary = False  # by default, PIL starts Ghostscript for a file of any name
