"""A network's hidden layers: choosing them by name, seeing what they put out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from torch import Tensor, nn

from lit_hier.errors import InputError


def match_layers(network: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Find the layers that patterns name.

    A pattern is a module's dotted name in which `*`, `?` and `[...]` stand for characters of one
    part: `layers.*` matches `layers.0`, but not `layers.0.conv`.

    Args:
        network: Any module.
        patterns: At least one.

    Returns:
        Names, each once, in the order in which the network lists its modules.

    Raises:
        InputError: There are no patterns, or one matches nothing.
    """
    names = [name for name, _ in network.named_modules() if name]

    def matches(name: str, pattern: str) -> bool:
        parts, wanted = name.split("."), pattern.split(".")
        return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))

    if not patterns:
        raise InputError(
            "layers: no pattern is given; `layers: ['layers.*', 'readout']`, say, names some"
        )
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            raise InputError(
                f"layers: pattern {pattern!r} matches no layer of {type(network).__name__};"
                f" its layers are {shown}"
            )
    return [name for name in names if any(matches(name, pattern) for pattern in patterns)]


@contextmanager
def hook_layers(
    network: nn.Module, names: Sequence[str], see: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Call `see(name, output)` when a named layer has run; for one pass of the network.

    The hooks are gone when the block ends, also when it ends with an error.

    Raises:
        InputError: A layer puts out no tensor (B, C, ...), runs twice in the pass, or never.
    """
    seen: set[str] = set()

    def hook(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or output.ndim < 2:
            raise InputError(
                f"layers: {name!r} ({type(module).__name__}) puts out no tensor (B, C, ...);"
                " choose layers inside it"
            )
        if name in seen:
            raise InputError(
                f"layers: {name!r} ({type(module).__name__}) runs more than once in a pass, so its"
                " output is not one thing; choose layers around it"
            )
        seen.add(name)
        see(name, output)

    with ExitStack() as hooks:
        for name in names:
            handle = network.get_submodule(name).register_forward_hook(partial(hook, name))
            hooks.callback(handle.remove)
        yield
    for name in names:
        if name not in seen:
            kind = type(network.get_submodule(name)).__name__
            raise InputError(
                f"layers: {name!r} ({kind}) does not run in a pass; choose layers inside it"
            )
