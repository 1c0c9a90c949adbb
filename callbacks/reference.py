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

from lit_hier.callbacks.agreement import count_predictions, empty_counts, permuted_accuracy
from lit_hier.callbacks.analysis import find_cache
from lit_hier.callbacks.networks import first_samples
from lit_hier.diffusion import IMAGE_COUNTS
from lit_hier.errors import InputError
from lit_hier.io.arrays import write_samples
from lit_hier.io.devices import download
from lit_hier.io.formats import package_version
from lit_hier.io.memory import check_memory
from lit_hier.io.safe_read import open_regular
from lit_hier.metrics import Moments, MomentTree, Per, channel_moments
from lit_hier.nn import Probe

_REFERENCE_FORMAT: Final = 5  # of the cached files; those of another version are recomputed
_SIGN: Final = "check_"  # and the number of a layer: what its output was
_TOP: Final = 5
_NUM_COUNTS: Final = 2 + len(IMAGE_COUNTS)
_SKIPPED: Final = 2  # position of the skipped images
_DIGEST: Final = "sha256"  # the array with the digest of the others
_MAX_SIZE: Final = 2**28  # bytes of all arrays of a cached file
# Libraries whose version may change the statistics.
_LIBRARIES: Final = ("pillow", "timm", "torch", "torchvision")


@dataclass(frozen=True)
class Reference:
    """Moments of a network's layers over a reference set, and its accuracy there, on the CPU.

    Attributes:
        moments: Of each layer, per channel or per unit.
        without_positions: Whether each layer's output is (B, units), like the logits.
        counts: Number of samples, of samples with a class, then the numbers of images that
            `IMAGE_COUNTS` lists; int64, shape (7,).
        accuracy: Top-1, top-5, and top-1 with the best permutation of the classes, see
            `lit_hier.callbacks.agreement`, float64, shape (3,); NaN if there are no logits or no
            classes, the last also if there are too many.
        num_logits: Their number; 0 if there are none, or no classes.
    """

    moments: Sequence[Moments]
    without_positions: Sequence[bool]
    counts: Tensor
    accuracy: Tensor
    num_logits: int

    def pack(self) -> dict[str, Any]:
        """Convert to plain arrays, for `unpack`."""
        arrays = {
            f"{part}_{k}": getattr(moments, part).numpy()
            for k, moments in enumerate(self.moments)
            for part in Moments._fields
        }
        return {
            **arrays,
            "without_positions": np.array(self.without_positions),
            "counts": self.counts.numpy(),
            "accuracy": self.accuracy.numpy(),
            "num_logits": np.array(self.num_logits),
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
        return cls(moments, flat, counts, accuracy, int(arrays["num_logits"]))

    def is_plausible(self) -> bool:
        """Return whether shapes, types and values are possible; no image was skipped."""
        counts, accuracy, count = self.counts, self.accuracy, int(self.counts.flatten()[0])
        shapes = [part.mean.shape for part in self.moments]
        return (
            all(len(shape) == 1 for shape in shapes)
            and [part.squares.shape for part in self.moments] == shapes
            and all(part.size.shape == () for part in self.moments)
            and all(x.dtype == torch.float64 for part in self.moments for x in part)
            and self.without_positions == [flag is True for flag in self.without_positions]
            and (counts.shape, counts.dtype) == ((_NUM_COUNTS,), torch.int64)
            and (accuracy.shape, accuracy.dtype) == ((3,), torch.float64)
            and count > 0
            and not counts[_SKIPPED]
            and bool(((counts >= 0) & (counts <= count)).all())
            and all(bool(x.isfinite().all()) for part in self.moments for x in part)
            and all(bool((part.squares >= 0).all()) for part in self.moments)
            and all(float(part.size) >= count for part in self.moments)
            and all(float(part.size) % count == 0 for part in self.moments)
            and all(
                not flat or part.size == count
                for flat, part in zip(self.without_positions, self.moments, strict=True)
            )
            and (
                bool(accuracy[0] <= accuracy[1])
                and all(0 <= x <= 1 for x in accuracy.tolist()[:2])
                and not (accuracy[2] < 0 or accuracy[2] > 1)
                if self.num_logits > 0
                else self.num_logits == 0 and bool(accuracy.isnan().all())
            )
        )


def load_or_compute(
    trainer: Trainer,
    probe: Probe,
    datamodule: LightningDataModule,
    split: str,
    per: Per = "channel",
) -> Reference:
    """Load the statistics of a network on a reference set, or compute and cache them.

    They are cached as `reference/{key}.npz` in the logger's `save_dir`. The key is a digest of the
    network, its weights, its transform, the layers, the data (the data module's `fingerprint`;
    without one, nothing is cached), their batches, `per` and the libraries' versions. All kinds of
    standardization follow from the same moments. If an image cannot be read, nothing is
    cached: the next run may be able to read it. With the statistics, the file has a summary of the
    layers' outputs for the first samples; where these are others now, all is computed again.

    Args:
        trainer: The run.
        probe: The network and its layers.
        datamodule: Its batches have `x` and `label`, and are planned by `PlannedBatches`.
        split: The name of the split.
        per: Whether a layer has moments of each channel, or of each unit: a channel at a position.

    Raises:
        InputError: No image of the split can be read, the data do not fit the network, an
            activation is NaN or infinite, or the moments of all units do not fit into memory.
    """
    loader = getattr(datamodule, f"{split}_dataloader")()
    num_classes = getattr(datamodule, "num_classes", 0)
    if per == "unit":
        _check_size(probe, len(loader.sampler.indices), trainer.world_size)
    path, arrays, x = None, None, torch.empty(0)
    if trainer.is_global_zero:  # the others need not read the data
        determining = (num_classes, loader.sampler.batch_size, per)
        path = _find_path(trainer, probe, datamodule, split, determining)
    if path is not None:
        x = first_samples(loader).to(trainer.strategy.root_device)
        arrays = load(path, len(probe.layers))
        if arrays is not None and not probe.recognizes(x, _signs(arrays)):
            rank_zero_warn(
                f"reference: {path} has statistics of a network with other outputs; they are"
                " computed again"
            )
            arrays = None
    arrays = trainer.strategy.broadcast(arrays)
    if arrays is not None:
        return Reference.unpack(arrays)
    reference = _compute(trainer, probe, loader, split, num_classes, per)
    if path is not None and not reference.counts[_SKIPPED]:
        save(path, reference, probe.sign(x))
    return reference


def _find_path(
    trainer: Trainer,
    probe: Probe,
    datamodule: LightningDataModule,
    split: str,
    determining: tuple[int, int, Per],
) -> Path | None:
    """Return the file that caches statistics; None without a folder or a fingerprint of data.

    `determining` are the numbers of classes and of samples in a batch, and what has moments.
    """
    fingerprint = getattr(datamodule, "fingerprint", None)
    data = fingerprint(split) if fingerprint is not None else None
    if data is None:
        return None
    versions = [package_version(), *map(version, _LIBRARIES)]
    parts = (_REFERENCE_FORMAT, probe.identity, data, *determining, versions)
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    cache = find_cache(trainer, "reference")
    return None if cache is None else cache / f"{key}.npz"


def _check_size(probe: Probe, num_batches: int, num_processes: int) -> None:
    """Reject layers whose units have too many moments for the memory."""
    sizes = {layer.name: math.prod(layer.shape) for layer in probe.checked if layer.name}
    num_nodes = num_batches.bit_length() + 1  # of a `MomentTree`
    largest = max(sizes, key=lambda name: sizes[name])
    check_memory(
        2 * 8 * num_nodes * num_processes * sum(sizes.values()),
        f"per is unit: the statistics of {sum(sizes.values())} units, {sizes[largest]} of them in"
        f" {largest},",
        "choose layers with fewer, or omit `per` for those of the channels",
    )


def _signs(arrays: Mapping[str, Any]) -> list[Tensor]:
    """Return the summaries of the layers' outputs; none for those that are damaged."""
    num = sum(name.startswith(_SIGN) for name in arrays)
    signs = [arrays.get(f"{_SIGN}{k}") for k in range(num)]
    valid = all(sign is not None and (sign.dtype, sign.ndim) == ("float64", 1) for sign in signs)
    return [torch.from_numpy(sign) for sign in signs] if valid else []


def save(path: Path, reference: Reference, signs: Sequence[Tensor] = ()) -> None:
    """Cache statistics, with the digest of their arrays.

    Args:
        path: The file.
        reference: The statistics.
        signs: A summary of each layer's output for the first samples; see `Probe.sign`.

    Raises:
        OSError: The file cannot be written.
    """
    arrays = reference.pack()
    arrays |= {f"{_SIGN}{k}": sign.numpy() for k, sign in enumerate(signs)}
    write_samples(str(path.parent), path.stem, {**arrays, _DIGEST: _hash(arrays)})


def load(path: Path, num_layers: int) -> dict[str, Any] | None:
    """Load cached statistics, as plain arrays.

    The digest and the plausible ranges guard against damage, not against someone who writes
    another mean and its digest.

    Returns:
        The arrays; None if they are missing, damaged or implausible, or do not fit.
    """
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as cached:
            if sum(member.file_size for member in cached.zip.infolist()) > _MAX_SIZE:
                return None
            arrays = dict(cached)
        digest = arrays.pop(_DIGEST)
        found = Reference.unpack(arrays)
        names = {name for name in arrays if not name.startswith(_SIGN)}
        fits = names == found.pack().keys() and len(found.moments) == num_layers
        valid = np.array_equal(digest, _hash(arrays)) and fits and found.is_plausible()
    except Exception:  # numpy raises almost any error on a damaged file, which is recomputed
        return None
    return arrays if valid else None


def _hash(arrays: Mapping[str, Any]) -> Any:
    """Return the SHA-256 of arrays, their names, types and shapes; uint8, shape (32,)."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8)


def _failing(output: Tensor) -> Tensor:
    """Return which samples have activations that are not finite, shape (B,)."""
    return ~output.flatten(1).isfinite().all(1)


def _evaluate_again(probe: Probe, x: Tensor) -> dict[str, Tensor]:
    """Return which samples of a batch have activations that are not finite, by layer."""
    failing: dict[str, Tensor] = {}
    probe(x, lambda name, output: failing.__setitem__(name, _failing(output)))
    return failing


def _reject(layer: str, failing: Tensor, index: Tensor, split: str) -> NoReturn:
    failed = index[failing]
    which = f"sample {int(failed[0])}" if len(failed) else "some samples"
    raise InputError(
        f"network: {layer} outputs NaN or infinity for {which} of the reference set (split"
        f" {split}); check the weights and the data"
    )


def _compute(
    trainer: Trainer, probe: Probe, loader: Any, split: str, num_classes: int, per: Per
) -> Reference:
    """Evaluate the network on every batch, each process on its own; merge the processes."""
    device = trainer.strategy.root_device
    trees = {name: MomentTree() for name in probe.layers}
    # Whether each layer has no positions, then the number of logits.
    shapes = torch.zeros(len(probe.layers) + 1, dtype=torch.int64, device=device)
    # As `Reference.counts`, then top-1 hits, top-5 hits.
    counts = torch.zeros(_NUM_COUNTS + 2, dtype=torch.int64, device=device)
    predictions = empty_counts(0, 0, device)
    for batch_index, raw in zip(loader.sampler.indices, loader, strict=True):
        batch = trainer.strategy.batch_to_device(raw, dataloader_idx=0)
        label = batch["label"]
        counts[0] += len(label)
        counts[_SKIPPED:_NUM_COUNTS] += batch.get("image_counts", 0)
        if len(label):
            index = batch["index"]
            finite: dict[str, Tensor] = {}

            def update(
                name: str,
                output: Tensor,
                batch_index: int = batch_index,
                index: Tensor = index,
                finite: dict[str, Tensor] = finite,
            ) -> None:
                moments = channel_moments(output if per == "channel" else output.flatten(1))
                finite[name] = moments.squares.isfinite().all()
                if output.is_cpu and not finite[name]:
                    _reject(name, _failing(output), index, split)
                trees[name].update(batch_index, moments)
                shapes[probe.layers.index(name)] = output.ndim == 2

            logits = probe(batch["x"], update)
            # All layers at once: reading a value waits for a GPU, which then evaluates once more.
            all_finite = torch.stack([*finite.values()]).tolist()
            if not all(all_finite):
                layer = [*finite][all_finite.index(False)]
                _reject(layer, _evaluate_again(probe, batch["x"])[layer], index, split)
            if logits.ndim == 2:
                shapes[-1] = logits.shape[1]
                known = label >= 0
                best = logits.topk(min(_TOP, logits.shape[1])).indices
                hits = (best == label[:, None]) & known[:, None]
                counts[1] += known.sum()
                counts[_NUM_COUNTS:] += torch.stack((hits[:, 0].sum(), hits.sum()))
                if not predictions.shape[1]:
                    predictions = empty_counts(logits.shape[1], num_classes, device)
                if predictions.shape[1]:
                    count_predictions(predictions, best[:, 0], label, index)
    total = trainer.strategy.reduce(counts, reduce_op="sum").cpu()
    if trainer.world_size > 1:
        # A process that could read none of its images has zeros here.
        shapes = torch.stack(gather_all_tensors(shapes)).amax(0)
        trees = {
            name: MomentTree.unpack(*gather_all_tensors(tree.pack().to(device)))
            for name, tree in trees.items()
        }
    if not total[0]:
        raise InputError("data: none of the reference images can be read; check the files")
    *flat, num_logits = shapes.tolist()
    if not predictions.shape[1]:  # a process may have had no sample
        predictions = empty_counts(num_logits, num_classes, device)
    predictions = trainer.strategy.reduce(predictions, reduce_op="sum")
    permuted = permuted_accuracy(predictions)
    accuracy = torch.tensor([*(total[_NUM_COUNTS:].double() / total[1]), permuted]).double()
    if math.isnan(float(accuracy[0])):
        num_logits = 0
    parts = iter(download([part for tree in trees.values() for part in tree.compute()]))
    moments = [Moments(*three) for three in zip(parts, parts, parts, strict=True)]
    counts = total[:_NUM_COUNTS]
    return Reference(moments, list(map(bool, flat)), counts, accuracy, num_logits)
