"""Finished runs as objects, averages over runs and comparisons; files that are not trusted."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from pandas import DataFrame

from lit_hier.errors import InputError
from lit_hier.io.arrays import write_samples
from lit_hier.io.tables import write_table
from lit_hier.results import (
    Run,
    average_tables,
    compare_correlations,
    compare_runs,
    read_run,
    table_figure,
)

TIMES = np.linspace(0, 1, 21)


def write_run(folder: Path, place: float = 0.5, source: str = "reconstruction") -> Run:
    """Write a run of two grammars, whose root falls from 1 to 1/4 around a place."""
    folder.mkdir(parents=True)
    rhm = {"num_features": 4, "num_classes": None}
    config = {"data": {"init_args": {"rhm": {"init_args": rhm}}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    shifts = np.repeat([-0.02, 0.02], 5)
    root = 0.25 + 0.75 / (1 + np.exp((TIMES[:, None] - place - shifts) / 0.02))
    values = np.stack([1 - TIMES[:, None] * np.ones(10), root], axis=1)
    samples = {"marginal": values, "source": np.repeat([0, 1], 5), "time": TIMES}
    write_samples(str(folder), source, samples)
    marginal = values.mean(-1).ravel()
    table = DataFrame(
        {
            "process": "epsilon",
            "time": np.repeat(TIMES, 2),
            "level": np.tile([0, 1], 21),
            "marginal": marginal,
            "sem": 0.01,
            "theory": marginal,
        }
    )
    write_table(folder, source, table)
    return read_run(folder)


def test_a_run_lists_and_reads_its_tables_samples_and_config(tmp_path: Path) -> None:
    run = write_run(tmp_path / "version_0")
    assert run.tables == run.sample_tables == ("reconstruction",)
    assert run.config["data"]["init_args"]["rhm"]["init_args"]["num_features"] == 4
    table, samples = run.table("reconstruction"), run.samples("reconstruction")
    mean = samples["marginal"].mean(-1).ravel()
    np.testing.assert_allclose(table["marginal"], mean, rtol=1e-15)
    with pytest.raises(InputError, match=r"has no similarity\.csv; it has reconstruction$"):
        run.table("similarity")
    with pytest.raises(InputError, match=r"has no \.\./x\.npz"):
        run.samples("../x")


def test_of_a_runs_versions_the_newest_with_a_table_is_read(tmp_path: Path) -> None:
    for number in (2, 10):
        write_run(tmp_path / f"version_{number}")
    (tmp_path / "version_11").mkdir()
    (tmp_path / "version_11" / "config.yaml").touch()  # interrupted
    assert read_run(tmp_path).folder == tmp_path / "version_10"


@pytest.mark.parametrize("name", ["", "file", "missing", "nul\0l"])
def test_what_is_not_a_run_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        InputError, match=r"is not the folder of a run; give one with config\.yaml"
    ):
        read_run(tmp_path / name)


def test_a_run_of_a_newer_format_is_rejected(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run").folder
    (folder / "run.json").write_text('{"format": 2}')
    with pytest.raises(InputError, match="has format 2"):
        read_run(folder)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system [exit]",
        "a: &a [*a]",
        "a: &a [1, 2]\nb: &b {<<: {c: 1}}",
        "a: 1\na: 2",
        "\n".join(["a0: &a0 [1]", *(f"a{k + 1}: &a{k + 1} [{f'*a{k},' * 9}]" for k in range(9))]),
        "[" * 60 + "]" * 60,
        "- a",
        "a: 1999-99-99",
        "\x00",
    ],
    ids=["object", "cycle", "merge", "repeated", "bomb", "depth", "list", "value", "control"],
)
def test_a_config_is_only_plain_values(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=r"^run: .*config\.yaml.*; run it again$"):
        _ = read_run(tmp_path).config


def long_header() -> bytes:
    """Return an array's file whose header says more values than it has."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f8", "fortran_order": False, "shape": (2**40,)}
    )
    return file.getvalue() + b"12345678"


def objects() -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.array([{}], dtype=object))
    return file.getvalue()


@pytest.mark.parametrize("content", [long_header(), objects(), b"", b"\x93NUMPY\x09\x09"])
def test_samples_are_only_arrays_of_their_size(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.yaml").touch()
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(InputError, match=r"^samples x: .*x\.npz is damaged; run it again$"):
        read_run(tmp_path).samples("x")


def similarity(mean: float, layer: str = "a", **more: float) -> DataFrame:
    columns = {"process": "epsilon", "time": [0.0, 0.5], "layer": layer, "layer_index": 0}
    columns |= {"mode": 0.5, "mean": [1.0, mean], "sem": 0.1, "count": 8, "theory": 0.25, **more}
    return DataFrame(columns)


def test_the_error_of_an_average_is_that_of_independent_groups() -> None:
    means = [0.1, 0.3, 0.5, 0.9]
    table = average_tables([similarity(mean) for mean in means], ["r0", "r0", "r1", "r1"])
    row = table.iloc[1]
    assert row["mean"] == pytest.approx(np.mean([0.2, 0.7]))
    assert row["mean_sem"] == pytest.approx(np.std([0.2, 0.7], ddof=1) / 2**0.5)
    within = np.array([np.var([0.1, 0.3], ddof=1), np.var([0.5, 0.9], ddof=1)]) / 2
    assert row["mean_sem_within"] == pytest.approx(np.sqrt(within.sum()) / 2)
    assert (row["runs"], row["groups"], row["count"], row["theory"]) == (4, 2, 8, 0.25)
    assert "sem" not in table  # the error of one run
    assert np.isnan(table["mean_sem"][0])  # all are 1, the end of the range


def test_an_error_that_runs_do_not_tell_is_nan() -> None:
    one = average_tables([similarity(0.1), similarity(0.3)], ["r0", "r0"])
    assert np.isnan(one["mean_sem"][1])
    assert one["mean_sem_within"][1] == pytest.approx(np.std([0.1, 0.3], ddof=1) / 2**0.5)
    two = average_tables([similarity(0.1), similarity(0.3)], ["r0", "r1"])
    assert np.isnan(two["mean_sem_within"][1])
    assert two["mean_sem"][1] == pytest.approx(np.std([0.1, 0.3], ddof=1) / 2**0.5)


def test_only_tables_with_the_same_rows_are_averaged() -> None:
    with pytest.raises(InputError, match="differ in layer"):
        average_tables([similarity(0.1), similarity(0.1, "b")], ["r0", "r1"])
    with pytest.raises(InputError, match="different columns"):
        average_tables([similarity(0.1), similarity(0.1, other=1.0)], ["r0", "r1"])


def test_the_figure_of_an_average_has_the_mean_first_and_bands() -> None:
    table = average_tables([similarity(0.1), similarity(0.3)], ["r0", "r1"])
    mean, mode = table_figure(table).axes
    assert (mean.get_ylabel(), mode.get_ylabel()) == (
        "cosine similarity, mean over data",
        "cosine similarity, mode over data",
    )
    assert mean.get_xlabel() == "noise ε"
    (band,) = mean.collections
    top = band.get_paths()[0].vertices[:, 1].max()  # type: ignore[index]
    assert top == pytest.approx(0.2 + np.std([0.1, 0.3], ddof=1) / 2**0.5)


def test_the_figure_of_a_table_without_curves_is_one_line() -> None:
    with pytest.raises(InputError, match="it has none of mean, mode"):
        table_figure(DataFrame({"split": ["test"]}))
    with pytest.raises(InputError, match="it has no curves"):
        table_figure(DataFrame({"mean": [1.0]}))


def test_a_comparison_finds_the_places_of_transitions(tmp_path: Path) -> None:
    places = {("g", "a"): 0.4, ("g", "b"): 0.6, ("h", "a"): 0.5, ("h", "b"): 0.5}
    runs = {key: write_run(tmp_path / "_".join(key), x) for key, x in places.items()}
    table, figure = compare_runs(runs, ["reconstruction"], names=("grammar", "process"))
    found = dict(zip(zip(table["grammar"], table["process"], strict=True), table["place"],
                     strict=True))  # fmt: skip
    assert found == pytest.approx(places, abs=2e-3)
    np.testing.assert_allclose(table["theory_place"], table["place"])
    # Two grammars' places are 0.02 on either side: their mean has an error of 0.02.
    np.testing.assert_allclose(table["place_sem"], 0.02, rtol=0.2)
    assert (table["grammars"].tolist(), table["count"].tolist()) == ([2] * 4, [10] * 4)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["g", "h"]
    assert [text.get_text() for text in figure.legends[0].texts] == ["a", "b", "theory"]


def test_an_axis_that_falls_with_time_has_the_same_transition(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 0.4)
    table = run.table("reconstruction").assign(leaf_information=lambda x: 1 - x["time"])
    write_table(run.folder, "reconstruction", table)
    compared, figure = compare_runs({("g", "a"): run}, ["reconstruction"])
    assert compared["axis"].tolist() == ["leaf_information"]
    assert compared["place"][0] == pytest.approx(0.6, abs=2e-3)
    assert compared["width"][0] > 0
    assert figure.axes[0].xaxis_inverted()


def test_runs_without_parameters_of_a_grammar_are_not_compared(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run.folder / "config.yaml").write_text("data: {init_args: {}}")
    with pytest.raises(InputError, match="are not of an RHM's parameters"):
        compare_runs({("g", "a"): read_run(run.folder)}, ["reconstruction"])


def write_correlations(folder: Path, ends: float, slope: float) -> Run:
    """Write a run whose chi is 9 at time 0.5 and falls to `ends`; at 0.5 C(r) has a slope."""
    folder.mkdir()
    (folder / "config.yaml").write_text("{}")
    known: dict[str, object] = {"process": "epsilon", "sem": 0.2, "theory": np.nan, "count": 40}
    chi = 9 - (9 - ends) * abs(2 * TIMES - 1)
    decay = {"decay": slope, "decay_sem": 0.01, "decay_theory": np.nan}
    write_table(
        folder, "change_correlation", DataFrame(known | {"time": TIMES, "chi": chi} | decay)
    )
    r = np.tile([0.0, 1.0, 2.0, 4.0], len(TIMES))
    columns = {"time": np.repeat(TIMES, 4), "distance": r, "length": r}
    correlation = 0.5 * np.maximum(r, 1) ** slope
    table = DataFrame(known | columns | {"correlation": correlation})
    write_table(folder, "change_correlation_distance", table)
    return read_run(folder)


def test_correlations_of_several_runs_are_put_side_by_side(tmp_path: Path) -> None:
    runs = {
        "tree": write_correlations(tmp_path / "tree", 1.0, -1.0),
        "field": write_correlations(tmp_path / "field", 8.9, -2.0),
    }
    table, figure = compare_correlations(runs)
    assert list(table["model"]) == ["tree", "field"]
    assert (table["time"] == 0.5).all()
    assert (table["chi"] == 9).all()
    assert list(table["decay"]) == [-1.0, -2.0]
    np.testing.assert_allclose(table["peak"], [0.5, np.nan])
    titles = [ax.get_title() for ax in figure.axes[:2]]
    assert titles == [
        "tree: peak at 0.5\nC(r) ~ r^(-1.000 ± 0.010)",
        "field: no peak\nC(r) ~ r^(-2.000 ± 0.010)",
    ]
    assert "does not show a hierarchy" in figure.get_suptitle()
    deep = runs["tree"].table("change_correlation")
    (tmp_path / "tree/change_correlation.csv").unlink()
    write_table(tmp_path / "tree", "change_correlation", DataFrame(pd.concat([deep, deep])))
    with pytest.raises(InputError, match=r"^correlations: .* has no chi of one depth; compare"):
        compare_correlations({"tree": read_run(tmp_path / "tree")})
