"""Where a config may name a class: only as an argument whose type says which classes it takes.

jsonargparse would build a class wherever a type accepts any value, and pass on one among the
arguments that a signature does not list.
"""

import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from jsonargparse import Namespace

from lit_hier.errors import InputError

_CLASS_KEY: Final = "class_path"
# Types that accept a value of any kind, or contain one.
_OPEN: Final = (Any, object, type, inspect.Parameter.empty, dict, list, tuple, set)


def check_class_values(config: Namespace, owner: type, place: str) -> None:
    """Check that every class stands where a type names it.

    Args:
        config: Parsed arguments of a class.
        owner: The class.
        place: The user's name for these arguments.

    Raises:
        InputError: A class is the value, or inside the value, of another argument.
    """
    for name, value in vars(config).items():
        inner = list(_find_classes(value))
        if inner and _accepts_any(_get_annotation(owner, name, inner)):
            raise InputError(
                f"{place}.{name}: {owner.__name__} does not say which classes {name} takes, so"
                f" {str(inner[0][_CLASS_KEY])[:60]} cannot be built; give plain values"
            )
        for given in inner:
            check_class(given, f"{place}.{name}")


def check_class(given: Any, place: str) -> None:
    """Check the arguments of a class that a config names.

    Args:
        given: Its `class_path`, `init_args` and `dict_kwargs`.
        place: The user's name for the value.

    Raises:
        InputError: See `check_class_values`.
    """
    path = str(given[_CLASS_KEY])
    for found in _find_classes(given.get("dict_kwargs")):
        raise InputError(
            f"{place}.dict_kwargs: {str(found[_CLASS_KEY])[:60]} cannot be built here; give plain"
            " values"
        )
    arguments = given.get("init_args")
    if arguments:
        owner = get_class(path)
        if not isinstance(owner, type):
            raise InputError(f"{place}: {path[:60]} is not a class; name one listed by --help")
        arguments = arguments if isinstance(arguments, Namespace) else Namespace(arguments)
        check_class_values(arguments, owner, place)


def _find_classes(value: Any) -> Iterator[Any]:
    """Find the outermost classes in a value."""
    if isinstance(value, Namespace | dict):
        if _CLASS_KEY in value:
            yield value
            return
        value = list((vars(value) if isinstance(value, Namespace) else value).values())
    if isinstance(value, list | tuple | set):
        for item in value:
            yield from _find_classes(item)


def get_class(path: str) -> Any:
    """Return what a path stands for in the modules that are loaded; None for nothing."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def _get_annotation(owner: type, name: str, given: Iterable[Any]) -> Any:
    """Return the type of an argument, also of one that is passed on to a base class.

    A type that is imported for type checkers only is found if it is a base of a given class.
    """
    classes = [get_class(str(value[_CLASS_KEY])) for value in given]
    bases = {base.__name__: base for c in classes if isinstance(c, type) for base in c.__mro__}
    for base in inspect.getmro(owner):
        function = vars(base).get("__init__")
        if inspect.isfunction(function) and name in inspect.signature(function).parameters:
            try:
                return typing.get_type_hints(function, localns=bases).get(name, Any)
            except (NameError, TypeError):  # a type that is imported for type checkers only
                return Any
    return Any


def _accepts_any(annotation: Any) -> bool:
    """Return whether a type accepts values of any type, or contains such a type."""
    kind, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if kind is Callable:
        return False  # of the allowed classes only
    if not arguments:
        is_container = getattr(kind, "__module__", "") == "collections.abc"
        return is_container or isinstance(kind, str | typing.TypeVar) or kind in _OPEN
    return any(map(_accepts_any, arguments[1:] if kind in (dict, Mapping) else arguments))
