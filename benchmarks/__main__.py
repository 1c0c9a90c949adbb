"""Run every benchmark that needs no GPU and print the results as Markdown.

python benchmarks > results.md          # half an hour on two idle cores

What needs a GPU is a command of its own, `python benchmarks/gpu`.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
SMALL_MODEL = "--model small --precision 32 --num-steps 20 --steps 1 2 3 5 --images 10 --batch 16"
SCRIPTS = (
    "belief_propagation.py",
    "scaling.py",
    "similarity.py",
    "training.py",
    "denoisers.py",
    "denoiser_sampling.py",
    f"image_sampler.py {SMALL_MODEL}",
    "commands.py",
)


def processor_name() -> str:
    """Return the processor's name, from /proc/cpuinfo if there is one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(line.split(": ")[1] for line in lines if line.startswith("model name"))


def main() -> None:
    """Run the benchmarks."""
    description = __doc__.splitlines()[0]
    argparse.ArgumentParser("python benchmarks", description=description).parse_args()
    today = datetime.datetime.now(datetime.UTC).date()
    print(
        f"{today}, {os.cpu_count()} cores ({processor_name()}), {platform.system()}\n", flush=True
    )
    for script in SCRIPTS:
        print(f"## `python benchmarks/{script}`\n", flush=True)
        name, *arguments = script.split()
        subprocess.run(
            [sys.executable, "-W", "ignore", str(FOLDER / name), *arguments], check=True
        )
        print(flush=True)


if __name__ == "__main__":
    main()
