"""Hostile configs, arguments, checkpoints to resume from, and data sets, for the command line."""

import contextlib
import inspect
import io
import json
import logging
import os
import random
import re
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from attack import EXECUTED, Attack
from conftest import ROOT, inside, random_pipeline
from fuzz_hostile import address, archive, class_path, contents, deep, huge, laughs, odd_type
from fuzz_mutations import ODD, mutate_bytes, mutate_tree, paths, value_at
from fuzz_sandbox import Rejected, Trial, run_forked
from fuzz_use import FILE, NAME, Use, change_file, change_name, change_tree, change_value
from fuzz_weights import change_state, save
from images import mnist
from PIL import Image
from pytorch_lightning import Trainer
from pytorch_lightning.strategies.launchers import multiprocessing, subprocess_script
from torchvision import datasets

from lit_hier.cli import main

RUNNING = 3.0  # seconds of processor time of a run after which it counts as accepted

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


def _no_processes(*_: Any, **__: Any) -> None:
    raise _StopRun


@contextlib.contextmanager
def _isolated(length: float) -> Iterator[None]:
    """Block processes; stop runs after some seconds, or, with 0, before they start."""
    run = Trainer._run_stage

    def stop(*_: Any) -> None:
        raise _StopRun

    def begin(self: Trainer) -> Any:
        if not length:
            raise _StopRun
        before = signal.signal(signal.SIGPROF, stop)
        signal.setitimer(signal.ITIMER_PROF, length)
        try:
            return run(self)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)

    environment = dict(os.environ)
    with (
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


def _prepared(folder: Path, *runs: tuple[str, str]) -> None:
    """Run commands in another process: this one must not start threads."""

    def run(writer: int) -> None:
        for stage, name in runs:
            write(small(name), folder / "config.yaml")
            command([stage, "-c", "config.yaml"], folder, length=60)
        os.write(writer, b"done")

    assert run_forked(run, 120)[0] == b"done"


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
    _prepared(folder, ("fit", "demo_classifier"), ("fit", "digits_classifier"),
              ("predict", "digits"), ("predict", "fig2"))  # fmt: skip
    shutil.copytree(folder / "logs/demo_classifier", folder / "logs/fig8_classifier")
    for path in (*folder.glob("logs/*/version_*"), folder / "logs/reference"):
        shutil.rmtree(path)


def dump(tree: Any) -> str:
    """Return plain values as YAML, or as JSON where YAML cannot represent them."""
    try:
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
        text.encode()
    except (yaml.YAMLError, UnicodeEncodeError, ValueError, RecursionError):
        text = json.dumps(tree, skipkeys=True)
    return text


def write(tree: Any, path: Path) -> None:
    """Write a config, however odd."""
    path.write_text(dump(tree))


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
    lambda rng, text: text + f"x: {dump(deep(rng))}",
    lambda rng, text: text + f"model: {{init_args: {{times: {json.dumps([0.5] * 8000)}}}}}\n",
    lambda rng, text: text + f"data: {{init_args: {{x: {json.dumps(laughs(3))}}}}}\n",
    lambda rng, text: text + f"seed_everything: {json.dumps(str(huge(rng)))[:10**5]}\n",
    lambda rng, text: text + f"ckpt_path: {address(rng)}\n",
    lambda rng, text: text + f"{json.dumps(str(odd_type(rng)))}: {json.dumps(odd_type(rng))}\n",
    lambda rng, text: text + f"x: !!python/object/new:os.system ['touch {EXECUTED}']\n",
    lambda rng, text: text + f"x: !!python/object/new:harm.Harm [{EXECUTED}]\n",
)  # fmt: skip


def _argument(rng: random.Random, tree: Any) -> str:
    """Return a command-line argument with an odd value."""
    path = [str(key) for key in rng.choice(list(paths(tree)))]
    dotted = ".".join(part for part in path if not part.isdigit()) or "config"
    dotted += rng.choice(("", "", "", "", "+", ".class_path", ".init_args.x", "."))
    value = rng.choice(ODD)
    text = value if isinstance(value, str) else json.dumps(value, default=str, skipkeys=True)
    return f"--{dotted}={text}".replace("\0", "")


# Arguments that are paths or names, with a place that exists only in some configs.
PATHS = (
    "trainer.default_root_dir", "trainer.logger.init_args.save_dir", "ckpt_path",
    "trainer.logger.init_args.name",
    "trainer.logger.init_args.version", "trainer.logger.init_args.sub_dir",
    "model.init_args.save_to", "model.init_args.samples", "model.init_args.pretrained",
    "model.init_args.weights", "trainer.profiler", "trainer.strategy", "trainer.accelerator",
    "trainer.plugins", "trainer.precision", "trainer.devices", "model.init_args.trained_on",
    "data.init_args.root", "data.init_args.held_out.init_args.root",
    "data.init_args.held_out.init_args.labels", "data.init_args.rhm.init_args.path",
)  # fmt: skip
_WRITTEN = ("default_root_dir", "save_dir", "name", "version", "sub_dir", "save_to", "samples",
            "dirpath", "filename")  # fmt: skip
ANY = (
    "model.dict_kwargs", "data.dict_kwargs", "trainer.logger.dict_kwargs", "trainer.plugins",
    "trainer.logger.init_args", "data.init_args.held_out.init_args.transform",
    "data.init_args.held_out.init_args.loader", "model.init_args.optimizer",
    "model.init_args.scheduler", "model.init_args.process", "trainer.callbacks",
    "trainer.profiler", "trainer.strategy", "optimizer", "lr_scheduler", "model", "data",
    "trainer.logger", "data.init_args.held_out", "data.init_args.train", "data.init_args.rhm",
)  # fmt: skip


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a value in a config; a class that is named only gets a mapping."""
    *parents, last = dotted.split(".")
    for name in parents:
        below = tree.get(name)
        if not isinstance(below, dict):
            below = tree[name] = {} if below is None else {"class_path": below}
        tree = below
    tree[last] = value


def _change_config(trial: Trial, tree: Any) -> Any:
    """Make one hostile change of a config's values."""
    rng = trial.rng
    tree = mutate_tree(rng, tree, 0)
    texts = [
        ".".join(map(str, path))
        for path in paths(tree)
        if isinstance(value_at(tree, path), str) and all(isinstance(k, str) for k in path)
    ]
    if trial.change in NAME:
        place = rng.choice((*PATHS, *[x for x in texts if not x.endswith("class_path")]))
        value: Any = change_name(trial)
    elif trial.change == "class paths":
        place = rng.choice((*ANY, *ANY, *texts))
        value = class_path(rng)
        if place.endswith("class_path") or rng.random() < 0.2:
            value = value["class_path"] if isinstance(value, dict) and "class_path" in value else (
                value)  # fmt: skip
        elif place.endswith("dict_kwargs") or rng.random() < 0.2:
            value = {rng.choice(("x", "plugins", "comment", "transform")): value}
    else:
        return change_tree(trial, tree)
    if rng.random() < 0.15:
        callback = {
            "class_path": rng.choice(
                ("ModelCheckpoint", "DeviceStatsMonitor", "ActivationSimilarity", "SampleGrid")
            ),
            rng.choice(("init_args", "dict_kwargs")): {
                rng.choice(("dirpath", "filename", "network", "name", "monitor")): value
            },
        }
        tree.setdefault("trainer", {}).setdefault("callbacks", [])
        if isinstance(tree["trainer"]["callbacks"], list):
            tree["trainer"]["callbacks"].append(callback)
            place = "callback.dirpath"
    else:
        _set(tree, place, value)
    if place.endswith(_WRITTEN) and isinstance(value, str) and "\0" not in value:
        # A config may say where results go: new files there, but none in place of others.
        local = Path(os.path.expanduser(value.partition("://")[2] or value))
        base = trial.folder / "logs/x/x/x" if place.endswith(("name", "version", "sub_dir")) else (
            trial.folder)  # fmt: skip
        trial.targets = [
            Path(os.path.realpath(base / local)),
            *(Path(os.path.realpath(base.parents[k] / local)) for k in range(3)),
        ]
    return tree


CHANGES = ("paths", "paths", "protocols", "addresses", "class paths", "class paths", "types",
           "sizes", "nesting", "keys", "links", "special files", "formats", "syntax", "bytes",
           "arguments", "several")  # fmt: skip


def configs(source: Path) -> Use:
    """Change every file of configs/: its values, its keys, its syntax, or by arguments."""
    create_inputs(source)
    trees = {name: small(name) for _, *names in RUNS for name in names if name != "fast"}
    trees["fast"] = yaml.safe_load((ROOT / "configs/fast.yaml").read_text())

    def use(trial: Trial) -> None:
        rng, folder = trial.rng, trial.folder
        stage, *names = rng.choice(RUNS)
        shutil.copytree(source, folder, dirs_exist_ok=True)
        arguments = [stage]
        changed = rng.randrange(len(names))
        way = trial.choose(*CHANGES)
        for number, name in enumerate(names):
            tree, path = trees[name], folder / f"{number}.yaml"
            given = path.name
            if number != changed:
                write(tree, path)
            elif way == "several":
                write(mutate_tree(rng, tree), path)
            elif way in ("syntax", "bytes", "links", "special files", "formats", "arguments"):
                write(tree, path)
                if way == "syntax":
                    path.write_text(rng.choice(SYNTAX)(rng, path.read_text()))
                elif way == "bytes":
                    path.write_bytes(mutate_bytes(rng, path.read_bytes()))
                elif way != "arguments":
                    others = [x for x in folder.rglob("*") if x.suffix in (".ckpt", ".json")]
                    given = change_file(trial, path if rng.random() < 0.6 else rng.choice(others))
                    given = (
                        given if given.endswith(".yaml") or way == "special files" else path.name
                    )
            elif not trial.hostile:
                write(tree, path)
            elif way in NAME and rng.random() < 0.15:
                write(tree, path)
                given = change_name(trial, ".yaml")
            else:
                write(_change_config(trial, tree), path)
            arguments += ["-c", given.replace("\0", "")]
        if way == "arguments":
            tree = trees[names[changed]]
            arguments += [_argument(rng, tree) for _ in range(rng.choice((1, 1, 2)))]
        arguments.append("--trainer.enable_progress_bar=false")
        length = rng.choice((0, RUNNING)) if trial.hostile else RUNNING
        # From the data set's own address, where the config asks for a download.
        trial.may_connect = any("download: true" in yaml.safe_dump(trees[name]) for name in names)
        with trial.program():
            command(arguments, folder, length)

    return use


def resumption(source: Path) -> Use:
    """Checkpoints that training goes on from: states of callbacks, loops, the optimizer."""
    tree = small("demo_classifier")
    best = {"class_path": "ModelCheckpoint",
            "init_args": {"dirpath": "logs/best", "monitor": "val/loss", "save_top_k": 2,
                          "save_last": True}}  # fmt: skip
    tree["trainer"]["callbacks"].append(best)
    tree["trainer"]["max_epochs"] = 2
    tree["data"]["init_args"]["num_train"] = 300

    def train(writer: int) -> None:
        write(tree, source / "config.yaml")
        command(["fit", "-c", "config.yaml"], source, length=60)
        os.write(writer, b"done")

    assert run_forked(train, 120)[0] == b"done"
    last = Path("logs/best/last.ckpt")
    whole = torch.load(source / last, weights_only=True)
    states = [key for key in whole["callbacks"] if key.startswith("ModelCheckpoint")]
    tree["trainer"]["max_epochs"] = 5

    def use(trial: Trial) -> None:
        rng, folder = trial.rng, trial.folder
        shutil.copytree(source, folder, dirs_exist_ok=True)
        write(tree, folder / "config.yaml")
        content = torch.load(source / last, weights_only=True)
        content["callbacks"] = _moved(content["callbacks"], str(source), str(folder))
        way = trial.choose(*["paths"] * 4, "protocols", "protocols", "addresses", "types", "types",
                           "sizes", "nesting", "keys", "keys", "code", *FILE)  # fmt: skip
        given = str(last)
        if way in NAME:
            for key in states:
                _change_paths(trial, content["callbacks"][key])
        elif way in ("types", "keys", "sizes", "nesting"):
            content = _change_state_of_training(trial, content)
        elif way == "code":
            place = rng.choice(list(content))
            content[place] = rng.choice((Attack(), {"x": Attack()}, [Attack()]))
            trial.must_reject = "it holds code"
        name = rng.choice((*[given] * 8, "last", "last", "hpc", "best"))
        if name == "hpc":
            (folder / "logs").mkdir(exist_ok=True)
            save(content, folder / "hpc_ckpt_1.ckpt")
        if way in ("unchanged", *NAME, "types", "keys", "sizes", "nesting", "code"):
            save(content, folder / last)
        elif trial.hostile:
            given = change_file(trial, folder / last)
        name = given if name == str(last) or not trial.hostile else name
        if name != given:
            trial.must_reject = ""  # Lightning may find another checkpoint
        with trial.program():
            command(["fit", "-c", "config.yaml", f"--ckpt_path={name}",
                     "--trainer.enable_progress_bar=false"], folder, RUNNING)  # fmt: skip

    return use


def _moved(value: Any, old: str, new: str) -> Any:
    """Return the states of callbacks as a run in another folder has them."""
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, dict):
        return {_moved(key, old, new): _moved(item, old, new) for key, item in value.items()}
    return value


def _change_paths(trial: Trial, state: dict[str, Any]) -> None:
    """Change the paths in the state of a ModelCheckpoint: one of them, or all."""
    rng, places = trial.rng, ("checkpoints", "checkpoints/a.ckpt", "weights.ckpt", "pipeline", "")
    kinds = ("best_model_path", "last_model_path", "kth_best_model_path", "dirpath",
             "best_k_models")  # fmt: skip

    before = state["dirpath"]

    def odd() -> str:
        if rng.random() < 0.3:
            return str(change_name(trial))
        place = trial.outside / rng.choice(places)
        front = {"protocols": ("file://", "local://", "simplecache::file://", "memory://")}
        below = f"{before}/{os.path.relpath(place, before)}"  # as its text goes
        texts = (str(place), below, below)
        return rng.choice(front.get(trial.change, ("",))) + rng.choice(texts)

    for kind in rng.choice(((rng.choice(kinds),), [x for x in kinds if x != "dirpath"])):
        if kind == "best_k_models":
            scores = list(state[kind].values()) or [torch.tensor(0.5)]
            state[kind] = {odd(): score for score in scores}
            state["kth_best_model_path"] = next(iter(state[kind]))
            state["kth_value"] = scores[0]
        else:
            state[kind] = odd()


def _change_state_of_training(trial: Trial, content: dict[str, Any]) -> dict[str, Any]:
    rng = trial.rng
    part = rng.choice(list(content))
    if part == "state_dict" and trial.change in ("types", "keys"):
        return {**content, part: change_state(trial, content[part])}
    if trial.change == "keys" and (rng.random() < 0.4 or not isinstance(content[part], dict)):
        return {key: value for key, value in content.items() if key != part}
    if isinstance(content[part], dict | list) and content[part] and rng.random() < 0.8:
        return dict(change_tree(trial, content, (part,)))
    return {**content, part: change_value(trial) if trial.change != "keys" else None}


# Names in the sources of torchvision's data sets.
_ARCHIVE = re.compile(r"[\w.-]+\.(?:zip|tgz|tar\.gz|tar|gz|bz2|xz)\b")
_PLAIN = re.compile(r"[\w.-]+\.(?:mat|pkl|pt|bin|npy|npz|h5|csv|txt|json|data)\b")


def _files_of(kind: type) -> tuple[list[str], list[str]]:
    """Return the names of archives and of other files that a data set's source mentions."""
    text = inspect.getsource(inspect.getmodule(kind))  # type: ignore[arg-type]
    extra = {"PhotoTour": ["notredame.zip"], "Cityscapes": ["gtFine_trainvaltest.zip"],
             "EMNIST": ["gzip.zip"], "Omniglot": ["images_background.zip"],
             "INaturalist": ["2021_train.tgz", "2021_valid.tgz"]}  # fmt: skip
    archives = sorted({name.lstrip(".-") for name in _ARCHIVE.findall(text)})
    return archives + extra.get(kind.__name__, []), sorted(set(_PLAIN.findall(text)))


def _arguments_of(rng: random.Random, kind: type) -> dict[str, Any]:
    """Return arguments of a data set: the folder, the parts, and whether to download."""
    known: dict[str, Any] = {
        "split": rng.choice(("train", "test", "val", "letters", "all")),
        "train": rng.random() < 0.5,
        "download": rng.random() < 0.5,
        "name": "notredame",
        "image_set": "train",
        "mode": rng.choice(("fine", "coarse")),
        "target_type": rng.choice(("attr", "instance", "category", ["semantic"])),
        "annFile": "annotations.json",
        "ann_file": "annotations.json",
        "annotation_path": "annotations",
        "frames_per_clip": 1,
        "extensions": [".png"],
        "version": rng.choice(("2021_valid", "2017")),
        "classes": "test",
    }
    parameters = inspect.signature(kind).parameters
    found = {name: value for name, value in known.items() if name in parameters}
    return {"root": "data", **found}


def data_sets(source: Path) -> Use:
    """Every data set of torchvision, with hostile archives and files in its folder."""
    create = {"size": 8, "channels": 1, "num_per_class": 1, "num_workers": 0}
    every = [getattr(datasets, name) for name in datasets.__all__]
    every = [kind for kind in every if inspect.isclass(kind)]
    likely = [kind for kind in every if _files_of(kind)[0]]
    mnist(source / "data", 30, ("MNIST", "FashionMNIST", "KMNIST"))
    Image.new("L", (9, 9)).save(source / "data/a.png")

    def use(trial: Trial) -> None:
        rng, folder = trial.rng, trial.folder
        shutil.copytree(source, folder, dirs_exist_ok=True)
        way = trial.choose("archives", "archives", "archives", "code", *FILE, *NAME)
        kind = rng.choice((*every, *likely, *likely)) if trial.hostile else datasets.MNIST
        given = _arguments_of(rng, kind)
        archives, plain = _files_of(kind)
        name = kind.__name__.lower()
        places = ["", kind.__name__, name, f"{kind.__name__}/raw", f"{kind.__name__}/processed",
                  str(getattr(kind, "base_folder", name)), f"{name}-py", "dtd", "oxford-iiit-pet",
                  "leftImg8bit", "flowers-102", "caltech101", "widerface", "tiny"]  # fmt: skip
        for place in places:
            (folder / "data" / place).mkdir(parents=True, exist_ok=True)
            for file in archives if way in ("archives", "code") else ():
                mode = {"gz": "gz", "tgz": "gz", "bz2": "bz2", "xz": "xz"}.get(file.split(".")[-1])
                content = archive("zip" if file.endswith("zip") else "tar", mode or "")
                (folder / "data" / place / file).write_bytes(content)
            for file in plain if way == "code" else ():
                content = rng.choice((contents()["pickle"], contents()["torch"]))
                (folder / "data" / place / file).write_bytes(content)
        files = sorted(path for path in (folder / "data").rglob("*") if path.is_file())
        if way == "formats":
            given["root"] = "data"
            for path in rng.sample(files, 2):
                change_file(trial, path)
        elif way in FILE:
            change_file(trial, rng.choice((*files, folder / "data")))
        elif way in NAME:
            given[rng.choice(list(given))] = change_name(trial)
        if not trial.hostile:
            given = {"root": "data", "train": False}
        tree = small("digits_classifier")
        held_out = {"class_path": f"torchvision.datasets.{kind.__name__}", "init_args": given}
        tree["data"] = {"class_path": "ImageDataModule", "init_args": {
            **create, rng.choice(("held_out", "held_out", "train")): held_out}}  # fmt: skip
        tree["data"]["init_args"].setdefault("held_out", {
            "class_path": "torchvision.datasets.MNIST", "init_args": {"root": "data"},
        })  # fmt: skip
        write(tree, folder / "config.yaml")
        trial.may_connect = bool(given.get("download"))  # from the data set's own address
        with trial.program():
            command(["fit", "-c", "config.yaml"], folder, 0)

    return use


CONFIGS = {"configs": configs, "resumption": resumption, "data sets": data_sets}
