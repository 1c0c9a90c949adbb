"""Files and logs of an analysis, each written whole or not at all."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from lit_hier.io.atomic import atomic_write
from lit_hier.processes import TimeAxis

_FINEST: Final = 9  # decimals of a time that TensorBoard's integer axis can keep


def write_csv(folder: str, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a tidy table `{name}.csv`; numbers keep all their digits."""
    with atomic_write(Path(folder, f"{name}.csv")) as file:
        lines = [",".join(rows[0])] + [",".join(map(str, row.values())) for row in rows]
        file.write("\n".join(lines).encode() + b"\n")


def write_figure(folder: str, name: str, figure: Figure) -> None:
    """Write `{name}.png`."""
    with atomic_write(Path(folder, f"{name}.png")) as file:
        figure.savefig(file, format="png")


def time_steps(times: Sequence[float]) -> tuple[list[int], int]:
    """Turn times into the integer steps that TensorBoard needs.

    Returns:
        The steps, and how many make a unit of time: 1000, or more where that would make two
        times one.
    """
    for decimals in range(3, _FINEST + 1):
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
    """Log curves to TensorBoard, each in a sub-run of its own so that one chart has them all.

    Args:
        loggers: Those that are not TensorBoard's are passed over.
        curves: By tag, values over times by the curve's name; NaN is left out. The tag's end says
            what a step is, as `epsilon x1000`.
        axis: What the times mean.
        times: Ascending.
    """
    steps, unit = time_steps(times)
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):
            continue
        from torch.utils.tensorboard import SummaryWriter  # takes its time, for those who log

        for k, name in enumerate(next(iter(curves.values()))):
            folder = Path(logger.log_dir, "curves", f"{k:02d} {name}")
            with SummaryWriter(str(folder)) as writer:
                for tag, by_name in curves.items():
                    for step, value in zip(steps, np.asarray(by_name[name]), strict=True):
                        if np.isfinite(value):
                            writer.add_scalar(f"{tag} ({axis.process} x{unit})", value, step)


def log_figure(loggers: Iterable[Logger], tag: str, figure: Figure) -> None:
    """Log a picture to TensorBoard."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(tag, figure)
            logger.experiment.flush()
