"""Laws of belief propagation, against sums over all data in exact fractions."""

import math
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
    random_names,
    renamed,
    rng,
    small_messages,
)
from torch import Tensor
from torch.nn.functional import one_hot

from lit_hier.inference import BeliefPropagation
from lit_hier.rhm import RandomHierarchyModel, Tree

# Of float64, after a few hundred operations on positive numbers.
TIGHT = 1e-12


def weigh(rhm: RandomHierarchyModel, messages: Tensor) -> tuple[Tree, list[Fraction]]:
    """Every datum's tree, and its exact weight for one sample's messages (leaves, v)."""
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


def apart(a: Tree, b: Tree) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


def clamped(messages: Tensor, leaf: int, symbol: int) -> Tensor:
    """The part of the evidence in which a leaf has a symbol."""
    part = messages.clone()
    part[:, leaf] *= one_hot(torch.tensor(symbol), messages.shape[-1])
    return part


@given(grammars(most_data=300, most_leaves=27), SEEDS)
@examples(60)
def test_inference_is_the_exact_sum_over_all_data(rhm: RandomHierarchyModel, seed: int) -> None:
    """Messages from 2^-300 to 2^300: the weight of a datum may be far from any floating point."""
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
def test_answers_are_probabilities_whatever_the_scale(
    rhm: RandomHierarchyModel, seed: int, dtype: torch.dtype
) -> None:
    messages = messages_of_any_scale(rhm, 3, seed)
    if dtype == torch.float32:  # of which 2^300 is none
        messages = messages.sqrt().sqrt().float()
    posterior = BeliefPropagation(rhm).condition(messages)
    for answer in (posterior.upward(), posterior.downward(), posterior.marginals()):
        for level in answer:
            assert level.dtype == dtype
            assert (level >= 0).all()
            assert (level.sum(-1) - 1).abs().max() < 32 * torch.finfo(dtype).eps
    assert posterior.log_evidence().isfinite().all()


@given(grammars(), SEEDS)
def test_the_scale_of_each_leafs_message_moves_the_evidence_and_no_bit_else(
    rhm: RandomHierarchyModel, seed: int
) -> None:
    messages = small_messages(rhm, 3, seed)
    powers = torch.randint(-200, 201, (3, rhm.num_leaves), generator=rng(seed))
    bp = BeliefPropagation(rhm)
    here, there = bp.condition(messages), bp.condition(torch.ldexp(messages, powers[..., None]))
    for a, b in (
        (here.upward(), there.upward()),
        (here.downward(), there.downward()),
        (here.marginals(), there.marginals()),
    ):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    shift = there.log_evidence() - here.log_evidence()
    assert (shift - powers.double().sum(1) * math.log(2)).abs().max() < 1e-9


@given(grammars(), SEEDS)
@examples(60)
def test_total_probability(rhm: RandomHierarchyModel, seed: int) -> None:
    """Beliefs are the mean, over what one leaf may be, of the beliefs were it known to be so."""
    messages = small_messages(rhm, 1, seed)
    bp = BeliefPropagation(rhm)
    leaf = seed % rhm.num_leaves
    beliefs = bp.marginals(messages)
    mean = [torch.zeros_like(level) for level in beliefs]
    evidence = []
    for symbol, belief in enumerate(beliefs[0][0, leaf].tolist()):
        if belief > 0:
            known = clamped(messages, leaf, symbol)
            evidence.append(bp.log_evidence(known))
            share = torch.exp(evidence[-1] - bp.log_evidence(messages))
            assert float(share) == pytest.approx(belief, abs=TIGHT)
            for level, part in zip(mean, bp.marginals(known), strict=True):
                level += belief * part
    assert apart(tuple(mean), beliefs) < TIGHT
    together = torch.logsumexp(torch.stack(evidence), 0)
    assert float(together) == pytest.approx(float(bp.log_evidence(messages)), abs=1e-10)


@given(grammars(), SEEDS)
@examples(60)
def test_a_node_whose_leaves_are_known_is_known(rhm: RandomHierarchyModel, seed: int) -> None:
    """And so is all under it, whatever the other leaves say."""
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
def test_evidence_of_a_tree_is_made_of_that_of_its_subtrees(
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
    # No child may be impossible: a doubt too small to be seen.
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
    assert apart(tuple(mean), beliefs) < TIGHT


@given(grammars(), SEEDS)
@examples(60)
def test_new_names_for_symbols_rename_the_beliefs_and_change_no_other_thing(
    rhm: RandomHierarchyModel, seed: int
) -> None:
    names = random_names(rhm, seed)
    messages = small_messages(rhm, 2, seed)
    there = torch.empty_like(messages)
    there[..., names[0]] = messages
    one, other = BeliefPropagation(rhm), BeliefPropagation(renamed(rhm, names))
    back = [level[..., name] for name, level in zip(names, other.marginals(there), strict=True)]
    assert apart(one.marginals(messages), tuple(back)) < TIGHT
    assert (one.log_evidence(messages) - other.log_evidence(there)).abs().max() < 1e-10


@given(grammars(), SEEDS)
@examples(60)
def test_a_grammar_read_from_right_to_left_has_the_beliefs_from_right_to_left(
    rhm: RandomHierarchyModel, seed: int
) -> None:
    """Mirrored tuples and mirrored leaves; and the order of synonyms means nothing."""
    messages = small_messages(rhm, 2, seed)
    order = torch.randperm(rhm.num_synonyms, generator=rng(seed))
    mirrored = [rule.flip(2)[:, order] for rule in rhm.rules]
    other = BeliefPropagation(RandomHierarchyModel.from_rules(mirrored, rhm.num_features))
    back = [level.flip(1) for level in other.marginals(messages.flip(1))]
    assert apart(BeliefPropagation(rhm).marginals(messages), tuple(back)) < TIGHT


@given(grammars(), SEEDS, st.sampled_from([torch.float32, torch.float64]))
def test_every_draw_is_a_datum_that_the_evidence_allows(
    rhm: RandomHierarchyModel, seed: int, dtype: torch.dtype
) -> None:
    """Also those at the very ends, where rounding might choose a rule of weight zero."""
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
def test_learning_in_steps_is_learning_at_once(rhm: RandomHierarchyModel, seed: int) -> None:
    """Bayes: what is learnt of a leaf later multiplies its belief, and the evidence."""
    first, second = (small_messages(rhm, 1, seed + k) + 0.25 for k in (0, 1))
    bp = BeliefPropagation(rhm)
    leaf = seed % rhm.num_leaves
    both = first.clone()
    both[:, leaf] *= second[:, leaf]
    wanted = bp.marginals(first)[0][0, leaf] * second[0, leaf]
    assert (bp.marginals(both)[0][0, leaf] - wanted / wanted.sum()).abs().max() < TIGHT
    ratio = bp.log_evidence(both) - bp.log_evidence(first)
    assert float(ratio) == pytest.approx(math.log(float(wanted.sum())), abs=1e-10)
