"""Every config at toy size, on any number of processes and nodes.

`launch` starts torchrun, whose processes run this file as a script: they run the configs one after
another and so import their libraries once. `fork` is faster but cannot train.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
from conftest import ROOT, random_pipeline
from PIL import Image
from pytorch_lightning.strategies.launchers import subprocess_script

from lit_hier.cli import main

CONFIGS = ROOT / "configs"
QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
SMALL_RHM = (
    *("-c", f"{CONFIGS}/fast.yaml", "--data.init_args.num_predict=7"),
    "--data.init_args.eval_batch_size=3",
)
OTHER_ANALYSES = tuple(
    f"--trainer.callbacks+={name}"
    for name in ("IterationMap", "Transition", "EffectiveNoise", "Reconstruction")
)
SHALLOW = "--data.init_args.rhm.init_args.num_layers=3"
FEW = ("--data.init_args.num_predict=7", "--data.init_args.eval_batch_size=3")
DIGITS = (*FEW, "--data.init_args.num_test=8", "--data.init_args.num_val=1700")
FEW_DIGITS = (*DIGITS, "--model.init_args.times=[0,1,4]")
TRAINING = ("--data.init_args.num_train=1000", "--data.init_args.num_val=70",
            "--data.init_args.num_test=70", SHALLOW, "--data.init_args.batch_size=64",
            "--model.init_args.width=16", "--trainer.max_epochs=2")  # fmt: skip
SIMILARITY = ("--data.init_args.num_train=1000", "--data.init_args.num_val=70",
           "--data.init_args.num_test=70", SHALLOW, *FEW,
           "--model.init_args.times=[0.3,0.7,0.9]")  # fmt: skip

# Training runs, in the order in which others need them; then predictions.
FITS: dict[str, tuple[str, ...]] = {
    "demo_classifier": TRAINING,
    "fig8_classifier": TRAINING,
    "learned_train": (
        *FEW,
        "--data.init_args.num_train=[30,90]",
        "--data.init_args.num_val=70",
        "--data.init_args.num_test=70",
        SHALLOW,
        "--data.init_args.batch_size=16",
        "--trainer.max_steps=24",
        "--model.init_args.network.init_args.width=16",
        "--trainer.check_val_every_n_epoch=2",
    ),
    "digits_ddpm": (*DIGITS, "--model.init_args.widths=[8,8]", "--trainer.max_epochs=1"),
    "digits_classifier": (*DIGITS, "--model.init_args.widths=[8,8]", "--trainer.max_epochs=2"),
}
PREDICTIONS: dict[str, tuple[str, ...]] = {
    "demo": SIMILARITY,
    "fig5": SMALL_RHM,
    "fig6": SMALL_RHM,
    "fig7": SMALL_RHM,
    "fig8": SIMILARITY,
    "fig10": SMALL_RHM,
    # One batch per grammar, of two: a third process is idle.
    "fig11_14": ("-c", f"{CONFIGS}/fast.yaml", *OTHER_ANALYSES),
    "fig15": SMALL_RHM,
    "transition": (*SMALL_RHM, "--data.init_args.rhm.init_args.num_layers=[3,4]"),
    "correlations": SMALL_RHM,
    "collapse": (*SMALL_RHM, "--data.init_args.rhm.init_args.num_layers=[3,4]"),
    "transition_time": SMALL_RHM,
    "gaussian_field": (*FEW, "--data.init_args.num_test=9"),
    "gaussian_mixture": (*FEW, "--data.init_args.num_test=2"),
    "digits": (*FEW_DIGITS, "--model.init_args.num_steps=4"),
    "digits_bands": DIGITS,  # replays the samples of `digits`
    "correlations_digits": DIGITS,
    "fig2": (),
    "fig16": (),
    "correlations_imagenet": (),
}
IMAGES = (
    "--data.init_args.held_out.init_args.root=val",
    "--data.init_args.num_per_class=1",
    "--data.init_args.size=8",
    "--data.init_args.eval_batch_size=2",
    "--data.init_args.num_workers=0",
)
SMALLER = {
    "convnext_base, weights: IMAGENET1K_V1": "convnext_tiny, weights: random",
    "resnet50, weights: IMAGENET1K_V2": "resnet18, weights: random",
    "wide_resnet50_2, weights: IMAGENET1K_V2": "resnet18, weights: random",
    "resnet152, weights: IMAGENET1K_V2": "resnet18, weights: random",
}
SMALLER_TOKENS = {
    "timm/vit_base_patch32_clip_224.openai": "timm/test_vit, weights: random",
    "blocks.11": "blocks.5",
}


def prepare(folder: Path) -> None:
    """Write what the configs of images need into a folder: a model, images, small networks."""
    for k, wnid in enumerate(("n01440764", "n02123394", "n04037443")):
        (folder / "val" / wnid).mkdir(parents=True)
        noise = np.random.default_rng(k).integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"val/{wnid}/0.JPEG")
    random_pipeline(folder / "pipeline", channels=3)
    for name in ("fig2", "fig16", "correlations_imagenet"):
        text = (CONFIGS / f"{name}.yaml").read_text()
        for long, short in SMALLER.items():
            text = text.replace(f"torchvision/{long}", f"torchvision/{short}")
        for long, short in SMALLER_TOKENS.items():
            text = text.replace(long, short)
        (folder / f"{name}.yaml").write_text(text)


def command(name: str) -> list[str]:
    """Return the arguments that run a config at toy size."""
    if name in FITS:
        return ["fit", "-c", f"{CONFIGS}/{name}.yaml", *FITS[name]]
    if name == "fig2":
        steps = ("--model.init_args.pretrained=pipeline", "--model.init_args.num_steps=4")
        return ["predict", "-c", "fig2.yaml", *IMAGES, *steps, "--model.init_args.times=[0,1,4]"]
    if name in ("fig16", "correlations_imagenet"):
        return ["predict", "-c", f"{name}.yaml", *IMAGES]
    return ["predict", "-c", f"{CONFIGS}/{name}.yaml", *PREDICTIONS[name]]


def launch(folder: Path, names: Iterable[str], nodes: int = 1, per_node: int = 1) -> None:
    """Run configs at toy size in a folder, one after another, on nodes of this machine.

    Raises:
        AssertionError: One of them fails.
    """
    port = free_port()
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "PYTHONWARNINGS": "ignore",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}",
             f"--nproc-per-node={per_node}", "--rdzv-backend=c10d",
             f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=toys", "--local-addr=127.0.0.1",
             __file__, str(nodes), *names],
            cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(nodes)
    ]  # fmt: skip
    errors = [process.communicate(timeout=900)[1] for process in started]
    assert not any(process.returncode for process in started), "\n".join(errors)


def fork(folder: Path, arguments: Sequence[str], num: int) -> None:
    """Run a command on forked processes in the environment that torchrun sets.

    They need not import anything. Training is not possible, as autograd does not survive a fork.

    Raises:
        AssertionError: One of them fails.
    """
    torchrun = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
                "TORCHELASTIC_RUN_ID": "fork", "GROUP_RANK": "0", "WORLD_SIZE": str(num),
                "LOCAL_WORLD_SIZE": str(num)}  # fmt: skip
    started = []
    for rank in range(num):
        if process := os.fork():
            started.append(process)
            continue
        os.environ.update(torchrun, RANK=str(rank), LOCAL_RANK=str(rank))
        os.chdir(folder)
        sys.argv = ["lit-hier", *arguments, "--trainer.accelerator=cpu",
                    "--trainer.strategy=ddp", f"--trainer.devices={num}", *QUIET]  # fmt: skip
        run_and_exit(main)
    assert not any([os.waitpid(process, 0)[1] for process in started])


class ForkedPopen(subprocess.Popen[bytes]):
    """Forks a run of `sys.argv` where Lightning's launcher starts a process for it."""

    run: Callable[[], object] = main

    def _execute_child(self, *given: Any, **named: Any) -> None:
        environment = self._environment
        self.pid = os.fork()
        self._child_created = True
        if self.pid:
            return
        os.environ.update(environment)
        run_and_exit(type(self).run)

    def __init__(self, command: Sequence[str], env: dict[str, str], cwd: None) -> None:
        self._environment = env
        super().__init__(command)


def fork_children(run: Callable[[], object]) -> None:
    """Let Lightning's launcher fork processes that need not import anything.

    Args:
        run: What they execute.
    """
    ForkedPopen.run = staticmethod(run)
    subprocess_script.subprocess = SimpleNamespace(Popen=ForkedPopen)


def run_and_exit(run: Callable[[], object]) -> NoReturn:
    """Execute a run, and end this process with its status."""
    status = 1
    try:
        run()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def tables(folder: Path) -> dict[str, bytes]:
    """Return the contents of all tables, arrays and samples below a folder, by name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".csv" or (path.suffix == ".png" and "samples/" in name):
            found[name] = path.read_bytes()
        elif path.suffix == ".npz" and "reference/" not in name:
            with np.load(path) as arrays:
                found |= {f"{name}/{key}": value.tobytes() for key, value in arrays.items()}
    return found


def trained(source: Path, target: Path) -> None:
    """Copy the trained networks of one folder to another."""
    for path in ("demo_classifier/weights", "fig8_classifier/weights", "learned_train/weights",
                 "digits_ddpm/pipeline", "digits_classifier/weights"):  # fmt: skip
        if (source / "logs" / path).exists():
            shutil.copytree(source / "logs" / path, target / "logs" / path)


def free_port() -> int:
    """Return the number of a port that no program uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _run(nodes: int, names: list[str]) -> None:
    """Run the configs as one process of torchrun."""
    world_size = int(os.environ["WORLD_SIZE"])
    where = [
        *("--trainer.accelerator=cpu", "--trainer.strategy=ddp", f"--trainer.num_nodes={nodes}"),
        *(f"--trainer.devices={world_size // nodes}", *QUIET),
    ]
    for name in names:
        sys.argv = ["lit-hier", *command(name), *where]
        main()


if __name__ == "__main__":
    _run(int(sys.argv[1]), sys.argv[2:])
