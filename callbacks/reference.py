"""What a network does on a reference set: taken once and kept, until anything changes."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from lit_hier.errors import InputError
from lit_hier.io.arrays import write_samples
from lit_hier.io.safe_read import check_file
from lit_hier.metrics import Moments, MomentTree, channel_moments
from lit_hier.nn import Probe

_FORMAT: Final = 1  # of what is kept; another one is taken anew
_TOP: Final = 5
_LIBRARIES: Final = ("lit-hier", "pillow", "timm", "torch", "torchvision")  # that decide numbers


@dataclass(frozen=True)
class Reference:
    """Moments of a network's layers over a reference set, and how well it tells the classes.

    Attributes:
        moments: Of each layer.
        without_positions: Whether a layer puts out (B, units), as that of the logits does.
        counts: Data seen; then those that were skipped, converted and enlarged. int64, shape (4,).
        accuracy: Top-1 and top-5, float64, shape (2,); NaN without logits or classes.
        num_classes: Of the logits; 0 without.
    """

    moments: Sequence[Moments]
    without_positions: Sequence[bool]
    counts: Tensor
    accuracy: Tensor
    num_classes: int

    def pack(self) -> dict[str, Any]:
        """Give plain arrays, for `unpack`."""
        arrays = {
            f"{part}_{k}": getattr(moments, part).cpu().numpy()
            for k, moments in enumerate(self.moments)
            for part in Moments._fields
        }
        return {
            **arrays,
            "without_positions": np.array(self.without_positions),
            "counts": self.counts.cpu().numpy(),
            "accuracy": self.accuracy.cpu().numpy(),
            "num_classes": np.array(self.num_classes),
        }

    @classmethod
    def unpack(cls, arrays: Any) -> "Reference":
        """Make it of plain arrays.

        Raises:
            KeyError: One is missing.
        """
        flat = arrays["without_positions"].tolist()
        moments = [
            Moments(*(torch.from_numpy(arrays[f"{part}_{k}"]) for part in Moments._fields))
            for k in range(len(flat))
        ]
        counts, accuracy = (torch.from_numpy(arrays[name]) for name in ("counts", "accuracy"))
        return cls(moments, flat, counts, accuracy, int(arrays["num_classes"]))


def reference_of(
    trainer: Trainer, probe: Probe, datamodule: LightningDataModule, split: str
) -> Reference:
    """Let a network see a reference set; or recall what it did, if nothing has changed since.

    It is kept as `reference/{key}.npz` in the logger's `save_dir`, where the key is made of the
    network, its weights, its transform, the layers, the data (where the data module can tell them
    apart: `fingerprint`), their batches and the libraries' versions. Both ways of standardising
    are made of the same moments. If an image could not be read, nothing is kept: it may be there
    the next time.

    Args:
        trainer: The run.
        probe: The network and its layers.
        datamodule: Has batches with `x` and `label`, planned by `PlannedBatches`.
        split: Which of its splits.

    Raises:
        InputError: There are no such data, or they do not fit the network.
    """
    loader = getattr(datamodule, f"{split}_dataloader")()
    tell = getattr(datamodule, "fingerprint", None)
    data = tell(split) if tell is not None else None
    if data is None:
        return _take(trainer, probe, loader, split)
    versions = [version(name) for name in _LIBRARIES]
    parts = (_FORMAT, probe.identity, data, loader.sampler.batch_size, versions)
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    assert trainer.logger is not None
    folder = Path(trainer.logger.save_dir or trainer.default_root_dir, "reference")
    arrays = recall(folder / f"{key}.npz", len(probe.layers)) if trainer.is_global_zero else None
    arrays = trainer.strategy.broadcast(arrays)
    if arrays is not None:
        return Reference.unpack(arrays)
    taken = _take(trainer, probe, loader, split)
    if trainer.is_global_zero and not taken.counts[1]:
        write_samples(str(folder), key, taken.pack())
    return taken


def recall(path: Path, num_layers: int) -> dict[str, Any] | None:
    """Read what was kept; None if it cannot be read, or is not what is kept of such a network."""
    try:
        check_file(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            arrays = dict(kept)
        found = Reference.unpack(arrays)
    except Exception:  # a damaged file may make numpy stumble anywhere; it is taken anew
        return None
    shapes = [part.mean.shape for part in found.moments]
    whole = (
        len(shapes) == num_layers
        and all(len(shape) == 1 for shape in shapes)
        and [part.squares.shape for part in found.moments] == shapes
        and all(part.number.shape == () for part in found.moments)
        and all(x.dtype == torch.float64 for part in found.moments for x in part)
        and found.without_positions == [flag is True for flag in found.without_positions]
        and (found.counts.shape, found.counts.dtype) == ((4,), torch.int64)
        and (found.accuracy.shape, found.accuracy.dtype) == ((2,), torch.float64)
    )
    return arrays if whole else None


def _refuse(layer: str, output: Tensor, index: Tensor, split: str) -> NoReturn:
    lost = index[~output.flatten(1).isfinite().all(1)]
    whose = f"sample {int(lost[0])}" if len(lost) else "some samples"
    raise InputError(
        f"network: {layer} puts out no finite numbers for {whose} of the {split} split, the"
        " reference; check the weights and the data"
    )


def _take(trainer: Trainer, probe: Probe, loader: Any, split: str) -> Reference:
    """Let the network see every batch, each process its own; unite the processes."""
    device = trainer.strategy.root_device
    trees = {name: MomentTree() for name in probe.layers}
    # Whether layers have no positions, then the number of classes.
    facts = torch.zeros(len(probe.layers) + 1, dtype=torch.int64, device=device)
    seen = torch.zeros(7, dtype=torch.int64, device=device)
    for number, raw in zip(loader.sampler.numbers, loader, strict=True):
        batch = trainer.strategy.batch_to_device(raw, dataloader_idx=0)
        label = batch["label"]
        seen[0] += len(label)
        seen[1:4] += batch.get("image_counts", 0)
        if len(label):
            index = batch["index"]

            def see(
                name: str, output: Tensor, number: int = number, index: Tensor = index
            ) -> None:
                moments = channel_moments(output)
                if not moments.squares.isfinite().all():
                    _refuse(name, output, index, split)
                trees[name].add(number, moments)
                facts[probe.layers.index(name)] = output.ndim == 2

            logits = probe(batch["x"], see)
            if logits.ndim == 2:
                facts[-1] = logits.shape[1]
                known = label >= 0
                best = logits.topk(min(_TOP, logits.shape[1])).indices
                right = (best == label[:, None])[known]
                seen[4:] += torch.stack((known.sum(), right[:, 0].sum(), right.sum()))
    counted = trainer.strategy.reduce(seen, reduce_op="sum")
    if trainer.world_size > 1:
        # A process of whose images none can be read has nothing to say.
        facts = torch.stack(gather_all_tensors(facts)).amax(0)
        trees = {
            name: MomentTree.unpack(*gather_all_tensors(tree.pack().to(device)))
            for name, tree in trees.items()
        }
    if not counted[0]:
        raise InputError("data: none of the reference images can be read; give others")
    accuracy = counted[5:].double() / counted[4]
    *flat, num_classes = facts.tolist()
    if math.isnan(float(accuracy[0])):
        num_classes = 0
    moments = [tree.total() for tree in trees.values()]
    return Reference(moments, list(map(bool, flat)), counted[:4], accuracy, num_classes)
