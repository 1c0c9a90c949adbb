"""Curves and figures of an analysis, logged to TensorBoard."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from lit_hier.processes import TimeAxis

_MOST_DECIMALS: Final = 9  # of a time, on TensorBoard's integer axis


def time_steps(times: Sequence[float]) -> tuple[list[int], int]:
    """Convert times to the integer steps that TensorBoard needs.

    Returns:
        The steps, and the number of steps per unit of time: 1000, or a larger power of ten if
        two times would share a step.
    """
    for decimals in range(3, _MOST_DECIMALS + 1):
        steps = [round(time * 10**decimals) for time in times]
        if len(set(steps)) == len(times):
            break
    return steps, 10**decimals


def log_curves(
    loggers: Iterable[Logger],
    curves: Mapping[str, Mapping[str, ArrayLike]],
    axis: TimeAxis,
    times: Sequence[float],
) -> None:
    """Log curves to TensorBoard, one sub-run per curve, so that one chart shows them all.

    Args:
        loggers: Only those of TensorBoard are used.
        curves: By tag, values over times by the curve's name; NaN is omitted. A suffix of the tag
            names the unit of a step, as in `epsilon x1000`.
        axis: The meaning of the times.
        times: Ascending.
    """
    steps, unit = time_steps(times)
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):
            continue
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        for k, name in enumerate(next(iter(curves.values()))):
            folder = Path(logger.log_dir, "curves", f"{k:02d} {name}")
            with SummaryWriter(str(folder)) as writer:
                for tag, by_name in curves.items():
                    for step, value in zip(steps, np.asarray(by_name[name]), strict=True):
                        if np.isfinite(value):
                            writer.add_scalar(f"{tag} ({axis.process} x{unit})", value, step)


def log_figure(loggers: Iterable[Logger], tag: str, figure: Figure) -> None:
    """Log a figure to TensorBoard."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(tag, figure)
            logger.experiment.flush()
