"""Compile what later checks need, each in its own process, so that they find it on disk.

Triton compiles belief propagation for each grammar, data type and set of queries, on one core.
"""

from contextlib import suppress

import torch
from card import Card
from runner import Report
from sizes import TINY, Size, kernel_name
from variants import kernel

from lit_hier.inference import BeliefPropagation, gpu
from lit_hier.rhm import RandomHierarchyModel

TABLE = "Compilation, several at a time"


def compile_kernel(
    card: Card, report: Report, size: Size, dtype: str, queries: tuple[str, ...],
    setting: tuple[int, int] | None = None,
) -> None:  # fmt: skip
    """Answer two samples by the kernel."""
    name = kernel_name(size, dtype, queries, setting)
    rhm = RandomHierarchyModel(*card.size(size, TINY))
    bp = BeliefPropagation(rhm).to(card.device)
    shape = (2, rhm.num_leaves, rhm.num_features)
    messages = card.put(torch.ones(shape, dtype=getattr(torch, dtype)))
    draws = card.put(torch.rand(2, 1 + bp.tables.num_choices, dtype=torch.float64))
    posterior = bp.condition(messages)
    with kernel(*(setting or ())):
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
    from lit_hier.kernels import belief_propagation

    found: dict[str, object] = {}
    with suppress(Exception):
        plan = next(iter(gpu._work(bp.tables).plans.values()))
        found["scratch, bytes a sample"] = plan.scratch_size * itemsize
        caches = belief_propagation.answer_queries.device_caches
        compiled = next(iter(caches[torch.cuda.current_device()][0].values()))
        found["registers"], found["bytes spilled"] = compiled.n_regs, compiled.n_spills
        found["shared memory, bytes"] = compiled.metadata.shared
    return found
