"""Samples of images, kept in a folder as they are made, without loss.

- `manifest.json`: the inversion steps, and what decided the samples.
- `start/00000012.png`: x_start of sample 12.
- `k_0025/00000012.png`: its x_reversed for inversion step 25.
- `batches/00000000.json`: a finished batch, named after its first sample: its sample indices and
  classes, and the SHA-256 of each of its pictures. It is written last: a batch is there whole, or
  it is made again whole.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lit_hier.errors import InputError
from lit_hier.pixels import from_levels, to_levels
from lit_hier.whole_files import whole_file

_FORMAT: Final = 1
_MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}


class DamagedSampleError(InputError):
    """A picture of a finished batch is missing, or is not as it was written."""


@dataclass(frozen=True)
class SampleStore:
    """A folder of samples.

    Attributes:
        folder: Where it is.
        steps: Inversion steps, ascending, T of them.
        num_steps: Of the reverse process.
        decided_by: What decides the samples, beside the images and their batches: plain values.
    """

    folder: Path
    steps: tuple[int, ...]
    num_steps: int
    decided_by: Mapping[str, Any]

    @classmethod
    def create(
        cls,
        folder: str | PathLike[str],
        steps: Sequence[int],
        num_steps: int,
        decided_by: Mapping[str, Any],
    ) -> "SampleStore":
        """Begin a folder, or go on with one that was begun in the same way.

        Raises:
            InputError: The folder has samples of another run.
        """
        given = cls(Path(folder), tuple(steps), num_steps, _plain(decided_by))
        if not given._manifest.exists():
            given._write(given._manifest, given._description())
            return given
        found = cls.open(folder)
        mine, theirs = given._description(), found._description()
        for name in mine.keys() | theirs.keys():
            if mine.get(name) != theirs.get(name):
                raise InputError(
                    f"samples: {folder} holds samples of another run, with"
                    f" {name}={theirs.get(name)}, not {mine.get(name)}; give another folder"
                )
        return found

    @classmethod
    def open(cls, folder: str | PathLike[str]) -> "SampleStore":
        """Open a folder to read from it.

        Raises:
            InputError: There is no such folder, or it has no readable manifest.
        """
        path = Path(folder)
        try:
            manifest = json.loads((path / "manifest.json").read_bytes())
            steps = tuple(int(k) for k in manifest.pop("steps"))
            if manifest.pop("format") != _FORMAT or not steps or min(steps) < 0:
                raise ValueError
            return cls(path, steps, int(manifest.pop("num_steps")), manifest)
        except OSError as error:
            raise InputError(
                f"samples: cannot read {path / 'manifest.json'}: {error.strerror}; give the folder"
                " that a DDPMSampler filled"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"samples: {path / 'manifest.json'} is damaged or of another version of lit-hier;"
                " give another folder"
            ) from error

    @property
    def _manifest(self) -> Path:
        return self.folder / "manifest.json"

    @property
    def _places(self) -> list[str]:
        """Folders of the pictures: of x_start, then of each inversion step."""
        return ["start", *(f"k_{k:04d}" for k in self.steps)]

    def _description(self) -> dict[str, Any]:
        numbers = {"format": _FORMAT, "steps": list(self.steps), "num_steps": self.num_steps}
        return {**numbers, **self.decided_by}

    def finished(self, index: Tensor) -> bool:
        """Say whether a batch was kept whole.

        Args:
            index: Its sample indices, int64, shape (B,), B at least 1.

        Raises:
            InputError: A batch was kept that begins with the same sample and has others.
        """
        batch = self._batch(int(index[0]))
        if batch is None:
            return False
        if batch["index"] != index.tolist():
            raise InputError(
                f"samples: {self.folder} has batches of other samples, such as one of"
                f" {len(batch['index'])} where this run has {len(index)}; give the data module the"
                " arguments of the run that filled it, or another folder"
            )
        return True

    def save(self, index: Tensor, label: Tensor, x_start: Tensor, x_reversed: Tensor) -> None:
        """Keep a batch.

        Args:
            index: Sample indices, int64, shape (B,).
            label: Classes, int64, shape (B,).
            x_start: Images in [-1, 1], of 256 levels, shape (B, C, H, W).
            x_reversed: Likewise, shape (T, B, C, H, W).

        Raises:
            InputError: Pictures cannot have so many channels.
        """
        if x_start.shape[1] not in _MODES:
            raise InputError(
                f"samples: pictures have 1, 3 or 4 channels, not {x_start.shape[1]}; leave it out"
            )
        pictures = to_levels(torch.cat((x_start[None], x_reversed))).cpu().numpy()
        jobs = [
            (self._path(place, sample), pictures[row, column])
            for row, place in enumerate(self._places)
            for column, sample in enumerate(index.tolist())
        ]
        for place in self._places:
            (self.folder / place).mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor() as threads:
            digests = list(threads.map(_write_picture, *zip(*jobs, strict=True)))
        num = len(index)
        files = {
            place: digests[row * num : (row + 1) * num] for row, place in enumerate(self._places)
        }
        batch = {"index": index.tolist(), "label": label.tolist(), "sha256": files}
        self._write(self._batch_path(int(index[0])), batch)

    def load(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Read samples back.

        Args:
            index: Any sample indices, int64, shape (B,), B at least 1.

        Returns:
            x_start, float32, shape (B, C, H, W), and x_reversed, shape (T, B, C, H, W).

        Raises:
            DamagedSampleError: One is missing, or its file is not as it was written.
        """
        batches = self._batches(index)
        jobs = [
            (self._path(place, sample), batches[sample][place])
            for place in self._places
            for sample in index.tolist()
        ]
        with ThreadPoolExecutor() as threads:
            pictures = list(threads.map(_read_picture, *zip(*jobs, strict=True)))
        x = from_levels(torch.from_numpy(np.stack(pictures)))
        x = x.unflatten(0, (len(self._places), len(index)))
        return x[0], x[1:]

    def load_of(self, x_start: Tensor, index: Tensor) -> Tensor:
        """Read the samples of given images back.

        Args:
            x_start: The images that were turned round, shape (B, C, H, W).
            index: Their sample indices, int64, shape (B,).

        Returns:
            x_reversed, as `load` does.

        Raises:
            DamagedSampleError: See `load`.
            InputError: The folder has samples of other images.
        """
        kept, x_reversed = self.load(index)
        given = x_start.cpu()
        if kept.shape != given.shape or not torch.equal(kept, given):
            raise InputError(
                f"samples: {self.folder} holds samples of other images, in the batch of sample"
                f" {int(index[0])}; give the data module the arguments of the run that filled it,"
                " or another folder"
            )
        return x_reversed

    def _batches(self, index: Tensor) -> dict[int, dict[str, str]]:
        """Find what the pictures of samples must be, by sample and place."""
        first = self._batch(int(index[0]))
        found: dict[int, dict[str, str]] = {}
        if first is None or first["index"] != index.tolist():  # batches of another size
            paths = sorted((self.folder / "batches").glob("*.json"))
            kept = [self._batch(int(path.stem)) for path in paths if path.stem.isdecimal()]
        else:
            kept = [first]
        for batch in kept:
            for column, sample in enumerate(batch["index"] if batch else ()):
                assert batch is not None
                found[sample] = {place: batch["sha256"][place][column] for place in self._places}
        for sample in index.tolist():
            if sample not in found:
                raise DamagedSampleError(
                    f"samples: {self.folder} has no sample {sample}; let the run that fills it"
                    " finish first"
                )
        return found

    def _batch(self, first: int) -> dict[str, Any] | None:
        """Read what is known of a finished batch; None if it is not finished."""
        try:
            batch: dict[str, Any] = json.loads(self._batch_path(first).read_bytes())
            whole = all(len(batch["sha256"][place]) == len(batch["index"])
                        for place in self._places)  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return batch if whole and batch["index"] else None

    def _batch_path(self, first: int) -> Path:
        return self.folder / "batches" / f"{first:08d}.json"

    def _path(self, place: str, sample: int) -> Path:
        return self.folder / place / f"{sample:08d}.png"

    @staticmethod
    def _write(path: Path, content: Mapping[str, Any]) -> None:
        with whole_file(path) as file:
            file.write(json.dumps(content, indent=1).encode() + b"\n")


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give values as JSON gives them back."""
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain


def _write_picture(path: Path, levels: Any) -> str:
    """Write a picture, uint8, (C, H, W); give its SHA-256."""
    image = Image.fromarray(levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, -1))
    buffer = io.BytesIO()
    image.save(buffer, format="png", compress_level=1)
    path.write_bytes(buffer.getbuffer())
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


def _read_picture(path: Path, digest: str) -> Any:
    """Read a picture, uint8, (C, H, W), if it is the one that was written."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedSampleError(f"samples: cannot read {path}: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise DamagedSampleError(
            f"samples: {path} is damaged; a DDPMSampler with this folder makes it anew"
        )
    levels = np.asarray(Image.open(io.BytesIO(content)))
    return levels[None] if levels.ndim == 2 else np.moveaxis(levels, -1, 0)
