"""A folder of samples: what goes in comes out, or it is said what is wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sample_stores import DECIDED, STEPS, batch, filled, images

from lit_hier.diffusion.pictures import DamagedSampleError
from lit_hier.diffusion.store import SampleStore
from lit_hier.errors import InputError


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_samples_come_back_to_the_last_bit_in_any_batch(tmp_path: Path, channels: int) -> None:
    _, x_start, x_reversed = filled(tmp_path / "samples", channels)
    store = SampleStore.open(tmp_path / "samples")
    assert store.steps == STEPS
    for chosen in ([4, 5, 6, 7, 8], [9, 10], [10, 4, 7], [6]):
        where = [sample - 4 for sample in chosen]
        given = batch(x_start, chosen)
        assert torch.equal(store.load(given), x_reversed[:, where])
        assert torch.equal(store.load(given, [25, 3]), x_reversed[[2, 1]][:, where])
    picture = np.asarray(Image.open(tmp_path / "samples/k_0003/00000006.png"))
    assert picture.shape[:2] == (6, 5)
    levels = (x_reversed[1, 2] + 1) * 127.5
    assert np.array_equal(np.atleast_3d(picture), levels.round().movedim(0, -1).numpy())
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        "batches", "k_0000", "k_0003", "k_0025", "manifest.json", "start",
    ]  # fmt: skip


def test_a_batch_is_finished_when_all_of_it_is_there(tmp_path: Path) -> None:
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


def test_a_batch_of_which_more_can_be_read_is_made_anew(tmp_path: Path) -> None:
    """And what stands in its record then is what was made last."""
    store, _, _ = filled(tmp_path)
    x_start, x_reversed = images(8, 3, 6, 5), images(3, 3, 3, 6, 5, seed=2)
    again = batch(x_start, [9, 10, 11])
    with pytest.raises(DamagedSampleError, match=r"has no sample 11"):
        store.load(again)
    store.save(again, x_reversed)
    assert torch.equal(store.load(again), x_reversed)
    found = SampleStore.open(tmp_path).load(batch(x_start, [10]))
    assert torch.equal(found, x_reversed[:, 1:2])
    assert len(list((tmp_path / "batches").iterdir())) == 2


def test_files_are_named_in_the_record(tmp_path: Path) -> None:
    filled(tmp_path)
    record = json.loads((tmp_path / "batches/00000009.json").read_text())
    assert record["index"] == [9, 10]
    assert record["planned"] == [9, 10, 11]
    assert record["label"] == [0, 1]
    assert record["name"] == ["9.png", "10.png"]


def test_other_rounding_of_the_start_does_not_matter(tmp_path: Path) -> None:
    """On a GPU the same levels may have become other bits."""
    store, x_start, x_reversed = filled(tmp_path)
    nudged = batch(x_start + 2**-24, [4, 5, 6, 7, 8])
    assert torch.equal(store.load(nudged), x_reversed[:, :5])


@pytest.mark.parametrize("place", ["start", "k_0000", "k_0003", "k_0025"])
@pytest.mark.parametrize("harm", ["cut", "gone", "empty", "exchanged", "one bit"])
def test_harm_to_any_picture_is_noticed(tmp_path: Path, place: str, harm: str) -> None:
    store, x_start, _ = filled(tmp_path)
    path = tmp_path / place / "00000007.png"
    content = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        other = (path.parent / "00000008.png").read_bytes()
        flipped = bytes([*content[:-20], content[-20] ^ 1, *content[-19:]])
        new = {"cut": content[: len(content) // 2], "empty": b"", "exchanged": other}
        path.write_bytes(new.get(harm, flipped))
    with pytest.raises(DamagedSampleError, match=rf"^samples: [^\n]*{place}/00000007.png[^\n]*$"):
        store.load(batch(x_start, [4, 5, 6, 7, 8]))
    store.load(batch(x_start, [9, 10], [9, 10, 11]))


def test_samples_of_another_run_or_of_other_images_are_told_apart(tmp_path: Path) -> None:
    store, x_start, x_reversed = filled(tmp_path)
    assert SampleStore.create(tmp_path, STEPS, 25, DECIDED) == store
    for other, said in (
        ((STEPS[:2], 25, DECIDED), "steps="),
        ((STEPS, 50, DECIDED), "num_steps=25, not 50"),
        ((STEPS, 25, DECIDED | {"seed": 1}), "seed=0, not 1"),
        ((STEPS, 25, DECIDED | {"more": 1}), "more=None, not 1"),
    ):
        with pytest.raises(InputError, match=rf"^samples: .* of another run, with {said}"):
            SampleStore.create(tmp_path, *other)
    assert torch.equal(store.load(batch(x_start, [4, 5])), x_reversed[:, :2])
    for others in (x_start[1:6], x_start[:5, :1], x_start[:5] + 2 / 255):
        with pytest.raises(InputError, match=r"^samples: .* holds samples of other images"):
            store.load(batch(others, [4, 5, 6, 7, 8]))


@pytest.mark.parametrize(
    "manifest",
    [
        None, "", "{", "[]", "{}", '{"format": 2, "steps": [1], "num_steps": 5}',
        '{"format": 1, "steps": [], "num_steps": 5}', '{"format": 1, "steps": ["../x"]}',
        '{"format": 1, "steps": [-1], "num_steps": 5}', '{"format": 1, "steps": 5}',
    ],
)  # fmt: skip
def test_folders_that_hold_no_samples(tmp_path: Path, manifest: Any) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(InputError, match=r"^samples: [^\n]*manifest.json[^\n]*$"):
        SampleStore.open(tmp_path)


def test_a_manifest_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    store, x_start, _ = filled(tmp_path / "samples")
    record = json.loads((tmp_path / "samples/batches/00000009.json").read_text())
    record["index"] = ["../../outside", 10]
    (tmp_path / "samples/batches/00000009.json").write_text(json.dumps(record))
    with pytest.raises(DamagedSampleError, match="has no sample 9"):
        store.load(batch(x_start, [9, 10], [9, 10, 11]))


def test_pictures_of_other_channels_are_refused(tmp_path: Path) -> None:
    store = SampleStore.create(tmp_path, STEPS, 25, DECIDED)
    with pytest.raises(InputError, match=r"^samples: pictures have 1, 3 or 4 channels, not 2"):
        store.save(batch(images(2, 2, 4, 4), [4, 5]), images(3, 2, 2, 4, 4))
    assert not list(tmp_path.rglob("*.png"))


def test_places_that_cannot_hold_samples(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place, said in (
        ("", "samples is empty; give a folder"),
        (tmp_path / "file", "samples: cannot write into .*file: .*; give another"),
        (tmp_path / "file/inside", "samples: cannot write into .*; give another"),
    ):
        with pytest.raises(InputError, match=rf"^{said}"):
            SampleStore.lock(place)
    for place in (tmp_path / "file", tmp_path / "file/inside"):
        with pytest.raises(InputError, match=r"^samples: cannot (write into|read) .*file.*; give"):
            SampleStore.create(place, STEPS, 25, DECIDED)
