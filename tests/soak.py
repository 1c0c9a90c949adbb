"""Interrupt runs on images at random moments, and go on: what is lost, what differs.

python tests/soak.py [--trials 30] [--seed 0]        (or: make soak)

Each trial starts a run that keeps its samples, sends SIGTERM, SIGINT or SIGKILL at a moment drawn
from its whole length (statistics, sampling, similarity, writing), and gives the same command again
until it ends by itself. Tables, pictures and samples must then be those of an undisturbed run, and
no batch that was finished may have been made again.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from conftest import ROOT, random_pipeline

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
RUN = (
    "import sys, warnings; warnings.simplefilter('ignore'); sys.path.insert(0, sys.argv[1]);"
    "import test_image_runs as t; from pathlib import Path; print('begun', flush=True);"
    "folder = Path(sys.argv[2]);"
    "model = t.sampler(sys.argv[3], folder / 'samples', num_steps=10);"
    "t.predict(folder, model, t.analyses(), num_predict=90, num_test=200, eval_batch_size=6);"
    "print('ended', flush=True)"
)


def start(folder: Path, pipeline: str) -> subprocess.Popen[str]:
    """Start a run, and wait until its libraries are there."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(ROOT / "tests"), str(folder), pipeline],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def results(folder: Path) -> dict[str, bytes]:
    """What the last run that ended has written, and all samples."""
    runs = sorted(folder.glob("logs/run/version_*"), key=lambda path: int(path.name[8:]))
    files = [path for kind in ("*.csv", "*.npz") for path in runs[-1].glob(kind)]
    kept = list((folder / "samples").rglob("*.png"))
    return {str(path.relative_to(folder)).replace(runs[-1].name, "version"): path.read_bytes()
            for path in files + kept}  # fmt: skip


def batches(folder: Path) -> dict[str, int]:
    """The finished batches, and when each was finished."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("samples/batches/*.json")}


def main() -> None:
    """Run the trials and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    counts = dict.fromkeys(("trials", "interrupted", "differences", "made again", "failures"), 0)
    with tempfile.TemporaryDirectory() as place:
        pipeline = random_pipeline(Path(place, "pipeline"), channels=1)
        undisturbed = Path(place, "undisturbed")
        process, begun = start(undisturbed, pipeline), time.monotonic()
        assert process.wait() == 0
        length = time.monotonic() - begun
        wanted = results(undisturbed)
        for trial in range(given.trials):
            folder, kind = Path(place, f"trial_{trial}"), chance.choice(SIGNALS)
            process = start(folder, pipeline)
            time.sleep(chance.random() * length)
            counts["trials"] += 1
            counts["interrupted"] += process.poll() is None
            process.send_signal(kind)
            process.wait()
            finished = batches(folder)
            counts["failures"] += start(folder, pipeline).wait() != 0
            after = batches(folder)
            again = sum(after.get(name) != when for name, when in finished.items())
            found = results(folder)
            differ = sum(found.get(name) != content for name, content in wanted.items())
            counts["made again"] += again
            counts["differences"] += differ + len(found.keys() - wanted.keys())
            print(
                f"trial {trial}: {kind.name}, {len(finished)} of {len(after)} batches were"
                f" finished, {again} made again, {differ} files differ",
                flush=True,
            )
    print(", ".join(f"{name} {number}" for name, number in counts.items()))
    sys.exit(any(counts[name] for name in ("differences", "made again", "failures")))


if __name__ == "__main__":
    main()
