"""A folder of samples: they are restored exactly, or the error says why not."""

import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image
from sample_stores import SETTINGS, STEPS, batch, filled, images

from lit_hier.diffusion.images import DamagedSampleError
from lit_hier.diffusion.store import SampleStore
from lit_hier.errors import InputError


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_samples_are_restored_exactly_in_any_batch(tmp_path: Path, channels: int) -> None:
    _, x_start, x_reversed = filled(tmp_path / "samples", channels)
    store = SampleStore.open(tmp_path / "samples")
    assert store.steps == STEPS
    for chosen in ([4, 5, 6, 7, 8], [9, 10], [10, 4, 7], [6]):
        columns = [sample - 4 for sample in chosen]
        start = batch(x_start, chosen)
        assert torch.equal(store.load(start), x_reversed[:, columns])
        assert torch.equal(store.load(start, [25, 3]), x_reversed[[2, 1]][:, columns])
    saved = np.asarray(Image.open(tmp_path / "samples/k_0003/00000006.png"))
    assert saved.shape[:2] == (6, 5)
    levels = (x_reversed[1, 2] + 1) * 127.5
    assert np.array_equal(np.atleast_3d(saved), levels.round().movedim(0, -1).numpy())
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        "batches", "k_0000", "k_0003", "k_0025", "manifest.json", "start",
    ]  # fmt: skip


def test_a_batch_is_finished_when_its_record_is_complete(tmp_path: Path) -> None:
    store, *_ = filled(tmp_path)
    assert store.finished(torch.arange(4, 9))
    assert store.finished(torch.arange(9, 12))
    assert not store.finished(torch.arange(12, 13))
    with pytest.raises(InputError, match=r"^samples: .* one of 5 where this run has 3; give"):
        store.finished(torch.arange(4, 7))
    with pytest.raises(DamagedSampleError, match=r"^samples: .* has no sample 11; let the run"):
        store.load(batch(images(8, 3, 6, 5), [9, 11]))
    for content in (b"", b"{", b"[]", b"{}", b'{"index": [9, 10], "sha256": {}}'):
        (tmp_path / "batches/00000009.json").write_bytes(content)
        assert not store.finished(torch.arange(9, 12))


def test_a_batch_is_recomputed_when_more_images_are_readable(tmp_path: Path) -> None:
    """Its record then describes the new samples."""
    store, _, _ = filled(tmp_path)
    x_start, x_reversed = images(8, 3, 6, 5), images(3, 3, 3, 6, 5, seed=2)
    longer = batch(x_start, [9, 10, 11])
    with pytest.raises(DamagedSampleError, match=r"has no sample 11"):
        store.load(longer)
    store.save(longer, x_reversed)
    assert torch.equal(store.load(longer), x_reversed)
    restored = SampleStore.open(tmp_path).load(batch(x_start, [10]))
    assert torch.equal(restored, x_reversed[:, 1:2])
    assert len(list((tmp_path / "batches").iterdir())) == 2


def test_the_record_lists_samples_classes_and_names(tmp_path: Path) -> None:
    filled(tmp_path)
    record = json.loads((tmp_path / "batches/00000009.json").read_text())
    assert record["index"] == [9, 10]
    assert record["planned"] == [9, 10, 11]
    assert record["label"] == [0, 1]
    assert record["name"] == ["9.png", "10.png"]


def test_rounding_of_the_start_does_not_matter(tmp_path: Path) -> None:
    """A GPU may convert the same levels to slightly different floats."""
    store, x_start, x_reversed = filled(tmp_path)
    rounded = batch(x_start + 2**-24, [4, 5, 6, 7, 8])
    assert torch.equal(store.load(rounded), x_reversed[:, :5])


@pytest.mark.parametrize("subfolder", ["start", "k_0000", "k_0003", "k_0025"])
@pytest.mark.parametrize("damage", ["truncated", "missing", "empty", "swapped", "one bit"])
def test_damage_to_any_image_file_is_detected(tmp_path: Path, subfolder: str, damage: str) -> None:
    store, x_start, _ = filled(tmp_path)
    path = tmp_path / subfolder / "00000007.png"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        other = (path.parent / "00000008.png").read_bytes()
        flipped = bytes([*content[:-20], content[-20] ^ 1, *content[-19:]])
        new = {"truncated": content[: len(content) // 2], "empty": b"", "swapped": other}
        path.write_bytes(new.get(damage, flipped))
    with pytest.raises(
        DamagedSampleError, match=rf"^samples: [^\n]*{subfolder}/00000007.png[^\n]*$"
    ):
        store.load(batch(x_start, [4, 5, 6, 7, 8]))
    store.load(batch(x_start, [9, 10], [9, 10, 11]))


def test_samples_of_another_run_or_of_other_images_are_rejected(tmp_path: Path) -> None:
    store, x_start, x_reversed = filled(tmp_path)
    assert SampleStore.create(tmp_path, STEPS, 25, SETTINGS) == store
    for other, difference in (
        ((STEPS[:2], 25, SETTINGS), "steps="),
        ((STEPS, 50, SETTINGS), "num_steps=25, not 50"),
        ((STEPS, 25, SETTINGS | {"seed": 1}), "seed=0, not 1"),
        ((STEPS, 25, SETTINGS | {"more": 1}), "more=None, not 1"),
    ):
        with pytest.raises(InputError, match=rf"^samples: .* of another run, with {difference}"):
            SampleStore.create(tmp_path, *other)
    assert torch.equal(store.load(batch(x_start, [4, 5])), x_reversed[:, :2])
    for others in (x_start[1:6], x_start[:5, :1], x_start[:5] + 2 / 255):
        with pytest.raises(InputError, match=r"^samples: .* samples of other images"):
            store.load(batch(others, [4, 5, 6, 7, 8]))


@pytest.mark.parametrize(
    "manifest",
    [
        None, "", "{", "[]", "{}", '{"format": "1", "steps": [1], "num_steps": 5}',
        '{"format": 1, "steps": [], "num_steps": 5}', '{"format": 1, "steps": ["../x"]}',
        '{"format": 1, "steps": [-1], "num_steps": 5}', '{"format": 1, "steps": 5}',
    ],
)  # fmt: skip
def test_missing_or_damaged_manifests_are_rejected(tmp_path: Path, manifest: Any) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    message = r"^samples: [^\n]*manifest.json( is damaged| has a damaged |: No such)[^\n]*$"
    with pytest.raises(InputError, match=message):
        SampleStore.open(tmp_path)


def test_a_manifest_of_another_format_is_rejected_with_that_reason(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": 2, "more": [1]}')
    message = (
        r"^samples: .*manifest.json has format 2, but this version of lit-hier reads format 1;"
    )
    with pytest.raises(InputError, match=message):
        SampleStore.open(tmp_path)


def test_a_record_cannot_name_files_outside_the_folder(tmp_path: Path) -> None:
    store, x_start, _ = filled(tmp_path / "samples")
    record = json.loads((tmp_path / "samples/batches/00000009.json").read_text())
    record["index"] = ["../../outside", 10]
    (tmp_path / "samples/batches/00000009.json").write_text(json.dumps(record))
    with pytest.raises(DamagedSampleError, match="has no sample 9"):
        store.load(batch(x_start, [9, 10], [9, 10, 11]))


def test_images_of_other_channels_are_rejected(tmp_path: Path) -> None:
    store = SampleStore.create(tmp_path, STEPS, 25, SETTINGS)
    with pytest.raises(InputError, match=r"^samples: image files have 1, 3 or 4 channels, not 2"):
        store.save(batch(images(2, 2, 4, 4), [4, 5]), images(3, 2, 2, 4, 4))
    assert not list(tmp_path.rglob("*.png"))


def test_invalid_folders_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder, message in (
        ("", "samples is empty; give a folder"),
        (tmp_path / "file", "samples: cannot write into .*file: .*; give another"),
        (tmp_path / "file/inside", "samples: cannot write into .*; give another"),
    ):
        with pytest.raises(InputError, match=rf"^{message}"):
            SampleStore.lock(folder)
    for folder in (tmp_path / "file", tmp_path / "file/inside"):
        with pytest.raises(InputError, match=r"^samples: cannot (write into|read) .*file.*; give"):
            SampleStore.create(folder, STEPS, 25, SETTINGS)


def replace(folder: Path, content: bytes) -> None:
    """Replace an image file of sample 9, and its SHA-256."""
    (folder / "k_0003/00000009.png").write_bytes(content)
    path = folder / "batches/00000009.json"
    record = json.loads(path.read_text())
    record["sha256"]["k_0003"][0] = hashlib.sha256(content).hexdigest()
    path.write_text(json.dumps(record))


def encoded(mode: str, size: tuple[int, int], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\n%%EndComments\n(x) print\n%%EOF\n",
        *(encoded("RGB", (5, 6), kind) for kind in ("BMP", "GIF", "JPEG", "TIFF")),
        encoded("RGB", (5, 6))[:40],
        *(encoded(mode, (5, 6)) for mode in ("1", "L", "P", "RGBA", "I;16")),
        *(encoded("RGB", size) for size in ((6, 5), (4000, 4000))),
    ],
    ids=range(13),
)  # fmt: skip
def test_only_png_of_the_images_size_and_mode_is_decoded(tmp_path: Path, content: bytes) -> None:
    """Whatever its SHA-256: PIL would run Ghostscript on PostScript, whatever its suffix."""
    store, x_start, _ = filled(tmp_path)
    replace(tmp_path, content)
    with (
        patch.object(EpsImagePlugin, "Ghostscript", side_effect=AssertionError),
        pytest.raises(InputError, match=r"^samples: \S+k_0003/00000009\.png [^\n]{,300}$"),
    ):
        store.load(batch(x_start, [9, 10], [9, 10, 11]))


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("name", ["k_0003/00000009.png", "batches/00000009.json"])
def test_links_to_files_inside_are_replaced_and_not_followed(
    tmp_path: Path, name: str, broken: bool
) -> None:
    store, x_start, x_reversed = filled(tmp_path / "samples")
    outside, link = tmp_path / "outside", tmp_path / "samples" / name
    link.rename(outside)
    if broken:
        outside.unlink()
    link.symlink_to(outside)
    before = None if broken else outside.read_bytes()
    given = batch(x_start, [9, 10], [9, 10, 11])
    with pytest.raises(DamagedSampleError):
        store.load(given)
    store.save(given, x_reversed[:, 5:])
    assert torch.equal(store.load(given), x_reversed[:, 5:])
    assert not link.is_symlink()
    assert (outside.read_bytes() if outside.exists() else None) == before


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("name", ["start", "k_0025", "batches"])
def test_links_to_folders_inside_are_rejected(tmp_path: Path, name: str, exists: bool) -> None:
    store, x_start, x_reversed = filled(tmp_path / "samples")
    outside, link = tmp_path / "outside", tmp_path / "samples" / name
    link.rename(outside if exists else tmp_path / "moved")
    link.symlink_to(outside)
    before = sorted(tmp_path.glob("outside/*"))
    given = batch(x_start, [9, 10], [9, 10, 11])
    for use in (
        lambda: SampleStore.open(tmp_path / "samples"),
        lambda: SampleStore.create(tmp_path / "samples", STEPS, 25, SETTINGS),
        lambda: store.load(given),
        lambda: store.save(given, x_reversed[:, 5:]),
    ):
        with pytest.raises(InputError, match=rf"^samples: \S+{name} is a link or a file, where"):
            use()
    assert sorted(tmp_path.glob("outside/*")) == before


def test_links_to_the_folder_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "logs").symlink_to("disk")
    store, x_start, x_reversed = filled(tmp_path / "logs/samples")
    SampleStore.lock(tmp_path / "logs/samples").release(force=True)
    assert torch.equal(store.load(batch(x_start, [5])), x_reversed[:, 1:2])
    assert (tmp_path / "disk/samples/.lock").is_file()


@pytest.mark.parametrize("make", [
    lambda path: path.symlink_to(path.parent.parent / "outside"),
    os.mkfifo,
    Path.mkdir,
])  # fmt: skip
def test_a_lock_or_manifest_that_is_no_file_is_rejected(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    make(folder / ".lock")
    with pytest.raises(InputError, match=r"^samples: cannot write into .*not a regular file"):
        SampleStore.lock(folder)
    make(folder / "manifest.json")
    with pytest.raises(InputError, match=r"^samples: cannot read \S+manifest\.json: "):
        SampleStore.create(folder, STEPS, 25, SETTINGS)
    assert not (tmp_path / "outside").exists()


def test_batches_without_a_manifest_are_not_adopted(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"^samples: .* has batches of samples, but no manifest"):
        SampleStore.create(tmp_path, STEPS, 25, SETTINGS)


DEEP = "[" * 100_000
VALUES = ("true", "null", "-1", "1e400", "1e9", '"x"', "[[0]]", "{}", "9" * 400, "9" * 9000, DEEP)


@pytest.mark.parametrize("key", ["format", "steps", "num_steps", "seed"])
@pytest.mark.parametrize("value", [*VALUES, "[0, true]", "[3, 0]", "[0, 0]", "[0, 6]", "[0, 1.0]"],
                         ids=range(16))  # fmt: skip
def test_odd_values_in_a_manifest_are_rejected(tmp_path: Path, key: str, value: str) -> None:
    values = {"format": "1", "steps": "[0, 3]", "num_steps": "5", "seed": "0", key: value}
    text = ", ".join(f'"{name}": {given}' for name, given in values.items())
    (tmp_path / "manifest.json").write_text(f"{{{text}}}")
    with pytest.raises(InputError, match=r"^samples: [^\n]{,340}$"):
        SampleStore.create(tmp_path, (0, 3), 5, {"seed": 7})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("planned", x) for x in ([], [True], [9.0], [9, 9], [10], [-9], [2**70], "9", [[9]])),
        *(("index", x) for x in ([9], [9, 9], [9, 12], [9, True], ["9", 10], None, {})),
        *(("label", x) for x in ([0], [0, None], [0, 1e400], 0)),
        *(("name", x) for x in (["a"], ["a", 1], "ab", ["x" * 4, []])),
        *(("sha256", x) for x in ({}, [], None, {"start": []})),
    ],
)
def test_odd_values_in_a_batch_make_it_unfinished(tmp_path: Path, key: str, value: Any) -> None:
    store, x_start, _ = filled(tmp_path)
    path = tmp_path / "batches/00000009.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert not store.finished(torch.arange(9, 12))
    with pytest.raises(DamagedSampleError):
        store.load(batch(x_start, [9, 10], [9, 10, 11]))


def test_unfinished_files_of_a_killed_run_are_removed_by_the_next(tmp_path: Path) -> None:
    """Until then nothing reads or counts them; other files and what links point to stay."""
    folder, elsewhere = tmp_path / "samples", tmp_path / "elsewhere"
    store, x_start, x_reversed = filled(folder)
    left = [
        folder / name
        for name in (".manifest.json.abc_1234", "start/.00000004.png.abcdefgh",
                     "k_0003/.00000009.png.00000000", "batches/.00000012.json.zzzzzzzz")
    ]  # fmt: skip
    kept = [
        folder / name
        for name in (".notes.abcdefgh", "start/.00000004.png.long-name", ".git/.00000004.png.x")
    ]
    elsewhere.mkdir()
    (folder / ".git").mkdir()
    (folder / "linked").symlink_to(elsewhere)
    for path in (*left, *kept, elsewhere / ".00000004.png.abcdefgh"):
        path.write_text("mine")
    link = folder / "start/.00000005.png.abcdefgh"
    link.symlink_to(elsewhere)
    restored = SampleStore.open(folder)
    assert not restored.finished(torch.arange(12, 13))
    assert torch.equal(restored.load(batch(x_start, [4, 9])), x_reversed[:, [0, 5]])
    SampleStore.lock(folder).release()
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in (*kept, elsewhere / ".00000004.png.abcdefgh"))
    assert link.is_symlink()
    assert SampleStore.create(folder, STEPS, 25, SETTINGS) == store
