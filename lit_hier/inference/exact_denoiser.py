"""Exact inference in the place of a network that predicts leaves."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lit_hier.inference.belief_propagation import BeliefPropagation
from lit_hier.inference.posterior import UnexplainedEvidenceError
from lit_hier.rhm.grammar import RandomHierarchyModel


class ExactDenoiser(nn.Module):
    """Maps leaf messages to logits of the exact posterior of each leaf, as a network would.

    It has no parameters to train. Whatever samples with a network samples with this: it is what
    the best network would do.

    Args:
        rhm: The grammar.
    """

    def __init__(self, rhm: RandomHierarchyModel) -> None:
        super().__init__()
        self.belief_propagation = BeliefPropagation(rhm)

    def forward(
        self, messages: Float[Tensor, "batch leaves symbols"]
    ) -> Float[Tensor, "batch leaves symbols"]:
        """Return the logarithms of the marginals of leaves.

        Args:
            messages: Leaf messages, any positive scale, shape (B, s**L, v).

        Returns:
            Log probabilities, minus infinity for impossible symbols. Where no tree explains the
            messages of a datum, such as leaves that were sampled independently of each other,
            there is no posterior; these are the logarithms of the messages.
        """
        try:
            return self.belief_propagation.marginals(messages)[0].log()
        except UnexplainedEvidenceError as error:
            explained = torch.ones(len(messages), dtype=torch.bool, device=messages.device)
            explained[error.samples] = False
        beliefs = messages / messages.sum(-1, keepdim=True)
        if explained.any():
            beliefs[explained] = self.belief_propagation.marginals(messages[explained])[0]
        return beliefs.log()
