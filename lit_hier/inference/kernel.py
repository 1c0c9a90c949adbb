"""The passes of belief propagation on a CPU, by the compiled kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from lit_hier.errors import InputError
from lit_hier.inference import compiler
from lit_hier.inference.passes import Query, log_evidence
from lit_hier.inference.sum_product import LINEAR

if TYPE_CHECKING:
    from lit_hier.inference.belief_propagation import BeliefPropagation
    from lit_hier.rhm.grammar import Tree

# What of a sample's verdict says that an answer may have lost more than rounding takes.
_UPWARD, _DOWNWARD, _PRODUCTS, _DRAWN, _NO_MESSAGE = (1 << k for k in range(5))
_DOUBTS: Final[dict[Query, int]] = {
    "upward": _UPWARD,
    "downward": _UPWARD | _DOWNWARD,
    "marginals": _UPWARD | _DOWNWARD | _PRODUCTS,
    "log_evidence": _UPWARD,
    "trees": _UPWARD | _DRAWN,
}
_NO_MEMORY: Final = -1

# What is one tensor per level.
_TABLES: Final[tuple[Query, ...]] = ("upward", "downward", "marginals", "trees")

# The threads of the OpenMP that torch has loaded; None if it is of another kind. After a fork they
# are gone for the kernel as for torch's own operations: there, torch.set_num_threads(1), as data
# loaders do. Where the system has no room for a first thread, OpenMP ends the process.
_PARALLEL: Final = getattr(ctypes.CDLL(None), "GOMP_parallel", None)

NO_MESSAGES: Final = "leaf_messages must be finite and not negative; look for NaN upstream"


class KernelRules:
    """A grammar's rules as the kernel reads them; they stay on the CPU.

    Args:
        rules: For each level, int64, shape (parents, m, s).
        num_features: Symbols v of a level below the root.

    Attributes:
        rules: One level after the other, int32; to the symbol of the i-th child i v is added.
        targets: For each level, place among the s children and symbol: the symbol, and how many
            rules have it at this place; int32, those of most rules first.
        terms: These rules, each as its parent and what `rules` says of the other children; int32.
    """

    def __init__(self, rules: Sequence[Tensor], num_features: int) -> None:
        told, targets, terms = [], [], []
        for rule in rules:
            parents, m, s = rule.shape
            parent = torch.arange(parents).repeat_interleave(m)
            places = (rule + num_features * torch.arange(s)).flatten(0, 1)
            told.append(places.flatten())
            for j, child in enumerate(rule.flatten(0, 1).T):
                counts = child.bincount(minlength=num_features)
                symbols = counts.argsort(descending=True, stable=True)
                targets.append(torch.stack((symbols, counts[symbols]), dim=1).flatten())
                others = torch.cat((parent[:, None], places[:, :j], places[:, j + 1 :]), dim=1)
                terms.append(others[symbols.argsort()[child].argsort(stable=True)].flatten())
        self.rules = torch.cat(told).int()
        self.targets = torch.cat(targets).int()
        self.terms = torch.cat(terms).int()


class _Grammar(ctypes.Structure):
    """As in the kernel's source."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in "vnmsL"),
        *((name, ctypes.c_void_p) for name in ("rules", "targets", "terms", "prior")),
    )


class _Answers(ctypes.Structure):
    """As in the kernel's source."""

    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in (*_TABLES, "root", "exponents", "draws", "verdict")
    )


@cache
def _pointers(count: int) -> type[ctypes.Array[ctypes.c_void_p]]:
    return ctypes.c_void_p * count


def kernel_for(bp: BeliefPropagation, leaves: Tensor) -> ctypes.CDLL | None:
    """Give the kernel, if there is one for these leaf messages."""
    if not (leaves.is_cpu and bp.class_prior.is_cpu):
        return None
    return compiler.kernel(leaves.dtype == torch.float64)


def answer(
    kernel: ctypes.CDLL,
    bp: BeliefPropagation,
    leaves: Tensor,
    draws: Tensor | None,
    tables: Mapping[Query, Tree],
) -> dict[Query, Tensor]:
    """Fill tables with answers, all of them in one go through the samples.

    Besides the tables each thread takes 1 MiB, or two of a sample's upward passes if that is more.

    Args:
        kernel: For the leaf messages' type.
        bp: The grammar's belief propagation.
        leaves: Leaf messages, shape (B, s**L, v).
        draws: Uniform numbers, float64, shape (B, 1 + `num_choices`), where trees are wanted.
        tables: What `Posterior.query` gives, contiguous and to be filled.

    Returns:
        For each question, of which samples underflow may have taken more than rounding does,
        shape (B,); nothing where this is none.

    Raises:
        InputError: A leaf message is negative or not finite.
        MemoryError: There is none left.
    """
    batch = leaves.shape[0]
    leaves = leaves.contiguous()
    verdict = torch.empty(batch, dtype=torch.uint8)
    answers = _Answers(verdict=verdict.data_ptr())
    levels = []
    for question in _TABLES:
        if question in tables:
            pointers = [table.data_ptr() for table in tables[question]]
            levels.append(_pointers(len(pointers))(*pointers))
            setattr(answers, question, ctypes.addressof(levels[-1]))
    if draws is not None:
        draws = draws.contiguous()
        answers.draws = draws.data_ptr()
    if "log_evidence" in tables:
        root, exponents = leaves.new_empty(batch, bp.num_classes), verdict.new_empty(batch).long()
        answers.root, answers.exponents = root.data_ptr(), exponents.data_ptr()
    told, prior = bp.kernel_rules, bp.class_prior.double()
    grammar = _Grammar(
        bp.num_features,
        bp.num_classes,
        bp.num_synonyms,
        bp.tuple_size,
        bp.num_layers,
        told.rules.data_ptr(),
        told.targets.data_ptr(),
        told.terms.data_ptr(),
        prior.data_ptr(),
    )
    worst: int = kernel.answer(
        ctypes.byref(grammar),
        ctypes.c_void_p(leaves.data_ptr()),
        ctypes.c_int64(batch),
        ctypes.byref(answers),
        ctypes.c_int64(torch.get_num_threads()),
        _PARALLEL,
    )
    if worst == _NO_MEMORY:
        raise MemoryError("belief propagation: no memory left for a tile of samples")
    if "log_evidence" in tables:
        tables["log_evidence"][0].copy_(log_evidence(bp, root, exponents, LINEAR))
    if worst & _NO_MESSAGE:
        raise InputError(NO_MESSAGES)
    if not worst:
        return {}
    return {question: (verdict & _DOUBTS[question]) != 0 for question in tables}
