"""What several tests need: small grammars, enumeration, and the command line in this process."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lit_hier.cli import main
from lit_hier.rhm import RandomHierarchyModel, Tree

ROOT = Path(__file__).parent.parent

# One thread per process, held: the bits of a matrix product may depend on it.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


def small_grammars() -> list[RandomHierarchyModel]:
    """Grammars with at most 30,000 data: s = 2, 3; n = v and not; m from 1 to its maximum."""
    grammars = []
    for v, s, L in itertools.product((2, 3, 4), (2, 3), (1, 2, 3)):
        for n in (v, 1, v + 1):
            most = v**s // max(n, v if L > 1 else 1)
            for m in sorted({1, 2, most}):
                num_choices = (s**L - 1) // (s - 1)
                if 1 <= m <= most and n * m**num_choices <= 30_000:
                    seed = len(grammars)
                    grammars.append(RandomHierarchyModel(v, m, s, L, n, seed=seed))
    return grammars


def every_datum(rhm: RandomHierarchyModel) -> Tree:
    """Rewrite every class by every choice of rules, one after another, as the grammar says."""
    trees = [((label,),) for label in range(rhm.num_classes)]
    for rule in reversed(rhm.rules):
        grown = []
        for tree in trees:
            options = (rule[symbol].tolist() for symbol in tree[-1])
            for tuples in itertools.product(*options):
                grown.append((*tree, tuple(itertools.chain(*tuples))))
        trees = grown
    return tuple(
        torch.tensor(level) for level in zip(*[tree[::-1] for tree in trees], strict=True)
    )


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Run `lit-hier` here, in an empty folder; give the folder."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> Path:
        main([*args, "--trainer.enable_progress_bar=false"])
        return tmp_path

    return run
