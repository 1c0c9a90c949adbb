r"""Times of a corruption process by the information that an observation holds about its leaf.

The processes' own times are not comparable: at which masked fraction, which diffusion time is as
much known of a leaf? The information :math:`u = I(x_0; x_t)/\ln v` is, see
`lit_hier.processes.NoiseProcess.information`. A denoiser is therefore trained at times whose
information is uniform, and it samples in steps of equal information.
"""

import math
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from lit_hier.errors import InputError
from lit_hier.processes import NoiseProcess

DEFAULT_LAST_TIME: Final = 4.0
"""Time that stands for infinity; for the Gaussian process, alpha_t = 3.4e-4 there."""

_NUM_COMPUTED: Final = 65  # times at which the process is asked for its information
_NUM_NODES: Final = 8193  # of the table between them


class InformationClock:
    r"""A monotone map between time and information, :math:`u = I(x_0; x_t)/\ln v`.

    Interpolates a table, to 1e-4 and exactly at both ends; back and forth gives the same number
    within rounding. Where the process does not know its information (NaN), u falls linearly in
    time.

    Args:
        process: The corruption process.
        num_features: v.
        last_time: Largest time. By default the end of the process's axis, or 4 if that is
            infinite.

    Attributes:
        last_time: Largest time.

    Raises:
        InputError: `last_time` is not above 0, not finite or beyond the end of the axis.
    """

    def __init__(
        self, process: NoiseProcess, num_features: int, last_time: float | None = None
    ) -> None:
        end = process.axis.end
        if last_time is None:
            last_time = end if math.isfinite(end) else DEFAULT_LAST_TIME
        if not (0 < last_time <= end and math.isfinite(last_time)):
            bound = "a finite number" if math.isinf(end) else f"at most {end:g}"
            raise InputError(
                f"last_time is {last_time:g}; {process.axis.label}: give more than 0 and {bound}"
            )
        self.last_time = last_time
        self._arguments = _Same(process), num_features, last_time

    def information(self, times: Float64[Tensor, " num"]) -> Float64[Tensor, " num"]:
        """Return the information at times, from 1 at time 0."""
        u = np.interp(times.cpu().numpy(), *_tabulate(*self._arguments))
        return torch.from_numpy(np.asarray(u)).to(times.device)

    def times(self, information: Float64[Tensor, " num"]) -> Float64[Tensor, " num"]:
        """Return the times at which as much is known; beyond the ends, 0 or `last_time`."""
        table = _tabulate(*self._arguments)
        times = np.interp(information.cpu().numpy(), table[1][::-1], table[0][::-1])
        return torch.from_numpy(np.asarray(times)).to(information.device)

    def steps(self, start: float, num: int) -> list[float]:
        """Return the num + 1 times of a descent from `start` to 0 in steps of equal information.

        Args:
            start: Time, 0 to `last_time`.
            num: Number of steps, at least 1.
        """
        first = self.information(torch.tensor([start], dtype=torch.float64)).item()
        between = self.times(torch.linspace(first, 1, num + 1, dtype=torch.float64))[1:-1]
        return [start, *between.clamp(max=start).tolist(), 0.0]


class _Same:
    """A process as a key, equal to itself alone: a user's may not be hashable."""

    def __init__(self, process: NoiseProcess) -> None:
        self.process = process

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.process is self.process

    def __hash__(self) -> int:
        return id(self.process)


@lru_cache(maxsize=16)
def _tabulate(
    of: _Same, num_features: int, last_time: float
) -> tuple[Float64[ndarray, " nodes"], Float64[ndarray, " nodes"]]:
    """Return ascending times and the information at each, which falls strictly."""
    # Cubic: the information of most processes is steep or flat near time 0.
    root = np.linspace(0, 1, _NUM_COMPUTED)
    known = [of.process.information(last_time * x**3, num_features) for x in root]
    u = np.minimum.accumulate(np.array(known) / math.log(num_features))
    fine = np.linspace(0, 1, _NUM_NODES)
    times = last_time * fine**3
    if not (np.isfinite(u).all() and u[0] > u[-1]):
        return times, 1 - fine**3
    information = PchipInterpolator(root, u)(fine)
    # Where nothing is lost or left, every time has the same information: keep the ends.
    falls = np.diff(information, prepend=np.inf) < 0
    falls[-1] = True
    return times[falls], information[falls]
