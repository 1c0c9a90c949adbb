"""Training denoisers on nested training sets, and reading them."""

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lit_hier.data import RHMDataModule
from lit_hier.data.batches import NestedBatches, PlannedBatches
from lit_hier.diffusion import Training
from lit_hier.errors import InputError
from lit_hier.modules import DenoisingTask, RHMClassifier, denoising_task
from lit_hier.nn import LeafTransformer, TreeUNet
from lit_hier.nn.trained_denoisers import read_denoisers
from lit_hier.processes import EpsilonNoise, GaussianNoise, MaskingNoise, NoiseProcess
from lit_hier.rhm import RandomHierarchyModel

RHM = RandomHierarchyModel(4, 2, 2, 3, seed=1)
BATCH = 8
STEPS = 12
HALF_WAY = 7  # within an epoch of every network


def small(num_features: int, tuple_size: int, num_layers: int) -> nn.Module:
    return TreeUNet(num_features, tuple_size, num_layers, width=4)


class Own(nn.Module):
    """A user's own network."""

    def __init__(self, num_features: int, tuple_size: int, num_layers: int) -> None:
        super().__init__()
        self.map = nn.Linear(num_features, num_features)

    def forward(self, messages: Tensor) -> Tensor:
        logits: Tensor = self.map(messages)
        return logits


class Dropped(Own):
    """A network that draws random numbers in training, and changes its input in place."""

    def forward(self, messages: Tensor) -> Tensor:
        dropped = torch.nn.functional.dropout(self.map(messages.mul_(2)), training=self.training)
        return dropped + self.map(messages)


class Changed(Own):
    """A network whose logits are replaced."""

    def __init__(self, *sizes: int, change: Callable[[Tensor], Any]) -> None:
        super().__init__(*sizes)
        self.change = change

    def forward(self, messages: Tensor) -> Any:
        return self.change(super().forward(messages))


def data(num_train: int | list[int]) -> RHMDataModule:
    return RHMDataModule(RHM, num_train, 20, 20, 20, batch_size=BATCH)


def task(num_train: Sequence[int], **arguments: Any) -> DenoisingTask:
    arguments = {"process": MaskingNoise(), "network": small, **arguments}
    return DenoisingTask(4, 2, 3, list(num_train), **arguments)


def fit(
    module: DenoisingTask | RHMClassifier,
    num_train: int | list[int],
    *callbacks: ModelCheckpoint,
    resume: Path | None = None,
    **options: Any,
) -> Trainer:
    trainer = Trainer(
        **{"max_steps": STEPS, "limit_val_batches": 1, "num_sanity_val_steps": 0, **options},
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data(num_train), ckpt_path=resume, weights_only=True)
    return trainer


def equal(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("build", "process"),
    [(small, GaussianNoise()), (small, EpsilonNoise(True)), (LeafTransformer, MaskingNoise())],
)
def test_an_untrained_network_has_the_loss_of_the_uniform_guess(
    build: Any, process: NoiseProcess
) -> None:
    module, num = task([30], network=build, process=process), 30
    leaves = RHM.sample(num, generator=torch.Generator().manual_seed(0))[0]
    batch = {"leaves": leaves, "index": torch.arange(num), "epoch": 3, "num_train": num}
    (prepared,) = module.prepare([batch], "train")
    total, count = module.compute_loss(module.networks[0], prepared, "train", "")
    assert 0 < count <= leaves.numel()
    assert total.item() / count == pytest.approx(math.log(4), rel=1e-6)


@pytest.mark.slow
def test_kept_draws_change_no_bit_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare() -> tuple[Tensor, DenoisingTask]:
        module = task([20, 30], process=GaussianNoise())
        leaves = RHM.sample(5, generator=torch.Generator().manual_seed(0))[0]
        batch = {"leaves": leaves, "index": torch.tensor([3, 19, 0, 7, 8]), "epoch": 2}
        parts = module.prepare([{**batch, "num_train": num} for num in (20, 30)], "train")
        return torch.stack([part["messages"] for part in parts]), module

    kept, module = prepare()
    monkeypatch.setattr(denoising_task, "_MAX_DRAWS", 40 * module.num_draws)
    limited, limited_module = prepare()
    assert torch.equal(kept, limited)
    assert set(module._epochs) == {20, 30}
    assert set(limited_module._epochs) == {20}  # both together are too many


@pytest.mark.parametrize("network", [small, lambda *sizes: nn.BatchNorm1d(8)])
def test_the_average_is_that_of_torch(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LightningModule, "optimizer_step", lambda *args: None)
    module = task([4, 8], network=network)
    expected = copy.deepcopy(module.averaged)
    module.on_train_start()
    for _ in range(3):
        for tensor in module.networks.state_dict().values():
            tensor.add_(torch.ones_like(tensor))
        module.optimizer_step()
        expected.update_parameters(module.networks)
    assert equal(module.averaged, expected)
    assert not equal(module.averaged.module, module.networks)


def test_training_sets_are_nested_and_those_of_their_numbers_alone() -> None:
    def leaves(num_train: int | list[int]) -> Tensor:
        module = data(num_train)
        module.setup()
        found: Tensor = module._splits["train"][torch.arange(module.sizes["train"])]["leaves"]
        return found

    nested = leaves([5, 16, 40])
    for num in (5, 16, 40):
        assert torch.equal(leaves(num), nested[:num])


@pytest.mark.parametrize(
    ("num_train", "message"),
    [
        ([], "num_train is an empty list"),
        ([4, 4], r"num_train is \[4, 4\]; give numbers that ascend, each once"),
        ([8, 4], r"num_train is \[8, 4\]; give numbers that ascend"),
        ([0, 4], "num_train has 0; give at least 1"),
        ([-4, 4], "num_train has -4; give at least 1"),
        ([4, 10**6], "too few for disjoint splits"),
    ],
)
def test_lists_that_are_no_nested_training_sets(num_train: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        data(num_train)


def test_a_task_of_one_network_takes_one_number() -> None:
    message = r"num_train is \[8, 16\], but RHMClassifier trains one network; give one number"
    with pytest.raises(InputError, match=message):
        fit(RHMClassifier(4, 4, 2, 3, width=2), [8, 16])


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_each_network_gets_the_batches_that_it_gets_alone(num_processes: int) -> None:
    numbers = [3, 16, 37]
    plans = [NestedBatches(numbers, 8, k, num_processes, 5) for k in range(num_processes)]
    steps: list[list[tuple[Tensor, int]]] = []
    for epoch in range(3):
        parts = []
        for plan in plans:
            plan.set_epoch(epoch)
            parts.append(list(plan))
        assert {len(part) for part in parts} == {5}
        for step in zip(*parts, strict=True):
            steps.append(
                [
                    (torch.cat([index for index, _ in each]), each[0][1])
                    for each in zip(*step, strict=True)
                ]
            )
    for k, num in enumerate(numbers):
        alone = PlannedBatches(num, 8, shuffle_seed=5)
        expected: list[tuple[Tensor, int]] = []
        for epoch in range(len(steps)):
            alone.set_epoch(epoch)
            expected += [(index, epoch) for index in alone]
        for step, (index, epoch) in zip(steps, expected, strict=False):
            assert torch.equal(step[k][0], index)
            assert step[k][1] == epoch


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_killed_and_resumed_training_gives_the_same_weights(tmp_path: Path) -> None:
    every = ModelCheckpoint(
        tmp_path, "{step}", every_n_train_steps=HALF_WAY, save_top_k=-1, save_last=False
    )
    whole, resumed = (task([3, 16, 37], network=Dropped, network_seed=k) for k in (0, 0))
    fit(whole, [3, 16, 37], every)
    saved = tmp_path / f"step={HALF_WAY}.ckpt"
    fit(resumed, [3, 16, 37], resume=saved)
    assert equal(whole, resumed)
    assert not equal(whole, task([3, 16, 37], network=Dropped))
    with pytest.raises(InputError, match=r"has num_train \[3, 16, 37\], but this run has \[3, 37"):
        fit(task([3, 37], network=Dropped), [3, 37], resume=saved)
    gaussian = task([3, 16, 37], network=Dropped, process=GaussianNoise())
    with pytest.raises(InputError, match="has process masking, but this run has gaussian"):
        fit(gaussian, [3, 16, 37], resume=saved)


@pytest.mark.parametrize("network", [small, Dropped])
def test_a_network_alone_is_the_same_as_among_others(network: Any) -> None:
    together, alone = task([3, 16, 37], network=network), task([16], network=network)
    fit(together, [3, 16, 37], max_steps=5)
    fit(alone, [16], max_steps=5)
    assert equal(together.networks[1], alone.networks[0])
    assert not equal(together.networks[0], together.networks[1])


def test_networks_that_draw_keep_the_state_of_the_global_generator() -> None:
    states = []
    for network in (Own, Dropped):
        torch.manual_seed(5)
        fit(task([8], network=network), 8, max_steps=2)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_each_network_is_validated_on_the_same_messages() -> None:
    module = task([4, 8], network=Dropped).eval()
    networks = module.averaged.module
    networks[1].load_state_dict(networks[0].state_dict())
    batches = data([4, 8])
    batches.setup()
    module.validation_step(batches._splits["val"][torch.arange(20)], 0)
    first, second = (module.metric(f"val/loss/P={num}").compute() for num in (4, 8))
    assert first == second


def test_validation_after_training_keeps_the_best_weights() -> None:
    module = task([8])
    trainer = fit(module, 8, max_steps=2)
    step = module.best_step.item()
    module.best_loss.fill_(100.0)
    trainer.validate(module, data(8), verbose=False)
    assert module.best_loss.item() == 100
    assert module.best_step.item() == step > 0


def test_weights_name_the_training_set_of_the_data_module() -> None:
    module = task([8, 16])
    fit(module, [8, 16], max_steps=1)
    assert module.trained_on == data([8, 16]).training_set
    other = RHMDataModule(RHM, [8, 16], 20, 20, 20, batch_size=BATCH, seed=1)
    with pytest.raises(InputError, match="trained_on: the network was trained on"):
        Trainer(logger=False, accelerator="cpu", max_steps=1).fit(module, other)


@pytest.mark.parametrize("given", [64, [32], [16, 64], [16, 32, 64]])
def test_training_sets_of_task_and_data_must_agree(given: int | list[int]) -> None:
    with pytest.raises(InputError, match=r"num_train is \[16, 32\], but that of the data is \["):
        fit(task([16, 32]), given)


def test_batches_for_one_network_do_not_train_several() -> None:
    loader = [{"leaves": torch.zeros(2, 8, dtype=torch.long), "index": torch.arange(2)}]
    trainer = Trainer(
        logger=False, accelerator="cpu", max_steps=1, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    with pytest.raises(InputError, match="a list with a batch for each of its 2 networks"):
        trainer.fit(task([2, 4]), loader, loader)


@pytest.mark.parametrize(
    ("num_train", "message"),
    [
        ([0], "num_train has 0; give at least 1"),
        ([-1, 5], "num_train has -1"),
        ([5, 5], "give numbers that ascend"),
        ([2.5], "num_train has 2.5; give integers"),
        ([], "num_train is an empty list"),
    ],
)
def test_tasks_without_nested_training_sets(num_train: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        task(num_train)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits: (logits, logits), "Changed returns a tuple, not a tensor"),
        (lambda logits: logits[:, :4], r"Changed returns shape \(8, 4, 4\), not \(8, 8, 4\)"),
        (lambda logits: logits.long(), "Changed returns torch.int64; give a module that returns"),
        (lambda logits: logits.detach(), "the logits of Changed have no gradient"),
        (lambda logits: logits @ torch.ones(5), "Changed does not take x of shape"),
        (lambda logits: logits.missing, "Changed does not take x of shape .* 'missing'"),
    ],
)
def test_networks_that_do_not_denoise(change: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(task([8], network=partial(Changed, change=change)), 8)


def test_networks_of_double_precision() -> None:
    module = task([8], network=lambda *sizes: Own(*sizes).double())
    before = copy.deepcopy(module.networks)
    fit(module, 8, max_steps=2)
    assert module.networks[0].map.weight.dtype == torch.float64
    assert not equal(before, module.networks)


def test_factories_that_do_not_build_separate_networks() -> None:
    shared = Own(4, 2, 3)
    with pytest.raises(InputError, match="the 2 networks share modules or parameters"):
        task([4, 8], network=lambda *sizes: shared)
    with pytest.raises(InputError, match="the 2 networks share modules or parameters"):
        task([4, 8], network=lambda *sizes: nn.Sequential(nn.Linear(4, 4), shared.map))
    with pytest.raises(InputError, match="network: it cannot be built: small"):
        task([4], network=lambda *sizes: small(*sizes[:2]))  # type: ignore[call-arg]
    with pytest.raises(InputError, match="network returns a str"):
        task([4], network=lambda *sizes: "network")


def test_the_weights_of_the_lowest_validation_loss_are_kept_and_read(tmp_path: Path) -> None:
    def diverging(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.5)

    module = task([3, 37], optimizer=diverging, ema_decay=0.5)
    history: list[tuple[list[float], list[nn.Module]]] = []

    class Recorder(ModelCheckpoint):
        def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
            losses = [float(trainer.callback_metrics[f"val/loss/P={num}"]) for num in (3, 37)]
            states = [small(4, 2, 3) for _ in losses]
            for state, network in zip(states, module.averaged.module, strict=True):
                state.load_state_dict(network.state_dict())
            history.append((losses, list(states)))

    trainer = fit(module, [3, 37], Recorder(tmp_path, save_top_k=0), max_steps=40)
    assert len(history) == 8
    best = [min(range(8), key=lambda v, k=k: history[v][0][k]) for k in (0, 1)]  # type: ignore[misc]
    assert best[0] < 7
    assert module.best_step.tolist() == [5 * (position + 1) for position in best]
    assert module.select_network(0) is module.best[0]
    path = str(tmp_path / "weights.ckpt")
    trainer.save_checkpoint(path)
    for k, (denoiser, last) in enumerate(
        zip(read_denoisers(path), read_denoisers(path, use="last"), strict=True)
    ):
        assert equal(denoiser.network, history[best[k]][1][k])
        assert denoiser.training == Training((3, 37)[k], 40)  # best weights, all steps
        assert equal(last.network, module.averaged.module[k])
        assert not equal(last.network, module.networks[k])
        assert last.training == Training((3, 37)[k], 40)
        assert not denoiser.network.training
        assert denoiser.record["process"] == "masking"
        assert denoiser.record["process_key"] == MaskingNoise().key


def saved(module: DenoisingTask, path: Path, **changes: Any) -> str:
    """Write what Lightning writes of a module; `changes` replace entries of its record."""
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    checkpoint["lit_hier"] |= changes
    torch.save(checkpoint, path)
    return str(path)


def test_a_network_of_the_users_own(tmp_path: Path) -> None:
    module = task([4], network=Own)
    path = saved(module, tmp_path / "own.ckpt")
    (found,) = read_denoisers(path, Own, use="last")
    assert isinstance(found.network, Own)
    assert equal(found.network, module.networks[0])
    with pytest.raises(
        InputError, match=r"does not name a network .* `network` if it is your own"
    ):
        read_denoisers(path, use="last")
    with pytest.raises(InputError, match="does not fit TreeUNet: embedding"):
        read_denoisers(path, small, use="last")
    with pytest.raises(InputError, match="has no best weights, as no validation took place"):
        read_denoisers(path, Own)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "classifiers"}, "does not hold denoisers"),
        ({"training": [{"num_train": 4}]}, "damaged record of its training"),
        ({"training": 3 * [{"num_train": 4, "best_step": 1}]}, "damaged record of its training"),
        ({"training": [{"num_train": 9, "best_step": 1}]}, "'networks.1.* is unexpected"),
        ({"num_features": 5}, "names a network for data of other sizes"),
        ({"num_layers": None}, "damaged record of its data"),
        ({"arguments": []}, "damaged record of its networks"),
        ({"arguments": {"num_features": 4, "tuple_size": 2, "num_layers": 3, "width": 5}},
         "does not fit TreeUNet"),
        ({"network": "os.system"}, "does not name a network"),
    ],
)  # fmt: skip
def test_damaged_checkpoints(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = saved(task([4, 8]), tmp_path / "damaged.ckpt", **changes)
    with pytest.raises(InputError, match=message):
        read_denoisers(path, use="last")


def test_weights_of_a_classifier_are_no_denoisers(tmp_path: Path) -> None:
    path = saved(RHMClassifier(4, 4, 2, 3, width=2), tmp_path / "cnn.ckpt")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="does not hold denoisers; give a checkpoint that"):
        read_denoisers(path)


def test_invalid_arguments() -> None:
    with pytest.raises(InputError, match="the messages of the epsilon process reveal the leaves"):
        task([4], process=EpsilonNoise())
    with pytest.raises(InputError, match="network_seed is -1"):
        task([4], network_seed=-1)
    with pytest.raises(InputError, match="LBFGS couples the 2 networks"):
        fit(task([8, 16], optimizer=torch.optim.LBFGS), [8, 16])
    with pytest.raises(InputError, match="by the norm over all 2 networks"):
        fit(task([8, 16]), [8, 16], gradient_clip_val=1.0)
    flat = task([8], network=lambda *sizes: nn.Sequential(nn.Flatten(), nn.Linear(32, 4)))
    with pytest.raises(InputError, match=r"Sequential returns shape \(8, 4\), not \(8, 8, 4\)"):
        fit(flat, 8)


def test_schedulers_step_with_the_optimizer() -> None:
    def schedule(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)

    trainer = fit(task([16], lr_scheduler=schedule), [16])
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
