"""Forward-backward on images: samples saved, runs interrupted and resumed, samples reread."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, RecordCollector, rows
from image_runs import analyses, predict, same_tables, sampler
from PIL import Image
from pytorch_lightning import Callback

from lit_hier.callbacks import SampleGrid, TimeProgressBar, progress
from lit_hier.diffusion import store
from lit_hier.diffusion.store import SampleStore
from lit_hier.errors import InputError
from lit_hier.io.pixels import to_levels
from lit_hier.modules import StoredSamples

pytestmark = pytest.mark.filterwarnings("ignore:.*close to chance")  # networks are untrained


@pytest.fixture(scope="module")
def uninterrupted(pipeline: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The tables and the samples of a run without interruption."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    tables = predict(folder, sampler(pipeline, folder / "samples"), analyses())
    return tables, folder / "samples"


def image_files(samples: Path) -> dict[str, bytes]:
    return {str(p.relative_to(samples)): p.read_bytes() for p in samples.rglob("*.png")}


def test_saving_samples_does_not_change_results(
    pipeline: str, uninterrupted: tuple[Path, Path], tmp_path: Path
) -> None:
    same_tables(predict(tmp_path, sampler(pipeline, None), analyses()), uninterrupted[0])


def test_saved_samples_equal_the_computed_ones(
    pipeline: str, uninterrupted: tuple[Path, Path], tmp_path: Path
) -> None:
    keep = RecordCollector()
    predict(tmp_path, sampler(pipeline, None), [keep])
    files = image_files(uninterrupted[1])
    assert len(files) == 23 * 5
    for record in keep.records:
        for column, sample in enumerate(record.index.tolist()):
            expected = [record.x_start[column], *record.x_reversed[:, column]]
            for subfolder, x in zip(("start", "k_0000", "k_0002", "k_0006", "k_0010"), expected,
                                strict=True):  # fmt: skip
                image = Image.open(uninterrupted[1] / subfolder / f"{sample:08d}.png")
                assert np.array_equal(np.asarray(image), to_levels(x)[0].numpy())


@pytest.mark.parametrize("num_before", [0, 49, 60, 114])
def test_a_failed_run_is_resumed(
    pipeline: str,
    uninterrupted: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_before: int,
) -> None:
    write, written = store.write_png, []

    def failing(path: Path, levels: Any) -> str:
        if len(written) >= num_before:
            path.write_bytes(b"half a file")
            raise RuntimeError("killed")
        written.append(path)
        return write(path, levels)

    monkeypatch.setattr(store, "write_png", failing)
    with pytest.raises(RuntimeError, match="killed"):
        predict(tmp_path, sampler(pipeline, tmp_path / "samples"), analyses())
    monkeypatch.setattr(store, "write_png", write)
    finished = {int(path.stem) for path in (tmp_path / "samples/batches").glob("*.json")}
    resumed = sampler(pipeline, tmp_path / "samples")
    denoised: list[int] = []
    resumed.advance = denoised.append
    tables = predict(tmp_path, resumed, analyses())
    same_tables(tables, uninterrupted[0])
    assert image_files(tmp_path / "samples") == image_files(uninterrupted[1])
    left = 23 - sum(3 if first == 20 else 10 for first in finished)
    assert sum(denoised) == left * (0 + 3 + 7 + 10)


def test_a_killed_process_is_resumed(
    pipeline: str, uninterrupted: tuple[Path, Path], tmp_path: Path
) -> None:
    """SIGKILL, from the command line, in the middle of the second batch."""
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1]);"
        "import image_runs as t; from lit_hier.diffusion import store; from pathlib import Path;"
        "write = store.write_png;"
        "store.write_png = lambda *a: (time.sleep(0.02), write(*a))[1];"
        "folder = Path(sys.argv[2]);"
        "t.predict(folder, t.sampler(sys.argv[3], folder / 'samples'), t.analyses())"
    )
    arguments = [str(ROOT / "tests"), str(tmp_path), pipeline]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    second = tmp_path / "samples/start/00000013.png"
    for _ in range(3000):
        if second.exists() or process.poll() is not None:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = [path.name for path in (tmp_path / "samples/batches").glob("*.json")]
    assert finished == ["00000000.json"]
    tables = predict(tmp_path, sampler(pipeline, tmp_path / "samples"), analyses())
    same_tables(tables, uninterrupted[0])


@pytest.mark.slow
def test_two_runs_cannot_write_to_one_folder(pipeline: str, tmp_path: Path) -> None:
    """A process locks the folder; when it is killed, the folder is unlocked."""
    script = (
        "import sys, time; from lit_hier.diffusion.store import SampleStore;"
        "lock = SampleStore.lock(sys.argv[1]); print('locked', flush=True); time.sleep(600)"
    )
    samples = tmp_path / "samples"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(samples)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"locked\n"
        message = r"^samples: another run is filling .*; wait for it, or give another folder$"
        with pytest.raises(InputError, match=message):
            predict(tmp_path, sampler(pipeline, samples), analyses())
        process.kill()
        process.wait()
    for _ in range(2):
        predict(tmp_path, sampler(pipeline, samples), analyses())


class Losing(Callback):
    """Takes the lock of a folder of samples away before the second batch."""

    def __init__(self, samples: Path, again: bool) -> None:
        self.samples, self.again = samples, again

    def on_predict_batch_start(self, *args: Any) -> None:
        if len(list(self.samples.glob("batches/*.json"))) == 1:
            self.samples.rename(self.samples.with_name("moved"))
            if self.again:
                SampleStore.lock(self.samples).release()


@pytest.mark.parametrize(
    "again", [pytest.param(False, id="removed", marks=pytest.mark.slow), True], ids=str
)
def test_a_run_that_has_lost_its_lock_writes_no_more(
    again: bool, pipeline: str, tmp_path: Path
) -> None:
    samples = tmp_path / "samples"
    losing = [Losing(samples, again), SampleGrid(3)]
    with pytest.raises(
        InputError, match=r"^samples: .*\.lock was removed or replaced, so another"
    ):
        predict(tmp_path, sampler(pipeline, samples), losing)
    assert not [path for path in samples.rglob("*") if path.is_file() and path.name != ".lock"]
    assert not list((tmp_path / "logs").rglob("*.[cp][sn][vg]"))


def test_a_truncated_image_file_is_recomputed(
    pipeline: str,
    uninterrupted: tuple[Path, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    samples = tmp_path / "samples"
    predict(tmp_path, sampler(pipeline, samples), analyses())
    path = samples / "k_0006/00000014.png"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"^samples: .*k_0006/00000014.png is damaged; a DDPMSa"):
        predict(tmp_path, StoredSamples(str(samples)), analyses())
    tables = predict(tmp_path, sampler(pipeline, samples), analyses())
    assert "00000014.png is damaged" in caplog.text
    assert path.read_bytes() == content
    same_tables(tables, uninterrupted[0])


def test_another_network_gets_the_same_results_from_saved_samples(
    pipeline: str, uninterrupted: tuple[Path, Path], tmp_path: Path
) -> None:
    online = predict(tmp_path, sampler(pipeline, None), analyses(seed=5))
    reread = predict(tmp_path, StoredSamples(str(uninterrupted[1])), analyses(seed=5))
    same_tables(online, reread)
    assert (online / "samples.png").read_bytes() == (reread / "samples.png").read_bytes()
    first = np.load(uninterrupted[0] / "similarity.npz")["similarity"]
    assert not np.array_equal(first, np.load(online / "similarity.npz")["similarity"])
    some = predict(
        tmp_path,
        StoredSamples(str(uninterrupted[1]), [2, 10]),
        analyses(seed=5),
        eval_batch_size=7,
    )
    part = np.load(some / "similarity.npz")["similarity"]
    whole = np.load(online / "similarity.npz")["similarity"][[1, 3]]
    np.testing.assert_allclose(part, whole, atol=1e-5)


def test_samples_of_another_run_are_rejected(
    pipeline: str, uninterrupted: tuple[Path, Path], tmp_path: Path
) -> None:
    samples = uninterrupted[1]
    for other, difference in (
        (sampler(pipeline, samples, seed=1), "seed=0, not 1"),
        (sampler(pipeline, samples, convention="released"), "convention=aligned, not released"),
        (sampler(pipeline, samples, times=[2.0, 6.0]), "steps="),
        (sampler(pipeline, samples, batch_size=9), "batch_size=8, not 9"),
    ):
        with pytest.raises(InputError, match=rf"^samples: .* of another run, with {difference}"):
            predict(tmp_path, other, analyses())
    with pytest.raises(InputError, match="precision=32-true, not bf16-mixed"):
        predict(tmp_path, sampler(pipeline, samples), analyses(), precision="bf16-mixed")
    with pytest.raises(InputError, match=r"^samples: .* where this run has 11; give the data"):
        predict(tmp_path, sampler(pipeline, samples), analyses(), eval_batch_size=11)
    for model in (sampler(pipeline, samples), StoredSamples(str(samples))):
        with pytest.raises(InputError, match=r"^samples: .* holds samples of other images"):
            predict(tmp_path, model, analyses(), seed=1)
    with pytest.raises(
        InputError, match=r"^times is \[3\], but .* has steps 0, 2, 6, 10; give some"
    ):
        StoredSamples(str(samples), [3])


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "16-true"])
def test_in_lower_precision_images_and_scheduler_stay_in_float32(
    pipeline: str, tmp_path: Path, precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, lower = RecordCollector(), RecordCollector()
    predict(tmp_path, sampler(pipeline, None), [exact])
    model = sampler(pipeline, None)
    dtypes = []
    forward = model.model.forward

    def recorded(x: Any, *args: Any) -> Any:
        dtypes.append(x.dtype)
        return forward(x, *args)

    monkeypatch.setattr(model.model, "forward", recorded)
    predict(tmp_path, model, [lower], precision=precision)
    half = torch.float16 if precision.startswith("16") else torch.bfloat16
    assert set(dtypes) == {torch.float32 if "mixed" in precision else half}
    for one, other in zip(exact.records, lower.records, strict=True):
        assert other.x_start.dtype == other.x_reversed.dtype == torch.float32
        assert torch.equal(one.x_start, other.x_start)
        assert torch.equal(one.x_reversed[0], other.x_reversed[0])
        assert not torch.equal(one.x_reversed, other.x_reversed)
        # The noise is the same; only the network's rounding differs.
        assert (one.x_reversed - other.x_reversed).abs().mean() < 0.02


def test_channels_last_changes_rounding_only(pipeline: str, tmp_path: Path) -> None:
    keeps = [RecordCollector(), RecordCollector()]
    for keep, last in zip(keeps, (False, True), strict=True):
        predict(tmp_path, sampler(pipeline, None, channels_last=last), [keep])
    for one, other in zip(*(keep.records for keep in keeps), strict=True):
        assert (one.x_reversed - other.x_reversed).abs().max() < 2.1 / 255
        assert (one.x_reversed == other.x_reversed).float().mean() > 0.99


@pytest.mark.slow
def test_at_full_noise_the_similarity_is_that_of_unrelated_images(
    pipeline: str, tmp_path: Path
) -> None:
    predict(
        tmp_path, sampler(pipeline, tmp_path / "samples", times=[0, 10]), analyses(),
        num_predict=300,
    )  # fmt: skip
    table = rows(tmp_path / "logs/run/version_0/similarity.csv")
    at_end = {row["layer"]: row for row in table if float(row["time"]) == 10}
    shifted = tmp_path / "shifted"
    predict(shifted, Unrelated(tmp_path / "samples"), analyses(), num_predict=300)
    for row in rows(shifted / "logs/run/version_0/similarity.csv"):
        if float(row["time"]) == 10:
            end = at_end[row["layer"]]
            error = np.hypot(float(row["sem"]), float(end["sem"]))
            assert abs(float(row["mean"]) - float(end["mean"])) < 4 * error
    assert all(row["mean"] == "1.0" or float(row["mean"]) > 0.999999
               for row in table if float(row["time"]) == 0)  # fmt: skip


class Unrelated(StoredSamples):
    """Returns for each image the sample of its neighbor."""

    def __init__(self, samples: Path) -> None:
        super().__init__(str(samples))

    def sample(self, images: Any) -> Any:
        return super().sample(images).roll(1, dims=1)


def test_the_second_bar_counts_the_remaining_evaluations(
    pipeline: str,
    uninterrupted: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Elsewhere than on a terminal there are lines instead; here the clock says when."""
    predict(tmp_path, sampler(pipeline, None), [TimeProgressBar()])
    written = capsys.readouterr()
    assert "\r" not in written.out + written.err
    monkeypatch.setattr(progress, "_PERIOD", 0.0)
    predict(tmp_path, sampler(pipeline, None), [TimeProgressBar()])
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("Predicting, batch ")]
    counts = [int(line.split()[5]) for line in lines]
    assert counts == sorted(counts)
    assert counts[-1] == 23 * 20
    assert len(set(counts)) > 3 * int(lines[0].split()[4].rstrip(":"))  # within batches, too
    assert all(re.search(r" of 460 evaluations, .* per second, \d\d:\d\d left$", x) for x in lines)
    monkeypatch.setattr(progress, "_draws_bars", lambda: True)
    predict(tmp_path, sampler(pipeline, None), [TimeProgressBar()])
    written = capsys.readouterr()
    assert f"Denoiser evaluations: 100%|██████████| {23 * 20}/{23 * 20}" in written.out
    assert re.search(r"Predicting: +\d+%\|[^|]*\| 0\.[1-9]/", written.out)
    predict(tmp_path, sampler(pipeline, uninterrupted[1]), [TimeProgressBar()])
    assert "Denoiser evaluations" not in capsys.readouterr().out


def test_the_grid_shows_starts_and_samples(pipeline: str, tmp_path: Path) -> None:
    keep = RecordCollector()
    folder = predict(tmp_path, sampler(pipeline, None), [SampleGrid(2, 3), keep])
    shown = np.asarray(Image.open(folder / "samples.png").convert("L")).astype(float)
    assert shown.std() > 50
    events = "".join(path.read_bytes().decode("latin-1") for path in folder.glob("events*"))
    assert "samples" in events
    # Four columns and two rows, of samples 0 and 12, the first of each half of 23; compare the
    # share of dark pixels cell by cell.
    rows_, columns = 2, 4
    height, width = shown.shape
    for row in range(rows_):
        for column in range(columns):
            record, position = (keep.records[0], 0) if row == 0 else (keep.records[1], 2)
            x = ([record.x_start, *record.x_reversed[1:]])[column][position, 0].numpy()
            cell = shown[
                int((row + 0.08) / rows_ * height) : int((row + 1) / rows_ * height),
                int(column / columns * width) : int((column + 1) / columns * width),
            ]
            dark = (cell < 100).mean()
            assert abs(dark - (x < -0.2).mean()) < 0.25
    with pytest.raises(InputError, match=r"^num_images is 0; give at least 1"):
        SampleGrid(0)
