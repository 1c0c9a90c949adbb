r"""Belief propagation (BP) on the tree of a Random Hierarchy Model: exact Bayesian inference.

.. math::
   \tilde\nu_\uparrow^{(\ell+1)}(y) &= \sum_{y \to x_1 \dots x_s}
   \prod_i \nu_\uparrow^{(\ell)}(x_i) && \text{(Eq. 13)} \\
   \tilde\nu_\downarrow^{(\ell)}(x_1) &= \sum_{y \to x_1 \dots x_s} \nu_\downarrow^{(\ell+1)}(y)
   \prod_{i \ge 2} \nu_\uparrow^{(\ell)}(x_i) && \text{(Eq. 15)} \\
   p(x) &\propto \nu_\uparrow(x) \, \nu_\downarrow(x)

Source: Section 4 and Appendix B of the paper. `lit_hier.inference.posterior` has the passes over
the tree, `lit_hier.inference.sum_product` the sums.
"""

import torch
from torch import Tensor, nn

from lit_hier.errors import InputError
from lit_hier.inference.kernel import KernelRules
from lit_hier.inference.posterior import Posterior
from lit_hier.inference.sum_product import Rounds
from lit_hier.rhm.grammar import RandomHierarchyModel, Tree


class BeliefPropagation(nn.Module):
    """Exact inference given what is known of each leaf.

    Leaf messages have shape (B, s**L, v) and any positive scale: message (b, i, x) is
    proportional to the likelihood of what was observed at leaf i, were its symbol x. float32 and
    float64 are computed in their own precision, float16 and bfloat16 in float32. Rules are
    buffers; messages must lie on their device. Work and memory per node grow as m v s. Nothing
    here is differentiable.

    Every method raises `InputError` on leaf messages of a wrong shape or type, negative or not
    finite, and `UnexplainedEvidenceError`, which names the samples, where no tree explains them.
    Samples whose probabilities leave the range of the floating-point type are computed again in
    float64 and, if need be, with logarithms; so no result is ever NaN.

    Args:
        rhm: The grammar.
        class_prior: Probability of each class, any positive scale, shape (n,); uniform if left
            out.

    Raises:
        InputError: The prior is none.
    """

    class_prior: Tensor

    def __init__(self, rhm: RandomHierarchyModel, class_prior: Tensor | None = None) -> None:
        super().__init__()
        self.num_features = rhm.num_features
        self.num_classes = rhm.num_classes
        self.num_synonyms = rhm.num_synonyms
        self.tuple_size = rhm.tuple_size
        self.num_layers = rhm.num_layers
        self.num_leaves = rhm.num_leaves
        self.num_choices = rhm.num_choices
        if class_prior is None:
            class_prior = torch.ones(rhm.num_classes)
        prior = torch.as_tensor(class_prior, dtype=torch.float64)
        if prior.shape != (rhm.num_classes,):
            raise InputError(
                f"class_prior has shape {tuple(prior.shape)}; give ({rhm.num_classes},)"
            )
        if not (prior.isfinite().all() and (prior >= 0).all() and prior.sum() > 0):
            raise InputError("class_prior must be finite, not negative and not all zero")
        self.register_buffer("class_prior", prior / prior.sum())
        self.up_rounds = nn.ModuleList()
        self.down_rounds = nn.ModuleList()
        for level, rule in enumerate(rhm.rules):
            self.register_buffer(f"rules_{level}", rule)
            up, down = _rounds(rule, rhm.num_features)
            self.up_rounds.append(up)
            self.down_rounds.append(down)
        symbols = [rhm.num_features] * rhm.num_layers + [rhm.num_classes]
        self.level_shapes = tuple(
            (rhm.tuple_size ** (rhm.num_layers - level), num) for level, num in enumerate(symbols)
        )
        self.kernel_rules = KernelRules(rhm.rules, rhm.num_features)

    @property
    def rules(self) -> tuple[Tensor, ...]:
        """The rules as the module's buffers, int64, each (parents, m, s)."""
        return tuple(self.get_buffer(f"rules_{level}") for level in range(self.num_layers))

    def condition(self, leaf_messages: Tensor) -> Posterior:
        """Take evidence, for several questions about it.

        The messages are read when a question is asked; that is when those that are none are
        noticed.
        """
        wanted = (self.num_leaves, self.num_features)
        shape = tuple(leaf_messages.shape)
        if len(shape) != 3 or shape[1:] != wanted or not shape[0]:
            raise InputError(
                f"leaf_messages has shape {shape};"
                f" give (B, s^L, v) = (B, {wanted[0]}, {wanted[1]}) with B >= 1"
            )
        if not leaf_messages.is_floating_point():
            raise InputError(
                f"leaf_messages is {leaf_messages.dtype}; give floating-point numbers"
            )
        if leaf_messages.dtype not in (torch.float32, torch.float64):
            leaf_messages = leaf_messages.float()
        return Posterior(self, leaf_messages)

    def forward(self, leaf_messages: Tensor) -> Tree:
        """Give the marginals: see `marginals`."""
        return self.marginals(leaf_messages)

    def upward(self, leaf_messages: Tensor) -> Tree:
        """Upward messages (Eq. 13-14): L + 1 tensors (B, s**(L-l), v or n), normalised."""
        return self.condition(leaf_messages).upward()

    def downward(self, leaf_messages: Tensor) -> Tree:
        """Downward messages (Eq. 15-16): as `upward`; at the root, the class prior."""
        return self.condition(leaf_messages).downward()

    def marginals(self, leaf_messages: Tensor) -> Tree:
        """Posterior probability of every symbol at every node: as `upward`."""
        return self.condition(leaf_messages).marginals()

    def log_evidence(self, leaf_messages: Tensor) -> Tensor:
        """Logarithm of the sum over trees of probability times leaf messages, nats, shape (B,)."""
        return self.condition(leaf_messages).log_evidence()

    def sample(
        self,
        leaf_messages: Tensor,
        generator: torch.Generator | None = None,
        draws: Tensor | None = None,
    ) -> Tree:
        """Draw trees from the joint posterior: see `Posterior.sample`."""
        return self.condition(leaf_messages).sample(generator, draws)

    def posterior_mean(self, leaf_messages: Tensor) -> Tensor:
        r"""Give :math:`E[x_0 \mid x_t]` of one-hot leaves: the optimal denoiser of Eq. 4.

        Returns:
            Shape (B, s**L, v); the score of the diffused data follows as
            :math:`(\sqrt{\alpha_t} E[x_0 | x_t] - x_t) / (1 - \alpha_t)`.
        """
        return self.marginals(leaf_messages)[0]


def _rounds(rule: Tensor, num_features: int) -> tuple[Rounds, nn.ModuleList]:
    """Order one level's rules for the messages to the parent and to each of the s children."""
    num_parents, m, s = rule.shape
    parent = torch.arange(num_parents).repeat_interleave(m)
    children = rule.flatten(0, 1).T
    down = [
        Rounds(
            children[j],
            torch.stack((parent, *(children[i] for i in range(s) if i != j))),
            num_features,
        )
        for j in range(s)
    ]
    return Rounds(parent, children, num_parents), nn.ModuleList(down)
