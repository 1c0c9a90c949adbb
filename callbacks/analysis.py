"""The base class of all analyses: when they measure, reduce, write and draw."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final

import numpy as np
import torch
from matplotlib.figure import Figure
from pandas import DataFrame
from pytorch_lightning import Callback, LightningModule, Trainer

from lit_hier.callbacks.result import Result, draw_figures
from lit_hier.callbacks.tensorboard import Hyperparameter, Number, log_summary
from lit_hier.diffusion import IMAGE_COUNTS, ForwardBackward, Training, num_levels
from lit_hier.errors import InputError
from lit_hier.io.arrays import write_samples
from lit_hier.io.figures import FigureFormat
from lit_hier.io.formats import CONFIG_FILE, RUN_FILE, write_run
from lit_hier.io.tables import write_table
from lit_hier.modules import ForwardBackwardModule
from lit_hier.rhm.parameters import GrammarParameters

_ARGUMENTS: Final = {
    "v": "num_features",
    "n": "num_classes",
    "m": "num_synonyms",
    "s": "tuple_size",
    "L": "num_layers",
}


def check_name(name: str) -> str:
    """Return the common name of an analysis's files.

    Raises:
        InputError: It is empty or has other characters than letters, digits, `_`, `-` and `.`.
    """
    if not re.fullmatch(r"[\w][\w.-]*", name):
        raise InputError(f"name is {name!r}; give letters, digits, _, - and .")
    return name


def find_cache(trainer: Trainer, kind: str) -> Path | None:
    """Return the folder in which runs share what takes long to compute.

    Args:
        trainer: The run.
        kind: The name of the folder.

    Returns:
        It is in the logger's `save_dir`; None for a run without files.
    """
    if trainer.logger is None or trainer.logger.save_dir is None:
        return None
    return Path(trainer.logger.save_dir or trainer.default_root_dir, kind)


@dataclass(frozen=True)
class SourceGroup:
    """Sources whose data have the same kind of denoiser, so that they are averaged together.

    Attributes:
        name: Its name among the groups of the run; empty where there is one.
        columns: The columns of tables that identify it, those of `Training`; empty likewise.
        source_indices: Indices of its sources, ascending.
    """

    name: str
    columns: Mapping[str, float]
    source_indices: Sequence[int]

    @property
    def num_train(self) -> float:
        """Training data of its denoisers: infinity for exact inference; NaN if not trained."""
        return self.columns.get("num_train", math.nan)

    @property
    def is_exact(self) -> bool:
        """Whether it is exact inference, with which trained denoisers are compared."""
        return self.num_train == math.inf

    def qualify(self, name: str) -> str:
        """Put its name before that of a curve."""
        return ", ".join(filter(None, (self.name, name)))


def group_sources(trainings: Sequence[Training], num_sources: int) -> list[SourceGroup]:
    """Group sources by the training of their denoisers, ascending; exact inference is last.

    Denoisers whose number of training data is NaN, as of networks that were not trained here, are
    told apart by their step.

    Args:
        trainings: That of each source; empty where denoisers were not trained, which makes one
            group without a name.
        num_sources: The number of sources.
    """
    if not trainings:
        return [SourceGroup("", {}, range(num_sources))]
    found = sorted(
        set(trainings),
        key=lambda x: (np.nan_to_num(x.num_train, nan=-1.0, posinf=math.inf), x.step),
    )
    sizes = [training.num_train for training in found]
    groups = []
    for training in found:
        names = [f"P = {training.num_train:g}"]
        if sizes.count(training.num_train) > 1:
            names.append(f"step {training.step}")
        if math.isnan(training.num_train):
            names = [f"network {training.step}"]
        if training.num_train == math.inf:
            names = ["exact"]
        indices = [k for k, other in enumerate(trainings) if other == training]
        groups.append(SourceGroup(", ".join(names), training.columns, indices))
    return groups


class Analysis(Callback, ABC):
    """Measures the records of a `predict` run; at its end, writes into the logger's directory.

    The measurements of all processes are reduced once, after the last batch. Rank zero writes;
    a file appears complete or not at all. Figures are drawn after all analyses have written their
    tables, as PNG and in `figure_format`; one that cannot be drawn or saved is a warning in the
    log. Without a logger, or with one that has no folder, nothing is written. A folder without
    `run.json` gets one, so that `lit_hier.read_run` knows it.

    The last analysis of a run logs its summary, see `lit_hier.callbacks.tensorboard.log_summary`:
    to TensorBoard the text `summary`, the scalars `result/NAME` of its main `numbers`, and a row
    of the HParams page.

    Attributes:
        result: After a run, what it measured, with or without files; empty on other ranks than
            zero.
    """

    name: str
    """The common name of the files."""
    suffixes: ClassVar[tuple[str, ...]] = ("",)
    """What the names of its files end in, after `name`."""
    needs_latents: ClassVar[bool] = False
    """Whether records must hold latents."""
    needs_messages: ClassVar[bool] = False
    """Whether these must include upward and downward messages."""
    varied: ClassVar[frozenset[str]] = frozenset()
    """Parameters in which the grammars of a run may differ, besides the seed of their rules."""
    trainings: tuple[Training, ...] = ()
    """How the denoiser of each source was trained; empty for denoisers that were not."""
    image_counts: Mapping[str, int]
    """After a run on images from files, the numbers that `IMAGE_COUNTS` lists; else empty."""
    figure_format: FigureFormat = "png"
    """In which figures are written beside PNG; the command line's option has this name."""
    numbers: Mapping[str, Number] = MappingProxyType({})
    """After a run, its main numbers with their standard errors, see `log_summary`."""
    _draw: Callable[[], Mapping[str, Figure]] | None = None
    _folder: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.result = Result()

    @abstractmethod
    def update(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> None:
        """Measure a batch."""

    @abstractmethod
    def compute(self, pl_module: ForwardBackwardModule) -> Any:
        """Reduce the measurements of all processes; called on all of them."""

    @abstractmethod
    def write(self, trainer: Trainer, measured: Any) -> None:
        """Add tables and samples of what `compute` returned; called on rank zero.

        Figures are left to `draw_later`.
        """

    def add_table(self, name: str, table: DataFrame) -> None:
        """Add a table to the result, and write `{name}.csv` if the run has a folder."""
        self.result.add_table(name, table)
        if self._folder is not None:
            write_table(self._folder, name, table)

    def add_samples(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Add each sample's values to the result, and write `{name}.npz`, likewise."""
        self.result.add_samples(name, {key: np.asarray(array) for key, array in arrays.items()})
        if self._folder is not None:
            write_samples(self._folder, name, arrays)

    @property
    def files(self) -> set[str]:
        """The names of the files that it may write, without their extensions."""
        return {self.name + suffix for suffix in self.suffixes}

    def draw_later(self, draw: Callable[[], Mapping[str, Figure]]) -> None:
        """Draw, save and log figures once all analyses have written their tables.

        Args:
            draw: Returns the figures, by the name of their file.
        """
        self._draw = draw

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the sampler's properties; reject runs that this analysis cannot measure.

        Raises:
            InputError: The module is not a sampler, its records lack latents or messages, its
                grammars have no common average, or another analysis writes the same files.
        """
        if stage != "predict":
            return
        kind = type(self).__name__
        self.result = Result()
        if not isinstance(pl_module, ForwardBackwardModule):
            raise InputError(
                f"model: {kind} measures samplers such as BPDenoiser,"
                f" not {type(pl_module).__name__}"
            )
        written = [name for other in _list_analyses(trainer) for name in other.files]
        if twice := sorted(name for name in self.files if written.count(name) > 1):
            raise InputError(
                f"trainer.callbacks: two of them would write {twice[0]}.csv; leave out one {kind},"
                " or give it another name if it takes one"
            )
        if self.needs_messages and not pl_module.messages:
            raise InputError(
                f"model: {kind} needs messages; use it with a BPDenoiser that has messages: true"
            )
        self.axis, self.times = pl_module.axis, pl_module.times
        self.noise_process, self.sources = pl_module.noise_process, pl_module.sources
        self.trainings = pl_module.trainings
        self.uniform_prior = pl_module.uniform_prior
        if self.needs_latents and not all(map(num_levels, self.sources)):
            raise InputError(
                f"model: {kind} needs trees or classes, which {type(pl_module).__name__} does not"
                " return for these data; use it with a BPDenoiser"
            )
        self._image_counts = torch.zeros(1 + len(IMAGE_COUNTS), dtype=torch.int64)
        for name, argument in _ARGUMENTS.items():
            values = {getattr(source, name, None) for source in self.sources}
            if len(values) > 1 and name not in self.varied:
                raise InputError(
                    f"data.rhm: {kind} averages over grammars of one {argument}; give one, and"
                    " compare several by `lit-hier study`, or their transitions by Transition"
                )

    @property
    def is_random(self) -> bool:
        """Whether the corruption of a datum is drawn: equal measurements are then chance."""
        process, source = self.noise_process, self.sources[0]
        if process is None or not isinstance(source, GrammarParameters):
            return True
        return process.num_draws(1, source.v) > 0

    @property
    def crossed(self) -> bool:
        """Whether all sources have the same data: those of trained denoisers, see `average`."""
        return bool(self.trainings)

    @staticmethod
    def num_samples(trainer: Trainer) -> int:
        """Count the samples of the whole run, once it has begun."""
        assert trainer.predict_dataloaders is not None
        return len(trainer.predict_dataloaders.dataset)

    def sample_index(self, trainer: Trainer, record: ForwardBackward) -> torch.Tensor:
        """Return the index of each datum of a batch, the same in all sources that are crossed."""
        if not self.crossed:
            return record.index
        return record.index % (self.num_samples(trainer) // len(self.sources))

    def grammar(self, source_index: int) -> GrammarParameters:
        """Return the parameters of a source that is a grammar.

        Raises:
            InputError: The source is not a grammar.
        """
        source = self.sources[source_index]
        if not isinstance(source, GrammarParameters):
            raise InputError(
                f"model: {type(self).__name__} is for grammars; use it with a BPDenoiser"
            )
        return source

    def source_groups(self) -> list[SourceGroup]:
        """Group the sources by how their denoisers were trained; known from `setup` on."""
        return group_sources(self.trainings, len(self.sources))

    def source_indices_by_grammar(self) -> dict[GrammarParameters, list[int]]:
        """Group the indices of the sources by their parameters, ascending.

        Raises:
            InputError: A source is not a grammar.
        """
        groups: dict[GrammarParameters, list[int]] = {}
        for source_index in range(len(self.sources)):
            groups.setdefault(self.grammar(source_index), []).append(source_index)
        return dict(sorted(groups.items()))

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure a batch."""
        assert isinstance(pl_module, ForwardBackwardModule)
        assert isinstance(outputs, ForwardBackward)
        if outputs.image_counts is not None:
            self._image_counts[0] = 1
            self._image_counts[1:] += outputs.image_counts.cpu()
        if not len(outputs.index):  # no image of the batch could be read
            return
        self.update(trainer, pl_module, outputs)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reduce the measurements of all processes; on rank zero, write all files."""
        assert isinstance(pl_module, ForwardBackwardModule)
        measured = self.compute(pl_module)
        total = trainer.strategy.reduce(self._image_counts.to(pl_module.device), reduce_op="sum")
        any_files, *counts = total.tolist()
        self.image_counts = dict(zip(IMAGE_COUNTS, counts, strict=True)) if any_files else {}
        folder = trainer.log_dir  # a collective operation: every process must query it
        self._folder = None if trainer.logger is None else folder
        if trainer.is_global_zero:
            if self._folder is not None and not Path(self._folder, RUN_FILE).exists():
                write_run(self._folder)  # the run of a Trainer that a program started
            self.write(trainer, measured)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the figures, which no table waits for; the last analysis logs the summary."""
        draw, self._draw = self._draw, None
        analyses = _list_analyses(trainer)
        if trainer.is_global_zero and self is analyses[-1]:
            assert isinstance(pl_module, ForwardBackwardModule)
            numbers = {name: x for other in analyses for name, x in other.numbers.items()}
            config = Path(self._folder or "", CONFIG_FILE)
            text = config.read_text() if config.is_file() else ""
            log_summary(trainer.loggers, describe_run(trainer, pl_module), numbers, text)
        if draw is not None:
            draw_figures(
                self.name, draw, self.result, self._folder, self.figure_format, trainer.loggers
            )


def _list_analyses(trainer: Trainer) -> list[Analysis]:
    return [other for other in trainer.callbacks if isinstance(other, Analysis)]  # type: ignore[attr-defined]


def describe_run(trainer: Trainer, pl_module: ForwardBackwardModule) -> dict[str, Hyperparameter]:
    """Return what was run, for TensorBoard's HParams page: the same names for all runs."""
    grammars = [source for source in pl_module.sources if isinstance(source, GrammarParameters)]
    described: dict[str, Hyperparameter] = {
        "data": type(getattr(trainer, "datamodule", None)).__name__,
        "model": type(pl_module).__name__,
        "process": pl_module.axis.process,
    }
    for name in _ARGUMENTS:
        values = sorted({getattr(grammar, name) for grammar in grammars})
        described[name] = int(values[0]) if len(values) == 1 else ", ".join(map(str, values))
    return described | {
        "sources": len(pl_module.sources),
        "samples": Analysis.num_samples(trainer),
        "times": len(pl_module.times),
        "seed": str(pl_module.seed),
    }
