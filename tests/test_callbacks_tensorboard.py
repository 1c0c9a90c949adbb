"""What loggers get of a run: curves, figures, the summary and the hyperparameters."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from grammar_runs import RHM, TIMES
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lit_hier.callbacks import Reconstruction
from lit_hier.callbacks.tensorboard import RESULTS, log_summary
from lit_hier.data import RHMDataModule
from lit_hier.modules import BPDenoiser
from lit_hier.processes import EpsilonNoise


class ShowsImages(CSVLogger):
    """Stands for loggers such as WandbLogger."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="images")
        self.images: dict[str, int] = {}

    def log_image(self, key: str, images: list[Any], **options: Any) -> None:
        self.images[key] = len(images)


def test_all_loggers_get_what_they_can_show(tmp_path: Path) -> None:
    board = TensorBoardLogger(str(tmp_path), "board", default_hp_metric=False)
    images = ShowsImages(tmp_path)
    trainer = Trainer(
        accelerator="cpu",
        logger=[board, images],
        callbacks=[Reconstruction()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = RHMDataModule(RHM, 10, 5, 5, 20, eval_batch_size=20)
    model = BPDenoiser(RHM, EpsilonNoise(), TIMES)
    trainer.predict(model, data, return_predictions=False)

    with Path(images.log_dir, "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    name = "reconstruction/marginal (epsilon x1000)/level 0"
    steps = [int(row["step"]) for row in rows if row[name]]
    assert steps == [round(1000 * time) for time in TIMES]
    assert {row["result/place"] for row in rows} - {""}
    assert yaml.safe_load(Path(images.log_dir, "hparams.yaml").read_text())["L"] == 3
    assert images.images == {"reconstruction": 1}

    events = EventAccumulator(board.log_dir).Reload()
    metadata = events.summary_metadata
    text = events.Tensors("summary/text_summary")[0].tensor_proto.string_val[0].decode()
    numbers = trainer.callbacks[0].numbers
    assert list(numbers) == list(RESULTS[:4])
    for number, (value, _) in numbers.items():
        assert f"| {number} | {value:.5g} |" in text
        if math.isfinite(value):
            assert events.Scalars(f"result/{number}")[0].value == pytest.approx(value)
    content = metadata["_hparams_/experiment"].plugin_data.content
    experiment = HParamsPluginData.FromString(content).experiment
    assert [info.name.tag for info in experiment.metric_infos] == [f"result/{x}" for x in RESULTS]
    content = metadata["_hparams_/session_start_info"].plugin_data.content
    hparams = HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["model"].string_value == "BPDenoiser"
    assert hparams["v"].number_value == RHM.num_features
    # Sub-runs are sorted from the leaves to the class.
    folders = sorted(path.name for path in Path(board.log_dir, "curves").iterdir())
    assert folders == [f"0{k} level {k}" for k in range(4)]


def test_the_summary_of_a_config_cannot_break_out_of_its_block(tmp_path: Path) -> None:
    board = TensorBoardLogger(str(tmp_path), "board", default_hp_metric=False)
    log_summary([board], {"v": 2}, {"place": (math.nan, math.nan)}, "a: |\n  ```\n  <b>\nb: 1\n")
    events = EventAccumulator(board.log_dir).Reload()
    text = events.Tensors("summary/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| place | nan | unknown |" in text
    assert text.endswith("\n\n    a: |\n      ```\n      <b>\n    b: 1\n")
    assert "result/place" not in events.Tags()["scalars"]
