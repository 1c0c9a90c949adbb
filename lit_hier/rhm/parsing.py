"""From a tuple back to the symbol whose rule makes it."""

import torch
from torch import Tensor


class LevelParser:
    """The inverse of one level's rules, for any v and s.

    A trie over the tuples, one position at a time: a prefix is a number below (number of rules)
    times v, so nothing overflows and nothing of size v^s is made, where v^s itself may not fit
    an integer.

    Args:
        rules: int64, shape (parents, m, s), no tuple twice.
        num_features: v.
    """

    def __init__(self, rules: Tensor, num_features: int) -> None:
        tuples = rules.flatten(0, 1)
        self.num_features = num_features
        self.codes: list[Tensor] = []  # per position: the known prefixes' codes, ascending
        rank = torch.zeros(len(tuples), dtype=torch.int64)
        for symbols in tuples.T:
            codes, rank = torch.unique(rank * num_features + symbols, return_inverse=True)
            self.codes.append(codes)
        self.parents = torch.empty_like(rank)
        self.parents[rank] = torch.arange(len(tuples)) // rules.shape[1]

    def __call__(self, tuples: Tensor) -> Tensor:
        """Give the parents, -1 where no rule makes the tuple.

        Args:
            tuples: int64, shape (..., s); a negative symbol is in no rule.
        """
        known = (tuples >= 0).all(-1)
        rank = torch.zeros_like(known, dtype=torch.int64)
        for codes, symbols in zip(self.codes, tuples.unbind(-1), strict=True):
            codes = codes.to(tuples.device)
            code = rank * self.num_features + symbols
            rank = torch.searchsorted(codes, code).clamp_(max=len(codes) - 1)
            known &= codes[rank] == code
        return torch.where(known, self.parents.to(tuples.device)[rank], -1)
