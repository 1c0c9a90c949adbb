"""Trained denoisers held against exact inference: curves per training, validity, quality."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from lit_hier.callbacks import (
    Beliefs,
    ChangeCorrelation,
    DenoiserQuality,
    Reconstruction,
    Transition,
    TransitionTime,
    Validity,
)
from lit_hier.callbacks.analysis import Analysis, group_sources
from lit_hier.callbacks.denoiser_quality import per_leaf
from lit_hier.callbacks.result import Result
from lit_hier.data import RHMDataModule
from lit_hier.diffusion import Denoising, ForwardBackward, Latents, Training
from lit_hier.errors import InputError
from lit_hier.inference import BeliefPropagation
from lit_hier.metrics import average
from lit_hier.modules import BPDenoiser, ForwardBackwardModule
from lit_hier.processes import MaskingNoise
from lit_hier.rhm import RandomHierarchyModel, whitened_one_hot
from lit_hier.rhm.parameters import GrammarParameters
from lit_hier.streams import Purpose, uniform

INF = math.inf
TIMES = (0.25, 0.5, 1.0)
NUM = 40
TRAININGS = (Training(16, 100), Training(64, 100), Training(16, 100), Training(64, 100))
BLUR = (0.5, 0.05, 0.4, 0.02)
"""The weight of a uniform belief in those of each network, which samples leaves one by one."""


@cache
def grammar() -> RandomHierarchyModel:
    return RandomHierarchyModel(8, 2, 2, 3, seed=0)


class BlurredDenoiser(ForwardBackwardModule):
    """Stands for networks: exact beliefs of leaves, mixed with uniform ones; the last is exact."""

    def __init__(
        self, times: Sequence[float] = TIMES, trainings: Sequence[Training] = TRAININGS
    ) -> None:
        self.process = MaskingNoise()
        super().__init__(times, self.process.axis)
        self.noise_process = self.process
        self.trainings = (*trainings, Training(INF, 0))
        self.copies = len(self.trainings)
        self.sources = (GrammarParameters.of(grammar()),) * self.copies
        self.inference = BeliefPropagation(grammar())

    def forward_backward(self, batch: dict[str, Tensor]) -> ForwardBackward:
        """Corrupt, blur, and sample leaf by leaf."""
        k, rhm = int(batch["source"]), grammar()
        start, _ = rhm.parse(batch["leaves"])
        trees, marginals, parts = [], [], []
        for time in self.times:
            noise = uniform(0, Purpose.CORRUPTION, batch["sample"], time, rhm.num_leaves)
            observed = self.process.corrupt(start[0], time, noise, rhm.num_features)
            messages = self.process.messages(observed, time, rhm.num_features, torch.float64)
            posterior = self.inference.condition(messages)
            marginals.append(posterior.marginals())
            exact = marginals[-1][0]
            blur = (*BLUR, *[0.0] * self.copies)[k] if k < self.copies - 1 else 0.0
            beliefs = (1 - blur) * exact + blur / rhm.num_features
            draws = uniform(0, Purpose.POSTERIOR, batch["sample"], time, 1 + rhm.num_choices)
            if k == self.copies - 1:
                trees.append(posterior.sample(draws=draws))
            else:
                cumulative, u = beliefs.cumsum(-1), draws[:, : rhm.num_leaves, None]
                leaves = (cumulative < u).sum(-1).clamp(max=rhm.num_features - 1)
                leaves = leaves.where(observed == rhm.num_features, start[0])
                trees.append(rhm.parse(leaves)[0])
            parts.append((beliefs, exact, observed == rhm.num_features))
        tree_reversed = tuple(map(torch.stack, zip(*trees, strict=True)))
        x = whitened_one_hot(tree_reversed[0].flatten(0, 1), rhm.num_features)
        known = tuple(map(torch.stack, zip(*marginals, strict=True)))
        return ForwardBackward(
            x_start=batch["x"],
            x_reversed=x.unflatten(0, (len(self.times), -1)),
            times=torch.tensor(self.times, dtype=torch.float64),
            axis=self.axis,
            index=batch["index"],
            label=batch["label"],
            latents=Latents(start, tree_reversed, known if k == self.copies - 1 else None),
            source_index=k,
            denoising=Denoising(*map(torch.stack, zip(*parts, strict=True))),
        )


def run(
    *analyses: Analysis, sampler: ForwardBackwardModule | None = None, num: int = NUM
) -> Result:
    data = RHMDataModule(grammar(), [16, 64], 0, 0, num, eval_batch_size=num)
    trainer = Trainer(
        logger=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[*analyses],
        accelerator="cpu", devices=1, enable_checkpointing=False,
    )  # fmt: skip
    trainer.predict(sampler or BlurredDenoiser(), data, return_predictions=False)
    return Result.merge(analysis.result for analysis in analyses)


@cache
def results() -> Result:
    return run(
        Reconstruction(), Transition(), TransitionTime(), ChangeCorrelation(), Validity(),
        DenoiserQuality(),
    )  # fmt: skip
