"""Measure the networks' share of training denoisers on nested training sets.

python benchmarks/denoisers.py [--epochs 10]

The networks of `configs/learned_train.yaml`, six U-Nets of width 64 for (8, 2, 2, 4), are trained
by `Trainer.fit`, with data loading and noise. After each step, a bare loop takes one over messages
that were computed in advance. The share is the time of the bare loop divided by that of
`Trainer.fit`: median and quartiles over epochs of the largest network.
"""

import argparse
import logging
import math
import time
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from torch.nn.functional import cross_entropy
from training import WARM_UP

from lit_hier.data import RHMDataModule
from lit_hier.modules import DenoisingTask
from lit_hier.processes import MaskingNoise
from lit_hier.rhm import RandomHierarchyModel

NUM_TRAIN = [64, 128, 256, 512, 1024, 2048]


def build_task() -> DenoisingTask:
    """Return the task of the config."""
    return DenoisingTask(8, 2, 4, NUM_TRAIN, MaskingNoise())


class Pair(Callback):
    """Times each step of `Trainer.fit`, and one of a bare loop after it.

    Args:
        batches: Messages and leaves to predict, for each network, computed in advance.

    Attributes:
        seconds: Of the bare loop and of `Trainer.fit`, a pair for each step.
    """

    def __init__(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        self.batches = batches
        self.networks = build_task().networks
        self.optimizer = torch.optim.AdamW(self.networks.parameters(), lr=3e-3, fused=True)
        self.seconds: list[tuple[float, float]] = []
        self.last = math.nan

    def on_train_batch_end(self, *args: object) -> None:
        """Take the time since the last step; run and time a step of the bare loop."""
        start = time.perf_counter()
        total = start - self.last
        losses = [
            cross_entropy(network(messages).flatten(0, 1), target.flatten())
            for network, (messages, target) in zip(self.networks, self.batches, strict=True)
        ]
        self.optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        self.optimizer.step()
        self.last = time.perf_counter()
        self.seconds.append((self.last - start, total))


def time_steps(
    data: RHMDataModule, batches: list[tuple[Tensor, Tensor]], num: int
) -> NDArray[np.float64]:
    """Train as `lit-hier fit` does; return the seconds of `num` pairs of steps."""
    pair = Pair(batches)
    trainer = Trainer(
        max_steps=num + WARM_UP,
        accelerator="cpu",
        logger=False,
        callbacks=[pair],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )
    trainer.fit(build_task(), data)
    return np.array(pair.seconds[WARM_UP:])


def main() -> None:
    """Print the networks' share."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=10, help="epochs of 16 timed steps")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    data = RHMDataModule(RandomHierarchyModel(8, 2, 2, 4), NUM_TRAIN, batch_size=128)
    data.setup()
    given = []
    for num in NUM_TRAIN:
        batch = data._splits["train"][torch.arange(min(num, data.batch_size))]
        given.append({**batch, "epoch": 0, "num_train": num})
    prepared = build_task().prepare(given, "train")
    batches = [(batch["messages"], batch["target"]) for batch in prepared]
    epoch = max(NUM_TRAIN) // data.batch_size
    times = time_steps(data, batches, options.epochs * epoch)
    network, total = times.reshape(options.epochs, epoch, 2).sum(1).T
    low, middle, high = np.percentile(network / total, [25, 50, 75])
    rate = epoch / np.median(total)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(NUM_TRAIN)} networks"
    )
    print(f"steps per second {rate:.1f}")
    print(f"networks' share  {middle:.1%} ({low:.1%} to {high:.1%})")


if __name__ == "__main__":
    main()
