"""What all analyses of a forward-backward experiment share: when they see, reduce and write."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from lit_hier.diffusion import IMAGE_COUNTS, ForwardBackward
from lit_hier.errors import InputError
from lit_hier.modules import ForwardBackwardModule

_ARGUMENTS: Final = {
    "v": "num_features",
    "n": "num_classes",
    "m": "num_synonyms",
    "s": "tuple_size",
    "L": "num_layers",
}


class Analysis(Callback, ABC):
    """Measures the records of a `predict` run and writes into the logger's directory at its end.

    What the processes have measured is united once, after the last batch; rank zero writes, each
    file whole or not at all.
    """

    name: str
    """Of the files."""
    needs_messages: ClassVar[bool] = False
    """Whether records must hold upward and downward messages."""
    varied: ClassVar[frozenset[str]] = frozenset()
    """Parameters in which the grammars of a run may differ, beside the seed of their rules."""
    image_counts: Mapping[str, int]
    """At the end of a run on images from files: how many were skipped, converted, enlarged."""

    @abstractmethod
    def update(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> None:
        """Measure a batch."""

    @abstractmethod
    def compute(self, pl_module: ForwardBackwardModule) -> Any:
        """Unite what all processes have measured; called on all of them."""

    @abstractmethod
    def write(self, trainer: Trainer, folder: str, measured: Any) -> None:
        """Write what `compute` gave; called on rank zero."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remember where the run's data come from; refuse runs that give nothing to measure.

        Raises:
            InputError: There is no logger with a directory, the module is no sampler, its records
                have too little, its grammars have no common average, or another analysis writes
                the same files.
        """
        if stage != "predict":
            return
        kind = type(self).__name__
        if trainer.log_dir is None or trainer.logger is None:
            raise InputError(f"trainer.logger: {kind} needs a logger that has a folder")
        if not isinstance(pl_module, ForwardBackwardModule):
            raise InputError(
                f"model: {kind} measures samplers such as BPDenoiser,"
                f" not {type(pl_module).__name__}"
            )
        analyses = [other for other in trainer.callbacks if isinstance(other, Analysis)]  # type: ignore[attr-defined]
        if sum(other.name == self.name for other in analyses) > 1:
            raise InputError(
                f"trainer.callbacks: two of them would write {self.name}.csv; leave out one {kind}"
            )
        if self.needs_messages and not pl_module.messages:
            raise InputError(
                f"model: {kind} needs messages; use it with a BPDenoiser that has messages: true"
            )
        self._remedies = torch.zeros(1 + len(IMAGE_COUNTS), dtype=torch.int64)
        self.axis, self.times = pl_module.axis, pl_module.times
        self.sources = pl_module.sources
        for name, value in self.sources[0].parameters.items():
            differ = any(source.parameters[name] != value for source in self.sources)
            if differ and name not in self.varied:
                raise InputError(
                    f"data.rhm: {kind} takes grammars of one {_ARGUMENTS[name]}; give one, or"
                    " measure with Transition"
                )

    @staticmethod
    def num_samples(trainer: Trainer) -> int:
        """Count the samples of the whole run, once it has begun."""
        assert trainer.predict_dataloaders is not None
        return len(trainer.predict_dataloaders.dataset)

    def kinds(self) -> list[list[int]]:
        """Sort the sources by their parameters: those that differ in none stand together."""
        kinds: dict[tuple[int, ...], list[int]] = {}
        for number, source in enumerate(self.sources):
            kinds.setdefault(tuple(source.parameters.values()), []).append(number)
        return [kinds[key] for key in sorted(kinds)]

    def numbers(self, source: int) -> tuple[int, int, int, int]:
        """Give the v, m, s and L of a source that is a grammar.

        Raises:
            InputError: It is none.
        """
        given = self.sources[source].parameters
        if not given:
            raise InputError(
                f"model: {type(self).__name__} is for grammars; use it with a BPDenoiser"
            )
        return given["v"], given["m"], given["s"], given["L"]

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
            self._remedies[0] = 1
            self._remedies[1:] += outputs.image_counts.cpu()
        if not len(outputs.index):  # none of the batch's images could be read
            return
        self.update(trainer, pl_module, outputs)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unite the processes' measurements; on rank zero, write everything."""
        assert isinstance(pl_module, ForwardBackwardModule)
        measured = self.compute(pl_module)
        summed = trainer.strategy.reduce(self._remedies.to(pl_module.device), reduce_op="sum")
        any_files, *counts = summed.tolist()
        self.image_counts = dict(zip(IMAGE_COUNTS, counts, strict=True)) if any_files else {}
        folder = trainer.log_dir  # asked of all processes, as it is broadcast
        assert folder is not None
        if trainer.is_global_zero:
            self.write(trainer, folder, measured)
