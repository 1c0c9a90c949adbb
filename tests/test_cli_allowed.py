"""The classes that configs may name, what they may be given, and what all that costs."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, inside, run_command
from diffusers import DDIMScheduler  # noqa: F401  # as `trust` imports it once it is named
from jsonargparse import Namespace

import lit_hier.rhm.sampling as sampling
from lit_hier.cli.class_values import check_class
from lit_hier.data import RHMDataModule
from lit_hier.data.torch_files import check_torch_files
from lit_hier.errors import InputError
from lit_hier.io.memory import check_memory
from lit_hier.rhm import GrammarEnsemble, RandomHierarchyModel

IMAGES = "data: {{class_path: ImageDataModule, init_args: {{held_out: {}}}}}"
STRATEGY = "trainer: {{strategy: {{class_path: DDPStrategy, dict_kwargs: {}}}}}"
CLASS = "{class_path: torch.nn.Identity}"


def rejection(folder: Path, capsys: pytest.CaptureFixture[str], text: str, *arguments: str) -> str:
    (folder / "overlay.yaml").write_text(text)
    given = ("predict", "-c", f"{ROOT}/configs/fig5.yaml", "-c", "overlay.yaml", *arguments)
    with inside(folder), pytest.raises(SystemExit) as end:
        run_command(*given)
    assert end.value.code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "Seed set" not in x]
    assert len(line) <= 400
    return line.removeprefix("lit-hier: error: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            STRATEGY.format(f"{{x: {CLASS}}}"),
            "trainer.strategy.dict_kwargs: torch.nn.Identity can",
        ),
        (STRATEGY.format(f"{{x: [[{{a: {CLASS}}}]]}}"), "trainer.strategy.dict_kwargs: torch"),
        ("trainer: {plugins: lightning_fabric.utilities.registry._load}", "trainer.plugins: "),
        ("trainer: {default_root_dir: 's3://a/b'}", "default_root_dir is 's3://a/b', an address"),
        ("trainer: {default_root_dir: //host/a}", "default_root_dir is '//host/a', an address"),
        ("ckpt_path: 'simplecache::x'", "ckpt_path is 'simplecache::x', an address"),
        ("trainer: {logger: {init_args: {save_dir: 'memory://x'}}}", "save_dir is 'memory://x'"),
        ("trainer: {model_registry: x}", "trainer.model_registry uploads"),
        (IMAGES.format("{class_path: Cityscapes, init_args: {root: .}}"), "held_out: torchvision"),
        (
            IMAGES.format(
                "{class_path: torchvision.datasets.MNIST, init_args: {root: .,"
                " transform: torchvision.datasets.MNIST.download}}"
            ),
            "transform: torchvision.datasets.MNIST.download is part of",
        ),
        (
            f"model: {{init_args: {{times: [{', '.join(['0.5'] * 8000)}]}}}}",
            "config: not valid YAML: more than 5000 values",
        ),
        (
            f"model: {{init_args: {{times: [{', '.join(['0.5'] * 501)}]}}}}",
            "config: not valid YAML: a list with numbers has 501 entries; shorten it to 500",
        ),
        (
            "trainer: {callbacks: ["
            + ", ".join(f"{{a: [{', '.join('1' * 500)}]}}" for _ in range(3))
            + "]}",
            "config: not valid YAML: its lists are too long together; shorten the longest ones",
        ),
        (
            "data: {init_args: {rhm: {class_path: 5}}}",
            "rhm: a value of type int is not allowed in its place",
        ),
        ("trainer: {accelerator: cpu, devices: -3}", "trainer.devices is -3; "),
    ],
)
def test_one_line_rejects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    assert rejection(tmp_path, capsys, text).startswith(message)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A folder with an archive that would write outside it."""
    (folder := tmp_path / "folder").mkdir()
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as file:
        file.addfile(tarfile.TarInfo("../HARM"), io.BytesIO())
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("USPS", "held_out: torchvision.datasets.USPS is not an allowed data set"),
        (
            "ImageNet",
            "data: cannot load the data set: The archive ILSVRC2012_devkit_t12.tar.gz is n",
        ),
    ],
)
def test_an_archive_in_the_folder_of_a_data_set_is_not_unpacked(
    archive: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    text = IMAGES.format(f"{{class_path: torchvision.datasets.{name}, init_args: {{root: .}}}}")
    assert rejection(archive, capsys, text).startswith(message)
    assert not (archive.parent / "HARM").exists()


def test_files_that_torch_reads_for_a_data_set_are_checked_before(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "HARM",)

    torch.save(({"n01440764": ("tench",)}, ["n01440764"]), tmp_path / "meta.bin")
    check_torch_files(tmp_path, "ImageNet")
    torch.save(Harm(), tmp_path / "meta.bin")
    with pytest.raises(InputError, match=r"^root: .*meta.bin is not a tensors-only"):
        check_torch_files(str(tmp_path), "ImageNet")
    (tmp_path / "meta.bin").unlink()
    (tmp_path / "meta.bin").symlink_to("/nowhere/else")
    with pytest.raises(InputError, match="a link to nothing"):
        check_torch_files(tmp_path, "ImageNet")
    (tmp_path / "meta.bin").unlink()
    (tmp_path / "MNIST/processed").mkdir(parents=True)
    os.mkfifo(tmp_path / "MNIST/processed/test.pt")
    with pytest.raises(InputError, match="Not a regular file"):
        check_torch_files(tmp_path, "MNIST")
    assert not (tmp_path / "HARM").exists()


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_layers": 1_000_000},
        {"num_layers": 21},
        {"tuple_size": 10**9},
        {"num_features": 10**12},
        {"num_synonyms": 10**15},
        {"num_classes": 10**12},
        {"num_features": 4096, "num_synonyms": 4096},
    ],
)
def test_a_grammar_that_is_too_large_is_rejected_at_once(sizes: dict[str, int]) -> None:
    given: dict[str, Any] = {"num_features": 4, "num_synonyms": 2, "tuple_size": 2}
    with pytest.raises(InputError, match=r"at most \d+"):
        RandomHierarchyModel(**{**given, "num_layers": 2, **sizes})


def test_data_and_ensembles_are_bounded() -> None:
    with pytest.raises(InputError, match="at most 5000"):
        GrammarEnsemble(4, 2, 2, [1, 2, 3], seeds=range(2000))
    rhm = RandomHierarchyModel(4, 2, 2, 12)
    with pytest.raises(InputError, match=r"num_train .* GiB of memory"):
        RHMDataModule(rhm, num_predict=10**12)
    with pytest.raises(InputError, match="more than 10\\^6 GiB"):
        check_memory(10**4000, "data", "less")


def test_the_size_of_blocks_changes_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [(5000, [3] * 12), (900, [7, 2, 300, 4, 9, 2, 5]), (4, [8] * 3000)]
    draws = []
    for numbers in (sampling._BLOCK_NUMBERS, 177):
        monkeypatch.setattr(sampling, "_BLOCK_NUMBERS", numbers)
        draws.append(
            [
                sampling.sample_distinct_words(np.random.default_rng(1), num, radices, "words")
                for num, radices in given
            ]
        )
    for one, other in zip(*draws, strict=True):
        assert np.array_equal(one, other)


def test_a_type_that_is_imported_for_type_checkers_only_accepts_its_classes() -> None:
    scheduler = Namespace(class_path="diffusers.DDIMScheduler")
    sampler = "lit_hier.modules.DDPMSampler"
    check_class(Namespace(class_path=sampler, init_args=Namespace(scheduler=scheduler)), "model")
    other = Namespace(scheduler=Namespace(class_path="torch.nn.Identity"))
    with pytest.raises(InputError, match="scheduler"):
        check_class(Namespace(class_path=sampler, init_args=other), "model")


def test_huge_configs_and_files_of_the_kernel_are_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**30)
    (tmp_path / "folder").mkdir()
    for name in ("/proc/kmsg", "/sys/kernel/uevent_seqnum", "folder"):
        line = rejection(tmp_path, capsys, "seed_everything: 0", "-c", name)
        assert line == f"config: {name} is not a regular file; give a file"
    line = rejection(tmp_path, capsys, "seed_everything: 0", "-c=huge")
    assert line == "config: huge has more than 4 MiB; give a config"
    for text in ("data: huge", "trainer: {callbacks: [huge]}"):
        assert "More than 16 MiB, too large here" in rejection(tmp_path, capsys, text)


def test_the_command_for_tensorboard_imports_nothing_from_the_working_directory(
    tmp_path: Path,
) -> None:
    source = (ROOT / "lit_hier/cli/command.py").read_text()
    assert '[sys.executable, "-P", "-m", "tensorboard.main"' in source
    (tmp_path / "probe.py").write_text("raise SystemExit(7)")
    done = subprocess.run([sys.executable, "-P", "-m", "probe"], cwd=tmp_path, capture_output=True)
    assert b"No module named probe" in done.stderr
