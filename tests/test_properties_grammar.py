"""Laws of every grammar, against readings of it in plain Python."""

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

Read = tuple[list[list[int]], list[list[int]]]


def read(rhm: RandomHierarchyModel, leaves: list[int]) -> Read:
    """Read a string from a dictionary of the rules: symbols, and the rules used; -1 for none."""
    symbols = [[x if 0 <= x < rhm.num_features else -1 for x in leaves]]
    used = []
    for rule in rhm.rules:
        owner = {
            tuple(word): (symbol, k)
            for symbol, words in enumerate(rule.tolist())
            for k, word in enumerate(words)
        }
        below = symbols[-1]
        words = [
            tuple(below[i : i + rhm.tuple_size]) for i in range(0, len(below), rhm.tuple_size)
        ]
        found = [owner.get(word, (-1, -1)) for word in words]
        symbols.append([symbol for symbol, _ in found])
        used.append([k for _, k in found])
    return symbols, used


def choices_of(rhm: RandomHierarchyModel, num: int, seed: int) -> tuple[Tensor, Tensor]:
    g = rng(seed)
    labels = torch.randint(rhm.num_classes, (num,), generator=g)
    return labels, torch.randint(rhm.num_synonyms, (num, rhm.num_choices), generator=g)


def same(a: Tree, b: Tree) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@given(grammars(), SEEDS, st.integers(1, 6))
def test_a_datum_tells_the_choices_that_derived_it(
    rhm: RandomHierarchyModel, seed: int, num: int
) -> None:
    """Reading undoes deriving: two ways to derive make two data, and nothing is lost."""
    labels, choices = choices_of(rhm, num, seed)
    tree = rhm.derive(labels, choices)
    for row in range(num):
        symbols, used = read(rhm, tree[0][row].tolist())
        assert symbols == [level[row].tolist() for level in tree]
        assert symbols[-1] == [int(labels[row])]
        assert list(itertools.chain(*used[::-1])) == choices[row].tolist()


@given(grammars(), SEEDS, st.integers(1, 8), st.integers(-1, 9))
def test_any_string_is_parsed_as_a_dictionary_of_the_rules_reads_it(
    rhm: RandomHierarchyModel, seed: int, num: int, stray: int
) -> None:
    """Data with some leaves replaced, also by what is no symbol: known just where a rule knows."""
    leaves = rhm.sample(num, rng(seed))[0]
    where = torch.rand(leaves.shape, generator=rng(seed + 1)) < 1.5 / rhm.num_leaves
    others = torch.randint(rhm.num_features, leaves.shape, generator=rng(seed + 2))
    leaves = torch.where(where, others, leaves)
    leaves[0, seed % rhm.num_leaves] = stray
    tree, valid = rhm.parse(leaves)
    for row, string in enumerate(leaves.tolist()):
        symbols = read(rhm, string)[0]
        assert [level[row].tolist() for level in tree] == symbols
        assert [level[row].tolist() for level in valid] == [
            [x >= 0 for x in level] for level in symbols
        ]


@given(grammars(most_data=5000, most_leaves=9))
@examples(40)
def test_of_all_strings_just_the_data_parse(rhm: RandomHierarchyModel) -> None:
    v, d = rhm.num_features, rhm.num_leaves
    assume(v**d <= 20_000)
    strings = torch.cartesian_prod(*[torch.arange(v)] * d)
    parses = rhm.parse(strings)[1][-1].flatten()
    assert int(parses.sum()) == rhm.num_data
    assert {tuple(x) for x in strings[parses].tolist()} == {
        tuple(x) for x in every_datum(rhm)[0].tolist()
    }


@given(grammars(), SEEDS)
def test_another_synonym_changes_what_is_under_its_node_and_nothing_else(
    rhm: RandomHierarchyModel, seed: int
) -> None:
    assume(rhm.num_synonyms > 1)
    labels, choices = choices_of(rhm, 1, seed)
    node = seed % rhm.num_choices
    changed = choices.clone()
    changed[0, node] = (choices[0, node] + 1) % rhm.num_synonyms
    before, after = rhm.derive(labels, choices), rhm.derive(labels, changed)
    assert same(rhm.parse(after[0])[0], after)
    # Choices stand from the root down: find the node's level, and its place there.
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
def test_new_names_for_symbols_rename_the_trees(rhm: RandomHierarchyModel, seed: int) -> None:
    """The same choices derive the same tree in new names, and parse it too."""
    names = random_names(rhm, seed)
    other = renamed(rhm, names)
    labels, choices = choices_of(rhm, 5, seed)
    tree = rhm.derive(labels, choices)
    there = other.derive(names[-1][labels], choices)
    assert same(there, tuple(name[level] for name, level in zip(names, tree, strict=True)))
    assert same(other.parse(there[0])[0], there)


@given(grammars(), SEEDS)
def test_the_order_of_synonyms_means_nothing(rhm: RandomHierarchyModel, seed: int) -> None:
    order = torch.randperm(rhm.num_synonyms, generator=rng(seed))
    other = RandomHierarchyModel.from_rules(
        [rule[:, order] for rule in rhm.rules], rhm.num_features
    )
    labels, choices = choices_of(rhm, 5, seed)
    tree = rhm.derive(labels, choices)
    assert same(other.parse(tree[0])[0], tree)
    assert same(other.derive(labels, order.argsort()[choices]), tree)


@given(grammars(most_leaves=16), st.integers(1, 3), st.integers(1, 5))
def test_rules_of_a_level_know_nothing_of_depth_and_few_classes_are_the_first_of_many(
    rhm: RandomHierarchyModel, deeper: int, more: int
) -> None:
    """Rules depend on (seed, level, v, m, s): grammars of several sizes may be compared."""
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
def test_rules_come_back_from_a_file(rhm: RandomHierarchyModel) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "rules.yaml")
        write_rules(rhm, path)
        again = read_rules(path)
    assert again.parameters == rhm.parameters
    assert same(again.rules, rhm.rules)


@given(grammars(most_data=3000, most_leaves=16), SEEDS, st.data())
@examples(40)
def test_splits_are_parts_of_the_language(
    rhm: RandomHierarchyModel, seed: int, data: st.DataObject
) -> None:
    """No datum stands in two splits; splits that ask for everything get each datum once."""
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
    seen = []
    for split, size in zip(("train", "val", "test", "predict"), sizes, strict=True):
        drawn = module._splits[split]
        assert len(drawn) == size  # type: ignore[arg-type]
        if size:
            batch = drawn[torch.arange(size)]
            strings = [tuple(leaves) for leaves in batch["leaves"].tolist()]
            assert [language[leaves] for leaves in strings] == batch["label"].tolist()
            seen += strings
    assert len(set(seen)) == len(seen) == sum(sizes)
