"""Samples of images, saved losslessly to a folder batch by batch.

- `manifest.json`: the format, the inversion steps, and the settings that determine the samples.
- `start/00000012.png`: x_start of sample 12.
- `k_0025/00000012.png`: its x_reversed for inversion step 25.
- `batches/00000000.json`: a finished batch, named after the first sample index planned for it: its
  sample indices, classes and names, and the SHA-256 of each image file. It is written last, so an
  unfinished batch is recomputed as a whole.

Links to the folder are followed, inside it none is. The SHA-256 guards against damage, not against
someone who writes both files.
"""

import json
import os
import re
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
from PIL import Image
from torch import Tensor

from lit_hier.diffusion.images import MODES, DamagedSampleError, ImageBatch, read_png, write_png
from lit_hier.errors import InputError, one_line
from lit_hier.io.atomic import atomic_write, lock_folder, remove_temporaries
from lit_hier.io.formats import SAMPLES_FORMAT, check_format
from lit_hier.io.pixels import from_levels, to_levels
from lit_hier.io.safe_read import fits, open_regular, read_file, read_json, reading

_MANIFEST_NAME: Final = "manifest.json"
_FILES: Final = rf"{re.escape(_MANIFEST_NAME)}|\d{{8,}}\.(?:json|png)"  # their names
_MAX_MANIFEST: Final = 2**20  # bytes
_MAX_BATCH: Final = 2**25  # bytes of a record
_MAX_STEP: Final = 10**6


def _is_index(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_STEP


def _are_steps(value: Any) -> bool:
    return bool(value) and fits(value, [_is_step]) and value == sorted(set(value))


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_setting(value: Any, depth: int = 3) -> bool:
    """Return whether a value is plain, or a list or dict of such values."""
    if isinstance(value, list | dict):
        values = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_is_setting(part, depth - 1) for part in values)
    return True


_MANIFEST: Final = {"format": int, "steps": _are_steps, "num_steps": _is_step}
_BATCH: Final = {"planned": [_is_index], "index": [_is_index], "label": [int], "name": [str]}


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

        Unfinished files that a killed run has left are removed.

        Raises:
            InputError: Another run is filling it, or it cannot be created.
        """
        if not str(folder):
            raise InputError("samples is empty; give a folder, or leave it out")
        try:
            path = Path(folder).expanduser()
            lock = lock_folder(path)
            for subfolder in (path, *path.iterdir()):
                remove_temporaries(subfolder, _FILES)
            return lock
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
        manifest = path / _MANIFEST_NAME
        begun = any((path / "batches").glob("*.json"))  # the manifest is older than any batch
        if not os.path.lexists(manifest):
            if begun:
                raise InputError(
                    f"samples: {folder} has batches of samples, but no {_MANIFEST_NAME} that tells"
                    " their run; give another folder"
                )
            try:
                store._write(manifest, store._description())
            except OSError as error:
                raise _unwritable(folder, error) from error
            store._check_folders()
            return store
        found = cls.open(folder)
        new, old = store._description(), found._description()
        for name in new.keys() | old.keys():
            if new.get(name) != old.get(name):
                raise InputError(
                    f"samples: {folder} holds samples of another run, with {one_line(name):.60}="
                    f"{one_line(old.get(name)):.60}, not {one_line(new.get(name)):.60}; give"
                    " another folder"
                )
        return found

    @classmethod
    def open(cls, folder: str | PathLike[str]) -> "SampleStore":
        """Open a folder to read from it.

        Raises:
            InputError: There is no such folder, its manifest is damaged or of another format, or
                a subfolder is a link.
        """
        path = Path(folder).expanduser()
        source = path / _MANIFEST_NAME
        with reading("samples", source, "give the folder that a DDPMSampler filled"):
            manifest = read_json(read_file(source, _MAX_MANIFEST, follow=False), dict)
            check_format(manifest["format"], SAMPLES_FORMAT, f"samples: {source}")
            if not fits(manifest, _MANIFEST) or not all(map(_is_setting, manifest.values())):
                raise ValueError
            del manifest["format"]
            steps, num_steps = tuple(manifest.pop("steps")), manifest.pop("num_steps")
            if steps[-1] > num_steps:
                raise ValueError
        store = cls(path, steps, num_steps, manifest)
        store._check_folders()
        return store

    def _check_folders(self) -> None:
        """Check that no subfolder is a link, through which the run would read or write elsewhere.

        Raises:
            InputError: One is a link, or not a folder.
        """
        for name in ("batches", *self._subfolders):
            path = self.folder / name
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                raise InputError(
                    f"samples: {path} is a link or a file, where the samples need a folder of"
                    " their own; remove it, or give another folder"
                )

    @property
    def _subfolders(self) -> list[str]:
        """Subfolders of image files: of x_start, then of each inversion step."""
        return ["start", *map(_subfolder, self.steps)]

    @property
    def image_size(self) -> int | None:
        """Pixels per side of the saved images; `None` if there are none or not square."""
        try:
            first = next(self.folder.joinpath("start").glob("*.png"))
            with open_regular(first, follow=False) as file:
                width, height = Image.open(file, formats=("PNG",)).size
        except Exception:  # PIL may raise anything; a damaged file is found when it is loaded
            return None
        return int(width) if width == height else None

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
        if x_start.shape[1] not in MODES:
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
        self._check_folders()
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

    def count_bytes(self, index: Tensor) -> int:
        """Count the bytes of the image files of samples, int64, shape (B,)."""
        paths = (self._path(name, k) for name in self._subfolders for k in index.tolist())
        return sum(path.stat().st_size for path in paths if path.is_file())

    def load(self, images: ImageBatch, steps: Sequence[int] | None = None) -> Tensor:
        """Read the samples of images, in the batches that were saved or in others.

        Args:
            images: The images x_start.
            steps: Some of the inversion steps; all by default.

        Returns:
            x_reversed, float32, shape (T, B, C, H, W).

        Raises:
            DamagedSampleError: An image file is missing, damaged or a link, or does not have the
                size of the images.
            InputError: The folder has samples of other images.
        """
        self._check_folders()
        chosen = self.steps if steps is None else steps
        subfolders = ["start", *map(_subfolder, chosen)]
        digests = self._digests_of(images)
        shape = tuple(images.x_start.shape[1:])
        jobs = [
            (self._path(subfolder, sample), digests[sample][subfolder], shape)
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
        """Read the record of a finished batch; None if it is not finished, or damaged."""
        digests = {subfolder: [_is_digest] for subfolder in self._subfolders}
        try:
            content = read_file(self._batch_path(first), _MAX_BATCH, follow=False)
            batch: dict[str, Any] = read_json(content, {**_BATCH, "sha256": digests})
        except (OSError, ValueError):
            return None
        planned, index = batch["planned"], batch["index"]
        columns = [batch["label"], batch["name"] or index, *batch["sha256"].values()]
        complete = (
            planned[:1] == [first]
            and len(set(planned)) == len(planned)
            and len(set(index)) == len(index)
            and set(index) <= set(planned)
            and all(len(column) == len(index) for column in columns)
        )
        return batch if complete else None

    def _batch_path(self, first: int) -> Path:
        return self.folder / "batches" / f"{first:08d}.json"

    def _path(self, subfolder: str, sample: int) -> Path:
        return self.folder / subfolder / f"{sample:08d}.png"

    @staticmethod
    def _write(path: Path, values: Mapping[str, Any]) -> None:
        content = json.dumps(values, indent=1).encode() + b"\n"
        if len(content) > _MAX_BATCH:  # it would not be read again
            raise InputError(
                "samples: a batch has too many samples and times to be kept; give a smaller"
                " eval_batch_size, or leave out samples"
            )
        with atomic_write(path) as file:
            file.write(content)


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
