"""Measure the peak memory of runs, and of runs a hundred times as long.

python tests/memory.py [--only NAME ...] [--factor 100]        (or: make memory)

Each run is a separate process; its peak is ru_maxrss, which the system reports at the end. The
table compares the growth per sample with what must be kept of each sample: its datum and its
values in the tables, as in the `.npz` files. Any further growth is a leak.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LEAVES = 16  # of the grammar below, a byte each
GRAMMAR = "{class_path: RandomHierarchyModel, init_args: {num_features: 8, num_synonyms: 3, tuple_size: 2, num_layers: 4}}"  # noqa: E501
TIMES = "[0.0, 0.3, 0.5, 0.7, 0.8, 1.0]"
STEPS = [0.0, 2.0, 6.0, 10.0]
CNN = """- class_path: ActivationSimilarity
      init_args:
        network: {class_path: TrainedCNN, init_args: {weights: %s/network.ckpt}}
        layers: ["layers.*", "readout"]
    - Reconstruction"""
MESSAGES = "".join(
    f"\n    - {name}" for name in ("Beliefs", "BeliefHistogram", "IterationMap", "EffectiveNoise")
)
CLASSIFIER = """
data:
  class_path: RHMDataModule
  init_args: {rhm: %s, num_train: 500, num_val: 100, num_test: 200, num_predict: 1}
model: {class_path: RHMClassifier, init_args: {width: 32}}
trainer:
  accelerator: cpu
  max_epochs: %d
  enable_progress_bar: false
  logger: {class_path: TensorBoardLogger, init_args: {save_dir: %s/logs}}
  callbacks:
    - class_path: ModelCheckpoint
      init_args: {dirpath: %s, filename: network, enable_version_counter: false}
"""
SAMPLER = """
data:
  class_path: RHMDataModule
  init_args: {rhm: %s, num_train: 500, num_val: 100, num_test: 200, num_predict: %d,
              eval_batch_size: 100}
model:
  class_path: BPDenoiser
  init_args: {process: {class_path: EpsilonNoise}, times: %s, messages: %s}
trainer:
  accelerator: cpu
  enable_progress_bar: %s
  logger: {class_path: TensorBoardLogger, init_args: {save_dir: %s/logs}}
  callbacks:
    %s
"""


def command(folder: Path, verb: str, config: str) -> None:
    """Run a command in this process."""
    from lit_hier.cli import main

    path = folder / f"{verb}.yaml"
    path.write_text(config)
    main([verb, "-c", str(path)])


def train(folder: Path, num: int) -> None:
    command(folder, "fit", CLASSIFIER % (GRAMMAR, num, folder, folder))


def grammar(folder: Path, num: int) -> None:
    config = (GRAMMAR, num, TIMES, "false", "false", folder, CNN % folder)
    command(folder, "predict", SAMPLER % config)


def grammar_with_messages(folder: Path, num: int) -> None:
    config = (GRAMMAR, num, TIMES, "true", "true", folder, CNN % folder + MESSAGES)
    command(folder, "predict", SAMPLER % config)


def digits(folder: Path, num: int, replay: bool = False, size: int = 10) -> None:
    import image_runs as runs
    from conftest import random_pipeline

    from lit_hier.modules import StoredSamples

    kept = folder / "samples"
    if replay:
        model: object = StoredSamples(str(kept))
    else:
        model = runs.sampler(random_pipeline(folder / "pipeline", channels=1), kept, times=STEPS)
    runs.predict(
        folder, model, runs.analyses(), num_predict=num, num_test=100, eval_batch_size=size
    )  # fmt: skip


def replay(folder: Path, num: int) -> None:
    digits(folder, num, replay=True)


def replay_in_other_batches(folder: Path, num: int) -> None:
    digits(folder, num, replay=True, size=7)


@dataclass(frozen=True)
class Case:
    """A run of variable length.

    Attributes:
        run: Runs it, in a folder.
        num: Its length: samples, or epochs.
        data: Bytes in memory per sample of the data.
        before: A run that the same folder needs first, and its length; 0 for the same length.
    """

    run: Callable[[Path, int], None]
    num: int
    data: int = 0
    before: tuple[str, int] | None = None


CASES = {
    "training (epochs)": Case(train, 1),
    "grammar": Case(grammar, 1000, LEAVES + 8, ("training (epochs)", 1)),
    "grammar, all analyses": Case(
        grammar_with_messages, 300, LEAVES + 8, ("training (epochs)", 1)
    ),
    "digits, kept": Case(digits, 14, 64 + 8),
    "digits, replayed": Case(replay, 14, 64 + 8, ("digits, kept", 0)),
    "in other batches": Case(replay_in_other_batches, 14, 64 + 8, ("digits, kept", 0)),
}


def peak(name: str, num: int, folder: Path) -> int:
    """Run a case in a separate process; return its peak memory in bytes."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "--run", name, str(num), str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        sys.exit(f"{name}: {done.stderr}")
    return int(done.stdout.splitlines()[-1]) * (1 if sys.platform == "darwin" else 1024)


def measure(name: str, factor: int) -> None:
    """Measure a case and print its row."""
    case = CASES[name]
    peaks, kept = [], []
    for num in (case.num, factor * case.num):
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root)
            if case.before is not None:
                before, length = case.before
                peak(before, length or num, folder)
            written = {path for path in folder.rglob("*.npz")}
            peaks.append(peak(name, num, folder))
            kept.append(sum(size(p) for p in set(folder.rglob("*.npz")) - written))
    more = (factor - 1) * case.num
    needed = (kept[1] - kept[0]) / more + case.data
    one, many = peaks
    print(
        f"{name:<22} {case.num:>6} {one / 2**20:>9.1f} {many / 2**20:>9.1f}"
        f" {many / one - 1:>7.1%} {(many - one) / more:>12.0f} {needed:>12.0f}",
        flush=True,
    )


def size(path: Path) -> int:
    """Return the bytes of the arrays in a file."""
    import numpy as np

    with np.load(path) as arrays:
        return sum(arrays[name].nbytes for name in arrays.files)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every case, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--factor", type=int, default=100)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.run:
        name, num, folder = given.run
        CASES[name].run(Path(folder), int(num))
        # Before the libraries unload, which loads some of their pages again.
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    titles = (f"{'run':<22} {'length':>6} {'MiB':>9} {f'MiB x{given.factor}':>9} {'growth':>7}"
              f" {'bytes/sample':>12} {'to be kept':>12}")  # fmt: skip
    print(titles)
    for name in given.only:
        measure(name, given.factor)


if __name__ == "__main__":
    main()
