"""Untrusted files: none runs code, exhausts memory, blocks, or leads outside its folder."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from attack import EXECUTED, Attack, assert_not_executed
from conftest import inside, random_pipeline
from fuzz_images import bombs
from torchvision import datasets

from lit_hier.data import ImageFiles
from lit_hier.data.hierarchy import read_hierarchy
from lit_hier.data.images import PreparedImages
from lit_hier.diffusion.pretrained import load_pretrained
from lit_hier.errors import InputError
from lit_hier.io.checkpoints import read_checkpoint
from lit_hier.nn import PretrainedClassifier
from lit_hier.rhm.files import read_rules


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ("unet", ["evil", "Evil"]),
        ("scheduler", ["evil", "Evil"]),
        ("scheduler", ["os", "system"]),
        ("scheduler", ["diffusers", "DiffusionPipeline"]),
        ("unet", ["diffusers", "AutoencoderKL"]),
        ("_class_name", ["evil", "Evil"]),
    ],
)
def test_a_pipeline_cannot_name_code(tmp_path: Path, part: str, named: list[str]) -> None:
    folder = Path(random_pipeline(tmp_path / "pipeline", channels=1))
    code = f"import os\nos.mkdir('{EXECUTED}')\nclass Evil:\n    pass\n"
    for subfolder in (folder, folder / "unet", folder / "scheduler"):
        (subfolder / "evil.py").write_text(code)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {part: named}))
    with inside(tmp_path):
        if part == "_class_name":  # unused, and not read
            load_pretrained(str(folder))
        else:
            with pytest.raises(InputError, match=r"^pretrained: "):
                load_pretrained(str(folder))
    assert_not_executed(tmp_path)


def test_pickled_weights_of_a_pipeline_are_not_executed(tmp_path: Path) -> None:
    folder = Path(random_pipeline(tmp_path / "pipeline", channels=1))
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    torch.save(Attack(), folder / "unet/diffusion_pytorch_model.bin")
    with inside(tmp_path), pytest.raises(InputError, match="is not a tensors-only"):
        load_pretrained(str(folder))
    assert_not_executed(tmp_path)


def test_pickles_of_cifar_are_read_only_if_they_are_the_published_ones(tmp_path: Path) -> None:
    """Before it opens one, the library compares its MD5 with the published one."""
    for kind in (datasets.CIFAR10, datasets.CIFAR100):
        (tmp_path / kind.base_folder).mkdir()
        for name, digest in (*kind.train_list, *kind.test_list):
            assert len(digest) == 32
            (tmp_path / kind.base_folder / name).write_bytes(pickle.dumps(Attack()))
        name = kind.meta["filename"]
        (tmp_path / kind.base_folder / name).write_bytes(pickle.dumps(Attack()))
        for train in (True, False):
            with inside(tmp_path), pytest.raises(RuntimeError, match="not found or corrupted"):
                kind(str(tmp_path), train=train)
    assert_not_executed(tmp_path)


@pytest.mark.parametrize(
    "read",
    [
        lambda path: read_rules(path),
        lambda path: read_checkpoint(path, "weights"),
        lambda path: read_hierarchy(path, ["cat"]),
        lambda path: load_pretrained(path),
        lambda path: PretrainedClassifier("timm/test_vit", path),
    ],
)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_pipes_and_devices_are_rejected_without_reading(
    tmp_path: Path, read: Callable[[str], object], kind: str
) -> None:
    path = tmp_path / "given.pt"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"cannot read .*: Not a regular file|not a tensors-only"):
        read(str(path))


def test_rules_that_would_exhaust_memory_are_rejected(tmp_path: Path) -> None:
    lines = ["x0: &x0 [0, 0, 0, 0, 0, 0, 0, 0, 0]"]
    lines += [f"x{k}: &x{k} [{f'*x{k - 1}, ' * 9}]" for k in range(1, 12)]
    (tmp_path / "rules.yaml").write_text("\n".join([*lines, "rules: *x11"]))
    with pytest.raises(InputError, match="is not plain YAML: aliases are not allowed"):
        read_rules(tmp_path / "rules.yaml")


def test_links_are_followed_and_never_in_cycles(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/0.png").write_bytes(bombs()["large.png"])
    root = tmp_path / "images"
    root.mkdir()
    (root / "cat").symlink_to("../elsewhere")
    for name, target in (("self", "."), ("up", ".."), ("loop", "loop")):
        (tmp_path / "elsewhere" / name).symlink_to(target)
    found = ImageFiles(str(root))
    assert [name for name in found.names if "/up/" not in name] == ["cat/0.png"]
    assert len(found) == len({Path(root, name).resolve() for name in found.names})


@pytest.mark.parametrize("name", bombs())
def test_an_image_that_decompresses_to_too_much_is_skipped(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bombs()[name])
    found = ImageFiles(str(tmp_path))
    images = PreparedImages(found, torch.tensor([0]).numpy(), torch.tensor([0]).numpy(), 8, 3)
    batch = images[torch.tensor([0])]
    assert batch["image_counts"][0] == 1 - len(batch["x"])
    # Texts and profiles in a small image are not decompressed, or only up to a limit; of narrow
    # images, which take little, only the center is scaled.
    small = ("profile.png", "words.png", "text.png", "line.png", "thin.png", "long.png")
    assert not len(batch["x"]) or name in small
