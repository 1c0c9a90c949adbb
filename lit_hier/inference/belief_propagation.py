r"""Belief propagation (BP) on the tree of a Random Hierarchy Model: exact Bayesian inference.

.. math::
   \tilde\nu_\uparrow^{(\ell+1)}(y) &= \sum_{y \to x_1 \dots x_s}
   \prod_i \nu_\uparrow^{(\ell)}(x_i) && \text{(Eq. 13)} \\
   \tilde\nu_\downarrow^{(\ell)}(x_1) &= \sum_{y \to x_1 \dots x_s} \nu_\downarrow^{(\ell+1)}(y)
   \prod_{i \ge 2} \nu_\uparrow^{(\ell)}(x_i) && \text{(Eq. 15)} \\
   p(x) &\propto \nu_\uparrow(x) \, \nu_\downarrow(x)

Source: Section 4 and Appendix B of the paper.

Modules of this package: `tables` derives index tables from the rules. `passes` has the passes over
the tree as torch operations, in either arithmetic of `semirings`; `kernel` runs the same passes in
C. `posterior` chooses between them and recomputes the samples that underflow has affected.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from lit_hier.errors import InputError
from lit_hier.inference.forked import one_thread_if_forked
from lit_hier.inference.posterior import Posterior
from lit_hier.inference.tables import RuleTables, normalize_prior
from lit_hier.rhm.grammar import RandomHierarchyModel


class BeliefPropagation(nn.Module):
    """Exact inference given evidence at each leaf.

    Leaf messages have shape (B, s**L, v) and any positive scale: message (b, i, x) is proportional
    to the likelihood of the observation at leaf i if its symbol is x. float32 and float64 messages
    are computed in their own precision, float16 and bfloat16 in float32. A floating-point type
    given to `to`, or `double()`, casts messages before anything is computed. Messages must be on
    the module's device. Work and memory per node grow as m v s. Nothing here is differentiable.

    Rules and prior are constants: `to` moves them and never casts them. They are the module's
    state, `class_prior` and `rules_0` to `rules_{L-1}`; loading the state of another grammar with
    the same sizes adopts that grammar everywhere. What the module takes and returns are copies:
    writing into them does not change it.

    Every method raises `InputError` if leaf messages have a wrong shape or type or hold negative
    or non-finite values, and `UnexplainedEvidenceError`, which names the samples, if no tree
    explains them. Samples whose probabilities leave the range of the floating-point type are
    recomputed in float64 and, if need be, with logarithms; no result is ever NaN.

    Args:
        rhm: The grammar.
        class_prior: Probability of each class, any positive scale, shape (n,); uniform by
            default.

    Attributes:
        tables: The rules, the prior and what is derived from them.

    Raises:
        InputError: Invalid `class_prior`.
    """

    tables: RuleTables

    @one_thread_if_forked()
    def __init__(self, rhm: RandomHierarchyModel, class_prior: Tensor | None = None) -> None:
        super().__init__()
        if class_prior is None:
            class_prior = torch.ones(rhm.num_classes)
        prior = normalize_prior(class_prior, rhm.num_classes)
        self.tables = RuleTables(rhm.rules, rhm.num_features, prior)
        self._message_type: torch.dtype | None = None

    @property
    def rules(self) -> tuple[Int64[Tensor, "_ m s"], ...]:
        """Copies of the rules of each level, leaves first, each (parents, m, s)."""
        return tuple(rule.clone() for rule in self.tables.rules)

    @property
    def class_prior(self) -> Float64[Tensor, " classes"]:
        """A copy of the probability of each class, shape (n,), with sum 1."""
        return self.tables.class_prior.clone()

    @property
    def grammar(self) -> RandomHierarchyModel:
        """A copy of the grammar whose rules are in use, on the CPU."""
        return copy.deepcopy(self.tables.grammar)

    @one_thread_if_forked()
    def condition(self, leaf_messages: Tensor, class_prior: Tensor | None = None) -> Posterior:
        """Return the posterior given leaf messages, for several queries about it.

        The messages are read, and their values checked, at each query.

        Args:
            leaf_messages: Shape (B, s**L, v).
            class_prior: Replaces the module's: shape (n,), or (B, n) with one prior per sample;
                any positive scale. One-hot rows condition each sample on a class.

        Raises:
            InputError: `leaf_messages` or `class_prior` has a wrong shape or type, or a prior has
                a negative or non-finite entry or is zero.
        """
        expected = (self.tables.num_leaves, self.tables.num_features)
        shape = tuple(leaf_messages.shape)
        if len(shape) != 3 or shape[1:] != expected or not shape[0]:
            raise InputError(
                f"leaf_messages has shape {shape};"
                f" give (B, s^L, v) = (B, {expected[0]}, {expected[1]}) with B >= 1"
            )
        if not leaf_messages.is_floating_point():
            raise InputError(
                f"leaf_messages is {leaf_messages.dtype}; give floating-point numbers"
            )
        dtype = self._message_type or leaf_messages.dtype
        dtype = torch.float64 if dtype == torch.float64 else torch.float32
        prior = None
        if class_prior is not None:
            num = len(leaf_messages)
            prior = normalize_prior(class_prior, self.tables.num_classes, num)
            prior = prior.expand(num, -1).to(self.tables.device)
        return Posterior(self.tables, leaf_messages.to(dtype), prior)

    def forward(self, leaf_messages: Tensor) -> tuple[Float[Tensor, "batch _ _"], ...]:
        """Return the marginals: see `marginals`."""
        return self.marginals(leaf_messages)

    def upward(self, leaf_messages: Tensor) -> tuple[Float[Tensor, "batch _ _"], ...]:
        """Upward messages (Eq. 13-14): L + 1 tensors (B, s**(L-l), v or n), normalized."""
        return self.condition(leaf_messages).upward()

    def downward(self, leaf_messages: Tensor) -> tuple[Float[Tensor, "batch _ _"], ...]:
        """Downward messages (Eq. 15-16): as `upward`; at the root, the class prior."""
        return self.condition(leaf_messages).downward()

    def marginals(self, leaf_messages: Tensor) -> tuple[Float[Tensor, "batch _ _"], ...]:
        """Posterior probability of every symbol at every node: as `upward`."""
        return self.condition(leaf_messages).marginals()

    def log_evidence(self, leaf_messages: Tensor) -> Float64[Tensor, " batch"]:
        """Logarithm of the sum over trees of probability times leaf messages, nats, shape (B,)."""
        return self.condition(leaf_messages).log_evidence()

    def sample(
        self,
        leaf_messages: Tensor,
        generator: torch.Generator | None = None,
        draws: Tensor | None = None,
    ) -> tuple[Int64[Tensor, "batch _"], ...]:
        """Draw trees from the joint posterior: see `Posterior.sample`."""
        return self.condition(leaf_messages).sample(generator, draws)

    def posterior_mean(self, leaf_messages: Tensor) -> Float[Tensor, "batch leaves symbols"]:
        r"""Mean :math:`E[x_0 \mid x_t]` of one-hot leaves: the optimal denoiser of Eq. 4.

        Returns:
            Shape (B, s**L, v); the score of the diffused data follows as
            :math:`(\sqrt{\alpha_t} E[x_0 | x_t] - x_t) / (1 - \alpha_t)`.
        """
        return self.marginals(leaf_messages)[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "BeliefPropagation":
        """Move the tables to where `fn` moves a tensor; remember the type to which it casts."""
        super()._apply(fn, recurse)
        device = self.tables.device
        single, double = (
            fn(torch.empty(0, dtype=dtype, device=device))
            for dtype in (torch.float32, torch.float64)
        )
        self.tables = self.tables.to(single.device)
        if single.dtype == double.dtype and single.is_floating_point():
            self._message_type = single.dtype
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, tensor in self._state().items():
            destination[prefix + name] = tensor

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Adopt the grammar and the prior of a state, as a whole even if not `strict`.

        Raises:
            InputError: The state lacks keys or has others, its sizes differ from this module's,
                its rules do not define an RHM, or its prior is invalid.
        """
        state = {
            name.removeprefix(prefix): value
            for name, value in state_dict.items()
            if name.startswith(prefix)
        }
        self._check_state(state)
        rules = [state[f"rules_{level}"].cpu() for level in range(self.tables.num_layers)]
        v = self.tables.num_features
        try:
            rhm = RandomHierarchyModel.from_rules(rules, v)
            prior = normalize_prior(state["class_prior"], rhm.num_classes)
        except InputError as error:
            raise InputError(f"state_dict does not define an RHM: {error}") from error
        saved = state["class_prior"].cpu()
        if saved.dtype == torch.float64 and torch.allclose(saved, prior, rtol=0, atol=1e-12):
            prior = saved.clone()  # normalized already: keep every bit
        self.tables = RuleTables(rhm.rules, v, prior).to(self.tables.device)

    def _state(self) -> dict[str, Tensor]:
        """Return copies: writing into a state must not change the tables."""
        rules = {f"rules_{level}": rule for level, rule in enumerate(self.rules)}
        return {"class_prior": self.class_prior, **rules}

    def _check_state(self, state: Mapping[str, Any]) -> None:
        """Compare a state's keys, sizes and kinds of numbers with this module's."""
        expected = self._state()
        missing, unexpected = expected.keys() - state.keys(), state.keys() - expected.keys()
        if missing or unexpected:
            problem = (
                f"lacks {min(missing)}" if missing else f"has an unexpected {min(unexpected)}"
            )
            raise InputError(
                f"state_dict {problem}; give the state of a BeliefPropagation with"
                f" {self.tables.num_layers} levels: class_prior and a rules_l per level"
            )
        for name, tensor in expected.items():
            given = state[name]
            if not isinstance(given, Tensor) or given.shape != tensor.shape:
                shape = tuple(given.shape) if isinstance(given, Tensor) else None
                raise InputError(
                    f"state_dict: {name} has shape {shape}; give {tuple(tensor.shape)}, as this"
                    " grammar has: build BeliefPropagation from a grammar of the state's sizes"
                )
            if tensor.dtype == torch.int64 and (given.is_floating_point() or given.is_complex()):
                raise InputError(f"state_dict: {name} is {given.dtype}; give integers")
