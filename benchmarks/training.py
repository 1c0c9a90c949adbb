"""Measure the network's share of a training step: forward pass, backward pass, optimizer.

python benchmarks/training.py [--steps 60] [--rounds 5]

The paper's CNN for (16, 4, 2, 7) is trained by `Trainer.fit`, including data loading, and by a
bare loop over the same batches, loaded in advance. The share is the time of the bare loop divided
by that of `Trainer.fit`: median and quartiles over interleaved rounds. To time a whole training,
run `time lit-hier fit -c configs/fig8_classifier.yaml`.
"""

import argparse
import logging
import time
import warnings

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.nn.functional import cross_entropy

from lit_hier.data import RHMDataModule
from lit_hier.modules import RHMClassifier
from lit_hier.nn import HierarchicalCNN
from lit_hier.rhm import RandomHierarchyModel

BATCH = 256
WARM_UP = 10  # steps that are not timed


class Timer(Callback):
    """Measures the time from the end of the warm-up to the last step."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Start the timer after the warm-up."""
        if trainer.global_step == WARM_UP:
            self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        """Update the elapsed time."""
        if trainer.global_step > WARM_UP:
            self.seconds = time.perf_counter() - self.start


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
    trainer.fit(RHMClassifier(16, 16, 2, 7), data)
    return timer.seconds


def time_bare_loop(data: RHMDataModule, num: int) -> float:
    """Train on batches loaded in advance; return the seconds that `num` steps take."""
    network = HierarchicalCNN(16, 16, 2, 7)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loader = iter(data.train_dataloader())
    batches = [next(loader) for _ in range(num + WARM_UP)]
    for step, batch in enumerate(batches):
        if step == WARM_UP:
            start = time.perf_counter()
        loss = cross_entropy(network(batch["x"]), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def main() -> None:
    """Print the network's share."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=60, help="timed steps per round")
    parser.add_argument("--rounds", type=int, default=5, help="number of interleaved rounds")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    rhm = RandomHierarchyModel(16, 4, 2, 7)
    data = RHMDataModule(rhm, num_train=(options.steps + WARM_UP) * BATCH, batch_size=BATCH)
    data.setup()
    torch.manual_seed(0)
    times = []
    for _ in range(options.rounds):
        times.append((time_bare_loop(data, options.steps), time_trainer(data, options.steps)))
    network, total = np.array(times).T
    low, middle, high = np.percentile(network / total, [25, 50, 75])
    rate = options.steps / np.median(total)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {BATCH}")
    print(f"steps per second {rate:.1f}")
    print(f"network's share  {middle:.1%} ({low:.1%} to {high:.1%})")


if __name__ == "__main__":
    main()
