from collections.abc import Sequence
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from lit_hier.data import RHMDataModule
from lit_hier.diffusion import Latents
from lit_hier.errors import InputError
from lit_hier.modules import BPDenoiser
from lit_hier.processes import EpsilonNoise, GaussianNoise, MaskingNoise, NoiseProcess
from lit_hier.rhm import GrammarEnsemble, RandomHierarchyModel, whitened_one_hot
from lit_hier.rhm.parameters import GrammarParameters

RHM = RandomHierarchyModel(8, 3, 2, 4, seed=1)
DATA = RHMDataModule(RHM, 10, 5, 5, 40)
DATA.setup()
TIMES = [0.0, 0.3, 0.7, 1.0]


def batch(index: Sequence[int]) -> dict[str, torch.Tensor]:
    return DATA._splits["predict"][torch.tensor(index)]


@pytest.mark.parametrize("process", [EpsilonNoise(), EpsilonNoise(True), MaskingNoise()])
def test_the_record_is_complete(process: NoiseProcess) -> None:
    given = batch(range(12))
    record = BPDenoiser(RHM, process, TIMES).predict_step(given, 0)
    T, B, L = 4, 12, 4
    assert record.x_reversed.shape == (T, B, 8, 16)
    assert torch.equal(record.x_start, given["x"])
    assert torch.equal(record.times, torch.tensor(TIMES, dtype=torch.float64))
    assert torch.equal(record.index, given["index"])
    assert torch.equal(record.label, given["label"])
    assert record.axis is process.axis
    latents = record.latents
    assert latents is not None
    assert torch.equal(latents.tree_start[0], given["leaves"])
    for level in range(L + 1):
        nodes = 2 ** (L - level)
        assert latents.tree_reversed[level].shape == (T, B, nodes)
        assert latents.marginals[level].shape == (T, B, nodes, 8)
        assert torch.equal(latents.tree_reversed[level][0], latents.tree_start[level])
    leaves = latents.tree_reversed[0].flatten(0, 1)
    assert RHM.parse(leaves)[1][-1].all()
    encoded = whitened_one_hot(leaves, 8).unflatten(0, (T, B))
    assert torch.equal(record.x_reversed, encoded)
    assert (latents.tree_reversed[0][-1] != latents.tree_start[0]).float().mean() > 0.5


@pytest.mark.parametrize(
    "process", [EpsilonNoise(), EpsilonNoise(True), MaskingNoise(), GaussianNoise()]
)
def test_a_sample_depends_on_seed_index_and_time_only(process: NoiseProcess) -> None:
    whole = BPDenoiser(RHM, process, TIMES).predict_step(batch(range(40)), 0)
    index = [7, 3, 4, 5, 39]
    part = BPDenoiser(RHM, process, [0.3, 1.0]).predict_step(batch(index), 5)
    assert part.latents is not None
    assert whole.latents is not None
    for a, b in (
        *zip(part.latents.tree_reversed, whole.latents.tree_reversed, strict=True),
        *zip(part.latents.marginals, whole.latents.marginals, strict=True),
    ):
        assert torch.equal(a, b[[1, 3]][:, index])
    other = BPDenoiser(RHM, process, TIMES, seed=1).predict_step(batch(range(40)), 0)
    assert not torch.equal(other.x_reversed, whole.x_reversed)


def test_double_precision() -> None:
    record = BPDenoiser(RHM, EpsilonNoise(), TIMES).double().predict_step(batch(range(3)), 0)
    assert record.latents is not None
    assert record.latents.marginals[0].dtype == torch.float64


def test_a_sampler_names_its_grammars_its_process_and_its_times() -> None:
    process = MaskingNoise()
    sampler = BPDenoiser(GrammarEnsemble(8, [2, 3], 2, 4, 5), process, TIMES)
    assert sampler.sources == (GrammarParameters(8, 5, 2, 2, 4), GrammarParameters(8, 5, 3, 2, 4))
    assert sampler.noise_process is process
    assert sampler.times == tuple(TIMES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"times": []}, "times: the list of inversion times is empty"),
        ({"times": [0.5, 1.2]}, "times: 1.2 is out of range"),
        ({"times": [0.5], "seed": -1}, "seed is -1"),
        ({"times": [0.5], "class_prior": None}, "class_prior is None; give uniform, class"),
        ({"times": [0.5], "class_prior": "classes"}, "class_prior is 'classes'; give uniform, cl"),
        (
            {"times": [0.5], "class_prior": [1.0, 2.0]},
            r"class_prior has shape \(2,\); give \(8,\)",
        ),
        ({"times": [0.5], "class_prior": [-1.0] + 7 * [1.0]}, "class_prior has the entry -1"),
        ({"times": [0.5], "class_prior": 8 * [0.0]}, "class_prior is zero for every class"),
    ],
)
def test_invalid_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BPDenoiser(RHM, EpsilonNoise(), **arguments)


@pytest.mark.parametrize("messages", [False, True])
def test_loading_another_samplers_state_adopts_its_grammars_everywhere(messages: bool) -> None:
    """Data are parsed by the grammar that belief propagation uses."""
    ensembles = [GrammarEnsemble(8, [2, 3], 2, 4, seeds=[seed]) for seed in (3, 4)]
    saved, loaded = (BPDenoiser(x, EpsilonNoise(), TIMES, messages=messages) for x in ensembles)
    loaded.load_state_dict(saved.state_dict())
    for source, (new, old) in enumerate(
        zip(ensembles[0].grammars, ensembles[1].grammars, strict=True)
    ):
        data = RHMDataModule(new, 10, 5, 5, 12)
        data.setup()
        given = data._splits["predict"][torch.arange(12)] | {"source": source}
        wanted, record = saved.predict_step(given, 0), loaded.predict_step(given, 0)
        assert torch.equal(wanted.x_reversed, record.x_reversed)
        assert wanted.latents is not None
        assert record.latents is not None
        for levels in zip(
            *(x.tree_start + x.tree_reversed for x in (wanted.latents, record.latents)),
            strict=True,
        ):
            assert torch.equal(*levels)
        foreign = RHMDataModule(old, 10, 5, 5, 12)
        foreign.setup()
        given = foreign._splits["predict"][torch.arange(12)] | {"source": source}
        with pytest.raises(InputError, match="cannot be derived by"):
            loaded.predict_step(given, 0)


def test_data_of_another_grammar_are_rejected() -> None:
    denoiser = BPDenoiser(RandomHierarchyModel(8, 3, 2, 4, seed=2), EpsilonNoise(), TIMES)
    with pytest.raises(InputError, match=r"^sample 0 \(and 11 more\) cannot be derived by"):
        denoiser.predict_step(batch(range(12)), 0)


def unchanged(latents: Latents | None, level: int) -> torch.Tensor:
    """Share of unchanged symbols at a level, at every time."""
    assert latents is not None
    start, end = latents.tree_start[level], latents.tree_reversed[level]
    return (start == end).double().mean((1, 2))


def test_conditioned_on_its_class_a_sample_keeps_it_and_what_is_below_for_longer() -> None:
    """Also with several grammars, each with classes of its own."""
    ensemble = GrammarEnsemble(8, 3, 2, 4, seeds=[1, 2])
    given = RHMDataModule(ensemble, 10, 5, 5, 300)
    given.setup()
    free, conditioned = (
        BPDenoiser(ensemble, EpsilonNoise(), TIMES, class_prior=prior)
        for prior in ("uniform", "class")
    )
    assert free.uniform_prior
    assert not conditioned.uniform_prior
    for source in range(2):
        index = torch.arange(300 * source, 300 * (source + 1))
        batch = given._splits["predict"][index]
        latents = [x.predict_step(batch, 0).latents for x in (free, conditioned)]
        assert unchanged(latents[1], 4).tolist() == [1.0] * len(TIMES)
        assert latents[1] is not None
        root = (
            latents[1]
            .marginals[4]
            .gather(-1, latents[1].tree_start[4].expand(4, -1, -1)[..., None])
        )
        assert (root == 1).all()
        kept = [unchanged(x, 3) for x in latents]
        # Without information, 1 of 8 symbols, and about 1 of 3 that the class can have there.
        assert (kept[1] - kept[0])[2:].min() > 0.05
        assert (kept[1] - kept[0]).min() >= -0.01


def test_at_full_noise_classes_follow_their_prior() -> None:
    weights = [4.0, 2.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    data = RHMDataModule(RHM, 10, 5, 5, 4000)
    data.setup()
    batch = data._splits["predict"][torch.arange(4000)]
    sampler = BPDenoiser(RHM, EpsilonNoise(), [1.0], class_prior=weights)
    latents = sampler.predict_step(batch, 0).latents
    assert latents is not None
    counts = latents.tree_reversed[-1].flatten().bincount(minlength=8)
    assert counts[4:].sum() == 0
    assert chisquare(counts[:4], torch.tensor(weights[:4]) * 500).pvalue > 1e-4
    assert not sampler.uniform_prior
    assert BPDenoiser(RHM, EpsilonNoise(), [1.0], class_prior=8 * [2.0]).uniform_prior


def test_a_class_that_a_prior_excludes_is_named() -> None:
    sampler = BPDenoiser(RHM, EpsilonNoise(), [0.0], class_prior=[1.0] + 7 * [0.0])
    message = (
        r"^class_prior: excludes every class .* for sample \d+ .* give every class a positive"
    )
    with pytest.raises(InputError, match=message):
        sampler.predict_step(batch(range(40)), 0)
