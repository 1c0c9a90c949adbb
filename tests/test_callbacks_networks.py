"""Analyses of networks: kept statistics of the reference set, similarity, classes kept."""

import copy
import dataclasses
import math
import os
import tracemalloc
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import matplotlib
import numpy as np
import pytest
import torch
from conftest import RecordCollector, rows
from diffusers import UNet2DModel
from grammar_runs import network
from grammar_runs import predict as grammar_predict
from image_runs import SIZE, Net, predict, sampler
from torch import nn

from lit_hier.callbacks import ActivationSimilarity, ClassKept, reference
from lit_hier.callbacks.reference import Reference
from lit_hier.data import DigitsDataModule
from lit_hier.data.hierarchy import read_hierarchy
from lit_hier.errors import InputError
from lit_hier.figures import figure_style
from lit_hier.metrics import Moments, Standardization, channel_moments
from lit_hier.modules import DDPMSampler, StoredSamples
from lit_hier.nn import Probe
from lit_hier.nn.fingerprint import fingerprint
from lit_hier.nn.self_check import Checked, Layout

pytestmark = pytest.mark.filterwarnings("ignore:.*close to chance")  # networks are untrained


def similarity(net: nn.Module | None = None, **kwargs: Any) -> ActivationSimilarity:
    return ActivationSimilarity(net or Net(), **({"layers": ["0", "1", "3"]} | kwargs))


@pytest.mark.slow
def test_statistics_are_computed_once_and_again_after_any_change(
    pipeline: str, tmp_path: Path
) -> None:
    def computed(callback: ActivationSimilarity | None = None, **size: Any) -> int:
        with patch.object(reference, "_compute", wraps=reference._compute) as compute:
            model = sampler(pipeline, None, times=[0, 2])
            predict(tmp_path, model, [callback or similarity()], **size)
        return compute.call_count

    assert computed() == 1
    assert computed() == 0
    assert computed(num_predict=12) == 0  # the same reference set
    for kind in ("released", "none"):  # from the same moments
        assert computed(callback=similarity(standardization=kind)) == 0
    for changed in (
        {"callback": similarity(Net(seed=1))},
        {"callback": similarity(layers=["0", "1"])},
        {"callback": similarity(reference="val")},
        {"callback": similarity(per="unit")},
        {"num_test": 41},
        {"eval_batch_size": 9},
        {"seed": 1},
    ):
        assert computed(**changed) == 1, changed  # type: ignore[arg-type]
    assert computed() == 0  # all are kept
    net = Net()
    net.transform = "another"  # type: ignore[assignment]
    assert computed(callback=similarity(net)) == 1
    assert computed(precision="bf16-mixed") == 0  # networks run in their own precision
    for path in (tmp_path / "logs/reference").iterdir():
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    assert computed() == 1
    assert computed() == 0


def test_loaded_statistics_give_the_same_tables(pipeline: str, tmp_path: Path) -> None:
    folders = [predict(tmp_path, sampler(pipeline, None), [similarity()]) for _ in range(2)]
    for name in ("similarity.csv", "similarity_reference.csv"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    (row,) = rows(folders[1] / "similarity_reference.csv")
    assert row["split"] == "test"
    assert [int(row[name]) for name in ("count", "skipped", "converted", "enlarged")] == [
        40,
        0,
        0,
        0,
    ]


def test_top_1_and_top_5_accuracy(pipeline: str, tmp_path: Path) -> None:
    folder = predict(tmp_path, sampler(pipeline, None), [similarity()])
    data = DigitsDataModule(**SIZE)
    data.setup()
    batch = data._splits["test"][torch.arange(40)]
    ranked = Net().eval()(batch["x"]).argsort(1, descending=True)
    right = ranked == batch["label"][:, None]
    (row,) = rows(folder / "similarity_reference.csv")
    assert float(row["top1"]) == pytest.approx(right[:, 0].double().mean().item())
    assert float(row["top5"]) == pytest.approx(right[:, :5].double().sum(1).mean().item())


def statistics(a: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and scale of activations (B, C) or (B, C, H, W)."""
    axes = [0] if name == "per_unit" or a.ndim == 2 else [0, 2, 3]
    if name == "released" and a.ndim == 2:
        axes = [0, 1]
    mean = a.mean(axes, keepdim=True)
    if name == "none":
        return torch.zeros_like(mean), torch.ones_like(mean)
    if name == "released":
        return mean, (a.square().mean(axes, keepdim=True) + 1e-8).sqrt()
    scale = a.var(axes, correction=0, keepdim=True).sqrt()
    return mean, scale.masked_fill(scale < 1e-12, math.inf)


def test_every_standardization_and_the_baseline_against_their_definitions(
    pipeline: str, tmp_path: Path
) -> None:
    """`released`: centered, then divided by sqrt(E[x^2] + 1e-8), one pair for all logits."""
    keep, net = RecordCollector(), Net().eval()
    with torch.no_grad():
        net[3].bias += 5  # so that a centered second moment would differ
    names = ("released", "none", "per_unit")
    callbacks = [
        similarity(net, standardization="released", name="released"),
        similarity(net, standardization="none", name="none"),
        similarity(net, per="unit", name="per_unit"),
    ]
    model = sampler(pipeline, None, times=[0, 6])
    folder = predict(tmp_path, model, [*callbacks, keep], num_predict=21)
    data = DigitsDataModule(**SIZE)
    data.setup()
    reference = data._splits["test"][torch.arange(40)]["x"].double()
    parts = list(net.double())
    for name in names:
        stored = np.load(folder / f"{name}.npz")
        for k, depth in enumerate((1, 2, 4)):
            layer = nn.Sequential(*parts[:depth])
            mean, scale = statistics(layer(reference), name)

            def rows_of(x: torch.Tensor, layer=layer, mean=mean, scale=scale) -> torch.Tensor:  # type: ignore[no-untyped-def]
                standard: torch.Tensor = ((layer(x.double()) - mean) / scale).flatten(1)
                return standard

            for record in keep.records:
                start, index = rows_of(record.x_start), record.index
                for t, x in enumerate(record.x_reversed):
                    end = rows_of(x)
                    for array, other in (("similarity", end), ("baseline", end.roll(-1, 0))):
                        true = nn.functional.cosine_similarity(start, other).detach()
                        if len(index) == 1 and array == "baseline":
                            true[:] = torch.nan  # the last sample of 21 has no partner
                        np.testing.assert_allclose(stored[array][t, k][index], true, atol=2e-5)
        assert stored["identical"].tolist() == [[True] * 21, [False] * 21]
        table = rows(folder / f"{name}.csv")
        first, last = table[0], table[-1]
        assert float(first["identical"]) == 1
        assert float(first["corrected"]) == pytest.approx(1, abs=1e-5)
        assert first["sem"] == first["corrected_sem"] == "nan"
        mean, baseline = float(last["mean"]), np.nanmean(stored["baseline"][-1, -1], dtype=float)
        assert float(last["baseline"]) == pytest.approx(baseline, abs=1e-6)
        assert float(last["corrected"]) == pytest.approx(
            (mean - baseline) / (1 - baseline), abs=1e-6
        )
        assert 0.05 < float(last["corrected_sem"]) < 1  # though one sample has no partner


def test_raw_activations_keep_a_positive_cosine_without_information(tmp_path: Path) -> None:
    """At epsilon = 1 nothing of x_start is left; after a ReLU, raw activations still agree."""
    layers = ["layers.*", "readout"]
    callbacks = {
        "paper": ActivationSimilarity(network(), layers, name="paper"),
        "raw": ActivationSimilarity(network(), layers, standardization="none", name="raw"),
    }
    folder = grammar_predict(tmp_path, *callbacks.values(), num=300, size=100)
    tables = {name: rows(folder / f"{name}.csv")[-4:] for name in callbacks}
    raw = np.load(folder / "raw.npz")["similarity"][-1]
    assert (raw[:3] >= 0).all()  # no activation is negative
    for row in tables["paper"]:
        assert abs(float(row["mean"])) < 4 * float(row["sem"])
    for row in tables["raw"][:3]:
        assert float(row["mean"]) > max(0.3, 20 * float(row["sem"]))
        assert float(row["baseline"]) == pytest.approx(float(row["mean"]), abs=0.1)
    for row in (*tables["paper"], *tables["raw"]):  # above the baseline, neither has anything
        assert abs(float(row["corrected"])) < 4 * float(row["corrected_sem"])
    panels = [callback.panels(Mock()) for callback in callbacks.values()]
    assert [[panel.ylabel.split()[2] for panel in each] for each in panels] == [
        ["mean", "mode"]
    ] * 2


def test_the_mode_comes_first_for_images() -> None:
    callback = similarity()
    callback.sources = (None,)
    first, second = callback.panels(Mock())
    assert (first.ylabel.split()[2], second.ylabel.split()[2]) == ("mode", "mean")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"standardization": "unit"}, "standardization is 'unit'; give paper, released or none"),
        ({"per": "layer"}, "per is 'layer'; give channel or unit"),
        ({"per": "unit", "standardization": "none"}, "per is unit, but standardization is none"),
        ({"bandwidth": 2.0}, "bandwidth is 2.0; give a width in similarity from 0.0005 to 1"),
    ],
)
def test_invalid_choices_are_rejected(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        similarity(**given)


def test_statistics_of_more_units_than_fit_into_memory_are_rejected() -> None:
    checked = [
        Checked("a", (1, 2, 3), Layout(), 0.0),
        Checked("b", (1, 10**9, 10**6), Layout(), 0),
    ]
    probe = Mock(checked=[*checked, Checked("", (1, 10), Layout(), 0.0)])
    message = r"^per is unit: the statistics of 1\d+6 units, 1000000000000000 of them in b, need "
    with pytest.raises(InputError, match=message):
        reference._check_size(probe, 100, 1)


def test_both_standardizations_agree_where_means_are_zero() -> None:
    x = torch.randn(64, 5, 7, generator=torch.Generator().manual_seed(0))
    x = x - x.mean((0, 2), keepdim=True)
    moments = channel_moments(x)
    one, other = (Standardization.of(moments, name) for name in ("paper", "released"))
    torch.testing.assert_close(one(x), other(x), atol=1e-5, rtol=1e-5)


class Tokens(nn.Module):
    """The shapes of a transformer: an image is split into tokens, with channels last."""

    paper_layers = ("embed", "block", "head")

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 6, 2, stride=2)
        self.block = nn.Linear(6, 6)
        self.head = nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.block(self.embed(x).flatten(2).transpose(1, 2))
        logits: torch.Tensor = self.head(tokens.mean(1))
        return logits


def test_channels_of_tokens_come_last() -> None:
    network, shapes = Tokens(), {}
    probe = Probe(network)
    assert probe.layers == ["embed", "block", "head"]
    x = torch.randn(3, 1, 8, 8)
    logits = probe(x, lambda name, output: shapes.update({name: tuple(output.shape)}))
    assert shapes == {"embed": (3, 6, 4, 4), "block": (3, 6, 16), "head": (3, 10)}
    assert not logits.requires_grad


def test_layers_of_a_wrapped_network_keep_their_names() -> None:
    outer = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(64, 4)))
    with pytest.raises(InputError, match=r"^layers: Sequential has no default layers; give p"):
        Probe(outer)
    assert Probe(outer, ["1.0"]).layers == ["1.0"]
    outer.hooked = outer[1]
    assert Probe(outer, ["0"]).layers == ["0"]
    assert Probe(outer, ["0"]).identity != Probe(outer[1], ["0"]).identity
    with pytest.raises(
        InputError, match=r"^network: Sequential does not take x of shape \(3, 3\)"
    ):
        Probe(outer, ["0"])(torch.zeros(2, 3), print)


def test_classes_kept_against_their_definition(pipeline: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree.txt"
    # Even and odd digits; small even digits have a common ancestor.
    edges = ["all even", "all odd", "even small"]
    edges += [
        f"{'small' if k in (0, 2) else 'even' if k % 2 == 0 else 'odd'} {k}" for k in range(10)
    ]
    tree.write_text("\n".join(edges))
    keep, net = RecordCollector(), Net().eval().requires_grad_(False)
    folder = predict(
        tmp_path, sampler(pipeline, None), [ClassKept(Net(), str(tree), name="kept"), keep]
    )
    table = rows(folder / "kept.csv")
    assert [row["level"] for row in table[:3]] == ["depth 1", "depth 2", "class"]
    ancestors = [
        lambda k: k % 2,
        lambda k: "small" if k in (0, 2) else k,
        lambda k: k,
    ]
    for t in range(4):
        for level, ancestor in enumerate(ancestors):
            kept = []
            for record in keep.records:
                start = net(record.x_start).argmax(1).tolist()
                end = net(record.x_reversed[t]).argmax(1).tolist()
                kept += [ancestor(a) == ancestor(b) for a, b in zip(start, end, strict=True)]
            assert float(table[3 * t + level]["kept"]) == pytest.approx(np.mean(kept))
            assert int(table[3 * t + level]["count"]) == 23
    assert float(table[0]["kept"]) == 1  # at k = 0, x_reversed equals x_start


def test_several_networks_in_one_run_are_distinguished_by_name(
    pipeline: str, tmp_path: Path
) -> None:
    analyses = [similarity(Net(k), name=f"net_{k}") for k in range(2)]
    folder = predict(tmp_path, sampler(pipeline, None), [*analyses, ClassKept(Net())])
    names = {path.name for path in folder.glob("*.csv")}
    assert names == {
        "net_0.csv", "net_0_inversion.csv", "net_0_reference.csv",
        "net_1.csv", "net_1_inversion.csv", "net_1_reference.csv", "class_kept.csv",
    }  # fmt: skip
    with pytest.raises(InputError, match=r"would write net_0.csv"):
        predict(tmp_path, sampler(pipeline, None), [similarity(name="net_0"), analyses[0]])
    with pytest.raises(InputError, match=r"^name is '../up'; give letters, digits"):
        similarity(name="../up")


def test_a_hierarchy_counts_depths_from_its_root(tmp_path: Path) -> None:
    path = tmp_path / "tree.csv"
    path.write_text("root,a\nroot,b\na,c\na,x\nc,y\nc,z\nb,z\n\n")
    # z has two parents; the path through b is the shorter one.
    levels = read_hierarchy(path, ["x", "y", "z"])
    assert levels.shape == (2, 3)
    x, y, z = levels.T.tolist()
    assert x[0] == y[0] != z[0]
    assert len({x[1], y[1], z[1]}) == 3
    assert read_hierarchy(path, ["a", "b"]).shape == (0, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "hierarchy: cannot read .*: No such file"),
        (b"\xff\xfe", "hierarchy: .* is not UTF-8 text"),
        (b"a b c\n", "hierarchy: line 1 of .* is 'a b c'; give `parent child`"),
        (b"a x\n", "hierarchy: .* has no class 'y', which the data have"),
        (b"a x\nx a\na y\n", "hierarchy: .* has a cycle above 'x'; give a tree"),
    ],
)
def test_invalid_hierarchy_files_are_rejected(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "tree.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{message}"):
        read_hierarchy(path, ["x", "y"])


def test_a_deep_hierarchy_takes_little_time_and_memory(tmp_path: Path) -> None:
    """A chain of 400 KiB took 5 GiB; this one took 300 MiB."""
    path = tmp_path / "tree.txt"
    path.write_text("".join(f"{k} {k + 1}\n" for k in range(9_000)))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"^hierarchy: class '8000' of .* is 8000 deep; give a"):
        read_hierarchy(path, ["8000", "3"])
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def cached() -> Reference:
    parts = [Moments(*(torch.tensor(x).double() for x in (8.0, [1.0, 2.0], [3.0, 4.0])))] * 2
    accuracy = torch.tensor([0.5, 1.0, 0.5]).double()
    return Reference(parts, [False, False], torch.tensor([4, 4, 0, 1, 0, 0, 0]), accuracy, 3)


def test_cached_statistics_of_which_an_array_changed_are_recomputed(tmp_path: Path) -> None:
    path = tmp_path / "key.npz"
    reference.save(path, cached())
    with np.load(path) as file:
        arrays = dict(file)
    assert reference.load(path, 2) is not None
    assert reference.load(path, 3) is None
    for name, value in arrays.items():
        np.savez(path, **arrays | {name: value + np.ones_like(value)})
        assert reference.load(path, 2) is None, name
    reference.save(path, cached())
    with patch.object(reference, "_MAX_SIZE", 2**10):  # of what it decompresses to
        assert reference.load(path, 2) is None
    path.unlink()
    os.mkfifo(path)
    assert reference.load(path, 2) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"counts": torch.tensor([4, 4, 1, 0, 0, 0, 0])},
        {"counts": torch.tensor([4, 4, 0, 0, -1, 0, 0])},
        {"counts": torch.tensor([3, 3, 0, 0, 0, 0, 0])},
        {"counts": torch.tensor([0, 0, 0, 0, 0, 0, 0])},
        {"accuracy": torch.tensor([0.5, 1.1, 0.5]).double()},
        {"accuracy": torch.tensor([0.9, 0.5, 0.9]).double()},
        {"accuracy": torch.tensor([torch.nan, torch.nan, torch.nan]).double()},
        {"num_logits": 0},
        {"num_logits": -1},
        {"without_positions": [True, False]},
        *({"moments": [Moments(*(torch.tensor(x).double() for x in part))] * 2} for part in (
            (8.0, [torch.nan, 1.0], [1.0, 1.0]), (8.0, [1.0, 1.0], [-1.0, 1.0]),
            (8.0, [1.0, 1.0], [1.0, torch.inf]), (9.0, [1.0, 1.0], [1.0, 1.0]),
        )),
    ],
)  # fmt: skip
def test_implausible_statistics_are_recomputed_whatever_their_digest(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    reference.save(tmp_path / "key.npz", dataclasses.replace(cached(), **changed))
    assert reference.load(tmp_path / "key.npz", 2) is None


def test_a_figure_that_cannot_be_drawn_costs_a_warning_and_no_table(
    pipeline: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    def fail(*args: Any) -> None:
        seen.extend(sorted(path.name for path in tmp_path.rglob("version_0/*.*")))
        raise RuntimeError("latex was\nnot found")

    analyses = [ClassKept(Net(), name="one"), ClassKept(Net(), name="two")]
    with patch.object(analyses[0], "figures", fail), matplotlib.rc_context({"lines.marker": "s"}):
        folder = predict(tmp_path, sampler(pipeline, None, times=[0, 2]), list(analyses))
    assert {"one.csv", "one.npz", "two.csv", "two.npz"} <= set(seen)
    assert "two.png" not in seen
    assert (folder / "two.png").is_file()
    lines = [record.getMessage() for record in caplog.records if "figure" in record.getMessage()]
    assert lines == ["figure: cannot draw one: latex was not found; its tables are complete"]


def test_the_style_of_figures_does_not_depend_on_settings_that_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with matplotlib.rc_context({"text.usetex": True, "figure.dpi": 7}):
        monkeypatch.delenv("MATPLOTLIBRC", raising=False)
        with figure_style():
            assert not matplotlib.rcParams["text.usetex"]
        (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9")
        monkeypatch.setenv("MATPLOTLIBRC", str(tmp_path))
        with figure_style():
            assert matplotlib.rcParams["lines.linewidth"] == 9
            assert not matplotlib.rcParams["text.usetex"]
        assert matplotlib.rcParams["figure.dpi"] == 7


class Scale(nn.Module):
    """Has a parameter that is neither a weight nor part of a name."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.power = power

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x**self.power


def test_fingerprints_differ_where_outputs_do() -> None:
    unets = [
        UNet2DModel(8, 1, 1, block_out_channels=(8,), down_block_types=("DownBlock2D",),
                    up_block_types=("UpBlock2D",), norm_num_groups=4, **kwargs)
        for kwargs in ({}, {"freq_shift": 1}, {"flip_sin_to_cos": False}, {"norm_eps": 1e-6})
    ]  # fmt: skip
    for unet in unets[1:]:
        unet.load_state_dict(unets[0].state_dict())
    assert len({fingerprint(unet) for unet in unets}) == 4
    assert fingerprint(unets[0]) == fingerprint(copy.deepcopy(unets[0]).train())
    assert fingerprint(nn.Sequential(Scale(1))) != fingerprint(nn.Sequential(Scale(3)))
    assert fingerprint(nn.Sequential(Scale(1))) == fingerprint(nn.Sequential(Scale(1)))
    assert fingerprint(nn.ReLU()) != fingerprint(nn.ReLU(inplace=True))


def test_measurements_do_not_depend_on_the_samplers_precision(
    pipeline: str, tmp_path: Path
) -> None:
    predict(tmp_path, sampler(pipeline, tmp_path / "samples"), [])
    stored = StoredSamples(str(tmp_path / "samples"))
    folders = [
        predict(tmp_path, stored, [similarity(), ClassKept(Net())], precision=precision)
        for precision in ("32-true", "bf16-mixed", "bf16-true")
    ]
    for name in ("similarity.csv", "class_kept.csv"):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1


def test_networks_with_outputs_other_than_logits_are_rejected(
    pipeline: str, tmp_path: Path
) -> None:
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x, x

    for callback in (ClassKept(Pair()), ActivationSimilarity(nn.Sequential(Pair()), ["0"])):
        with pytest.raises(InputError, match=r"^(network|layers): [^\n]*"):
            predict(tmp_path, sampler(pipeline, None), [callback])
    wide = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    for callback in (ClassKept(wide), ActivationSimilarity(wide, ["0"])):
        with pytest.raises(InputError, match=r"^network: Sequential does not take x of shape"):
            predict(tmp_path, sampler(pipeline, None), [callback])


@pytest.mark.parametrize(
    "callback",
    [
        ClassKept(Net(), against="effective_noise"),
        ActivationSimilarity(Net(), ["0"], against="effective_noise"),
    ],
)
def test_images_have_no_effective_noise(pipeline: str, tmp_path: Path, callback: Any) -> None:
    message = "^against: DDPMSampler measures no effective noise; omit `against` to draw"
    with (
        patch.object(DDPMSampler, "sample", side_effect=AssertionError),
        pytest.raises(InputError, match=message),
    ):
        predict(tmp_path, sampler(pipeline, None), [callback])


def test_networks_that_are_not_classifiers_are_rejected(pipeline: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^network: Conv2d is not a classifier: its output"):
        predict(tmp_path, sampler(pipeline, None), [ClassKept(nn.Conv2d(1, 2, 3))])
    tree = tmp_path / "tree.txt"
    tree.write_text("".join(f"root {k}\n" for k in range(10)))
    few = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(
        InputError, match=r"^network: it has 4 logits, but the hierarchy is over the 10 classes"
    ):
        predict(tmp_path, sampler(pipeline, None), [ClassKept(few, str(tree))])


class Changing(Net):
    """A network that changes its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.sub_(0.3).mul_(2.0))


def test_a_network_that_changes_its_input_changes_no_one_elses(
    pipeline: str, tmp_path: Path
) -> None:
    names = {"alone": Net(), "changing": Changing(1), "after": Net()}
    callbacks: list[Any] = [similarity(net, name=name) for name, net in names.items()]
    callbacks.insert(1, ClassKept(Changing(1)))
    folder = predict(tmp_path, sampler(pipeline, None, times=[0, 2]), callbacks, num_predict=3)
    assert (folder / "alone.csv").read_bytes() == (folder / "after.csv").read_bytes()


class Hidden(Net):
    """A network whose output depends on a number that no digest can find."""

    gain = 1.0

    def __init__(self, gain: float) -> None:
        super().__init__()
        type(self).gain = gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = super().forward(x * type(self).gain)
        return logits


def test_statistics_of_a_network_with_other_outputs_are_not_reused(
    pipeline: str, tmp_path: Path
) -> None:
    def run(net: Hidden) -> float:
        model = sampler(pipeline, None, times=[0, 2])
        folder = predict(tmp_path, model, [similarity(net)], num_predict=3)
        return float(rows(folder / "similarity_reference.csv")[0]["top1"])

    with patch.object(Probe, "identity", "the same"):
        accuracy = run(Hidden(1.0))
        with pytest.warns(UserWarning, match="a network with other outputs; they are computed"):
            assert run(Hidden(-1.0)) != accuracy


class Dropping(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.1)


def test_networks_are_refused_before_the_run(pipeline: str, tmp_path: Path) -> None:
    """The last of several, before the reference set of the first, without any file."""
    broken = nn.Sequential(nn.Flatten(), Dropping(), nn.Linear(64, 10))
    first = similarity()
    for callback in (ClassKept(broken), ActivationSimilarity(broken, ["1"], name="second")):
        with (
            patch.object(reference, "_compute", side_effect=AssertionError),
            patch.object(DDPMSampler, "sample", side_effect=AssertionError),
            pytest.raises(InputError, match="between two evaluations of one batch"),
        ):
            predict(tmp_path, sampler(pipeline, None), [first, callback])
    assert not list(tmp_path.rglob("*.csv"))
    assert not list(tmp_path.rglob("reference"))
