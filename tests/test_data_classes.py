"""One order of classes in every layout, and the names of classes, files and hierarchies."""

import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from test_data_files import GOLDFISH, TENCH, TOILET_TISSUE, VAL, fill, write
from torchvision.datasets import ImageFolder, ImageNet

from lit_hier.data import ImageDataModule, ImageFiles
from lit_hier.data.classes import imagenet_classes, order_classes
from lit_hier.data.hierarchy import read_hierarchy
from lit_hier.errors import InputError

DECOMPOSED, COMPOSED = unicodedata.normalize("NFD", "café"), "café"


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ([str(k) for k in range(12)], [str(k) for k in range(12)]),
        ([f"{k:02}" for k in range(12)], [f"{k:02}" for k in range(12)]),
        (["7", "3", "0"], [str(k) for k in range(8)]),
        (["02", "1"], ["0", "1", "02"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["b", "a", "B"], ["B", "a", "b"]),
        ([DECOMPOSED, "cafz", "cag"], ["cafz", COMPOSED, "cag"]),
        ([TOILET_TISSUE, TENCH], sorted(imagenet_classes())),
        ([TENCH, "n99999999"], [TENCH, "n99999999"]),
    ],
    ids=range(9),
)
def test_the_order_of_classes_is_the_same_for_folders_and_tables(
    tmp_path: Path, names: list[str], classes: list[str]
) -> None:
    folders = ImageFiles(str(fill(tmp_path / "a", *(f"{name}/x.png" for name in names))))
    root = fill(tmp_path / "b", *(f"{k:02}.png" for k in range(len(names))))
    lines = "".join(f"{k:02}.png,{name}\n" for k, name in enumerate(names))
    table = ImageFiles(str(root), write(tmp_path / "labels.csv", lines))
    assert folders.classes == table.classes == classes
    composed = [unicodedata.normalize("NFC", name) for name in names]
    assert table.targets == [classes.index(name) for name in composed]
    of_folder = dict(zip(folders.names, folders.targets, strict=True))
    assert [of_folder[f"{name}/x.png"] for name in names] == table.targets


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["1", "01"], "classes '01' and '1' are one number"),
        (["1", "-1"], "classes are numbered -1 to 1; number them from 0 to at most 100000, or"),
        (["1", "100001"], "classes are numbered 1 to 100001; number them from 0"),
        (["9" * 5000, "1"], "classes are numbered 1 to 9999999999; number them from 0"),
    ],
)
def test_numbers_that_cannot_be_labels_are_rejected(names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=rf"^root: {message}[^\n]{{,200}}$"):
        order_classes(names, "root")


def test_a_data_set_of_torchvision_keeps_its_labels(tmp_path: Path) -> None:
    """Its classes differ in order from those of ImageFiles, so the two are not mixed."""
    root = fill(tmp_path, *(f"{k}/x.png" for k in range(12)))
    theirs = ImageDataModule(ImageFolder(str(root)), size=4, num_per_class=1)
    assert theirs.classes[:3] == ["0", "1", "10"]
    with pytest.raises(InputError, match=r"^train: its 12 classes differ from the 12 .* order"):
        ImageDataModule(ImageFiles(str(root)), ImageFolder(str(root)), num_per_class=1)


def test_the_classes_of_torchvisions_imagenet_are_wnids(tmp_path: Path) -> None:
    words = {TENCH: ("tench", "Tinca tinca"), GOLDFISH: ("goldfish", "Carassius auratus")}
    torch.save((words, [TENCH]), tmp_path / "meta.bin")
    fill(tmp_path / "val", f"{GOLDFISH}/b.JPEG", f"{TENCH}/a.JPEG")
    module = ImageDataModule(ImageNet(str(tmp_path), "val"), size=4, num_per_class=1)
    assert module.classes == [TENCH, GOLDFISH]
    tree = write(tmp_path / "tree.txt", f"entity fish\nfish {TENCH}\nfish {GOLDFISH}\n")
    assert read_hierarchy(tree, module.classes).tolist() == [[1, 1]]


@pytest.mark.parametrize("separator", ["\t", ", ", ","])
def test_names_in_a_hierarchy_may_have_blanks_and_other_unicode_forms(
    tmp_path: Path, separator: str
) -> None:
    edges = [("thing", "shoe"), ("shoe", "Ankle boot"), ("thing", "place"), ("place", DECOMPOSED)]
    tree = write(tmp_path / "tree.txt", "\n".join(separator.join(edge) for edge in edges))
    first, second = read_hierarchy(tree, ["Ankle boot", COMPOSED])[0].tolist()
    assert first != second


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_file_names_in_another_unicode_form_match(tmp_path: Path, forms: Any) -> None:
    on_disk, in_table = (unicodedata.normalize(form, "Überfée") for form in forms)
    root = fill(tmp_path / "in", f"{on_disk}.png", "b.png")
    for suffix in ("", ".png"):
        lines = f"{in_table}{suffix},{DECOMPOSED}\nb,{COMPOSED}\n"
        files = ImageFiles(str(root), write(tmp_path / "labels.csv", lines))
        assert (files.targets, files.classes) == ([0, 0], [COMPOSED])


def test_a_name_of_two_images_is_not_guessed(tmp_path: Path) -> None:
    root = fill(tmp_path / "in", "a.png", "a.jpg", f"{DECOMPOSED}.png", f"{COMPOSED}.png")
    for line in ("a,x", "A.png,x"):
        with pytest.raises(
            InputError, match=r"^labels: line 1 of \S+ has 'a', which is not in|no"
        ):
            ImageFiles(str(root), write(tmp_path / "labels.csv", f"{line}\n"))
    lines = f"a.png,x\na.jpg,y\n{DECOMPOSED},z\n{COMPOSED},x\n"
    files = ImageFiles(str(root), write(tmp_path / "labels.csv", lines))
    found = dict(zip(files.names, files.targets, strict=True))
    assert found == {"a.png": 0, "a.jpg": 1, f"{DECOMPOSED}.png": 2, f"{COMPOSED}.png": 0}


@pytest.mark.parametrize(
    ("name", "lines", "targets", "first"),
    [
        ("val.txt", [f"{name} {k}" for name, k in zip(VAL, (65, 970, 0, 65), strict=True)],
         [65, 970, 0, 65], "0"),
        ("synset_labels.txt", [TOILET_TISSUE, TENCH, GOLDFISH, TENCH], [999, 0, 1, 0], TENCH),
        ("val_annotations.txt",
         [f"{name}\t{wnid}\t0\t32\t44\t62"
          for name, wnid in zip(VAL, (GOLDFISH, TENCH, TENCH, TENCH), strict=True)],
         [1, 0, 0, 0], TENCH),
        ("labels.tsv", ["image\tclass", *(f"{name}\tbig cat" for name in VAL)],
         [0, 0, 0, 0], "big cat"),
    ],
)  # fmt: skip
def test_the_tables_of_caffe_tensorflow_and_tiny_imagenet_are_read(
    tmp_path: Path, name: str, lines: list[str], targets: list[int], first: str
) -> None:
    labels = write(tmp_path / name, "\n".join(lines) + "\n")
    for folder in ("", "images/"):  # names in a table may lack the folder
        root = fill(tmp_path / f"root{folder}", *(f"{folder}{file}" for file in VAL))
        files = ImageFiles(str(root), labels)
        assert files.targets == targets
        assert files.classes[0] == first


def test_a_text_file_of_one_column_needs_numbers_in_the_file_names(tmp_path: Path) -> None:
    labels = write(tmp_path / "synset_labels.txt", f"{TENCH}\n")
    with pytest.raises(InputError, match=r"^labels: \S+ has no line for cat\.png; names must"):
        ImageFiles(str(fill(tmp_path / "in", "cat.png")), labels)
