"""A grammar of your own: rules as lists, its data, and the posterior of noisy data."""

import torch

from lit_hier.inference import BeliefPropagation
from lit_hier.processes import MaskingNoise
from lit_hier.rhm import RandomHierarchyModel, read_rules, write_rules

# Leaves first. Each of the symbols A, B, C has two rules; no tuple belongs to two symbols.
words = [[[0, 1], [1, 0]], [[1, 2], [2, 1]], [[0, 2], [2, 0]]]
sentences = [[[0, 0], [1, 1]], [[0, 1], [2, 0]]]  # two classes
rhm = RandomHierarchyModel.from_rules([words, sentences])

tree = rhm.sample(5, generator=torch.Generator().manual_seed(0))
for leaves, label in zip(tree[0], tree[-1], strict=True):
    print("".join("ABC"[symbol] for symbol in leaves), "is of class", int(label))

_, valid = rhm.parse(torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0]]))
print("strings that the rules explain:", valid[-1].flatten().tolist())

# Mask the first leaf, and compute the exact probability of each class.
observed = tree[0].clone()
observed[:, 0] = rhm.num_features
messages = MaskingNoise().messages(observed, 0.0, rhm.num_features, torch.float64)
print("P(class):", BeliefPropagation(rhm).marginals(messages)[-1][:, 0])

# In configs: rhm: {class_path: RulesFromFile, init_args: {path: rules.yaml}}
write_rules(rhm, "rules.yaml")
assert all(map(torch.equal, read_rules("rules.yaml").rules, rhm.rules))
