"""Sampling with networks that predict leaves, held against exact inference."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from lit_hier.callbacks import Validity
from lit_hier.clock import InformationClock
from lit_hier.data import RHMDataModule
from lit_hier.diffusion import Denoising, ForwardBackward, Latents, Training
from lit_hier.errors import InputError
from lit_hier.experiment import forward_backward
from lit_hier.inference import BeliefPropagation, ExactDenoiser
from lit_hier.modules import BPDenoiser, DenoisingTask, LearnedDenoiser, NetworkDenoiser
from lit_hier.nn import TreeUNet
from lit_hier.nn.trained_denoisers import read_denoisers
from lit_hier.processes import EpsilonNoise, GaussianNoise, MaskingNoise, NoiseProcess
from lit_hier.rhm import GrammarEnsemble, RandomHierarchyModel

RHM = RandomHierarchyModel(4, 2, 2, 3, seed=1)
NUM = 60
DATA = RHMDataModule(RHM, 10, 5, 5, NUM, eval_batch_size=25)
DATA.setup()
EXACT = ExactDenoiser(RHM)
TIMES = {"masking": [0.0, 0.5, 1.0], "strings": [0.0, 0.3, 1.0], "gaussian": [0.0, 0.1, 4.0]}
PROCESSES: list[NoiseProcess] = [MaskingNoise(), EpsilonNoise(strings=True), GaussianNoise()]


def name(process: NoiseProcess) -> str:
    return process.axis.process


each_process = pytest.mark.parametrize("process", PROCESSES, ids=name)


def sampler(
    process: NoiseProcess, network: nn.Module = EXACT, rhm: Any = RHM, **arguments: Any
) -> NetworkDenoiser:
    times = arguments.pop("times", TIMES.get(name(process), [0.5]))
    return NetworkDenoiser(rhm, process, times, [network], **arguments)


def batch(index: Any = range(NUM), source: int = 0) -> dict[str, Tensor]:
    data = DATA._splits["predict"][torch.tensor(list(index))]
    return {**data, "index": data["index"] + source * NUM, "source": torch.tensor(source)}


def parts(record: ForwardBackward) -> tuple[Latents, Denoising]:
    assert record.latents is not None
    assert record.denoising is not None
    return record.latents, record.denoising


@each_process
@pytest.mark.parametrize("steps", [8, 3])
def test_a_network_that_infers_exactly_has_the_beliefs_of_exact_inference(
    process: NoiseProcess, steps: int
) -> None:
    """And its samples, one leaf at a time, are valid at every level."""
    denoiser = sampler(process, steps=steps)
    latents, denoising = parts(denoiser.predict_step(batch(), 0))
    torch.testing.assert_close(denoising.beliefs, denoising.exact, rtol=0, atol=2e-6)
    assert denoising.predicted[1:].all() == (name(process) != "masking")
    assert not denoising.predicted[0].any()
    assert latents.marginals is None
    for start, sampled in zip(latents.tree_start, latents.tree_reversed, strict=True):
        assert torch.equal(sampled[0], start)  # at time 0
    valid = torch.stack([(level >= 0).all() for level in latents.tree_reversed])
    assert valid.all() == (steps == 8)
    assert valid[0]


@each_process
def test_the_record_is_that_of_exact_inference_besides_the_samples(process: NoiseProcess) -> None:
    denoiser, index = sampler(process, seed=3), range(5, 30)
    learned = denoiser.predict_step(batch(index), 0)
    exact = denoiser.predict_step(batch(index, source=1), 0)
    alone = BPDenoiser(RHM, process, TIMES[name(process)], seed=3).predict_step(batch(index), 0)
    for record in (learned, exact):
        assert torch.equal(record.effective_noise, alone.effective_noise)
        assert torch.equal(record.leaf_information, alone.leaf_information)
        assert torch.equal(record.x_start, alone.x_start)
        assert torch.equal(record.label, alone.label)
        assert torch.equal(parts(record)[0].tree_start[-1], alone.latents.tree_start[-1])
        assert torch.equal(parts(record)[1].exact, alone.latents.marginals[0])
    assert (learned.source_index, exact.source_index) == (0, 1)
    assert exact.index.tolist() == [NUM + i for i in index]
    assert torch.equal(exact.x_reversed, alone.x_reversed)
    assert torch.equal(parts(exact)[1].beliefs, parts(exact)[1].exact)
    assert denoiser.trainings[-1] == Training(math.inf, 0)
    assert len(denoiser.sources) == denoiser.copies == 2
    without = sampler(process, exact=False)
    assert len(without.sources) == len(without.trainings) == without.copies == 1


@each_process
def test_samples_one_leaf_at_a_time_have_the_joint_law_of_the_posterior(
    process: NoiseProcess,
) -> None:
    """Total variation from the enumerated posterior, averaged over x_t, within sampling error."""
    rhm = RandomHierarchyModel(3, 2, 2, 2, seed=0)
    choices = torch.tensor(list(itertools.product(range(2), repeat=rhm.num_choices)))
    labels = torch.arange(rhm.num_classes).repeat_interleave(len(choices))
    strings = rhm.derive(labels, choices.repeat(rhm.num_classes, 1))[0]
    time = {"masking": 0.7, "strings": 0.5, "gaussian": 0.3}[name(process)]
    num = 4000
    data = {"leaves": strings[:1].expand(num, -1), "x": strings[:1].expand(num, -1),
            "label": labels[:1].expand(num), "index": torch.arange(num)}  # fmt: skip
    denoiser = sampler(process, ExactDenoiser(rhm), rhm, times=[time], steps=4)
    leaves = parts(denoiser.predict_step(data, 0))[0].tree_reversed[0][0]
    _, (messages,) = denoiser._corrupt(data["leaves"], data["index"], torch.float64)
    likelihood = messages[:, torch.arange(4), strings].prod(-1)
    posterior = likelihood / likelihood.sum(-1, keepdim=True)
    expected = posterior.mean(0)
    found = (leaves[:, None] == strings).all(-1).double()
    assert (found.sum(-1) == 1).all()
    deviation = found.mean(0) - expected
    error = (posterior * (1 - posterior)).mean(0).div(num).sqrt()
    assert (deviation.abs() < 5 * error + 1e-9).all()
    assert deviation.abs().sum() < 1.5 * error.sum()
    # Nor does a sample's law depend on the part of x_t that the average hides.
    for string in range(3):
        weight = posterior[:, string]
        score = ((found[:, string] - weight) * weight).mean()
        assert abs(score) < 5 * (weight**3 * (1 - weight)).mean().div(num).sqrt() + 1e-9


@each_process
def test_more_steps_come_closer_to_the_posterior(process: NoiseProcess) -> None:
    """Invalid strings at the axis's end fall in number as steps grow, through one per leaf."""
    invalid = []
    masking = name(process) == "masking"
    for steps in (1, 3, 7, 8, 9) if masking else (1, 6, 60):
        denoiser = sampler(process, times=TIMES[name(process)][-1:], steps=steps)
        root = parts(denoiser.predict_step(batch(), 0))[0].tree_reversed[-1]
        invalid.append(float((root < 0).double().mean()))
    assert invalid[0] > 0.8
    assert invalid[0] > invalid[1] > invalid[2]
    assert invalid[2] < (0.5 if masking else 0.12)
    assert invalid[3:] == [0, 0] * masking


@pytest.mark.slow
@each_process
@pytest.mark.parametrize("steps", [16, 100])
def test_each_level_changes_as_often_as_under_exact_inference(
    process: NoiseProcess, steps: int
) -> None:
    rhm = RandomHierarchyModel(8, 2, 2, 4, seed=1)
    data = RHMDataModule(rhm, 1, 0, 0, 4000, eval_batch_size=4000)
    (given,) = _batches(data)
    time = {"masking": 0.5, "strings": 0.3, "gaussian": 0.1}[name(process)]
    denoiser = sampler(process, ExactDenoiser(rhm), rhm, times=[time], steps=steps)
    learned = parts(denoiser.predict_step(given, 0))[0]
    exact = parts(denoiser.predict_step({**given, "source": torch.tensor(1)}, 0))[0]
    for start, a, b in zip(
        learned.tree_start, learned.tree_reversed, exact.tree_reversed, strict=True
    ):
        difference = ((a[0] == start).double() - (b[0] == start).double()).mean(-1)
        assert abs(difference.mean()) < 4 * difference.std() / 4000**0.5


def _batches(data: RHMDataModule) -> list[dict[str, Tensor]]:
    data.setup()
    return list(data.predict_dataloader())


@each_process
@pytest.mark.parametrize("steps", [8, 3])
def test_samples_do_not_depend_on_the_batch(process: NoiseProcess, steps: int) -> None:
    """With a network that treats data one by one, to the last bit."""
    denoiser = sampler(process, steps=steps)
    whole = denoiser.predict_step(batch(), 0)
    index = [7, 3, 4, 59]
    part = denoiser.predict_step(batch(index), 3)
    assert torch.equal(part.x_reversed, whole.x_reversed[:, index])
    again = sampler(process, steps=steps, seed=1).predict_step(batch(), 0)
    assert not torch.equal(again.x_reversed, whole.x_reversed)


def test_a_run_repeats_the_data_for_each_source() -> None:
    networks = [TreeUNet(4, 2, 3, width=4), EXACT]
    denoiser = NetworkDenoiser(
        RHM, MaskingNoise(), [0.5], networks, [Training(8, 1), Training(16, 1)]
    )
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    records = trainer.predict(denoiser, DATA)
    assert records is not None
    assert [record.source_index for record in records] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert torch.cat([record.index for record in records]).tolist() == list(range(3 * NUM))
    starts = torch.cat([record.x_start for record in records]).unflatten(0, (3, NUM))
    assert torch.equal(starts[0], starts[1])
    assert torch.equal(starts[0], starts[2])
    # An untrained network has the uniform belief.
    beliefs = parts(records[0])[1]
    assert torch.equal(beliefs.beliefs[beliefs.predicted], torch.full((), 0.25).expand_as(
        beliefs.beliefs[beliefs.predicted]))  # fmt: skip
    assert denoiser.num_evaluations(torch.arange(NUM)) == NUM * 8
    assert denoiser.num_evaluations(torch.arange(2 * NUM, 3 * NUM)) == 0


@each_process
def test_double_precision(process: NoiseProcess) -> None:
    denoiser = sampler(process, ExactDenoiser(RHM), steps=2 if name(process) == "strings" else 0)
    denoising = parts(denoiser.double().predict_step(batch(range(5)), 0))[1]
    assert denoising.beliefs.dtype == denoising.exact.dtype == torch.float64
    torch.testing.assert_close(denoising.beliefs, denoising.exact, rtol=0, atol=1e-12)


def test_messages_in_single_precision_agree_with_double_precision() -> None:
    x_t = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for time in (0.0, 1e-3, 0.1, 4.0):
        double = GaussianNoise().messages(x_t, time, 5, torch.float32)
        single = GaussianNoise().messages(x_t.float(), time, 5, torch.float32)
        torch.testing.assert_close(single, double, rtol=0, atol=1e-4)


def test_a_record_that_does_not_fit_into_memory_is_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    monkeypatch.setattr("lit_hier.io.memory.os.sysconf", lambda name: 100)
    with pytest.raises(InputError, match=r"^times: 3 inversion times of 25 data need [^\n]*$"):
        trainer.predict(sampler(MaskingNoise()), DATA)


def test_a_dataset_numbers_samples_within_a_copy() -> None:
    ensemble = RHMDataModule(GrammarEnsemble(4, 2, 2, [2, 3]), 1, 0, 0, 5)
    for given in _batches(ensemble):
        assert torch.equal(given["sample"], given["index"])


def test_where_no_tree_explains_the_messages_beliefs_are_the_messages() -> None:
    leaves = DATA._splits["predict"][torch.arange(2)]["leaves"]
    messages = torch.eye(4)[leaves]
    valid_pairs = set(map(tuple, RHM.rules[0].flatten(0, 1).tolist()))
    wrong = next(pair for pair in itertools.product(range(4), repeat=2) if pair not in valid_pairs)
    messages[0, :2] = torch.eye(4)[list(wrong)]
    logits = ExactDenoiser(RHM)(messages)
    torch.testing.assert_close(logits.exp(), messages)
    (marginals, *_) = BeliefPropagation(RHM).marginals(messages[1:])
    torch.testing.assert_close(logits[1:].exp(), marginals)


class Broken(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        if self.kind == "later" and x.amax() < 0.5:
            return x
        if self.kind == "type":
            raise TypeError("a pair of images, please")
        wrong = {
            "integers": x.argsort(),
            "shape": x[:, 1:],
            "tuple": (x, x),
            "nan": x * math.nan,
            "later": x * math.inf,
        }
        return wrong.get(self.kind) if self.kind in wrong else x @ torch.ones(3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"process": EpsilonNoise()}, "process: the messages of the epsilon process"),
        ({"rhm": GrammarEnsemble(4, 2, 2, 3, seeds=[0, 1])}, "rhm: LearnedDenoiser denoises"),
        ({"rhm": 3}, "model: LearnedDenoiser needs data of a grammar"),
        ({"steps": -1}, "steps is -1; give at least 1, or 0"),
        ({"process": GaussianNoise(), "times": [1.0, 4.5]}, "times: 4.5 is beyond last_time, 4;"),
        ({"last_time": 0.4}, "times: 0.5 is beyond last_time, 0.4;"),
        ({"last_time": 1.5}, r"last_time is 1.5; masked fraction: give .* at most 1"),
        ({"times": []}, "times: the list of inversion times is empty"),
        ({"seed": -1}, "seed is -1"),
        (
            {"network": Broken("shape")},
            r"network: Broken .* returns shape \(2, 7, 4\), not \(2, 8, 4\)",
        ),
        ({"network": Broken("tuple")}, "network: Broken at position 0: Broken returns a tuple"),
        ({"network": Broken("integers")}, r"network: Broken .* returns torch.int64"),
        (
            {"network": Broken("type")},
            "network: Broken .* not take x .*: a pair of images, please",
        ),
        ({"network": Broken("nan")}, "network: Broken .* returns NaN or infinity"),
        ({"network": Broken("size")}, r"network: Broken .* does not take x of shape \(2, 8, 4\)"),
        ({"trainings": []}, "trainings has 0 entries for 1 networks"),
    ],
)
def test_invalid_arguments_are_rejected_in_one_line(change: dict[str, Any], message: str) -> None:
    arguments = {"process": MaskingNoise(), "times": [0.5], **change}
    with pytest.raises(InputError, match=f"^{message}[^\n]*$"):
        sampler(**arguments)


def test_infinite_logits_are_rejected_and_the_network_named() -> None:
    denoiser = NetworkDenoiser(RHM, MaskingNoise(), [0.5], [Broken("later")], [Training(128, 7)])
    with pytest.raises(InputError, match=r"^network: Broken of num_train=128 at step 7 returns"):
        denoiser.predict_step(batch(), 0)


class Irreversible(GaussianNoise):
    """A user's process without a reverse step."""

    num_reverse_draws = NoiseProcess.num_reverse_draws


class HalfReversible(GaussianNoise):
    """A user's process that forgot it."""

    reverse = NoiseProcess.reverse


@pytest.mark.parametrize("process", [Irreversible(), HalfReversible()], ids=["none", "half"])
def test_a_process_without_a_reverse_step_reveals_one_leaf_at_a_time_only(
    process: NoiseProcess,
) -> None:
    found, expected = (
        sampler(each, times=[0.5], steps=8).predict_step(batch(range(9)), 0).x_reversed
        for each in (process, GaussianNoise())
    )
    assert torch.equal(found, expected)
    for steps in (0, 3):
        with pytest.raises(InputError, match=r"^process: the gaussian process has no [^\n]*$"):
            sampler(process, steps=steps)


def test_steps_by_default_and_more_than_leaves() -> None:
    by_default = [(sampler(process).steps, sampler(process).reveals) for process in PROCESSES]
    assert by_default == [(8, True), (32, False), (32, False)]
    assert sampler(MaskingNoise(), steps=60).steps == 8
    assert sampler(MaskingNoise(), steps=5).steps == 5


@each_process
@pytest.mark.parametrize("steps", [0, 3, 8])
def test_leaves_that_are_certain_are_kept(process: NoiseProcess, steps: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    record = sampler(process, network, steps=steps).predict_step(batch(), 0)
    latents, denoising = parts(record)
    assert torch.equal(record.x_reversed[0], record.x_start)
    assert torch.equal(latents.tree_reversed[0][0], latents.tree_start[0])
    assert torch.equal(denoising.beliefs[0], denoising.exact[0])
    kept = ~denoising.predicted
    assert (latents.tree_reversed[0] == latents.tree_start[0])[kept].all()


class Scaled(nn.Module):
    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(0.3) if self.in_place else x * 0.3


@each_process
@pytest.mark.parametrize("steps", [3, 8])
def test_a_network_that_changes_its_input_changes_nothing_else(
    process: NoiseProcess, steps: int
) -> None:
    changed, kept = (
        sampler(process, Scaled(in_place), steps=steps).predict_step(batch(range(9)), 0)
        for in_place in (True, False)
    )
    assert torch.equal(changed.x_reversed, kept.x_reversed)
    assert torch.equal(parts(changed)[1].beliefs, parts(kept)[1].beliefs)


@dataclass
class Scheduled(MaskingNoise):
    """A user's process: not hashable, with a function among its arguments."""

    power: float = 2.0
    schedule: Callable[[float], float] = field(default_factory=lambda: lambda time: time)


def test_a_process_of_the_users_own_has_one_identity() -> None:
    process = Scheduled()
    assert InformationClock(process, 4).steps(1.0, 2) == pytest.approx([1, 0.5, 0], abs=1e-4)
    assert process.key == Scheduled().key
    assert " 0x" not in process.key
    others = [Scheduled(3.0), Scheduled(schedule=lambda time: time**2), MaskingNoise()]
    assert len({each.key for each in [process, *others]}) == 4
    assert MaskingNoise().key == "lit_hier.processes.MaskingNoise {}"
    sampler(process).predict_step(batch(range(2)), 0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of two networks that were hardly trained."""
    data = RHMDataModule(RHM, [4, 8], 5, 0, 5, batch_size=8)
    task = DenoisingTask(4, 2, 3, [4, 8], MaskingNoise(), lambda v, s, num: TreeUNet(v, s, num, 8),
                         trained_on=data.training_set)  # fmt: skip
    trainer = Trainer(accelerator="cpu", logger=False, max_steps=3, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(task, data)
    path = str(tmp_path_factory.mktemp("denoisers") / "last.ckpt")
    trainer.save_checkpoint(path)
    return path


@pytest.mark.filterwarnings("ignore")  # of a short training
def test_weights_are_those_of_the_grammar_the_process_and_the_training_set(
    weights: str, tmp_path: Path
) -> None:
    other = RandomHierarchyModel(4, 2, 2, 3, seed=2)
    copy = tmp_path / "copy.ckpt"
    copy.write_bytes(Path(weights).read_bytes())
    sampler = LearnedDenoiser(RHM, MaskingNoise(), [0.5, 1.0], [weights, str(copy)], use="last")
    assert sampler.trainings == (*2 * (Training(4, 3), Training(8, 3)), Training(math.inf, 0))
    for rhm, process, paths, message in (
        (other, MaskingNoise(), weights, r"weights: .*\.ckpt was trained on an RHM.*, but the"),
        (RandomHierarchyModel(5, 2, 2, 3), MaskingNoise(), weights, "weights: .* num_features=4"),
        (RandomHierarchyModel(4, 2, 2, 2), MaskingNoise(), weights, "weights: .* num_layers=3"),
        (RHM, GaussianNoise(), weights, "weights: .* for the masking process, not for gaussian"),
        (RHM, MaskingNoise(), [], "weights: the list is empty"),
        (RHM, MaskingNoise(), [weights, weights], "weights: .* repeats a checkpoint"),
        (RHM, MaskingNoise(), str(tmp_path / "none.ckpt"), "weights: .*none.ckpt"),
    ):
        with pytest.raises(InputError, match=f"^{message}[^\n]*$"):
            LearnedDenoiser(rhm, process, [0.5], paths, use="last")
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    with pytest.raises(
        InputError, match=r"^weights: the network was trained on an RHM.*num_train"
    ):
        trainer.predict(sampler, RHMDataModule(RHM, 7, 0, 0, 5))
    with pytest.raises(InputError, match=r"^weights: the network .* seed=0 of the training"):
        trainer.predict(sampler, RHMDataModule(RHM, 8, 0, 0, 5, seed=1))
    trainer.predict(sampler, RHMDataModule(RHM, [4, 8, 9], 5, 0, 5))


def changed(weights: str, path: Path, **changes: Any) -> str:
    """Write a checkpoint with other entries in its record."""
    checkpoint = torch.load(weights, weights_only=True)
    checkpoint["lit_hier"] |= changes
    torch.save(checkpoint, path)
    return str(path)


@pytest.mark.filterwarnings("ignore")  # of a short training
def test_a_function_call_holds_out_the_training_data_of_all_weights(
    weights: str, tmp_path: Path
) -> None:
    """Training sets of one seed are nested: they may differ in number."""
    name = RHMDataModule(RHM, 12, 0, 0, 5).training_set
    more = changed(weights, tmp_path / "more.ckpt", trained_on=name)
    denoiser = LearnedDenoiser(RHM, MaskingNoise(), [1.0], [weights, more], use="last")
    assert denoiser.training_split() == (12, 0)
    found = forward_backward(denoiser, RHM, Validity(), num_samples=20, accelerator="cpu")
    table = found.table("validity")
    assert table.copies[table.num_train < math.inf].notna().all()
    with pytest.raises(InputError, match=r"^weights: the network was trained on .* seed=0 of the"):
        forward_backward(denoiser, RHM, Validity(), num_samples=20, seed=1, accelerator="cpu")
    unnamed = changed(weights, tmp_path / "unnamed.ckpt", trained_on="")
    denoiser = LearnedDenoiser(RHM, MaskingNoise(), [1.0], unnamed, use="last")
    with pytest.raises(
        InputError, match=r"^data: a checkpoint in `weights` does not name [^\n]*$"
    ):
        forward_backward(denoiser, RHM, Validity())
    seed = changed(weights, tmp_path / "s.ckpt", trained_on=name.replace("seed=0", "seed=1"))
    with pytest.raises(InputError, match=r"^weights: .* data of seeds \[0, 1\], so [^\n]*$"):
        LearnedDenoiser(RHM, MaskingNoise(), [1.0], [weights, seed], use="last")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 40}, "weights: .* is of data with num_layers=40, but the data"),
        ({"last_time": True}, "weights: .* damaged record of its process"),
        ({"last_time": math.nan}, "weights: .* damaged record of its process"),
        ({"last_time": -1.0}, "weights: .* damaged record of its process"),
        ({"trained_on": "an RHM, num_train=x, seed=0"}, "weights: .* was trained on an RHM"),
    ],
)
def test_a_record_is_checked_before_a_network_is_built(
    weights: str, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = changed(weights, tmp_path / "changed.ckpt", **changes)
    for network in (None, lambda v, s, num: torch.empty(v, s**num, 2**40)):
        with pytest.raises(InputError, match=f"^{message}[^\n]*$"):
            LearnedDenoiser(RHM, MaskingNoise(), [0.5], path, network=network, use="last")


def test_a_position_of_many_digits_is_unexpected(weights: str, tmp_path: Path) -> None:
    checkpoint = torch.load(weights, weights_only=True)
    checkpoint["state_dict"][f"networks.{5000 * '1'}.x"] = torch.zeros(1)
    torch.save(checkpoint, tmp_path / "digits.ckpt")
    with pytest.raises(InputError, match=r"^weights: .* is unexpected; [^\n]*$"):
        read_denoisers(str(tmp_path / "digits.ckpt"), use="last")


def test_a_network_of_ones_own_that_cannot_be_built(weights: str) -> None:
    def fail(v: int, s: int, num_layers: int) -> nn.Module:
        raise OverflowError("too deep")

    for network, message in (
        (fail, "network: it cannot be built from 4, 2, 3: too deep"),
        (lambda *sizes: TreeUNet, "network: it builds a type"),
        (lambda v: TreeUNet(v, 2, 3, 8), "network: it cannot be built from 4, 2, 3: .*argument"),
    ):
        with pytest.raises(InputError, match=f"^{message}[^\n]*$"):
            read_denoisers(weights, network, "last")  # type: ignore[arg-type]
    same = TreeUNet(4, 2, 3, 8)
    before = {name: x.clone() for name, x in same.state_dict().items()}
    first, second = (x.network for x in read_denoisers(weights, lambda *sizes: same, "last"))
    expected = [x.network.state_dict() for x in read_denoisers(weights, use="last")]
    for found, state in zip((first, second), expected, strict=True):
        assert all(torch.equal(x, state[name]) for name, x in found.state_dict().items())
    assert all(torch.equal(x, before[name]) for name, x in same.state_dict().items())


@pytest.mark.parametrize("process", [*PROCESSES, EpsilonNoise()], ids=name)
def test_observing_at_a_time_per_datum_equals_a_loop(process: NoiseProcess) -> None:
    generator = torch.Generator().manual_seed(0)
    times = torch.tensor([0, 1e-4, 0.01, 0.3, 0.7, 0.99, 1]).double()
    leaves = torch.randint(5, (7, 6), generator=generator)
    draws = torch.rand(7, process.num_draws(6, 5), generator=generator, dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        found = process.observe(leaves, times, draws, 5, dtype)
        expected = NoiseProcess.observe(process, leaves, times, draws, 5, dtype)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)
        if not process.is_channel:
            assert (found.argmax(-1) == leaves)[:-1].all()


@pytest.mark.parametrize("process", PROCESSES[:2], ids=name)
def test_the_bridge_of_discrete_processes_is_bayes_rule(process: NoiseProcess) -> None:
    """q(x_tau | x_t, x_0) = q(x_t | x_tau) q(x_tau | x_0) / q(x_t | x_0), symbol by symbol."""
    v, num, start, end = 3, 20_000, 0.8, 0.5
    states = v + (name(process) == "masking")

    def channel(kept: float) -> np.ndarray:
        if states == v:
            return np.eye(v) * kept + (1 - kept) / v
        table = np.eye(v + 1) * kept
        table[:, v] += 1 - kept
        return table

    earlier, later = channel(1 - end), channel((1 - start) / (1 - end))
    generator = torch.Generator().manual_seed(0)
    num_draws = process.num_reverse_draws(1, v)
    draws = torch.rand(num, num_draws, generator=generator, dtype=torch.float64)
    for x_t, x_0 in itertools.product(range(states), range(v)):
        joint = later[:, x_t] * earlier[x_0]
        if not joint.sum():
            continue
        observed, leaves = torch.full((num, 1), x_t), torch.full((num, 1), x_0)
        found = process.reverse(observed, leaves, start, end, draws, v)
        share = np.bincount(found[:, 0].numpy(), minlength=states) / num
        np.testing.assert_allclose(share, joint / joint.sum(), atol=5 * 0.5 / num**0.5)
        assert torch.equal(process.reverse(observed, leaves, start, 0.0, draws, v), leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bridge_of_the_diffusion_leads_to_the_law_of_the_earlier_time(
    dtype: torch.dtype,
) -> None:
    """Mean and variance of x_tau given x_0, and its covariance with x_t, after both steps."""
    process, v, num, start, end = GaussianNoise(), 2, 40_000, 0.9, 0.2
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(2, num, v, generator=generator, dtype=torch.float64)
    leaves = torch.ones(num, 1, dtype=torch.int64)
    x_t = process.corrupt(leaves, start, draws[0], v)
    x = process.reverse(x_t.to(dtype), leaves, start, end, draws[1], v).double()
    assert process.reverse(x_t.to(dtype), leaves, start, end, draws[1], v).dtype == dtype
    x_t, x = x_t[:, 0], x[:, 0]
    tolerance = {"atol": 5 / num**0.5, "rtol": 0}
    np.testing.assert_allclose(x.mean(0), [0, math.exp(-end)], **tolerance)
    np.testing.assert_allclose(x.var(0), 2 * [-math.expm1(-2 * end)], **tolerance)
    covariance = ((x - x.mean(0)) * (x_t - x_t.mean(0))).mean(0)
    expected = math.exp(end - start) * -math.expm1(-2 * end)
    np.testing.assert_allclose(covariance, 2 * [expected], **tolerance)


@each_process
def test_the_clock_maps_time_to_information_and_back(process: NoiseProcess) -> None:
    clock = InformationClock(process, 4)
    last = {"gaussian": 4.0}.get(name(process), 1.0)
    assert clock.last_time == last
    times = torch.tensor([0.0, 0.02, 0.1, 0.5, last], dtype=torch.float64)
    exact = [process.information(time, 4) / math.log(4) for time in times.tolist()]
    found = clock.information(times)
    np.testing.assert_allclose(found, exact, atol=2e-4)
    torch.testing.assert_close(clock.times(found), times, rtol=1e-9, atol=1e-12)
    assert clock.times(torch.tensor([0.0, 1.0]).double()).tolist() == [last, 0.0]
    first, *between, end = clock.steps(0.5, 4)
    assert (first, end) == (0.5, 0.0)
    between = clock.information(torch.tensor([0.5, *between, 0.0]).double()).diff().tolist()
    np.testing.assert_allclose(between, 4 * [between[0]], rtol=1e-6)


class Unknown(MaskingNoise):
    information = NoiseProcess.information


def test_the_clock_runs_linearly_where_information_is_unknown() -> None:
    clock = InformationClock(Unknown(), 4, 0.5)
    np.testing.assert_allclose(clock.steps(0.4, 4), [0.4, 0.3, 0.2, 0.1, 0], atol=1e-9)
    for wrong in (0.0, -1.0, 1.5, math.inf, math.nan):
        with pytest.raises(InputError, match=r"^last_time is [^\n]*give more than 0[^\n]*$"):
            InformationClock(Unknown(), 4, wrong)
