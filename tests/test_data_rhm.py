"""Data modules of grammars and of ensembles, and planned batches."""

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_hier.data import RHMDataModule
from lit_hier.data.batches import PlannedBatches
from lit_hier.errors import InputError
from lit_hier.rhm import GrammarEnsemble, RandomHierarchyModel, whitened_one_hot

SPLITS = ("train", "val", "test", "predict")


def leaves(data: RHMDataModule, split: str) -> list[tuple[int, ...]]:
    loader = getattr(data, f"{split}_dataloader")()
    return [tuple(row) for batch in loader for row in batch["leaves"].tolist()]


@pytest.mark.parametrize(
    ("rhm", "sizes"),
    [
        (RandomHierarchyModel(8, 3, 2, 4), (5000, 300, 200, 100)),
        # The splits have all of the 128 data.
        (RandomHierarchyModel(4, 2, 2, 3, 1), (100, 10, 10, 8)),
    ],
)
def test_splits_are_disjoint(rhm: RandomHierarchyModel, sizes: tuple[int, ...]) -> None:
    data = RHMDataModule(rhm, *sizes, batch_size=64, eval_batch_size=30)
    data.setup()
    rows = {split: leaves(data, split) for split in SPLITS}
    assert [len(rows[split]) for split in SPLITS] == list(sizes)
    assert len(set().union(*rows.values())) == sum(sizes)


def test_batches_have_whitened_leaves_labels_and_sample_indices() -> None:
    rhm = RandomHierarchyModel(8, 3, 2, 4, 5)
    data = RHMDataModule(rhm, 1000, 50, 50, 70, eval_batch_size=30)
    data.setup("predict")
    batches = list(data.predict_dataloader())
    assert [len(batch["index"]) for batch in batches] == [30, 30, 10]
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(70))
    for batch in batches:
        tree, valid = rhm.parse(batch["leaves"])
        assert valid[-1].all()
        assert torch.equal(tree[-1][:, 0], batch["label"])
        assert batch["x"].shape == (len(batch["index"]), 8, 16)
        assert batch["x"].dtype == torch.float32
        assert torch.equal(batch["x"].argmax(1), batch["leaves"])


def test_whitened_one_hot_vectors_of_uniform_symbols_are_white() -> None:
    x = whitened_one_hot(torch.arange(7)[:, None], 7)[:, :, 0].double()
    assert x.mean(0).abs().max() < 1e-6
    covariance = x.T @ x / 7
    assert torch.allclose(covariance, torch.eye(7).double() - 1 / 7, atol=1e-6)


@pytest.mark.parametrize(
    "rhm", [RandomHierarchyModel(8, 3, 2, 4), RandomHierarchyModel(4, 2, 2, 3)]
)
def test_the_training_set_does_not_depend_on_the_other_splits(rhm: RandomHierarchyModel) -> None:
    few, many = RHMDataModule(rhm, 100, 5, 5, 5), RHMDataModule(rhm, 100, 60, 50, 200)
    few.setup()
    many.setup()
    assert set(leaves(few, "train")) == set(leaves(many, "train"))


def test_each_epoch_is_another_order_of_the_same_training_set() -> None:
    data = RHMDataModule(RandomHierarchyModel(8, 3, 2, 4), 500, 5, 5, 5, batch_size=100)
    data.setup()
    loader = data.train_dataloader()
    epochs = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        epochs.append([i for batch in loader for i in batch["index"].tolist()])
    assert epochs[0] == epochs[2] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(500))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            (120, 5, 5, 5),
            r"num_train \+ num_val \+ num_test \+ num_predict = 135, but .* only 128",
        ),
        ((10, 5, 5, 0), "num_predict is 0; give at least 1"),
    ],
)
def test_splits_that_exceed_the_data_are_rejected(sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=rf"^[^\n]*{message}[^\n]*$"):
        RHMDataModule(RandomHierarchyModel(4, 2, 2, 3, 1), *sizes)


def test_each_batch_of_an_ensemble_has_data_of_one_grammar() -> None:
    ensemble = GrammarEnsemble(8, [3, 2], 2, [4, 3], seeds=[5, 0])
    data = RHMDataModule(ensemble, 0, 0, 4, 7, eval_batch_size=3)
    data.setup("predict")
    batches = list(data.predict_dataloader())
    sizes = [3, 3, 1] * 8
    assert [len(batch["index"]) for batch in batches] == sizes
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(56))
    for number, batch in enumerate(batches):
        assert int(batch["source"]) == number // 3
        rhm = ensemble.grammars[number // 3]
        tree, valid = rhm.parse(batch["leaves"])
        assert valid[-1].all()
        assert torch.equal(tree[-1][:, 0], batch["label"])
    # The first grammar has the same data as without the others; grammars differ in their data.
    alone = RHMDataModule(ensemble.grammars[0], 0, 0, 4, 7)
    alone.setup()
    assert leaves(alone, "predict") == leaves(data, "predict")[:7]
    labels = torch.cat([batch["label"] for batch in batches]).view(8, 7)
    assert len({tuple(row) for row in labels.tolist()}) == 8


def test_an_ensemble_has_no_training_data() -> None:
    data = RHMDataModule(GrammarEnsemble(8, 3, 2, 3, seeds=[0, 1]), 10, 5, 5, 5)
    data.setup()
    with pytest.raises(InputError, match=r"^rhm: give one grammar to train a network, not Gr"):
        data.train_dataloader()


def test_an_empty_split_is_rejected_only_when_it_is_loaded() -> None:
    data = RHMDataModule(RandomHierarchyModel(8, 3, 2, 3), 0, 0, 0, 5)
    data.setup()
    assert len(leaves(data, "predict")) == 5
    for split in ("train", "val", "test"):
        with pytest.raises(InputError, match=f"num_{split} is 0; give at least 1"):
            leaves(data, split)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": []}, "seeds: the list is empty; give at least one"),
        ({"seeds": [0, 1, 0]}, r"seeds: \[0, 1, 0\] repeats a number"),
        ({"num_synonyms": []}, "num_synonyms: the list is empty"),
        ({"num_synonyms": [3, 9]}, "num_synonyms=9 .* take num_synonyms <= 8"),
        ({"num_layers": [3, 0]}, "num_layers is 0; give at least 1"),
        ({"seeds": [-1]}, "seed is -1; give at least 0"),
    ],
)
def test_invalid_ensembles_are_rejected(arguments: dict[str, list[int]], message: str) -> None:
    given = {"num_synonyms": 3, "num_layers": 3, "seeds": [0], **arguments}
    with pytest.raises(InputError, match=rf"^[^\n]*{message}[^\n]*$"):
        GrammarEnsemble(8, given["num_synonyms"], 2, given["num_layers"], seeds=given["seeds"])


def test_an_ensemble_has_the_grammar_of_each_combination_of_m_and_seed() -> None:
    ensemble = GrammarEnsemble(8, (3, 2), 2, np.int64(3), seeds=[5, 0])  # type: ignore[arg-type]
    wanted = [(3, 5), (3, 0), (2, 5), (2, 0)]
    for rhm, (m, seed) in zip(ensemble.grammars, wanted, strict=True):
        same = RandomHierarchyModel(8, m, 2, 3, seed=seed)
        assert same.grammars == (same,)
        assert all(torch.equal(a, b) for a, b in zip(rhm.rules, same.rules, strict=True))


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 5), st.integers(0, 3))
def test_parts_of_a_training_step_add_up_to_the_step_of_one_process(
    num: int, size: int, processes: int, skipped: int
) -> None:
    """This also holds for training that resumes within an epoch."""
    alone = PlannedBatches(num, size, shuffle_seed=3)
    plans = [PlannedBatches(num, size, rank, processes, 3) for rank in range(processes)]
    for epoch in (0, 1):
        for plan in (alone, *plans):
            plan.set_epoch(epoch)
        steps = [step.tolist() for step in alone]
        assert sorted(chain(*steps)) == list(range(num))
        for plan in plans:
            plan.skipped = skipped
        parts = [list(plan) for plan in plans]
        for step, *shares in zip(steps[skipped:], *parts, strict=True):
            assert list(chain(*(share.tolist() for share in shares))) == step
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
