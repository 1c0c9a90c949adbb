"""Each run has its own folder, and training resumes only with the config that started it."""

import copy
import json
import re
from pathlib import Path
from typing import Any, Final

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import Logger
from torch import Tensor

from lit_hier.cli.checkpoint_io import check_optimizers, get_folders
from lit_hier.cli.errors import RENAMED
from lit_hier.errors import InputError, one_line
from lit_hier.io.atomic import atomic_write, check_writable
from lit_hier.io.checkpoints import write_record
from lit_hier.io.formats import CONFIG_FILE, write_run

_TRAINING_KEY: Final = "lit_hier_run"  # in a checkpoint: what determines the training
_NUM_TENSORS: Final = "lit_hier_tensors"  # in a checkpoint: how many its optimizers' states have
_DETERMINING: Final = ("data", "model", "trainer")
_DETERMINING_TRAINER: Final = ("accumulate_grad_batches", "gradient_clip_val", "precision")
_WITHOUT_EFFECT: Final = ("eval_batch_size", "num_workers", "save_to")  # on what is learned


class RunFolder(SaveConfigCallback):
    """Claims a folder that no other run uses, and writes the run's config there.

    Runs that start at the same moment get different folders; a version that the config sets for
    the logger must not exist yet. Training resumes from a checkpoint only with the config that
    started it.

    Writes `config.yaml`, and `run.json` with the `format` of the folder, an integer, and the
    version of `lit_hier`, to which `Provenance` adds. Each checkpoint gets the record of its
    format, and `lit_hier_run`: the part of the config that determines what is learned.

    Attributes:
        unnumbered: A copy of the logger, made before it chooses a version.
    """

    unnumbered: Logger | None = None
    _resumed: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Claim the folder.

        Raises:
            InputError: It holds another run, or it or another folder of the trainer cannot be
                written.
        """
        if self.already_saved:
            return
        problem = ""
        if trainer.is_global_zero:
            problem = _find_unwritable(trainer) or self._claim(trainer)
        if problem := trainer.strategy.broadcast(problem):
            raise InputError(problem)
        self.already_saved = True

    def _claim(self, trainer: Trainer) -> str:
        """Write the config; return an error message, empty on success."""
        logger: Any = trainer.logger
        try:
            config = self.parser.dump(self.config, skip_none=False).encode()
        except (TypeError, ValueError) as error:  # a class's default is not of its type
            return f"config: cannot be saved: {one_line(error)[-200:]}; give this argument a value"
        while True:
            folder = Path(logger.log_dir or logger.save_dir)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                Path(folder, CONFIG_FILE).touch(exist_ok=False)
                with atomic_write(folder / CONFIG_FILE) as file:
                    file.write(config)
                write_run(folder)
                return ""
            except FileExistsError:
                next_logger: Any = copy.copy(self.unnumbered)
                if next_logger is None or next_logger.log_dir in (None, logger.log_dir):
                    return (
                        f"trainer.logger: {folder} already holds a run; leave out `version`"
                        " or choose another"
                    )
                trainer.loggers = [next_logger, *trainer.loggers[1:]]
                logger = next_logger
            except OSError as error:
                return (
                    f"trainer.logger: cannot write {folder / CONFIG_FILE}: {error.strerror};"
                    " choose another save_dir"
                )

    def _get_training_config(self) -> dict[str, str]:
        """Flatten the part of the config that determines what is learned."""
        config = json.loads(self.parser.dump(self.config, skip_none=False, format="json"))
        config["trainer"] = {name: config["trainer"][name] for name in _DETERMINING_TRAINER}
        return dict(_flatten({name: config[name] for name in _DETERMINING}))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the format and what determines the training."""
        write_record(checkpoint)  # tasks add the network to it
        checkpoint[_TRAINING_KEY] = self._get_training_config()
        checkpoint[_NUM_TENSORS] = _count_tensors(checkpoint.get("optimizer_states"))

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Reject checkpoints of another training.

        Raises:
            InputError: The checkpoint is of a training with another config.
        """
        if trainer.state.fn != "fit":
            return
        theirs = checkpoint.get(_TRAINING_KEY, {})
        if not isinstance(theirs, dict) or not all(
            isinstance(text, str) for pair in theirs.items() for text in pair
        ):
            raise InputError("ckpt_path: the checkpoint has a damaged config; give another one")
        mine, theirs = map(_rename, (self._get_training_config(), theirs))
        for name in sorted(mine.keys() | theirs.keys()):
            if theirs and mine.get(name) != theirs.get(name):
                raise InputError(
                    f"ckpt_path: that run has {name:.80}={theirs.get(name)!s:.60}, this one"
                    f" {mine.get(name)!s:.60}; use the same value to resume, or leave out"
                    " ckpt_path to restart"
                )
        found = _count_tensors(checkpoint["optimizer_states"])
        if checkpoint.get(_NUM_TENSORS, found) != found:
            raise InputError(
                "ckpt_path: the checkpoint lacks a part of the optimizer's state; give another one"
            )
        self._resumed = checkpoint

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reject states of optimizers that do not fit, before they are restored.

        Raises:
            InputError: See `check_optimizers`.
        """
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            progress = resumed["loops"]["fit_loop"][
                "epoch_loop.automatic_optimization.optim_progress"
            ]
            num_steps = progress["optimizer"]["step"]["total"]["completed"]
            check_optimizers(trainer, resumed, num_steps)


def _find_unwritable(trainer: Trainer) -> str:
    """Return an error message about a folder that cannot be written; empty if there is none."""
    for argument, folder in get_folders(trainer):
        # Nothing is written to the working directory unless something names it.
        if Path(folder).absolute() == Path.cwd():
            continue
        try:
            check_writable(folder)
        except OSError as error:
            return f"{argument}: cannot write to {folder}: {error.strerror}; choose another folder"
    return ""


def _count_tensors(value: Any) -> int:
    """Count the tensors in nested containers."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return sum(map(_count_tensors, value))
    return int(isinstance(value, Tensor))


def _rename(config: dict[str, str]) -> dict[str, str]:
    """Replace this project's former class paths with the current ones."""
    return {
        name: re.sub(r"^lit_hier\.(\w+\.)*", "lit_hier.", RENAMED.get(value, value))
        for name, value in config.items()
    }


def _flatten(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Flatten nested dictionaries to dotted names."""
    if isinstance(value, dict) and value:
        items = (
            (f"{name}.{key}".lstrip("."), item)
            for key, item in value.items()
            if key not in _WITHOUT_EFFECT
        )
        return [pair for key, item in items for pair in _flatten(item, key)]
    return [(name, str(value))]
