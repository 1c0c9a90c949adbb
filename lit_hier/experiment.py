"""The forward-backward experiment as one function: modules in memory, results in memory."""

import logging
from collections.abc import Sequence
from os import PathLike
from typing import Any, Final

from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.loggers.logger import DummyLogger
from torch import Tensor
from torch.utils.data import Dataset

from lit_hier.callbacks.analysis import Analysis
from lit_hier.callbacks.progress import TimeProgressBar
from lit_hier.callbacks.result import Result
from lit_hier.cli.process import preserved, silence_unhelpful_messages
from lit_hier.cli.provenance import Provenance
from lit_hier.data import RHMDataModule
from lit_hier.data.memory import MemoryImages
from lit_hier.errors import InputError
from lit_hier.modules import ForwardBackwardModule
from lit_hier.modules.image_sampler import ImageSampler
from lit_hier.rhm import Grammars
from lit_hier.rhm.parameters import GrammarParameters

_LIGHTNING_LOG: Final = logging.getLogger("pytorch_lightning.utilities.rank_zero")


class _Folder(DummyLogger):
    """A logger that has nothing but a folder."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    @property
    def save_dir(self) -> str:
        return self._folder


def forward_backward(
    sampler: ForwardBackwardModule,
    data: LightningDataModule | Grammars | Tensor | Dataset[Any],
    measurements: Analysis | Sequence[Analysis],
    *,
    reference: Tensor | Dataset[Any] | int | None = None,
    num_samples: int = 1000,
    batch_size: int = 100,
    seed: int | None = None,
    folder: str | PathLike[str] | None = None,
    accelerator: str = "auto",
    precision: Any = "32-true",
    progress: bool = False,
) -> Result:
    r"""Run forward-backward on data and measure it, as `lit-hier predict` does.

    .. math:: x_0 \to x_t \sim q(x_t \mid x_0) \to \hat x_0(t) \sim p(\hat x_0 \mid x_t)

    Numbers are those of the command at the same precision, seeds and batch size. Runs in this
    process, on one device, and leaves the process as it was: random number generators, torch's
    flags, logs, signal handlers and the working directory. Networks are used as they are, not
    copied: they are set to evaluation mode without gradients and moved to the device.

    Args:
        sampler: Such as `BPDenoiser(rhm, process, times)`, or `DDPMSampler.from_pipeline`.
        data: What x_0 is: a data module, a grammar or an ensemble of them, from which data are
            drawn, or images: a tensor (N, C, H, W) of uint8 levels or in [-1, 1], or a dataset
            whose items begin with an image.
        measurements: Callbacks such as `Reconstruction()` or `ActivationSimilarity(network)`.
        reference: The reference set of activations: images, likewise, or for a grammar the number
            of its data. Data modules have their own.
        num_samples: Number of data drawn from each grammar; other data are used whole.
        batch_size: Data per batch, except for data modules, which have their own.
        seed: Seed of data drawn from a grammar; by default that of the training data of the
            sampler's networks, or 0. Data are drawn from those on which none was trained.
        folder: Where to write the same files as the command, in a new or empty folder; by default
            nothing is written.
        accelerator: Where to compute, as for Lightning's `Trainer`.
        precision: Likewise.
        progress: Whether to show the progress.

    Returns:
        Tables as DataFrames, each sample's values as arrays, and figures.

    Raises:
        InputError: An argument is invalid, the measurements do not fit the sampler or the data, or
            the folder holds a run.
    """
    if not isinstance(sampler, ForwardBackwardModule):
        raise InputError(
            f"sampler: {type(sampler).__name__} is not a sampler; give a BPDenoiser, a"
            " DDPMSampler or another ForwardBackwardModule"
        )
    chosen = [measurements] if isinstance(measurements, Analysis) else list(measurements)
    for measurement in chosen:
        if not isinstance(measurement, Analysis):
            raise InputError(
                f"measurements: {type(measurement).__name__} is not a measurement; give callbacks"
                " such as Reconstruction()"
            )
    if not chosen:
        raise InputError("measurements is empty; give callbacks such as Reconstruction()")
    datamodule = _as_datamodule(sampler, data, reference, num_samples, batch_size, seed)
    if not isinstance(data, LightningDataModule) and reference is None:
        for measurement in chosen:
            if getattr(measurement, "reference", None) == "test":
                raise InputError(
                    f"reference: {type(measurement).__name__} needs a reference set; give images"
                    " or, for a grammar, a number of data"
                )
    provenance = Provenance()
    callbacks = [*chosen, *([TimeProgressBar()] if progress else []), provenance]
    with preserved(), provenance.recorded():
        silence_unhelpful_messages()
        _LIGHTNING_LOG.addFilter(lambda record: record.levelno > logging.INFO)
        logger: DummyLogger | bool = False
        if folder is not None:
            provenance.claim(folder)
            logger = _Folder(str(folder))
        trainer = Trainer(
            accelerator=accelerator,
            devices=1,
            precision=precision,
            logger=logger,
            callbacks=callbacks,
            enable_progress_bar=progress,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        try:
            trainer.predict(sampler, datamodule, return_predictions=False)
        except SystemExit as end:  # by which Lightning replaces an interrupt
            if isinstance(end.__context__, KeyboardInterrupt):
                raise end.__context__ from None
            raise
    return Result.merge(measurement.result for measurement in chosen)


def _as_datamodule(
    sampler: ForwardBackwardModule,
    data: Any,
    reference: Any,
    num_samples: int,
    batch_size: int,
    seed: int | None,
) -> LightningDataModule:
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; give at least 1")
    if isinstance(data, LightningDataModule):
        if reference is not None:
            raise InputError(
                f"reference: {type(data).__name__} has its own reference set; leave it out"
            )
        return data
    of_grammars = all(isinstance(source, GrammarParameters) for source in sampler.sources)
    if of_grammars != isinstance(data, Grammars) and (
        of_grammars or isinstance(sampler, ImageSampler)
    ):
        kind = "the grammar" if of_grammars else "images"
        raise InputError(
            f"data: {type(sampler).__name__} needs {kind} that it denoises, not"
            f" {type(data).__name__}"
        )
    if isinstance(data, Grammars):
        if num_samples < 1:
            raise InputError(f"num_samples is {num_samples}; give at least 1")
        if not isinstance(reference, int | None):
            raise InputError("reference: for a grammar, give the number of its data")
        num_train, of_training = sampler.training_split()
        return RHMDataModule(
            data,
            num_train,
            0,
            reference or 0,
            num_samples,
            eval_batch_size=batch_size,
            seed=(of_training or 0) if seed is None else seed,
        )
    if isinstance(reference, int):
        raise InputError(f"reference is {reference}, but data are images; give images")
    size = getattr(sampler, "image_size", None)
    return MemoryImages(data, reference, size, batch_size)
