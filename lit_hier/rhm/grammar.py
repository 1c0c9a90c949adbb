r"""The Random Hierarchy Model (RHM): a random context-free grammar of fixed depth.

A class :math:`\gamma` is drawn uniformly from n classes; then, level by level, every symbol is
rewritten by one of its m rules, drawn uniformly, as a tuple of s symbols of the level below:

.. math:: \mu^{(\ell)} \mapsto \mu^{(\ell-1)}_1, \dots, \mu^{(\ell-1)}_s,
   \qquad \ell \in \{L, \dots, 1\}

Level 0 holds the :math:`d = s^L` leaves, level L the class. The rules of a level are drawn
uniformly without replacement from the :math:`v^s` tuples and assigned to the symbols. No two
symbols share a tuple, so every datum has exactly one tree.

Source: Section 3 of the paper; Cagnetta et al., "How Deep Neural Networks Learn Compositional
Data: The Random Hierarchy Model" (2023).
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, Self

import numpy as np
import torch
from torch import Tensor

from lit_hier.errors import InputError
from lit_hier.rhm.parsing import LevelParser
from lit_hier.rhm.sampling import count_words, sample_distinct_words

MAX_LEAVES: Final = 2**20
MAX_FEATURES: Final = 2**12  # networks see a symbol as a vector of v numbers
MAX_RULES: Final = 2**22  # symbols on the right-hand sides of all rules of a grammar

Tree = tuple[Tensor, ...]
"""One int64 tensor per level, leaves first: tree[l] has shape (num, s**(L-l))."""


class Grammars(ABC):
    """One grammar or several, as data modules and samplers accept them."""

    @property
    @abstractmethod
    def grammars(self) -> "tuple[RandomHierarchyModel, ...]":
        """The grammars."""


class RandomHierarchyModel(Grammars):
    """A random grammar: sampling and counting of its data, and parsing of data into latents.

    Args:
        num_features: v, number of symbols at every level below the root; 2 to 2^12.
        num_synonyms: m, rules per symbol; m v <= v^s and m n <= v^s.
        tuple_size: s, the branching; at least 2.
        num_layers: L, the depth; at least 1, and s^L is at most 2^20. The rules of all levels have
            at most 2^22 symbols, m s (v (L - 1) + n).
        num_classes: n, number of symbols at the root; defaults to v.
        seed: Seed of the rules. The rules of a level depend on (seed, level, v, m, s) only.

    Raises:
        InputError: The numbers do not define an RHM.
    """

    rules: tuple[Tensor, ...]
    """rules[l], int64, shape (parents, m, s): a symbol of level l+1 -> its tuples at level l."""

    def __init__(
        self,
        num_features: int,
        num_synonyms: int,
        tuple_size: int,
        num_layers: int,
        num_classes: int | None = None,
        seed: int = 0,
    ) -> None:
        v, m, s, num_parents = num_features, num_synonyms, tuple_size, num_classes
        if num_parents is None:
            num_parents = v
        for name, value, least in (
            ("num_features", v, 2),
            ("num_synonyms", m, 1),
            ("tuple_size", s, 2),
            ("num_layers", num_layers, 1),
            ("num_classes", num_parents, 1),
            ("seed", seed, 0),
        ):
            if value < least:
                raise InputError(f"{name} is {value}; give at least {least}")
        _check_size(v, num_parents, m, s, num_layers)
        for name, parents in (("num_features", v), ("num_classes", num_parents)):
            needed = name == "num_classes" or num_layers > 1
            if needed and m * parents > count_words([v] * s):
                raise InputError(
                    f"num_synonyms={m} with {name}={parents} needs {m * parents} different tuples,"
                    f" but num_features={v} and tuple_size={s} allow only v^s = {v**s};"
                    f" take num_synonyms <= {v**s // parents}"
                )
        rules = []
        for level in range(num_layers):
            parents = num_parents if level == num_layers - 1 else v
            generator = np.random.default_rng([seed, level])
            tuples = sample_distinct_words(generator, parents * m, [v] * s, what="rules")
            rules.append(torch.from_numpy(tuples.astype(np.int64)).view(parents, m, s))
        self._set_rules(tuple(rules), v)

    @classmethod
    def from_rules(cls, rules: Sequence[Any], num_features: int | None = None) -> Self:
        """Construct a grammar from given rules.

        Args:
            rules: One entry per level, leaves first: rules[l] is an integer array or nested list
                of shape (parents, m, s) with the m tuples at level l of each symbol of level l+1.
                All levels share v, m and s; the parents of the last level are the n classes.
            num_features: v; defaults to the number of parents below the root or, for a single
                level, to the largest symbol plus one.

        Raises:
            InputError: The rules do not define an RHM.
        """
        levels = []
        if not len(rules):
            raise InputError("rules: the list is empty; give one array (parents, m, s) per level")
        for level, given in enumerate(rules):
            try:
                array = np.asarray(given)
            except ValueError:
                array = np.asarray(None)
            if array.ndim != 3 or not np.issubdtype(array.dtype, np.integer) or not array.size:
                raise InputError(
                    f"rules[{level}] is not an integer array of shape (parents, m, s);"
                    " give every symbol the same number m of tuples of s symbols"
                )
            levels.append(torch.from_numpy(array.astype(np.int64)))
        if num_features is None:
            several = len(levels) > 1
            num_features = levels[0].shape[0] if several else int(levels[0].max()) + 1
        v = num_features
        if isinstance(v, bool) or not isinstance(v, int) or v < 1:
            raise InputError(f"num_features is {v!r}; give the number of symbols, an integer")
        m, s = levels[0].shape[1:]
        if s < 2:
            raise InputError(f"rules[0] has tuples of {s} symbol; give tuples of at least 2")
        _check_size(v, levels[-1].shape[0], m, s, len(levels))
        for level, rule in enumerate(levels):
            is_root = level == len(levels) - 1
            wanted = (rule.shape[0] if is_root else v, m, s)
            if tuple(rule.shape) != wanted:
                raise InputError(
                    f"rules[{level}] has shape {tuple(rule.shape)}, not {wanted} (parents, m, s):"
                    " below the root every level has v parents, and all levels share m and s"
                )
            if rule.min() < 0 or rule.max() >= v:
                symbol = int(rule[(rule < 0) | (rule >= v)][0])
                raise InputError(
                    f"rules[{level}] has symbol {symbol}, which is out of range;"
                    f" give symbols from 0 to num_features - 1 = {v - 1}"
                )
            flat = rule.flatten(0, 1)
            distinct, inverse, counts = flat.unique(dim=0, return_inverse=True, return_counts=True)
            if len(distinct) < len(flat):
                shared = int((counts > 1).nonzero()[0])
                owners = (inverse == shared).nonzero().flatten() // m
                raise InputError(
                    f"rules[{level}]: tuple {tuple(distinct[shared].tolist())} belongs to symbols"
                    f" {int(owners[0])} and {int(owners[1])}; use each tuple once per level"
                )
        grammar = cls.__new__(cls)
        grammar._set_rules(tuple(levels), v)
        return grammar

    def _set_rules(self, rules: tuple[Tensor, ...], num_features: int) -> None:
        self.rules = rules
        self.num_features = num_features
        self.num_classes, self.num_synonyms, self.tuple_size = rules[-1].shape
        self.num_layers = len(rules)
        self._parsers = tuple(LevelParser(rule, num_features) for rule in rules)

    @property
    def grammars(self) -> "tuple[RandomHierarchyModel, ...]":
        """This grammar."""
        return (self,)

    @property
    def num_leaves(self) -> int:
        """Dimension of the data, d = s^L."""
        return self.num_nodes(0)

    def num_nodes(self, level: int) -> int:
        """Number of nodes at a level, s^(L - level)."""
        return int(self.tuple_size ** (self.num_layers - level))

    @property
    def num_choices(self) -> int:
        """Number of rules that derive a datum, (d - 1)/(s - 1): one per node above the leaves."""
        return (self.num_leaves - 1) // (self.tuple_size - 1)

    @property
    def num_data_per_class(self) -> int:
        """Number of data of each class, m^((d - 1)/(s - 1)) (Section 3)."""
        return int(self.num_synonyms**self.num_choices)

    @property
    def num_data(self) -> int:
        """Number of data, n m^((d - 1)/(s - 1))."""
        return self.num_classes * self.num_data_per_class

    @property
    def entropy(self) -> float:
        """Entropy of the uniform distribution over data, log `num_data`, in nats."""
        return math.log(self.num_classes) + self.num_choices * math.log(self.num_synonyms)

    def sample(
        self,
        num: int,
        generator: torch.Generator | None = None,
        labels: Tensor | None = None,
    ) -> Tree:
        """Draw trees from the model.

        Args:
            num: Number of trees.
            generator: Source of randomness; the trees are on its device.
            labels: Classes of the trees, integer, shape (num,), on the device of the generator if
                there is one; drawn uniformly by default.

        Returns:
            L + 1 tensors, int64; tree[l] has shape (num, s**(L-l)).

        Raises:
            InputError: `labels` has another shape or is out of range.
        """
        device = torch.device("cpu") if labels is None else labels.device
        if generator is not None:
            device = generator.device
        if labels is None:
            labels = torch.randint(self.num_classes, (num,), generator=generator, device=device)
        elif labels.shape != (num,):
            raise InputError(f"labels has shape {tuple(labels.shape)}; give ({num},)")
        elif num and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise InputError(f"labels must lie in 0 to num_classes - 1 = {self.num_classes - 1}")
        shape = (num, self.num_choices)
        choices = torch.randint(self.num_synonyms, shape, generator=generator, device=device)
        return self.derive(labels, choices)

    def derive(self, labels: Tensor, choices: Tensor) -> Tree:
        """Derive trees from classes and choices of rules: a bijection onto the data.

        Args:
            labels: Classes, any integer type, shape (num,).
            choices: Which of its m rules each node uses, any integer type, shape
                (num, `num_choices`): the root first, then level by level, left to right.

        Returns:
            Trees as `sample` returns them, on the device of `labels`.
        """
        symbols = labels.long()[:, None]
        levels = [symbols]
        for rule in reversed(self.rules):
            chosen, choices = choices.tensor_split([symbols.shape[1]], dim=1)
            symbols = rule.to(labels.device)[symbols, chosen.long()].flatten(1)
            levels.append(symbols)
        return tuple(reversed(levels))

    def parse(self, leaves: Tensor) -> tuple[Tree, tuple[Tensor, ...]]:
        """Infer the latents of leaves.

        Args:
            leaves: Symbols, any integer type, shape (num, s**L).

        Returns:
            tree, valid. valid[l] has the shape of tree[l], bool: whether rules explain the whole
            subtree of that node; where they do not, tree[l] is -1.

        Raises:
            InputError: `leaves` has another shape.
        """
        if leaves.ndim != 2 or leaves.shape[1] != self.num_leaves:
            raise InputError(
                f"leaves has shape {tuple(leaves.shape)}; give (num, {self.num_leaves})"
            )
        symbols = leaves.long()
        known = (symbols >= 0) & (symbols < self.num_features)
        tree, valid = [torch.where(known, symbols, -1)], [known]
        for parser in self._parsers:
            symbols = parser(tree[-1].unflatten(1, (-1, self.tuple_size)))
            tree.append(symbols)
            valid.append(symbols >= 0)
        return tuple(tree), tuple(valid)

    @property
    def notation(self) -> str:
        """The parameters as text, in the paper's notation."""
        return (
            f"(v={self.num_features}, n={self.num_classes},"
            f" m={self.num_synonyms}, s={self.tuple_size}, L={self.num_layers})"
        )

    @property
    def description(self) -> str:
        """The parameters and a hash of the rules: different grammars have different ones."""
        rules = hashlib.sha256(b"".join(rule.numpy().tobytes() for rule in self.rules))
        return f"an RHM{self.notation} with rules {rules.hexdigest()[:12]}"

    def __repr__(self) -> str:
        """Return the class and the parameters."""
        return f"{type(self).__name__}{self.notation}"


def _check_size(v: int, n: int, m: int, s: int, num_layers: int) -> None:
    """Check that a grammar fits into memory, before any of it is built.

    Raises:
        InputError: It has too many symbols, leaves or rules.
    """
    if v > MAX_FEATURES:
        raise InputError(f"num_features is {v}; give at most {MAX_FEATURES}")
    # s >= 2, so the power of a large depth need not be computed.
    if s > MAX_LEAVES or num_layers > math.log2(MAX_LEAVES) or s**num_layers > MAX_LEAVES:
        raise InputError(
            f"tuple_size={s} and num_layers={num_layers} give s^L leaves; give smaller numbers,"
            f" for at most {MAX_LEAVES}"
        )
    if (num_symbols := m * s * (v * (num_layers - 1) + n)) > MAX_RULES:
        raise InputError(
            f"num_synonyms={m}, num_features={v}, num_classes={n} and tuple_size={s} give rules"
            f" with {num_symbols} symbols; give smaller numbers, for at most {MAX_RULES}"
        )
