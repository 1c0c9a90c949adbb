"""The passes of belief propagation on an NVIDIA GPU, by one kernel for the whole tree.

The rules are part of the kernel's code (`lit_hier.kernels.belief_propagation`): it is compiled for
a grammar and a set of queries, which takes seconds to minutes, and Triton keeps it on disk. As
the bits are those of the plain torch operations, nothing changes when it takes over: the plain
path answers until it has had as much work as pays for compiling.

The environment variable LIT_HIER_KERNEL has the kernel compiled at the first query (`1`) or never
(`0`).
"""

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from lit_hier.inference.flags import TABLES, Flag, affected_queries
from lit_hier.inference.passes import Query, log_evidence
from lit_hier.inference.semirings import LinearSemiring
from lit_hier.inference.tables import RuleTables
from lit_hier.kernels.compiled import CompiledKernels

# Beyond these, registers do not hold a node's messages, or the code grows too long.
_MAX_SYMBOLS: Final = 64
_MAX_TERMS: Final = 2**15

# Numbers in leaf messages per term of the sums of products after which compiling has paid. An
# estimate: no GPU has measured it.
_NUMBERS_PER_TERM: Final = 2**23

_HEIGHT: Final = 2  # levels that a step of the kernel passes within a lane
_WARPS: Final = 2  # of a program
_WARPS_PER_MULTIPROCESSOR: Final = 8  # if each lane has 255 registers
_SCRATCH_BYTES: Final = 2**16  # of a program at most, if it answers several samples at once
_ALIGNMENT: Final = 16  # bytes


class Tables(NamedTuple):
    """What the kernel reads and writes; a query's tables are empty if it was not asked."""

    leaves: Tensor
    prior: Tensor
    draws: Tensor
    rules: Tensor
    upward: tuple[Tensor, ...]
    downward: tuple[Tensor, ...]
    marginals: tuple[Tensor, ...]
    trees: tuple[Tensor, ...]
    root: Tensor
    exponents: Tensor
    flags: Tensor
    scratch: Tensor


class Real(NamedTuple):
    """A floating-point type: its integers, mantissa, exponent, smallest normal number, epsilon."""

    float: Any
    bits: Any
    mantissa: int
    bias: int
    tiny: float
    rounding: float


class RowLayout(NamedTuple):
    """Which thread has which number of a block of rows, in memory's order and in registers."""

    memory: Any
    registers: Any
    lanes: Any
    entries: Any


class Plan:
    """A grammar's sizes and rules as the kernel's code has them: constants of its compilation.

    Args:
        tables: The grammar's tables.
        dtype: Of the messages.
        queries: What is answered.
        height: Levels that a step passes within a lane.
        warps: Groups of 32 lanes in a program.

    Attributes:
        steps: Lowest and highest level of each step.
        sums: For each level above the leaves, the sums of its upward messages, then those of the
            downward messages to each child: for each symbol its terms, an index for each operand.
        scratch_size: Numbers of scratch memory that a program needs per sample.
    """

    UPWARD, DOWNWARD, PRODUCTS, DRAWN, INVALID = map(int, Flag)

    def __init__(
        self,
        tables: RuleTables,
        dtype: torch.dtype,
        queries: Collection[Query],
        height: int = _HEIGHT,
        warps: int = _WARPS,
    ) -> None:
        self.upward, self.downward = "upward" in queries, "downward" in queries
        self.marginals, self.trees = "marginals" in queries, "trees" in queries
        self.log_evidence = "log_evidence" in queries
        self.passes_down = self.downward or self.marginals
        self.descends = self.passes_down or self.trees
        self.s, self.num_synonyms = tables.tuple_size, tables.num_synonyms
        self.top = tables.num_layers
        self.width = tuple(nodes for nodes, _ in tables.level_shapes)
        self.symbols = tuple(symbols for _, symbols in tables.level_shapes)
        lowest = range(0, self.top, height)
        self.steps = tuple((low, min(low + height, self.top)) for low in lowest)
        self.lanes, self.warps = 32 * warps, warps
        self._place_scratch()
        self._place_draws()
        self._write_sums(tables)
        state = repr((dtype, sorted(vars(self).items())))
        self._digest = hashlib.sha256(state.encode()).hexdigest()
        self._choose_layouts(dtype)

    def _place_scratch(self) -> None:
        """Place each step's highest messages, their bounds and their exponents."""
        places = [[0] * (self.top + 1) for _ in range(3)]
        self.scratch_size = 0
        for _, level in self.steps:
            for place, numbers in zip(places, (self.symbols[level], 2, 1), strict=True):
                place[level] = self.scratch_size
                self.scratch_size += -(-self.width[level] * numbers // 32) * 32  # aligned
        self.rows_at, self.bounds_at, self.exponents_at = map(tuple, places)

    def _place_draws(self) -> None:
        """Count the draws before those of each level's nodes: the class's, then from the root."""
        above = [0] * (self.top + 1)
        self.num_draws = 1
        for level in range(self.top, 0, -1):
            above[level] = self.num_draws
            self.num_draws += self.width[level]
        self.above = tuple(above)

    def _write_sums(self, tables: RuleTables) -> None:
        """Nest the rules as the native kernel reads them."""
        s, m, v = self.s, self.num_synonyms, tables.num_features
        rules = iter(tables.kernel.rules.view(-1, m, s).tolist())
        targets = iter(tables.kernel.targets.view(-1, v, 2).tolist())
        terms = map(tuple, tables.kernel.terms.view(-1, s).tolist())
        sums: list[tuple[Any, ...]] = [()]
        first, most = [0, 0], [0]
        for parents in self.symbols[1:]:
            first.append(first[-1] + parents * m * s)
            kinds = [tuple(tuple(map(tuple, of_parent)) for of_parent in islice(rules, parents))]
            for _ in range(s):
                of_child = {x: tuple(islice(terms, count)) for x, count in next(targets)}
                kinds.append(tuple(of_child[x] for x in range(v)))
            sums.append(tuple(kinds))
            most.append(max(len(of_child) for kind in kinds[1:] for of_child in kind))
        self.first_rule, self.most_rules = tuple(first), tuple(most)
        self.sums = tuple(sums)

    def _choose_layouts(self, dtype: torch.dtype) -> None:
        from triton import knobs, next_power_of_2

        from lit_hier.kernels.belief_propagation import gl

        double = dtype == torch.float64
        numbers = (gl.float64, gl.int64, 52, 1022) if double else (gl.float32, gl.int32, 23, 126)
        self.real = Real(*numbers, torch.finfo(dtype).tiny, torch.finfo(dtype).eps)
        widths = [next_power_of_2(max(count, 1)) for count in range(max(self.symbols) + 1)]
        self.order = tuple(map(_reversed_bits, widths))
        self.lane_layout = None
        self.row_layout: tuple[RowLayout, ...] = (RowLayout(None, None, None, None),) * len(widths)
        if knobs.runtime.interpret:
            return
        self.lane_layout = gl.BlockedLayout([1], [32], [self.warps], [0])

        def row_layout(width: int) -> RowLayout:
            vector = min(_ALIGNMENT // dtype.itemsize, width)
            across = min(width // vector, 32)
            threads, warps = [32 // across, across], [self.warps, 1]
            memory = gl.BlockedLayout([1, vector], threads, warps, [1, 0])
            registers = gl.BlockedLayout([1, width], [32, 1], warps, [1, 0])
            return RowLayout(
                memory, registers, gl.SliceLayout(1, memory), gl.SliceLayout(0, memory)
            )

        self.row_layout = tuple(map(row_layout, widths))

    def __repr__(self) -> str:
        """Return what the compiled kernel is kept under."""
        return f"Plan({self._digest})"

    def __hash__(self) -> int:
        """Hash as `repr`, without looking at the rules."""
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        """Compare as `repr`."""
        return isinstance(other, Plan) and other._digest == self._digest


def _reversed_bits(width: int) -> tuple[int, ...]:
    """Return the numbers below a power of two in the order of their reversed bits."""
    digits = width.bit_length() - 1
    return tuple(int(f"{i:0{digits}b}"[::-1], 2) if digits else 0 for i in range(width))


@dataclass
class _Work:
    """What has been done with a grammar's tables, by data type and queries."""

    rules: Tensor
    num_terms: int
    numbers: Counter[Hashable] = field(default_factory=Counter)
    plans: dict[Any, Plan] = field(default_factory=dict)


_WORK: "WeakKeyDictionary[RuleTables, _Work]" = WeakKeyDictionary()
_KERNELS: Final = CompiledKernels("belief propagation")


def try_to_answer(
    tables: RuleTables,
    leaves: Float[Tensor, "batch leaves symbols"],
    class_prior: Float64[Tensor, "batch classes"],
    draws: Float64[Tensor, "batch choices"] | None,
    results: Mapping[Query, tuple[Tensor, ...]],
) -> dict[Query, Bool[Tensor, " batch"]] | None:
    """Answer as `answer_queries`, or return None where the kernel cannot be used or does not pay.

    If the kernel cannot be compiled, one line in the log says why, and it is not tried again.
    """
    kind = leaves.dtype, frozenset(results)
    if not _is_chosen(tables, kind, leaves.numel(), leaves.device):
        return None
    return _KERNELS.run(
        leaves, lambda: answer_queries(tables, leaves, class_prior, draws, results)
    )


def _is_chosen(tables: RuleTables, kind: Hashable, numbers: int, device: torch.device) -> bool:
    """Return whether the kernel of a kind shall answer, and count the numbers in the messages."""
    if not _KERNELS.can_run_on(device):
        return False
    work = _work(tables)
    work.numbers[kind] += numbers
    fits = work.num_terms <= _MAX_TERMS
    fits &= max(tables.num_features, tables.num_classes) <= _MAX_SYMBOLS
    return fits and (
        os.environ.get("LIT_HIER_KERNEL") == "1"
        or work.numbers[kind] > work.num_terms * _NUMBERS_PER_TERM
    )


def _work(tables: RuleTables) -> _Work:
    if tables not in _WORK:
        rules = torch.cat([rule.flatten() for rule in tables.rules]).int()
        num_terms = sum(rule.shape[0] * rule.shape[1] for rule in tables.rules)
        _WORK[tables] = _Work(rules, num_terms * (1 + tables.tuple_size))
    return _WORK[tables]


def answer_queries(
    tables: RuleTables,
    leaves: Float[Tensor, "batch leaves symbols"],
    class_prior: Float64[Tensor, "batch classes"],
    draws: Float64[Tensor, "batch choices"] | None,
    results: Mapping[Query, tuple[Tensor, ...]],
    height: int = _HEIGHT,
    warps: int = _WARPS,
) -> dict[Query, Bool[Tensor, " batch"]]:
    """Write the answers to several queries in one pass: see `kernel.answer_queries`.

    Args:
        tables: The grammar's tables, on the device of the messages.
        leaves: Leaf messages, float32 or float64, shape (B, s**L, v).
        class_prior: Probability of each class, shape (B, n); samples may share memory.
        draws: Uniform numbers, shape (B, 1 + `num_choices`), if trees are queried.
        results: By query, contiguous tensors for what `Posterior.query` returns.
        height: Levels that a step of the kernel passes within a lane.
        warps: Groups of 32 lanes in a program.

    Raises:
        InputError: A leaf message is negative or non-finite.
    """
    from lit_hier.kernels import belief_propagation

    work, batch = _work(tables), len(leaves)
    key = leaves.dtype, frozenset(results), height, warps
    if key not in work.plans:
        work.plans[key] = Plan(tables, leaves.dtype, results, height, warps)
    plan = work.plans[key]
    programs = _num_multiprocessors(leaves.device) * max(1, _WARPS_PER_MULTIPROCESSOR // warps)
    several = _SCRATCH_BYTES // (plan.scratch_size * leaves.itemsize)
    samples = max(1, min(batch // programs, several))
    programs = min(programs, -(-batch // samples))
    flags = torch.zeros(batch + 1, dtype=torch.int32, device=leaves.device)
    scratch = leaves.new_empty(programs * samples * plan.scratch_size)
    root = exponents = flags
    if "log_evidence" in results:
        root = leaves.new_empty(batch, tables.num_classes)
        exponents = torch.empty(batch, dtype=torch.int64, device=leaves.device)
    outputs = {query: tuple(map(_aligned, results.get(query, ()))) for query in TABLES}
    upward, downward, marginals, trees = outputs.values()
    arguments = Tables(
        _aligned(leaves),
        class_prior,
        class_prior if draws is None else _aligned(draws),
        work.rules,
        upward,
        downward,
        marginals,
        trees,
        root,
        exponents,
        flags,
        scratch,
    )
    # Fused multiply-adds would change bits.
    belief_propagation.answer_queries[(programs,)](
        arguments,
        batch,
        samples,
        class_prior.stride(0),
        plan,
        num_warps=warps,
        enable_fp_fusion=False,
    )
    for query, levels in outputs.items():
        for level, written in zip(results.get(query, ()), levels, strict=True):
            if written is not level:
                level.copy_(written)
    any_flags = int(flags[batch])
    if "log_evidence" in results:
        (evidence,) = results["log_evidence"]
        evidence.copy_(log_evidence(tables, class_prior, root, exponents, LinearSemiring()))
    return affected_queries(flags[:batch], any_flags, results)


def _aligned(table: Tensor) -> Tensor:
    """Return a table in memory as the kernel is compiled for; any other would need one more."""
    fits = table.is_contiguous() and table.data_ptr() % _ALIGNMENT == 0
    return table if fits else table.clone(memory_format=torch.contiguous_format)


@cache
def _num_multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
