"""Properties of every corruption process, checked against enumerated channels."""

import math

import pytest
import torch
from conftest import examples
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import LAST_DRAW, PROCESSES, SEEDS, draws_of, parts_of, rng
from torch import Tensor
from torch.nn.functional import one_hot

from lit_hier.data import RHMDataModule
from lit_hier.errors import InputError
from lit_hier.modules import BPDenoiser
from lit_hier.processes import (
    EpsilonNoise,
    GaussianNoise,
    MaskingNoise,
    NoiseProcess,
    normal_quantile,
)
from lit_hier.rhm import RandomHierarchyModel

processes = st.sampled_from(PROCESSES)
alphabets = st.integers(2, 12)
fractions = st.floats(0, 1, width=32)


def leaves_of(num: int, d: int, v: int, seed: int) -> Tensor:
    return torch.randint(v, (num, d), generator=rng(seed))


def observe(
    process: NoiseProcess, leaves: Tensor, time: float, v: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return draws, some at the ends of their range, and the observation that they lead to."""
    draws = draws_of(len(leaves), process.num_draws(leaves.shape[1], v), seed)
    return draws, process.corrupt(leaves, time, draws, v)


def channel(process: NoiseProcess, time: float, v: int, cells: int) -> Tensor:
    """Enumerate p(observed | symbol) on a grid of draws, shape (symbols, observations).

    Each leaf has its draws at the center of one cell of the grid. The result is exact if `cells`
    times `time` is an integer.
    """
    middle = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    which = (torch.arange(v, dtype=torch.float64) + 0.5) / v
    if isinstance(process, MaskingNoise):
        draws = middle[None]
    else:
        assert isinstance(process, EpsilonNoise)
        grid = torch.cartesian_prod(middle, which)
        draws = torch.cat((grid[:, 0], grid[:, 1]))[None] if process.strings else middle[None, :0]
    d = cells * v if isinstance(process, EpsilonNoise) else cells
    rows = []
    for symbol in range(v):
        observed = process.corrupt(torch.full((1, d), symbol), time, draws, v)
        rows.append(observed.flatten().bincount(minlength=v + 1).double() / d)
    return torch.stack(rows)


@given(processes, alphabets, st.integers(1, 9), SEEDS)
def test_time_zero_loses_nothing(process: NoiseProcess, v: int, d: int, seed: int) -> None:
    leaves = leaves_of(3, d, v, seed)
    _, observed = observe(process, leaves, 0.0, v, seed)
    symbols = observed if observed.ndim == 2 else observed.argmax(-1)
    assert torch.equal(symbols, leaves)
    for dtype in (torch.float32, torch.float64):
        messages = process.messages(observed, 0.0, v, dtype)
        assert torch.equal(messages, one_hot(leaves, v).to(dtype))


@given(processes, alphabets, st.integers(1, 9), st.floats(0, 1e4), SEEDS)
def test_beliefs_are_probabilities_at_all_times_and_uniform_at_the_end(
    process: NoiseProcess, v: int, d: int, time: float, seed: int
) -> None:
    time = min(time, process.axis.end)
    _, observed = observe(process, leaves_of(2, d, v, seed), time, v, seed)
    for dtype in (torch.float32, torch.float64):
        messages = process.messages(observed, time, v, dtype)
        assert messages.shape == (2, d, v)
        assert messages.dtype == dtype
        assert (messages >= 0).all()
        assert (messages.sum(-1) - 1).abs().max() < 8 * torch.finfo(dtype).eps
        if time > 30 or time == process.axis.end:
            assert (messages - 1 / v).abs().max() < 1e-6


@given(
    st.sampled_from([EpsilonNoise(strings=True), MaskingNoise()]),
    alphabets,
    st.integers(0, 8),
)
def test_beliefs_are_the_posterior_of_the_channel(
    process: NoiseProcess, v: int, eighths: int
) -> None:
    """p(symbol | observed) for a uniform prior, by Bayes' rule on the enumerated channel."""
    time = eighths / 8
    likelihood = channel(process, time, v, cells=8)
    assert (likelihood.sum(1) - 1).abs().max() < 1e-15
    for observed, column in enumerate(likelihood.T):
        if column.sum() > 0:
            found = process.messages(torch.tensor([[observed]]), time, v, torch.float64)
            assert (found[0, 0] - column / column.sum()).abs().max() < 1e-15


@given(st.sampled_from(PROCESSES[:3]), alphabets, st.integers(0, 8))
def test_effective_noise_is_the_expected_belief_over_the_channel(
    process: NoiseProcess, v: int, eighths: int
) -> None:
    """The expected belief in a wrong symbol times v (Eq. 60) is equal for all pairs of symbols."""
    time = eighths / 8
    likelihood = channel(process, time, v, cells=8)[:, : v + isinstance(process, MaskingNoise)]
    beliefs = process.messages(torch.arange(likelihood.shape[1])[None], time, v, torch.float64)[0]
    mean = likelihood @ beliefs
    wrong = mean[~torch.eye(v, dtype=torch.bool)]
    assert (v * wrong - process.effective_noise(time, v)).abs().max() < 1e-14


@given(processes, alphabets, fractions, fractions)
def test_effective_noise_does_not_decrease_with_time(
    process: NoiseProcess, v: int, earlier: float, later: float
) -> None:
    earlier, later = sorted((earlier, later))
    if math.isinf(process.axis.end):
        earlier, later = (6 * t for t in (earlier, later))
    before, after = (process.effective_noise(time, v) for time in (earlier, later))
    assert 0 <= before <= after + 1e-12 <= 1 + 1e-7
    assert process.effective_noise(0.0, v) == 0


@given(alphabets, fractions)
def test_strings_have_between_one_and_two_times_the_noise_of_beliefs(v: int, time: float) -> None:
    """A belief centered on the observed symbol may be centered on a wrong one."""
    plain, strings = (EpsilonNoise(kind).effective_noise(time, v) for kind in (False, True))
    assert plain <= strings + 1e-15
    assert strings <= min(1.0, 2 * plain) + 1e-12


@given(processes, alphabets, fractions, SEEDS, st.data())
def test_corruption_of_a_datum_does_not_depend_on_its_batch(
    process: NoiseProcess, v: int, time: float, seed: int, data: st.DataObject
) -> None:
    """The bits are equal for every order and every division into batches."""
    leaves = leaves_of(7, 4, v, seed)
    draws, together = observe(process, leaves, time, v, seed)
    for rows in data.draw(parts_of(7)):
        part = process.corrupt(leaves[rows], time, draws[rows], v)
        assert torch.equal(part, together[rows])
        messages = process.messages(together, time, v, torch.float32)
        assert torch.equal(process.messages(part, time, v, torch.float32), messages[rows])


@given(processes, alphabets, fractions, SEEDS)
def test_leaves_are_corrupted_independently_and_not_in_place(
    process: NoiseProcess, v: int, time: float, seed: int
) -> None:
    """A permutation of leaves and draws permutes the observation."""
    d = 6
    leaves = leaves_of(2, d, v, seed)
    draws, observed = observe(process, leaves, time, v, seed)
    kept = leaves.clone(), draws.clone()
    order = torch.randperm(d, generator=rng(seed))
    if isinstance(process, GaussianNoise):  # v contiguous draws per leaf
        moved = draws.unflatten(1, (d, v))[:, order].flatten(1)
    else:  # one or two rows with one draw per leaf
        moved = draws.unflatten(1, (-1, d))[..., order].flatten(1) if draws.numel() else draws
    assert torch.equal(process.corrupt(leaves[:, order], time, moved, v), observed[:, order])
    assert torch.equal(leaves, kept[0])
    assert torch.equal(draws, kept[1])


@given(st.sampled_from(PROCESSES[1:3]), alphabets, fractions, fractions, SEEDS)
def test_a_changed_leaf_stays_changed_at_later_times_of_the_same_draws(
    process: NoiseProcess, v: int, earlier: float, later: float, seed: int
) -> None:
    earlier, later = sorted((earlier, later))
    leaves = leaves_of(3, 8, v, seed)
    (_, before), (_, after) = (observe(process, leaves, t, v, seed) for t in (earlier, later))
    changed = before != leaves
    assert torch.equal(after[changed], before[changed])


@given(alphabets, st.floats(1e-3, 5), st.floats(1e-3, 5), SEEDS)
def test_diffusion_is_a_semigroup(v: int, first: float, more: float, seed: int) -> None:
    """Diffusion to t, then for s, has the mean and the variance of diffusion to t + s (Eq. 9)."""
    process = GaussianNoise()
    leaves = leaves_of(1, 3, v, seed)
    half = torch.full((1, 3 * v), 0.5, dtype=torch.float64)  # no noise: the median
    part = draws_of(1, 3 * v, seed).clamp(1e-6, 1 - 1e-6)
    mean, noisy = (process.corrupt(leaves, first, draws, v) for draws in (half, part))
    longer = process.corrupt(leaves, first + more, half, v)
    assert (math.exp(-more) * mean - longer).abs().max() < 1e-12
    spread = (noisy - mean).square()
    spread_longer = (process.corrupt(leaves, first + more, part, v) - longer).square()
    eta_2 = normal_quantile(part).view(spread.shape).square()
    wanted = math.exp(-2 * more) * spread - math.expm1(-2 * more) * eta_2
    assert torch.allclose(spread_longer, wanted, rtol=1e-9, atol=1e-12)


@given(st.floats(0, LAST_DRAW), st.floats(0, LAST_DRAW))
def test_normal_quantiles_are_finite_symmetric_and_monotonic(u: float, w: float) -> None:
    a, b = normal_quantile(torch.tensor(sorted((u, w)), dtype=torch.float64)).tolist()
    assert -9 < a <= b < 9
    mirrored = normal_quantile(torch.tensor([1 - u], dtype=torch.float64).clamp(max=LAST_DRAW))
    value = float(normal_quantile(torch.tensor([u], dtype=torch.float64)))
    # Below -7, the spacing 2^-53 of the draws dominates.
    assert float(mirrored) == pytest.approx(-value, abs=1e-6 if abs(value) < 6 else 0.5)


@given(processes, st.lists(st.floats(-0.5, 3, width=16), max_size=5))
def test_times_are_valid_if_they_ascend_on_the_axis(
    process: NoiseProcess, times: list[float]
) -> None:
    allowed = bool(times) and sorted(set(times)) == times
    allowed &= all(0 <= time <= process.axis.end for time in times)
    if allowed:
        process.check_times(times)
    else:
        with pytest.raises(InputError, match=r"^times: "):
            process.check_times(times)


RHM = RandomHierarchyModel(5, 3, 2, 3, 4, seed=2)
DATA = RHMDataModule(RHM, 1, 1, 1, 12, seed=3)
DATA.setup()


@given(processes, st.sets(st.integers(0, 16), min_size=1, max_size=6), SEEDS, st.data())
@examples(40)
def test_samples_do_not_depend_on_other_times_or_on_batches(
    process: NoiseProcess, sixteenths: set[int], seed: int, data: st.DataObject
) -> None:
    """Forward-backward at one time returns the same bits on every grid of times."""
    times = [k / 16 for k in sorted(sixteenths)]
    split = DATA._splits["predict"]
    whole = BPDenoiser(RHM, process, times, seed).predict_step(split[torch.arange(12)], 0)
    chosen = sorted(data.draw(st.sets(st.sampled_from(range(len(times))), min_size=1)))
    sampler = BPDenoiser(RHM, process, [times[k] for k in chosen], seed)
    for rows in data.draw(parts_of(12)):
        if not rows:
            continue
        part = sampler.predict_step(split[torch.tensor(rows)], 7)
        assert part.latents is not None
        assert whole.latents is not None
        assert part.effective_noise is not None
        for a, b in (
            (part.x_reversed, whole.x_reversed),
            (part.effective_noise, whole.effective_noise),
            *zip(part.latents.tree_reversed, whole.latents.tree_reversed, strict=True),
            *zip(part.latents.marginals, whole.latents.marginals, strict=True),
        ):
            assert b is not None
            assert torch.equal(a, b[chosen][:, rows])


@given(st.integers(2, 6), st.floats(0.02, 3), SEEDS)
@examples(40)
def test_ratios_of_gaussian_beliefs_are_likelihood_ratios(v: int, time: float, seed: int) -> None:
    """p(x_t | e_a) / p(x_t | e_b) follows from the distances of x_t to the scaled vectors."""
    process = GaussianNoise()
    leaves = leaves_of(2, 3, v, seed)
    draws = draws_of(2, 3 * v, seed).clamp(1e-4, 1 - 1e-4)
    x_t = process.corrupt(leaves, time, draws, v)
    corners = math.exp(-time) * torch.eye(v, dtype=torch.float64)
    distance = (x_t[..., None, :] - corners).square().sum(-1)
    log_ratio = -distance / (2 * -math.expm1(-2 * time))
    log_ratio -= log_ratio.amax(-1, keepdim=True)
    messages = process.messages(x_t, time, v, torch.float64)
    assume((messages > 0).all())
    log_belief = messages.log() - messages.log().amax(-1, keepdim=True)
    assert (log_belief - log_ratio).abs().max() < 1e-8
