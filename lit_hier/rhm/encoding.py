r"""Whitened one-hot vectors, the input of networks on the RHM.

A leaf with symbol :math:`\mu` is the basis vector :math:`e_\mu` of :math:`R^v`. If symbols are
uniform, its mean is :math:`1/v` and its covariance :math:`(I - 1 1^T / v) / v`, so that

.. math:: x = \sqrt{v} \, (e_\mu - 1/v)

is white: its mean is 0 and its covariance is the projector :math:`I - 1 1^T / v`.
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding


def whitened_one_hot(symbols: Tensor, num_features: int) -> Tensor:
    """Encode symbols as whitened one-hot vectors, channels first.

    Args:
        symbols: Any integer type, values in {0, ..., v - 1}, shape (B, d).
        num_features: v.

    Returns:
        float32, shape (B, v, d); the v channels of a position are contiguous in memory, which is
        fast for a convolution whose stride equals its kernel size.
    """
    code = (torch.eye(num_features, device=symbols.device) - 1 / num_features) * num_features**0.5
    return embedding(symbols.long(), code).transpose(1, 2)
