"""The posterior over trees given leaf messages: exact, whatever the scale of the probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_hier.errors import InputError
from lit_hier.inference.passes import Passes
from lit_hier.inference.sum_product import LINEAR, LOGARITHMIC

if TYPE_CHECKING:
    from lit_hier.inference.belief_propagation import BeliefPropagation
    from lit_hier.rhm.grammar import Tree


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
    """Trees given evidence, by one upward pass; made by `BeliefPropagation.condition`.

    Every question is answered in linear arithmetic; samples of which underflow may have taken
    more than rounding does are answered again, with logarithms in float64. Which samples these
    are depends on themselves only.

    Args:
        bp: The grammar's belief propagation.
        leaf_messages: Shape (B, s**L, v), float32 or float64, finite and not negative.
    """

    @torch.no_grad()
    def __init__(self, bp: BeliefPropagation, leaf_messages: Tensor) -> None:
        self._bp = bp
        self._leaf_messages = leaf_messages
        self._linear = Passes(bp, leaf_messages, LINEAR)

    @torch.no_grad()
    def _answer(self, question: Callable[[Passes, Tensor], Tree]) -> Tree:
        """Ask the linear passes, then the logarithmic ones about the samples that they lost."""
        every_row = torch.arange(len(self._leaf_messages), device=self._leaf_messages.device)
        answers = question(self._linear, every_row)
        rounding = torch.finfo(self._leaf_messages.dtype).eps
        lost = every_row[~(self._linear.lost <= rounding)]
        if len(lost):
            passes = Passes(self._bp, self._leaf_messages[lost].double().log(), LOGARITHMIC)
            impossible = passes.lost.isnan()
            if impossible.any():
                raise UnexplainedEvidenceError(lost[impossible].tolist())
            for answer, exact in zip(answers, question(passes, lost), strict=True):
                answer[lost] = exact.to(answer.dtype)
        return answers

    def upward(self) -> Tree:
        """Upward messages (Eq. 13-14): L + 1 tensors (B, s**(L-l), v or n), normalised."""
        return self._answer(lambda passes, _: passes.probabilities(passes.upward()))

    def downward(self) -> Tree:
        """Downward messages (Eq. 15-16): as `upward`; at the root, the class prior."""
        return self._answer(lambda passes, _: passes.probabilities(passes.downward()))

    def marginals(self) -> Tree:
        """Posterior probability of every symbol at every node: as `upward`."""
        return self._answer(lambda passes, _: passes.probabilities(passes.marginals()))

    def log_evidence(self) -> Tensor:
        """Logarithm of the sum over trees of probability times leaf messages, nats, shape (B,)."""
        (evidence,) = self._answer(lambda passes, _: (passes.log_evidence(),))
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
        wanted = (len(self._leaf_messages), 1 + self._bp.num_choices)
        if draws is None:
            device = generator.device if generator is not None else self._leaf_messages.device
            draws = torch.rand(wanted, generator=generator, dtype=torch.float64, device=device)
        elif tuple(draws.shape) != wanted:
            raise InputError(f"draws has shape {tuple(draws.shape)}; give {wanted}")
        given = draws.to(self._leaf_messages.device, torch.float64)
        return self._answer(lambda passes, rows: passes.sample(given[rows]))
