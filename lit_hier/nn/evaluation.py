"""Evaluation of a network as measurements need it: eager, without gradients, on its own copy."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from lit_hier.errors import InputError, one_line

_MAX_REASON = 150  # characters of a network's own error


def evaluate(network: nn.Module, x: Tensor) -> Tensor:
    """Run a network without gradients, autocast and compiled code.

    It gets a copy of x, which it may change. Compiled code would not call hooks.

    Args:
        network: Takes one tensor and returns one.
        x: Shape (B, C, ...); converted to the data type of the network's first parameter, or to
            float32; without parameters, floating x keeps its own.

    Returns:
        The network's output.

    Raises:
        InputError: The network fails, or does not return a tensor.
    """
    kind = type(network).__name__
    own = x.dtype if x.is_floating_point() else torch.float32
    try:
        with torch.inference_mode(), torch.autocast(x.device.type, enabled=False), _eager():
            output = network(x.to(floating_type(network, own), copy=True))
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # networks raise exceptions of many types
        if "allocate memory" in str(error):
            raise
        reason = (one_line(error) or type(error).__name__)[:_MAX_REASON]
        raise InputError(
            f"network: {kind} does not take x of shape {tuple(x.shape)}: {reason}"
        ) from error
    if not isinstance(output, Tensor):
        raise InputError(
            f"network: {kind} returns a {type(output).__name__}, not a tensor; give a module that"
            " returns its logits"
        )
    return output


def floating_type(network: nn.Module, default: torch.dtype = torch.float32) -> torch.dtype:
    """Return the data type of a network's first floating parameter, or the default."""
    types = (parameter.dtype for parameter in network.parameters())
    return next((dtype for dtype in types if dtype.is_floating_point), default)


@contextmanager
def _eager() -> Iterator[None]:
    # Importing the compiler takes seconds; what is compiled has imported it.
    compiler = "torch._dynamo" in sys.modules
    with torch.compiler.set_stance("force_eager") if compiler else nullcontext():
        yield
