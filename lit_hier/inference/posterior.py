"""The posterior over trees given leaf messages: exact, whatever the scale of the probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from lit_hier.errors import InputError
from lit_hier.inference import kernel
from lit_hier.inference.passes import Passes, Query
from lit_hier.inference.sum_product import LINEAR, LOGARITHMIC

if TYPE_CHECKING:
    from lit_hier.inference.belief_propagation import BeliefPropagation
    from lit_hier.rhm.grammar import Tree

# Numbers in the leaf messages that plain operations take at once, as they need room for a dozen
# times as many; changes no bit.
_AT_ONCE_ON_CPU: Final = 2**23
_AT_ONCE_ELSEWHERE: Final = 2**28


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
            f" the batch (number {shown}); check that grammar and data belong together, or leave"
            " every symbol some probability"
        )


class Posterior:
    """Trees given evidence; made by `BeliefPropagation.condition`.

    Every question is answered in linear arithmetic: on a CPU by the compiled kernel where there is
    one, else by plain torch operations, to the same bits. Samples of which underflow may have
    taken more than rounding does are answered again, in float64, and where that is not enough,
    with logarithms. Which samples these are depends on themselves only.

    Args:
        bp: The grammar's belief propagation.
        leaf_messages: Shape (B, s**L, v), float32 or float64, finite and not negative. They are
            read with every question.
    """

    def __init__(self, bp: BeliefPropagation, leaf_messages: Tensor) -> None:
        self._bp = bp
        self._leaf_messages = leaf_messages.detach()

    def query(
        self,
        *questions: Query,
        draws: Tensor | None = None,
        out: Mapping[Query, Tree] | None = None,
    ) -> dict[Query, Tree]:
        """Answer several questions in one go, which takes less time than one after another.

        Args:
            questions: Names of this class's methods; `trees` are what `sample` gives.
            draws: For `trees`, as `sample` takes them.
            out: Contiguous tensors to write answers into; what is left out is made.

        Returns:
            By question what the method of this name gives; of `log_evidence`, a tuple of one,
            float64.

        Raises:
            InputError: `draws` has another shape, or a leaf message is negative or not finite.
            UnexplainedEvidenceError: No tree explains some samples.
        """
        bp, leaves, given = self._bp, self._leaf_messages, out or {}
        if "trees" in questions:
            wanted = (len(leaves), 1 + bp.num_choices)
            if draws is None or tuple(draws.shape) != wanted:
                shape = None if draws is None else tuple(draws.shape)
                raise InputError(f"draws has shape {shape}; give {wanted}")
            draws = draws.to(leaves.device, torch.float64)
        tables = {name: given.get(name) or self.allocate(name) for name in questions}
        compiled = kernel.kernel_for(bp, leaves)
        if compiled is not None:
            doubts = kernel.answer(compiled, bp, leaves, draws, tables)
        else:
            doubts = self._answer_plainly(draws, tables)
        if doubts:
            self._answer_again(doubts, draws, tables)
        return tables

    def allocate(self, question: Query, *leading: int) -> Tree:
        """Make uninitialised tensors for an answer, with leading dimensions if wished."""
        leaves, levels = self._leaf_messages, self._bp.level_shapes
        shape = (*leading, leaves.shape[0])
        if question == "log_evidence":
            return (leaves.new_empty(shape, dtype=torch.float64),)
        if question == "trees":
            return tuple(leaves.new_empty((*shape, num), dtype=torch.int64) for num, _ in levels)
        return tuple([leaves.new_empty(*shape, *level) for level in levels])

    def upward(self) -> Tree:
        """Upward messages (Eq. 13-14): L + 1 tensors (B, s**(L-l), v or n), normalised."""
        return self.query("upward")["upward"]

    def downward(self) -> Tree:
        """Downward messages (Eq. 15-16): as `upward`; at the root, the class prior."""
        return self.query("downward")["downward"]

    def marginals(self) -> Tree:
        """Posterior probability of every symbol at every node: as `upward`."""
        return self.query("marginals")["marginals"]

    def log_evidence(self) -> Tensor:
        """Logarithm of the sum over trees of probability times leaf messages, nats, shape (B,)."""
        (evidence,) = self.query("log_evidence")["log_evidence"]
        return evidence.to(self._leaf_messages.dtype)

    def sample(
        self, generator: torch.Generator | None = None, draws: Tensor | None = None
    ) -> Tree:
        """Draw trees from the joint posterior, exactly: the class, then a rule per node.

        Args:
            generator: Source of randomness, where `draws` is left out.
            draws: Uniform numbers in [0, 1), float64, shape (B, 1 + `num_choices`): the class's,
                then one per node above the leaves, from the root, left to right.

        Returns:
            Trees: L + 1 tensors, int64; tree[l] has shape (B, s**(L-l)).

        Raises:
            InputError: `draws` has another shape.
        """
        if draws is None:
            shape = (len(self._leaf_messages), 1 + self._bp.num_choices)
            device = generator.device if generator is not None else self._leaf_messages.device
            draws = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
        return self.query("trees", draws=draws)["trees"]

    @torch.no_grad()
    def _answer_plainly(
        self, draws: Tensor | None, tables: Mapping[Query, Tree]
    ) -> dict[Query, Tensor]:
        """Fill tables by plain torch operations; give the samples in doubt, by question."""
        leaves = self._leaf_messages
        lowest, highest = torch.aminmax(leaves)
        if not (lowest >= 0 and highest < torch.inf):
            raise InputError(kernel.NO_MESSAGES)
        rounding = torch.finfo(leaves.dtype).eps
        doubts: dict[Query, list[Tensor]] = {question: [] for question in tables}
        size = self._at_once()
        for start in range(0, len(leaves), size):
            rows = slice(start, start + size)
            passes = Passes(self._bp, leaves[rows], LINEAR)
            for question, table in tables.items():
                answer = passes.answer(question, None if draws is None else draws[rows])
                for level, found in zip(table, answer, strict=True):
                    level[rows] = found
                doubts[question].append(~(passes.lost <= rounding))
        return {question: torch.cat(parts) for question, parts in doubts.items()}

    @torch.no_grad()
    def _answer_again(
        self,
        doubts: Mapping[Query, Tensor],
        draws: Tensor | None,
        tables: Mapping[Query, Tree],
    ) -> None:
        """Answer with a larger range where there is doubt: in float64, at last with logarithms."""
        doubtful = torch.stack(list(doubts.values())).any(0).nonzero().flatten()
        impossible: list[int] = []
        for rows in doubtful.split(self._at_once()) if len(doubtful) else ():
            leaves = self._leaf_messages[rows].double()
            given = None if draws is None else draws[rows]
            try:
                if self._leaf_messages.dtype == torch.float64:
                    answers = self._answer_in_logarithms(leaves, given, tables)
                else:
                    answers = Posterior(self._bp, leaves).query(*tables, draws=given)
            except UnexplainedEvidenceError as error:
                impossible += rows[error.samples].tolist()
                continue
            for question, table in tables.items():
                which = doubts[question][rows]
                for level, exact in zip(table, answers[question], strict=True):
                    level[rows[which]] = exact[which].to(level.dtype)
        if impossible:
            raise UnexplainedEvidenceError(impossible)

    def _answer_in_logarithms(
        self, leaves: Tensor, draws: Tensor | None, questions: Iterable[Query]
    ) -> dict[Query, Tree]:
        passes = Passes(self._bp, leaves.log(), LOGARITHMIC)
        impossible = passes.lost.isnan()
        if impossible.any():
            raise UnexplainedEvidenceError(impossible.nonzero().flatten().tolist())
        return {question: passes.answer(question, draws) for question in questions}

    def _at_once(self) -> int:
        """Samples that plain operations take at once."""
        on_cpu = self._leaf_messages.device.type == "cpu"
        numbers = _AT_ONCE_ON_CPU if on_cpu else _AT_ONCE_ELSEWHERE
        return max(1, numbers // self._leaf_messages[0].numel())
