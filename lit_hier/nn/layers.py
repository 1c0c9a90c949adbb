"""Layers of a network by name: choosing them, reading their outputs, the paper's choice."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Final

from torch import Tensor, nn

from lit_hier.errors import InputError, suggest

_RESNET: Final = ("layer[1-4].*", "fc")
# By library and class name, as importing timm takes a second.
_PAPER: Final[dict[str, tuple[str, ...]]] = {
    "torchvision.ConvNeXt": ("features.[0246]", "features.[1357].*", "classifier"),
    "torchvision.ResNet": _RESNET,
    "torchvision.VisionTransformer": ("encoder.layers.*", "heads"),
    "timm.ConvNeXt": ("stem", "stages.[1-3].downsample", "stages.*.blocks.*", "head"),
    "timm.ResNet": _RESNET,
    "timm.VisionTransformer": ("blocks.*", "head"),
}
_COMPILED: Final = "_orig_mod"  # the name of the module inside the wrapper of `torch.compile`
_CHANNELS_LAST: Final = {"torchvision.SwinTransformer", "timm.VisionTransformerSAM"}


def match_layers(network: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Find the layers that match patterns.

    A pattern is a module's dotted name in which `*`, `?` and `[...]` match characters within one
    component: `layers.*` matches `layers.0`, but not `layers.0.conv`. Of several names of one
    module, the first that matches is used.

    Args:
        network: Any module.
        patterns: At least one.

    Returns:
        Unique names, in the order in which the network lists its modules.

    Raises:
        InputError: There are no patterns, or one matches nothing.
    """
    modules = named_layers(network)
    names = list(modules)

    def matches(name: str, pattern: str) -> bool:
        parts, wanted = name.split("."), pattern.split(".")
        return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))

    if not patterns:
        raise InputError(
            "layers: no pattern is given; give one or more, such as ['layers.*', 'readout']"
        )
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            raise InputError(
                f"layers: pattern {pattern!r} matches no layer of"
                f" {type(network).__name__}{suggest(pattern, names)};"
                f" its layers are {shown}"
            )
    chosen: dict[nn.Module, str] = {}
    for name, module in modules.items():
        if any(matches(name, pattern) for pattern in patterns):
            chosen.setdefault(module, name)
    return list(chosen.values())


def named_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Return a network's modules by their dotted names.

    A module that has several names is listed under each. The wrapper of a compiled module has no
    part in the names: they are those of the module inside.
    """
    layers: dict[str, nn.Module] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        parts = [part for part in name.split(".") if part != _COMPILED]
        if any(parts):
            layers[".".join(parts)] = module
    return layers


@contextmanager
def hook_layers(
    network: nn.Module, names: Sequence[str], callback: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Call `callback(name, output)` after each named layer, during one forward pass.

    The hooks are removed when the block ends, also after an error.

    Raises:
        InputError: A layer does not return one tensor (B, C, ...), or does not run exactly once.
    """
    called: set[str] = set()
    modules = named_layers(network)

    def hook(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or output.ndim < 2:
            raise InputError(
                f"layers: {name!r} ({type(module).__name__}) does not return one tensor (B, C,"
                " ...); choose layers inside it"
            )
        if name in called:
            aliases = [repr(k) for k, other in modules.items() if other is module and k != name]
            shared = f", also as {aliases[0]}" if aliases else ""
            raise InputError(
                f"layers: {name!r} ({type(module).__name__}) runs more than once in a forward"
                f" pass{shared}, so its output is ambiguous; choose layers around it"
            )
        called.add(name)
        callback(name, output)

    with ExitStack() as hooks:
        for name in names:
            handle = modules[name].register_forward_hook(partial(hook, name))
            hooks.callback(handle.remove)
        yield
    for name in names:
        if name not in called:
            kind = type(modules[name]).__name__
            raise InputError(
                f"layers: {name!r} ({kind}) does not run in a forward pass; choose layers"
                " inside it"
            )


def paper_layers(model: nn.Module) -> tuple[str, ...]:
    """Return patterns, for `match_layers`, of the layers that the paper analyses.

    ConvNeXt (Fig. 2): the stem, every block and every downsampling, 41 in ConvNeXt Base with the
    logits. ResNets (Fig. 16, Appendix D): every block, whose output follows its last ReLU, and
    the logits: 17 in ResNet-50 and Wide ResNet-50-2, 51 in ResNet-152. Vision transformers, which
    the paper does not analyze: every block, and the logits.

    Args:
        model: A model of torchvision or timm.

    Returns:
        Patterns; empty for other models.
    """
    return next((_PAPER[kind] for kind in _kinds(model) if kind in _PAPER), ())


def channels_last(model: nn.Module) -> bool:
    """Return whether a model's blocks return images as (B, H, W, C), as Swin transformers do."""
    known = not _CHANNELS_LAST.isdisjoint(_kinds(model))
    return known or getattr(model, "output_fmt", "") == "NHWC"


def _kinds(model: nn.Module) -> list[str]:
    """List a model's class and its base classes as `library.Class`."""
    kinds = type(model).__mro__
    return [f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in kinds]
