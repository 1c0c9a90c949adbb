"""Samples of images, saved losslessly to a folder batch by batch.

- `manifest.json`: the format, the inversion steps, and the settings that determine the samples.
- `start/00000012.png`: x_start of sample 12.
- `k_0025/00000012.png`: its x_reversed for inversion step 25.
- `batches/00000000.json`: a finished batch, named after the first sample index planned for it: its
  sample indices, classes and names, and the SHA-256 of each image file. It is written last, so an
  unfinished batch is recomputed as a whole.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from filelock import BaseFileLock
from torch import Tensor

from lit_hier.diffusion.images import DamagedSampleError, ImageBatch, read_png, write_png
from lit_hier.errors import InputError
from lit_hier.io.atomic import atomic_write, lock_folder
from lit_hier.io.formats import SAMPLES_FORMAT, check_format
from lit_hier.io.pixels import from_levels, to_levels
from lit_hier.io.safe_read import read_file

_CHANNELS: Final = (1, 3, 4)  # that an image file can have


@dataclass(frozen=True)
class SampleStore:
    """A folder of samples.

    Attributes:
        folder: Its path.
        steps: Inversion steps, ascending, T of them.
        num_steps: Steps of the reverse process.
        settings: Settings that determine the samples besides the images and their batches, as
            plain values.
    """

    folder: Path
    steps: tuple[int, ...]
    num_steps: int
    settings: Mapping[str, Any]

    @staticmethod
    def lock(folder: str | PathLike[str]) -> BaseFileLock:
        """Lock a folder against other runs, until the lock is released or its process ends.

        Raises:
            InputError: Another run is filling it, or it cannot be created.
        """
        if not str(folder):
            raise InputError("samples is empty; give a folder, or leave it out")
        try:
            return lock_folder(Path(folder).expanduser())
        except BlockingIOError as error:
            raise InputError(
                f"samples: another run is filling {folder}; wait for it, or give another folder"
            ) from error
        except OSError as error:
            raise _unwritable(folder, error) from error

    @classmethod
    def create(
        cls,
        folder: str | PathLike[str],
        steps: Sequence[int],
        num_steps: int,
        settings: Mapping[str, Any],
    ) -> "SampleStore":
        """Create a folder, or open one of the same settings.

        Raises:
            InputError: The folder has samples of other settings, or cannot be created.
        """
        path = Path(folder).expanduser()
        store = cls(path, tuple(steps), num_steps, _plain(settings))
        manifest = path / "manifest.json"
        if not manifest.exists():
            try:
                store._write(manifest, store._description())
            except OSError as error:
                raise _unwritable(folder, error) from error
            return store
        found = cls.open(folder)
        new, old = store._description(), found._description()
        for name in new.keys() | old.keys():
            if new.get(name) != old.get(name):
                raise InputError(
                    f"samples: {folder} holds samples of another run, with"
                    f" {name}={old.get(name)}, not {new.get(name)}; give another folder"
                )
        return found

    @classmethod
    def open(cls, folder: str | PathLike[str]) -> "SampleStore":
        """Open a folder to read from it.

        Raises:
            InputError: There is no such folder, or its manifest is damaged or of another format.
        """
        path = Path(folder).expanduser()
        try:
            manifest = json.loads(read_file(path / "manifest.json"))
            source = f"samples: {path / 'manifest.json'}"
            check_format(manifest.pop("format"), SAMPLES_FORMAT, source)
            steps = tuple(int(k) for k in manifest.pop("steps"))
            if not steps or min(steps) < 0:
                raise ValueError
            return cls(path, steps, int(manifest.pop("num_steps")), manifest)
        except OSError as error:
            raise InputError(
                f"samples: cannot read {path / 'manifest.json'}: {error.strerror}; give the folder"
                " that a DDPMSampler filled"
            ) from error
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"samples: {path / 'manifest.json'} is damaged; give another folder"
            ) from error

    @property
    def _subfolders(self) -> list[str]:
        """Subfolders of image files: of x_start, then of each inversion step."""
        return ["start", *map(_subfolder, self.steps)]

    def _description(self) -> dict[str, Any]:
        numbers = {
            "format": SAMPLES_FORMAT,
            "steps": list(self.steps),
            "num_steps": self.num_steps,
        }
        return {**numbers, **self.settings}

    def finished(self, planned: Tensor) -> bool:
        """Return whether a batch was saved.

        Args:
            planned: The sample indices planned for it, int64, shape (P,), P at least 1.

        Raises:
            InputError: A saved batch begins with the same sample but has other ones.
        """
        batch = self._batch(int(planned[0]))
        if batch is None:
            return False
        if batch["planned"] != planned.tolist():
            raise InputError(
                f"samples: {self.folder} has batches of other samples, such as one of"
                f" {len(batch['planned'])} where this run has {len(planned)}; give the data module"
                " the arguments of the run that filled it, or another folder"
            )
        return True

    def save(self, images: ImageBatch, x_reversed: Tensor) -> None:
        """Save a batch.

        Args:
            images: The images x_start.
            x_reversed: Their samples, of 256 levels, shape (T, B, C, H, W).

        Raises:
            InputError: Image files do not support this number of channels.
        """
        x_start = images.x_start
        if x_start.shape[1] not in _CHANNELS:
            raise InputError(
                f"samples: image files have 1, 3 or 4 channels, not {x_start.shape[1]}; leave out"
                " samples"
            )
        levels = to_levels(torch.cat((x_start[None], x_reversed))).cpu().numpy()
        index = images.index.tolist()
        jobs = [
            (self._path(subfolder, sample), levels[row, column])
            for row, subfolder in enumerate(self._subfolders)
            for column, sample in enumerate(index)
        ]
        for subfolder in self._subfolders:
            (self.folder / subfolder).mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor() as threads:
            digests = list(threads.map(write_png, *zip(*jobs, strict=True)))
        num = len(index)
        planned = images.planned.tolist()
        batch = {
            "planned": planned,
            "index": index,
            "label": images.label.tolist(),
            "name": list(images.names),
            "sha256": {
                subfolder: digests[row * num : (row + 1) * num]
                for row, subfolder in enumerate(self._subfolders)
            },
        }
        self._write(self._batch_path(planned[0]), batch)

    def load(self, images: ImageBatch, steps: Sequence[int] | None = None) -> Tensor:
        """Read the samples of images, in the batches that were saved or in others.

        Args:
            images: The images x_start.
            steps: Some of the inversion steps; all by default.

        Returns:
            x_reversed, float32, shape (T, B, C, H, W).

        Raises:
            DamagedSampleError: An image file is missing or damaged.
            InputError: The folder has samples of other images.
        """
        chosen = self.steps if steps is None else steps
        subfolders = ["start", *map(_subfolder, chosen)]
        digests = self._digests_of(images)
        jobs = [
            (self._path(subfolder, sample), digests[sample][subfolder])
            for subfolder in subfolders
            for sample in images.index.tolist()
        ]
        with ThreadPoolExecutor() as threads:
            arrays = list(threads.map(read_png, *zip(*jobs, strict=True)))
        levels = torch.from_numpy(np.stack(arrays)).unflatten(0, (len(subfolders), -1))
        start = to_levels(images.x_start).cpu()
        if levels[0].shape != start.shape or not torch.equal(levels[0], start):
            raise InputError(
                f"samples: {self.folder} holds samples of other images, in the batch of sample"
                f" {int(images.index[0])}; give the data module the arguments of the run that"
                " filled it, or another folder"
            )
        return from_levels(levels[1:])

    def _digests_of(self, images: ImageBatch) -> dict[int, dict[str, str]]:
        """Return the SHA-256 of the image files of a batch, by sample and subfolder."""
        index, batch = images.index.tolist(), self._batch(int(images.planned[0]))
        batches = [batch]
        if batch is None or batch["planned"] != images.planned.tolist():
            firsts = {self._batch_of[sample] for sample in index if sample in self._batch_of}
            batches = [self._batch(first) for first in firsts]
        parts = [self._digests(batch) for batch in batches if batch is not None]
        found = {sample: digests for part in parts for sample, digests in part.items()}
        for sample in index:
            if sample not in found:
                raise DamagedSampleError(
                    f"samples: {self.folder} has no sample {sample}; let the run that fills it"
                    " finish first"
                )
        return found

    @cached_property
    def _batch_of(self) -> dict[int, int]:
        """The first sample of each sample's batch; whole records would fill the memory."""
        stems = [path.stem for path in (self.folder / "batches").glob("*.json")]
        batches = ((int(k), self._batch(int(k))) for k in stems if k.isdecimal())
        return {sample: first for first, batch in batches if batch for sample in batch["index"]}

    def _digests(self, batch: Mapping[str, Any]) -> dict[int, dict[str, str]]:
        return {
            sample: {name: batch["sha256"][name][column] for name in self._subfolders}
            for column, sample in enumerate(batch["index"])
        }

    def _batch(self, first: int) -> dict[str, Any] | None:
        """Read the record of a finished batch; None if it is not finished."""
        try:
            batch: dict[str, Any] = json.loads(read_file(self._batch_path(first)))
            num = len(batch["index"])
            complete = all(type(sample) is int for sample in batch["index"]) and all(
                len(batch["sha256"][subfolder]) == num for subfolder in self._subfolders
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return batch if complete and batch.get("planned") else None

    def _batch_path(self, first: int) -> Path:
        return self.folder / "batches" / f"{first:08d}.json"

    def _path(self, subfolder: str, sample: int) -> Path:
        return self.folder / subfolder / f"{sample:08d}.png"

    @staticmethod
    def _write(path: Path, content: Mapping[str, Any]) -> None:
        with atomic_write(path) as file:
            file.write(json.dumps(content, indent=1).encode() + b"\n")


def _unwritable(folder: str | PathLike[str], error: OSError) -> InputError:
    return InputError(f"samples: cannot write into {folder}: {error.strerror}; give another")


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON restores them."""

    def plain(value: Any) -> Any:
        return value.tolist() if hasattr(value, "tolist") else str(value)

    restored: dict[str, Any] = json.loads(json.dumps(values, default=plain))
    return restored


def _subfolder(step: int) -> str:
    """Return the subfolder of an inversion step."""
    return f"k_{step:04d}"
