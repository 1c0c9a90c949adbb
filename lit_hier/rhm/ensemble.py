"""Many grammars together: what averages over rules and phase diagrams are made of."""

from collections.abc import Sequence
from itertools import product

from lit_hier.errors import InputError
from lit_hier.rhm.grammar import RandomHierarchyModel


class GrammarEnsemble:
    """Random grammars of several numbers of synonyms, several depths, several seeds of the rules.

    Args:
        num_features: v.
        num_synonyms: m, one or a list.
        tuple_size: s.
        num_layers: L, one or a list.
        num_classes: n; v where it is left out.
        seeds: Seeds of the rules, each given once; every pair (m, L) has one grammar per seed.

    Attributes:
        grammars: All of them, by m, then L, then seed.

    Raises:
        InputError: A list is empty or says something twice, or the numbers make no grammar.
    """

    def __init__(
        self,
        num_features: int,
        num_synonyms: int | list[int],
        tuple_size: int,
        num_layers: int | list[int],
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
        self.grammars = tuple(
            RandomHierarchyModel(num_features, m, tuple_size, L, num_classes, seed)
            for m, L, seed in product(*choices.values())
        )

    def __repr__(self) -> str:
        """Say how many there are and the first one's parameters."""
        first, *others = self.grammars
        more = f" and {len(others)} more" if others else ""
        return f"{type(self).__name__} of {first}{more}"


Grammars = RandomHierarchyModel | GrammarEnsemble
"""One grammar or an ensemble of them."""


def members(rhm: Grammars) -> tuple[RandomHierarchyModel, ...]:
    """Give the grammars of an ensemble, or the one grammar."""
    return rhm.grammars if isinstance(rhm, GrammarEnsemble) else (rhm,)


def _several(values: int | list[int]) -> list[int]:
    return [values] if isinstance(values, int) else list(values)
