"""Parsing one level: from a tuple to the symbol whose rule produces it."""

import torch
from torch import Tensor

from lit_hier.io.devices import constant


class LevelParser:
    """The inverse of one level's rules, for any v and s.

    It is a trie over the tuples, one position at a time. A prefix is coded by a number below
    v times the number of rules, so no array of size v^s is allocated and no code overflows, even
    where v^s itself does not fit into an integer.

    Args:
        rules: Distinct tuples, int64, shape (parents, m, s).
        num_features: v.
    """

    def __init__(self, rules: Tensor, num_features: int) -> None:
        tuples = rules.flatten(0, 1)
        self.num_features = num_features
        self.codes: list[Tensor] = []  # per position: codes of the prefixes, ascending
        rank = torch.zeros(len(tuples), dtype=torch.int64)
        for symbols in tuples.T:
            codes, rank = torch.unique(rank * num_features + symbols, return_inverse=True)
            self.codes.append(codes)
        self.parents = torch.empty_like(rank)
        self.parents[rank] = torch.arange(len(tuples)) // rules.shape[1]

    def __call__(self, tuples: Tensor) -> Tensor:
        """Return the parent of each tuple, -1 for a tuple that no rule produces.

        Args:
            tuples: int64, shape (..., s); a negative symbol occurs in no rule.

        Returns:
            Symbols, int64, shape (...).
        """
        known = (tuples >= 0).all(-1)
        rank = torch.zeros_like(known, dtype=torch.int64)
        for codes, symbols in zip(self.codes, tuples.unbind(-1), strict=True):
            codes = constant(codes, tuples.device)
            code = rank * self.num_features + symbols
            rank = torch.searchsorted(codes, code).clamp_(max=len(codes) - 1)
            known &= codes[rank] == code
        return torch.where(known, constant(self.parents, tuples.device)[rank], -1)
