"""Small runs of every analysis and every task, on the device that a trainer is made for."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from image_runs import SIZE, Net, sampler
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from lit_hier.callbacks import (
    ActivationSimilarity,
    BeliefHistogram,
    Beliefs,
    ChangeCorrelation,
    ClassKept,
    DenoiserQuality,
    EffectiveNoise,
    Interpolation,
    IterationMap,
    LearningCurve,
    Reconstruction,
    SampleGrid,
    SynonymSensitivity,
    TokenChanges,
    Transition,
    TransitionTime,
    Validity,
)
from lit_hier.data import DigitsDataModule, RHMDataModule
from lit_hier.modules import (
    BPDenoiser,
    ClassifiersTask,
    DDPMTask,
    DenoisingTask,
    ImageClassifier,
    LearnedDenoiser,
    RHMClassifier,
    StoredSamples,
    SynonymExchange,
)
from lit_hier.nn import HierarchicalCNN, PretrainedClassifier, TreeUNet
from lit_hier.processes import EpsilonNoise, MaskingNoise
from lit_hier.rhm import RandomHierarchyModel

RHM = RandomHierarchyModel(4, 2, 2, 3, seed=1)
MakeTrainer = Callable[..., Trainer]


def _trainer(
    make: MakeTrainer, folder: Path, *callbacks: Callback, max_epochs: int = 1, **kwargs: Any
) -> Trainer:
    logger = TensorBoardLogger(folder, name="run", default_hp_metric=False)
    return make(
        callbacks=list(callbacks),
        logger=logger,
        max_epochs=max_epochs,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **kwargs,
    )


def predict(
    make: MakeTrainer,
    folder: Path,
    module: LightningModule,
    data: LightningDataModule,
    *callbacks: Callback,
) -> Path:
    trainer = _trainer(make, folder, *callbacks)
    trainer.predict(module, data, return_predictions=False)
    return Path(str(trainer.log_dir))


def fit(
    make: MakeTrainer,
    folder: Path,
    task: LightningModule,
    data: LightningDataModule,
    *callbacks: Callback,
    **kwargs: Any,
) -> Trainer:
    trainer = _trainer(make, folder, *callbacks, num_sanity_val_steps=0, **kwargs)
    trainer.fit(task, data)
    return trainer


def network(num_layers: int = 3, num_features: int = 4) -> HierarchicalCNN:
    torch.manual_seed(0)
    return HierarchicalCNN(num_features, num_features, 2, num_layers, width=6)


def grammar(
    make: MakeTrainer,
    folder: Path,
    num_layers: int = 3,
    times: Sequence[float] = (0.0, 0.4, 0.8, 1.0),
    *callbacks: Callback,
) -> Path:
    """The analyses of data of a grammar."""
    rhm = RandomHierarchyModel(4, 2, 2, num_layers, seed=1)
    data = RHMDataModule(rhm, 0, 0, 8, 4, eval_batch_size=4)
    tokens = TokenChanges(network(num_layers), "layers.0")
    return predict(
        make, folder, BPDenoiser(rhm, EpsilonNoise(), [*times], messages=True), data,
        ActivationSimilarity(network(num_layers)), ClassKept(network(num_layers)),
        Reconstruction(), Beliefs("effective_noise"), EffectiveNoise(), IterationMap(),
        BeliefHistogram(times[1], num_bins=4), ChangeCorrelation(), Transition(),
        ChangeCorrelation(tokens, name="tokens"), TransitionTime(), Validity(), *callbacks,
    )  # fmt: skip


def learned(make: MakeTrainer, folder: Path) -> Path:
    """Denoisers of nested training sets, trained and then held against exact inference."""
    torch.manual_seed(0)
    data = RHMDataModule(RHM, [4, 8], 5, 0, 8, batch_size=4, eval_batch_size=4)
    task = DenoisingTask(
        4, 2, 3, [4, 8], MaskingNoise(), lambda v, s, num: TreeUNet(v, s, num, 8),
        trained_on=data.training_set,
    )  # fmt: skip
    trainer = fit(make, folder / "fit", task, data, max_epochs=-1, max_steps=3)
    trainer.save_checkpoint(folder / "last.ckpt")
    module = LearnedDenoiser(
        RHM, MaskingNoise(), [0.25, 1.0], str(folder / "last.ckpt"), use="last"
    )
    return predict(
        make, folder, module, data,
        Reconstruction(), Transition(), TransitionTime(), ChangeCorrelation(), Validity(),
        DenoiserQuality(), ActivationSimilarity(network(), reference="predict"),
    )  # fmt: skip


def classifiers(make: MakeTrainer, folder: Path) -> Path:
    """Classifiers of nested training sets."""
    torch.manual_seed(0)
    data = RHMDataModule(RHM, [8, 16], 5, 20, 8, batch_size=4)
    task = ClassifiersTask(
        4, 4, 2, 3, [8, 16], lambda *sizes: HierarchicalCNN(*sizes, width=6),
        trained_on=data.training_set,
    )  # fmt: skip
    return Path(str(fit(make, folder, task, data, LearningCurve(), max_epochs=2).log_dir))


def classifier(make: MakeTrainer, folder: Path) -> Path:
    """A classifier, trained to interpolation, and its sensitivity to synonyms."""
    torch.manual_seed(0)
    task = RHMClassifier(4, 4, 2, 3, width=6)
    data = RHMDataModule(RHM, 16, 5, 16, 8, batch_size=8, eval_batch_size=4)
    fit(make, folder / "fit", task, data, Interpolation(0.0), max_epochs=2)
    module = SynonymExchange(RHM)
    return predict(make, folder, module, data, SynonymSensitivity(task.network, ["layers.*"]))


def images(make: MakeTrainer, folder: Path, pipeline: str) -> Path:
    """A diffusion model and a classifier of images; then another analysis of kept samples."""
    samples = folder / "samples"
    module = sampler(pipeline, samples, times=[0.0, 2.0, 6.0])
    data = DigitsDataModule(**(SIZE | {"num_predict": 12}))
    found = predict(
        make, folder, module, data, ActivationSimilarity(Net(), ["0", "1", "3"]),
        ClassKept(Net()), SampleGrid(3), ChangeCorrelation(), TransitionTime(ClassKept(Net())),
    )  # fmt: skip
    stored = StoredSamples(str(samples))
    predict(make, folder / "stored", stored, data, ChangeCorrelation(TokenChanges(Net(), "0")))
    return found


def image_training(make: MakeTrainer, folder: Path) -> Path:
    """A diffusion model and a classifier of images, trained."""
    torch.manual_seed(0)
    data = DigitsDataModule()
    limits = {"limit_train_batches": 2, "limit_val_batches": 1}
    # Adam would magnify the rounding of gradients, as devices have other kernels for them.
    descent = partial(torch.optim.SGD, lr=0.1)
    task = DDPMTask(8, str(folder / "pipeline"), widths=[8, 16], optimizer=descent)
    fit(make, folder, task, data, **limits)
    fit(make, folder, ImageClassifier(widths=[8]), data, Interpolation(0.0), **limits)
    return folder


def pretrained(make: MakeTrainer, folder: Path, pipeline: str) -> Path:
    """A classifier of torchvision with the published transform."""
    torch.manual_seed(0)
    net = PretrainedClassifier("torchvision/resnet18", "random")
    module = sampler(pipeline, None, times=[0.0, 2.0])
    data = DigitsDataModule(eval_batch_size=2, num_predict=2, num_test=4)
    return predict(make, folder, module, data, ActivationSimilarity(net), ClassKept(net))
