"""The posterior over trees given leaf messages: exact at any scale of the probabilities."""

from collections.abc import Iterable, Mapping
from typing import Final, get_args

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from lit_hier.errors import InputError, suggest
from lit_hier.inference import gpu, kernel, native_library
from lit_hier.inference.flags import INVALID_MESSAGES
from lit_hier.inference.forked import one_thread_if_forked
from lit_hier.inference.passes import Passes, Query
from lit_hier.inference.semirings import LinearSemiring, LogSemiring
from lit_hier.inference.tables import RuleTables

# Numbers in the leaf messages that the torch passes process at once, as they need a dozen times
# as much memory; changes no bit.
_CHUNK_ON_CPU: Final = 2**23
_CHUNK_ELSEWHERE: Final = 2**28


class UnexplainedEvidenceError(InputError):
    """No tree of the grammar has a positive probability given the leaf messages.

    Attributes:
        samples: Positions in the batch.
    """

    def __init__(self, samples: list[int]) -> None:
        self.samples = samples
        shown = ", ".join(map(str, samples[:10])) + (", ..." if len(samples) > 10 else "")
        super().__init__(
            f"leaf_messages: no tree of the grammar explains {len(samples)} of the samples in"
            f" the batch (number {shown}); check that the data are of this grammar, or give"
            " every symbol a positive probability"
        )


class Posterior:
    """The posterior over trees given evidence; created by `BeliefPropagation.condition`.

    Every query is answered in linear arithmetic: on a CPU by the native kernel if there is one, on
    a GPU by a compiled one where that pays (`lit_hier.inference.gpu`), else by torch operations,
    with the same bits. Samples whose error due to underflow may exceed
    the rounding error are recomputed in float64 and, where that is not enough, with logarithms.
    Whether a sample is recomputed depends on that sample only.

    Args:
        tables: The grammar's tables.
        leaf_messages: Shape (B, s**L, v), float32 or float64, finite and non-negative. They are
            read at every query.
        class_prior: Probability of each class, shape (B, n); that of the tables by default.
    """

    def __init__(
        self,
        tables: RuleTables,
        leaf_messages: Float[Tensor, "batch leaves symbols"],
        class_prior: Float64[Tensor, "batch classes"] | None = None,
    ) -> None:
        self._tables = tables
        self._leaf_messages = leaf_messages.detach()
        if class_prior is None:
            class_prior = tables.class_prior.expand(len(leaf_messages), -1)
        self._class_prior = class_prior
        self._may_compile = True

    @one_thread_if_forked()
    def query(
        self,
        *queries: Query,
        draws: Tensor | None = None,
        out: Mapping[Query, tuple[Tensor, ...]] | None = None,
    ) -> dict[Query, tuple[Tensor, ...]]:
        """Answer several queries in one pass, which is faster than one after another.

        Args:
            queries: Names of this class's methods; `trees` are what `sample` returns.
            draws: For `trees`, as in `sample`.
            out: By query, contiguous tensors to write the answers to; allocated if left out.

        Returns:
            By query, what the method of this name returns; for `log_evidence`, a tuple of one
            tensor.

        Raises:
            InputError: There is no such query, a tensor of `out` cannot hold the answer, `draws`
                has another shape, or a leaf message is negative or non-finite.
            UnexplainedEvidenceError: No tree explains some samples.
        """
        tables, leaves, out = self._tables, self._leaf_messages, out or {}
        for query in queries:
            _check_query(query)
            if query in out:
                self._check_out(query, out[query])
        if "trees" in queries:
            expected = (len(leaves), 1 + tables.num_choices)
            if draws is None or tuple(draws.shape) != expected:
                shape = None if draws is None else tuple(draws.shape)
                raise InputError(f"draws has shape {shape}; give {expected}")
            draws = draws.to(leaves.device, torch.float64)
        results = {query: out.get(query) or self.allocate(query) for query in queries}
        on_cpu = leaves.is_cpu and tables.device.type == "cpu"
        native = native_library.load_kernel() if on_cpu else None
        if native is not None:
            affected = kernel.answer_queries(
                native, tables, leaves, self._class_prior, draws, results
            )
        else:
            answered = None
            if self._may_compile:
                answered = gpu.try_to_answer(tables, leaves, self._class_prior, draws, results)
            affected = self._answer_with_torch(draws, results) if answered is None else answered
        if affected:
            self._recompute(affected, draws, results)
        return results

    def allocate(self, query: Query, *leading: int) -> tuple[Tensor, ...]:
        """Allocate tensors for an answer, uninitialized, with optional leading dimensions."""
        shapes, dtype = self._answer_format(query)
        new_empty = self._leaf_messages.new_empty
        return tuple([new_empty((*leading, *shape), dtype=dtype) for shape in shapes])

    def _answer_format(self, query: Query) -> tuple[list[tuple[int, ...]], torch.dtype]:
        """Return the shape of each tensor of an answer, and their type."""
        batch, levels = len(self._leaf_messages), self._tables.level_shapes
        if query == "log_evidence":
            return [(batch,)], torch.float64
        if query == "trees":
            return [(batch, num_nodes) for num_nodes, _ in levels], torch.int64
        return [(batch, *level) for level in levels], self._leaf_messages.dtype

    def _check_out(self, query: Query, out: tuple[Tensor, ...]) -> None:
        """Reject tensors that cannot hold an answer: the kernel writes to their memory.

        Raises:
            InputError: Their number, a shape, the type, the device or the memory layout differs.
        """
        shapes, dtype = self._answer_format(query)
        device = self._leaf_messages.device
        if (
            [tuple(x.shape) for x in out] != shapes
            or any(x.dtype != dtype or x.device != device for x in out)
            or not all(x.is_contiguous() for x in out)
        ):
            raise InputError(
                f"out: the tensors for {query} must be contiguous, {dtype}, on {device}, of shapes"
                f" {shapes}; `allocate` returns such tensors"
            )

    def upward(self) -> tuple[Float[Tensor, "batch _ _"], ...]:
        """Upward messages (Eq. 13-14): L + 1 tensors (B, s**(L-l), v or n), normalized."""
        return self.query("upward")["upward"]

    def downward(self) -> tuple[Float[Tensor, "batch _ _"], ...]:
        """Downward messages (Eq. 15-16): as `upward`; at the root, the class prior."""
        return self.query("downward")["downward"]

    def marginals(self) -> tuple[Float[Tensor, "batch _ _"], ...]:
        """Posterior probability of every symbol at every node: as `upward`."""
        return self.query("marginals")["marginals"]

    def log_evidence(self) -> Float64[Tensor, " batch"]:
        """Logarithm of the sum over trees of probability times leaf messages, nats, shape (B,)."""
        (evidence,) = self.query("log_evidence")["log_evidence"]
        return evidence

    def sample(
        self, generator: torch.Generator | None = None, draws: Tensor | None = None
    ) -> tuple[Int64[Tensor, "batch _"], ...]:
        """Draw trees from the joint posterior, exactly: the class, then a rule per node.

        Args:
            generator: Source of randomness if `draws` is left out.
            draws: Uniform numbers in [0, 1), float64, shape (B, 1 + `num_choices`): the class's,
                then one per node above the leaves, from the root, left to right.

        Returns:
            Trees: L + 1 tensors; tree[l] has shape (B, s**(L-l)).

        Raises:
            InputError: `draws` has another shape.
        """
        if draws is None:
            shape = (len(self._leaf_messages), 1 + self._tables.num_choices)
            device = generator.device if generator is not None else self._leaf_messages.device
            draws = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
        return self.query("trees", draws=draws)["trees"]

    @torch.no_grad()
    def _answer_with_torch(
        self, draws: Tensor | None, results: Mapping[Query, tuple[Tensor, ...]]
    ) -> dict[Query, Bool[Tensor, " batch"]]:
        """Write the answers by torch operations; return the affected samples, by query."""
        leaves = self._leaf_messages
        lowest, highest = torch.aminmax(leaves)
        rounding = torch.finfo(leaves.dtype).eps
        affected: dict[Query, list[Tensor]] = {query: [] for query in results}
        size = self._chunk_size()
        for start in range(0, len(leaves), size):
            rows = slice(start, start + size)
            prior = self._class_prior[rows]
            passes = Passes(self._tables, leaves[rows], prior, LinearSemiring())
            for query, levels in results.items():
                answer = passes.answer(query, None if draws is None else draws[rows])
                for level, values in zip(levels, answer, strict=True):
                    level[rows] = values
                affected[query].append(~(passes.loss <= rounding))
        masks = {query: torch.cat(parts) for query, parts in affected.items()}
        # A GPU is waited for here only.
        facts = [(lowest >= 0) & (highest < torch.inf), *(mask.any() for mask in masks.values())]
        valid, *any_affected = torch.stack(facts).tolist()
        if not valid:
            raise InputError(INVALID_MESSAGES)
        return masks if any(any_affected) else {}

    @torch.no_grad()
    def _recompute(
        self,
        affected: Mapping[Query, Bool[Tensor, " batch"]],
        draws: Tensor | None,
        results: Mapping[Query, tuple[Tensor, ...]],
    ) -> None:
        """Recompute affected samples with a larger range: in float64, then with logarithms."""
        samples = torch.stack(list(affected.values())).any(0).nonzero().flatten()
        impossible: list[int] = []
        for rows in samples.split(self._chunk_size()) if len(samples) else ():
            leaves = self._leaf_messages[rows].double()
            draws_of_rows = None if draws is None else draws[rows]
            wider = Posterior(self._tables, leaves, self._class_prior[rows])
            wider._may_compile = False  # for a few samples
            try:
                if self._leaf_messages.dtype == torch.float64:
                    answers = wider._answer_with_logarithms(draws_of_rows, results)
                else:
                    answers = wider.query(*results, draws=draws_of_rows)
            except UnexplainedEvidenceError as error:
                impossible += rows[error.samples].tolist()
                continue
            for query, levels in results.items():
                mask = affected[query][rows]
                for level, exact in zip(levels, answers[query], strict=True):
                    level[rows[mask]] = exact[mask].to(level.dtype)
        if impossible:
            raise UnexplainedEvidenceError(impossible)

    def _answer_with_logarithms(
        self, draws: Tensor | None, queries: Iterable[Query]
    ) -> dict[Query, tuple[Tensor, ...]]:
        passes = Passes(self._tables, self._leaf_messages, self._class_prior, LogSemiring())
        impossible = passes.loss.isnan()
        if impossible.any():
            raise UnexplainedEvidenceError(impossible.nonzero().flatten().tolist())
        return {query: passes.answer(query, draws) for query in queries}

    def _chunk_size(self) -> int:
        """Number of samples that the torch passes process at once."""
        on_cpu = self._leaf_messages.device.type == "cpu"
        numbers = _CHUNK_ON_CPU if on_cpu else _CHUNK_ELSEWHERE
        return max(1, numbers // self._leaf_messages[0].numel())


def _check_query(query: Query) -> None:
    known = get_args(Query)
    if query not in known:
        raise InputError(
            f"queries: there is no query {query!r}{suggest(str(query), known)}; give one of"
            f" {', '.join(known)}"
        )
