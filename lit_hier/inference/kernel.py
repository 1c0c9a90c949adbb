"""The passes of belief propagation on a CPU, by the native kernel."""

import ctypes
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from lit_hier.inference.flags import TABLES, affected_queries
from lit_hier.inference.native_library import Grammar, Results
from lit_hier.inference.passes import Query, log_evidence
from lit_hier.inference.semirings import LinearSemiring
from lit_hier.inference.tables import RuleTables

_OUT_OF_MEMORY: Final = -1


@cache
def _pointers(count: int) -> type[ctypes.Array[ctypes.c_void_p]]:
    return ctypes.c_void_p * count


@cache
def _openmp_parallel() -> Any:
    """GOMP_parallel of torch's OpenMP library, or None if that is not GNU-compatible.

    Its threads do not survive a fork; see `forked`. If the system cannot start a thread, OpenMP
    ends the process.
    """
    return getattr(ctypes.CDLL(None), "GOMP_parallel", None)


def answer_queries(
    library: ctypes.CDLL,
    tables: RuleTables,
    leaves: Float[Tensor, "batch leaves symbols"],
    class_prior: Float64[Tensor, "batch classes"],
    draws: Float64[Tensor, "batch choices"] | None,
    results: Mapping[Query, tuple[Tensor, ...]],
) -> dict[Query, Bool[Tensor, " batch"]]:
    """Write the answers to several queries in one pass over the samples.

    Besides the results each thread needs 1 MiB, or the upward messages of two samples if that is
    more.

    Args:
        library: The kernel.
        tables: The grammar's tables.
        leaves: Leaf messages, float32 or float64, shape (B, s**L, v).
        class_prior: Probability of each class, shape (B, n); samples may share memory.
        draws: Uniform numbers, shape (B, 1 + `num_choices`), if trees are queried.
        results: By query, contiguous tensors for what `Posterior.query` returns.

    Returns:
        By query, whether a sample's error due to underflow may exceed rounding, shape (B,); empty
        if no sample is affected.

    Raises:
        InputError: A leaf message is negative or non-finite.
        MemoryError: There is not enough memory for a tile of samples.
    """
    batch = leaves.shape[0]
    leaves = leaves.contiguous()
    flags = torch.empty(batch, dtype=torch.uint8)
    addresses = Results(flags=flags.data_ptr())
    levels = []
    for query in TABLES:
        if query in results:
            pointers = [level.data_ptr() for level in results[query]]
            levels.append(_pointers(len(pointers))(*pointers))
            setattr(addresses, query, ctypes.addressof(levels[-1]))
    if draws is not None:
        draws = draws.contiguous()
        addresses.draws = draws.data_ptr()
    if "log_evidence" in results:
        root = leaves.new_empty(batch, tables.num_classes)
        exponents = torch.empty(batch, dtype=torch.int64)
        addresses.root, addresses.exponents = root.data_ptr(), exponents.data_ptr()
    grammar = Grammar(
        tables.num_features,
        tables.num_classes,
        tables.num_synonyms,
        tables.tuple_size,
        tables.num_layers,
        tables.kernel.rules.data_ptr(),
        tables.kernel.targets.data_ptr(),
        tables.kernel.terms.data_ptr(),
        class_prior.data_ptr(),
        class_prior.stride(0),
    )
    double = leaves.dtype == torch.float64
    function = library.answer_queries_float64 if double else library.answer_queries_float32
    any_flags: int = function(
        ctypes.byref(grammar),
        ctypes.c_void_p(leaves.data_ptr()),
        ctypes.c_int64(batch),
        ctypes.byref(addresses),
        ctypes.c_int64(torch.get_num_threads()),
        _openmp_parallel(),
    )
    if any_flags == _OUT_OF_MEMORY:
        raise MemoryError("belief propagation: no memory left for a tile of samples")
    if "log_evidence" in results:
        (evidence,) = results["log_evidence"]
        evidence.copy_(log_evidence(tables, class_prior, root, exponents, LinearSemiring()))
    return affected_queries(flags, any_flags, results)
