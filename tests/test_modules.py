import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from lit_hier.data import RHMDataModule
from lit_hier.errors import InputError
from lit_hier.inference import mean_field
from lit_hier.modules import BPDenoiser
from lit_hier.processes import EpsilonNoise, GaussianNoise, MaskingNoise, NoiseProcess
from lit_hier.rhm import RandomHierarchyModel, whitened_one_hot

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
    assert record.tree_start is not None
    assert record.tree_reversed is not None
    assert record.marginals is not None
    assert torch.equal(record.tree_start[0], given["leaves"])
    for level in range(L + 1):
        nodes = 2 ** (L - level)
        assert record.tree_reversed[level].shape == (T, B, nodes)
        assert record.marginals[level].shape == (T, B, nodes, 8)
        assert torch.equal(record.tree_reversed[level][0], record.tree_start[level])
    leaves = record.tree_reversed[0].flatten(0, 1)
    assert RHM.parse(leaves)[1][-1].all()
    encoded = whitened_one_hot(leaves, 8).unflatten(0, (T, B))
    assert torch.equal(record.x_reversed, encoded)
    assert (record.tree_reversed[0][-1] != record.tree_start[0]).float().mean() > 0.5


@pytest.mark.parametrize(
    "process", [EpsilonNoise(), EpsilonNoise(True), MaskingNoise(), GaussianNoise()]
)
def test_a_sample_depends_on_seed_index_and_time_only(process: NoiseProcess) -> None:
    whole = BPDenoiser(RHM, process, TIMES).predict_step(batch(range(40)), 0)
    index = [7, 3, 4, 5, 39]
    part = BPDenoiser(RHM, process, [0.3, 1.0]).predict_step(batch(index), 5)
    pairs = zip(part.tree_reversed or (), whole.tree_reversed or (), strict=True)
    assert all(torch.equal(a, b[[1, 3]][:, index]) for a, b in pairs)
    pairs = zip(part.marginals or (), whole.marginals or (), strict=True)
    assert all(torch.equal(a, b[[1, 3]][:, index]) for a, b in pairs)
    other = BPDenoiser(RHM, process, TIMES, seed=1).predict_step(batch(range(40)), 0)
    assert not torch.equal(other.x_reversed, whole.x_reversed)


def test_double_precision() -> None:
    record = BPDenoiser(RHM, EpsilonNoise(), TIMES).double().predict_step(batch(range(3)), 0)
    assert record.marginals is not None
    assert record.marginals[0].dtype == torch.float64


def test_theory_is_given_where_it_holds() -> None:
    (source,) = BPDenoiser(RHM, EpsilonNoise(), TIMES).sources
    assert source.parameters == {"v": 8, "n": 8, "m": 3, "s": 2, "L": 4}
    up, down = mean_field.beliefs(TIMES, 8, 3, 2, 4)
    both = mean_field.marginals(TIMES, 8, 3, 2, 4)
    for name, belief in (("upward", up), ("downward", down), ("marginal", both)):
        assert torch.equal(source.theory[name].T, torch.from_numpy(belief))
    assert source.critical_time == mean_field.critical_epsilon(8, 3, 2)
    other = RandomHierarchyModel(8, 3, 2, 4, num_classes=5)
    denoisers = [BPDenoiser(other, EpsilonNoise(), TIMES)]
    for process in (EpsilonNoise(True), MaskingNoise(), GaussianNoise()):
        denoisers.append(BPDenoiser(RHM, process, TIMES))
    for denoiser in denoisers:
        (source,) = denoiser.sources
        assert all(source.theory[name].isnan().all() for name in ("upward", "marginal"))
        assert math.isnan(source.critical_time)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"times": []}, "times: the list of inversion times is empty"),
        ({"times": [0.5, 1.2]}, "times: 1.2 is out of range"),
        ({"times": [0.5], "seed": -1}, "seed is -1"),
    ],
)
def test_invalid_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BPDenoiser(RHM, EpsilonNoise(), **arguments)


def test_data_of_another_grammar_are_rejected() -> None:
    denoiser = BPDenoiser(RandomHierarchyModel(8, 3, 2, 4, seed=2), EpsilonNoise(), TIMES)
    with pytest.raises(InputError, match=r"^sample 0 \(and 11 more\) is no datum of"):
        denoiser.predict_step(batch(range(12)), 0)
