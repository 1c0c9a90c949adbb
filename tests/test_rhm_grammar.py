"""Rules, sampling, counting, parsing and files of the Random Hierarchy Model."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import every_datum, examples, small_grammars
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from strategies import grammars

from lit_hier.errors import InputError
from lit_hier.rhm import RandomHierarchyModel, RulesFromFile, read_rules, write_rules
from lit_hier.rhm.sampling import sample_distinct_words


@given(grammars())
@examples(50)
def test_rules_define_an_rhm(rhm: RandomHierarchyModel) -> None:
    for level, rule in enumerate(rhm.rules):
        root = level == rhm.num_layers - 1
        parents = rhm.num_classes if root else rhm.num_features
        assert rule.shape == (parents, rhm.num_synonyms, rhm.tuple_size)
        assert rule.dtype == torch.int64
        assert 0 <= rule.min() <= rule.max() < rhm.num_features
        assert len(rule.flatten(0, 1).unique(dim=0)) == parents * rhm.num_synonyms


def test_rules_are_drawn_and_parsed_without_enumeration_of_all_tuples() -> None:
    rhm = RandomHierarchyModel(256, 8, 4, 2, 10)
    assert rhm.rules[0].shape == (256, 8, 4)
    # 256^9 does not fit into 64 bits, neither for drawing nor for parsing.
    rhm = RandomHierarchyModel(256, 8, 9, 2, 10)
    tree = rhm.sample(20, torch.Generator().manual_seed(0))
    assert torch.equal(rhm.parse(tree[0])[0][2], tree[2])


def test_rules_are_uniform() -> None:
    """Each rule of each symbol is uniform over tuples."""
    counts = np.zeros((4, 9))
    for seed in range(2000):
        rules = RandomHierarchyModel(3, 2, 2, 1, 2, seed=seed).rules[0].flatten(0, 1)
        counts[np.arange(4), (rules @ torch.tensor([3, 1])).numpy()] += 1
    assert chisquare(counts, axis=1).pvalue.min() > 1e-3


def test_the_largest_m_uses_every_tuple_once() -> None:
    rules = RandomHierarchyModel(4, 4, 2, 2).rules[0].flatten(0, 1)
    assert sorted(map(tuple, rules.tolist())) == list(itertools.product(range(4), repeat=2))


def test_rules_depend_on_the_seed_and_not_on_the_depth() -> None:
    a, b = RandomHierarchyModel(5, 3, 2, 2, seed=1), RandomHierarchyModel(5, 3, 2, 3, seed=1)
    assert torch.equal(a.rules[0], b.rules[0])
    assert torch.equal(a.rules[1], b.rules[1])
    assert not torch.equal(a.rules[0], RandomHierarchyModel(5, 3, 2, 2, seed=2).rules[0])


@pytest.mark.parametrize("rhm", small_grammars()[::7], ids=repr)
def test_counts_and_entropy_equal_those_of_enumerated_data(rhm: RandomHierarchyModel) -> None:
    tree = every_datum(rhm)
    assert len(tree[0].unique(dim=0)) == len(tree[0]) == rhm.num_data
    assert (tree[-1] == 0).sum() == rhm.num_data_per_class
    assert rhm.entropy == pytest.approx(math.log(len(tree[0])))


def test_samples_are_uniform_over_all_data() -> None:
    rhm = RandomHierarchyModel(3, 2, 2, 2, 2)
    leaves = rhm.sample(20_000, torch.Generator().manual_seed(0))[0]
    code = torch.tensor([27, 9, 3, 1])
    counts = (leaves @ code).bincount(minlength=81)[every_datum(rhm)[0] @ code]
    assert counts.sum() == 20_000
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_samples_have_the_given_labels() -> None:
    rhm = RandomHierarchyModel(4, 2, 2, 3, 5)
    labels = torch.tensor([4, 0, 2])
    assert torch.equal(rhm.sample(3, labels=labels)[-1][:, 0], labels)
    with pytest.raises(InputError, match=r"labels has shape \(3,\)"):
        rhm.sample(2, labels=labels)
    with pytest.raises(InputError, match="labels must lie in 0 to num_classes - 1 = 4"):
        rhm.sample(1, labels=torch.tensor([5]))


def test_parsing_marks_nodes_that_no_rule_explains() -> None:
    rhm = RandomHierarchyModel(4, 2, 2, 3, seed=3)
    tree = rhm.sample(1, torch.Generator().manual_seed(0))
    tuples = {tuple(x) for x in rhm.rules[0].flatten(0, 1).tolist()}
    unused = next(x for x in itertools.product(range(4), repeat=2) if x not in tuples)
    leaves = tree[0].clone()
    leaves[0, 2:4] = torch.tensor(unused)
    parsed, valid = rhm.parse(leaves)
    assert valid[0].all()
    assert valid[1].tolist() == [[True, False, True, True]]
    assert valid[2].tolist() == [[False, True]]
    assert valid[3].tolist() == [[False]]
    assert parsed[1][0, 1] == parsed[2][0, 0] == parsed[3][0, 0] == -1
    assert torch.equal(parsed[1][:, 2:], tree[1][:, 2:])
    leaves[0, 7] = 4  # not a symbol of the alphabet
    assert rhm.parse(leaves)[1][0].tolist() == [[True] * 7 + [False]]
    with pytest.raises(InputError, match=r"leaves has shape \(1, 7\)"):
        rhm.parse(leaves[:, :7])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 5, 2, 2), "num_synonyms=5 with num_features=4 needs 20 .* take num_synonyms <= 4"),
        ((4, 4, 2, 1, 5), "num_synonyms=4 with num_classes=5 needs 20"),
        ((1, 1, 2, 2), "num_features is 1; give at least 2"),
        ((4, 0, 2, 2), "num_synonyms is 0"),
        ((4, 1, 1, 2), "tuple_size is 1"),
        ((4, 1, 2, 0), "num_layers is 0"),
        ((4, 1, 2, 1, 0), "num_classes is 0"),
        ((4, 1, 2, 1, 4, -1), "seed is -1"),
    ],
)
def test_invalid_numbers_are_rejected(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RandomHierarchyModel(*arguments)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([], "rules: the list is empty"),
        ([[[0, 1]]], r"rules\[0\] is not an integer array"),
        ([[[[0, 1]], [[0]]]], r"rules\[0\] is not an integer array"),
        ([[[[0.5, 1]]]], r"rules\[0\] is not an integer array"),
        ([[[[0]], [[1]]]], r"rules\[0\] has tuples of 1 symbol"),
        (
            [[[[0, 1]], [[0, 1]]]],
            r"rules\[0\]: tuple \(0, 1\) belongs to symbols 0 and 1; use each tuple once",
        ),
        ([[[[0, 1], [0, 1]]]], r"belongs to symbols 0 and 0"),
        ([[[[0, 1]], [[1, 2]]], [[[0, 0]], [[0, 1]]]], r"rules\[0\] has symbol 2, which is out"),
        ([[[[0, -1]], [[1, 1]]]], r"rules\[0\] has symbol -1, which is out of range"),
        ([[[[0, 1]], [[1, 1]]], [[[0, 0, 1]]]], r"rules\[1\] has shape \(1, 1, 3\)"),
    ],
)
def test_invalid_rules_are_rejected(rules: list[object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RandomHierarchyModel.from_rules(rules)


def test_rules_are_equal_after_writing_and_reading(tmp_path: Path) -> None:
    rhm = RandomHierarchyModel(5, 3, 3, 2, 4)
    path = tmp_path / "rules.yaml"
    write_rules(rhm, path)
    for again in (read_rules(path), RulesFromFile(str(path))):
        assert all(torch.equal(a, b) for a, b in zip(again.rules, rhm.rules, strict=True))
        assert repr(rhm).endswith(repr(again).partition("(")[2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read "),
        ("rules: [", "is not plain YAML"),
        ("[1, 2]", "has no list `rules`"),
        ("rules: [[[[0, 1]], [[0, 1]]]]", "belongs to symbols 0 and 1"),
        ("num_features: many\nrules: [[[[0, 1]]]]", "num_features is 'many'"),
    ],
)
def test_invalid_files_are_rejected(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "rules.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_rules(path)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_words_are_drawn_without_replacement(radices: list[int], data: st.DataObject) -> None:
    total = math.prod(radices)
    num = data.draw(st.integers(0, total))
    words = sample_distinct_words(np.random.default_rng(0), num, radices, "words")
    assert words.shape == (num, len(radices))
    assert len(np.unique(words, axis=0)) == num
    assert (words < radices).all()
    with pytest.raises(InputError, match=f"only {total} exist"):
        sample_distinct_words(np.random.default_rng(0), total + 1, radices, "words")


@pytest.mark.parametrize("radices", [[7] * 6, [3] * 4])
def test_a_longer_draw_begins_with_the_shorter(radices: list[int]) -> None:
    total = math.prod(radices)
    long = sample_distinct_words(np.random.default_rng(0), total, radices, "words")
    assert len(np.unique(long, axis=0)) == total
    for num in (10, total // 2, total - 1):
        short = sample_distinct_words(np.random.default_rng(0), num, radices, "words")
        assert np.array_equal(long[:num], short)
