"""Hostile weights: checkpoints, pipelines of diffusers, published classifiers."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from adm_reference import ADM
from attack import EXECUTED, Attack
from conftest import random_pipeline
from fuzz_hostile import tensors
from fuzz_sandbox import Trial
from fuzz_use import (
    FILE,
    NAME,
    Use,
    change_file,
    change_json,
    change_name,
    change_tree,
    change_value,
    used,
    write_json,
)
from safetensors.torch import load_file, save_file
from sample_stores import batch

from lit_hier.diffusion.adm import load_adm
from lit_hier.modules import DDPMSampler, ImageClassifier, RHMClassifier
from lit_hier.nn import PretrainedClassifier, TrainedCNN, TrainedImageCNN

PLACES = (*FILE, *NAME)


def _make_checkpoint(module: type, **arguments: Any) -> dict[str, Any]:
    """Return a checkpoint as Lightning writes it, of an untrained module."""
    untrained = module(**arguments, trained_on="")
    checkpoint = {
        "epoch": 1,
        "global_step": 3,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": untrained.state_dict(),
        "hyper_parameters": dict(untrained.hparams),
    }
    untrained.on_save_checkpoint(checkpoint)
    return checkpoint


def _fits(new: Any, old: torch.Tensor) -> bool:
    """Return whether a tensor may stand for another: the shape, plain storage, same numbers."""
    return (
        isinstance(new, torch.Tensor)
        and not (new.is_nested or new.is_quantized or new.is_meta)
        and new.layout == torch.strided
        and new.shape == old.shape
        and new.is_floating_point() == old.is_floating_point()
    )


def change_state(
    trial: Trial, state: dict[str, Any], allowed: Callable[[Any], bool] = lambda value: True
) -> dict[str, Any]:
    """Return a state dict with a tensor that is missing, unexpected, or another."""
    rng, state = trial.rng, dict(state)
    name = rng.choice(list(state))
    value = state[name]
    if trial.change == "keys":
        way = rng.choice(("missing", "missing", "unexpected", "renamed", "empty"))
        trial.must_reject = f"a tensor is {way}: {name}"
        if way == "empty":
            return {}
        if way != "unexpected":
            del state[name]
        if way != "missing":
            other = value.clone() if isinstance(value, torch.Tensor) else value
            state[rng.choice((f"{name}_", "..", "", "x" * 5000, f"x.{name}"))] = other
        return state
    if isinstance(value, torch.Tensor):
        state[name] = rng.choice([x for x in tensors(value) if allowed(x)])
        if not _fits(state[name], value):
            trial.must_reject = f"{name} is not a tensor of its shape and type"
    return state


def save(content: Any, path: Path) -> None:
    """Save a checkpoint, however deeply it is nested."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    torch.save(content, path)
    sys.setrecursionlimit(limit)


def _change_checkpoint(trial: Trial, content: dict[str, Any], path: Path) -> str:
    """Write a checkpoint with one hostile change, and return the path that names it."""
    rng = trial.rng
    nested = isinstance(content.get("state_dict"), dict)
    if trial.change in ("types", "keys") and (not nested or rng.random() < 0.6):
        state = change_state(trial, content["state_dict"] if nested else content)
        content = {**content, "state_dict": state} if nested else state
    elif trial.change in ("types", "keys", "sizes", "nesting"):
        name = rng.choice(list(content))
        if not nested or rng.random() < 0.3:
            content = {**content, rng.choice(("other", name)): change_value(trial)}
        elif isinstance(content[name], dict) and name != "state_dict":
            content = change_tree(trial, content, (name,))
        else:
            content = {**content, "hyper_parameters": change_value(trial)}
    elif trial.change == "code":
        place = rng.choice(("code", "hyper_parameters", "state_dict", "lit_hier", "epoch"))
        content = {**content, place: rng.choice((Attack(), {"a": Attack()}, torch.load))}
        trial.must_reject = "it holds code"
    save(content, path)
    return change_file(trial, path) if trial.change in PLACES else path.name


def checkpoints(source: Path) -> Use:
    """Checkpoints of training, as `weights:` of networks."""
    numbers = {"num_features": 4, "num_classes": 4, "tuple_size": 2, "num_layers": 2, "width": 4}
    sizes = {"channels": 1, "num_classes": 3, "widths": [4, 4]}
    whole = [
        (TrainedCNN, _make_checkpoint(RHMClassifier, **numbers), torch.zeros(1, 4, 4)),
        (TrainedImageCNN, _make_checkpoint(ImageClassifier, **sizes), torch.zeros(1, 1, 8, 8)),
    ]
    # Format 1 has no record.
    whole += [(network, {k: content[k] for k in content if k != "lit_hier"}, x)
              for network, content, x in whole]  # fmt: skip

    def use(trial: Trial) -> None:
        network, content, x = trial.rng.choice(whole)
        trial.choose("types", "keys", "sizes", "nesting", "code", *PLACES)
        given = _change_checkpoint(trial, content, trial.folder / "weights.ckpt")
        with used(trial), torch.no_grad():
            trained = network(given)
            if tuple(x.shape[1:2]) == (trained.hooked.layers[0][0].in_channels,):
                trained.eval()(x)

    return use


def adm(source: Path) -> Use:
    """ADM checkpoints."""
    torch.manual_seed(0)
    content = ADM((64, 64), (False, True)).state_dict()

    def use(trial: Trial) -> None:
        trial.choose("types", "types", "keys", "sizes", "nesting", "code", *PLACES)
        given = _change_checkpoint(trial, dict(content), trial.folder / "adm.pt")
        with used(trial), torch.no_grad():
            model = load_adm(given)
            if model.config.in_channels == 3 and model.dtype == torch.float32:
                model(torch.zeros(1, 3, 8, 8), 3)

    return use


def _index_of_shards(trial: Trial, weights: Path) -> None:
    """Split weights into shards whose index names other files."""
    state = load_file(weights)
    shard = "diffusion_pytorch_model-00001-of-00001.safetensors"
    save_file(state, weights.with_name(shard))
    weights.unlink()
    odd = change_name(trial)
    named = {name: odd if trial.rng.random() < 0.3 else shard for name in state}
    index = {"metadata": {"total_size": 1}, "weight_map": named}
    write_json(weights.with_name(f"{weights.name}.index.json"), index)


def pipelines(source: Path) -> Use:
    """Pipeline folders of diffusers."""
    random_pipeline(source / "pipeline", channels=1)
    parts = ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json")

    def use(trial: Trial) -> None:
        rng = trial.rng
        folder = trial.folder / "pipeline"
        shutil.copytree(source / "pipeline", folder)
        weights = folder / "unet/diffusion_pytorch_model.safetensors"
        for code in ("evil", "unet/evil", "scheduler/evil"):
            (folder / f"{code}.py").write_text(f"import os\nos.mkdir('{EXECUTED}')\n")
        way = trial.choose("types", "types", "keys", "keys", "sizes", "nesting", "class paths",
                           "code", *PLACES)  # fmt: skip
        given = "pipeline"
        if way in ("types", "keys") and rng.random() < 0.7:
            # Only these types have a place in safetensors.
            state = change_state(trial, load_file(weights), lambda x: _is_plain(x))
            save_file(state, weights)
        elif way in NAME and rng.random() < 0.4:
            _index_of_shards(trial, weights)
        elif way == "class paths":
            index = json.loads((folder / parts[0]).read_text())
            part = rng.choice(("unet", "scheduler", "_class_name", "other"))
            module = rng.choice(("evil", "os", "lit_hier.cli", "torch.nn", "..evil", "harm"))
            index[part] = [module, rng.choice(("evil", "system", "main", "Linear", "Harm"))]
            write_json(folder / parts[0], index)
        elif way == "code":
            weights.unlink()
            torch.save(Attack(), weights.with_suffix(".bin"))
            trial.must_reject = "its weights are a pickle"
        elif way in PLACES:
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            place = rng.choice((folder, folder / "unet", folder / "scheduler", *files))
            named = change_file(trial, place)
            given = named if way in NAME or place == folder else "pipeline"
        elif trial.hostile:
            change_json(trial, folder / rng.choice(parts))
        with used(trial), torch.no_grad():
            sampler = DDPMSampler(given, times=[1], num_steps=2)
            if sampler.model.config.in_channels == 1:
                sampler.sample(batch(torch.zeros(1, 1, 8, 8), [4]))

    return use


def _is_plain(value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not (value.is_nested or value.is_quantized or value.is_meta)
        and value.is_contiguous()
    )


def classifiers(source: Path) -> Use:
    """Weights of published classifiers, pickled and in safetensors."""
    torch.manual_seed(0)
    state = timm.create_model("test_vit").state_dict()

    def use(trial: Trial) -> None:
        name = trial.rng.choice(("weights.pth", "weights.safetensors", "weights.pt"))
        model = "timm/test_vit"
        path = trial.folder / name
        if name.endswith(".safetensors"):
            way = trial.choose("types", "keys", *PLACES)
            changed = change_state(trial, state, _is_plain) if way in ("types", "keys") else state
            save_file(changed, path)
            given = change_file(trial, path) if way in PLACES else name
        else:
            trial.choose("types", "keys", "sizes", "nesting", "code", *PLACES)
            given = _change_checkpoint(trial, dict(state), path)
        if trial.change in NAME and trial.rng.random() < 0.4:
            model, given = f"{trial.rng.choice(('timm', 'torchvision'))}/{given}", name
        with used(trial), torch.no_grad():
            PretrainedClassifier(model, given)(torch.zeros(1, 3, 8, 8))

    return use
