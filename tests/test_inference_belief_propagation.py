"""Belief propagation against enumeration, in limits, at any scale; and as an nn.Module."""

import copy
import itertools
import math
import pickle
from typing import Any, get_args

import pytest
import torch
from conftest import every_datum, small_grammars
from jaxtyping import TypeCheckError
from scipy.stats import chisquare
from strategies import random_draws, rng
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lit_hier.errors import InputError
from lit_hier.inference import BeliefPropagation, Query, UnexplainedEvidenceError
from lit_hier.inference.semirings import pairwise_sum
from lit_hier.processes import EpsilonNoise, GaussianNoise, MaskingNoise
from lit_hier.rhm import RandomHierarchyModel, Tree

# A few of every kind; test_properties_inference.py sums over all data of many more.
GRAMMARS = small_grammars()[::5]


@pytest.fixture(params=["kernel", "plain"])
def _both_paths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer by the kernel, and by plain operations."""
    if request.param == "plain":
        monkeypatch.setenv("LIT_HIER_KERNEL", "0")


both_paths = pytest.mark.usefixtures("_both_paths")


def enumerate_posterior(
    rhm: RandomHierarchyModel, messages: Tensor, prior: Tensor
) -> tuple[Tree, Tensor, list[Tensor]]:
    """Sum over all data: trees, log evidence (B,), marginals per level."""
    tree = every_datum(rhm)
    leaf = torch.arange(tree[0].shape[1])
    weights = messages[:, leaf, tree[0]].log().sum(-1) + prior[tree[-1][:, 0]].log()
    evidence = torch.logsumexp(weights, 1) - math.log(rhm.num_data_per_class)
    weights = torch.softmax(weights, 1)
    marginals = [
        torch.einsum(
            "bk,knx->bnx",
            weights,
            torch.nn.functional.one_hot(
                level, rhm.num_classes if level is tree[-1] else rhm.num_features
            ).double(),
        )
        for level in tree
    ]
    return tree, evidence, marginals


def random_messages(rhm: RandomHierarchyModel, batch: int, seed: int = 0) -> Tensor:
    """Messages of any scale, some symbols impossible at some leaves."""
    g = torch.Generator().manual_seed(seed)
    shape = (batch, rhm.num_leaves, rhm.num_features)
    messages = torch.rand(shape, generator=g, dtype=torch.float64)
    keep = torch.rand(shape, generator=g) < 0.9
    true = torch.nn.functional.one_hot(rhm.sample(batch, g)[0], rhm.num_features).bool()
    scale = torch.exp(4 * torch.randn(batch, rhm.num_leaves, 1, generator=g, dtype=torch.float64))
    return messages * (keep | true) * scale


def test_there_are_grammars_of_every_kind() -> None:
    assert {g.tuple_size for g in GRAMMARS} == {2, 3}
    assert {g.num_layers for g in GRAMMARS} == {1, 2, 3}
    assert {g.num_classes == g.num_features for g in GRAMMARS} == {True, False}
    assert any(g.num_synonyms * g.num_features == g.num_features**g.tuple_size for g in GRAMMARS)


@pytest.mark.parametrize("rhm", GRAMMARS, ids=repr)
def test_inference_against_enumeration(rhm: RandomHierarchyModel) -> None:
    messages = random_messages(rhm, 3)
    prior = torch.rand(rhm.num_classes, dtype=torch.float64) + 0.1
    for class_prior in (None, prior):
        bp = BeliefPropagation(rhm, class_prior)
        unnormalized = torch.ones_like(prior) if class_prior is None else prior
        normalized = unnormalized / unnormalized.sum()
        _, evidence, marginals = enumerate_posterior(rhm, messages, normalized)
        assert (bp.log_evidence(messages) - evidence).abs().max() < 1e-10
        for computed, true in zip(bp.marginals(messages), marginals, strict=True):
            assert computed.shape == true.shape
            assert (computed - true).abs().max() < 1e-10
        single = bp.marginals(messages.float())
        assert all(level.dtype == torch.float32 for level in single)
        for computed, true in zip(single, marginals, strict=True):
            assert (computed - true).abs().max() < 1e-5


@both_paths
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rhm", GRAMMARS, ids=repr)
def test_a_prior_per_sample_against_enumeration(
    rhm: RandomHierarchyModel, dtype: torch.dtype
) -> None:
    """Sample by sample as with one prior for all: the same bits, and the enumerated posterior."""
    n = rhm.num_classes
    priors = torch.rand(3, n, dtype=torch.float64, generator=rng(2)) + 0.1
    priors = torch.cat((priors, torch.eye(n)))
    messages = random_messages(rhm, 1).expand(len(priors), -1, -1) + 0.01
    draws = random_draws(rhm, len(priors))
    bp = BeliefPropagation(rhm)
    queries: tuple[Query, ...] = get_args(Query)
    together = bp.condition(messages.to(dtype), priors).query(*queries, draws=draws)
    for k, prior in enumerate(priors):
        one = slice(k, k + 1)
        message, draw = messages[one].to(dtype), draws[one]
        for posterior in (
            bp.condition(message, prior),
            BeliefPropagation(rhm, prior).condition(message),
        ):
            alone = posterior.query(*queries, draws=draw)
            for query in queries:
                for x, y in zip(together[query], alone[query], strict=True):
                    assert torch.equal(x[one], y), query
        _, evidence, marginals = enumerate_posterior(rhm, messages[one], prior / prior.sum())
        tolerance = 1e-10 if dtype == torch.float64 else 1e-5
        assert (together["log_evidence"][0][one] - evidence).abs() < 10 * tolerance
        for computed, true in zip(together["marginals"], marginals, strict=True):
            assert (computed[one] - true).abs().max() < tolerance
    for k in range(n):
        assert together["trees"][-1][3 + k] == k
        assert together["marginals"][-1][3 + k, 0, k] == 1


@both_paths
def test_evidence_against_the_given_class_is_recomputed_or_rejected() -> None:
    """The other class explains the leaves 10^200 times better, or is the only one that does."""
    others = TREE[-1] != torch.arange(5)
    others = others & (others.cumsum(1) == 1)  # the first class that is not the sample's
    messages = epsilon_messages(0.0) + 1e-200
    marginals = BP.condition(messages, others).marginals()
    assert torch.equal(marginals[-1][:, 0], others.double())
    assert all(level.isfinite().all() for level in marginals)
    with pytest.raises(UnexplainedEvidenceError):
        BP.condition(epsilon_messages(0.0), others).marginals()


@pytest.mark.parametrize(
    "prior", [torch.ones(3, 4), torch.ones(2, 5), torch.zeros(5), -torch.ones(3, 5)]
)
def test_invalid_priors_of_samples(prior: Tensor) -> None:
    with pytest.raises(InputError, match="class_prior"):
        BP.condition(epsilon_messages(0.5)[:3], prior)


@pytest.mark.parametrize("rhm", GRAMMARS, ids=repr)
def test_posterior_samples_against_enumeration(rhm: RandomHierarchyModel) -> None:
    """A chi-square test of 20,000 joint samples over all data (rare ones pooled)."""
    messages = random_messages(rhm, 1, seed=1)
    num = 20_000
    uniform_prior = torch.full((rhm.num_classes,), 1 / rhm.num_classes).double()
    tree = enumerate_posterior(rhm, messages, uniform_prior)[0]
    weights = messages[0, torch.arange(rhm.num_leaves), tree[0]].prod(-1)
    expected = num * weights / weights.sum()
    sampled = BeliefPropagation(rhm).sample(
        messages.expand(num, -1, -1), generator=torch.Generator().manual_seed(0)
    )
    parsed, valid = rhm.parse(sampled[0])
    assert valid[-1].all()
    assert all(torch.equal(a, b) for a, b in zip(parsed, sampled, strict=True))
    base = rhm.num_features ** torch.arange(rhm.num_leaves)
    codes = (tree[0] @ base).sort()
    counts = torch.zeros(len(tree[0]))
    counts[codes.indices] = (
        torch.searchsorted(codes.values, sampled[0] @ base).bincount(minlength=len(counts)).float()
    )
    assert counts[expected == 0].sum() == 0
    often = expected >= 10
    observed = [*counts[often].tolist(), counts[~often].sum().item()]
    wanted = [*expected[often].tolist(), expected[~often].sum().item()]
    if wanted[-1] < 10:  # too little to be a cell of its own
        observed[-2:], wanted[-2:] = [sum(observed[-2:])], [sum(wanted[-2:])]
    if len(wanted) > 1:
        assert chisquare(observed, wanted).pvalue > 1e-5


RHM = RandomHierarchyModel(8, 3, 2, 4, 5, seed=1)
TREE = RHM.sample(6, torch.Generator().manual_seed(0))
BP = BeliefPropagation(RHM)


def epsilon_messages(epsilon: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return EpsilonNoise().messages(TREE[0], epsilon, RHM.num_features, dtype)


@both_paths
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_noise_every_latent_is_certain(dtype: torch.dtype) -> None:
    posterior = BP.condition(epsilon_messages(0.0, dtype))
    for belief, symbols in zip(posterior.marginals(), TREE, strict=True):
        assert torch.equal(
            belief, torch.nn.functional.one_hot(symbols, belief.shape[-1]).to(dtype)
        )
    assert all(torch.equal(a, b) for a, b in zip(posterior.sample(), TREE, strict=True))
    expected = torch.full((6,), -RHM.entropy, dtype=torch.float64)
    assert torch.allclose(posterior.log_evidence(), expected)


@both_paths
@pytest.mark.parametrize("num_classes", [5, 13, 26])
def test_without_noise_certainty_is_exactly_one_for_any_number_of_classes(
    num_classes: int,
) -> None:
    """In float32 x times 1/x is not 1 for x = 1/13, the sum of the root's only positive entry."""
    rhm = RandomHierarchyModel(16, 3, 2, 3, num_classes)
    tree = rhm.sample(200, torch.Generator().manual_seed(0))
    messages = torch.nn.functional.one_hot(tree[0], 16).float()
    for belief, symbols in zip(BeliefPropagation(rhm).marginals(messages), tree, strict=True):
        assert torch.equal(belief.argmax(-1), symbols)
        assert (belief.amax(-1) == 1).all()


def test_without_information_marginals_are_the_prior() -> None:
    prior = torch.tensor([5.0, 1, 1, 2, 1], dtype=torch.float64)
    root = BeliefPropagation(RHM, prior).marginals(epsilon_messages(1.0))[-1]
    assert torch.allclose(root, (prior / 10).expand(6, 1, 5))
    # Below the root, the prior is the frequency of each symbol at each node.
    tree = RHM.sample(200_000, torch.Generator().manual_seed(1))
    for belief, symbols in zip(BP.marginals(epsilon_messages(1.0)), tree, strict=True):
        frequency = torch.nn.functional.one_hot(symbols, belief.shape[-1]).double().mean(0)
        assert (belief[0] - frequency).abs().max() < 0.006


def test_a_masked_leaf_carries_no_information() -> None:
    masked = MaskingNoise().messages(
        torch.where(torch.arange(16) % 3 == 0, 8, TREE[0]), 0.5, 8, torch.float64
    )
    without = masked.clone()
    without[:, ::3] = 7.0  # no constant message carries information
    for a, b in zip(BP.marginals(masked), BP.marginals(without), strict=True):
        assert (a - b).abs().max() < 1e-14


def test_permuting_the_alphabet_permutes_the_marginals() -> None:
    g = torch.Generator().manual_seed(2)
    names = [torch.randperm(8, generator=g) for _ in range(4)] + [torch.randperm(5, generator=g)]
    renamed = []
    for level, rule in enumerate(RHM.rules):
        new = torch.empty_like(rule)
        new[names[level + 1]] = names[level][rule]
        renamed.append(new)
    messages = random_messages(RHM, 4)
    permuted = torch.empty_like(messages)
    permuted[..., names[0]] = messages
    other = BeliefPropagation(RandomHierarchyModel.from_rules(renamed)).marginals(permuted)
    for name, a, b in zip(names, BP.marginals(messages), other, strict=True):
        assert (a - b[..., name]).abs().max() < 1e-12


def test_marginals_are_normalized_products_of_upward_and_downward_messages() -> None:
    posterior = BP.condition(random_messages(RHM, 4))
    for up, down, marginal in zip(
        posterior.upward(), posterior.downward(), posterior.marginals(), strict=True
    ):
        for message in (up, down):
            assert torch.allclose(message.sum(-1), torch.ones_like(message[..., 0]))
        product = up * down
        assert (product / product.sum(-1, keepdim=True) - marginal).abs().max() < 1e-13


def test_the_scale_of_messages_affects_the_evidence_only() -> None:
    messages = random_messages(RHM, 4)
    for a, b in zip(BP.marginals(messages), BP.marginals(1e-30 * messages), strict=True):
        assert (a - b).abs().max() < 1e-13
    shift = BP.log_evidence(messages) - BP.log_evidence(1e-30 * messages)
    assert torch.allclose(shift, torch.full_like(shift, 16 * 30 * math.log(10)))


def test_posterior_mean_is_the_optimal_denoiser() -> None:
    """Its squared error is below that of Eq. 4 alone, and its error is orthogonal to the data."""
    rhm = RandomHierarchyModel(6, 2, 2, 4, seed=0)
    leaves = rhm.sample(4000, torch.Generator().manual_seed(0))[0]
    process = GaussianNoise()
    g = torch.Generator().manual_seed(1)
    draws = torch.rand(4000, process.num_draws(16, 6), generator=g, dtype=torch.float64)
    x_t = process.corrupt(leaves, 0.4, draws, 6)
    local = process.messages(x_t, 0.4, 6, torch.float64)
    mean = BeliefPropagation(rhm).posterior_mean(local)
    x_0 = torch.nn.functional.one_hot(leaves, 6).double()
    assert (x_0 - mean).square().mean() < 0.8 * (x_0 - local).square().mean()
    for regressor in (mean, local, x_t):
        product = ((x_0 - mean) * regressor).sum((1, 2))
        assert abs(product.mean()) < 4 * product.std() / len(product) ** 0.5


@both_paths
@pytest.mark.parametrize("epsilon", [0.3, 0.75, 1.0])
def test_deep_trees_neither_underflow_nor_overflow(epsilon: float) -> None:
    rhm = RandomHierarchyModel(4, 2, 2, 16, seed=0)
    tree = rhm.sample(2, torch.Generator().manual_seed(0))
    bp = BeliefPropagation(rhm)
    exact = EpsilonNoise().messages(tree[0], epsilon, 4, torch.float64)
    scaled = exact.float() * torch.tensor([1e-30, 1e30])[:, None, None]
    posterior = bp.condition(scaled)
    for single, double in zip(posterior.marginals(), bp.marginals(exact), strict=True):
        assert (single - double).abs().max() < 1e-3
        assert torch.allclose(single.sum(-1), torch.ones_like(single[..., 0]))
    assert rhm.parse(posterior.sample()[0])[1][-1].all()
    reference = bp.log_evidence(exact) + 65536 * torch.tensor([-30, 30]) * math.log(10)
    assert torch.allclose(posterior.log_evidence(), reference, rtol=1e-5)


@both_paths
def test_evidence_far_below_the_smallest_number_is_still_exact() -> None:
    """The product of two probabilities of 1e-30 leaves the range of float32."""
    rhm = RandomHierarchyModel(4, 1, 2, 2, seed=0)
    trees = rhm.derive(torch.arange(4), torch.zeros(4, 3, dtype=torch.int64))
    for tiny, dtype in ((1e-30, torch.float32), (1e-200, torch.float64)):
        wrong = (trees[0] + 1) % 4
        messages = EpsilonNoise().messages(wrong, 0.0, 4, dtype) + tiny
        bp = BeliefPropagation(rhm)
        weights = messages.double().log()[:, torch.arange(4), trees[0]].sum(-1)
        assert torch.allclose(
            bp.log_evidence(messages), weights.logsumexp(1) - math.log(4), rtol=1e-5
        )
        posterior = torch.softmax(weights, 1)
        assert (bp.marginals(messages)[-1][:, 0].double() - posterior).abs().max() < 1e-5
        leaves = bp.sample(messages)[0]
        assert rhm.parse(leaves)[1][-1].all()
        # Such samples do not change the bits of the others in the batch.
        mixed = torch.cat((messages, torch.ones(1, 4, 4, dtype=dtype)))
        alone = bp.marginals(mixed[4:])
        together = bp.marginals(mixed)
        assert all(torch.equal(a[4:], b) for a, b in zip(together, alone, strict=True))


@both_paths
def test_unexplained_evidence_names_the_samples() -> None:
    messages = epsilon_messages(0.0)
    known = {tuple(x) for x in RHM.rules[0].flatten(0, 1).tolist()}
    stray = next(x for x in itertools.product(range(8), repeat=2) if x not in known)
    messages[[1, 4], :2] = torch.eye(8, dtype=torch.float64)[list(stray)]
    messages[5, 3] = 0.0
    for query in (BP.upward, BP.downward, BP.marginals, BP.log_evidence, BP.sample):
        with pytest.raises(
            UnexplainedEvidenceError, match=r"^[^\n]*3 of .*\(number 1, 4, 5\)"
        ) as e:
            query(messages)
        assert e.value.samples == [1, 4, 5]
    prior = torch.ones(5)
    prior[TREE[-1][0]] = 0
    with pytest.raises(UnexplainedEvidenceError):
        BeliefPropagation(RHM, prior).sample(epsilon_messages(0.0)[:1])


@both_paths
@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (torch.ones(16, 8), r"leaf_messages has shape \(16, 8\); give .* = \(B, 16, 8\)"),
        (torch.ones(2, 16, 7), r"leaf_messages has shape \(2, 16, 7\)"),
        (torch.ones(0, 16, 8), r"leaf_messages has shape \(0, 16, 8\); .* with B >= 1"),
        (torch.ones(2, 16, 8, dtype=torch.int64), "leaf_messages is torch.int64"),
        (-torch.ones(2, 16, 8), "leaf_messages must be finite and non-negative"),
        (torch.full((2, 16, 8), torch.nan), "leaf_messages must be finite and non-negative"),
        (torch.full((2, 16, 8), torch.inf), "leaf_messages must be finite and non-negative"),
    ],
)
def test_invalid_leaf_messages(messages: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=rf"^[^\n]*{message}[^\n]*$"):
        BP.marginals(messages)


@pytest.mark.parametrize(
    "prior", [torch.ones(4), torch.zeros(5), -torch.ones(5), torch.tensor([1, 1, 1, 1, torch.nan])]
)
def test_invalid_class_priors(prior: Tensor) -> None:
    with pytest.raises(InputError, match=r"^class_prior [^\n]*; give [^\n]*$"):
        BeliefPropagation(RHM, prior)


@both_paths
@pytest.mark.parametrize("process", [EpsilonNoise(), EpsilonNoise(True), MaskingNoise()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_has_the_same_bits_in_every_batch(process: Any, dtype: torch.dtype) -> None:
    rhm = RandomHierarchyModel(16, 4, 2, 6, seed=0)
    bp = BeliefPropagation(rhm)
    leaves = rhm.sample(150, torch.Generator().manual_seed(0))[0]
    noise = torch.rand(150, process.num_draws(64, 16), dtype=torch.float64)
    messages = process.messages(process.corrupt(leaves, 0.7, noise, 16), 0.7, 16, dtype)
    draws = torch.rand(150, 1 + rhm.num_choices, dtype=torch.float64)
    marginals, trees = bp.marginals(messages), bp.sample(messages, draws=draws)
    for part in (slice(0, 1), slice(3, 10), slice(1, 150), slice(149, 150)):
        for a, b in zip(bp.marginals(messages[part]), marginals, strict=True):
            assert torch.equal(a, b[part])
        for a, b in zip(bp.sample(messages[part], draws=draws[part]), trees, strict=True):
            assert torch.equal(a, b[part])


def test_draws_of_a_wrong_shape() -> None:
    with pytest.raises(InputError, match=r"draws has shape \(6, 15\); give \(6, 16\)"):
        BP.sample(epsilon_messages(0.5), draws=torch.rand(6, 15))


class LargestTensor(TorchDispatchMode):
    """Record the size of the largest tensor that is created."""

    elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor) and tensor.numel():
                self.elements = max(self.elements, tensor.numel())
        return out


@both_paths
@pytest.mark.parametrize(("v", "m", "s"), [(64, 2, 2), (64, 8, 2), (16, 3, 4)])
def test_memory_per_node_grows_as_the_rules(v: int, m: int, s: int) -> None:
    rhm = RandomHierarchyModel(v, m, s, 2)
    bp = BeliefPropagation(rhm)
    batch = 7
    messages = torch.rand(batch, rhm.num_leaves, v)
    with LargestTensor() as largest:
        bp.marginals(messages)
        bp.sample(messages)
    # One message per leaf, or a chosen rule's m candidates; never v^2 or v m v.
    columns = batch * rhm.num_leaves
    assert largest.elements <= columns * max(v, m * s)


QUERIES: tuple[Query, ...] = ("upward", "downward", "marginals", "log_evidence", "trees")
OTHER = RandomHierarchyModel(8, 3, 2, 4, 5, seed=2)
OTHER_PRIOR = torch.tensor([1.0, 2, 3, 4, 7])


def assert_same_answers(
    a: BeliefPropagation, b: BeliefPropagation, dtype: torch.dtype = torch.float32
) -> None:
    """Compare every bit of every answer."""
    messages = random_messages(RHM, 5).to(dtype) + 0.01
    draws = random_draws(RHM, 5)
    first, second = (bp.condition(messages).query(*QUERIES, draws=draws) for bp in (a, b))
    for query in QUERIES:
        assert all(torch.equal(x, y) for x, y in zip(first[query], second[query], strict=True))


@both_paths
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loading_another_grammars_state_adopts_it_everywhere(dtype: torch.dtype) -> None:
    saved = BeliefPropagation(OTHER, OTHER_PRIOR)
    loaded = BeliefPropagation(RHM)
    loaded.load_state_dict(saved.state_dict())
    assert_same_answers(loaded, BeliefPropagation(OTHER, OTHER_PRIOR), dtype)
    nested = nn.ModuleList([BeliefPropagation(RHM), nn.Linear(2, 2)])
    nested.load_state_dict(nn.ModuleList([saved, nn.Linear(2, 2)]).state_dict())
    assert isinstance(nested[0], BeliefPropagation)
    assert_same_answers(nested[0], saved, dtype)


def test_the_state_is_the_prior_and_the_rules() -> None:
    state = BeliefPropagation(OTHER, OTHER_PRIOR).state_dict()
    assert list(state) == ["class_prior", "rules_0", "rules_1", "rules_2", "rules_3"]
    assert torch.equal(state["class_prior"], OTHER_PRIOR.double() / 17)
    loaded = BeliefPropagation(RHM)
    loaded.load_state_dict(state)
    for level, rule in enumerate(OTHER.rules):
        assert torch.equal(state[f"rules_{level}"], rule)
        assert torch.equal(loaded.rules[level], rule)
    assert all(torch.equal(state[name], x) for name, x in loaded.state_dict().items())


@both_paths
def test_writing_into_a_state_or_into_the_grammar_changes_nothing() -> None:
    rhm = RandomHierarchyModel(8, 3, 2, 4, 5, seed=2)
    prior = OTHER_PRIOR.double() / 17
    bp, reference = BeliefPropagation(rhm, prior), BeliefPropagation(OTHER, OTHER_PRIOR)
    moved = copy.deepcopy(bp).to("cpu")
    state = bp.state_dict() | {"more": torch.zeros(())}
    for tensors in (state.values(), bp.rules, [bp.class_prior], bp.grammar.rules):
        for tensor in tensors:
            tensor.zero_()
    for level, rule in enumerate(OTHER.rules):
        assert torch.equal(rhm.rules[level], rule)
        assert torch.equal(bp.rules[level], rule)
        assert torch.equal(bp.grammar.rules[level], rule)
    for tensor in (*rhm.rules, prior):
        tensor.zero_()
    for other in (bp, moved):
        assert_same_answers(other, reference)


def test_the_grammar_is_that_of_the_tables() -> None:
    bp = BeliefPropagation(RHM)
    assert all(torch.equal(a, b) for a, b in zip(bp.grammar.rules, RHM.rules, strict=True))
    bp.load_state_dict(BeliefPropagation(OTHER, OTHER_PRIOR).state_dict())
    leaves = OTHER.sample(20, torch.Generator().manual_seed(0))[0]
    for a, b in zip(bp.grammar.parse(leaves)[0], OTHER.parse(leaves)[0], strict=True):
        assert torch.equal(a, b)
    assert repr(bp.grammar) == repr(OTHER)


@pytest.mark.parametrize("scale", [1e308, 1e300, 1.0, 1e-300, 1e-323])
def test_a_class_prior_has_any_positive_scale(scale: float) -> None:
    prior = torch.full((5,), scale, dtype=torch.float64)
    assert torch.equal(
        BeliefPropagation(RHM, prior).class_prior, torch.full((5,), 0.2, dtype=torch.float64)
    )
    largest = torch.finfo(torch.float64).max
    unequal = largest * torch.tensor([1, 0.5, 0.25, 0, 0.25], dtype=torch.float64)
    wanted = torch.tensor([4.0, 2, 1, 0, 1], dtype=torch.float64) / 8
    assert torch.equal(BeliefPropagation(RHM, unequal).class_prior, wanted)


def test_a_saved_prior_that_was_rounded_is_normalized() -> None:
    state = BeliefPropagation(OTHER, OTHER_PRIOR).state_dict()
    state["class_prior"] = state["class_prior"].bfloat16()
    loaded = BeliefPropagation(RHM)
    loaded.load_state_dict(state)
    assert loaded.class_prior.dtype == torch.float64
    assert abs(loaded.class_prior.sum() - 1) < 1e-15


STATE = BP.state_dict()
TWICE = STATE["rules_1"].clone()
TWICE[0, 0] = TWICE[1, 0]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {},
            "lacks class_prior; give the state of a BeliefPropagation with 4 levels",
        ),
        (
            {k: x for k, x in STATE.items() if k != "rules_2"},
            "lacks rules_2; give",
        ),
        (STATE | {"rules_4": STATE["rules_3"]}, "has an unexpected rules_4; give"),
        (STATE | {"class_prior": torch.ones(6)}, r"class_prior has shape \(6,\); give \(5,\)"),
        (
            BeliefPropagation(RandomHierarchyModel(7, 3, 2, 4, 5)).state_dict(),
            r"rules_0 has shape \(7, 3, 2\); give \(8, 3, 2\)",
        ),
        (STATE | {"rules_0": STATE["rules_0"].float()}, "rules_0 is torch.float32; give integers"),
        (STATE | {"rules_0": STATE["rules_0"] + 1}, "does not define an RHM: .*has symbol 8"),
        (STATE | {"rules_1": TWICE}, "does not define an RHM: .*belongs to symbols 0 and 1"),
        (
            STATE | {"class_prior": -torch.ones(5)},
            "class_prior has the entry -1; give finite, non-negative",
        ),
    ],
)
def test_invalid_states_change_nothing(state: dict[str, Tensor], message: str) -> None:
    bp = BeliefPropagation(RHM)
    with pytest.raises(InputError, match=rf"^state_dict[^\n]*{message}[^\n]*$"):
        bp.load_state_dict(state)
    assert_same_answers(bp, BP)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_casting_leaves_rules_and_prior_as_they_are(dtype: torch.dtype) -> None:
    bp = BeliefPropagation(OTHER, OTHER_PRIOR)
    before = bp.class_prior.clone()
    for cast in (bp, copy.deepcopy(bp).to(dtype), copy.deepcopy(bp).to("cpu", dtype)):
        assert cast.class_prior.dtype == torch.float64
        assert torch.equal(cast.class_prior, before)
        assert all(torch.equal(a, b) for a, b in zip(cast.rules, OTHER.rules, strict=True))


@both_paths
def test_casting_casts_messages() -> None:
    messages = random_messages(RHM, 5).clamp(1e-2, 1e2)
    double, single, half = (
        BeliefPropagation(RHM).to(x) for x in (torch.float64, torch.float32, torch.bfloat16)
    )
    for bp, given, computed in (
        (double, messages.float(), messages.float().double()),
        (double, messages, messages),
        (single, messages, messages.float()),
        (half, messages, messages.float()),
        (BP, messages.half(), messages.half().float()),
        (BP, messages.float(), messages.float()),
        (BP, messages, messages),
    ):
        for a, b in zip(bp.marginals(given), BP.marginals(computed), strict=True):
            assert a.dtype == computed.dtype
            assert torch.equal(a, b)
    moved = BeliefPropagation(RHM).double().to("cpu")
    assert moved.marginals(messages.float())[0].dtype == torch.float64


def test_moving_moves_all_tables_but_the_kernels() -> None:
    tables = BeliefPropagation(RHM).to("meta", torch.bfloat16).tables
    on_device = [*tables.rules, tables.class_prior, tables.up[0].index, tables.down[0][1].order]
    assert {x.device.type for x in on_device} == {"meta"}
    assert [x.dtype for x in on_device] == [torch.int64] * 4 + [torch.float64] + [torch.int64] * 2
    assert tables.kernel.terms.device.type == "cpu"


def test_copies_and_pickles_answer_alike() -> None:
    bp = BeliefPropagation(OTHER, OTHER_PRIOR).double()
    for other in (copy.deepcopy(bp), pickle.loads(pickle.dumps(bp))):
        assert_same_answers(other, bp)


@both_paths
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_log_evidence_is_float64(dtype: torch.dtype) -> None:
    messages = random_messages(RHM, 3).clamp(1e-2, 1e2).to(dtype)
    evidence = BP.log_evidence(messages)
    assert evidence.dtype == torch.float64
    assert torch.allclose(evidence, BP.log_evidence(messages.double()), rtol=1e-6)


def test_shapes_are_checked_in_the_tests() -> None:
    with pytest.raises(TypeCheckError):
        pairwise_sum(torch.ones(3, dtype=torch.int64))
