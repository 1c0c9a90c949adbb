"""The transition of a curve and of its theory, with standard errors."""

from typing import Final

import numpy as np
from jaxtyping import Float64, Real

from lit_hier.metrics.functional.averages import Groups
from lit_hier.metrics.functional.crossing import theory_errors, transition, transition_errors

TRANSITION_NUMBERS: Final = ("place", "width", "theory_place", "theory_width")
"""What `locate_transition` computes."""


def locate_transition(
    x: Real[np.ndarray, " T"],
    curve: Real[np.ndarray, " T"],
    values: Real[np.ndarray, "T N"],
    groups: Groups,
    theory: Float64[np.ndarray, " T"],
    theory_error: Float64[np.ndarray, " T"],
    chance: float,
    crossed: bool = False,
) -> dict[str, tuple[float, float]]:
    """Locate the transition of a curve and that of its theory.

    Args:
        x: Ascending or descending, shape (T,).
        curve: The average over data, shape (T,).
        values: Probabilities per time and datum.
        groups: The grammar of each datum.
        theory: The prediction of `curve`; NaN where none applies.
        theory_error: Its standard error; 0 for a closed form.
        chance: The probability that the curves fall to.
        crossed: Whether all groups measured the same data, see `average`.

    Returns:
        place, width, theory_place and theory_width, each with its standard error, NaN where
        unknown: see `transition`, `transition_errors` and `theory_errors`.
    """
    numbers = [*transition(x, curve, chance), *transition(x, theory, chance)]
    errors = [
        *transition_errors(x, values, groups, chance, crossed=crossed),
        *theory_errors(x, theory, theory_error, chance),
    ]
    pairs = np.array([numbers, errors], dtype=np.float64).T.tolist()
    return {name: tuple(pair) for name, pair in zip(TRANSITION_NUMBERS, pairs, strict=True)}
