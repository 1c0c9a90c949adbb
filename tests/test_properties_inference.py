"""Laws of belief propagation, against sums over all data in exact fractions."""

import math
import os
from fractions import Fraction

import pytest
import torch
from conftest import every_datum, examples
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    LAST_DRAW,
    SEEDS,
    grammars,
    messages_of_any_scale,
    messages_of_different_sharpness,
    random_draws,
    random_names,
    renamed,
    rng,
    small_messages,
)
from torch import Tensor
from torch.nn.functional import one_hot

from lit_hier.inference import BeliefPropagation, Query, native_library
from lit_hier.rhm import RandomHierarchyModel, Tree

# Rounding error of float64 after a few hundred operations on positive numbers.
TIGHT = 1e-12
QUERIES: tuple[Query, ...] = ("upward", "downward", "marginals", "log_evidence", "trees")


def weigh(rhm: RandomHierarchyModel, messages: Tensor) -> tuple[Tree, list[Fraction]]:
    """Return every datum's tree and its exact weight, given one sample's messages (leaves, v)."""
    tree = every_datum(rhm)
    exact = [[Fraction(x) for x in row] for row in messages.tolist()]
    weights = []
    for leaves in tree[0].tolist():
        weight = Fraction(1)
        for leaf, symbol in enumerate(leaves):
            weight *= exact[leaf][symbol]
        weights.append(weight)
    return tree, weights


def log(x: Fraction) -> float:
    """Logarithm of a fraction of any size."""
    return math.log(x.numerator) - math.log(x.denominator)


def max_difference(a: Tree, b: Tree) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


def clamp_leaf(messages: Tensor, leaf: int, symbol: int) -> Tensor:
    """Restrict the evidence to trees in which a leaf has a symbol."""
    part = messages.clone()
    part[:, leaf] *= one_hot(torch.tensor(symbol), messages.shape[-1])
    return part


@given(grammars(most_data=300, most_leaves=27), SEEDS)
@examples(60)
def test_inference_is_the_exact_sum_over_all_data(rhm: RandomHierarchyModel, seed: int) -> None:
    """Messages from 2^-300 to 2^300: a datum's weight may exceed any floating-point range."""
    messages = messages_of_any_scale(rhm, 1, seed)
    bp = BeliefPropagation(rhm)
    tree, weights = weigh(rhm, messages[0])
    total = sum(weights, Fraction(0))
    evidence = log(total / len(weights))
    assert float(bp.log_evidence(messages)) == pytest.approx(evidence, rel=1e-13, abs=TIGHT)
    shares = [float(weight / total) for weight in weights]
    for level, marginal in zip(tree, bp.marginals(messages), strict=True):
        wanted = torch.zeros(marginal.shape[1:], dtype=torch.float64)
        nodes = torch.arange(level.shape[1])
        for symbols, share in zip(level, shares, strict=True):
            wanted[nodes, symbols] += share
        assert (marginal[0] - wanted).abs().max() < TIGHT


@given(grammars(), SEEDS, st.sampled_from([torch.float32, torch.float64]))
def test_answers_are_probabilities_at_any_scale(
    rhm: RandomHierarchyModel, seed: int, dtype: torch.dtype
) -> None:
    messages = messages_of_any_scale(rhm, 3, seed)
    if dtype == torch.float32:  # which cannot represent 2^300
        messages = messages.sqrt().sqrt().float()
    posterior = BeliefPropagation(rhm).condition(messages)
    for answer in (posterior.upward(), posterior.downward(), posterior.marginals()):
        for level in answer:
            assert level.dtype == dtype
            assert (level >= 0).all()
            assert (level.sum(-1) - 1).abs().max() < 32 * torch.finfo(dtype).eps
    assert posterior.log_evidence().isfinite().all()


@given(grammars(), SEEDS)
def test_the_scale_of_each_leafs_message_changes_the_evidence_and_no_other_bit(
    rhm: RandomHierarchyModel, seed: int
) -> None:
    messages = small_messages(rhm, 3, seed)
    powers = torch.randint(-200, 201, (3, rhm.num_leaves), generator=rng(seed))
    bp = BeliefPropagation(rhm)
    posterior = bp.condition(messages)
    scaled = bp.condition(torch.ldexp(messages, powers[..., None]))
    for a, b in (
        (posterior.upward(), scaled.upward()),
        (posterior.downward(), scaled.downward()),
        (posterior.marginals(), scaled.marginals()),
    ):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    shift = scaled.log_evidence() - posterior.log_evidence()
    assert (shift - powers.double().sum(1) * math.log(2)).abs().max() < 1e-9


@given(grammars(), SEEDS)
@examples(60)
def test_total_probability(rhm: RandomHierarchyModel, seed: int) -> None:
    """Marginals are the mean, over the symbol of one leaf, of the marginals given that symbol."""
    messages = small_messages(rhm, 1, seed)
    bp = BeliefPropagation(rhm)
    leaf = seed % rhm.num_leaves
    beliefs = bp.marginals(messages)
    mean = [torch.zeros_like(level) for level in beliefs]
    evidence = []
    for symbol, belief in enumerate(beliefs[0][0, leaf].tolist()):
        if belief > 0:
            known = clamp_leaf(messages, leaf, symbol)
            evidence.append(bp.log_evidence(known))
            share = torch.exp(evidence[-1] - bp.log_evidence(messages))
            assert float(share) == pytest.approx(belief, abs=TIGHT)
            for level, part in zip(mean, bp.marginals(known), strict=True):
                level += belief * part
    assert max_difference(tuple(mean), beliefs) < TIGHT
    together = torch.logsumexp(torch.stack(evidence), 0)
    assert float(together) == pytest.approx(float(bp.log_evidence(messages)), abs=1e-10)


@given(grammars(), SEEDS)
@examples(60)
def test_a_node_whose_leaves_are_known_is_known(rhm: RandomHierarchyModel, seed: int) -> None:
    """So is its whole subtree, for any evidence at the other leaves."""
    messages = small_messages(rhm, 1, seed)
    level = seed % rhm.num_layers + 1
    node = (seed // 7) % rhm.num_nodes(level)
    width = rhm.tuple_size**level
    tree = BeliefPropagation(rhm).sample(messages, generator=rng(seed))
    under = slice(node * width, (node + 1) * width)
    known = messages.clone()
    known[:, under] = one_hot(tree[0][:, under], rhm.num_features).double()
    beliefs = BeliefPropagation(rhm).marginals(known)
    for k in range(level + 1):
        span = rhm.tuple_size ** (level - k)
        symbols = tree[k][:, node * span : (node + 1) * span]
        part = beliefs[k][:, node * span : (node + 1) * span]
        assert (part - one_hot(symbols, part.shape[-1])).abs().max() < TIGHT


@given(grammars(min_layers=2, most_leaves=64), SEEDS)
@examples(60)
def test_the_evidence_of_a_tree_follows_from_that_of_its_subtrees(
    rhm: RandomHierarchyModel, seed: int
) -> None:
    """Given the rule at the root, subtrees are independent data of a grammar with one level less.

    p(leaves) = sum over classes and rules of 1/(n m) times the product over children of
    p(their leaves given the child's symbol).
    """
    messages = small_messages(rhm, 1, seed)
    v, s = rhm.num_features, rhm.tuple_size
    below = RandomHierarchyModel.from_rules(rhm.rules[:-1], v)
    parts = messages.unflatten(1, (s, -1))[0]
    # No child may be impossible; the addition is far below the tolerance.
    parts = parts + 1e-200
    given_symbol = torch.stack(
        [BeliefPropagation(below, prior).log_evidence(parts) for prior in torch.eye(v)], dim=1
    )
    rules = rhm.rules[-1].flatten(0, 1)
    products = torch.stack([given_symbol[j, rules[:, j]] for j in range(s)]).sum(0)
    wanted = torch.logsumexp(products, 0) - math.log(len(rules))
    found = BeliefPropagation(rhm).log_evidence(messages)
    assert float(found) == pytest.approx(float(wanted), abs=1e-10)


@given(grammars(), SEEDS)
@examples(60)
def test_a_prior_mixes_the_evidence_of_its_classes(rhm: RandomHierarchyModel, seed: int) -> None:
    messages = small_messages(rhm, 1, seed)
    prior = torch.randint(1, 10, (rhm.num_classes,), generator=rng(seed)).double()
    bp = BeliefPropagation(rhm, prior)
    beliefs = bp.marginals(messages)
    mean = [torch.zeros_like(level) for level in beliefs]
    for label, belief in enumerate(beliefs[-1][0, 0].tolist()):
        if belief > 0:
            one = BeliefPropagation(rhm, one_hot(torch.tensor(label), rhm.num_classes))
            share = (prior[label] / prior.sum()).log() + one.log_evidence(messages)
            assert float(share - bp.log_evidence(messages)) == pytest.approx(
                math.log(belief), abs=1e-10
            )
            for level, part in zip(mean, one.marginals(messages), strict=True):
                level += belief * part
    assert max_difference(tuple(mean), beliefs) < TIGHT


@given(grammars(), SEEDS)
@examples(60)
def test_renaming_symbols_only_renames_the_marginals(rhm: RandomHierarchyModel, seed: int) -> None:
    names = random_names(rhm, seed)
    messages = small_messages(rhm, 2, seed)
    permuted = torch.empty_like(messages)
    permuted[..., names[0]] = messages
    one, other = BeliefPropagation(rhm), BeliefPropagation(renamed(rhm, names))
    back = [level[..., name] for name, level in zip(names, other.marginals(permuted), strict=True)]
    assert max_difference(one.marginals(messages), tuple(back)) < TIGHT
    assert (one.log_evidence(messages) - other.log_evidence(permuted)).abs().max() < 1e-10


@given(grammars(), SEEDS)
@examples(60)
def test_mirrored_rules_and_leaves_have_mirrored_marginals(
    rhm: RandomHierarchyModel, seed: int
) -> None:
    """The order of synonyms has no effect."""
    messages = small_messages(rhm, 2, seed)
    order = torch.randperm(rhm.num_synonyms, generator=rng(seed))
    mirrored = [rule.flip(2)[:, order] for rule in rhm.rules]
    other = BeliefPropagation(RandomHierarchyModel.from_rules(mirrored, rhm.num_features))
    back = [level.flip(1) for level in other.marginals(messages.flip(1))]
    assert max_difference(BeliefPropagation(rhm).marginals(messages), tuple(back)) < TIGHT


@given(grammars(), SEEDS, st.sampled_from([torch.float32, torch.float64]))
def test_every_sample_is_a_datum_that_the_evidence_allows(
    rhm: RandomHierarchyModel, seed: int, dtype: torch.dtype
) -> None:
    """Also for draws at the ends of [0, 1), where rounding might choose a rule of weight zero."""
    messages = small_messages(rhm, 6, seed).to(dtype)
    draws = torch.rand(6, 1 + rhm.num_choices, generator=rng(seed), dtype=torch.float64)
    draws[0], draws[1] = 0.0, LAST_DRAW
    draws[2:4] = torch.randint(0, 2, draws[2:4].shape, generator=rng(seed)).double() * LAST_DRAW
    posterior = BeliefPropagation(rhm).condition(messages)
    tree = posterior.sample(draws=draws)
    parsed, valid = rhm.parse(tree[0])
    assert valid[-1].all()
    assert all(torch.equal(a, b) for a, b in zip(parsed, tree, strict=True))
    assert (messages.gather(-1, tree[0][..., None]) > 0).all()
    for level, beliefs in zip(tree, posterior.marginals(), strict=True):
        assert (beliefs.gather(-1, level[..., None]) > 0).all()


@given(grammars(), SEEDS)
@examples(60)
def test_updating_in_steps_equals_updating_at_once(rhm: RandomHierarchyModel, seed: int) -> None:
    """Bayes' rule: later evidence at a leaf multiplies its marginal and the total evidence."""
    first, second = (small_messages(rhm, 1, seed + k) + 0.25 for k in (0, 1))
    bp = BeliefPropagation(rhm)
    leaf = seed % rhm.num_leaves
    both = first.clone()
    both[:, leaf] *= second[:, leaf]
    wanted = bp.marginals(first)[0][0, leaf] * second[0, leaf]
    assert (bp.marginals(both)[0][0, leaf] - wanted / wanted.sum()).abs().max() < TIGHT
    ratio = bp.log_evidence(both) - bp.log_evidence(first)
    assert float(ratio) == pytest.approx(math.log(float(wanted.sum())), abs=1e-10)


@pytest.mark.skipif(os.environ.get("LIT_HIER_KERNEL") == "0", reason="LIT_HIER_KERNEL=0")
@given(grammars(), SEEDS, st.integers(1, 40), st.sampled_from([torch.float32, torch.float64]))
@examples(60)
def test_the_kernel_has_the_bits_of_plain_operations(
    rhm: RandomHierarchyModel, seed: int, num: int, dtype: torch.dtype
) -> None:
    bp = BeliefPropagation(rhm, torch.rand(rhm.num_classes, generator=rng(seed)) + 0.1)
    posterior = bp.condition(messages_of_different_sharpness(rhm, num, seed, dtype))
    draws = random_draws(rhm, num)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_library, "load_kernel", lambda: None)
        plain = posterior.query(*QUERIES, draws=draws)
    assert native_library.load_kernel() is not None
    native = posterior.query(*QUERIES, draws=draws)
    for query in QUERIES:
        assert all(torch.equal(a, b) for a, b in zip(plain[query], native[query], strict=True))
