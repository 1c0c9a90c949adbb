"""Finished runs as objects, averages over runs and comparisons; files that are not trusted."""

import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from grammar_runs import predict
from pandas import DataFrame, read_csv

from lit_hier.cli import estimate, main
from lit_hier.errors import InputError
from lit_hier.io.arrays import write_samples
from lit_hier.io.tables import write_table
from lit_hier.results import (
    Run,
    average_tables,
    compare_correlations,
    compare_runs,
    compare_tables,
    comparison_figure,
    find_transitions,
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


def test_shares_that_are_equal_by_chance_have_no_known_error() -> None:
    tables = [DataFrame({"level": [0, 1], "share": [0.5, x], "s_f": 0.4}) for x in (0.25, 0.75)]
    found = average_tables(tables, ["r0", "r1"])
    assert found["share_sem"].tolist() == pytest.approx([np.nan, 0.25], nan_ok=True)
    assert found["s_f_sem"].tolist() == [0, 0]  # exact


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
    assert table[["theory_place_sem", "theory_width_sem"]].isna().all(axis=None)  # not in tables
    # Two grammars' places are 0.02 on either side: their mean has an error of 0.02.
    np.testing.assert_allclose(table["place_sem"], 0.02, rtol=0.2)
    assert (table["grammars"].tolist(), table["count"].tolist()) == ([2] * 4, [10] * 4)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["g", "h"]
    assert [text.get_text() for text in figure.legends[0].texts] == [
        *("a", "b", "± 1 standard error", "theory"),
    ]


def test_an_axis_that_falls_with_time_has_the_same_transition(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 0.4)
    table = run.table("reconstruction").assign(leaf_information=lambda x: 1 - x["time"])
    write_table(run.folder, "reconstruction", table.assign(theory_sem=0.0))
    compared, figure = compare_runs({("g", "a"): run}, ["reconstruction"])
    assert compared[["theory_place_sem", "theory_width_sem"]].eq(0).all(axis=None)
    assert compared["axis"].tolist() == ["leaf_information"]
    assert compared["place"][0] == pytest.approx(0.6, abs=2e-3)
    assert compared["width"][0] > 0
    assert figure.axes[0].xaxis_inverted()


def test_runs_without_parameters_of_a_grammar_are_not_compared(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run.folder / "config.yaml").write_text("data: {init_args: {}}")
    with pytest.raises(InputError, match="are not of an RHM's parameters"):
        compare_runs({("g", "a"): read_run(run.folder)}, ["reconstruction"])


def execute(*args: str, capsys: pytest.CaptureFixture[str], status: int = 0) -> str:
    """Execute a command in this process; return what it prints."""
    if status:
        with pytest.raises(SystemExit) as end:
            main(args)
        assert end.value.code == status
        error = capsys.readouterr().err
        assert error.startswith("lit-hier: error: ")
        assert error.count("\n") == 1
        return error
    main(args)
    return capsys.readouterr().out


def test_a_run_draws_its_figures_again_in_each_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "logs" / "demo" / "version_0")
    assert run.figures == ("reconstruction",)
    style = tmp_path / "my.mplstyle"
    style.write_text("axes.facecolor: 123456\nfigure.hooks: os:getcwd\ntext.usetex: True\n")
    out = execute("plot", str(tmp_path / "logs" / "demo"), "--format", "svg", "--width", "3.3",
                  "--style", str(style), capsys=capsys)  # fmt: skip
    path = run.folder / "plots" / "reconstruction_marginal.svg"
    assert out == f"figure   {path}\n"
    text = path.read_text()
    assert 'width="237.6pt"' in text  # 3.3 inches
    assert "#123456" in text
    assert ">0 (leaves)<" in text  # letters stay letters
    execute("plot", str(run.folder), "--width", "2", capsys=capsys)
    path = run.folder / "plots" / "reconstruction_marginal.pdf"
    assert path.read_bytes()[:4] == b"%PDF"


def test_a_comparison_has_differences_with_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (write_run(tmp_path / name, x) for name, x in (("a", 0.4), ("b", 0.55)))
    compared = compare_tables(first.table("reconstruction"), second.table("reconstruction"))
    a, b = (run.table("reconstruction")["marginal"] for run in (first, second))
    np.testing.assert_allclose(compared["marginal_difference"], b - a)
    np.testing.assert_allclose(compared["marginal_difference_sem"], 0.01 * 2**0.5)
    assert len(comparison_figure(compared, ("A", "B")).axes) == 3
    folder = tmp_path / "out"
    out = execute("compare", str(first.folder), str(second.folder), "--folder", str(folder),
                  capsys=capsys)  # fmt: skip
    place = read_csv(folder / "compare_transitions.csv").iloc[0]
    assert place["place_difference"] == pytest.approx(0.15, abs=2e-3)
    assert place["place_difference_sem"] == pytest.approx(0.02 * 2**0.5, rel=0.2)
    assert "place    reconstruction (time): A 0.4" in out
    assert (folder / "compare_reconstruction.png").is_file()


def test_tables_without_common_rows_are_not_compared() -> None:
    with pytest.raises(InputError, match="no inversion time and curve in common"):
        compare_tables(similarity(0.1), similarity(0.1, "b"))
    twice = similarity(0.1).iloc[[0, 0]]
    with pytest.raises(InputError, match="rows do not fit together"):
        compare_tables(twice, twice)
    with pytest.raises(InputError, match="no curves in common"):
        compare_tables(similarity(0.1).drop(columns=["mean", "mode"]), similarity(0.1))


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def test_a_report_is_one_page_and_escapes_what_it_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / f"run {HOSTILE}".replace("/", "-"))
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    config["model"] = {"class_path": f"a.{HOSTILE}"}
    (run.folder / "config.yaml").write_text(yaml.safe_dump(config) + f"# {HOSTILE}\n")
    facts = {"format": 1, "warnings": [HOSTILE], "command": [HOSTILE], "versions": {HOSTILE: "1"}}
    (run.folder / "run.json").write_text(json.dumps(facts))
    write_table(run.folder, "similarity", similarity(0.4, f"$\\bad {HOSTILE}"))
    reference = {"split": ["test"], "count": [100], "top1": [0.9], "top5": [np.nan]}
    write_table(run.folder, "similarity_reference", DataFrame(reference))
    (run.folder / "evil.png").write_text(HOSTILE)
    (run.folder / "link.png").symlink_to("/etc/passwd")
    page = tmp_path / "page.html"
    out = execute("report", str(run.folder), "--output", str(page), capsys=capsys)
    assert out == f"report   {page}\n"
    text = page.read_text()
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "default-src 'none'" in text
    assert text.count("&lt;script&gt;") >= 5  # title, model, command, warning, config
    assert text.count("<img ") == 2  # drawn from the tables of the two measurements
    assert "top1 90.00% (95 % interval 82.56% to 94.48%), top5 unknown" in text
    # The place of the transition.
    assert f"{transition_place(run):.6g}" in text


def transition_place(run: Run) -> float:
    return float(find_transitions(run)["place"][0])


def test_runs_are_listed_and_only_a_run_is_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    logs = tmp_path / "logs"
    runs = [write_run(logs / "demo" / f"version_{k}") for k in range(2)]
    facts = {"format": 1, "lit_hier": "0.1.0", "duration": 61.0, "command": ["lit-hier", "x"],
             "started": "2030-01-02T03:04:05+00:00", "status": "complete"}  # fmt: skip
    (runs[0].folder / "run.json").write_text(json.dumps(facts))
    kept = tmp_path / "kept"
    write_run(kept / "version_0")
    (logs / "link").symlink_to(kept)
    (runs[0].folder / "link").symlink_to(kept)
    out = execute("runs", capsys=capsys).splitlines()
    assert [line.split()[0] for line in out[1:-1]] == [f"logs/demo/version_{k}" for k in range(2)]
    assert "2030-01-0" in out[1]
    assert out[1].endswith("complete  61 s  lit-hier x")
    assert out[-1].startswith("2 runs, ")
    cases = {
        "logs/demo/version_1": "has no run.json of lit-hier",
        "logs/demo": "has no run.json of lit-hier",
        "logs/link/version_0": "is reached through a link",
        "logs/../kept/version_0": "is reached through a link",
        "kept/version_0": "is not in logs",
        "logs": "does not exist",
        "logs/none": "does not exist",
        "logs/\0": "is not in logs|does not exist",
    }
    for path, message in cases.items():
        error = execute("runs", "--remove", path, capsys=capsys, status=2)
        assert re.search(message, error), path
    assert runs[0].folder.is_dir()
    out = execute("runs", "--remove", "logs/demo/version_0", capsys=capsys)
    assert out.startswith("removed  logs/demo/version_0 (")
    assert not runs[0].folder.exists()
    assert (kept / "version_0" / "config.yaml").is_file()  # the link's target


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["plot", "none"], "run: none is not the folder of a run"),
        (["plot", "run", "--width", "0"], "--width is 0; give inches from 1 to 40"),
        (["plot", "run", "--format", "gif"], "invalid choice: 'gif'"),
        (["plot", "run", "--style", "none"], "--style: "),
        (["plot", "run", "--style", "bad.mplstyle"], "axes.facecolor: nonsense"),
        (["plot", "empty"], "has no table with curves to draw"),
        (["compare", "run", "empty"], "have no table with curves in common"),
        (["compare", "run"], "the following arguments are required: B"),
        (["report", "none"], "run: none is not the folder of a run"),
        (["report", "run", "--output", "run/config.yaml/x"], "--output: cannot write"),
        (["runs", "none"], "folder: there is no folder none"),
    ],
)
def test_bad_input_of_the_commands_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.yaml").touch()
    (tmp_path / "bad.mplstyle").write_text("axes.facecolor: nonsense {\n")
    assert message in execute(*args, capsys=capsys, status=2)


def test_an_estimate_extrapolates_the_first_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "_LONG", 0.0)
    predict(tmp_path, estimate.Estimate(), num=50, size=10)
    error = capsys.readouterr().err
    found = re.search(r"estimate, from the first batch: about (.+) s left, ([\d.]+) [MG]B", error)
    assert found
    assert float(found[1]) > 0
    assert float(found[2]) > 0


def write_correlations(folder: Path, ends: float, slope: float, bend: float = 0.0) -> Run:
    """Write a run whose chi is 9 at time 0.5 and falls to `ends`; at 0.5 C(r) has a slope."""
    folder.mkdir()
    (folder / "config.yaml").write_text("{}")
    known: dict[str, object] = {"process": "epsilon", "sem": 0.2, "theory": np.nan, "count": 40}
    units = {"units": 20}
    chi = 9 - (9 - ends) * abs(2 * TIMES - 1)
    decay = {"decay": slope, "decay_sem": 0.01, "decay_theory": np.nan}
    write_table(
        folder,
        "change_correlation",
        DataFrame(known | units | {"time": TIMES, "chi": chi} | decay),
    )
    r = np.tile([0.0, 1.0, 2.0, 4.0, 8.0], len(TIMES))
    columns = {"time": np.repeat(TIMES, 5), "distance": r, "length": r}
    correlation = 0.5 * np.maximum(r, 1) ** (slope - bend * np.log(np.maximum(r, 1)))
    table = DataFrame(known | columns | {"correlation": correlation, "sem": correlation / 50})
    write_table(folder, "change_correlation_distance", table)
    return read_run(folder)


def test_correlations_of_several_runs_are_put_side_by_side(tmp_path: Path) -> None:
    runs = {
        "tree": write_correlations(tmp_path / "tree", 1.0, -1.0),
        "field": write_correlations(tmp_path / "field", 8.9, -2.0),
        "bent": write_correlations(tmp_path / "bent", 8.9, -2.0, bend=1.0),
    }
    table, figure = compare_correlations(runs)
    assert list(table["model"]) == ["tree", "field", "bent"]
    assert (table["time"] == 0.5).all()
    assert (table["chi"] == 9).all()
    assert list(table["decay"]) == [-1.0, -2.0, -2.0]
    np.testing.assert_allclose(table["peak"], [0.5, np.nan, np.nan])
    assert (table["misfit"][:2] < 1e-9).all()
    titles = [ax.get_title() for ax in figure.axes[:3]]
    assert titles == [
        "tree: peak at 0.5\nC(r) ~ r^(-1.000 ± 0.010)",
        "field: no peak\nC(r) ~ r^(-2.000 ± 0.010)",
        "bent: no peak\nC(r) is not a power law",
    ]
    assert "In a hierarchy, C(r) at the peak decays as a power law" in figure.get_suptitle()
    deep = runs["tree"].table("change_correlation")
    (tmp_path / "tree/change_correlation.csv").unlink()
    write_table(tmp_path / "tree", "change_correlation", DataFrame(pd.concat([deep, deep])))
    with pytest.raises(InputError, match=r"^correlations: .* has no chi of one depth; compare"):
        compare_correlations({"tree": read_run(tmp_path / "tree")})
