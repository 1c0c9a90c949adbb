r"""Exchange of a tuple for a synonym: another of the m tuples that one symbol derives.

A node of level l keeps its symbol, and its tuple of s symbols of level l - 1 becomes another of
this symbol's m tuples. Below a child whose symbol changes, new rules are drawn; below one whose
symbol stays, and likewise further down, the subtree stays. All levels from l up, and with them
the class, are unchanged, and at least one leaf changes.

Source: Cagnetta et al., "How Deep Neural Networks Learn Compositional Data: The Random Hierarchy
Model" (2023), on the invariance to synonyms.
"""

import torch
from torch import Tensor

from lit_hier.errors import InputError
from lit_hier.io.devices import constant
from lit_hier.rhm.grammar import RandomHierarchyModel, Tree


def num_exchange_draws(rhm: RandomHierarchyModel, level: int) -> int:
    """Return the number of uniform draws per datum that `exchange_synonyms` uses."""
    return 1 + sum(rhm.num_nodes(below) for below in range(1, level + 1))


def exchange_synonyms(
    rhm: RandomHierarchyModel, tree: Tree, level: int, draws: Tensor, every: bool = False
) -> Tree:
    """Exchange tuples below nodes of one level for synonyms, drawn uniformly.

    Args:
        rhm: The grammar.
        tree: Trees of the grammar, as `RandomHierarchyModel.sample` returns them.
        level: The level of the nodes, l, 1 to L.
        draws: Uniform numbers in [0, 1), shape (B, `num_exchange_draws`): one chooses the node;
            the others choose the synonym of each node of level l, then the rules of those below.
        every: Whether all tuples of the level are exchanged; by default that of one node.

    Returns:
        Trees like `tree`; its tensors of level l and above are the same ones.

    Raises:
        InputError: The level is out of range, or symbols have no synonyms, m = 1.
    """
    if not 1 <= level <= rhm.num_layers:
        raise InputError(f"level is {level}; give 1 to num_layers = {rhm.num_layers}")
    m, s, device = rhm.num_synonyms, rhm.tuple_size, draws.device
    if m == 1:
        raise InputError("rhm: num_synonyms is 1, so tuples have no synonyms; give at least 2")
    num_nodes = rhm.num_nodes(level)
    node, synonym, rules = draws.tensor_split([1, 1 + num_nodes], dim=1)
    exchanged = (node * num_nodes).long() == torch.arange(num_nodes, device=device)
    exchanged |= every
    rules_above = constant(rhm.rules[level - 1], device)
    old = tree[level - 1].unflatten(1, (-1, s))
    present = (rules_above[tree[level]] == old[:, :, None]).all(-1).int().argmax(-1)
    other = (present + 1 + (synonym * (m - 1)).long()) % m
    levels = list(tree)
    new = rules_above[tree[level], other]
    levels[level - 1] = torch.where(exchanged[:, :, None], new, old).flatten(1)
    for below in range(level - 1, 0, -1):
        choice, rules = rules.tensor_split([rhm.num_nodes(below)], dim=1)
        rules_below = constant(rhm.rules[below - 1], device)
        new = rules_below[levels[below], (choice * m).long()]
        changed = levels[below] != tree[below]
        old = tree[below - 1].unflatten(1, (-1, s))
        levels[below - 1] = torch.where(changed[:, :, None], new, old).flatten(1)
    return tuple(levels)
