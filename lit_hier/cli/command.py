"""The command `lit-hier`: LightningCLI over this project's modules, data and callbacks."""

import copy
import inspect
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, get_args

import torch
from jsonargparse import Namespace
from jsonargparse.typing import PositiveFloat
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry

import lit_hier

# Imported so that configs can name these classes without their modules.
import lit_hier.callbacks
import lit_hier.data
import lit_hier.gaussian
import lit_hier.modules
import lit_hier.nn
import lit_hier.processes
import lit_hier.rhm
from lit_hier.callbacks import LearningCurve
from lit_hier.callbacks.analysis import Analysis
from lit_hier.cli.check_only import CheckOnly, NoFiles
from lit_hier.cli.checkpoint_io import AtomicCheckpointIO, check_trainer
from lit_hier.cli.class_values import check_class, check_class_values
from lit_hier.cli.errors import blaming, describe_input_error
from lit_hier.cli.estimate import Estimate
from lit_hier.cli.exits import exit_with_error, is_output_closed
from lit_hier.cli.own_commands import TRAINER_COMMANDS
from lit_hier.cli.parser import OneLineParser, check_arguments
from lit_hier.cli.process import SigtermInterrupts, safe_path
from lit_hier.cli.products import check_stage, list_users, list_written, named_products
from lit_hier.cli.provenance import Provenance
from lit_hier.cli.run_folder import RunFolder
from lit_hier.cli.supervision import Supervisor, bound_to_parent
from lit_hier.cli.trust import trusted_classes
from lit_hier.errors import InputError
from lit_hier.io.checkpoints import read_checkpoint
from lit_hier.io.figures import FigureFormat
from lit_hier.io.formats import check_run
from lit_hier.io.safe_read import only_regular_files
from lit_hier.rhm import Grammars

# TensorBoard without smoothing, which blurs a transition; curves of a depth have one color.
_PAGE: Final = (
    "http://localhost:6006/?smoothing=0&runColorGroup=regex:curves%2F(%5Cd%2B)#timeseries"
)
_LOGGER: Final = {
    "class_path": "pytorch_lightning.loggers.TensorBoardLogger",
    "init_args": {"save_dir": "logs", "name": "run", "default_hp_metric": False},
}
_DEFAULT_TIMEOUT: Final = inspect.signature(DDPStrategy).parameters["timeout"].default
_MAX_TIMEOUT: Final = 24 * 365.0  # hours
# In the environment, where a cluster or a user names the first node.
_ADDRESSES: Final = ("MASTER_ADDR", "SLURM_NTASKS", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE")
_INHERITING: Final = "model.init_args.scheduler"  # takes what is not given from the model
_MAX_PARSED: Final = 2**24  # bytes of a file that is read as arguments are parsed, code included
_OWN_CHECKPOINTS: Final = ("best", "last", "hpc")  # keywords of Lightning's, not paths


class LitHierCLI(LightningCLI):
    """LightningCLI with the grammar linked from the data to the model, and safe defaults."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the model's arguments to the data: the distribution or its sizes."""
        for name in ("rhm", "distribution", "num_classes", "size", "channels"):
            parser.link_arguments(
                f"data.{name}", f"model.init_args.{name}", apply_on="instantiate"
            )
        for name in ("num_features", "tuple_size", "num_layers"):
            parser.link_arguments(
                "data.rhm",
                f"model.init_args.{name}",
                compute_fn=_size_getter(name),
                apply_on="instantiate",
            )
        parser.link_arguments(
            "data.num_train_list", "model.init_args.num_train", apply_on="instantiate"
        )
        parser.add_argument(
            "--wait_limit",
            type=PositiveFloat,
            default=720.0,
            help="Hours to wait for a process that is busy or stopped; minutes at the start.",
        )
        parser.add_argument(
            "--processes_per_core",
            type=PositiveFloat,
            default=4.0,
            help="Processes that trainer.devices may start per core of a machine, on CPUs.",
        )
        parser.add_argument(
            "--figure_format",
            type=FigureFormat,
            default="png",
            help="Format in which figures are written beside PNG: pdf or svg for a paper.",
        )
        parser.link_arguments(
            "data.training_set", "model.init_args.trained_on", apply_on="instantiate"
        )
        parser.add_argument(
            "--check-only",
            action="store_true",
            help="Check the arguments, the data and the networks on a few samples, print what was"
            " found, and run nothing.",
        )

    def setup_parser(self, *args: Any) -> None:
        """Set up the parser; jsonargparse asks another Python where stubs are."""
        with safe_path():
            super().setup_parser(*args)

    def instantiate_classes(self) -> None:
        """Instantiate the classes; jsonargparse may ask another Python where stubs are."""
        with safe_path():
            super().instantiate_classes()

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the arguments; hide the checkpoint, whose hyperparameters would replace them."""
        self.given = list(map(str, args or ()))
        self.config = _parse(parser, args)
        config = self.config[self.config.subcommand]
        if isinstance(scheduler := config.get(_INHERITING), Namespace):
            given = _parse(parser, args, defaults=False)
            _drop_defaults(scheduler, given[self.config.subcommand].get(_INHERITING))
        self.ckpt_path, config.ckpt_path = config.ckpt_path, None
        check_class(config.model, "model")
        check_class(config.data, "data")
        check_class_values(config.trainer, Trainer, "trainer")
        self.check_only = bool(config.pop("check_only"))  # not a part of a run's config
        for path in config.config or []:  # may be the config of an earlier run
            check_run(Path(str(path)).parent, "config")

    def before_instantiate_classes(self) -> None:
        """Reject what would fail later; read weights as plain tensors; keep no predictions.

        Raises:
            InputError: Trainer options that would measure nothing, or an unusable checkpoint.
        """
        config = self.config[self.subcommand]
        config.ckpt_path = self.ckpt_path
        check_stage(self.subcommand or "", str(config.model.class_path), self.given)
        if self.subcommand == "predict":
            config.return_predictions = False
            if config.trainer.limit_predict_batches == 0:
                raise InputError("trainer.limit_predict_batches=0 predicts nothing; leave it out")
        config.weights_only = True
        is_own = config.ckpt_path in (None, *_OWN_CHECKPOINTS)
        if is_own and self.subcommand in ("validate", "test"):
            raise InputError(
                f"ckpt_path is {config.ckpt_path!r}, so there are only random weights to"
                f" {self.subcommand}; give the checkpoint that `lit-hier fit` wrote"
            )
        if not is_own:
            read_checkpoint(config.ckpt_path, "ckpt_path")
        if config.trainer.model_registry is not None:
            raise InputError(
                "trainer.model_registry uploads checkpoints; leave it out, and copy them yourself"
            )
        _check_processes(config.trainer, config.processes_per_core)
        _check_mode(config.trainer, self.subcommand or "")
        if config.trainer.overfit_batches:
            raise InputError("trainer.overfit_batches: leave it out; lower data.num_train instead")
        if config.trainer.logger in (False, None):
            raise InputError(
                "trainer.logger is off, but results need a folder; leave it out or name a"
                " TensorBoardLogger"
            )
        options = getattr(config.trainer.strategy, "init_args", {})
        if options.get("timeout") == _DEFAULT_TIMEOUT:
            options["timeout"] = _get_timeout(config.wait_limit)
        given = config.trainer.callbacks or []
        given = given if isinstance(given, list) else [given]  # a single one needs no list
        bars = [c for c in given if str(c.get("class_path", "")).endswith("ProgressBar")]
        if config.trainer.enable_progress_bar is not False and not bars:
            self.trainer_defaults["callbacks"].append(lit_hier.callbacks.TimeProgressBar())
        if self.check_only:
            self.trainer_defaults["callbacks"].append(CheckOnly())

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Write checkpoints atomically; let processes wait for each other, and supervise them."""
        wait_limit: float = self.config[self.subcommand].wait_limit
        timeout = _get_timeout(wait_limit)
        with _long_timeouts(timeout), blaming("trainer"):
            trainer: Trainer = super().instantiate_trainer(**kwargs)
        check_trainer(trainer, resumes=self.ckpt_path is not None)
        trainer.strategy.checkpoint_io = AtomicCheckpointIO(trainer)
        if self.check_only:
            trainer.loggers = [NoFiles()]
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        callbacks.sort(key=lambda callback: not isinstance(callback, SigtermInterrupts))
        for callback in callbacks:
            if isinstance(callback, Analysis | LearningCurve):
                callback.figure_format = self.config[self.subcommand].figure_format
            if isinstance(callback, RunFolder):
                # Once its version is read, a logger keeps it.
                callback.unnumbered = copy.copy(trainer.logger)
            if isinstance(callback, Supervisor):
                callback.attach(trainer, wait_limit)
        return trainer

    def after_fit(self) -> None:
        """Print where weights and results are, and the commands that use the weights."""
        log_dir = self.trainer.log_dir  # on every process, as it is broadcast
        if not self.trainer.is_global_zero:
            return
        model = self.config[self.subcommand].model
        written = [getattr(x, "best_model_path", "") for x in self.trainer.checkpoint_callbacks]
        written += list_written(model.as_dict())
        paths = [os.path.relpath(path) for path in written if path and os.path.exists(path)]
        lines = [f"{'weights':<8} {path}" for path in paths]
        lines += _list_results(log_dir)
        lines += [f"{'next':<8} {command}" for command in list_users(paths, self.given)]
        if lines:
            sys.stdout.write("\n".join(lines) + "\n")

    def after_test(self) -> None:
        """Print where the results are."""
        log_dir = self.trainer.log_dir  # on every process, as it is broadcast
        if self.trainer.is_global_zero and (lines := _list_results(log_dir)):
            sys.stdout.write("\n".join(lines) + "\n")

    def after_predict(self) -> None:
        """Print where the results are and how to view them."""
        log_dir = self.trainer.log_dir  # on every process, as it is broadcast
        if self.trainer.is_global_zero and log_dir is not None:
            lines = _list_results(log_dir)
            if any(isinstance(logger, TensorBoardLogger) for logger in self.trainer.loggers):
                # With -P, Python imports nothing from the working directory.
                command = [sys.executable, "-P", "-m", "tensorboard.main", "--logdir", log_dir]
                lines.append(f"{'page':<8} {_PAGE}")  # of the server that is started by:
                lines.append(f"{'view':<8} {shlex.join(command)}")
            else:
                lines.append(f"{'results':<8} {log_dir}")
            sys.stdout.write("\n".join(lines) + "\n")


def _list_results(log_dir: str | None) -> list[str]:
    """List the tables, samples and figures in a run's folder, a line each."""
    kinds = {".csv": "table", ".npz": "samples"}
    kinds |= {f".{name}": "figure" for name in get_args(FigureFormat)}
    files = (
        sorted(Path(log_dir).iterdir()) if log_dir is not None and Path(log_dir).is_dir() else []
    )
    return [f"{kinds[file.suffix]:<8} {file}" for file in files if file.suffix in kinds]


def _check_mode(trainer: Any, command: str) -> None:
    """Reject modes of the trainer that have no results, or processes that cannot run a command.

    Args:
        trainer: The trainer's part of the config.
        command: The command.

    Raises:
        InputError: See above.
    """
    if trainer.barebones:
        raise InputError(
            "trainer.barebones is true, which turns off the logger, but results need its folder;"
            " leave it out"
        )
    if trainer.fast_dev_run and command != "fit":
        raise InputError(
            f"trainer.fast_dev_run is {trainer.fast_dev_run}, which turns off the logger, but"
            f" results need its folder; give trainer.limit_{command}_batches=1 instead"
        )
    strategy = trainer.strategy
    options = getattr(strategy, "init_args", {})
    name = str(options.get("start_method") or strategy)
    if found := re.search("spawn|fork|notebook", name):
        raise InputError(
            f"trainer.strategy: processes that are started by {found[0]} cannot run a config; use"
            " ddp"
        )


def _check_processes(trainer: Any, per_core: float) -> None:
    """Reject numbers of processes and nodes that cannot be started, or not reasonably.

    Args:
        trainer: The trainer's part of the config.
        per_core: The most processes per core, on CPUs.

    Raises:
        InputError: They are invalid, too many for the cores of this machine, or nodes that have
            no address.
    """
    devices = str(trainer.devices).strip()
    if not re.fullmatch(
        r"auto|-?\d{1,9}|\[ *\d{1,9}( *, *\d{1,9})* *\]|(\d{1,9},)+\d{0,9}", devices
    ):
        raise InputError(
            f"trainer.devices is {trainer.devices!r}; give a number, a list of GPUs or auto"
        )
    on_cpu = trainer.accelerator == "cpu" or (
        trainer.accelerator == "auto" and not torch.accelerator.is_available()
    )
    if on_cpu and devices != "auto":
        if not devices.isdecimal() or not int(devices):
            raise InputError(
                f"trainer.devices is {trainer.devices!r}; on CPUs it is a number of processes, at"
                " least 1"
            )
        cores = os.cpu_count() or 1
        if int(devices) > max(1, per_core * cores):
            raise InputError(
                f"trainer.devices is {devices}, more than {per_core:g} processes per core of this"
                f" machine, which has {cores}; give fewer, or raise processes_per_core"
            )
    if trainer.num_nodes < 1:
        raise InputError(f"trainer.num_nodes is {trainer.num_nodes}; give at least 1")
    started = any(name in os.environ for name in _ADDRESSES)
    if trainer.num_nodes > 1 and not started:
        raise InputError(
            f"trainer.num_nodes is {trainer.num_nodes}, but no other node can find this one; set"
            " MASTER_ADDR, MASTER_PORT and NODE_RANK on each, or start the command with torchrun"
            " or srun"
        )


def _parse(parser: LightningArgumentParser, args: ArgsType, defaults: bool = True) -> Namespace:
    """Parse arguments; jsonargparse reads whole the file that the value of an option names."""
    with safe_path(), only_regular_files(_MAX_PARSED):
        parsed: Namespace = parser.parse_args(args, defaults=defaults)  # type: ignore[arg-type]
    return parsed


def _drop_defaults(config: Namespace, given: Any) -> None:
    """Remove the arguments of a class that the parser filled in, not the user who named it."""
    if not isinstance(given, Namespace):
        return
    kept = vars(given.get("init_args", Namespace()))
    arguments = vars(config.get("init_args", Namespace()))
    for name in arguments.keys() - kept.keys():
        del arguments[name]


def _size_getter(name: str) -> Callable[[Grammars], int]:
    """Return a function that gets a size that a network is built from: the first grammar's."""

    def get(rhm: Grammars) -> int:
        size: int = getattr(rhm.grammars[0], name)
        return size

    get.__name__ = name  # which the help shows
    return get


def _get_timeout(wait_limit: float) -> timedelta:
    """Return a timeout of torch that is beyond a limit in hours, so that this limit ends a run."""
    return timedelta(hours=min(wait_limit, _MAX_TIMEOUT) + 1)


@contextmanager
def _long_timeouts(timeout: timedelta) -> Iterator[None]:
    """Register the strategies of several processes with a timeout.

    One process may finish hours before another; the supervisor says who is waited for.
    """
    registered = dict(StrategyRegistry)
    try:
        for name, entry in registered.items():
            if issubclass(entry["strategy"], DDPStrategy):
                options = {**entry["init_params"], "timeout": timeout}
                StrategyRegistry.register(
                    name, entry["strategy"], entry["description"], override=True, **options
                )
        yield
    finally:
        StrategyRegistry.update(registered)


def _run(cli: type[LitHierCLI], args: Sequence[str], callbacks: Sequence[Callback]) -> None:
    cli(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=RunFolder,
        parser_class=OneLineParser,
        parser_kwargs={
            "prog": "lit-hier",
            "version": lit_hier.__version__,
            **{
                name: {"description": text, "command": name}
                for name, text in TRAINER_COMMANDS.items()
            },
        },
        seed_everything_default=0,
        trainer_defaults={"logger": _LOGGER, "deterministic": "warn", "callbacks": [*callbacks]},
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        args=list(args),
    )


def build_parsers() -> list[OneLineParser]:
    """Build the parsers of the Trainer's commands, and run none."""
    parsers: list[OneLineParser] = []

    class Builder(LitHierCLI):
        def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
            assert isinstance(parser, OneLineParser)
            parsers.extend(parser.commands)
            raise _BuiltError

    with suppress(_BuiltError):
        _run(Builder, (), ())
    return parsers


class _BuiltError(Exception):
    """The parsers are built, and nothing should be parsed."""


def execute(args: Sequence[str], callbacks: Sequence[Callback] = ()) -> None:
    """Execute a command.

    Args:
        args: The command and its arguments.
        callbacks: Callbacks besides those that the config names.

    Raises:
        BrokenPipeError: Standard output was closed.
        SystemExit: With status 2 and one line on standard error if the input is invalid.
    """
    supervisor, provenance = Supervisor(), Provenance(args)
    try:
        check_arguments(args)
        with (
            bound_to_parent(),
            only_regular_files(),
            trusted_classes(args),
            named_products(args),
            provenance.recorded(),
        ):
            _run(LitHierCLI, args, [supervisor, Estimate(), provenance, *callbacks])
            supervisor.close()
    except Exception as error:
        if isinstance(error, BrokenPipeError) and is_output_closed():
            supervisor.report("standard output was closed")
            raise
        message = describe_input_error(error)
        supervisor.report(message)
        if message is None:
            raise
        exit_with_error(message)
