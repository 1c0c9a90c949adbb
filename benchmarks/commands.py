"""What whole commands take: how quickly the command line starts, and Fig. 6 at the paper's size.

python benchmarks/commands.py [--rounds 5]

Starting is measured against importing LightningCLI alone, in turns; medians, with quartiles.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CONFIGS = Path(__file__).parent.parent / "configs"
LIT_HIER = (sys.executable, "-m", "lit_hier")
IMPORT = (sys.executable, "-c", "from pytorch_lightning.cli import LightningCLI")


def seconds(command: tuple[str, ...], folder: str | None = None) -> float:
    """Time a command, from its start to its end."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    return time.perf_counter() - start


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    helps = (*LIT_HIER, "--help")
    seconds(helps)
    times = np.array([(seconds(IMPORT), seconds(helps)) for _ in range(given.rounds)])
    low, middle, high = np.percentile(times[:, 1] / times[:, 0], [25, 50, 75])
    print(f"lit-hier --help over importing LightningCLI: {middle:.2f} ({low:.2f} to {high:.2f})")
    with tempfile.TemporaryDirectory() as folder:
        took = seconds((*LIT_HIER, "predict", "-c", str(CONFIGS / "fig6.yaml")), folder)
    print(f"Fig. 6 at the paper's size, start and figures included: {took:.0f} s,", end=" ")
    print(f"{took / np.median(times[:, 0]):.1f} times as long as importing LightningCLI")


if __name__ == "__main__":
    main()
