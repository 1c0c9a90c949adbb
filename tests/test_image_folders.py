"""Runs on folders of images by the command line: unreadable files are named and counted."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import random_pipeline, rows, run_in
from PIL import Image
from processes import fork

CONFIG = """
data:
  class_path: ImageDataModule
  init_args:
    held_out: {{class_path: ImageFiles, init_args: {{root: {root}}}}}
    size: 8
    num_per_class: null
    eval_batch_size: 4
model:
  class_path: DDPMSampler
  init_args: {{pretrained: {pipeline}, num_steps: 4, times: [0, 2, 4], samples: samples}}
trainer:
  logger: {{class_path: TensorBoardLogger, init_args: {{save_dir: logs, name: run}}}}
  enable_progress_bar: false
  callbacks:
    - class_path: ActivationSimilarity
      init_args:
        network: {{class_path: FourierBands, init_args: {{size: 8}}}}
        layers: ["bands.*"]
    - class_path: SampleGrid
"""


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a diffusion model of color images."""
    return random_pipeline(tmp_path_factory.mktemp("colors"), channels=3)


def picture(mode: str, size: tuple[int, int], seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def folder_of_images(root: Path) -> None:
    """Write two classes, twelve files: five normal, four to convert or enlarge, three damaged."""
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
    for k in range(5):
        picture("RGB", (20, 16), k).save(root / f"cat/{k}.png")
    picture("CMYK", (20, 16), 5).save(root / "dog/cmyk.jpg")
    picture("L", (20, 16), 6).save(root / "dog/gray.png")
    picture("RGB", (1, 1), 7).save(root / "dog/tiny.png")
    frames = [picture("RGB", (12, 12), 8 + k).convert("P") for k in range(3)]
    frames[0].save(root / "dog/moving.gif", save_all=True, append_images=frames[1:])
    picture("RGB", (64, 64), 11).save(root / "dog/cut.jpg")
    content = (root / "dog/cut.jpg").read_bytes()
    (root / "dog/cut.jpg").write_bytes(content[: len(content) // 2])
    (root / "dog/empty.jpg").write_bytes(b"")
    (root / "dog/text.png").write_text("these are words")


def predict(folder: Path, config: str) -> None:
    (folder / "run.yaml").write_text(config)
    run_in(folder, "predict", "-c", "run.yaml")


def test_unreadable_files_are_logged_counted_and_skipped(
    colors: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder_of_images(tmp_path / "images")
    predict(tmp_path, CONFIG.format(root="images", pipeline=colors))
    for name in ("cut.jpg", "empty.jpg", "text.png"):
        lines = [line for line in caplog.messages if name in line]
        assert len(lines) == 2  # once in the reference set, once in prediction
        assert all(line.startswith("data: skipped ") and "\n" not in line for line in lines)
    run = tmp_path / "logs/run/version_0"
    counts = {"skipped": "3", "converted": "3", "enlarged": "1", "constant": "1", "rotated": "0"}
    for row in rows(run / "similarity.csv"):
        assert row["count"] == "9"
        assert {name: row[name] for name in counts} == counts
    (row,) = rows(run / "similarity_reference.csv")
    assert {name: row[name] for name in counts} == counts
    assert row["count"] == "9"
    assert len(list((tmp_path / "samples/start").iterdir())) == 9
    assert np.load(run / "similarity.npz")["index"].tolist() == [0, 1, 2, 3, 4, 5, 8, 9, 11]
    # A second run reads the stored samples, and its table is equal.
    predict(tmp_path, CONFIG.format(root="images", pipeline=colors))
    again = tmp_path / "logs/run/version_1"
    assert (again / "similarity.csv").read_bytes() == (run / "similarity.csv").read_bytes()


@pytest.mark.slow
def test_a_run_with_unreadable_files_resumes_and_detects_repaired_ones(
    colors: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder_of_images(tmp_path / "images")
    config = CONFIG.format(root="images", pipeline=colors)
    with_bar = config.replace("  enable_progress_bar: false\n", "")
    predict(tmp_path, with_bar)
    predict(tmp_path, with_bar)
    runs = [tmp_path / f"logs/run/version_{k}/similarity.csv" for k in range(3)]
    assert runs[0].read_bytes() == runs[1].read_bytes()
    picture("RGB", (20, 16), 12).save(tmp_path / "images/dog/empty.jpg")
    predict(tmp_path, with_bar)
    assert "has no sample 7; let the run that fills it finish first; recomputing" in caplog.text
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    predict(fresh, config.replace("images}", f"{tmp_path}/images}}"))
    again = fresh / "logs/run/version_0/similarity.csv"
    assert runs[2].read_bytes() == again.read_bytes()
    assert {row["skipped"] for row in rows(again)} == {"2"}
    # The store has the file name of each sample.
    record = json.loads((fresh / "samples/batches/00000004.json").read_text())
    assert dict(zip(record["index"], record["name"], strict=True))[7] == "dog/empty.jpg"


def test_batches_without_readable_images_are_skipped(colors: str, tmp_path: Path) -> None:
    folder_of_images(tmp_path / "images")
    config = CONFIG.format(root="images", pipeline=colors)
    predict(tmp_path, config.replace("eval_batch_size: 4", "eval_batch_size: 1"))
    table = rows(tmp_path / "logs/run/version_0/similarity.csv")
    assert {(row["count"], row["skipped"]) for row in table} == {("9", "3")}


def broken(folder: Path, kind: str) -> str:
    """Write an input that stops a run, and return the root for its config."""
    root = folder / "images"
    folder_of_images(root)
    if kind == "no readable image":
        for path in root.rglob("*.*"):
            path.write_bytes(b"")
    elif kind == "dark images":
        dark = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16))
        dark.save(root / "cat/0.png")
    elif kind == "missing class":
        (root / "emu").mkdir()
    elif kind == "labels of a folder that has names":
        (folder / "labels.csv").write_text("nowhere.png,cat\n")
        return f"images, labels: {folder / 'labels.csv'}"
    elif kind == "no folder":
        return "nowhere"
    return "images"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no readable image", "data: none of the samples can be read"),
        ("missing class", "root: class emu of "),
        (
            "dark images",
            "max_level: 1 images of images, such as 0.png, have more than 8 bits and ",
        ),
        ("labels of a folder that has names", "labels: line 1 of "),
        ("no folder", "root: there is no folder nowhere"),
        ("too many channels", "data: images have 3 channels, but the model takes 1"),
        ("wrong checkpoint", "pretrained: "),
        ("torchvision", "data: cannot load the data set: Dataset not found"),
        ("too few", "num_per_class is 9, but class "),
    ],
)
def test_an_invalid_input_ends_the_run_with_one_line(
    colors: str,
    pipeline: str,
    tmp_path: Path,
    kind: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = {"too many channels": pipeline, "wrong checkpoint": f"{tmp_path}/model.pt"}
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04 no model")
    config = CONFIG.format(root=broken(tmp_path, kind), pipeline=model.get(kind, colors))
    if kind == "torchvision":
        mnist = "{class_path: torchvision.datasets.MNIST, init_args: {root: none, train: false}}"
        config = config.replace("{class_path: ImageFiles, init_args: {root: images}}", mnist)
    if kind == "too few":
        config = config.replace("num_per_class: null", "num_per_class: 9")
    with pytest.raises(SystemExit) as stopped:
        predict(tmp_path, config)
    assert stopped.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1
    assert errors[0].startswith(f"lit-hier: error: {message}")


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_counts_of_skipped_files_are_summed_over_two_processes(
    colors: str, tmp_path: Path
) -> None:
    """All files of one process are unreadable."""
    folder_of_images(tmp_path / "images")
    for path in sorted((tmp_path / "images").rglob("*.*"))[2:]:
        path.write_bytes(b"")
    config = CONFIG.format(root="images", pipeline=colors)
    predict(tmp_path, config.replace("samples: samples", "seed: 0"))
    # Batches follow the plan for either value of the trainer's option for samplers.
    fork(tmp_path, ["predict", "-c", "run.yaml", "--trainer.use_distributed_sampler=true"], 2)
    for name in ("similarity.csv", "similarity_reference.csv", "samples.png"):
        one, two = (tmp_path / f"logs/run/version_{k}/{name}" for k in (0, 1))
        assert one.read_bytes() == two.read_bytes()
    table = rows(tmp_path / "logs/run/version_1/similarity.csv")
    assert {(row["count"], row["skipped"]) for row in table} == {("2", "10")}
