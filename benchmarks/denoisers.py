"""Measure the networks' share of training denoisers on nested training sets.

python benchmarks/denoisers.py [--steps 30] [--rounds 5]

The networks of `configs/learned_train.yaml`, six U-Nets of width 64 for (8, 2, 2, 4), are trained
by `Trainer.fit`, with data loading and noise, and by a bare loop over the same messages, computed
in advance. The share is the time of the bare loop divided by that of `Trainer.fit`: median and
quartiles over interleaved rounds.
"""

import argparse
import logging
import time
import warnings

import numpy as np
import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.nn.functional import cross_entropy
from training import WARM_UP, Timer

from lit_hier.data import RHMDataModule
from lit_hier.modules import DenoisingTask
from lit_hier.processes import MaskingNoise
from lit_hier.rhm import RandomHierarchyModel

NUM_TRAIN = [64, 128, 256, 512, 1024, 2048]


def build_task() -> DenoisingTask:
    """Return the task of the config."""
    return DenoisingTask(8, 2, 4, NUM_TRAIN, MaskingNoise())


def time_trainer(data: RHMDataModule, num: int) -> float:
    """Train as `lit-hier fit` does; return the seconds that `num` steps take."""
    timer = Timer()
    trainer = Trainer(
        max_steps=num + WARM_UP,
        accelerator="cpu",
        logger=False,
        callbacks=[timer],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )
    trainer.fit(build_task(), data)
    return timer.seconds


def time_bare_loop(batches: list[tuple[Tensor, Tensor]], num: int) -> float:
    """Train on messages computed in advance; return the seconds that `num` steps take."""
    networks = build_task().networks
    optimizer = torch.optim.AdamW(networks.parameters(), lr=3e-3, fused=True)
    for step in range(num + WARM_UP):
        if step == WARM_UP:
            start = time.perf_counter()
        losses = [
            cross_entropy(network(messages).flatten(0, 1), target.flatten())
            for network, (messages, target) in zip(networks, batches, strict=True)
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
    return time.perf_counter() - start


def main() -> None:
    """Print the networks' share."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=30, help="timed steps per round")
    parser.add_argument("--rounds", type=int, default=5, help="number of interleaved rounds")
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
    times = []
    for _ in range(options.rounds):
        times.append((time_bare_loop(batches, options.steps), time_trainer(data, options.steps)))
    network, total = np.array(times).T
    low, middle, high = np.percentile(network / total, [25, 50, 75])
    rate = options.steps / np.median(total)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(NUM_TRAIN)} networks"
    )
    print(f"steps per second {rate:.1f}")
    print(f"networks' share  {middle:.1%} ({low:.1%} to {high:.1%})")


if __name__ == "__main__":
    main()
