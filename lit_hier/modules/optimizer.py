"""The optimizer that a config names."""

from collections.abc import Iterable

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import nn

from lit_hier.errors import InputError


def make_optimizer(
    optimizer: OptimizerCallable, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """Make an optimizer of parameters.

    Raises:
        InputError: Its arguments are out of range.
    """
    try:
        return optimizer(parameters)
    except ValueError as error:
        raise InputError(f"optimizer: {error}") from error
