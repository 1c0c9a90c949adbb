"""`--check-only`: a run that ends once everything is checked, before anything is computed."""

import sys

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers.logger import DummyLogger

from lit_hier.callbacks.networks import NetworkAnalysis
from lit_hier.modules.image_sampler import ImageSampler


class NoFiles(DummyLogger):
    """A logger with a folder, in which it writes nothing."""

    @property
    def save_dir(self) -> str:
        """Return the current folder."""
        return "."


class CheckOnly(Callback):
    """Ends a run after the checks of all callbacks before it, and prints what they found.

    The model's own folder of samples is not opened, and nothing is written.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print what was checked, on rank zero.

        Raises:
            InputError: The data's size is not that of saved samples.
            SystemExit: Else, with status 0.
        """
        if isinstance(pl_module, ImageSampler):
            pl_module.compare_sizes()  # its `setup` comes after this one
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        analyses = [callback for callback in callbacks if isinstance(callback, NetworkAnalysis)]
        lines = [
            f"{analysis.name}: {type(analysis.network).__name__}: {checked}"
            for analysis in analyses
            for checked in analysis.checked
        ]
        networks = "no network" if not analyses else f"{len(analyses)} networks"
        networks = "1 network" if len(analyses) == 1 else networks
        lines.append(f"checked: the arguments, the data and {networks}; nothing ran")
        if trainer.is_global_zero:
            sys.stdout.write("\n".join(lines) + "\n")
        sys.exit(0)
