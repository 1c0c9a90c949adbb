"""Laws of every corruption process, against channels that are counted out."""

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
from lit_hier.processes import EpsilonNoise, GaussianNoise, MaskingNoise, NoiseProcess, normal
from lit_hier.rhm import RandomHierarchyModel

processes = st.sampled_from(PROCESSES)
alphabets = st.integers(2, 12)
fractions = st.floats(0, 1, width=32)


def leaves_of(num: int, d: int, v: int, seed: int) -> Tensor:
    return torch.randint(v, (num, d), generator=rng(seed))


def observe(
    process: NoiseProcess, leaves: Tensor, time: float, v: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Draws, some of them at the ends of their range, and what is observed through them."""
    draws = draws_of(len(leaves), process.num_draws(leaves.shape[1], v), seed)
    return draws, process.corrupt(leaves, time, draws, v)


def channel(process: NoiseProcess, time: float, v: int, cells: int) -> Tensor:
    """Count out p(observed | symbol) over a grid of draws: shape (symbols, observed), exact.

    Exact where `cells` times `time` is whole: a cell is a leaf, its draws the cell's middle.
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
def test_at_time_zero_nothing_is_lost(process: NoiseProcess, v: int, d: int, seed: int) -> None:
    leaves = leaves_of(3, d, v, seed)
    _, observed = observe(process, leaves, 0.0, v, seed)
    seen = observed if observed.ndim == 2 else observed.argmax(-1)
    assert torch.equal(seen, leaves)
    for dtype in (torch.float32, torch.float64):
        messages = process.messages(observed, 0.0, v, dtype)
        assert torch.equal(messages, one_hot(leaves, v).to(dtype))


@given(processes, alphabets, st.integers(1, 9), st.floats(0, 1e4), SEEDS)
def test_beliefs_are_probabilities_at_all_times(
    process: NoiseProcess, v: int, d: int, time: float, seed: int
) -> None:
    """Finite and normalised, from the smallest time to the largest; all is lost at the end."""
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
def test_beliefs_are_what_bayes_makes_of_the_channel(
    process: NoiseProcess, v: int, eighths: int
) -> None:
    """p(symbol | observed), all symbols being as likely, from the channel counted out."""
    time = eighths / 8
    likelihood = channel(process, time, v, cells=8)
    assert (likelihood.sum(1) - 1).abs().max() < 1e-15
    for observed, column in enumerate(likelihood.T):
        if column.sum() > 0:
            found = process.messages(torch.tensor([[observed]]), time, v, torch.float64)
            assert (found[0, 0] - column / column.sum()).abs().max() < 1e-15


@given(st.sampled_from(PROCESSES[:3]), alphabets, st.integers(0, 8))
def test_effective_noise_is_the_mean_over_the_channel(
    process: NoiseProcess, v: int, eighths: int
) -> None:
    """The belief in each wrong symbol times v (Eq. 60): one number, whatever the symbols are."""
    time = eighths / 8
    likelihood = channel(process, time, v, cells=8)[:, : v + isinstance(process, MaskingNoise)]
    beliefs = process.messages(torch.arange(likelihood.shape[1])[None], time, v, torch.float64)[0]
    mean = likelihood @ beliefs
    wrong = mean[~torch.eye(v, dtype=torch.bool)]
    assert (v * wrong - process.effective_noise(time, v)).abs().max() < 1e-14


@given(processes, alphabets, fractions, fractions)
def test_effective_noise_rises_from_none_to_all(
    process: NoiseProcess, v: int, earlier: float, later: float
) -> None:
    earlier, later = sorted((earlier, later))
    if math.isinf(process.axis.end):
        earlier, later = (6 * t for t in (earlier, later))
    before, after = (process.effective_noise(time, v) for time in (earlier, later))
    assert 0 <= before <= after + 1e-12 <= 1 + 1e-7
    assert process.effective_noise(0.0, v) == 0


@given(alphabets, fractions)
def test_a_corrupted_string_is_noisier_than_a_belief_around_the_truth(v: int, time: float) -> None:
    """The belief may centre on a wrong symbol, too; and there are more of these if v is large."""
    plain, strings = (EpsilonNoise(kind).effective_noise(time, v) for kind in (False, True))
    assert plain <= strings + 1e-15
    assert strings <= min(1.0, 2 * plain) + 1e-12


@given(processes, alphabets, fractions, SEEDS, st.data())
def test_a_datum_is_corrupted_by_its_own_draws_alone(
    process: NoiseProcess, v: int, time: float, seed: int, data: st.DataObject
) -> None:
    """However data are ordered and cut into batches; the same bits."""
    leaves = leaves_of(7, 4, v, seed)
    draws, together = observe(process, leaves, time, v, seed)
    for rows in data.draw(parts_of(7)):
        part = process.corrupt(leaves[rows], time, draws[rows], v)
        assert torch.equal(part, together[rows])
        messages = process.messages(together, time, v, torch.float32)
        assert torch.equal(process.messages(part, time, v, torch.float32), messages[rows])


@given(processes, alphabets, fractions, SEEDS)
def test_leaves_are_corrupted_one_by_one(
    process: NoiseProcess, v: int, time: float, seed: int
) -> None:
    """Leaves and draws in another order: the observation in that order; the inputs untouched."""
    d = 6
    leaves = leaves_of(2, d, v, seed)
    draws, observed = observe(process, leaves, time, v, seed)
    kept = leaves.clone(), draws.clone()
    order = torch.randperm(d, generator=rng(seed))
    if isinstance(process, GaussianNoise):  # v draws for each leaf, together
        moved = draws.unflatten(1, (d, v))[:, order].flatten(1)
    else:  # one or two rows of draws, a number for each leaf
        moved = draws.unflatten(1, (-1, d))[..., order].flatten(1) if draws.numel() else draws
    assert torch.equal(process.corrupt(leaves[:, order], time, moved, v), observed[:, order])
    assert torch.equal(leaves, kept[0])
    assert torch.equal(draws, kept[1])


@given(st.sampled_from(PROCESSES[1:3]), alphabets, fractions, fractions, SEEDS)
def test_what_the_same_draws_lose_stays_lost_at_later_times(
    process: NoiseProcess, v: int, earlier: float, later: float, seed: int
) -> None:
    earlier, later = sorted((earlier, later))
    leaves = leaves_of(3, 8, v, seed)
    (_, before), (_, after) = (observe(process, leaves, t, v, seed) for t in (earlier, later))
    changed = before != leaves
    assert torch.equal(after[changed], before[changed])


@given(alphabets, st.floats(1e-3, 5), st.floats(1e-3, 5), SEEDS)
def test_diffusing_twice_is_diffusing_longer(v: int, first: float, more: float, seed: int) -> None:
    """Means multiply and variances add up: what stays of x_0 and of the first noise (Eq. 9)."""
    process = GaussianNoise()
    leaves = leaves_of(1, 3, v, seed)
    half = torch.full((1, 3 * v), 0.5, dtype=torch.float64)  # no noise: the median
    part = draws_of(1, 3 * v, seed).clamp(1e-6, 1 - 1e-6)
    mean, noisy = (process.corrupt(leaves, first, draws, v) for draws in (half, part))
    longer = process.corrupt(leaves, first + more, half, v)
    assert (math.exp(-more) * mean - longer).abs().max() < 1e-12
    spread = (noisy - mean).square()
    spread_longer = (process.corrupt(leaves, first + more, part, v) - longer).square()
    eta_2 = normal(part).view(spread.shape).square()
    wanted = math.exp(-2 * more) * spread - math.expm1(-2 * more) * eta_2
    assert torch.allclose(spread_longer, wanted, rtol=1e-9, atol=1e-12)


@given(st.floats(0, LAST_DRAW), st.floats(0, LAST_DRAW))
def test_normal_numbers_are_finite_symmetric_and_in_the_order_of_their_draws(
    u: float, w: float
) -> None:
    a, b = normal(torch.tensor(sorted((u, w)), dtype=torch.float64)).tolist()
    assert -9 < a <= b < 9
    mirrored = normal(torch.tensor([1 - u], dtype=torch.float64).clamp(max=LAST_DRAW))
    value = float(normal(torch.tensor([u], dtype=torch.float64)))
    # Below -7 the draws' own steps, of 2^-53, are what is seen.
    assert float(mirrored) == pytest.approx(-value, abs=1e-6 if abs(value) < 6 else 0.5)


@given(processes, st.lists(st.floats(-0.5, 3, width=16), max_size=5))
def test_times_are_taken_that_ascend_within_the_axis(
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
def test_other_times_and_other_batches_change_no_bit_of_a_sample(
    process: NoiseProcess, sixteenths: set[int], seed: int, data: st.DataObject
) -> None:
    """The whole experiment: a time's samples are the same on every grid of times."""
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
def test_gaussian_beliefs_are_likelihood_ratios_of_the_distances(
    v: int, time: float, seed: int
) -> None:
    """p(x_t | e_a) / p(x_t | e_b) from the squared distances to the shrunken corners."""
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
