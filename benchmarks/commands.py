"""Time the start of the command line, and Fig. 6 at the size of the paper.

python benchmarks/commands.py [--rounds 5]

The start is compared with importing LightningCLI alone: medians and quartiles over interleaved
rounds.
"""

import argparse
import subprocess
import sys
import tempfile
import time

import numpy as np

LIT_HIER = (sys.executable, "-m", "lit_hier")
IMPORT = (sys.executable, "-c", "from pytorch_lightning.cli import LightningCLI")


def seconds(command: tuple[str, ...], folder: str | None = None) -> float:
    """Time a command from start to end."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    return time.perf_counter() - start


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="number of interleaved rounds")
    options = parser.parse_args()
    show_help = (*LIT_HIER, "predict", "--help")
    seconds(show_help)  # warm up the file cache
    for name in ("--version", "--help"):
        light = np.median([seconds((*LIT_HIER, name)) for _ in range(options.rounds)])
        print(f"lit-hier {name}: {light:.2f} s")
    times = np.array([(seconds(IMPORT), seconds(show_help)) for _ in range(options.rounds)])
    low, middle, high = np.percentile(times[:, 1] / times[:, 0], [25, 50, 75])
    print("lit-hier predict --help over importing LightningCLI:", end=" ")
    print(f"{middle:.2f} ({low:.2f} to {high:.2f})")
    with tempfile.TemporaryDirectory() as folder:
        duration = seconds((*LIT_HIER, "predict", "-c", "fig6"), folder)
    print(f"Fig. 6 at the paper's size, start and figures included: {duration:.0f} s,", end=" ")
    print(f"{duration / np.median(times[:, 0]):.1f} times as long as importing LightningCLI")


if __name__ == "__main__":
    main()
