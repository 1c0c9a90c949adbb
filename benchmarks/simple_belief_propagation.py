"""Simple ways of writing belief propagation, for s = 2: what the project is measured against.

Each function takes a grammar and a device and gives a function of leaf messages (B, s**L, v), and
where trees are drawn a generator. All are written from Eq. 13 to 16 alone, batch first, and
normalise every message to a sum of one.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lit_hier.rhm import RandomHierarchyModel, Tree

Marginals = Callable[[Tensor], Tree]
Upward = Callable[[Tensor, Tensor], Tensor]
Downward = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def normalise(x: Tensor) -> Tensor:
    """Scale to a sum of one over the last axis."""
    return x / x.sum(-1, keepdim=True)


def children(messages: Tensor) -> tuple[Tensor, ...]:
    """Split a level into left and right children, each (B, families, v)."""
    return messages.unflatten(1, (-1, 2)).unbind(2)


def go_up(levels: list[Upward], leaves: Tensor) -> list[Tensor]:
    """Send messages up, leaves first."""
    up = [normalise(leaves)]
    for send in levels:
        up.append(normalise(send(*children(up[-1]))))
    return up


def both_ways(upward: list[Upward], downward: list[Downward]) -> Marginals:
    """Make marginals of a level's two operations."""

    def marginals(leaves: Tensor) -> Tree:
        up = go_up(upward, leaves)
        down = [torch.full_like(up[-1], 1 / up[-1].shape[-1])]
        for send, below in zip(reversed(downward), reversed(up[:-1]), strict=True):
            both = send(down[-1], *children(below))
            down.append(normalise(torch.stack(both, 2).flatten(1, 2)))
        return tuple(normalise(u * d) for u, d in zip(up, reversed(down), strict=True))

    return marginals


def factors(rhm: RandomHierarchyModel, device: str) -> list[Tensor]:
    """Write each level's rules as a dense (parents, v, v) array of zeros and ones."""
    arrays = []
    for rule in rhm.rules:
        array = torch.zeros(len(rule), *(rhm.num_features,) * 2, device=device)
        for y, tuples in enumerate(rule):
            array[y, tuples[:, 0], tuples[:, 1]] = 1
        arrays.append(array)
    return arrays


def dense_upward(factor: Tensor) -> Upward:
    """Contract the factor with both children."""
    return lambda left, right: torch.einsum("yac,zna,znc->zny", factor, left, right)


def dense(rhm: RandomHierarchyModel, device: str) -> Marginals:
    """Contract the v x v x v factor with einsum."""

    def send_down(factor: Tensor) -> Downward:
        return lambda parent, left, right: (
            torch.einsum("yac,zny,znc->zna", factor, parent, right),
            torch.einsum("yac,zny,zna->znc", factor, parent, left),
        )

    arrays = factors(rhm, device)
    return both_ways(list(map(dense_upward, arrays)), list(map(send_down, arrays)))


def gathered_upward(rule: Tensor) -> Upward:
    """Gather both children's messages for every rule."""
    return lambda left, right: (left[..., rule[..., 0]] * right[..., rule[..., 1]]).sum(-1)


def gather(rhm: RandomHierarchyModel, device: str) -> Marginals:
    """Gather both children's messages for every rule, and add each term where it belongs."""

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
    return both_ways(list(map(gathered_upward, rules)), list(map(send_down, rules)))


def spread(term: Tensor, symbol: int, num_symbols: int) -> Tensor:
    """Scatter a term into a dense message."""
    here = torch.full((*term.shape, 1), symbol, device=term.device)
    return term.new_zeros(*term.shape, num_symbols).scatter(-1, here, term[..., None])


def scattered_upward(rule: Tensor) -> Upward:
    """Take one rule after another; scatter its term, and add that."""

    def send(left: Tensor, right: Tensor) -> Tensor:
        message = left.new_zeros(*left.shape[:2], len(rule))
        for y, tuples in enumerate(rule.tolist()):
            for a, c in tuples:
                message = message + spread(left[..., a] * right[..., c], y, len(rule))
        return message

    return send


def scatter(rhm: RandomHierarchyModel, device: str) -> Marginals:
    """Take one rule after another; scatter its terms, and add them."""

    def send_down(rule: Tensor) -> Downward:
        def send(parent: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
            to_left, to_right = torch.zeros_like(left), torch.zeros_like(right)
            v = left.shape[-1]
            for y, tuples in enumerate(rule.tolist()):
                for a, c in tuples:
                    to_left = to_left + spread(parent[..., y] * right[..., c], a, v)
                    to_right = to_right + spread(parent[..., y] * left[..., a], c, v)
            return to_left, to_right

        return send

    return both_ways(list(map(scattered_upward, rhm.rules)), list(map(send_down, rhm.rules)))


def dense_sample(rhm: RandomHierarchyModel, device: str) -> Marginals:
    """Draw each pair of children from the dense (v, v) array of its parent's symbol."""
    arrays = factors(rhm, device)

    def sample(leaves: Tensor) -> Tree:
        up = go_up(list(map(dense_upward, arrays)), leaves)
        tree = [torch.multinomial(up[-1][:, 0], 1)]
        for factor, below in zip(reversed(arrays), reversed(up[:-1]), strict=True):
            pairs = []
            for symbols, left, right in zip(tree[-1], *children(below), strict=True):
                weights = factor[symbols] * left[:, :, None] * right[:, None, :]
                pairs.append(torch.multinomial(weights.flatten(1), 1))
            pair = torch.stack(pairs)
            v = rhm.num_features
            tree.append(torch.cat((pair // v, pair % v), -1).flatten(1))
        return tuple(reversed(tree))

    return sample


def draw_rules(rules: list[Tensor], upward: list[Upward]) -> Marginals:
    """Draw each node's rule from the m of its symbol."""

    def sample(leaves: Tensor) -> Tree:
        up = go_up(upward, leaves)
        tree = [torch.multinomial(up[-1][:, 0], 1)]
        for rule, below in zip(reversed(rules), reversed(up[:-1]), strict=True):
            chosen = rule[tree[-1]]  # (B, nodes, m, 2)
            left, right = children(below)
            weights = left.gather(-1, chosen[..., 0]) * right.gather(-1, chosen[..., 1])
            which = torch.multinomial(weights.flatten(0, 1), 1).view(*weights.shape[:2], 1, 1)
            tree.append(chosen.gather(2, which.expand(-1, -1, 1, 2)).flatten(1))
        return tuple(reversed(tree))

    return sample


def gather_sample(rhm: RandomHierarchyModel, device: str) -> Marginals:
    """Send messages up as `gather` does, then draw rules."""
    rules = [rule.to(device) for rule in rhm.rules]
    return draw_rules(rules, list(map(gathered_upward, rules)))


def scatter_sample(rhm: RandomHierarchyModel, device: str) -> Marginals:
    """Send messages up as `scatter` does, then draw rules."""
    rules = [rule.to(device) for rule in rhm.rules]
    return draw_rules(rules, list(map(scattered_upward, rules)))
