"""How much of a training step is the network: forward pass, backward pass, optimiser.

python benchmarks/training.py [--steps 60] [--rounds 5]

The paper's CNN (16, 4, 2, 7) is trained by the project, Lightning and data included, and by a bare
loop over the same batches that lie ready in memory; reported is the bare loop's time over the
project's, the median of interleaved rounds, with quartiles. How long the whole training takes is
said by `time lit-hier fit -c configs/fig8_classifier.yaml`.
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


class Clock(Callback):
    """Takes the time from the tenth step to the last."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Start."""
        if batch_idx == 10:
            self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        """Look at the clock."""
        self.seconds = time.perf_counter() - self.start if trainer.global_step > 10 else 0.0


def by_lightning(data: RHMDataModule, num: int) -> float:
    """Train as `lit-hier fit` does; give the seconds that `num` steps take."""
    clock = Clock()
    trainer = Trainer(
        max_steps=num + 10,
        accelerator="cpu",
        logger=False,
        callbacks=[clock],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(RHMClassifier(16, 16, 2, 7), data)
    return clock.seconds


def bare(data: RHMDataModule, num: int) -> float:
    """Train on batches that lie ready; give the seconds that `num` steps take."""
    network = HierarchicalCNN(16, 16, 2, 7)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loader = iter(data.train_dataloader())
    batches = [next(loader) for _ in range(num + 10)]
    for number, batch in enumerate(batches):
        if number == 10:
            start = time.perf_counter()
        loss = cross_entropy(network(batch["x"]), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def main() -> None:
    """Print the share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    rhm = RandomHierarchyModel(16, 4, 2, 7)
    data = RHMDataModule(rhm, num_train=(given.steps + 10) * BATCH, batch_size=BATCH)
    data.setup()
    torch.manual_seed(0)
    found = []
    for _ in range(given.rounds):
        found.append((bare(data, given.steps), by_lightning(data, given.steps)))
    network, all_of_it = np.array(found).T
    low, middle, high = np.percentile(network / all_of_it, [25, 50, 75])
    rate = given.steps / np.median(all_of_it)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {BATCH}")
    print(f"steps a second   {rate:.1f}")
    print(f"network's share  {middle:.1%} ({low:.1%} to {high:.1%})")


if __name__ == "__main__":
    main()
