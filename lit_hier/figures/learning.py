"""What denoisers learn: quantities against the number of training data, or of training steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pandas import DataFrame, concat

from lit_hier.figures.curves import Panel, curve_figure

NUM_TRAIN: Final = "num_train"
"""The column of the number of training data; infinity for exact inference."""
STEP: Final = "step"
"""The column of the optimizer steps; missing in averages over trainings of different length."""
_LABELS: Final = {NUM_TRAIN: "training data P", STEP: "training steps"}
_MEAN: Final = "mean over information"
_NUM_SHOWN: Final = 3  # times
_CURVE: Final = "curve"


@dataclass(frozen=True)
class _Quantity:
    """A column that is drawn against the training.

    Attributes:
        column: The column.
        label: The label of its axis.
        chance: The column of the share that chance gives, drawn dashed; empty if there is none.
        log: Whether its axis is logarithmic.
        once: Whether it is the same for all curves, so that one is drawn.
    """

    column: str
    label: str
    chance: str = ""
    log: bool = False
    once: bool = False


_VALIDITY: Final = (
    _Quantity("strings", "share of strings valid up to a level"),
    _Quantity("nodes", "share of nodes valid"),
    _Quantity("copies", "copies of training data", "copies_by_chance", once=True),
)
_QUALITY: Final = (
    _Quantity("kl", "KL from exact inference (nats per leaf)", log=True),
    _Quantity("agreement", "most likely symbol agrees"),
)


def learning_axis(table: DataFrame) -> str:
    """Return the column in which the trainings of a table differ; empty if they do not."""
    if NUM_TRAIN not in table:
        return ""
    rows = _last_weights(table)
    return next((x for x in (NUM_TRAIN, STEP) if x in rows and rows[x].nunique() > 1), "")


def is_learning(table: DataFrame) -> bool:
    """Return whether `learning_figure` can draw a table."""
    return bool({"strings", "kl"} & set(table)) and learning_axis(table) != ""


def learning_figure(table: DataFrame, mean: DataFrame | None = None) -> Figure:
    """Draw validity or quality against the number of training data or, for one, against steps.

    With several numbers of training data, the last weights of each are drawn.

    Args:
        table: The table of `Validity`, whose last time is drawn, or of `DenoiserQuality`, of which
            some times are, or an average of several; one that `is_learning`.
        mean: For `DenoiserQuality`, its averages over times, which are added.
    """
    rows = _last_weights(table)
    if "strings" in rows:
        rows = rows[rows["time"] == rows["time"].max()]
        names = [f"level {level}" for level in rows["level"]]
        return _draw(rows.assign(**{_CURVE: names}), _VALIDITY, "level")
    if "time" not in rows:
        return _draw(rows.assign(**{_CURVE: _MEAN}), _QUALITY, "")
    times = np.unique(rows.loc[rows["kl"].notna(), "time"])
    shown = times[np.unique(np.linspace(0, len(times) - 1, _NUM_SHOWN).round().astype(int))]
    rows = rows[rows["time"].isin(shown)]
    rows = rows.assign(**{_CURVE: [f"{time:g}" for time in rows["time"]]})
    if mean is not None:
        rows = concat([rows, _last_weights(mean).assign(**{_CURVE: _MEAN})])
    return _draw(rows, _QUALITY, "time")


def _last_weights(table: DataFrame) -> DataFrame:
    """Return the rows of trained denoisers; with several numbers of data, each one's last step."""
    rows: DataFrame = table[np.isfinite(table[NUM_TRAIN].to_numpy(float))]
    if rows[NUM_TRAIN].nunique() > 1 and STEP in rows:
        rows = rows[rows[STEP] == rows.groupby(NUM_TRAIN)[STEP].transform("max")]
    return rows


def _draw(rows: DataFrame, quantities: Sequence[_Quantity], legend: str) -> Figure:
    """Draw a panel per quantity; the first one's error may be called `sem`."""
    axis = learning_axis(rows)
    names = list(dict.fromkeys(rows[_CURVE]))
    x = np.unique(rows[axis].to_numpy(float))

    def curves(column: str, once: str = "") -> dict[str, NDArray[np.float64]]:
        wide = rows.pivot(index=axis, columns=_CURVE, values=column).reindex(x)
        found = {name: wide[name].to_numpy(float) for name in names}
        return {once: found[names[0]]} if once else found

    panels = []
    for quantity in quantities:
        once = quantity.label if quantity.once else ""
        errors = (f"{quantity.column}_sem", "sem")
        error = next(name for name in errors if name in rows)
        panels.append(
            Panel(
                quantity.label,
                curves(quantity.column, once),
                bands=curves(error, once),
                theory=curves(quantity.chance, once) if quantity.chance else {},
                theory_label="share by chance",
                unit=quantity.label,
                log=quantity.log,
            )
        )
    return curve_figure(x, _LABELS[axis], panels, legend, log=True)
