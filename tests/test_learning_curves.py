"""Classifiers of nested training sets: test errors, and invariance to synonyms."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import rows
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from scipy.stats import chisquare
from torch import Tensor, nn

from lit_hier.callbacks import LearningCurve, SynonymSensitivity
from lit_hier.data import RHMDataModule
from lit_hier.errors import InputError
from lit_hier.metrics import relative_distance
from lit_hier.modules import BPDenoiser, ClassifiersTask, RHMClassifier, SynonymExchange
from lit_hier.nn import HierarchicalCNN, TrainedClassifiers, TransformerClassifier, evaluate
from lit_hier.processes import EpsilonNoise
from lit_hier.rhm import GrammarEnsemble, RandomHierarchyModel
from lit_hier.rhm.synonyms import exchange_synonyms, num_exchange_draws

RHM = RandomHierarchyModel(6, 3, 2, 3, seed=1)
TINY = RandomHierarchyModel(2, 2, 2, 2, seed=0)  # 16 data
TERNARY = RandomHierarchyModel(5, 4, 3, 2, num_classes=3, seed=2)


def uniform(rhm: RandomHierarchyModel, num: int, level: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (num, num_exchange_draws(rhm, level))
    return torch.rand(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("rhm", [RHM, TERNARY], ids=str)
@pytest.mark.parametrize("every", [False, True])
def test_an_exchange_changes_tuples_of_one_level_and_what_they_derive(
    rhm: RandomHierarchyModel, every: bool
) -> None:
    tree = rhm.sample(400, torch.Generator().manual_seed(1))
    for level in range(1, rhm.num_layers + 1):
        found = exchange_synonyms(rhm, tree, level, uniform(rhm, 400, level), every)
        parsed, valid = rhm.parse(found[0])
        assert valid[-1].all()
        assert all(map(torch.equal, parsed, found))
        assert all(map(torch.equal, tree[level:], found[level:]))
        changed = [
            (a != b).unflatten(1, (-1, rhm.tuple_size)).any(-1)
            for a, b in zip(tree[:level], found[:level], strict=True)
        ]
        num_tuples = changed[level - 1].sum(1)
        assert (num_tuples == (rhm.num_nodes(level) if every else 1)).all()
        for below in range(1, level):  # a subtree changes exactly where its symbol does
            assert torch.equal(changed[below - 1], tree[below] != found[below])


def test_node_and_synonym_are_drawn_uniformly() -> None:
    num, m = 6000, TERNARY.num_synonyms
    tree = TERNARY.sample(1, torch.Generator().manual_seed(3))
    many = tuple(x.expand(num, -1) for x in tree)
    found = exchange_synonyms(TERNARY, many, 1, uniform(TERNARY, num, 1))
    node = (found[0] != many[0]).unflatten(1, (-1, 3)).any(-1).int().argmax(1)
    assert chisquare(torch.bincount(node, minlength=3)).pvalue > 1e-3
    _, counts = found[0].unique(dim=0, return_counts=True)
    assert len(counts) == 3 * (m - 1)
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("every", [False, True])
def test_exchanged_data_have_the_distribution_of_the_data(level: int, every: bool) -> None:
    tree = TINY.sample(8000, torch.Generator().manual_seed(4))
    found = exchange_synonyms(TINY, tree, level, uniform(TINY, 8000, level), every)
    _, counts = found[0].unique(dim=0, return_counts=True)
    assert len(counts) == TINY.num_data
    assert chisquare(counts).pvalue > 1e-3


def test_an_exchange_depends_on_seed_index_and_level_only() -> None:
    data = RHMDataModule(RHM, 10, 5, 5, 40)
    data.setup()
    given = data._splits["predict"]
    whole = SynonymExchange(RHM, seed=3).predict_step(given[torch.arange(40)], 0)
    part = SynonymExchange(RHM, [2, 3], seed=3).predict_step(given[torch.tensor([7, 3, 39])], 5)
    assert torch.equal(part.x_reversed, whole.x_reversed[1:, [7, 3, 39]])
    other = SynonymExchange(RHM, seed=4).predict_step(given[torch.arange(40)], 0)
    assert not torch.equal(other.x_reversed, whole.x_reversed)
    latents = whole.latents
    assert latents is not None
    assert latents.marginals is None
    kept = latents.tree_reversed[-1] == latents.tree_start[-1]
    assert kept.all()
    ensemble = GrammarEnsemble(6, 3, 2, 3, seeds=[1, 2])
    both = RHMDataModule(ensemble, 10, 5, 5, 10)
    both.setup()
    batch = both._splits["predict"][torch.arange(10, 20)]
    record = SynonymExchange(ensemble).predict_step(batch, 0)
    assert record.source_index == 1


@pytest.mark.parametrize(
    ("rhm", "kwargs", "message"),
    [
        (RandomHierarchyModel(4, 1, 2, 2), {}, "num_synonyms is 1"),
        (RHM, {"levels": [0, 1]}, r"levels is \[0, 1\]; give some of 1 to num_layers = 3"),
        (RHM, {"levels": [4]}, "levels is"),
        (RHM, {"levels": []}, "levels is"),
        (RHM, {"levels": [2, 1]}, "ascending"),
        (RHM, {"seed": -1}, "seed is -1"),
        (None, {}, "needs data of a grammar"),
    ],
)
def test_wrong_exchanges_are_one_line(rhm: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SynonymExchange(rhm, **kwargs)


def test_the_error_of_relative_distances_is_that_of_the_jackknife() -> None:
    generator = np.random.default_rng(0)
    x = generator.uniform(1, 2, size=(300, 2))
    y = x + generator.normal(size=x.shape) * x
    moved = ((x - y) ** 2).sum(1)
    between = ((x[:, None] - x[None]) ** 2).sum(-1)

    def ratio(kept: np.ndarray) -> float:
        num = kept.sum()
        return float(moved[kept].mean() / (between[kept][:, kept].sum() / (num * (num - 1))))

    everything = np.ones(300, dtype=bool)
    without = [ratio(np.arange(300) != k) for k in range(300)]
    jackknife = np.sqrt(299 / 300 * np.square(without - np.mean(without)).sum())
    found = relative_distance(moved, between.sum(1) / 299, np.zeros(300, dtype=np.int64))
    assert found["sensitivity"] == pytest.approx(ratio(everything))
    assert found["sem"] == pytest.approx(jackknife, rel=0.03)
    # Two grammars have a ratio each, whatever the scale of their distances.
    half = np.arange(300) // 150
    scale = np.where(half, 100.0, 1.0)
    each = [relative_distance(m, p, np.zeros(150, dtype=np.int64)) for m, p in
            zip(np.split(moved, 2), np.split(between.sum(1) / 299, 2), strict=True)]  # fmt: skip
    both = relative_distance(moved * scale, between.sum(1) / 299 * scale, half)
    ratios = [part["sensitivity"] for part in each]
    assert both["sensitivity"] == pytest.approx(np.mean(ratios))
    assert both["sem"] == pytest.approx(abs(ratios[0] - ratios[1]) / 2)


class Parser(nn.Module):
    """Returns the class's one-hot vector, from a layer with the symbols of each level."""

    def __init__(self, rhm: RandomHierarchyModel) -> None:
        super().__init__()
        self.rhm = rhm
        self.levels = nn.ModuleList(nn.Identity() for _ in range(rhm.num_layers + 1))

    def forward(self, x: Tensor) -> Tensor:
        tree = self.rhm.parse(x.argmax(1))[0]
        codes = [nn.functional.one_hot(y, self.rhm.num_features).float() for y in tree]
        outputs = [
            layer(code.transpose(1, 2)) for layer, code in zip(self.levels, codes, strict=True)
        ]
        return outputs[-1][:, :, 0]


def trainer(folder: Path, *callbacks: Callback, **kwargs: Any) -> Trainer:
    logger = TensorBoardLogger(folder, name="run", default_hp_metric=False)
    options = {
        "logger": logger,
        "enable_checkpointing": False,
        "log_every_n_steps": 1,
        "max_epochs": 1,
    }
    return Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **(options | kwargs),
    )


def sensitivities(folder: Path, network: nn.Module, layers: Sequence[str]) -> list[dict[str, str]]:
    data = RHMDataModule(RHM, 10, 5, 5, 60, eval_batch_size=60)
    run = trainer(folder, SynonymSensitivity(network, list(layers)))
    run.predict(SynonymExchange(RHM), data, return_predictions=False)
    assert run.log_dir is not None
    return rows(Path(run.log_dir) / "synonym_sensitivity.csv")


@pytest.mark.slow
def test_a_parser_is_invariant_to_synonyms_of_its_level_and_below(tmp_path: Path) -> None:
    table = sensitivities(tmp_path, Parser(RHM), ["levels.*"])
    assert len(table) == 3 * 4
    data = RHMDataModule(RHM, 10, 5, 5, 60)
    data.setup()
    batch = data._splits["predict"][torch.arange(60)]
    record = SynonymExchange(RHM).predict_step(batch, 0)
    assert record.latents is not None
    for row in table:
        level, layer = int(row["level"]), int(row["layer_index"])
        assert float(row["time"]) == level
        assert row["num_train"] == row["step"] == "nan"
        start = record.latents.tree_start[layer].numpy()
        moved = record.latents.tree_reversed[layer][level - 1].numpy()
        pairs = (start[:, None] != start[None]).sum() / (60 * 59)
        expected = (start != moved).sum() / 60 / pairs
        assert float(row["sensitivity"]) == pytest.approx(expected, abs=1e-6)
        assert (float(row["sensitivity"]) == 0) == (layer >= level)
        assert (row["sem"] == "nan") == (layer >= level)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ClassifiersTask, list[Any]]:
    folder = tmp_path_factory.mktemp("fit")
    task = classifiers(HierarchicalCNN)
    run = trainer(folder, LearningCurve(), max_epochs=3)
    run.fit(task, datamodule=data())
    run.save_checkpoint(folder / "classifiers.ckpt")
    assert run.log_dir is not None
    return folder, task, rows(Path(run.log_dir) / "learning_curve.csv")


def data(**kwargs: Any) -> RHMDataModule:
    return RHMDataModule(RHM, **({"num_train": [8, 64, 200], "num_val": 50, "num_test": 300,
                                  "num_predict": 40, "batch_size": 32} | kwargs))  # fmt: skip


def classifiers(network: Any) -> ClassifiersTask:
    module = data()
    sizes = [6, 6, 2, 3]
    return ClassifiersTask(
        *sizes,
        module.num_train_list,
        lambda *sizes: network(*sizes, width=32),
        trained_on=module.training_set,
    )


class InPlace(nn.Module):
    """A linear classifier that changes its input in place."""

    def __init__(self, *sizes: int, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(48, 6)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.map(x.mul_(2).flatten(1))
        return logits


class Pair(InPlace):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


def test_classifiers_do_not_change_the_data_of_one_another() -> None:
    task = classifiers(InPlace)
    for network in task.averaged.module:
        network.load_state_dict(task.averaged.module[0].state_dict())
    module = data()
    module.setup()
    task.validation_step(module._splits["val"][torch.arange(50)], 0)
    losses = {float(task.metric(f"val/loss/P={num}").compute()) for num in (8, 64, 200)}
    assert len(losses) == 1
    with pytest.raises(InputError, match="network: Pair returns a tuple, not a tensor"):
        classifiers(Pair).validation_step(module._splits["val"][torch.arange(5)], 0)


def test_the_learning_curve_counts_test_errors(
    trained: tuple[Path, ClassifiersTask, list[Any]], tmp_path: Path
) -> None:
    folder, task, table = trained
    module = data()
    module.setup()
    test = module._splits["test"][torch.arange(300)]
    for k, row in enumerate(table):
        network = task.select_network(k)
        error = (evaluate(network, test["x"]).argmax(1) != test["label"]).double().mean()
        assert float(row["error"]) == pytest.approx(float(error))
        assert float(row["sem"]) == pytest.approx((error * (1 - error) / 299) ** 0.5)
        assert float(row["low"]) < float(row["error"]) < float(row["high"])
        assert int(row["best_step"]) == int(task.best_step[k]) > 0
    assert [int(row["num_train"]) for row in table] == [8, 64, 200]
    assert {(row["network"], row["sample_complexity"]) for row in table} == {
        ("HierarchicalCNN", str(6 * 3**3))
    }
    assert float(table[0]["chance"]) == pytest.approx(5 / 6)
    again = trainer(tmp_path, LearningCurve())
    path = folder / "classifiers.ckpt"
    again.test(
        classifiers(HierarchicalCNN), module, ckpt_path=path, weights_only=True, verbose=False
    )
    assert again.log_dir is not None
    assert rows(Path(again.log_dir) / "learning_curve.csv") == table


def test_restored_classifiers_are_those_that_were_trained(
    trained: tuple[Path, ClassifiersTask, list[Any]],
) -> None:
    folder, task, _ = trained
    path = str(folder / "classifiers.ckpt")
    x = torch.randn(5, 6, 8)
    last, best = TrainedClassifiers(path, "last"), TrainedClassifiers(path)
    for k in range(3):
        assert torch.equal(last.networks[k](x), task.networks[k](x))
        assert torch.equal(best.networks[k](x), task.best[k](x))
        assert last.trainings[k].step == task.global_step
        assert best.trainings[k].step == task.global_step
    assert [training.num_train for training in last.trainings] == [8, 64, 200]


@pytest.mark.slow
def test_the_sensitivity_of_several_networks_is_tabulated_and_drawn(
    trained: tuple[Path, ClassifiersTask, list[Any]], tmp_path: Path
) -> None:
    network = TrainedClassifiers(str(trained[0] / "classifiers.ckpt"))
    run = trainer(tmp_path, SynonymSensitivity(network))
    run.predict(SynonymExchange(RHM), data(), return_predictions=False)
    assert run.log_dir is not None
    table = rows(Path(run.log_dir) / "synonym_sensitivity.csv")
    assert len(table) == 3 * 3 * 4  # levels, networks, layers
    assert all(0 < float(row["sensitivity"]) < 2 and float(row["sem"]) > 0 for row in table)
    assert (Path(run.log_dir) / "synonym_sensitivity_num_train.png").is_file()
    with pytest.raises(InputError, match="the network was trained on"):
        run.predict(SynonymExchange(RHM), data(seed=1), return_predictions=False)


@pytest.mark.slow
def test_a_transformer_classifies_and_is_restored(tmp_path: Path) -> None:
    task = classifiers(TransformerClassifier)
    run = trainer(tmp_path, limit_train_batches=1, logger=False)
    run.fit(task, datamodule=data())
    run.save_checkpoint(tmp_path / "transformers.ckpt")
    found = TrainedClassifiers(str(tmp_path / "transformers.ckpt"), "last")
    x = torch.randn(5, 6, 8)
    logits = found.networks[0](x)
    assert logits.shape == (5, 6)
    torch.testing.assert_close(
        logits, task.networks[0].eval()(x)
    )  # a fused path without gradients
    moved = x[:, :, [1, 0, *range(2, 8)]]
    assert not torch.allclose(found.networks[0](moved), logits, atol=1e-3)  # it knows positions


def test_callbacks_of_another_model_are_one_line(tmp_path: Path) -> None:
    module = data(num_train=20)
    with pytest.raises(InputError, match="LearningCurve measures networks of several"):
        trainer(tmp_path, LearningCurve()).fit(RHMClassifier(6, 6, 2, 3), datamodule=module)
    with pytest.raises(InputError, match="num_test is 0"):
        trainer(tmp_path, LearningCurve()).fit(
            classifiers(HierarchicalCNN), datamodule=data(num_test=0)
        )
    denoiser = BPDenoiser(RHM, EpsilonNoise(), [0.0, 0.5])
    callback = SynonymSensitivity(HierarchicalCNN(6, 6, 2, 3, 8))
    with pytest.raises(InputError, match="use it with a SynonymExchange"):
        trainer(tmp_path, callback).predict(denoiser, module)
    with pytest.raises(InputError, match=r"levels is \[2\]; .* give at least two"):
        trainer(tmp_path, callback).predict(SynonymExchange(RHM, [2]), module)
    for bad in ({"num_classes": 1}, {"num_train": []}, {"network_seed": -1}):
        sizes = {"num_features": 6, "num_classes": 6, "tuple_size": 2, "num_layers": 3,
                 "num_train": [4]}  # fmt: skip
        with pytest.raises(InputError, match=next(iter(bad))):
            ClassifiersTask(**(sizes | bad))  # type: ignore[arg-type]
