"""Every benchmark that needs no GPU, one after another, as a page.

python benchmarks > results.md          # half an hour on two quiet cores

`gpu_belief_propagation.py` and `image_sampler.py --device cuda` are for a machine with a GPU.
"""

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SMALL = "--model small --precision 32 --num-steps 20 --steps 1 2 3 5 --images 10 --batch 16"
SCRIPTS = (
    "belief_propagation.py",
    "scaling.py",
    "similarity.py",
    "training.py",
    f"image_sampler.py {SMALL}",
    "commands.py",
)


def processor() -> str:
    """Name the processor, as well as the system can."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(line.split(": ")[1] for line in lines if line.startswith("model name"))


def main() -> None:
    """Run them all."""
    today = datetime.datetime.now(datetime.UTC).date()
    print(f"{today}, {os.cpu_count()} cores ({processor()}), {platform.system()}\n", flush=True)
    for script in SCRIPTS:
        print(f"## `python benchmarks/{script}`\n", flush=True)
        name, *arguments = script.split()
        subprocess.run([sys.executable, "-W", "ignore", str(HERE / name), *arguments], check=True)
        print(flush=True)


if __name__ == "__main__":
    main()
