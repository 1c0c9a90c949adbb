"""The command `lit-hier`: LightningCLI over this project's modules, data and callbacks."""

import logging
import os
import re
import shlex
import signal
import sys
import traceback
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import torch
from jsonargparse import lazy_instance, set_parsing_settings  # type: ignore[attr-defined]
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from torchvision import datasets

# Imported so that configs can name these classes without their modules.
import callbacks
import lit_hier
import lit_hier.data
import lit_hier.gaussian
import lit_hier.modules
import lit_hier.nn
import lit_hier.noise
import lit_hier.rhm
from lit_hier.checkpoints import read_checkpoint
from lit_hier.errors import InputError
from lit_hier.rhm import Grammars
from lit_hier.runs import RunFolder, WholeCheckpoints

_COMMANDS: Final = {
    "fit": "Train a model, such as an RHMClassifier.",
    "validate": "Measure a trained model on the validation data.",
    "test": "Measure a trained model on the test data.",
    "predict": "Run a forward-backward experiment with a sampler, such as a BPDenoiser.",
}
# What Lightning and torch say of the input as a RuntimeError, and what it means here.
_TRANSLATIONS: Final = {
    "loading state_dict": "ckpt_path: the weights are of another model: {}",
    "Early stopping conditioned": "trainer.callbacks: {}",
}
_PATIENCE: Final = timedelta(days=30)
# What a config may name classes of; a class of any other place would run code on its import.
_EXPOSED: Final = (
    "callbacks",
    "diffusers",
    "lightning_fabric",
    "lit_hier",
    "pytorch_lightning",
    "torch.nn",
    "torch.optim",
    "torchvision.datasets",
    "torchvision.transforms",
)
_TRUST: Final = "LIT_HIER_TRUST"  # the environment's variable with a user's own packages
_SOUGHT: Final = ("best", "last", "hpc")  # what Lightning looks for among a run's own checkpoints
_DESCRIPTION: Final = (
    "Probe what diffusion models and deep networks know about hierarchical data."
    " Each experiment is one file: lit-hier predict -c configs/demo.yaml"
    " --model.init_args.seed 1. Classes go by their short names; lit-hier COMMAND"
    " --model.help CLASS (likewise --data.help, --trainer.callbacks.help) tells what one takes."
)


class OneLineParser(LightningArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and end with status 2."""
        # A class that there is not fails each way of reading it; the name is what helps.
        if unknown := re.search(r"Expected a dot import path string: (\S+)", message):
            key = re.search(r'"([\w.]+)"', message)
            message = (
                f"{key.group(1) if key else 'config'}: there is no class {unknown.group(1)};"
                " check its spelling against --help"
            )
        if denied := re.search(r"Importing '([\w.]+)' is not allowed", message):
            name = denied.group(1)
            message = (
                f"config: {name} is none of the classes that a config may name; if you trust it,"
                f" set {_TRUST}={name.rpartition('.')[0]} in the environment"
            )
        _fail(message)


class LitHierCLI(LightningCLI):
    """LightningCLI with the grammar linked from the data to the model, and safe defaults."""

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        """Say of each command what it is for here."""
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
        assert self.parser._subcommands_action is not None
        for action in self.parser._subcommands_action._choices_actions:
            action.help = _COMMANDS[action.dest]

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give the model what the data are drawn from, whole or in numbers, as it takes it."""
        for whole in ("rhm", "distribution"):
            parser.link_arguments(
                f"data.{whole}", f"model.init_args.{whole}", apply_on="instantiate"
            )
        for name in ("num_classes", "size", "channels"):
            parser.link_arguments(
                f"data.{name}", f"model.init_args.{name}", apply_on="instantiate"
            )
        for name in ("num_features", "tuple_size", "num_layers"):
            parser.link_arguments(
                "data.rhm",
                f"model.init_args.{name}",
                compute_fn=partial(_number, name),
                apply_on="instantiate",
            )
        parser.link_arguments(
            "data.training_set", "model.init_args.trained_on", apply_on="instantiate"
        )

    def _parse_ckpt_path(self) -> None:
        """Let a checkpoint bring weights only: what the config says of the model stands."""

    def before_instantiate_classes(self) -> None:
        """Refuse what is known to fail later; read weights as plain tensors; keep no predictions.

        Raises:
            InputError: Trainer options that would measure nothing, or no usable checkpoint.
        """
        config = self.config[self.subcommand]
        if self.subcommand == "predict":
            config.return_predictions = False
            if config.trainer.limit_predict_batches == 0:
                raise InputError("trainer.limit_predict_batches=0 predicts nothing; leave it out")
        config.weights_only = True
        trained = self.subcommand in ("validate", "test")
        if trained and config.ckpt_path in (None, *_SOUGHT):
            raise InputError(
                f"ckpt_path: there is nothing to {self.subcommand} but random weights;"
                " give the checkpoint that `lit-hier fit` wrote"
            )
        if config.ckpt_path not in (None, *_SOUGHT):
            read_checkpoint(config.ckpt_path, "ckpt_path")
        if not re.fullmatch(r"auto|-?\d+|\[.*\]|\d+(,\d+)*", str(config.trainer.devices)):
            raise InputError(
                f"trainer.devices is {config.trainer.devices!r}; give a number, a list or auto"
            )
        if config.trainer.overfit_batches:
            raise InputError("trainer.overfit_batches: leave it out; lower data.num_train instead")
        if config.trainer.logger in (False, None):
            raise InputError(
                "trainer.logger: results need a place; leave it out or name a TensorBoardLogger"
            )
        given = config.trainer.callbacks or []
        given = given if isinstance(given, list) else [given]  # one alone needs no list
        bars = [c for c in given if str(c.get("class_path", "")).endswith("ProgressBar")]
        if config.trainer.enable_progress_bar is not False and not bars:
            self.trainer_defaults["callbacks"] = [callbacks.TimeProgressBar()]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Let processes wait for each other: in `predict`, one may be done hours early.

        Lightning heeds SIGTERM between the steps of training only; here it ends any other run.
        """
        trainer: Trainer = super().instantiate_trainer(**kwargs)
        trainer.strategy.checkpoint_io = WholeCheckpoints()
        if self.subcommand != "fit":
            if isinstance(trainer.strategy, DDPStrategy):
                trainer.strategy._timeout = _PATIENCE
            register = trainer._signal_connector.register_signal_handlers

            def end_on_sigterm() -> None:
                register()
                signal.signal(signal.SIGTERM, signal.default_int_handler)

            trainer._signal_connector.register_signal_handlers = end_on_sigterm  # type: ignore[method-assign]
        return trainer

    def before_predict(self) -> None:
        """Refuse models that turn nothing round.

        Raises:
            InputError: The model is no sampler.
        """
        if not isinstance(self.model, lit_hier.modules.ForwardBackwardModule):
            raise InputError(
                "model: predict takes a sampler such as BPDenoiser,"
                f" not {type(self.model).__name__}"
            )

    def after_predict(self) -> None:
        """Say where the results lie and how to look at them."""
        log_dir = self.trainer.log_dir  # asked of all processes, as it is broadcast
        if self.trainer.is_global_zero and log_dir is not None:
            folder = Path(log_dir)
            kinds = {".csv": "table", ".npz": "samples", ".png": "picture"}
            lines = [
                f"{kinds[file.suffix]:<8} {file}"
                for file in sorted(folder.iterdir())
                if file.suffix in kinds
            ]
            look = shlex.join([sys.executable, "-m", "tensorboard.main", "--logdir", str(folder)])
            lines.append(f"{'look':<8} {look}")
            sys.stdout.write("\n".join(lines) + "\n")


def _number(name: str, rhm: Grammars) -> int:
    """Give a number that a network is built from: the first grammar's."""
    number: int = getattr(rhm.grammars[0], name)
    return number


def _of_data_set(error: BaseException) -> str:
    """Say what a data set of torchvision says of its files; nothing of other errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if not any(Path(datasets.__path__[0]) in Path(file).parents for file in files):
        return ""
    said = str(error).strip() or "its files are broken"
    return f"data: the data set cannot be loaded: {said}"


def _fail(message: object) -> NoReturn:
    sys.stderr.write(f"lit-hier: error: {' '.join(str(message).split())}\n")
    sys.exit(2)


def _limit_imports() -> None:
    """Let configs name the classes of this project and of its libraries, and those trusted."""
    trusted = [name for name in os.environ.get(_TRUST, "").split(",") if name]
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=[*_EXPOSED, *trusted])


def _fix_arithmetic() -> None:
    """Take numbers as they are: float32 is float32 on a GPU too."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    # `deterministic` would also fill all memory that is not yet written, at a cost.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _quieten() -> None:
    """Leave out what Lightning says that no user of this command can act on."""
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
    warnings.filterwarnings("ignore", message="The number of training batches .* smaller than the")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )


def main(args: ArgsType = None) -> None:
    """Run the command line.

    Args:
        args: Arguments instead of `sys.argv`.

    Raises:
        SystemExit: With status 2 and one line on standard error, if the input cannot be used.
    """
    _quieten()
    _limit_imports()
    _fix_arithmetic()
    try:
        LitHierCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=RunFolder,
            parser_class=OneLineParser,
            parser_kwargs={
                "version": lit_hier.__version__,
                "description": _DESCRIPTION,
                **{name: {"description": text} for name, text in _COMMANDS.items()},
            },
            seed_everything_default=0,
            trainer_defaults={
                "logger": lazy_instance(
                    TensorBoardLogger, save_dir="logs", name="run", default_hp_metric=False
                ),
                # The data modules share out whole batches themselves.
                "use_distributed_sampler": False,
                "deterministic": "warn",
            },
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else error)
    except MisconfigurationException as error:
        _fail(error)
    except (ValueError, RuntimeError) as error:
        # jsonargparse wraps what a class says of its arguments in what it tried to make of them.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__cause__
        if cause is not None:
            _fail(cause)
        if said_of_data := _of_data_set(error):
            _fail(said_of_data)
        for part, said in _TRANSLATIONS.items():
            if part in str(error):
                _fail(said.format(error))
        raise
