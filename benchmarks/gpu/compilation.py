"""Compile what later checks need, each in its own process, so that they find it on disk.

Triton compiles belief propagation for each grammar, data type and set of queries, on one core.
"""

from contextlib import suppress

import torch
from card import Card
from runner import Report
from sizes import TINY, Size, kernel_name
from variants import VARIANTS

from lit_hier.inference import BeliefPropagation, gpu
from lit_hier.rhm import RandomHierarchyModel

TABLE = "Compilation, several at a time"


def compile_kernel(
    card: Card, report: Report, size: Size, dtype: str, queries: tuple[str, ...],
    prior_per_sample: bool = False,
) -> None:  # fmt: skip
    """Answer two samples by the kernel, with the grammar's prior or with one per sample."""
    name = kernel_name(size, dtype, queries, prior_per_sample)
    rhm = RandomHierarchyModel(*card.size(size, TINY))
    bp = BeliefPropagation(rhm).to(card.device)
    shape = (2, rhm.num_leaves, rhm.num_features)
    messages = card.put(torch.ones(shape, dtype=getattr(torch, dtype)))
    draws = card.put(torch.rand(2, 1 + bp.tables.num_choices, dtype=torch.float64))
    prior = torch.ones(2, rhm.num_classes) if prior_per_sample else None
    posterior = bp.condition(messages, prior)
    with VARIANTS["kernel"]():
        seconds = card.seconds(lambda: posterior.query(*queries, draws=draws))
    report.number(name, seconds)
    cells = {"compiled": name, "seconds": f"{seconds:.1f}"}
    report.cells(TABLE, cells | _resources(card, bp, messages.itemsize))


def _resources(card: Card, bp: BeliefPropagation, itemsize: int) -> dict[str, object]:
    """Name what a kernel writes and reads again, and what it takes of a multiprocessor.

    The latter only where this version of Triton tells.
    """
    if card.rehearse:
        return {}
    from lit_hier.inference import gpu_kernel

    found: dict[str, object] = {}
    with suppress(Exception):
        plan = next(iter(gpu._work(bp.tables).plans.values()))
        found["scratch, bytes a sample"] = plan.scratch_size * itemsize
        kernels = gpu_kernel.answer_queries.device_caches[torch.cuda.current_device()][0]
        kernel = next(iter(kernels.values()))
        found["registers"], found["bytes spilled"] = kernel.n_regs, kernel.n_spills
        found["shared memory, bytes"] = kernel.metadata.shared
    return found
