"""Many grammars together: what averages over rules and phase diagrams are made of."""

from collections.abc import Sequence
from itertools import product

from lit_hier.errors import InputError
from lit_hier.rhm.grammar import Grammars, RandomHierarchyModel


class GrammarEnsemble(Grammars):
    """Random grammars of several numbers of synonyms, several depths, several seeds of the rules.

    Args:
        num_features: v.
        num_synonyms: m, one or a list.
        tuple_size: s.
        num_layers: L, one or a list.
        num_classes: n; v where it is left out.
        seeds: Seeds of the rules, each given once; every pair (m, L) has one grammar per seed.

    Raises:
        InputError: A list is empty or says something twice, or the numbers make no grammar.
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
                raise InputError(f"{name}: {values} says something twice; give each number once")
        self._grammars = tuple(
            RandomHierarchyModel(num_features, m, tuple_size, L, num_classes, seed)
            for m, L, seed in product(*choices.values())
        )

    @property
    def grammars(self) -> tuple[RandomHierarchyModel, ...]:
        """All of them, by m, then L, then seed."""
        return self._grammars

    def __repr__(self) -> str:
        """Say how many there are and the first one's parameters."""
        first, *others = self.grammars
        more = f" and {len(others)} more" if others else ""
        return f"{type(self).__name__} of {first}{more}"


def _several(values: int | Sequence[int]) -> list[int]:
    return list(values) if isinstance(values, Sequence) else [int(values)]
