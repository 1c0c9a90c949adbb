"""The standardized cosine with a fixed first argument, standardized once."""

from typing import Final

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from lit_hier.kernels.compiled import CompiledKernels
from lit_hier.metrics.functional.similarity import MIN_LENGTH, Standardization, length

_KERNELS: Final = CompiledKernels("the similarity of activations")
_BLOCK: Final = 2**17  # values whose products stay in a processor's cache


class SimilarityTo:
    """The similarity of a layer's activations to those at the start.

    The same cosines as `standardized_cosine`, up to rounding: products are summed in the order
    in which activations are stored in memory. On an NVIDIA GPU a compiled kernel computes them
    where Triton is installed; its results have no gradients.

    Args:
        start: Activations, shape (B, C, *positions).
        standardization: Of the layer.
    """

    def __init__(
        self, start: Float[Tensor, "B C *positions"], standardization: Standardization
    ) -> None:
        self._standardize = standardization
        self._raw: Tensor | None = None
        if len(standardization.mean) in (1, start.shape[1], start[0].numel()) and (
            _KERNELS.can_run_on(start.device)
        ):
            start = self._raw = start.detach().clone()  # which the network may overwrite
        # Whichever axis holds the channels, flattening in memory order copies nothing.
        strides = start.stride()
        self._axes = [0, *sorted(range(1, start.ndim), key=lambda axis: -strides[axis])]
        if self._raw is None:
            self._set_start(start)

    def _set_start(self, start: Float[Tensor, "B C *positions"]) -> None:
        self._start = self._flatten(start)
        self._length = length(self._start)

    def _flatten(self, x: Float[Tensor, "B C *positions"]) -> Float32[Tensor, "B features"]:
        return self._standardize(x).permute(self._axes).flatten(1)

    def __call__(self, x: Float[Tensor, "B C *positions"]) -> Float32[Tensor, " B"]:
        """Compare each sample's activations with its own at the start.

        Args:
            x: Activations, shape (B, C, *positions).

        Returns:
            Cosines, float32, shape (B,); 0 where an activation is too short to have a direction.
        """
        if self._raw is not None:
            own: Tensor = self.with_partners(x)[0]
            return own
        return self._own(z := self._flatten(x), length(z))

    def with_partners(self, x: Float[Tensor, "B C *positions"]) -> Float32[Tensor, "2 B"]:
        """Compare each sample at the start with itself, and with another sample.

        The partner of a sample is the next one of the batch; that of the last is the first.

        Args:
            x: Activations, shape (B, C, *positions).

        Returns:
            Cosines with the sample itself, the same numbers as those of a call, then with its
            partner, NaN in a batch of one sample; float32, shape (2, B).
        """
        if self._raw is not None:
            if (found := self._by_kernel(self._raw, x)) is not None:
                return found
            self._set_start(self._raw)
            self._raw = None
        z = self._flatten(x)
        z_length = length(z)
        if len(z) == 1:
            own = self._own(z, z_length)
            return torch.stack((own, torch.full_like(own, torch.nan)))
        products = (_products(self._start[:-1], z[1:]), _products(self._start[-1:], z[:1]))
        partners = torch.cat(products) / (z_length.roll(-1) * self._length)
        return torch.stack((self._own(z, z_length), partners))

    def _by_kernel(
        self, start: Float[Tensor, "B C *positions"], x: Float[Tensor, "..."]
    ) -> Float32[Tensor, "2 B"] | None:
        """Return the result of `with_partners`; None for what torch shall reject or compute."""
        if (x.shape, x.device) != (start.shape, start.device):
            return None

        def launch() -> Tensor:
            from lit_hier.kernels import activations

            found: Tensor = activations.cosines(
                start, x, *self._standardize, self._axes, MIN_LENGTH
            )
            return found

        return _KERNELS.run(x, launch)

    def _own(
        self, z: Float32[Tensor, "B features"], z_length: Float32[Tensor, " B"]
    ) -> Float32[Tensor, " B"]:
        """Compare standardized activations, which this overwrites, with those at the start."""
        cosine: Tensor = z.mul_(self._start).sum(1) / (z_length * self._length)
        return cosine


def _products(
    a: Float32[Tensor, "B features"], b: Float32[Tensor, "B features"]
) -> Float32[Tensor, " B"]:
    """Multiply row by row: on a CPU, without a third array of their size."""
    num_rows = max(1, _BLOCK // a.shape[1]) if a.device.type == "cpu" else len(a)
    blocks = zip(a.split(num_rows), b.split(num_rows), strict=True)
    return torch.cat([(x * y).sum(1) for x, y in blocks])
