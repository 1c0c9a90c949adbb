"""Fixtures and helpers that several tests share; set-up of the test session."""

# ruff: noqa: E402
# Check shapes and types at run time; the hook must precede the first import of these packages.
# As in the type system, an int is a float.
from jaxtyping import install_import_hook

install_import_hook(
    ["lit_hier.inference", "lit_hier.metrics", "lit_hier.processes"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

import os

import torch

# Without a GPU its kernels run in Triton's interpreter; Triton reads this when it is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import csv
import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from hypothesis import HealthCheck, settings
from pytorch_lightning import Callback

from lit_hier.cli import process, run
from lit_hier.diffusion import ForwardBackward
from lit_hier.inference import density_evolution, native_library
from lit_hier.rhm import RandomHierarchyModel, Tree

ROOT = Path(__file__).parent.parent

# With `make sanitize` the tests load the kernel that it has built.
if "LIT_HIER_TEST_KERNELS" in os.environ:
    native_library.FOLDER = Path(os.environ["LIT_HIER_TEST_KERNELS"]).resolve()

# One thread per process: the bits of a matrix product may depend on the number of threads.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# Tests have no deadlines and always see the same examples. The profile `soak` draws new ones, 20
# times as many: set HYPOTHESIS_PROFILE=soak, or give pytest --hypothesis-profile soak.
_UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("untimed", max_examples=100, derandomize=True, **_UNTIMED)
settings.register_profile("soak", max_examples=2000, derandomize=False, **_UNTIMED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "untimed"))

# Lightning uses deprecated parts of jsonargparse.
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"

# Files with the longest tests run first, so that no process is still busy with one at the end.
_LONG = {
    f"test_{name}.py"
    for name in ("image_runs", "cli", "notebooks", "figures", "callbacks_networks", "memory")
}


# The theory of processes other than epsilon takes seconds per time; these are fractions of one.
SMALL_POPULATION = {"_MAX_SIZE": 128, "_MIN_SIZE": 64, "_MAX_RULES": 2, "_MAX_LEVELS": 10,
                    "_NUM_BISECTIONS": 6}  # fmt: skip
FULL_POPULATION = {name: getattr(density_evolution, name) for name in SMALL_POPULATION}


@pytest.fixture(autouse=True, scope="session")
def small_population() -> Iterator[None]:
    """Shrink density evolution's population; `full_population` restores it for a test."""
    with patch.multiple(density_evolution, **SMALL_POPULATION):
        yield


@pytest.fixture
def full_population(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give density evolution its own population."""
    for name, value in FULL_POPULATION.items():
        monkeypatch.setattr(density_evolution, name, value)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the longest files first; pytest-xdist keeps the order with --no-loadscope-reorder."""
    items.sort(key=lambda item: item.path.name not in _LONG)


def examples(num: int) -> settings:
    """Return settings with a number of examples, scaled like those of the active profile."""
    untimed: settings = settings.get_profile("untimed")
    return settings(max_examples=num * settings.default.max_examples // untimed.max_examples)


def small_grammars() -> list[RandomHierarchyModel]:
    """Return grammars with at most 30,000 data: s = 2, 3; n = v or not; m up to its maximum."""
    grammars = []
    for v, s, L in itertools.product((2, 3, 4), (2, 3), (1, 2, 3)):
        for n in (v, 1, v + 1):
            max_synonyms = v**s // max(n, v if L > 1 else 1)
            for m in sorted({1, 2, max_synonyms}):
                num_choices = (s**L - 1) // (s - 1)
                if 1 <= m <= max_synonyms and n * m**num_choices <= 30_000:
                    seed = len(grammars)
                    grammars.append(RandomHierarchyModel(v, m, s, L, n, seed=seed))
    return grammars


def every_datum(rhm: RandomHierarchyModel) -> Tree:
    """Enumerate the data: derive every class by every choice of rules."""
    trees = [((label,),) for label in range(rhm.num_classes)]
    for rule in reversed(rhm.rules):
        derived = []
        for tree in trees:
            options = (rule[symbol].tolist() for symbol in tree[-1])
            for tuples in itertools.product(*options):
                derived.append((*tree, tuple(itertools.chain(*tuples))))
        trees = derived
    return tuple(
        torch.tensor(level) for level in zip(*[tree[::-1] for tree in trees], strict=True)
    )


def run_command(*arguments: str) -> None:
    """Run the console script's entry point, then restore what it changed in this process."""
    with process.preserved(), patch.object(sys, "argv", ["lit-hier", *arguments]):
        run()


def run_in(folder: Path, *arguments: str) -> None:
    """Run a command in a folder: see `run_command`."""
    with inside(folder):
        run_command(*arguments)


def rejection(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run an invalid command in a folder, and return the one line that it ends with."""
    with pytest.raises(SystemExit) as end:
        run_in(folder, *arguments)
    assert end.value.code == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("lit-hier: error: ")]
    assert len(lines) == 1
    return lines[0].removeprefix("lit-hier: error: ")


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Change the working directory, and restore it at the end."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV table."""
    with path.open() as file:
        return list(csv.DictReader(file))


class RecordCollector(Callback):
    """Collects the records that a sampler returns."""

    def __init__(self) -> None:
        self.records: list[ForwardBackward] = []

    def on_predict_batch_end(self, *args: Any) -> None:
        self.records.append(args[2])


def random_pipeline(folder: Path, channels: int) -> str:
    """Write a pipeline folder with random weights, for images of 8 x 8 pixels."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        layers_per_block=1,
    )
    DDPMPipeline(unet, DDPMScheduler(clip_sample=True)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a diffusion model of grayscale images."""
    return random_pipeline(tmp_path_factory.mktemp("pipeline"), channels=1)
