"""Ensembles of grammars, for averages over rules and for phase diagrams."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Final

from lit_hier.errors import InputError
from lit_hier.rhm.grammar import Grammars, RandomHierarchyModel

_MAX_GRAMMARS: Final = 5000


class GrammarEnsemble(Grammars):
    """One random grammar for each combination of m, L and seed of the rules; at most 5000.

    Args:
        num_features: v.
        num_synonyms: m, a number or a list.
        tuple_size: s.
        num_layers: L, a number or a list.
        num_classes: n; defaults to v.
        seeds: Seeds of the rules, without repeats.

    Raises:
        InputError: A list is empty or repeats a number, there are too many combinations, or the
            numbers do not define an RHM.
    """

    def __init__(
        self,
        num_features: int,
        num_synonyms: int | Sequence[int],
        tuple_size: int,
        num_layers: int | Sequence[int],
        num_classes: int | None = None,
        seeds: Sequence[int] = (0,),
    ) -> None:
        choices: dict[str, list[int]] = {
            "num_synonyms": _several(num_synonyms),
            "num_layers": _several(num_layers),
            "seeds": list(seeds),
        }
        for name, values in choices.items():
            if not values:
                raise InputError(f"{name}: the list is empty; give at least one")
            if len(set(values)) < len(values):
                raise InputError(f"{name}: {values} repeats a number; give each number once")
        if (num := math.prod(map(len, choices.values()))) > _MAX_GRAMMARS:
            raise InputError(
                f"num_synonyms, num_layers and seeds give {num} grammars; give shorter lists, for"
                f" at most {_MAX_GRAMMARS}"
            )
        self._grammars = tuple(
            RandomHierarchyModel(num_features, m, tuple_size, L, num_classes, seed)
            for m, L, seed in product(*choices.values())
        )

    @property
    def grammars(self) -> tuple[RandomHierarchyModel, ...]:
        """All grammars, ordered by m, then L, then seed."""
        return self._grammars

    def __repr__(self) -> str:
        """Return the first grammar and the number of others."""
        first, *others = self.grammars
        more = f" and {len(others)} more" if others else ""
        return f"{type(self).__name__} of {first}{more}"


def _several(values: int | Sequence[int]) -> list[int]:
    return list(values) if isinstance(values, Sequence) else [int(values)]
