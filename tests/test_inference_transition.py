"""The paper's phase transition, at the paper's size (Fig. 7)."""

import numpy as np
import torch

from lit_hier.inference import BeliefPropagation, mean_field
from lit_hier.processes import EpsilonNoise
from lit_hier.rhm import RandomHierarchyModel


def test_levels_invert_at_the_transition_of_a_deep_tree() -> None:
    v, m, s, L = 32, 8, 2, 10
    rhm = RandomHierarchyModel(v, m, s, L, seed=0)
    bp = BeliefPropagation(rhm)
    tree = rhm.sample(48, torch.Generator().manual_seed(0))
    process = EpsilonNoise()

    def levels(epsilon: float) -> np.ndarray:
        marginals = bp.marginals(process.messages(tree[0], epsilon, v, torch.float32))
        true = (p.gather(-1, x[..., None]) for p, x in zip(marginals, tree, strict=True))
        return np.array([p.mean().item() for p in true])

    below, above = levels(0.70), levels(0.76)
    assert below[L] > 0.5 > above[L]
    assert 0.70 < mean_field.critical_epsilon(v, m, s) < 0.76
    # Below the transition, certainty grows from level to level; above it, it decreases.
    well_below, well_above = levels(0.55), levels(0.80)
    assert (np.diff(well_below[:7]) > 0).all()
    assert well_below[L] > well_below[0]
    assert (np.diff(well_above) < 0).all()
    assert below[L] - below[0] > above[L] - above[0]
    assert above[0] > 0.6 > 0.2 > above[L]
