"""Run everything that needs a GPU, correctness first, then speed, and print one table.

python benchmarks/gpu                      # under 8 minutes on one card; also: make gpu
python benchmarks/gpu --only correctness   # or speed, or names of checks
python benchmarks/gpu --rehearse           # all of it at tiny sizes, on the CPU, without a card

One line per check is printed as it ends, then the table. The table is also in OUT/gpu.md, with
every repetition in OUT/gpu.json, what each check has printed in OUT/log, and what was compiled in
OUT/cache. Exit status: 0, 1 if a check failed, 2 if packages or a card are missing. Nothing is
installed or downloaded, and lit-hier need not be installed; its native kernel is built first if
there is a compiler.
"""

import argparse
import importlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import warnings
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
# The repository, not an installed lit-hier; the other benchmarks, whose functions are used here.
sys.path[:0] = [str(ROOT), str(FOLDER.parent)]
IMPORTED_AS = {
    "pillow": "PIL",
    "pytorch-lightning": "pytorch_lightning",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
}
# Imported before processes are forked, so that each check starts at once. Not lit_hier, which
# would know that it was forked and compute on one thread.
PRELOADED = ("torch", "torchvision", "pytorch_lightning", "diffusers", "pandas", "jsonargparse")
BUILD_SECONDS = 60
NATIVE = ROOT / "lit_hier/inference/native"


def missing_packages() -> list[str]:
    """List the dependencies in pyproject.toml that cannot be imported, by import name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[\[<>=!~ ]", text)[0] for text in project["dependencies"]]
    modules = [IMPORTED_AS.get(name, name) for name in names]
    # What jsonargparse[signatures] brings.
    modules += ["docstring_parser", "typeshed_client"]
    return [module for module in modules if importlib.util.find_spec(module) is None]


def start_build() -> subprocess.Popen[bytes] | None:
    """Start to build the native kernel, quietly, if there is none."""
    if list(NATIVE.glob("kernel_*.so")):
        return None
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=ROOT, **quiet)


def finish_build(process: subprocess.Popen[bytes] | None, start: float) -> None:
    """Wait for the native kernel; without one, the CPU computes with plain torch operations."""
    if process is None:
        return
    try:
        process.wait(BUILD_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
    built = "built" if list(NATIVE.glob("kernel_*.so")) else "not built"
    print(f"{'native kernel':<20}{built:<30}{time.monotonic() - start:6.1f} s", flush=True)


def main() -> int:
    """Run the checks; return the exit status."""
    parser = argparse.ArgumentParser(
        "python benchmarks/gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="correctness, speed, or names of checks"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("logs/gpu"), help="folder of the results (logs/gpu)"
    )
    parser.add_argument(
        "--seconds", type=float, default=465, help="time for everything, in seconds (465)"
    )
    parser.add_argument(
        "--jobs", type=int, help="correctness checks at a time (one per three cores, at most 5)"
    )
    parser.add_argument(
        "--start",
        choices=("fork", "spawn"),
        default="fork",
        help="how processes start; spawn is used where a forked one cannot reach the card",
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="tiny sizes, on the CPU in place of the card"
    )
    options = parser.parse_args()
    start = time.monotonic()
    if missing := missing_packages():
        print(f"missing packages: {', '.join(missing)}", file=sys.stderr)
        return 2
    # Asking whether there is a card must not initialize CUDA, which a forked process cannot use.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    # Also in the process of multiprocessing that looks after what killed processes leave behind.
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    warnings.simplefilter("ignore")
    import torch

    if not options.rehearse and not torch.cuda.is_available():
        print(
            "no CUDA device is available; --rehearse runs the same at tiny sizes on the CPU",
            file=sys.stderr,
        )
        return 2
    import runner

    try:
        checks = runner.choose(options.only, options.rehearse)
    except ValueError as error:
        parser.error(str(error))
    out, deadline = options.out.resolve(), start + options.seconds
    # Compilations in processes of their own leave here what measurements find.
    os.environ["TRITON_CACHE_DIR"] = str(out / "cache/triton")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(out / "cache/inductor")
    build = start_build()
    if options.start == "fork":
        for name in PRELOADED:
            importlib.import_module(name)
    finish_build(build, start)
    jobs = options.jobs or max(1, min(5, (os.cpu_count() or 1) // 3))
    command = " ".join(["python benchmarks/gpu", *sys.argv[1:]])
    run = runner.Run(out, deadline, jobs, options.start, options.rehearse, command)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    run.execute(checks)
    print(f"\n{run.write()}", flush=True)
    return int(run.failed)


if __name__ == "__main__":
    sys.exit(main())
