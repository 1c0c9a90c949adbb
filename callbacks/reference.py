"""Statistics of a network on a reference set: computed once, and cached until anything changes."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import torch
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from lit_hier.callbacks.networks import first_samples
from lit_hier.errors import InputError
from lit_hier.io.arrays import write_samples
from lit_hier.io.safe_read import check_file
from lit_hier.metrics import Moments, MomentTree, channel_moments
from lit_hier.nn import Probe

_REFERENCE_FORMAT: Final = 3  # of the cached files; those of another version are recomputed
_TOP: Final = 5
# Libraries whose version may change the statistics.
_LIBRARIES: Final = ("lit-hier", "pillow", "timm", "torch", "torchvision")


@dataclass(frozen=True)
class Reference:
    """Moments of a network's layers over a reference set, and its accuracy there.

    Attributes:
        moments: Of each layer.
        without_positions: Whether each layer's output is (B, units), like the logits.
        counts: Number of samples, then of images skipped, converted and enlarged; int64,
            shape (4,).
        accuracy: Top-1 and top-5, float64, shape (2,); NaN if there are no logits or no classes.
        num_classes: Number of logits; 0 if there are none.
    """

    moments: Sequence[Moments]
    without_positions: Sequence[bool]
    counts: Tensor
    accuracy: Tensor
    num_classes: int

    def pack(self) -> dict[str, Any]:
        """Convert to plain arrays, for `unpack`."""
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
        """Convert from plain arrays.

        Raises:
            KeyError: An array is missing.
        """
        flat = arrays["without_positions"].tolist()
        moments = [
            Moments(*(torch.from_numpy(arrays[f"{part}_{k}"]) for part in Moments._fields))
            for k in range(len(flat))
        ]
        counts, accuracy = (torch.from_numpy(arrays[name]) for name in ("counts", "accuracy"))
        return cls(moments, flat, counts, accuracy, int(arrays["num_classes"]))


def load_or_compute(
    trainer: Trainer, probe: Probe, datamodule: LightningDataModule, split: str
) -> Reference:
    """Load the statistics of a network on a reference set, or compute and cache them.

    They are cached as `reference/{key}.npz` in the logger's `save_dir`. The key is a digest of the
    network, its weights, its transform, the layers, the data (the data module's `fingerprint`;
    without one, nothing is cached), their batches and the libraries' versions. Both kinds of
    standardization follow from the same moments. If an image cannot be read, nothing is
    cached: the next run may be able to read it. With the statistics, the file has a summary of the
    layers' outputs for the first samples; where these are others now, all is computed again.

    Args:
        trainer: The run.
        probe: The network and its layers.
        datamodule: Its batches have `x` and `label`, and are planned by `PlannedBatches`.
        split: The name of the split.

    Raises:
        InputError: No image of the split can be read, the data do not fit the network, or an
            activation is NaN or infinite.
    """
    loader = getattr(datamodule, f"{split}_dataloader")()
    fingerprint = getattr(datamodule, "fingerprint", None)
    data = fingerprint(split) if fingerprint is not None else None
    if data is None:
        return _compute(trainer, probe, loader, split)
    versions = [version(name) for name in _LIBRARIES]
    parts = (_REFERENCE_FORMAT, probe.identity, data, loader.sampler.batch_size, versions)
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    assert trainer.logger is not None
    folder = Path(trainer.logger.save_dir or trainer.default_root_dir, "reference")
    arrays, x = None, torch.empty(0)
    if trainer.is_global_zero:
        arrays = load(folder / f"{key}.npz", len(probe.layers))
        x = first_samples(loader).to(trainer.strategy.root_device)
        if arrays is not None and not probe.recognizes(x, _signs(arrays)):
            rank_zero_warn(
                f"reference: {folder / key}.npz has statistics of a network with other outputs;"
                " they are computed again"
            )
            arrays = None
    arrays = trainer.strategy.broadcast(arrays)
    if arrays is not None:
        return Reference.unpack(arrays)
    reference = _compute(trainer, probe, loader, split)
    if trainer.is_global_zero and not reference.counts[1]:
        signs = {f"check_{k}": sign.numpy() for k, sign in enumerate(probe.sign(x))}
        write_samples(str(folder), key, reference.pack() | signs)
    return reference


def _signs(arrays: Mapping[str, Any]) -> list[Tensor]:
    """Return the summaries of the layers' outputs; none for those that are damaged."""
    num = sum(name.startswith("check_") for name in arrays)
    signs = [arrays.get(f"check_{k}") for k in range(num)]
    valid = all(sign is not None and (sign.dtype, sign.ndim) == ("float64", 1) for sign in signs)
    return [torch.from_numpy(sign) for sign in signs] if valid else []


def load(path: Path, num_layers: int) -> dict[str, Any] | None:
    """Load cached statistics, as plain arrays; None if they are missing, damaged or do not fit."""
    try:
        check_file(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as cached:
            arrays = dict(cached)
        found = Reference.unpack(arrays)
    except Exception:  # numpy raises almost any error on a damaged file, which is recomputed
        return None
    shapes = [part.mean.shape for part in found.moments]
    valid = (
        len(shapes) == num_layers
        and all(len(shape) == 1 for shape in shapes)
        and [part.squares.shape for part in found.moments] == shapes
        and all(part.size.shape == () for part in found.moments)
        and all(x.dtype == torch.float64 for part in found.moments for x in part)
        and found.without_positions == [flag is True for flag in found.without_positions]
        and (found.counts.shape, found.counts.dtype) == ((4,), torch.int64)
        and (found.accuracy.shape, found.accuracy.dtype) == ((2,), torch.float64)
    )
    return arrays if valid else None


def _reject(layer: str, output: Tensor, index: Tensor, split: str) -> NoReturn:
    failed = index[~output.flatten(1).isfinite().all(1)]
    which = f"sample {int(failed[0])}" if len(failed) else "some samples"
    raise InputError(
        f"network: {layer} outputs NaN or infinity for {which} of the reference set (split"
        f" {split}); check the weights and the data"
    )


def _compute(trainer: Trainer, probe: Probe, loader: Any, split: str) -> Reference:
    """Evaluate the network on every batch, each process on its own; merge the processes."""
    device = trainer.strategy.root_device
    trees = {name: MomentTree() for name in probe.layers}
    # Whether each layer has no positions, then the number of classes.
    shapes = torch.zeros(len(probe.layers) + 1, dtype=torch.int64, device=device)
    # As `Reference.counts`, then the samples with a class, top-1 hits, top-5 hits.
    counts = torch.zeros(7, dtype=torch.int64, device=device)
    for batch_index, raw in zip(loader.sampler.indices, loader, strict=True):
        batch = trainer.strategy.batch_to_device(raw, dataloader_idx=0)
        label = batch["label"]
        counts[0] += len(label)
        counts[1:4] += batch.get("image_counts", 0)
        if len(label):
            index = batch["index"]

            def update(
                name: str, output: Tensor, batch_index: int = batch_index, index: Tensor = index
            ) -> None:
                moments = channel_moments(output)
                if not moments.squares.isfinite().all():
                    _reject(name, output, index, split)
                trees[name].update(batch_index, moments)
                shapes[probe.layers.index(name)] = output.ndim == 2

            logits = probe(batch["x"], update)
            if logits.ndim == 2:
                shapes[-1] = logits.shape[1]
                known = label >= 0
                best = logits.topk(min(_TOP, logits.shape[1])).indices
                hits = (best == label[:, None])[known]
                counts[4:] += torch.stack((known.sum(), hits[:, 0].sum(), hits.sum()))
    total = trainer.strategy.reduce(counts, reduce_op="sum")
    if trainer.world_size > 1:
        # A process that could read none of its images has zeros here.
        shapes = torch.stack(gather_all_tensors(shapes)).amax(0)
        trees = {
            name: MomentTree.unpack(*gather_all_tensors(tree.pack().to(device)))
            for name, tree in trees.items()
        }
    if not total[0]:
        raise InputError("data: none of the reference images can be read; check the files")
    accuracy = total[5:].double() / total[4]
    *flat, num_classes = shapes.tolist()
    if math.isnan(float(accuracy[0])):
        num_classes = 0
    moments = [tree.compute() for tree in trees.values()]
    return Reference(moments, list(map(bool, flat)), total[:4], accuracy, num_classes)
