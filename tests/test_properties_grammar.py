"""Properties of every grammar, checked against a parser in plain Python."""

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from conftest import every_datum, examples
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import SEEDS, grammars, random_names, renamed, rng
from torch import Tensor

from lit_hier.data import RHMDataModule
from lit_hier.rhm import RandomHierarchyModel, Tree, read_rules, write_rules

Parse = tuple[list[list[int]], list[list[int]]]


def parse(rhm: RandomHierarchyModel, leaves: list[int]) -> Parse:
    """Parse leaves with dictionaries: symbols of each level and their rules; -1 for no symbol."""
    symbols = [[x if 0 <= x < rhm.num_features else -1 for x in leaves]]
    used = []
    for rule in rhm.rules:
        parent = {
            tuple(word): (symbol, k)
            for symbol, words in enumerate(rule.tolist())
            for k, word in enumerate(words)
        }
        below = symbols[-1]
        words = [
            tuple(below[i : i + rhm.tuple_size]) for i in range(0, len(below), rhm.tuple_size)
        ]
        parents = [parent.get(word, (-1, -1)) for word in words]
        symbols.append([symbol for symbol, _ in parents])
        used.append([k for _, k in parents])
    return symbols, used


def choices_of(rhm: RandomHierarchyModel, num: int, seed: int) -> tuple[Tensor, Tensor]:
    g = rng(seed)
    labels = torch.randint(rhm.num_classes, (num,), generator=g)
    return labels, torch.randint(rhm.num_synonyms, (num, rhm.num_choices), generator=g)


def same(a: Tree, b: Tree) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@given(grammars(), SEEDS, st.integers(0, 6))
def test_parsing_inverts_derivation(rhm: RandomHierarchyModel, seed: int, num: int) -> None:
    """A datum determines its class and all choices of rules."""
    labels, choices = choices_of(rhm, num, seed)
    tree = rhm.derive(labels, choices)
    for level, symbols_of_level in enumerate(tree):
        assert symbols_of_level.shape == (num, rhm.tuple_size ** (rhm.num_layers - level))
    parsed, valid = rhm.parse(tree[0])
    assert same(parsed, tree)
    assert all(level.all() for level in valid)
    for row in range(num):
        symbols, used = parse(rhm, tree[0][row].tolist())
        assert symbols == [level[row].tolist() for level in tree]
        assert symbols[-1] == [int(labels[row])]
        assert list(itertools.chain(*used[::-1])) == choices[row].tolist()


@given(grammars(), SEEDS, st.integers(1, 8), st.integers(-1, 9))
def test_parsing_agrees_with_a_dictionary_parser(
    rhm: RandomHierarchyModel, seed: int, num: int, stray: int
) -> None:
    """Strings are data with some leaves replaced, also by numbers outside the alphabet."""
    leaves = rhm.sample(num, rng(seed))[0]
    where = torch.rand(leaves.shape, generator=rng(seed + 1)) < 1.5 / rhm.num_leaves
    others = torch.randint(rhm.num_features, leaves.shape, generator=rng(seed + 2))
    leaves = torch.where(where, others, leaves)
    leaves[0, seed % rhm.num_leaves] = stray
    tree, valid = rhm.parse(leaves)
    for row, string in enumerate(leaves.tolist()):
        symbols = parse(rhm, string)[0]
        assert [level[row].tolist() for level in tree] == symbols
        assert [level[row].tolist() for level in valid] == [
            [x >= 0 for x in level] for level in symbols
        ]


@given(grammars(most_data=5000, most_leaves=9))
@examples(40)
def test_exactly_the_data_among_all_strings_are_valid(rhm: RandomHierarchyModel) -> None:
    v, d = rhm.num_features, rhm.num_leaves
    assume(v**d <= 20_000)
    strings = torch.cartesian_prod(*[torch.arange(v)] * d)
    parses = rhm.parse(strings)[1][-1].flatten()
    assert int(parses.sum()) == rhm.num_data
    assert {tuple(x) for x in strings[parses].tolist()} == {
        tuple(x) for x in every_datum(rhm)[0].tolist()
    }


@given(grammars(), SEEDS)
def test_another_synonym_changes_only_the_subtree_of_its_node(
    rhm: RandomHierarchyModel, seed: int
) -> None:
    assume(rhm.num_synonyms > 1)
    labels, choices = choices_of(rhm, 1, seed)
    node = seed % rhm.num_choices
    changed = choices.clone()
    changed[0, node] = (choices[0, node] + 1) % rhm.num_synonyms
    before, after = rhm.derive(labels, choices), rhm.derive(labels, changed)
    assert same(rhm.parse(after[0])[0], after)
    # Choices are ordered from the root down: find the depth of the node and its position there.
    depth = 0
    while node >= rhm.tuple_size**depth:
        node -= rhm.tuple_size**depth
        depth += 1
    for below in range(rhm.num_layers + 1):  # levels as counted from the root
        a, b = (tree[rhm.num_layers - below][0] for tree in (before, after))
        width = rhm.tuple_size ** (below - depth) if below > depth else 0
        inside = slice(node * width, (node + 1) * width)
        outside = torch.ones(len(a), dtype=torch.bool)
        outside[inside] = False
        assert torch.equal(a[outside], b[outside])
        if below == depth + 1:
            assert not torch.equal(a[inside], b[inside])


@given(grammars(), SEEDS)
def test_derivation_and_parsing_commute_with_permutations_of_symbols(
    rhm: RandomHierarchyModel, seed: int
) -> None:
    names = random_names(rhm, seed)
    other = renamed(rhm, names)
    labels, choices = choices_of(rhm, 5, seed)
    tree = rhm.derive(labels, choices)
    permuted = other.derive(names[-1][labels], choices)
    assert same(permuted, tuple(name[level] for name, level in zip(names, tree, strict=True)))
    assert same(other.parse(permuted[0])[0], permuted)


@given(grammars(), SEEDS)
def test_data_do_not_depend_on_the_order_of_synonyms(rhm: RandomHierarchyModel, seed: int) -> None:
    order = torch.randperm(rhm.num_synonyms, generator=rng(seed))
    other = RandomHierarchyModel.from_rules(
        [rule[:, order] for rule in rhm.rules], rhm.num_features
    )
    labels, choices = choices_of(rhm, 5, seed)
    tree = rhm.derive(labels, choices)
    assert same(other.parse(tree[0])[0], tree)
    assert same(other.derive(labels, order.argsort()[choices]), tree)


@given(grammars(most_leaves=16), st.integers(1, 3), st.integers(1, 5))
def test_grammars_of_different_depth_or_number_of_classes_share_rules(
    rhm: RandomHierarchyModel, deeper: int, more: int
) -> None:
    """The rules of a level depend on (seed, level, v, m, s) only; n selects the first classes."""
    v, m, s, L = rhm.num_features, rhm.num_synonyms, rhm.tuple_size, rhm.num_layers
    n = rhm.num_classes
    assume(m * v <= v**s)
    rules = [RandomHierarchyModel(v, m, s, L + k, 1, seed=5).rules for k in (0, deeper)]
    assert same(rules[0][:-1], rules[1][: L - 1])
    assume(m * (n + more) <= v**s)
    few, many = (RandomHierarchyModel(v, m, s, L, k, seed=5).rules for k in (n, n + more))
    assert same((*few[:-1], few[-1]), (*many[:-1], many[-1][:n]))


@given(grammars())
@examples(30)
def test_rules_of_any_grammar_survive_writing_and_reading(
    rhm: RandomHierarchyModel,
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "rules.yaml")
        write_rules(rhm, path)
        again = read_rules(path)
    assert again.notation == rhm.notation
    assert same(again.rules, rhm.rules)


@given(grammars(most_data=3000, most_leaves=16), SEEDS, st.data())
@examples(40)
def test_splits_are_disjoint_sets_of_data(
    rhm: RandomHierarchyModel, seed: int, data: st.DataObject
) -> None:
    """Splits whose sizes add up to the number of data have every datum once."""
    num = rhm.num_data
    sizes = []
    for _ in range(3):
        sizes.append(data.draw(st.integers(0, num - 1 - sum(sizes))))
    sizes.append(data.draw(st.sampled_from([1, num - sum(sizes)])))
    module = RHMDataModule(rhm, *sizes, seed=seed)
    module.setup()
    language = {
        tuple(leaves): label
        for leaves, label in zip(
            every_datum(rhm)[0].tolist(), every_datum(rhm)[-1].flatten().tolist(), strict=True
        )
    }
    strings_of_splits = []
    for split, size in zip(("train", "val", "test", "predict"), sizes, strict=True):
        drawn = module._splits[split]
        assert len(drawn) == size  # type: ignore[arg-type]
        if size:
            batch = drawn[torch.arange(size)]
            strings = [tuple(leaves) for leaves in batch["leaves"].tolist()]
            assert [language[leaves] for leaves in strings] == batch["label"].tolist()
            strings_of_splits += strings
    assert len(set(strings_of_splits)) == len(strings_of_splits) == sum(sizes)
