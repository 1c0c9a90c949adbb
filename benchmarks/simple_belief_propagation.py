"""Simple implementations of belief propagation for s = 2, which `belief_propagation.py` compares.

Each `*_marginals` and `*_sampler` takes a grammar and a device and returns a function of leaf
messages (B, s**L, v), which returns marginals or draws trees. All are written from Eq. 13 to 16
alone, with the batch dimension first, and normalize every message to a sum of one.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lit_hier.rhm import RandomHierarchyModel, Tree

Inference = Callable[[Tensor], Tree]
Upward = Callable[[Tensor, Tensor], Tensor]
Downward = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def normalize(x: Tensor) -> Tensor:
    """Divide by the sum over the last dimension."""
    return x / x.sum(-1, keepdim=True)


def split_children(messages: Tensor) -> tuple[Tensor, ...]:
    """Split a level into left and right children, each of shape (B, families, v)."""
    return messages.unflatten(1, (-1, 2)).unbind(2)


def compute_upward(levels: list[Upward], leaves: Tensor) -> list[Tensor]:
    """Compute the upward messages of all levels, leaves first."""
    up = [normalize(leaves)]
    for send in levels:
        up.append(normalize(send(*split_children(up[-1]))))
    return up


def combine(upward: list[Upward], downward: list[Downward]) -> Inference:
    """Build the marginals from each level's upward and downward operation."""

    def marginals(leaves: Tensor) -> Tree:
        up = compute_upward(upward, leaves)
        down = [torch.full_like(up[-1], 1 / up[-1].shape[-1])]
        for send, below in zip(reversed(downward), reversed(up[:-1]), strict=True):
            pair = send(down[-1], *split_children(below))
            down.append(normalize(torch.stack(pair, 2).flatten(1, 2)))
        return tuple(normalize(u * d) for u, d in zip(up, reversed(down), strict=True))

    return marginals


def dense_factors(rhm: RandomHierarchyModel, device: str) -> list[Tensor]:
    """Return each level's rules as a dense (parents, v, v) array of zeros and ones."""
    arrays = []
    for rule in rhm.rules:
        array = torch.zeros(len(rule), *(rhm.num_features,) * 2, device=device)
        for y, tuples in enumerate(rule):
            array[y, tuples[:, 0], tuples[:, 1]] = 1
        arrays.append(array)
    return arrays


def einsum_upward(factor: Tensor) -> Upward:
    """Contract the factor with both children's messages."""
    return lambda left, right: torch.einsum("yac,zna,znc->zny", factor, left, right)


def einsum_marginals(rhm: RandomHierarchyModel, device: str) -> Inference:
    """Contract the dense v x v x v factor with einsum."""

    def send_down(factor: Tensor) -> Downward:
        return lambda parent, left, right: (
            torch.einsum("yac,zny,znc->zna", factor, parent, right),
            torch.einsum("yac,zny,zna->znc", factor, parent, left),
        )

    arrays = dense_factors(rhm, device)
    return combine(list(map(einsum_upward, arrays)), list(map(send_down, arrays)))


def gather_upward(rule: Tensor) -> Upward:
    """Gather both children's messages for every rule."""
    return lambda left, right: (left[..., rule[..., 0]] * right[..., rule[..., 1]]).sum(-1)


def gather_marginals(rhm: RandomHierarchyModel, device: str) -> Inference:
    """Gather the messages for every rule, and add each term at its symbol with `index_add_`."""

    def send_down(rule: Tensor) -> Downward:
        def send(parent: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
            messages = []
            for j, other in ((0, right), (1, left)):
                weight = parent[..., None] * other[..., rule[..., 1 - j]]
                message = torch.zeros_like(other)
                messages.append(message.index_add_(-1, rule[..., j].flatten(), weight.flatten(-2)))
            return messages[0], messages[1]

        return send

    rules = [rule.to(device) for rule in rhm.rules]
    return combine(list(map(gather_upward, rules)), list(map(send_down, rules)))


def scatter_term(term: Tensor, symbol: int, num_symbols: int) -> Tensor:
    """Scatter a term into a message that is zero at all other symbols."""
    index = torch.full((*term.shape, 1), symbol, device=term.device)
    return term.new_zeros(*term.shape, num_symbols).scatter(-1, index, term[..., None])


def scatter_upward(rule: Tensor) -> Upward:
    """Loop over the rules; scatter each term and add it to the message."""

    def send(left: Tensor, right: Tensor) -> Tensor:
        message = left.new_zeros(*left.shape[:2], len(rule))
        for y, tuples in enumerate(rule.tolist()):
            for a, c in tuples:
                message = message + scatter_term(left[..., a] * right[..., c], y, len(rule))
        return message

    return send


def scatter_marginals(rhm: RandomHierarchyModel, device: str) -> Inference:
    """Loop over the rules; scatter each term and add it to the messages."""

    def send_down(rule: Tensor) -> Downward:
        def send(parent: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
            to_left, to_right = torch.zeros_like(left), torch.zeros_like(right)
            v = left.shape[-1]
            for y, tuples in enumerate(rule.tolist()):
                for a, c in tuples:
                    to_left = to_left + scatter_term(parent[..., y] * right[..., c], a, v)
                    to_right = to_right + scatter_term(parent[..., y] * left[..., a], c, v)
            return to_left, to_right

        return send

    return combine(list(map(scatter_upward, rhm.rules)), list(map(send_down, rhm.rules)))


def einsum_sampler(rhm: RandomHierarchyModel, device: str) -> Inference:
    """Draw each pair of children from the dense (v, v) array of its parent's symbol."""
    arrays = dense_factors(rhm, device)

    def sample(leaves: Tensor) -> Tree:
        up = compute_upward(list(map(einsum_upward, arrays)), leaves)
        tree = [torch.multinomial(up[-1][:, 0], 1)]
        for factor, below in zip(reversed(arrays), reversed(up[:-1]), strict=True):
            pairs = []
            for symbols, left, right in zip(tree[-1], *split_children(below), strict=True):
                weights = factor[symbols] * left[:, :, None] * right[:, None, :]
                pairs.append(torch.multinomial(weights.flatten(1), 1))
            pair = torch.stack(pairs)
            v = rhm.num_features
            tree.append(torch.cat((pair // v, pair % v), -1).flatten(1))
        return tuple(reversed(tree))

    return sample


def draw_rules(rules: list[Tensor], upward: list[Upward]) -> Inference:
    """Draw each node's rule among the m rules of its symbol."""

    def sample(leaves: Tensor) -> Tree:
        up = compute_upward(upward, leaves)
        tree = [torch.multinomial(up[-1][:, 0], 1)]
        for rule, below in zip(reversed(rules), reversed(up[:-1]), strict=True):
            candidates = rule[tree[-1]]  # (B, nodes, m, 2)
            left, right = split_children(below)
            weights = left.gather(-1, candidates[..., 0]) * right.gather(-1, candidates[..., 1])
            drawn = torch.multinomial(weights.flatten(0, 1), 1).view(*weights.shape[:2], 1, 1)
            tree.append(candidates.gather(2, drawn.expand(-1, -1, 1, 2)).flatten(1))
        return tuple(reversed(tree))

    return sample


def gather_sampler(rhm: RandomHierarchyModel, device: str) -> Inference:
    """Compute upward messages as `gather_marginals` does, then draw rules."""
    rules = [rule.to(device) for rule in rhm.rules]
    return draw_rules(rules, list(map(gather_upward, rules)))


def scatter_sampler(rhm: RandomHierarchyModel, device: str) -> Inference:
    """Compute upward messages as `scatter_marginals` does, then draw rules."""
    rules = [rule.to(device) for rule in rhm.rules]
    return draw_rules(rules, list(map(scatter_upward, rules)))
