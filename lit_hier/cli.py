"""The command `lit-hier`: LightningCLI over this project's modules, data and callbacks."""

import sys
from operator import attrgetter
from pathlib import Path
from typing import NoReturn

from jsonargparse import lazy_instance
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

# Imported so that configs can name these classes without their modules.
import callbacks
import lit_hier
import lit_hier.data
import lit_hier.modules
import lit_hier.nn
import lit_hier.noise
import lit_hier.rhm  # noqa: F401
from lit_hier.checkpoints import read_checkpoint
from lit_hier.errors import InputError


class OneLineParser(LightningArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and end with status 2."""
        _fail(message)


class LitHierCLI(LightningCLI):
    """LightningCLI with the grammar linked from the data to the model, and safe defaults."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give the model the data's grammar, whole or in numbers, whichever it takes."""
        parser.link_arguments("data.rhm", "model.init_args.rhm", apply_on="instantiate")
        for name in ("num_features", "num_classes", "tuple_size", "num_layers"):
            parser.link_arguments(
                "data.rhm",
                f"model.init_args.{name}",
                compute_fn=attrgetter(name),
                apply_on="instantiate",
            )

    def _parse_ckpt_path(self) -> None:
        """Let a checkpoint bring weights only: what the config says of the model stands."""

    def before_instantiate_classes(self) -> None:
        """Read weights as plain tensors, keep no predictions, show the inversion time."""
        config = self.config[self.subcommand]
        if self.subcommand == "predict":
            config.return_predictions = False
        config.weights_only = True
        if config.ckpt_path is not None and config.ckpt_path.endswith(".ckpt"):
            read_checkpoint(config.ckpt_path, "ckpt_path")
        if config.trainer.logger in (False, None):
            raise InputError(
                "trainer.logger: results need a place; leave it out or name a TensorBoardLogger"
            )
        if config.trainer.enable_progress_bar is not False:
            self.trainer_defaults["callbacks"] = [callbacks.TimeProgressBar()]

    def after_predict(self) -> None:
        """Say where the results lie and how to look at them."""
        if self.trainer.is_global_zero and self.trainer.log_dir is not None:
            folder = Path(self.trainer.log_dir)
            kinds = {".csv": "table", ".npz": "samples", ".png": "picture"}
            lines = [
                f"{kinds[file.suffix]:<8} {file}"
                for file in sorted(folder.iterdir())
                if file.suffix in kinds
            ]
            lines.append(f"{'look':<8} tensorboard --logdir {folder}")
            sys.stdout.write("\n".join(lines) + "\n")


def _fail(message: object) -> NoReturn:
    sys.stderr.write(f"lit-hier: error: {' '.join(str(message).split())}\n")
    sys.exit(2)


def main(args: ArgsType = None) -> None:
    """Run the command line.

    Args:
        args: Arguments instead of `sys.argv`.

    Raises:
        SystemExit: With status 2 and one line on standard error, if the input cannot be used.
    """
    try:
        LitHierCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=OneLineParser,
            parser_kwargs={"version": lit_hier.__version__},
            seed_everything_default=0,
            trainer_defaults={
                "logger": lazy_instance(
                    TensorBoardLogger, save_dir="logs", name="run", default_hp_metric=False
                ),
                # The data modules share out whole batches themselves.
                "use_distributed_sampler": False,
            },
            load_from_checkpoint_support=False,
            args=args,
        )
    except (InputError, MisconfigurationException, OSError) as error:
        _fail(error)
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        _fail(f"ckpt_path: the weights are of another model: {error}")
