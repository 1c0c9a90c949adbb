"""A run's folder is its own, and a run that goes on is the one that was begun."""

import json
from os import PathLike
from pathlib import Path
from typing import Any, Final

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback

from lit_hier.errors import InputError
from lit_hier.io.atomic import atomic_write

_CONFIG: Final = "config.yaml"
_KEPT: Final = "lit_hier_run"  # in a checkpoint: what decides the training
_DECIDING: Final = ("data", "model", "trainer")
_TRAINER: Final = ("accumulate_grad_batches", "gradient_clip_val", "precision")
_FREE: Final = ("eval_batch_size", "num_workers", "save_to")  # decide nothing that is learnt


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, so that one to go on from is always there."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | PathLike[str], storage_options: Any = None
    ) -> None:
        """Replace a checkpoint."""
        with atomic_write(path) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                # So torch ends where a file cannot grow: with what went wrong behind it.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise


class RunFolder(SaveConfigCallback):
    """Takes a folder that no other run has, and writes the run's config there.

    Where the logger has no `version`, runs that begin at the same moment get folders of their own;
    a version that is named must be free. Into checkpoints go the parts of the config that decide
    what is learnt; training goes on from a checkpoint only with the same.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the folder.

        Raises:
            InputError: It has a run, or it cannot be written.
        """
        if self.already_saved:
            return
        refused = self._take(trainer) if trainer.is_global_zero else ""
        if refused := trainer.strategy.broadcast(refused):
            raise InputError(refused)
        self.already_saved = True

    def _take(self, trainer: Trainer) -> str:
        """Write the config; say why it cannot be done, if so."""
        logger: Any = trainer.logger
        given = self.config.trainer.logger
        first = given[0] if isinstance(given, list) else given
        named = dict(getattr(first, "init_args", None) or {}).get("version") is not None
        content = self.parser.dump(self.config, skip_none=False).encode()
        while True:
            place = Path(logger.log_dir or logger.save_dir, _CONFIG)
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch(exist_ok=False)
                with atomic_write(place) as file:
                    file.write(content)
                return ""
            except FileExistsError:
                if named or not place.is_file():
                    return (
                        f"trainer.logger: {place.parent} already holds a run; leave out `version`"
                        " or take another"
                    )
                logger._version = logger._get_next_version()
            except OSError as error:
                return (
                    f"trainer.logger: cannot write {place}: {error.strerror}; take another"
                    " save_dir"
                )

    def _deciding(self) -> dict[str, str]:
        """Flatten what decides the training."""
        whole = json.loads(self.parser.dump(self.config, skip_none=False, format="json"))
        whole["trainer"] = {name: whole["trainer"][name] for name in _TRAINER}
        return dict(_flat({name: whole[name] for name in _DECIDING}))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what decides the training."""
        checkpoint[_KEPT] = self._deciding()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with the same training only.

        Raises:
            InputError: The checkpoint is of another one, or was written within an epoch.
        """
        if trainer.state.fn != "fit":
            return
        mine, theirs = self._deciding(), checkpoint.get(_KEPT, {})
        for name in sorted(mine.keys() | theirs.keys()):
            if theirs and mine.get(name) != theirs.get(name):
                raise InputError(
                    f"ckpt_path: that run has {name}={theirs.get(name)}, this one"
                    f" {mine.get(name)}; give the same to go on, or begin anew without ckpt_path"
                )


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Flatten dictionaries to dotted names."""
    if isinstance(value, dict) and value:
        pairs = ((f"{name}.{key}".lstrip("."), x) for key, x in value.items() if key not in _FREE)
        return [pair for key, x in pairs for pair in _flat(x, key)]
    return [(name, str(value))]
