"""Every figure's config: small, for its files; at the paper's depth, for its findings."""

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from conftest import ROOT, inside, rows
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.text import Text

from lit_hier.cli import main
from lit_hier.errors import InputError
from lit_hier.figures import (
    MapCurve,
    OverlaidCurve,
    Panel,
    curve_figure,
    figure_style,
    grid_figure,
    histogram_figure,
    level_figure,
    map_figure,
    overlay_figure,
    phase_figure,
)
from lit_hier.figures.layout import set_times
from lit_hier.figures.style import category_styles
from lit_hier.gaussian import GaussianRandomField
from lit_hier.gaussian.fourier import wavenumber
from lit_hier.inference import mean_field
from lit_hier.io.figures import write_figure

CONFIGS = ROOT / "configs"
FIGURES = {
    "fig5": {"reconstruction.png"},
    "fig6": {"transition.png", "phase_diagram.png", "transition_points.csv"},
    "fig7": {"reconstruction.png", "reconstruction_deviation.csv"},
    "fig10": {"iteration_map.png", "iteration_map_deviation.csv", "phase_diagram.png"},
    "fig11_14": {
        *("belief_histogram.csv", "belief_histogram.png", "belief_histogram_deviation.csv"),
        *("beliefs.csv", "beliefs_deviation.csv"),
        *("beliefs_upward.png", "beliefs_downward.png", "beliefs_marginal.png"),
    },
    "fig15": {
        *("effective_noise.csv", "effective_noise.png", "effective_noise_deviation.csv"),
        *("reconstruction_against_noise.csv", "reconstruction_against_noise.png"),
        "reconstruction_against_noise_deviation.csv",
    },
}


def predict(folder: Path, figure: str, *arguments: str) -> Path:
    """Run a figure's config with the command in its header; return the folder of results."""
    config = CONFIGS / f"{figure}.yaml"
    command = config.read_text().splitlines()
    assert f"# lit-hier predict -c {figure}" in command
    given = [*arguments, "--trainer.enable_progress_bar=false"]
    with inside(folder), patch.object(sys, "argv", ["x", "predict", "-c", str(config), *given]):
        main()
    return folder / "logs" / figure / "version_0"


def column(table: list[dict[str, str]], name: str, **which: object) -> np.ndarray:
    chosen = [row for row in table if all(row[key] == str(x) for key, x in which.items())]
    return np.array([float(row[name]) for row in chosen])


def test_panels_share_a_scale_and_baselines_have_their_curves_colors() -> None:
    x, curves = [0.0, 1.0], {"shallow": [0.0, 0.4], "deep": [0.5, 0.2]}
    lower = {name: [-3.0, math.nan] for name in curves}
    panels = [Panel("mean", curves, compared=lower), Panel("mode", curves)]
    first, second = curve_figure(x, "time", panels, "layer").axes
    assert first.get_ylim() == second.get_ylim()
    assert first.get_ylim()[0] < -3
    solid, dotted = ([y for y in first.lines if y.get_linestyle() == s] for s in ("-", ":"))
    shown = [line for line in dotted if len(line.get_xdata())]
    assert [tuple(y.get_color()) for y in shown] == [tuple(y.get_color()) for y in solid]
    assert len(shown) == 2
    assert "comparison" in first.get_legend_handles_labels()[1]
    assert "comparison" not in second.get_legend_handles_labels()[1]


def times_axis(x: list[float]) -> Axes:
    ax = Figure().subplots()
    ax.plot(x, x)
    set_times(ax, x)
    ax.get_figure().draw_without_rendering()
    return ax


def test_axes_over_times_have_the_ticks_that_fit_them() -> None:
    steps = times_axis([0, 5, 10, 25]).get_xticks()
    assert len(steps) > 2
    assert (steps == steps.round()).all()
    few = times_axis([0, 1, 2]).get_xticks()
    assert (few == few.round()).all()
    decades = [0.0, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.5, 1.0]
    assert times_axis(decades).get_xscale() == "symlog"
    labels = [label.get_text() for label in times_axis(decades).get_xticklabels()]
    assert {"0", "0.01", "0.1"} <= set(labels)
    assert times_axis(decades).get_xlim()[0] > -0.01
    assert times_axis(decades[1:]).get_xscale() == "log"
    even = times_axis([0.02, *np.arange(1, 20) / 20])
    assert even.get_xscale() == "linear"
    assert not even.xaxis.get_inverted()
    assert times_axis([1.0, 0.5, 0.0]).xaxis.get_inverted()


def every_kind() -> dict[str, Callable[[], Figure]]:
    x = np.linspace(0, 1, 5)
    names = [f"level {k}" for k in range(11)]
    curves = {name: x * k / 11 for k, name in enumerate(names)}
    panels = [
        Panel(
            "cosine similarity, mean over data",
            curves,
            bands=curves,
            theory=curves,
            compared=curves,
            chance={"chance, 1/32": 1 / 32},
        )
    ] * 2
    columns = dict.fromkeys(("largest", "largest_std", "true", "theory"), curves)
    line = OverlaidCurve(x, x, x, x)
    overlaid = {"v = 16": [{"epsilon": line, "masking": line}] * 2}
    point = np.array([0.1, 0.9])
    maps = [
        MapCurve(f"s f = {k} (m = {k})", (x, x), (x, x), (x, x), point, point > 0.5)
        for k in range(6)
    ]
    rows = np.outer(x[1:], x)
    labels = ("noise ε", "s f", "probability of the true class")
    return {
        "curves": lambda: curve_figure(x, "noise ε", panels, "level", 0.5),
        "levels": lambda: level_figure(x, "noise ε", "upward belief", columns),
        "histogram": lambda: histogram_figure(
            np.ones((3, 5, 2, 10), int), np.ones((3, 5)), np.ones((3, 5)), ["a", "b", "c"], "ε"
        ),
        "map": lambda: map_figure(maps, "belief p at a level", "belief F(p) at the level above"),
        "phase": lambda: phase_figure(x, x[1:] ** 2, rows, x[1:], x[1:], (x, x), labels),
        "overlay": lambda: overlay_figure(
            overlaid, ["effective noise ε(t)"] * 2, labels[2], "process"
        ),
        "grid": lambda: grid_figure(
            np.zeros((4, 15, 8, 8, 1), np.uint8), ["start", *["t = 100"] * 14]
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize("width", [None, 3.3])
def test_figures_fit_their_width(width: float | None) -> None:
    """Nothing is cut off, text is legible, and legends are outside of the panels."""
    with figure_style(width):
        for name, draw in every_kind().items():
            figure = draw()
            figure.draw_without_rendering()
            if width is not None:
                assert figure.get_figwidth() == pytest.approx(width), name
            page = figure.bbox
            boxes = [ax.get_tightbbox() for ax in figure.axes if ax.axison]
            legends = [legend.get_window_extent() for legend in figure.legends]
            for box in (*boxes, *legends):
                assert box.x0 > -2, name
                assert box.y0 > -2, name
                assert box.x1 < page.x1 + 2, name
                assert box.y1 < page.y1 + 2, name
                assert min(box.width, box.height) > 20, name
            panels = [ax.get_window_extent() for ax in figure.axes if ax.axison]
            assert not any(box.overlaps(legend) for box in panels for legend in legends), name
            texts = [text for text in figure.findobj(Text) if text.get_text()]
            assert min(text.get_fontsize() for text in texts) >= 5.5, name


def test_legends_define_what_is_drawn() -> None:
    shown = {
        name: [text.get_text() for legend in draw().legends for text in legend.get_texts()]
        for name, draw in every_kind().items()
        if name in ("curves", "map", "phase", "overlay")  # the others take long
    }
    levels = ["0 (leaves)", *map(str, range(1, 10)), "10 (class)"]
    assert shown["curves"] == [
        *levels,
        *("± 1 standard error", "comparison", "mean field", "chance, 1/32"),
        "predicted transition",
    ]
    assert {"attractive fixed point", "repulsive fixed point", "F(p) = p"} <= set(shown["map"])
    assert {"s f = 1", "measured midpoint", "not measured"} <= set(shown["phase"])
    assert shown["overlay"] == ["epsilon", "masking", "± 1 standard error", "theory"]


def test_categories_have_colors_and_markers_of_their_own() -> None:
    assert len(set(category_styles(56))) == 56
    assert len({color for color, _ in category_styles(6)}) == 6


def test_bands_of_a_phase_diagram_are_centered_and_do_not_overlap() -> None:
    with figure_style():
        y, rows = np.array([0.125, 0.25, 1.0, 1.5]), np.zeros((4, 3))
        labels = ("x", "y", "z")
        figure = phase_figure([0, 0.5, 1], y, rows, y, y, ([], []), labels)
    meshes = [x for x in figure.axes[0].collections if isinstance(x, QuadMesh)]
    ends = np.array([mesh.get_coordinates()[:, 0, 1] for mesh in meshes])
    assert ends.mean(1) == pytest.approx(y)
    assert (ends[1:, 0] >= ends[:-1, 1] - 1e-12).all()


@pytest.mark.parametrize(
    ("width", "style", "message"),
    [(1.0, None, "width is 1; give 2 to 40 inches"), (None, "ggplott", "did you mean ggplot?")],
)
def test_bad_widths_and_styles_are_one_line(
    width: float | None, style: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)), figure_style(width, style):
        pass


def test_figures_are_written_in_each_format_and_are_equal_files(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        with figure_style():
            figure = Figure((1, 1))
            figure.text(0.5, 0.5, "ε")
            write_figure(folder, "f", figure, ("png", "pdf", "svg"))
    for suffix, start in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        first, second = (tmp_path / name / f"f.{suffix}" for name in "ab")
        assert first.read_bytes().startswith(start)
        assert first.read_bytes() == second.read_bytes()


# Columns that are NaN where no theory applies.
UNKNOWN = {"theory", "critical", "exponent", "theory_place", "theory_width", "theory_inversion"}
UNKNOWN |= {"largest_theory", "information_theory"}
UNKNOWN |= {"inversion"}  # where none is significant
UNKNOWN |= {"window", "largest_outside", "mean_outside"}  # of shallow trees at few times


@pytest.mark.parametrize("figure", FIGURES)
def test_each_figure_writes_its_files(tmp_path: Path, figure: str) -> None:
    folder = predict(tmp_path, figure, "-c", str(CONFIGS / "fast.yaml"))
    assert FIGURES[figure] <= {path.name for path in folder.iterdir()}
    for path in folder.glob("*.csv"):
        table = rows(path)
        words = {"process", "message", "inverted", "quantity", *UNKNOWN}
        errors = {name for name in table[0] if name.endswith(("sem", "sem_within"))}
        for name in set(table[0]) - words - errors:
            assert np.isfinite(column(table, name)).all(), (path.name, name)
        for name in errors:
            known = column(table, name)
            assert (known[np.isfinite(known)] >= 0).all(), (path.name, name)
        if path.stem in ("reconstruction", "beliefs"):
            assert set(column(table, "grammars")) == {2}


def test_the_seeds_of_an_ensemble_in_the_shell(tmp_path: Path) -> None:
    seeds = "--data.init_args.rhm.init_args.seeds=[3,4,5]"
    folder = predict(tmp_path, "fig7", "-c", str(CONFIGS / "fast.yaml"), seeds)
    assert set(column(rows(folder / "reconstruction.csv"), "grammars")) == {3}


SHALLOW = "--data.init_args.rhm.init_args.num_layers=2"


@pytest.mark.parametrize(
    ("figure", "argument", "message"),
    [
        ("fig7", "--data.init_args.rhm.init_args.seeds=[]", "seeds: the list is empty; give at"),
        ("fig7", "--data.init_args.rhm.init_args.seeds=[1,1]", "seeds: [1, 1] repeats a number"),
        ("fig7", "--data.init_args.rhm.init_args.num_synonyms=33", "num_synonyms=33"),
        (
            "fig7",
            "--data.init_args.rhm.init_args.num_synonyms=[2,4]",
            "data.rhm: Reconstruction",
        ),
        ("fig7", "--model.init_args.times=[0.5]", "times: Reconstruction draws curves; give"),
        ("fig7", "--model.init_args.times=[0.5,1.5]", "times: 1.5 is out of range; noise ε"),
        ("fig11_14", "--model.init_args.messages=false", "model: BeliefHistogram needs messages"),
        ("fig11_14", "--model.init_args.times=[0.1,0.9]", "time is 0.5; give one of the"),
        ("gaussian_field", "--model.init_args.times=[-1.0,1.0]", "times: -1 is out of range"),
        ("gaussian_field", "--data.init_args.num_predict=0", "num_predict is 0; give at least"),
    ],
)
def test_bad_input_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], figure: str, argument: str, message: str
) -> None:
    small = (SHALLOW, argument) if figure.startswith("fig") else (argument,)
    with pytest.raises(SystemExit) as end:
        predict(tmp_path, figure, *small)
    assert end.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"lit-hier: error: {message}")
    left = {path.suffix for path in tmp_path.rglob("*")}
    assert left.isdisjoint({".csv", ".npz", ".png"})


FEW = ("--data.init_args.rhm.init_args.seeds=[0,1]", "--data.init_args.num_predict=16")


def test_fig7_agrees_with_theory_at_the_papers_depth(tmp_path: Path) -> None:
    """Leaves, root and all levels outside the window, and the position of the transition."""
    folder = predict(tmp_path, "fig7", *FEW)
    deviation = rows(folder / "reconstruction_deviation.csv")
    assert [row["level"] for row in deviation] == [str(level) for level in range(11)]
    outside = column(deviation, "largest_outside")
    assert 0.02 < column(deviation, "window")[0] < 0.06
    assert outside[0] < 0.005
    assert outside[10] < 0.03
    assert outside.max() < 0.03
    assert column(deviation, "largest").max() < 0.1
    table = rows(folder / "reconstruction.csv")
    times, root = column(table, "time", level=10), column(table, "marginal", level=10)
    critical = mean_field.critical_epsilon(32, 8, 2)
    assert np.interp(-0.5, -root, times) == pytest.approx(critical, abs=0.02)


def test_fig5_inverts_the_levels(tmp_path: Path) -> None:
    few = ("--data.init_args.num_predict=8", "--model.init_args.times=[0.0,0.05,0.09,0.5]")
    table = rows(predict(tmp_path, "fig5", FEW[0], *few) / "reconstruction.csv")
    levels = np.array([column(table, "marginal", level=level) for level in range(11)])
    assert np.allclose(levels[:, 0], 1, atol=1e-6)
    # At low noise latents are more certain than leaves; beyond the transition, less.
    assert levels[8, 1] > levels[0, 1] + 0.01
    assert (np.diff(levels[:, 2]) < 0.005).all()
    assert levels[0, 2] > 0.5 > 0.1 > levels[10, 2]
    assert levels[10, 3] == pytest.approx(1 / 32, abs=0.01)
    assert (
        np.abs(levels - [column(table, "theory", level=level) for level in range(11)]).max() < 0.1
    )


@pytest.mark.slow
@pytest.mark.usefixtures("full_population")
@pytest.mark.parametrize("n", [32, 8])
@pytest.mark.parametrize(
    ("process", "times"),
    [
        ("{class_path: GaussianNoise}", [0.03, 0.05, 0.062, 0.067, 0.072, 0.077, 0.09, 0.2]),
        ("{class_path: MaskingNoise}", [0.1, 0.2, 0.24, 0.26, 0.28, 0.3, 0.35, 0.6]),
        (
            "{class_path: EpsilonNoise, init_args: {strings: true}}",
            [0.05, 0.11, 0.14, 0.155, 0.17, 0.185, 0.22, 0.5],
        ),
    ],
    ids=["gaussian", "masking", "strings"],
)
def test_density_evolution_agrees_with_measurements_at_the_papers_size(
    tmp_path: Path, process: str, times: list[float], n: int
) -> None:
    """All levels; true and largest marginals, and information; place and width of the class."""
    folder = predict(
        tmp_path,
        "fig5",
        "--data.init_args.num_predict=16",
        f"--data.init_args.rhm.init_args.num_classes={n}",
        f"--model.init_args.process={process}",
        f"--model.init_args.times={times}",
        "--trainer.callbacks+=Transition",
    )
    deviation = rows(folder / "reconstruction_deviation.csv")
    assert len(deviation) == 3 * 11
    for row in deviation:
        scale = np.log(32) if row["quantity"] == "information" else 1
        error = np.nan_to_num(float(row["largest_sem"]))
        assert float(row["largest"]) < 4 * error + 0.02 * scale, row
        assert float(row["mean_outside"]) < 0.02 * scale, row
    (point,) = (
        {key: float(x) for key, x in row.items()} for row in rows(folder / "transition_points.csv")
    )
    error = np.hypot(point["place_sem"], point["theory_place_sem"])
    assert point["place"] == pytest.approx(point["theory_place"], abs=4 * error)
    assert point["width"] == pytest.approx(point["theory_width"], rel=0.25)


def test_fig10_lies_on_equation_38(tmp_path: Path) -> None:
    few = ("--data.init_args.num_predict=8", "--data.init_args.rhm.init_args.num_layers=8")
    some = "--data.init_args.rhm.init_args.num_synonyms=[4,8,12,24]"
    times = "--model.init_args.times=[0.1,0.3,0.5,0.7,0.9]"
    folder = predict(tmp_path, "fig10", FEW[0], *few, some, times)
    deviation = rows(folder / "iteration_map_deviation.csv")
    assert len(deviation) == 4 * 8
    assert column(deviation, "largest").max() < 0.03
    assert column(deviation, "mean").max() < 0.01
    above = rows(folder / "transition_deviation.csv")
    assert column(above, "m").tolist() == [4, 8, 12, 24]
    assert column(above, "mean").max() < 0.02


def test_the_transition_sharpens_with_depth(tmp_path: Path) -> None:
    """L = 6, 8, 10 and 12: widths shrink as predicted, midpoints approach epsilon*."""
    few = ("--data.init_args.rhm.init_args.seeds=[0,1]", "--data.init_args.num_predict=8")
    points = rows(predict(tmp_path, "transition", *few) / "transition_points.csv")
    assert column(points, "L").tolist() == [6, 8, 10, 12]
    place, width = column(points, "place"), column(points, "width")
    critical = mean_field.critical_epsilon(32, 8, 2)
    assert place[2] == pytest.approx(critical, abs=0.02)
    assert (np.diff(np.abs(place - critical)) < 0).all()
    assert (np.diff(width) < 0).all()
    assert width == pytest.approx(column(points, "theory_width"), rel=0.2)
    assert place == pytest.approx(column(points, "theory_place"), abs=0.005)
    deviation = rows(tmp_path / "logs/transition/version_0/transition_deviation.csv")
    assert column(deviation, "largest_outside").max() < 0.02
    assert column(deviation, "mean").max() < 0.01


def test_the_phase_diagram_follows_the_predicted_line(tmp_path: Path) -> None:
    """At L = 8: the class is recovered far below the line, and lost far above it."""
    small = ("--data.init_args.rhm.init_args.num_layers=8", "--data.init_args.num_predict=8")
    seeds = "--data.init_args.rhm.init_args.seeds=[0]"
    folder = predict(tmp_path, "fig6", seeds, *small)
    table = rows(folder / "transition.csv")
    assert min(column(table, "s_f")) == pytest.approx(1 / 16, rel=0.04)
    assert max(column(table, "s_f")) == 2
    for m in range(2, 13):
        critical = mean_field.critical_epsilon(32, m, 2)
        times, marginal = column(table, "time", m=m), column(table, "marginal", m=m)
        assert (marginal[times < critical - 0.15] > 0.9).all()
        assert (marginal[times > critical + 0.15] < 0.1).all()
    points = rows(folder / "transition_points.csv")
    assert np.isnan(column(points, "critical", m=1)).all()
    assert np.isnan(column(points, "critical", m=32)).all()
    assert column(points, "place") == pytest.approx(column(points, "theory_place"), abs=0.03)


@pytest.mark.slow
def test_beliefs_agree_with_theory_and_downward_ones_fluctuate(tmp_path: Path) -> None:
    """Figs. 12 to 14: agreement, except that downward messages fluctuate at low noise."""
    few = ("--data.init_args.num_predict=4", "--model.init_args.times=[0.1,0.5,0.65,0.73,0.8,1.0]")
    folder = predict(tmp_path, "fig11_14", FEW[0], *few)
    deviation = rows(folder / "beliefs_deviation.csv")
    for message, most in (("upward", 0.03), ("marginal", 0.03), ("downward", 0.2)):
        assert column(deviation, "largest_outside", message=message).max() < most
    table = rows(folder / "beliefs.csv")
    low = {"message": "downward", "time": 0.1}
    spread = [
        column(table, "true_std", message=name, time=0.1)[3] for name in ("upward", "downward")
    ]
    assert spread[1] > 0.15 > 0.02 > spread[0]
    # The spread decreases with noise.
    assert (
        column(table, "true_std", **low)[3] > column(table, "true_std", **low | {"time": 0.8})[3]
    )


@pytest.mark.slow
def test_diffusion_inverts_the_levels_at_less_noise_than_the_epsilon_process(
    tmp_path: Path,
) -> None:
    """Fig. 15: measured and integrated effective noise agree; levels invert at less noise."""
    few = (FEW[0], "--data.init_args.num_predict=8")
    folder = predict(tmp_path, "fig15", *few)
    for row in rows(folder / "effective_noise.csv"):
        # Two grammars tell little about their spread; noise does not depend on them.
        error = 5 * np.nan_to_num(float(row["sem_within"])) + 1e-5
        assert float(row["noise"]) == pytest.approx(float(row["quadrature"]), abs=error)
    table = rows(folder / "reconstruction_against_noise.csv")
    noise = column(table, "effective_noise", level=0)
    leaf, root = (column(table, "marginal", level=level) for level in (0, 10))
    assert (root - leaf)[(noise > 0.05) & (noise < 0.3)].min() > 0
    assert (leaf - root)[(noise > 0.5) & (noise < 0.9)].min() > 0.1
    assert 0.4 < np.interp(-0.5, -root, noise) < 0.5


def test_the_bands_of_a_field_keep_their_order_at_all_times(tmp_path: Path) -> None:
    """No inversion: coarser bands are more similar, as in closed form."""
    small = ("--data.init_args.num_predict=100", "--data.init_args.num_test=100")
    table = rows(predict(tmp_path, "gaussian_field", *small) / "similarity.csv")
    field = GaussianRandomField(64, 2, 2.0)
    k = wavenumber(64, 2)
    means, errors, theories = [], [], []
    for j in range(6):
        low, high = (2.0 ** (5 - j) if j < 5 else 0.5), 2.0 ** (6 - j)
        power = np.where((k >= low) & (k < high), field.spectrum, 0.0)
        power[:, 1:-1] *= 2
        times = column(table, "time", layer=f"bands.{j}")
        theories.append([
            float((power * field.similarity(t).numpy()).sum() / power.sum())
            for t in times
        ])  # fmt: skip
        means.append(column(table, "mean", layer=f"bands.{j}"))
        errors.append(np.nan_to_num(column(table, "sem", layer=f"bands.{j}")))
    mean, error, theory = np.array(means), np.array(errors), np.array(theories)
    # Coarse bands have few modes, whose cosine is biased a little low.
    assert np.abs(mean[:4] - theory[:4]).max() < 0.02
    assert np.abs(mean[4:] - theory[4:]).max() < 0.1
    assert (np.diff(theory, axis=0)[:, 1:] > 0).all()
    noise = 1e-6 + 4 * np.hypot(error[1:], error[:-1])
    assert (np.diff(mean, axis=0) > -noise).all()
    apart = (np.diff(theory, axis=0) > 0.05) & (noise < 0.05)
    assert apart.sum() > 30
    assert (np.diff(mean, axis=0)[apart] > 0).all()


def test_the_class_of_a_mixture_crosses_over_and_no_scale_is_special(tmp_path: Path) -> None:
    small = ("--data.init_args.num_predict=300", "--data.init_args.num_test=100")
    folder = predict(tmp_path, "gaussian_mixture", *small)
    table = rows(folder / "reconstruction.csv")
    time, marginal, unchanged = (column(table, name) for name in ("time", "marginal", "unchanged"))
    assert (marginal[time <= 1.5] > 0.999).all()
    assert (unchanged[time <= 1.5] == 1).all()
    assert marginal[-1] == pytest.approx(0.5, abs=0.02)
    error = 5 * np.nan_to_num(column(table, "sem")) + 1e-6
    assert (np.abs(marginal - column(table, "theory")) < error).all()
    # The crossover is gradual; the class of a deep tree falls within 0.02 in epsilon.
    falling = time[(marginal > 0.6) & (marginal < 0.9)]
    assert falling.max() - falling.min() > 0.5
    similarity = rows(folder / "similarity.csv")
    bands = np.array([column(similarity, "mean", layer=f"bands.{j}") for j in range(5)])
    # All scales change equally, before, during and after the crossover.
    assert np.abs(bands[:4] - bands[0]).max() < 0.04
    assert np.abs(bands[4] - bands[0]).max() < 0.1
    assert np.abs(bands[:, -1]).max() < 0.1
