"""Folders of images in every layout, and their labels."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image
from scipy.io import loadmat, savemat
from torchvision.datasets import ImageFolder
from torchvision.models import ResNet50_Weights

from lit_hier.data import ImageDataModule, ImageFiles, imagenet
from lit_hier.data.classes import imagenet_classes
from lit_hier.errors import InputError

TENCH, GOLDFISH, TOILET_TISSUE = "n01440764", "n01443537", "n15075141"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
VAL = [f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 5)]


def fill(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (len(name), 0, 0)).save(path)
    return root


def write(path: Path, text: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def devkit(folder: Path, ids: list[int]) -> Path:
    """Write the two files of a development kit, whose IDs are not in the order of wnids."""
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children")
    kinds: Any = [(field, object) for field in (*fields, "wordnet_height", "num_train_images")]
    rows = [
        (1, GOLDFISH, "goldfish, Carassius auratus", "small golden fish", 0, [], 0, 1300),
        (2, TOILET_TISSUE, "toilet tissue", "a soft paper", 0, [], 0, 1300),
        (3, TENCH, "tench, Tinca tinca", "freshwater fish", 0, [], 0, 1300),
        (4, "n00001740", "entity", "that which is", 2, [1, 2], 9, 0),
    ]
    (folder / "data").mkdir(parents=True)
    synsets = np.array(rows, dtype=kinds).reshape(-1, 1)
    savemat(folder / "data" / "meta.mat", {"synsets": synsets})
    write(folder / "data" / TRUTH, "".join(f"{number}\n" for number in ids))
    return folder


def test_imagenets_classes_are_numbered_as_in_torchvision() -> None:
    assert len(imagenet_classes()) == 1000
    names = ResNet50_Weights.DEFAULT.meta["categories"]
    for wnid, name in ((TENCH, "tench"), (GOLDFISH, "goldfish"), (TOILET_TISSUE, "toilet tissue")):
        assert names[imagenet_classes()[wnid]] == name


def test_folders_define_the_classes(tmp_path: Path) -> None:
    fill(tmp_path, "dog/b.png", "cat/10.JPG", "cat/9.jpeg", "cat/more/1.bmp", "dog/.hidden.png")
    fill(tmp_path, ".thumbs/x.png")
    write(tmp_path / "README.txt", "hello")
    write(tmp_path / "dog" / "notes.txt", "woof")
    files = ImageFiles(str(tmp_path))
    assert files.classes == ["cat", "dog"]
    assert [files.name(k) for k in range(len(files))] == [
        "cat/10.JPG",
        "cat/9.jpeg",
        "cat/more/1.bmp",
        "dog/b.png",
    ]
    assert files.targets == [0, 0, 0, 1]
    image, label = files[3]
    assert (np.asarray(image)[0, 0, 0], label) == (len("dog/b.png"), 1)


def test_folders_of_some_classes_of_imagenet_keep_their_numbers(tmp_path: Path) -> None:
    fill(tmp_path, f"{TOILET_TISSUE}/a.JPEG", f"{GOLDFISH}/b.JPEG")
    files = ImageFiles(str(tmp_path))
    assert files.targets == [1, 999]
    assert files.classes == sorted(files.classes)
    assert len(files.classes) == 1000
    fill(tmp_path, "n99999999/c.JPEG")
    assert ImageFiles(str(tmp_path)).classes == [GOLDFISH, TOILET_TISSUE, "n99999999"]


@pytest.mark.parametrize(
    "names",
    [
        [f"{TENCH}_7.JPEG", f"{GOLDFISH}_10026.JPEG", f"{TOILET_TISSUE}_1.JPEG"],
        [
            f"ILSVRC2012_val_{k:08}_{wnid}.JPEG"
            for k, wnid in enumerate((TENCH, GOLDFISH, TOILET_TISSUE), start=293)
        ],
        [f"{TENCH}.png", f"{GOLDFISH}.png", f"{TOILET_TISSUE}.png"],
    ],
)
def test_wnids_in_file_names_define_the_classes(tmp_path: Path, names: list[str]) -> None:
    files = ImageFiles(str(fill(tmp_path, *names)))
    numbers = dict(zip(names, (0, 1, 999), strict=True))
    assert files.targets == [numbers[name] for name in files.names]


@pytest.mark.parametrize("given", [".", "data", f"data/{TRUTH}"])
def test_the_devkits_ground_truth_defines_the_classes(tmp_path: Path, given: str) -> None:
    root = fill(tmp_path / "val", *VAL)
    kit = devkit(tmp_path / "ILSVRC2012_devkit_t12", [2, 3, 1, 3])
    files = ImageFiles(str(root), str(kit / given))
    assert files.names == VAL
    assert files.targets == [999, 0, 1, 0]
    assert len(files.classes) == 1000


@pytest.mark.parametrize(
    ("text", "targets", "classes"),
    [
        ("file,class\na.png,dog\nb.png,big cat\n", [1, 0], ["big cat", "dog"]),
        ("b,big cat\r\na,dog\r\n", [1, 0], ["big cat", "dog"]),
        ('\ufeff"a.png", "dog"\n\nb.png,"cat, big"\n', [1, 0], ["cat, big", "dog"]),
        ("image,label\na.png,10\nb.png,2\n", [10, 2], [str(k) for k in range(11)]),
        (f"a,{TOILET_TISSUE}\nb,{TENCH}\n", [999, 0], None),
        (
            f"ImageId,PredictionString\nb,{TENCH} 1 2 3 4 {TENCH} 5 6 7 8\na,{GOLDFISH} 1 2 3 4\n",
            [1, 0],
            None,
        ),
    ],
)
def test_a_csv_defines_the_classes(
    tmp_path: Path, text: str, targets: list[int], classes: list[str] | None
) -> None:
    root = fill(tmp_path / "pictures", "a.png", "b.png")
    files = ImageFiles(str(root), write(tmp_path / "labels.csv", text))
    assert files.targets == targets
    assert files.classes == (classes or list(imagenet_classes()))


def test_a_csv_defines_the_classes_of_files_in_folders(tmp_path: Path) -> None:
    root = fill(tmp_path / "pictures", "x/a.png", "y/a.png", "b.png")
    table = write(tmp_path / "labels.csv", "x/a,dog\ny/a.png,cat\nb,dog\n")
    assert ImageFiles(str(root), table).targets == [1, 1, 0]


def test_files_without_labels_have_class_minus_one(tmp_path: Path) -> None:
    files = ImageFiles(str(fill(tmp_path, "b.png", "a.jpg")))
    assert (files.names, files.targets, files.classes) == (["a.jpg", "b.png"], [-1, -1], [])


def test_the_fingerprint_depends_on_names_contents_and_labels_only(tmp_path: Path) -> None:
    root = fill(tmp_path / "pictures", "a.png", "b.png", "c.png")
    fingerprints = [ImageFiles(str(root)).fingerprint([0, 1])]
    assert ImageFiles(str(root)).fingerprint([0, 1]) == fingerprints[0]
    fill(root, "c.png")  # not selected
    assert ImageFiles(str(root)).fingerprint([0, 1]) == fingerprints[0]
    moved = root.rename(tmp_path / "elsewhere")
    assert ImageFiles(str(moved)).fingerprint([0, 1]) == fingerprints[0]
    fingerprints.append(ImageFiles(str(moved)).fingerprint([1, 0]))
    labels = write(tmp_path / "labels.csv", "a,0\nb,1\nc,1")
    fingerprints.append(ImageFiles(str(moved), labels).fingerprint([0, 1]))
    status = (moved / "a.png").stat()
    content = (moved / "a.png").read_bytes()
    os.utime(moved / "a.png", ns=(0, 1))
    assert ImageFiles(str(moved)).fingerprint([0, 1]) == fingerprints[0]
    (moved / "a.png").write_bytes(content[:-1] + b"?")  # of the same size and time
    os.utime(moved / "a.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    fingerprints.append(ImageFiles(str(moved)).fingerprint([0, 1]))
    with (moved / "b.png").open("ab") as file:
        file.write(b"more")
    fingerprints.append(ImageFiles(str(moved)).fingerprint([0, 1]))
    files = ImageFiles(str(moved))
    (moved / "b.png").unlink()
    fingerprints.append(files.fingerprint([0, 1]))
    assert len(set(fingerprints)) == len(fingerprints)


def labeled(text: str | bytes, *names: str) -> Callable[[Path], ImageFiles]:
    """Return a function that reads images with a CSV of labels."""

    def read(folder: Path) -> ImageFiles:
        root = fill(folder / "root", *(names or ("a.png", "b.png")))
        return ImageFiles(str(root), write(folder / "labels.csv", text))

    return read


def kit(ids: list[int], *names: str, meta: bytes | None = b"") -> Callable[[Path], ImageFiles]:
    """Return a function that reads images with the ground truth, and with a given meta.mat."""

    def read(folder: Path) -> ImageFiles:
        given = devkit(folder / "kit", ids)
        if meta is None:
            (given / "data" / "meta.mat").unlink()
        elif meta:
            (given / "data" / "meta.mat").write_bytes(meta)
        return ImageFiles(str(fill(folder / "root", *(names or VAL))), str(given))

    return read


def without_images(folder: Path) -> ImageFiles:
    fill(folder, "cat/a.png", "dog/b.png")
    (folder / "dog" / "b.png").rename(folder / "dog" / "b.txt")
    return ImageFiles(str(folder))


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda folder: ImageFiles(str(folder / "x")), r"root: there is no folder \S+; give"),
        (lambda folder: ImageFiles(write(folder / "x.png", "x")), r"root: there is no folder \S+"),
        (lambda folder: ImageFiles(str(folder)), r"root: \S+ has no images; give a folder with"),
        (without_images, r"root: class dog of \S+ has no images; fill its folder or remove it"),
        (
            lambda folder: ImageFiles(str(fill(folder, "cat/a.png", "b.png"))),
            r"root: \S+ has images in folders, such as cat/a\.png, and outside them, such as b\.p",
        ),
        (
            lambda folder: ImageFiles(str(fill(folder, f"{TENCH}_1.png", "b.png"))),
            rf"root: {TENCH}_1\.png has a wnid in its name, but b\.png does not; rename it",
        ),
        (
            lambda folder: ImageFiles(str(fill(folder, f"{TENCH}_1.png", "n00000001_1.png"))),
            r"root: the class of n00000001_1\.png is 'n00000001', which is not one of ImageNet's",
        ),
        (
            lambda folder: ImageFiles(str(fill(folder, *VAL))),
            r"labels: \S+ has ImageNet's validation images without classes; give the devkit",
        ),
        (
            lambda folder: ImageFiles(str(fill(folder, "a.png")), str(folder / "none.csv")),
            r"labels: cannot read \S+none\.csv: No such file or directory; give",
        ),
        (
            lambda folder: ImageFiles(str(fill(folder, "a.png")), str(folder)),
            rf"labels: cannot read \S+{TRUTH}: No such file or directory; give",
        ),
        (labeled(""), r"labels: \S+ is empty"),
        (labeled(b"\xff\xfea,dog\n"), r"labels: \S+ is not UTF-8 text"),
        (labeled("a,dog\n"), r"labels: \S+ has no line for b\.png; add it, or remove the image"),
        (labeled("a,dog\nb,cat\nc,cat\n"), r"labels: line 3 of \S+ has 'c', which is not in"),
        (labeled("gone.png,x\na,dog\nb,cat\n"), r"labels: line 1 of \S+ has 'gone\.png', which"),
        (
            labeled("a,dog\na.png,cat\n"),
            r"labels: line 2 of \S+ repeats 'a\.png'; keep one line per image",
        ),
        (labeled("a,dog\nb\n"), r"labels: line 2 of \S+ is 'b'; give two columns"),
        (labeled("a,dog\nb,\n"), r"labels: line 2 of \S+ is 'b,'; give two columns"),
        (labeled("a,1,2\nb,3,4\n"), r"labels: line 1 of \S+ is 'a,1,2'; give two columns"),
        (labeled('a,"dog\nb,cat\n'), r"labels: \S+ is not a CSV: unexpected end of data"),
        (labeled("a,-1\nb,1\n"), r"labels: classes are numbered -1 to 1; number them from 0"),
        (labeled("a,00\nb,0\n"), r"labels: classes '0' and '00' are one number; give each class"),
        (labeled("a,1\nb,9999999\n"), r"labels: classes are numbered 1 to 9999999; number them"),
        (
            labeled(f"a,{TENCH}\nb,n123\n"),
            r"labels: the class of b\.png is 'n123', which is not one of ImageNet's 1000 wnids",
        ),
        (kit([1, 2, 3]), r"labels: \S+ has 3 images, but root has 4; give the complete set, or"),
        (
            kit([1, 2, 3, 7]),
            r"labels: line 4 of \S+ is '7', which is not an ILSVRC2012_ID of meta\.mat",
        ),
        (kit([1, 2, 3, 4]), rf"labels: the class of {VAL[3]} is 'n00001740', which is not one"),
        (kit([1], VAL[1]), rf"labels: \S+ has no line for {VAL[1]}; names must number the images"),
        (kit([1], "a.png"), r"labels: \S+ has no line for a\.png; names must number the images"),
        (kit([1, 2, 3, 1], meta=None), r"labels: cannot read \S+meta\.mat: No such file or"),
        (kit([1, 2, 3, 1], meta=b"nonsense" * 40), r"labels: \S+meta\.mat is not ImageNet's met"),
    ],
)
def test_invalid_folders_and_labels_are_rejected(
    tmp_path: Path, read: Callable[[Path], ImageFiles], message: str
) -> None:
    with pytest.raises(InputError, match=rf"^{message}[^\n]*$"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png," + "9" * 5000, "classes are numbered"),
        ("a.png" + "," * 70_000, "has more than 65536 characters"),
        ("a.png,x,y" + "z" * 5000, "give two columns"),
        ("x" * 5000 + ".png,1", "which is not in root"),
    ],
    ids=range(4),
)
def test_long_lines_of_labels_are_rejected_in_one_short_line(
    tmp_path: Path, text: str, message: str
) -> None:
    root, labels = fill(tmp_path / "in", "a.png"), write(tmp_path / "labels.csv", text)
    with pytest.raises(InputError, match=rf"^labels: (?=.*{message})[^\n]{{,350}}$"):
        ImageFiles(str(root), labels)


def test_a_table_of_classes_that_decompresses_to_too_much_is_rejected(tmp_path: Path) -> None:
    root, kit = fill(tmp_path / "val", *VAL), devkit(tmp_path / "kit", [2, 3, 1, 3])
    savemat(kit / "data/meta.mat", {"other": np.zeros(2**18)}, do_compression=True)
    assert (kit / "data/meta.mat").stat().st_size < 2**17
    message = r"^labels: \S+meta\.mat is damaged; give the unpacked"
    with patch.object(imagenet, "_MAX_META", 2**20), pytest.raises(InputError, match=message):
        ImageFiles(str(root), str(kit))


def test_a_table_of_classes_may_be_compressed(tmp_path: Path) -> None:
    root, kit = fill(tmp_path / "val", *VAL), devkit(tmp_path / "kit", [2, 3, 1, 3])
    synsets = loadmat(kit / "data/meta.mat")["synsets"]
    savemat(kit / "data/meta.mat", {"synsets": synsets}, do_compression=True)
    assert ImageFiles(str(root), str(kit)).targets == [999, 0, 1, 0]


def test_other_formats_are_not_read_by_data_sets_of_torchvision(tmp_path: Path) -> None:
    """PIL would run Ghostscript on PostScript, whatever its suffix."""
    fill(tmp_path, "cat/a.png")
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\n%%EndComments\nx\n%%EOF\n"
    (tmp_path / "cat/b.png").write_bytes(script)
    os.mkfifo(tmp_path / "cat/c.png")
    images = ImageDataModule(ImageFolder(str(tmp_path)), size=4, num_per_class=None)
    with patch.object(EpsImagePlugin, "Ghostscript", side_effect=AssertionError):
        (batch,) = images.predict_dataloader()
    assert batch["index"].tolist() == [0]
