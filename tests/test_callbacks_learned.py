"""Trained denoisers held against exact inference: curves per training, validity, quality."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from pandas import DataFrame
from pandas.api.types import is_float_dtype
from pytorch_lightning import Trainer
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from lit_hier.callbacks import (
    ActivationSimilarity,
    Beliefs,
    ChangeCorrelation,
    ClassKept,
    DenoiserQuality,
    Reconstruction,
    Transition,
    TransitionTime,
    Validity,
)
from lit_hier.callbacks.analysis import Analysis, group_sources
from lit_hier.callbacks.curves import CurveAnalysis
from lit_hier.callbacks.denoiser_quality import per_leaf
from lit_hier.callbacks.result import Result
from lit_hier.data import RHMDataModule
from lit_hier.diffusion import Denoising, ForwardBackward, Latents, Training
from lit_hier.errors import InputError
from lit_hier.experiment import forward_backward
from lit_hier.figures.learning import is_learning, learning_figure
from lit_hier.inference import BeliefPropagation
from lit_hier.metrics import average
from lit_hier.modules import (
    BPDenoiser,
    DenoisingTask,
    ForwardBackwardModule,
    NetworkDenoiser,
)
from lit_hier.nn import HierarchicalCNN
from lit_hier.processes import MaskingNoise
from lit_hier.results import average_tables, compare_tables, is_drawn, table_figure
from lit_hier.rhm import RandomHierarchyModel, whitened_one_hot
from lit_hier.rhm.parameters import GrammarParameters
from lit_hier.streams import Purpose, uniform

INF = math.inf
TIMES = (0.25, 0.5, 1.0)
NUM = 40
TRAININGS = (Training(16, 100), Training(64, 100), Training(16, 100), Training(64, 100))
BLUR = (0.5, 0.05, 0.4, 0.02)
"""The weight of a uniform belief in those of each network, which samples leaves one by one."""


@cache
def grammar() -> RandomHierarchyModel:
    return RandomHierarchyModel(8, 2, 2, 3, seed=0)


class BlurredDenoiser(ForwardBackwardModule):
    """Stands for networks: exact beliefs of leaves, mixed with uniform ones; the last is exact."""

    def __init__(
        self,
        times: Sequence[float] = TIMES,
        trainings: Sequence[Training] = TRAININGS,
        blur: Sequence[float] = BLUR,
    ) -> None:
        self.blur = blur
        self.process = MaskingNoise()
        super().__init__(times, self.process.axis)
        self.noise_process = self.process
        self.trainings = (*trainings, Training(INF, 0))
        self.copies = len(self.trainings)
        self.sources = (GrammarParameters.of(grammar()),) * self.copies
        self.inference = BeliefPropagation(grammar())

    def forward_backward(self, batch: dict[str, Tensor]) -> ForwardBackward:
        """Corrupt, blur, and sample leaf by leaf."""
        k, rhm = int(batch["source"]), grammar()
        start, _ = rhm.parse(batch["leaves"])
        trees, marginals, parts = [], [], []
        for time in self.times:
            noise = uniform(0, Purpose.CORRUPTION, batch["sample"], time, rhm.num_leaves)
            observed = self.process.corrupt(start[0], time, noise, rhm.num_features)
            messages = self.process.messages(observed, time, rhm.num_features, torch.float64)
            posterior = self.inference.condition(messages)
            marginals.append(posterior.marginals())
            exact = marginals[-1][0]
            blur = self.blur[k] if k < self.copies - 1 else 0.0
            beliefs = (1 - blur) * exact + blur / rhm.num_features
            draws = uniform(0, Purpose.POSTERIOR, batch["sample"], time, 1 + rhm.num_choices)
            if k == self.copies - 1:
                trees.append(posterior.sample(draws=draws))
            else:
                cumulative, u = beliefs.cumsum(-1), draws[:, : rhm.num_leaves, None]
                leaves = (cumulative < u).sum(-1).clamp(max=rhm.num_features - 1)
                leaves = leaves.where(observed == rhm.num_features, start[0])
                trees.append(rhm.parse(leaves)[0])
            parts.append((beliefs, exact, observed == rhm.num_features))
        tree_reversed = tuple(map(torch.stack, zip(*trees, strict=True)))
        x = whitened_one_hot(tree_reversed[0].flatten(0, 1), rhm.num_features)
        known = tuple(map(torch.stack, zip(*marginals, strict=True)))
        return ForwardBackward(
            x_start=batch["x"],
            x_reversed=x.unflatten(0, (len(self.times), -1)),
            times=torch.tensor(self.times, dtype=torch.float64),
            axis=self.axis,
            index=batch["index"],
            label=batch["label"],
            latents=Latents(start, tree_reversed, known if k == self.copies - 1 else None),
            source_index=k,
            denoising=Denoising(*map(torch.stack, zip(*parts, strict=True))),
        )


def run(
    *analyses: Analysis, sampler: ForwardBackwardModule | None = None, num: int = NUM
) -> Result:
    data = RHMDataModule(grammar(), [16, 64], 0, 0, num, eval_batch_size=num)
    trainer = Trainer(
        logger=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[*analyses],
        accelerator="cpu", devices=1, enable_checkpointing=False,
    )  # fmt: skip
    trainer.predict(sampler or BlurredDenoiser(), data, return_predictions=False)
    return Result.merge(analysis.result for analysis in analyses)


@cache
def results() -> Result:
    return run(
        Reconstruction(), Transition(), TransitionTime(), ChangeCorrelation(), Validity(),
        DenoiserQuality(),
    )  # fmt: skip


@cache
def exact_results() -> Result:
    sampler = BPDenoiser(grammar(), MaskingNoise(), list(TIMES))
    return run(Reconstruction(), ChangeCorrelation(), sampler=sampler)


def of(name: str, columns: Sequence[str], **chosen: float) -> np.ndarray:
    """Return columns of a table where others have given values: shape (rows, columns)."""
    table = results().table(name)
    for key, value in chosen.items():
        table = table[table[key] == value]
    return table[list(columns)].to_numpy(float)


def test_sources_are_grouped_by_training() -> None:
    groups = group_sources([*TRAININGS, Training(INF, 0), Training(64, 200)], 6)
    assert [group.name for group in groups] == [
        "P = 16", "P = 64, step 100", "P = 64, step 200", "exact"
    ]  # fmt: skip
    assert [list(group.source_indices) for group in groups] == [[0, 2], [1, 3], [5], [4]]
    (alone,) = group_sources((), 3)
    assert (alone.name, alone.columns, list(alone.source_indices)) == ("", {}, [0, 1, 2])
    untrained = group_sources([Training(math.nan, 1), Training(math.nan, 0), Training(INF, 0)], 3)
    assert [group.name for group in untrained] == ["network 0", "network 1", "exact"]


def test_each_training_has_curves_with_errors_of_data_and_of_networks() -> None:
    table = results().table("reconstruction")
    assert list(table.columns[:5]) == ["process", "time", "num_train", "step", "level"]
    assert len(table) == len(TIMES) * 3 * 4
    samples = results().samples("reconstruction")
    unchanged = samples["unchanged"].astype(float)  # time, level, index
    pair = [unchanged[..., samples["source"] == k].mean(-1) for k in (0, 2)]
    mean, sem = of("reconstruction", ("unchanged", "unchanged_sem"), num_train=16).T
    np.testing.assert_allclose(mean, np.mean(pair, axis=0).ravel(), rtol=1e-6)
    by_datum = np.mean([unchanged[..., samples["source"] == k] for k in (0, 2)], axis=0)
    of_data = by_datum.std(-1, ddof=1) / NUM**0.5
    expected = np.hypot(of_data, np.abs(pair[0] - pair[1]) / 2).ravel()
    np.testing.assert_allclose(sem[expected > 0], expected[expected > 0], rtol=1e-6)
    assert (table["count"] == NUM).all()


def test_exact_inference_has_the_curves_of_its_own_sampler() -> None:
    expected = exact_results().table("reconstruction")
    assert "num_train" not in expected
    for column in ("marginal", "largest", "information", "theory"):
        found = of("reconstruction", (column,), num_train=INF)[:, 0]
        np.testing.assert_allclose(found, expected[column], rtol=1e-5, atol=1e-6)


def test_what_a_network_does_not_tell_is_unknown() -> None:
    marginal, unchanged, *unknown = of(
        "reconstruction", ("marginal", "unchanged", "largest", "information"), num_train=64
    ).T
    np.testing.assert_array_equal(marginal, unchanged)
    assert np.isnan(unknown).all()
    places = results().table("transition_time").set_index(["num_train", "estimator"])
    for name in ("entropy rate", "clones"):
        assert math.isnan(places.loc[(64.0, name), "place"])
        assert places.loc[(64.0, name), "reason"]
    assert places.loc[(INF, "clones"), "reason"] != places.loc[(64.0, "clones"), "reason"]


def test_tables_of_all_callbacks_tell_trainings_apart() -> None:
    for name in ("transition", "transition_points", "transition_time_curves",
                 "change_correlation", "change_correlation_distance", "validity",
                 "denoiser_quality", "denoiser_quality_mean", "reconstruction_deviation",
                 "reconstruction_inversion"):  # fmt: skip
        assert results().table(name)["num_train"].unique().tolist() == [16, 64, INF], name


def test_chi_of_a_training_is_that_of_its_networks() -> None:
    other = run(ChangeCorrelation(), sampler=BlurredDenoiser(trainings=TRAININGS[:1]))
    exact = exact_results().table("change_correlation")["chi"]
    for result in (results(), other):
        table = result.table("change_correlation")
        np.testing.assert_allclose(table[table["num_train"] == INF]["chi"], exact, rtol=1e-6)


def test_validity_counts_parsed_nodes_and_strings() -> None:
    samples, level = results().samples("validity"), 1
    nodes, strings = (samples[key].astype(float) for key in ("nodes", "strings"))
    assert ((strings == 1) == (nodes == 1)).all()
    assert (np.diff(strings, axis=1) <= 0).all()  # a string is valid up to a level
    table = of("validity", ("nodes", "strings"), num_train=64, level=level)
    own = np.isin(samples["source"], [1, 3])
    expected = np.stack([x[:, level - 1, own].mean(-1) for x in (nodes, strings)], axis=1)
    np.testing.assert_allclose(table, expected, rtol=1e-6)
    assert (of("validity", ("nodes", "strings"), num_train=INF) == 1).all()
    at_end = of("validity", ("nodes", "strings"), time=1.0, num_train=16)
    assert (at_end < 0.9).all()


def test_copies_are_those_of_a_network_s_own_training_data() -> None:
    data = RHMDataModule(grammar(), [16, 64], 0, 0, NUM)
    data.setup()
    rows = [tuple(row) for row in data.training_leaves.tolist()]
    sampler, counts = BlurredDenoiser(), {16: 0, 64: 0}
    for size in counts:
        source = {16: 0, 64: 1}[size]
        held_out = [data._splits["predict"][torch.arange(NUM)]][0]  # type: ignore[attr-defined]
        record = sampler.forward_backward(held_out | {"source": torch.tensor(source)})
        assert record.latents is not None
        leaves = record.latents.tree_reversed[0][1].tolist()
        counts[size] = sum(tuple(row) in rows[:size] for row in leaves)
    samples = results().samples("validity")
    for size, count in counts.items():
        copied = samples["copy"][1, 0, samples["source"] == {16: 0, 64: 1}[size]] < size
        assert copied.sum() == count
    number = 8 * 2**7
    by_chance = of("validity", ("copies_by_chance",), num_train=64, level=1)[:, 0]
    valid = of("validity", ("strings",), num_train=64, level=3, time=1.0)[0, 0]
    np.testing.assert_allclose(by_chance, [math.nan, math.nan, valid * 64 / number])
    assert np.isnan(of("validity", ("copies", "copies_by_chance"), num_train=INF)).all()


class OftenExactDenoiser(BlurredDenoiser):
    """Takes every third sample from blurred beliefs, the others from exact inference."""

    def forward_backward(self, batch: dict[str, Tensor]) -> ForwardBackward:
        """Merge two records."""
        own = super().forward_backward(batch)
        exact = super().forward_backward(batch | {"source": torch.tensor(self.copies - 1)})
        assert own.latents is not None
        assert exact.latents is not None
        pairs = zip(own.latents.tree_reversed, exact.latents.tree_reversed, strict=True)
        blurred = batch["sample"][:, None] % 3 == 0
        trees = tuple(x.where(blurred, other) for x, other in pairs)
        return replace(own, latents=replace(own.latents, tree_reversed=trees))


def test_copies_from_pure_noise_meet_chance() -> None:
    analysis = Validity()
    run(analysis, sampler=OftenExactDenoiser((1.0,), TRAININGS[1:2]), num=900)
    table = analysis.result.table("validity")
    row = table[table["num_train"] == 64].iloc[-1]
    assert 0.66 < row["strings"] < 0.7
    assert row["copies_by_chance"] == pytest.approx(row["strings"] * 64 / 1024)
    assert abs(row["copies"] - row["copies_by_chance"]) < 4 * row["copies_sem"]
    assert abs(row["copies_exact"] - 64 / 1024) < 4 * row["copies_exact_sem"]


ERRORS = {
    "transition": ("marginal:sem", "unchanged:unchanged_sem"),
    "validity": ("strings:sem", "nodes:nodes_sem", "copies:copies_sem"),
    "denoiser_quality": ("kl:sem", "excess_cross_entropy:excess_cross_entropy_sem"),
}
SAME_TRAINING = (Training(64, 100),) * 3


@pytest.mark.slow
def test_networks_that_are_equal_have_the_errors_of_one() -> None:
    """Of all that is measured: three networks of the same data are not three times the data."""
    found = []
    for num in (1, 3):
        torch.manual_seed(0)
        network = HierarchicalCNN(8, 8, 2, 3, width=4)
        found.append(run(
            Reconstruction(), Transition(), TransitionTime(), ChangeCorrelation(), Validity(),
            DenoiserQuality(), ClassKept(network),
            sampler=BlurredDenoiser(trainings=SAME_TRAINING[:num], blur=[0.3] * num), num=50,
        ))  # fmt: skip
    for name in found[0].tables:
        one, three = (result.table(name) for result in found)
        for column in one.columns:
            if column in ("networks", "grammars", "grammar_std", "place_std"):
                continue
            if not is_float_dtype(one[column]):
                assert (one[column] == three[column]).all(), (name, column)
                continue
            by_bootstrap = name.startswith("transition") or "inversion" in column
            rtol = 0.35 if by_bootstrap and column.endswith("sem") else 1e-6
            np.testing.assert_allclose(
                three[column], one[column], rtol=rtol, atol=1e-7, err_msg=f"{name}: {column}"
            )


@pytest.mark.slow
def test_errors_of_networks_on_the_same_data_are_the_scatter_over_data() -> None:
    """Networks that nearly agree, on parts of the data."""
    num, parts = 600, 30
    measures: tuple[CurveAnalysis, ...] = (Transition(), Validity(), DenoiserQuality())
    analyses = {analysis.name: analysis for analysis in measures}
    sampler = BlurredDenoiser((0.5, 1.0), SAME_TRAINING, (0.3, 0.31, 0.29))
    result = run(*analyses.values(), sampler=sampler, num=num)
    for name, analysis in analyses.items():
        samples = result.samples(name)
        values = np.stack([samples[key] for key in analysis.quantities]).astype(float)
        part = samples["index"] % num // (num // parts)
        line = next(x for x in analysis.all_lines() if 0 in x.source_indices)
        columns = [
            analysis.summarize(values[:, :, line.curve, chosen], samples["source"][chosen], line)
            for k in range(parts)
            if len(chosen := np.flatnonzero((part == k) & (samples["source"] < 3)))
        ]
        for pair in ERRORS[name]:
            estimate, error = (
                np.stack([np.asarray(x[key]) for x in columns]) for key in pair.split(":")
            )
            claimed = np.sqrt(np.square(np.nan_to_num(error)).mean())
            scatter = np.sqrt(estimate.var(0, ddof=1).mean())
            assert 0.7 < claimed / scatter < 1.3, (name, pair)


def test_all_tables_with_curves_are_drawn_from_files() -> None:
    drawn = [name for name in results().tables if is_drawn(results().table(name))]
    assert "transition_time_curves" in drawn
    for name in drawn:
        assert table_figure(results().table(name)).axes, name


def test_quality_is_zero_for_exact_inference() -> None:
    columns = ("kl", "sem", "excess_cross_entropy", "excess_cross_entropy_sem", "agreement_sem")
    assert (of("denoiser_quality", columns, num_train=INF) == 0).all()
    assert (of("denoiser_quality", ("agreement",), num_train=INF) == 1).all()


def test_quality_is_that_of_the_blur() -> None:
    """The blurred beliefs' distances, computed leaf by leaf for one network."""
    data = RHMDataModule(grammar(), [16, 64], 0, 0, NUM)
    data.setup()
    batch = data._splits["predict"][torch.arange(NUM)]  # type: ignore[attr-defined]
    record = BlurredDenoiser().forward_backward(batch | {"source": torch.tensor(0)})
    assert record.denoising is not None
    p, q = (x.double().numpy() for x in (record.denoising.exact, record.denoising.beliefs))
    masked = record.denoising.predicted.numpy()
    samples = results().samples("denoiser_quality")
    for k in range(len(TIMES)):
        chosen_p, chosen_q = p[k][masked[k]], q[k][masked[k]]
        terms = np.where(chosen_p > 0, chosen_p * np.log(chosen_p.clip(1e-300) / chosen_q), 0)
        own = samples["source"] == 0
        total, leaves = (samples[x][k, 0, own].astype(float).sum() for x in ("kl", "leaves"))
        np.testing.assert_allclose(total / leaves, terms.sum(1).mean(), rtol=1e-5)
    kl, excess = of("denoiser_quality", ("kl", "excess_cross_entropy"), num_train=16).T
    assert (kl > 0).all()
    assert (np.abs(kl - excess) < 0.25 * kl).all()  # equal in expectation


def test_errors_of_averages_over_leaves_are_those_of_repetitions() -> None:
    rng = np.random.default_rng(0)
    leaves = rng.integers(0, 9, size=(400, 50)).astype(float)
    sums = leaves * rng.exponential(size=(400, 50)) + rng.normal(size=(400, 50)) * (leaves > 0)
    groups = np.zeros(50, dtype=np.int64)
    found = average(per_leaf(sums, leaves, groups), groups)
    ratios = sums.sum(-1) / leaves.sum(-1)
    np.testing.assert_allclose(found.mean, ratios)
    assert 0.85 < np.sqrt(np.square(found.sem).mean()) / ratios.std() < 1.15


def test_averages_over_leaves_keep_what_is_infinite_or_without_leaves() -> None:
    sums, leaves = (
        np.array([[1.0, INF], [0.0, 0.0], [2.0, 0.0]]),
        np.array([[1.0, 1], [0, 0], [1, 0]]),
    )
    found = per_leaf(sums, leaves, np.zeros(2, dtype=np.int64))
    assert np.isinf(found[0]).all()
    assert np.isnan(found[1]).all()
    assert found[2].mean() == 2.0


def test_figures_have_a_panel_per_training_over_exact_inference() -> None:
    figure = results().figure("reconstruction")
    assert [ax.get_title() for ax in figure.axes] == ["P = 16", "P = 64"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "exact inference, same data" in labels
    for name in ("validity_learning", "denoiser_quality_learning"):
        ticks = [tick.get_text() for tick in results().figure(name).axes[0].get_xticklabels()]
        assert ticks == ["16", "64"]


@pytest.mark.parametrize(
    ("analysis", "sampler", "message"),
    [
        (Beliefs(), BlurredDenoiser, "model: Beliefs needs messages"),
        (
            DenoiserQuality(),
            lambda: BPDenoiser(grammar(), MaskingNoise(), list(TIMES)),
            "use it with a LearnedDenoiser",
        ),
    ],
)
def test_runs_that_cannot_be_measured_are_rejected(
    analysis: Analysis, sampler: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(analysis, sampler=sampler())


def other_seed(name: str) -> DataFrame:
    """Return a table as another training would have it: other best steps, and other values."""
    table = results().table(name).copy()
    table["step"] += 64 * (table["num_train"] == 16)
    columns = [x for x in table if is_float_dtype(table[x]) and x not in ("time", "num_train")]
    table[columns] *= 0.9
    return table


@pytest.mark.parametrize(
    "name", ["validity", "denoiser_quality", "denoiser_quality_mean", "reconstruction"]
)
def test_averages_over_trainings_are_drawn(name: str) -> None:
    found = average_tables([results().table(name), other_seed(name)], ["0", "1"])
    assert found["num_train"].unique().tolist() == [16, 64, INF]
    assert not {"step", "num_train_sem"} & set(found)
    column = next(x for x in ("strings", "kl", "marginal") if x in found)
    row = found[found["num_train"] == 16].iloc[0]
    assert row[column] > 0
    np.testing.assert_allclose(row[f"{column}_sem"], row[column] * 0.05 / 0.95, rtol=1e-6)
    if is_drawn(found):
        figure = table_figure(found)
        titles = [ax.get_title() for ax in figure.axes]
        assert titles == (["P = 16", "P = 64"] if "level" in found else [""] * 3)
    assert is_learning(found) == (name != "reconstruction")
    if is_learning(found):
        panels = learning_figure(found).axes
        assert panels[0].get_xlabel() == "training data P"


def test_steps_are_compared_where_one_number_of_data_has_several() -> None:
    table = results().table("validity").copy()
    table["step"] = table["num_train"].where(table["num_train"] < INF, 0).astype(int)
    table.loc[table["num_train"] < INF, "num_train"] = 512
    assert learning_figure(table).axes[0].get_xlabel() == "training steps"
    titles = [ax.get_title() for ax in table_figure(table).axes]
    assert titles == ["P = 512, step 16", "P = 512, step 64"]
    compared = compare_tables(table, table)
    assert len(compared) == len(table)
    assert (compared["strings_difference"] == 0).all()
    assert len(compare_tables(results().table("validity"), other_seed("validity"))) == len(table)


@pytest.mark.filterwarnings("ignore:reference/accuracy")
def test_networks_that_see_the_samples_have_curves_per_training() -> None:
    torch.manual_seed(0)
    network = HierarchicalCNN(8, 8, 2, 3, width=4)
    result = run(ClassKept(network), ActivationSimilarity(network, reference="predict"))
    for name in ("class_kept", "similarity", "similarity_inversion"):
        assert result.table(name)["num_train"].unique().tolist() == [16, 64, INF], name
    similarity = result.table("similarity")
    mean = similarity.groupby("num_train")["mean"].mean()
    assert mean[64] > mean[16]  # less blur, less change


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_trained_networks_learn_the_hierarchy_level_by_level() -> None:
    """The grammar and the networks of `learned_train`, trained for fewer steps."""
    rhm, steps = RandomHierarchyModel(8, 2, 2, 4, seed=0), 2048
    data = RHMDataModule(
        rhm, [128, 2048], 1024, 0, 500, batch_size=128, eval_batch_size=512, seed=0
    )
    task = DenoisingTask(
        8,
        2,
        4,
        [128, 2048],
        MaskingNoise(),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01, fused=True),
        lr_scheduler=lambda optimizer: CosineAnnealingLR(optimizer, steps),
    )
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        check_val_every_n_epoch=4,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, data)
    sampler = NetworkDenoiser(
        rhm,
        MaskingNoise(),
        [0.5, 1.0],
        [task.select_network(k) for k in range(2)],
        [Training(num, steps) for num in task.num_train],
    )
    measurements = [Reconstruction(), Validity(), DenoiserQuality()]
    result = forward_backward(sampler, data, measurements)
    quality = result.table("denoiser_quality_mean").set_index("num_train")
    assert quality["kl"][2048] < 0.03
    assert quality["kl"][128] > 5 * quality["kl"][2048]
    assert (quality["kl"][math.inf], quality["agreement"][math.inf]) == (0, 1)
    validity = result.table("validity")
    strings = validity[validity["time"] == 1].pivot(
        index="num_train", columns="level", values="strings"
    )
    assert strings[4][2048] > 0.8  # 0.95 after 5,120 steps
    assert (np.diff(strings.loc[128]) < -0.1).all()  # level by level
    assert (strings.loc[math.inf] == 1).all()
    reconstruction = result.table("reconstruction")
    unchanged = reconstruction[reconstruction["time"] == 0.5].pivot(
        index="num_train", columns="level", values="unchanged"
    )
    exact = unchanged.loc[math.inf]
    assert abs(unchanged[0][2048] - exact[0]) < 0.02
    assert abs(unchanged[4][2048] - exact[4]) < 0.08
    assert unchanged[4][128] < exact[4] - 0.2
