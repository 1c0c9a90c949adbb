"""The command line, through the demo's own configs."""

import json
import platform
import re
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from conftest import ROOT, inside, rows
from conftest import run_command as lit_hier

CONFIGS = ROOT / "configs"
DEMO = str(CONFIGS / "demo.yaml")
FIG5 = str(CONFIGS / "fig5.yaml")
CLASSIFIER = str(CONFIGS / "demo_classifier.yaml")


def run_demo(folder: Path, fit: tuple[str, ...] = (), predict: tuple[str, ...] = ()) -> Path:
    """Train the demo's classifier and run its prediction, both with optional changes."""
    with inside(folder):
        lit_hier("fit", "-c", CLASSIFIER, *fit, "--trainer.enable_progress_bar=false")
        lit_hier("predict", "-c", DEMO, *predict, "--trainer.enable_progress_bar=false")
    return folder


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the demo with fewer epochs, data and times."""
    few = ("--data.init_args.num_predict=300", "--model.init_args.times=[0.0, 0.5, 0.9, 0.92]")
    return run_demo(tmp_path_factory.mktemp("demo"), ("--trainer.max_epochs=3",), few)


@pytest.fixture(scope="session")
def full_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the demo as a user runs it."""
    return run_demo(tmp_path_factory.mktemp("full_demo"))


def scalars(folder: Path, tag: str) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.value for event in events.Scalars(tag)]


def test_deep_layers_and_classes_change_most_above_the_transition(demo: Path) -> None:
    folder = demo / "logs/demo/version_0"
    table = [row for row in rows(folder / "similarity.csv") if float(row["time"]) == 0.92]
    mean = [float(row["mean"]) for row in table]
    assert mean[0] - max(mean[4:]) > 0.04
    table = [row for row in rows(folder / "reconstruction.csv") if float(row["time"]) == 0.9]
    marginal = {row["level"]: float(row["marginal"]) for row in table}
    assert marginal["6"] < marginal["0"] - 0.15


@pytest.mark.slow
def test_the_demo_shows_the_papers_inversion(full_demo: Path) -> None:
    folder = full_demo / "logs/demo/version_0"
    assert scalars(folder, "reference/accuracy")[0] > 0.99
    table = rows(folder / "similarity.csv")
    times = sorted({float(row["time"]) for row in table})
    assert len(times) >= 21
    assert {int(row["count"]) for row in table} == {2000}

    def curve(name: str, epsilon: float) -> list[float]:
        return [float(row[name]) for row in table if float(row["time"]) == epsilon]

    # Below the transition, similarity is smallest in the first layer ...
    below = [curve("mean", epsilon) for epsilon in times if epsilon <= 0.82]
    assert all(mean[0] < min(mean[1:]) for mean in below)
    assert all(min(mean[3:]) - mean[0] > 0.025 for mean in below[-5:])
    # ... above it, the order is inverted.
    for epsilon in (0.91, 0.92):
        mean = curve("mean", epsilon)
        assert mean[0] > mean[2] > max(mean[3:])
        assert mean[0] - max(mean[5:]) > 0.06
    # Every level crosses the leaves where theory says, and every layer the first one near there.
    layers = rows(folder / "similarity_inversion.csv")
    levels = rows(folder / "reconstruction_inversion.csv")
    assert len(levels) == len(layers) == 6
    assert {row["inverted"] for row in layers + levels} == {"yes"}
    for row in layers + levels:
        assert 0.83 < float(row["inversion"]) < 0.92
        assert float(row["inversion_sem"]) < 0.003
        assert float(row["difference"]) > 6 * float(row["difference_sem"])
    for row in levels:  # of one grammar, against an average over grammars
        assert abs(float(row["inversion"]) - float(row["theory_inversion"])) < 0.01


def test_the_demo_writes_what_it_promises(demo: Path) -> None:
    folder = demo / "logs/demo/version_0"
    names = {path.name for path in folder.iterdir()}
    assert {
        "config.yaml",
        "similarity.csv",
        "similarity.npz",
        "similarity_inversion.csv",
        "similarity.png",
        "reconstruction.csv",
        "reconstruction.npz",
        "reconstruction.png",
    } <= names
    # The classifier's accuracy on validation data during training.
    assert scalars(demo / "logs/demo_classifier/version_0", "val/accuracy")[-1] > 0.99


@pytest.mark.slow
def test_the_demos_classifier_interpolates(full_demo: Path) -> None:
    folder = full_demo / "logs/demo_classifier/version_0"
    assert scalars(folder, "val/accuracy")[-1] > 0.99
    assert scalars(folder, "train/errors")[-1] == 0


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_a_checkpoint_is_evaluated(
    demo: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = "logs/demo_classifier/weights/classifier.ckpt"
    with inside(demo):
        lit_hier(stage, "-c", CLASSIFIER, "--ckpt_path", checkpoint)
    found = re.search(r"/accuracy\D+([\d.]+)", capsys.readouterr().out)
    assert found
    assert float(found.group(1)) > 0.99


SMALL = ("--data.init_args.num_predict=130", "--data.init_args.eval_batch_size=50")


def test_predict_prints_where_the_results_are(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with inside(demo):
        lit_hier("predict", "-c", DEMO, *SMALL, "--model.init_args.times=[0.25, 0.5]")
        printed = capsys.readouterr().out
        lines = printed.splitlines()
        found = [line.split()[-1] for line in lines if line.startswith(("table", "figure"))]
        names = sorted(Path(name).name for name in found)
        assert names == [
            "reconstruction.csv", "reconstruction.png", "reconstruction_deviation.csv",
            "reconstruction_inversion.csv", "similarity.csv", "similarity.png",
            "similarity_inversion.csv", "similarity_reference.csv",
        ]  # fmt: skip
        assert all(Path(name).is_file() for name in found)
    view = shlex.split(lines[-1])
    assert view[0] == "view"
    assert view[-1].startswith("logs/demo/version_")
    help_text = subprocess.run([*view[1:-2], "--help"], check=True, capture_output=True).stdout
    assert b"--logdir" in help_text
    assert "ε = 0.25" in printed
    assert "ε = 0.5" in printed


def test_heavy_libraries_are_imported_only_where_they_are_used() -> None:
    program = (
        "import sys, lit_hier.cli.command;"
        "print({'diffusers', 'tensorboard', 'timm', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert done.stdout.strip() == b"set()"


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_retained_for_the_next_batch() -> None:
    program = (
        "import resource, torch, lit_hier.cli.process as process;"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt;"
        "batch = lambda: [torch.ones(2**20) for _ in range(8)];"
        "process._retain_freed_memory(); batch(); batch(); before = faults();"
        "batch(); print((faults() - before) * resource.getpagesize())"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert int(done.stdout) < 8 * 2**22 / 2


@pytest.fixture
def tensorboard(demo: Path) -> Iterator[str]:
    """Start TensorBoard with its default loader on the loopback device; yield its address."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tensorboard.main",
         "--logdir", str(demo / "logs/demo/version_0"), "--host", "127.0.0.1", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "http://" in line)
        yield "http" + line.partition("http")[2].split()[0].rstrip("/")
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


def test_tensorboard_serves_every_point_of_every_curve(demo: Path, tensorboard: str) -> None:
    def get(path: str) -> object:
        with urlopen(f"{tensorboard}/data/{path}") as reply:
            return json.load(reply)

    folder = demo / "logs/demo/version_0"
    wanted = {}
    for name, columns in (
        ("similarity", ("mode", "mean")),
        ("reconstruction", ("marginal", "unchanged", "theory")),
    ):
        table = rows(folder / f"{name}.csv")
        key = "layer" if name == "similarity" else "level"
        order = list(dict.fromkeys(row[key] for row in table))
        for row in table:
            k = order.index(row[key])
            line = row[key] if name == "similarity" else f"level {row[key]}"
            for column in columns:
                run, tag = f"curves/{k:02d} {line}", f"{name}/{column} (epsilon x1000)"
                points = wanted.setdefault((run, tag), [])
                points.append((round(1000 * float(row["time"])), float(row[column])))
    assert len(wanted) == 2 * 7 + 3 * 7
    for _ in range(120):
        tags = get("plugin/scalars/tags")
        assert isinstance(tags, dict)
        if all(tag in tags.get(run, {}) for run, tag in wanted):
            break
        time.sleep(0.5)
    for (run, tag), points in wanted.items():
        served = get("plugin/scalars/scalars?" + urlencode({"run": run, "tag": tag}))
        assert isinstance(served, list)
        assert [step for _, step, _ in served] == [step for step, _ in points]
        assert [value for *_, value in served] == pytest.approx([y for _, y in points], abs=1e-6)
    pictures = get("plugin/images/tags")
    assert isinstance(pictures, dict)
    assert {"similarity", "reconstruction"} <= set(pictures["."])


def assert_one_line(err: str, message: str) -> None:
    """Check that there is one line, besides Lightning's greeting, and that it matches."""
    lines = [line for line in err.splitlines() if line and not line.startswith("Seed set to")]
    assert len(lines) == 1, err
    assert lines[0].startswith("lit-hier: error: ")
    assert re.search(message, lines[0])


def change(old: str, new: str) -> Callable[[str], str]:
    def apply(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return apply


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("num_synonyms: 3", "num_synonyms: 17"), "num_synonyms=17 .* take num_synonyms <="),
        (change("num_predict: 2000", "num_predict: 0"), "num_predict is 0; give at least 1"),
        (
            change("seed: 0}", "seed: 1}"),
            "weights: the network was trained on .* but the data are",
        ),
        (change("num_train: 40000", "num_train: 10"), "num_train=40000, .* num_train=10, "),
        (change("num_layers: 6", "num_layers: 2"), "num_train .* = 46000, but .* has only 432"),
        (change('"layers.*"', '"layers"'), r"layers: 'layers' \(ModuleList\) does not run"),
        (change("num_layers: 6", "num_layers: 30"), "num_layers=30 give s.L leaves"),
        (
            change("num_predict:", "num_predct:"),
            r"data.init_args.num_predct: RHMDataModule has no argument num_predct \(did you mean"
            r" num_predict\?\); it has rhm, ",
        ),
        (change("num_predict: 2000", "num_predict: many"), "num_predict: give int, .* many"),
        (change("callbacks:", "calbacks:"), "trainer.calbacks"),
        (
            change("BPDenoiser", "BPDenoisr"),
            r"model: there is no class BPDenoisr \(did you mean BPDenoiser\?\); a class",
        ),
        (
            change("EpsilonNoise", "Epsilon"),
            r"process: there is no class Epsilon \(did you mean EpsilonNoise\?\);",
        ),
        (change("times: [0.5", "times: [-0.1"), "times: -0.1 is out of range; noise ε: 0 to 1"),
        (change("[0.5, 0.55,", "[0.6, 0.55,"), "times: inversion times must ascend"),
        (change("layers.*", "blocks.*"), "layers: pattern 'blocks.*' matches no layer"),
        (change("classifier.ckpt", "none.ckpt"), "weights: cannot read .*none.ckpt: No such file"),
        (change("seed: 0}", "seed: 0"), "config"),
    ],
)
def test_an_invalid_config_ends_in_one_line(
    demo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    edit: Callable[[str], str],
    message: str,
) -> None:
    config = tmp_path / "config.yaml"
    text = edit(Path(DEMO).read_text())
    config.write_text(text.replace("logs/demo_cl", f"{demo}/logs/demo_cl"))
    with inside(tmp_path), pytest.raises(SystemExit) as end:
        lit_hier("predict", "-c", str(config))
    assert end.value.code == 2
    assert_one_line(capsys.readouterr().err, message)
    left = {path.suffix for path in tmp_path.rglob("*")}
    assert left.isdisjoint({".csv", ".npz", ".png"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict"], "required"),
        (["predict", "-c", "none.yaml"], "config: there is no file none.yaml; give a file, or a"),
        (["predict", "-c", DEMO, "--model.init_args.times=[]"], "times: .* is empty"),
        (
            ["predict", "-c", DEMO, "--trainer.logger=false"],
            "trainer.logger is off, but results",
        ),
        (["test", "-c", CLASSIFIER, "--ckpt_path=none.ckpt"], "ckpt_path: cannot read none.ckpt"),
        (["predict", "-c", DEMO, "--nonsense=1"], "nonsense"),
        (["predict", "-c", DEMO, "--model.init_args.seed=-1"], "seed is -1; give 0 to"),
        (
            ["test", "-c", CLASSIFIER],
            "ckpt_path is None, so there are only random",
        ),
        (["test", "-c", CLASSIFIER, "--ckpt_path=last"], "ckpt_path is 'last', so there are only"),
        (["predict", "-c", CLASSIFIER], "model: predict needs a sampler such as BPDenoiser"),
        (
            ["predict", "-c", FIG5, "--trainer.limit_predict_batches=0.05"],
            "=0.05 leaves a",
        ),
        (["predict", "-c", FIG5, "--trainer.devices=abc"], "trainer.devices is 'abc'; give"),
        (
            ["predict", "-c", FIG5, "--trainer.limit_predict_batches=0"],
            "trainer.limit_predict_batches=0 predicts nothing",
        ),
        (["test", "-c", CLASSIFIER, f"--ckpt_path={DEMO}"], "is not a tensors-only checkpoint"),
        (
            ["fit", "-c", CLASSIFIER, "--trainer.overfit_batches=1"],
            "trainer.overfit_batches: leave",
        ),
        (
            ["fit", "-c", CLASSIFIER, "--trainer.barebones=true"],
            "trainer.barebones is true, which turns off the logger",
        ),
        (
            ["predict", "-c", FIG5, "--trainer.fast_dev_run=2"],
            "trainer.fast_dev_run is 2, .* give trainer.limit_predict_batches=1 instead",
        ),
        (
            ["predict", "-c", FIG5, "--trainer.precision=transformer-engine"],
            "trainer: a package is missing: Requirement 'transformer_engine",
        ),
        (
            ["predict", "-c", FIG5, "--trainer.callbacks+=RichProgressBar"],
            "RichProgressBar: a package is missing: .* requires `rich`",
        ),
        *(
            (
                ["predict", "-c", FIG5, f"--trainer.strategy={name}"],
                f"trainer.strategy: processes that are started by {name[4:]} cannot run a config",
            )
            for name in ("ddp_spawn", "ddp_notebook")
        ),
        (
            ["predict", "-c", FIG5, "--trainer.limit_predict_batches=true"],
            "trainer.limit_predict_batches: give int or float or null, but it is true$",
        ),
        (
            [
                "predict",
                "-c",
                DEMO,
                "--data.init_args.rhm=RulesFromFile",
                "--data.init_args.rhm.init_args.path=none.yaml",
            ],
            "path: cannot read none",
        ),
    ],
)
def test_invalid_arguments_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with inside(tmp_path), pytest.raises(SystemExit) as end:
        lit_hier(*arguments)
    assert end.value.code == 2
    assert_one_line(capsys.readouterr().err, message)


@pytest.mark.parametrize(
    ("command", "config", "message"),
    [
        ("predict", "demo", "weights: there is no .*classifier.ckpt yet; run `lit-hier fit -c"
         " demo_classifier` first"),
        ("predict", "digits", "pretrained: .* `lit-hier fit -c digits_ddpm` first"),
        ("predict", "digits_bands", "samples: .* `lit-hier predict -c digits` first"),
        ("test", "demo_classifier", "ckpt_path: .* `lit-hier fit -c demo_classifier` f"),
    ],
)  # fmt: skip
def test_a_missing_product_names_the_command_that_makes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, config: str, message: str
) -> None:
    file = f"{ROOT}/configs/{config}.yaml"
    product = ["--ckpt_path=logs/demo_classifier/weights/classifier.ckpt"] * (command == "test")
    with inside(tmp_path), pytest.raises(SystemExit):
        lit_hier(command, "-c", file, *product)
    assert_one_line(capsys.readouterr().err, message)


def test_products_of_ones_own_configs_are_found_beside_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that only read the path, are damaged or are not files do not count."""
    needs = Path(DEMO).read_text().replace("logs/demo_classifier", "mine")
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(needs)
    (tmp_path / "aa.yaml").write_text("{")
    (tmp_path / "ab.yaml").mkdir()
    makes = Path(CLASSIFIER).read_text().replace("logs/demo_classifier", "mine")
    (tmp_path / "own.yml").write_text(makes)
    with inside(tmp_path), pytest.raises(SystemExit):
        lit_hier("predict", "-c", "b.yaml")
    assert_one_line(capsys.readouterr().err, "`lit-hier fit -c own.yml` first$")


def test_a_checkpoint_of_another_network_is_rejected_in_one_line(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = "--ckpt_path=logs/demo_classifier/weights/classifier.ckpt"
    with inside(demo), pytest.raises(SystemExit) as end:
        lit_hier("test", "-c", CLASSIFIER, checkpoint, "--model.init_args.width=64")
    assert end.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    start = "lit-hier: error: ckpt_path: the weights belong to another model: "
    assert re.fullmatch(rf"{re.escape(start)}\S+ (is missing|is unexpected|has shape .*)", last)


@pytest.mark.parametrize(
    "argument", ["--data.init_args.num_train=10", "--data.init_args.rhm.init_args.seed=1"]
)
def test_a_network_is_not_tested_on_its_training_data(
    demo: Path, capsys: pytest.CaptureFixture[str], argument: str
) -> None:
    checkpoint = "--ckpt_path=logs/demo_classifier/weights/classifier.ckpt"
    with inside(demo), pytest.raises(SystemExit) as end:
        lit_hier("test", "-c", CLASSIFIER, checkpoint, argument)
    assert end.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"^lit-hier: error: ckpt_path: the network was trained on .*=40000, ", last)


def test_a_run_is_not_overwritten(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with inside(demo), pytest.raises(SystemExit) as end:
        lit_hier("predict", "-c", DEMO, *SMALL, "--trainer.logger.init_args.version=0")
    assert end.value.code == 2
    assert "version_0 already holds a run; leave out" in capsys.readouterr().err.splitlines()[-1]


SMALLER = ("--data.init_args.num_train=512", "--data.init_args.num_test=50")


def test_the_paper_sized_configs_run_and_may_be_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run Fig. 8's two configs on little data; then repeat the run from the config it wrote."""
    with inside(tmp_path), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*close to chance")
        warnings.filterwarnings("ignore", message=".*logging interval")
        lit_hier(
            "fit", "-c", f"{CONFIGS}/fig8_classifier.yaml", *SMALLER, "--trainer.max_epochs=1"
        )
        last = capsys.readouterr().out.splitlines()[-2:]
        assert last == [
            "weights  logs/fig8_classifier/weights/classifier.ckpt",
            "next     lit-hier predict -c fig8",
        ]
        few = ("--data.init_args.num_predict=20", "--model.init_args.times=[0.5, 0.8]")
        lit_hier("predict", "-c", f"{CONFIGS}/fig8.yaml", *SMALLER, *few)
        first = tmp_path / "logs/fig8/version_0"
        lit_hier("predict", "-c", str(first / "config.yaml"))
        again = tmp_path / "logs/fig8/version_1"
    for name in ("similarity.csv", "reconstruction.csv"):
        assert (first / name).read_bytes() == (again / name).read_bytes()


def test_a_single_callback_needs_no_list(tmp_path: Path) -> None:
    text = Path(FIG5).read_text().replace("- class_path: Recon", "class_path: Recon")
    (tmp_path / "config.yaml").write_text(text)
    with inside(tmp_path):
        small = ("--data.init_args.rhm.init_args.num_layers=2", "--data.init_args.num_predict=4")
        lit_hier("predict", "-c", "config.yaml", *small)
    assert (tmp_path / "logs/fig5/version_0/reconstruction.csv").is_file()
