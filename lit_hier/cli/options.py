"""How the command line reports an option that does not exist: where it is, and what exists."""

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from lit_hier.errors import suggest

_UNKNOWN: Final = re.compile(
    r"(?:Group '(?P<group>[^']*)' does not accept o|Subcommand '[^']*' does not accept o|O)ption"
    r" '(?P<key>[^']*)'|unrecognized arguments: (?P<argument>\S+)"
)
_CLASS_KEYS: Final = ("class_path", "init_args")


def describe_unknown_option(
    message: str, given: Iterable[Any], classes: Mapping[str, type], options: Iterable[str]
) -> str | None:
    """Describe an unknown option.

    Args:
        message: What jsonargparse reports.
        given: The values of the configs, and arguments as `{"--model.init_args.seed": ...}`.
        classes: The classes whose arguments are known, by short name.
        options: The options of the command, with dots.

    Returns:
        The line, or None if the message reports something else.
    """
    if not (match := _UNKNOWN.search(message)):
        return None
    options = sorted(set(options))
    if argument := match["argument"]:
        if argument[0] != "-":
            return (
                f"{argument:.60} is not an option; if it is a config, write -c {argument:.60}, and"
                " if it is a value, its option before it"
            )
        name = argument.partition("=")[0]
        nearest = suggest(name, [f"--{option}" for option in options])
        if not nearest:
            first, _, rest = name.lstrip("-").partition(".")
            heads = {option.partition(".")[0] for option in options}
            nearest = suggest(f"--{first}.{rest}", [f"--{head}.{rest}" for head in heads])
        return f"{name}: no such option{nearest}; --help lists the options"
    key = ".".join(filter(None, (match["group"], match["key"])))
    leaves: dict[str, Any] = {}
    for value in given:
        leaves.update(_flatten(value))
    full = next((path for leaf in leaves if (path := _cut(leaf, key)) is not None), key)
    place = full.removesuffix(key).rstrip(".")
    shown = re.sub(r"(^|\.)\d+(?=\.)", "", full).lstrip(".")  # without the places in lists
    first = key.partition(".")[0]
    if not place:
        nearest = suggest(key, options) or suggest(first, {o.partition(".")[0] for o in options})
        return f"{shown}: no such option{nearest}; --help lists the options"
    owner = place.removesuffix(".init_args")
    name = str(leaves.get(f"{owner}.class_path", leaves.get(owner, "")))
    class_type = classes.get(name.rpartition(".")[2])
    if class_type is None:
        arguments = {name for value in classes.values() for name in _list_arguments(value)}
        nearest = suggest(first, [*_CLASS_KEYS, *arguments])
        return f"{shown}: its class has no argument {first}{nearest}; give only arguments it has"
    names = _list_arguments(class_type)
    if owner == place and (nearest := suggest(first, _CLASS_KEYS)):
        return f"{shown}: no such key{nearest}; give class_path and init_args"
    nearest = suggest(first, names)
    return f"{shown}: {class_type.__name__} has no argument {first}{nearest}; it has " + (
        ", ".join(names) or "none"
    )


def _list_arguments(class_type: type) -> list[str]:
    return [
        name
        for name, parameter in inspect.signature(class_type).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested values by their dotted paths."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {path: value}
    leaves = {}
    for key, item in items:
        leaves.update(_flatten(item, f"{path}.{key}".lstrip(".")))
    return leaves


def _cut(leaf: str, key: str) -> str | None:
    """Return a path up to the key at the end of one of its parts; None if it is not in there."""
    found = re.search(rf"(?:^|\.){re.escape(key)}(?=\.|$)", leaf)
    return leaf[: found.end()] if found else None
