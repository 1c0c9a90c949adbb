"""The sizes of a grammar: v, n, m, s and L, in the notation of the paper."""

from typing import NamedTuple, Self

from lit_hier.rhm.grammar import RandomHierarchyModel


class GrammarParameters(NamedTuple):
    """The parameters of an RHM; grammars that share them differ in their rules only.

    Attributes:
        v: Symbols in the alphabet.
        n: Classes.
        m: Synonyms, the production rules per symbol.
        s: Branching, the tuple size.
        L: Depth.
    """

    v: int
    n: int
    m: int
    s: int
    L: int

    @classmethod
    def of(cls, rhm: RandomHierarchyModel) -> Self:
        """Read the parameters of a grammar."""
        return cls(
            rhm.num_features, rhm.num_classes, rhm.num_synonyms, rhm.tuple_size, rhm.num_layers
        )
