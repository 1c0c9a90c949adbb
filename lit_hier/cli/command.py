"""The command `lit-hier`: LightningCLI over this project's modules, data and callbacks."""

import ctypes
import logging
import re
import shlex
import signal
import sys
import threading
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from jsonargparse import lazy_instance  # type: ignore[attr-defined]
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy

import lit_hier

# Imported so that configs can name these classes without their modules.
import lit_hier.callbacks
import lit_hier.data
import lit_hier.gaussian
import lit_hier.modules
import lit_hier.nn
import lit_hier.processes
import lit_hier.rhm
from lit_hier.cli.errors import explain, fail
from lit_hier.cli.parser import OneLineParser, limit_configs
from lit_hier.cli.run_folder import AtomicCheckpointIO, RunFolder
from lit_hier.errors import InputError
from lit_hier.io.checkpoints import read_checkpoint
from lit_hier.rhm import Grammars

_COMMANDS: Final = {
    "fit": "Train a model, such as an RHMClassifier.",
    "validate": "Measure a trained model on the validation data.",
    "test": "Measure a trained model on the test data.",
    "predict": "Run a forward-backward experiment with a sampler, such as a BPDenoiser.",
}
_PATIENCE: Final = timedelta(days=30)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # as in glibc's malloc.h
_UNRAISABLE: Final = sys.unraisablehook
_SOUGHT: Final = ("best", "last", "hpc")  # what Lightning looks for among a run's own checkpoints
_DESCRIPTION: Final = (
    "Probe what diffusion models and deep networks know about hierarchical data."
    " Each experiment is one file: lit-hier predict -c configs/demo.yaml"
    " --model.init_args.seed 1. Classes go by their short names; lit-hier COMMAND"
    " --model.help CLASS (likewise --data.help, --trainer.callbacks.help) tells what one takes."
)


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
            self.trainer_defaults["callbacks"] = [lit_hier.callbacks.TimeProgressBar()]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Let processes wait for each other: in `predict`, one may be done hours early.

        Lightning heeds SIGTERM between the steps of training only; here it ends any other run.
        """
        trainer: Trainer = super().instantiate_trainer(**kwargs)
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
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


def _fix_arithmetic() -> None:
    """Take numbers as they are: float32 is float32 on a GPU too."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    # `deterministic` would also fill all memory that is not yet written, at a cost.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _keep_memory() -> None:
    """Have the allocator keep what is freed, as the next batch will want it.

    glibc would hand large tensors' memory back to the system each time, and take it anew page by
    page.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**25)  # the most that glibc takes
        mallopt(_M_TRIM_THRESHOLD, 2**28)


def _show(told: threading.ExceptHookArgs) -> None:
    """Show errors of threads, but those that TensorBoard's hands on to the main one."""
    if not issubclass(told.exc_type, OSError):
        threading.__excepthook__(told)


def _heed(told: "sys.UnraisableHookArgs") -> None:
    """Interrupt again, a moment later, if an interruption fell into a finalizer and was lost."""
    if issubclass(told.exc_type, KeyboardInterrupt):
        main_thread = threading.main_thread().ident
        threading.Timer(0.05, signal.pthread_kill, (main_thread, signal.SIGINT)).start()
    else:
        _UNRAISABLE(told)


def _quieten() -> None:
    """Leave out what Lightning says that no user of this command can act on."""
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
    warnings.filterwarnings("ignore", message="The number of training batches .* smaller than the")
    warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
    threading.excepthook = _show
    sys.unraisablehook = _heed
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
    limit_configs()
    _fix_arithmetic()
    _keep_memory()
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
    except KeyboardInterrupt:  # before Lightning heeds it, or after
        sys.stderr.write("lit-hier: interrupted; give the same command again\n")
        sys.exit(130)
    except Exception as error:
        if (said := explain(error)) is None:
            raise
        fail(said)
