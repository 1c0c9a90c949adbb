"""Training networks that denoise data of the Random Hierarchy Model."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lit_hier.clock import InformationClock
from lit_hier.data.batches import Batch
from lit_hier.errors import InputError
from lit_hier.io.devices import upload
from lit_hier.modules.nested_task import NestedTask
from lit_hier.modules.task import Stage
from lit_hier.nn import evaluate
from lit_hier.nn.denoisers import TreeUNet
from lit_hier.processes import NoiseProcess
from lit_hier.streams import Purpose, uniform

_MAX_DRAWS: Final = 2**24  # kept for an epoch of all networks, 128 MiB; changes no bit
_IGNORED: Final = -100


class DenoisingTask(NestedTask):
    r"""Trains diffusion models on data of a grammar, one for each entry of `data.num_train`.

    A network predicts :math:`x_0` from the process's leaf messages. Its loss is the cross-entropy

    .. math:: - \Big\langle \ln p(x_{0,i} \mid x_t) \Big\rangle, \qquad
       I(x_0; x_t) / \ln v \sim U(I_{\min}, 1)

    in nats per leaf that is to be predicted: under masking those that are masked, otherwise all.
    Times are drawn so that the information of a leaf is uniform, see `InformationClock`, which
    under masking is a uniform masked fraction. A datum's time and noise depend on (seed, sample
    index, epoch) only; those of validation and test on (seed, sample index).

    Logs `train/loss`, `val/loss` and `test/loss`; with several networks, `train/loss/P=128` and so
    on for each. `LearnedDenoiser` samples with the networks of its checkpoints.

    Args:
        num_features: v; the command line takes this and the next two from the grammar.
        tuple_size: s.
        num_layers: L.
        num_train: Training data of each network; the command line takes them from the data module.
        process: How leaves are corrupted.
        network: Builds a network from (v, s, L), such as `TreeUNet` or `LeafTransformer`: input
            the leaf messages, (B, s**L, v), output logits of the same shape.
        optimizer: Any optimizer of torch that updates each number by itself; AdamW with a learning
            rate of 3e-3 by default.
        lr_scheduler: Any scheduler of torch, stepped after each step of the optimizer.
        last_time: Largest time; by default the end of the process's axis, 4 for `GaussianNoise`.
        seed: Seed of times and noise, 0 to 2^64 - 1.
        network_seed: Seed of the initial weights, at least 0.
        ema_decay: Decay of the exponential moving average of the weights, in [0, 1).
        trained_on: The largest training set, recorded with the weights; the command line takes it
            from the data module.

    Raises:
        InputError: An argument is out of range, the process's messages reveal the leaves, or the
            network fails or does not return such logits.
    """

    def __init__(
        self,
        num_features: int,
        tuple_size: int,
        num_layers: int,
        num_train: list[int],
        process: NoiseProcess,
        network: Callable[[int, int, int], nn.Module] = TreeUNet,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(
            parameters, lr=3e-3, fused=True
        ),
        lr_scheduler: LRSchedulerCallable | None = None,
        last_time: float | None = None,
        seed: int = 0,
        network_seed: int = 0,
        ema_decay: float = 0.995,
        trained_on: str = "",
    ) -> None:
        if not 0 <= seed < 2**64:
            raise InputError(f"seed is {seed}; give 0 to 2^64 - 1")
        process.check_channel("learn")
        clock = InformationClock(process, num_features, last_time)
        super().__init__(
            "denoisers",
            {
                "num_features": num_features,
                "tuple_size": tuple_size,
                "num_layers": num_layers,
            },
            lambda: network(num_features, tuple_size, num_layers),
            num_train,
            optimizer,
            lr_scheduler,
            network_seed,
            ema_decay,
            trained_on,
        )
        self.process = process
        self.clock = clock
        last = torch.tensor([clock.last_time], dtype=torch.float64)
        self._range = 1 - clock.information(last).item()
        self.seed = seed
        self.num_draws = 1 + process.num_draws(tuple_size**num_layers, num_features)
        self._epochs: dict[int, tuple[int, Tensor]] = {}  # an epoch and its draws, by num_train

    def describe(self) -> dict[str, Any]:
        """Return the sizes of the data and the process, as plain values."""
        return {
            **super().describe(),
            "process": self.process.axis.process,
            "process_key": self.process.key,
            "last_time": self.clock.last_time,
        }

    def prepare(self, batches: Sequence[Batch], stage: Stage) -> list[Batch]:
        """Return batches with `messages`, the leaf messages of their corrupted leaves (B, d, v).

        `target` are the leaves that are to be predicted, -100 elsewhere; `num_predicted` is their
        number.
        """
        leaves = torch.cat([batch["leaves"] for batch in batches])
        sizes = [len(batch["leaves"]) for batch in batches]
        # The CPU draws, and looks times up: it needs the indices, and waits for them once.
        indices = torch.cat([batch["index"] for batch in batches]).cpu().split(sizes)
        pairs = zip(batches, indices, strict=True)
        draws = torch.cat([self._draw(batch, index, stage) for batch, index in pairs])
        times = self.clock.times(1 - draws[:, 0] * self._range)
        draws, times = upload(draws, leaves.device), upload(times, leaves.device)
        dtype = self.dtype
        assert isinstance(dtype, torch.dtype)
        v = self.sizes["num_features"]
        messages = self.process.observe(leaves, times, draws[:, 1:], v, dtype)
        predicted = self.process.predicted(messages)
        target = leaves.masked_fill(~predicted, _IGNORED)
        parts = (x.split(sizes) for x in (messages, target))
        num = torch.stack([part.sum() for part in predicted.split(sizes)]).tolist()
        return [
            {**batch, "messages": x, "target": y, "num_predicted": n}
            for batch, x, y, n in zip(batches, *parts, num, strict=True)
        ]

    def _draw(self, batch: Batch, index: Tensor, stage: Stage) -> Tensor:
        """Return uniform numbers for each datum, one for its time and then those of the noise."""
        if stage != "train":
            return uniform(self.seed, Purpose.VALIDATION, index, 0, self.num_draws)
        epoch, num = batch["epoch"], batch["num_train"]
        kept = sum(smaller for smaller in self.num_train if smaller <= num)
        if kept * self.num_draws > _MAX_DRAWS:
            return uniform(self.seed, Purpose.TRAINING, index, epoch, self.num_draws)
        if self._epochs.get(num, (-1,))[0] != epoch:
            # Of all data in order, which is much faster than of shuffled ones.
            order = torch.arange(num)
            draws = uniform(self.seed, Purpose.TRAINING, order, epoch, self.num_draws)
            self._epochs[num] = epoch, draws
        return self._epochs[num][1][index]

    def compute_loss(
        self, network: nn.Module, batch: Batch, stage: Stage, line: str
    ) -> tuple[Tensor, int]:
        """Return the cross-entropy in nats, summed over the leaves that are to be predicted."""
        messages, target = batch["messages"], batch["target"]
        logits = evaluate(network, messages, messages.shape, grad=stage == "train")
        total = cross_entropy(
            logits.flatten(0, 1), target.flatten(), ignore_index=_IGNORED, reduction="sum"
        )
        return total, batch["num_predicted"]
