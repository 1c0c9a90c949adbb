"""Malformed configs and arguments, for the command line itself."""

import contextlib
import io
import json
import logging
import os
import random
import shutil
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from conftest import ROOT, inside, random_pipeline
from fuzz import Kind, Rejected, TooLong, within
from fuzz_mutations import ODD, mutate_bytes, mutate_tree, paths, value_at
from images import mnist
from PIL import Image
from pytorch_lightning import Trainer
from pytorch_lightning.strategies.launchers import multiprocessing, subprocess_script

from lit_hier.cli import main

RUNNING = 3.0  # seconds of a run after which it counts as accepted

GRAMMAR = {"num_train": 60, "num_val": 20, "num_test": 20, "num_predict": 8, "eval_batch_size": 8}
# Smaller values, by the end of each argument's name.
LESS: dict[str, Any] = {
    "rhm.init_args.num_layers": 2,
    "rhm.init_args.seeds": [0, 1],
    "init_args.times": [0.2, 0.5, 0.8],
    "init_args.width": 8,
    "init_args.widths": [8, 8],
    "distribution.init_args.size": 8,
    "network.init_args.size": 8,
    "trainer.max_epochs": 1,
}
DIGITS = {"num_test": 20, "num_predict": 6, "num_val": 20}
SMALL_IMAGES = {"size": 8, "num_per_class": 1, "eval_batch_size": 2, "num_workers": 0}
NETWORKS = ("convnext_base", "resnet50", "wide_resnet50_2", "resnet152")


def small(name: str) -> Any:
    """Read a config and reduce its run to seconds."""
    tree = yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text())
    for path in list(paths(tree)):
        dotted = ".".join(map(str, path))
        for ending, value in LESS.items():
            if dotted.endswith(ending):
                value_at(tree, path[:-1])[path[-1]] = value
    data = tree["data"].setdefault("init_args", {})
    kind = tree["data"].get("class_path")
    if kind == "RHMDataModule":
        data |= GRAMMAR if data.get("num_train") else {"num_predict": 4}
    elif kind == "GaussianDataModule":
        data |= {"num_test": 20, "num_predict": 6}
    elif kind == "DigitsDataModule":
        data |= DIGITS
    elif name in ("fig2", "fig16"):
        data |= SMALL_IMAGES
    for path in list(paths(tree)):
        value = value_at(tree, path)
        if isinstance(value, dict) and str(value.get("name", "")).startswith("torchvision/"):
            value |= {"name": "torchvision/resnet18", "weights": "random"}
    model = tree.get("model", {}).get("init_args", {})
    if "pretrained" in model:
        model |= {"num_steps": 10, "times": [2, 5]} if name != "fig2" else {"times": [25, 250]}
    if name == "fig2":
        model["pretrained"] = "pipeline"
    return tree


RUNS: tuple[tuple[str, ...], ...] = (
    *(("fit", name) for name in ("demo_classifier", "fig8_classifier", "digits_classifier")),
    ("fit", "digits_ddpm"),
    *(("predict", name) for name in ("demo", "fig8", "digits", "digits_bands", "fig2", "fig16")),
    *(("predict", name) for name in ("gaussian_field", "gaussian_mixture", "transition")),
    *(("predict", f"fig{number}", "fast") for number in ("5", "6", "7", "10", "11_14", "15")),
    ("fit", "digits_classifier", "mnist"),
    ("fit", "digits_classifier", "fashion_mnist"),
    ("fit", "digits_classifier", "cifar10"),
    ("predict", "digits", "mnist"),
    ("test", "demo_classifier"),
    ("validate", "digits_classifier"),
)


class _StopRun(BaseException):
    """A run has lasted long enough to count as accepted."""


def _no_connection(*_: Any, **__: Any) -> None:
    raise OSError("there is no connection")


def _no_processes(*_: Any, **__: Any) -> None:
    raise _StopRun


@contextlib.contextmanager
def _isolated(length: float) -> Iterator[None]:
    """Block network and processes; stop runs after some seconds, or, with 0, before they start."""
    run = Trainer._run_stage

    def begin(self: Trainer) -> Any:
        if not length:
            raise _StopRun
        try:
            with within(length):
                return run(self)
        except TooLong:
            raise _StopRun from None

    environment = dict(os.environ)
    with (
        patch.object(socket.socket, "connect", _no_connection),
        patch.object(socket, "create_connection", _no_connection),
        patch.object(socket, "getaddrinfo", _no_connection),
        patch.object(Trainer, "_run_stage", begin),
        patch.object(multiprocessing._MultiProcessingLauncher, "launch", _no_processes),
        patch.object(subprocess_script._SubprocessScriptLauncher, "_call_children_scripts",
                     _no_processes),
        patch("multiprocessing.process.BaseProcess.start", _no_processes),
    ):  # fmt: skip
        try:
            yield
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
            os.environ.clear()
            os.environ.update(environment)


def command(arguments: list[str], folder: Path, length: float = RUNNING) -> None:
    """Run a command in a folder.

    Raises:
        Rejected: It ends with status 2 and one line.
        AssertionError: It ends in any other way.
    """
    err, out = io.StringIO(), io.StringIO()
    with (
        inside(folder),
        _isolated(length),
        contextlib.redirect_stderr(err),
        contextlib.redirect_stdout(out),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        logging.disable()
        try:
            main(arguments)
        except _StopRun:
            return
        except SystemExit as end:
            if not end.code:
                return
            before, start, line = err.getvalue().partition("lit-hier: error: ")
            if end.code != 2 or not start or "Traceback" in before:
                raise AssertionError(f"status {end.code}: {err.getvalue()}") from end
            raise Rejected(line.removesuffix("\n")) from None
        finally:
            logging.disable(logging.NOTSET)


def create_inputs(folder: Path) -> None:
    """Create what the configs depend on: images, models, weights, samples."""
    random_pipeline(folder / "pipeline", channels=3)
    random_pipeline(folder / "logs/digits_ddpm/pipeline", channels=1)
    mnist(folder / "data", 30, ("MNIST", "FashionMNIST"))
    for k, wnid in enumerate(("n01440764", "n02123394")):
        (folder / f"data/imagenet/val/{wnid}").mkdir(parents=True)
        for i in range(2):
            image = Image.new("RGB", (12, 10), (40 * k, 90 * i, 7))
            image.save(folder / f"data/imagenet/val/{wnid}/{i}.JPEG")
    for stage, name in (("fit", "demo_classifier"), ("fit", "digits_classifier"),
                        ("predict", "digits"), ("predict", "fig2")):  # fmt: skip
        write(small(name), folder / "config.yaml")
        command([stage, "-c", "config.yaml"], folder, length=60)
    shutil.copytree(folder / "logs/demo_classifier", folder / "logs/fig8_classifier")
    for path in (*folder.glob("logs/*/version_*"), folder / "logs/reference"):
        shutil.rmtree(path)


def write(tree: Any, path: Path) -> None:
    """Write a config as YAML, or as JSON where YAML cannot represent it."""
    try:
        path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
    except (yaml.YAMLError, UnicodeEncodeError, ValueError, RecursionError):
        path.write_text(json.dumps(tree, skipkeys=True))


# Each list has nine aliases of the one before: nine to the ninth values in total.
BOMB = "".join(f"x{k}: &x{k} [{', '.join([f'*x{k - 1}' if k else 'x'] * 9)}]\n" for k in range(9))
SYNTAX: tuple[Callable[[random.Random, str], str], ...] = (
    lambda rng, text: text[: rng.randrange(len(text))],
    lambda rng, text: text.replace("  ", "\t", rng.randrange(1, 9)),
    lambda rng, text: text.replace(": ", ":", rng.randrange(1, 9)),
    lambda rng, text: text.replace("\n", "\r", rng.randrange(1, 9)),
    lambda rng, text: text.replace("init_args:", "init_args: *nothing", 1),
    lambda rng, text: text.replace("class_path: ", "class_path: !!python/name:os.", 1),
    lambda rng, text: text + "model: !!python/object/apply:os.system ['touch EXECUTED']\n",
    lambda rng, text: text + "trainer: &t {callbacks: *t}\n",
    lambda rng, text: text + "<<: *t\n",
    lambda rng, text: text + text,  # keys twice
    lambda rng, text: text + "---\n" + text,
    lambda rng, text: BOMB + text,
    lambda rng, text: text + "seed_everything: " + "[" * rng.choice((100, 3000, 50_000)),
    lambda rng, text: BOMB + text.replace("data:", "data: *x8\nx:", 1),
    lambda rng, text: BOMB + f"seed_everything: *x{rng.choice((3, 5, 8))}\n",
    lambda rng, text: BOMB + f"trainer: {{callbacks: *x{rng.choice((3, 5, 8))}}}\n",
    lambda rng, text: BOMB + f"model: {{init_args: {{times: *x{rng.choice((3, 5, 8))}}}}}\n",
    lambda rng, text: "\ufeff" + text,
    lambda rng, text: "%YAML 9.9\n---\n" + text,
    lambda rng, text: text.replace("0", "0" * 5000 + "1", 1),
    lambda rng, text: text.replace(": ", f": {rng.choice('!|>&*%@`?-[]{}')}", 3),
)  # fmt: skip


def _argument(rng: random.Random, tree: Any) -> str:
    """Return a command-line argument with an odd value."""
    path = [str(key) for key in rng.choice(list(paths(tree)))]
    dotted = ".".join(part for part in path if not part.isdigit()) or "config"
    dotted += rng.choice(("", "", "", "", "+", ".class_path", ".init_args.x", "."))
    value = rng.choice(ODD)
    text = value if isinstance(value, str) else json.dumps(value, default=str, skipkeys=True)
    return f"--{dotted}={text}".replace("\0", "")


def configs(source: Path) -> Callable[[random.Random, Path], None]:
    """Mutate every file of configs/: its values, its keys, its syntax, or by arguments."""
    create_inputs(source)
    trees = {name: small(name) for _, *names in RUNS for name in names if name != "fast"}
    trees["fast"] = yaml.safe_load((ROOT / "configs/fast.yaml").read_text())

    def use(rng: random.Random, folder: Path) -> None:
        stage, *names = rng.choice(RUNS)
        shutil.copytree(source, folder, dirs_exist_ok=True)
        arguments = [stage]
        mutated = rng.randrange(len(names))
        way = rng.choice(("tree", "tree", "tree", "syntax", "bytes", "shell", "shell"))
        for number, name in enumerate(names):
            tree, path = trees[name], folder / f"{number}.yaml"
            arguments += ["-c", path.name]
            if number == mutated and way == "tree":
                tree = mutate_tree(rng, tree)
            write(tree, path)
            if number == mutated and way == "syntax":
                path.write_text(rng.choice(SYNTAX)(rng, path.read_text()))
            elif number == mutated and way == "bytes":
                path.write_bytes(mutate_bytes(rng, path.read_bytes()))
        if way == "shell":
            tree = trees[names[mutated]]
            arguments += [_argument(rng, tree) for _ in range(rng.choice((1, 1, 2)))]
        arguments.append("--trainer.enable_progress_bar=false")
        command(arguments, folder, length=rng.choice((0, 0, RUNNING)))

    return use


CONFIGS = {"configs": Kind(configs, weight=3)}
