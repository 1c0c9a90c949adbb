"""Curves, figures and a summary of a run, logged to TensorBoard and to other loggers."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from lit_hier.processes import TimeAxis

Hyperparameter = str | int | float
"""A value on TensorBoard's HParams page."""
Number = tuple[float, float]
"""A value and its standard error; NaN if unknown."""
RESULTS: Final = ("place", "width", "theory_place", "theory_width", "accuracy", "top5")
"""The main numbers of runs: of the transition of the class, and of the reference set."""
_PAGE_WIDTH: Final = 1080  # pixels that TensorBoard shows of a figure's actual size
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
    """Log curves over time.

    TensorBoard gets one sub-run per curve, so that one chart shows them all; sub-runs are numbered
    from shallow to deep. Other loggers get one metric per curve, `TAG/CURVE`.

    Args:
        loggers: The run's loggers.
        curves: By tag, values over times by the curve's name; NaN is omitted. A suffix of the tag
            names the unit of a step, as in `epsilon x1000`.
        axis: The meaning of the times.
        times: Ascending.
    """
    steps, unit = time_steps(times)
    tags = {tag: f"{tag} ({axis.process} x{unit})" for tag in curves}
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):
            for k, step in enumerate(steps):
                metrics = {
                    f"{tags[tag]}/{name}": float(np.asarray(values)[k])
                    for tag, by_name in curves.items()
                    for name, values in by_name.items()
                }
                logger.log_metrics({n: x for n, x in metrics.items() if np.isfinite(x)}, step)
            logger.save()
            continue
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        for k, name in enumerate(next(iter(curves.values()))):
            folder = Path(logger.log_dir, "curves", f"{k:02d} {name}")
            with SummaryWriter(str(folder)) as writer:
                for tag, by_name in curves.items():
                    for step, value in zip(steps, np.asarray(by_name[name]), strict=True):
                        if np.isfinite(value):
                            writer.add_scalar(tags[tag], value, step)


def log_figure(loggers: Iterable[Logger], tag: str, figure: Figure) -> None:
    """Log a figure to TensorBoard, and to other loggers that show images."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            figure.set_dpi(min(figure.dpi, _PAGE_WIDTH / figure.get_figwidth()))
            logger.experiment.add_figure(tag, figure)
            logger.experiment.flush()
        elif log_image := getattr(logger, "log_image", None):  # as of Weights & Biases
            log_image(tag, [figure])


def log_summary(
    loggers: Iterable[Logger],
    hyperparameters: Mapping[str, Hyperparameter],
    numbers: Mapping[str, Number],
    config: str,
) -> None:
    """Log what was run, and its main numbers.

    TensorBoard gets the text `summary` (the numbers with their errors, the hyperparameters and the
    config), the scalars `result/NAME` and, for its HParams page, the hyperparameters. The columns
    of that page are those of the first run it finds, so all runs declare the same metrics,
    `RESULTS`. Other loggers get the hyperparameters and the scalars.

    Args:
        loggers: The run's loggers.
        hyperparameters: What was run.
        numbers: Values and their standard errors, NaN if unknown, by name. Those of `RESULTS`
            are logged as scalars.
        config: The run's config as YAML; empty if there is none.
    """
    scalars = {
        f"result/{name}": numbers[name][0]
        for name in RESULTS
        if name in numbers and np.isfinite(numbers[name][0])
    }
    for logger in loggers:
        logger.log_metrics(scalars, 0)
        if isinstance(logger, TensorBoardLogger):
            from torch.utils.tensorboard.summary import hparams  # slow to import

            writer = logger.experiment
            writer.add_text("summary", _summary_text(hyperparameters, numbers, config), 0)
            columns = {f"result/{name}": 0.0 for name in RESULTS}
            for summary in hparams(dict(hyperparameters), columns):
                writer.file_writer.add_summary(summary)
            writer.flush()
        else:
            logger.log_hyperparams(dict(hyperparameters))
            logger.save()


def _summary_text(
    hyperparameters: Mapping[str, Hyperparameter], numbers: Mapping[str, Number], config: str
) -> str:
    """Write the summary in Markdown."""
    lines = []
    if numbers:
        lines += ["| result | value | standard error |", "| --- | --- | --- |"]
        lines += [
            f"| {name} | {value:.5g} | {'unknown' if np.isnan(error) else f'{error:.2g}'} |"
            for name, (value, error) in numbers.items()
        ]
    lines += ["", "| run | |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in hyperparameters.items()]
    if config:
        lines += ["", "config.yaml:", "", textwrap.indent(config, "    ")]
    return "\n".join(lines)
