"""Malformed weights: checkpoints, pipelines of diffusers, published classifiers."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import timm
import torch
from adm_reference import ADM
from attack import EXECUTED, Attack, assert_not_executed
from conftest import inside, random_pipeline
from fuzz_mutations import ODD, mutate_tree
from fuzz_use import Use, as_reported, corrupt_file, corrupt_json
from safetensors.torch import save_file
from sample_stores import batch

from lit_hier.diffusion.adm import load_adm
from lit_hier.modules import DDPMSampler, ImageClassifier, RHMClassifier
from lit_hier.nn import PretrainedClassifier, TrainedCNN, TrainedImageCNN


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


def _corrupt_tensors(rng: random.Random, state: dict[str, Any]) -> None:
    """Change a tensor's type, shape or values, or replace it by something else."""
    name = rng.choice(list(state))
    value = state[name]
    if not isinstance(value, torch.Tensor):
        return
    state[name] = rng.choice(
        (
            value.flatten(),
            value[None],
            value.half(),
            value.to(torch.complex64),
            value.long(),
            value * torch.nan,
            torch.zeros(0),
            value.flatten()[:1].as_strided((3, 3), (0, 0)),
            torch.zeros(1).expand(10**6, 10**6),
            *ODD[:12],
        )
    )


def _corrupt_checkpoint(rng: random.Random, content: Any, path: Path) -> None:
    """Write a checkpoint with mutated values, tensors or bytes, or with code."""
    way = rng.choice(("tree", "tree", "tensors", "bytes", "code"))
    if way == "tree":
        content = mutate_tree(rng, content)
    elif way == "tensors":
        content = dict(content)
        state = dict(content.get("state_dict", content))
        _corrupt_tensors(rng, state)
        content = content | {"state_dict": state} if "state_dict" in content else state
    elif way == "code":
        content = {**content, "code": Attack()}
    torch.save(content, path)
    if way == "bytes":
        corrupt_file(rng, path)


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

    def use(rng: random.Random, folder: Path) -> None:
        network, content, x = rng.choice(whole)
        _corrupt_checkpoint(rng, content, folder / "weights.ckpt")
        with inside(folder), as_reported():
            try:
                trained = network("weights.ckpt")
                if tuple(x.shape[1:2]) == (trained.hooked.layers[0][0].in_channels,):
                    trained.eval()(x)
            finally:
                assert_not_executed(folder)

    return use


def adm(source: Path) -> Use:
    """ADM checkpoints."""
    torch.manual_seed(0)
    content = ADM((64, 64), (False, True)).state_dict()

    def use(rng: random.Random, folder: Path) -> None:
        _corrupt_checkpoint(rng, dict(content), folder / "adm.pt")
        with inside(folder), as_reported(), torch.no_grad():
            try:
                model = load_adm("adm.pt")
                if model.config.in_channels == 3 and model.dtype == torch.float32:
                    model(torch.zeros(1, 3, 8, 8), 3)
            finally:
                assert_not_executed(folder)

    return use


def pipelines(source: Path) -> Use:
    """Pipeline folders of diffusers."""
    random_pipeline(source / "pipeline", channels=1)

    def use(rng: random.Random, folder: Path) -> None:
        shutil.copytree(source / "pipeline", folder / "pipeline")
        files = sorted(path for path in (folder / "pipeline").rglob("*") if path.is_file())
        texts = [path for path in files if path.suffix == ".json"]
        for code in ("evil", "unet/evil", "scheduler/evil"):
            (folder / f"pipeline/{code}.py").write_text(f"import os\nos.mkdir('{EXECUTED}')\n")
        way = rng.choice(("json", "json", "bytes", "code", "pickle"))
        if way == "json":
            corrupt_json(rng, rng.choice(texts))
        elif way == "bytes":
            corrupt_file(rng, rng.choice(files))
        elif way == "code":
            index = folder / "pipeline/model_index.json"
            content = json.loads(index.read_text())
            part = rng.choice(("unet", "scheduler", "_class_name", "other"))
            content[part] = [rng.choice(("evil", "os", "lit_hier.cli", "torch.nn", "..evil")),
                             rng.choice(("evil", "system", "main", "Linear"))]  # fmt: skip
            index.write_text(json.dumps(content))
        else:
            weights = next(path for path in files if path.suffix == ".safetensors")
            weights.unlink()
            torch.save(Attack(), weights.with_suffix(".bin"))
        with inside(folder), as_reported(), torch.no_grad():
            try:
                sampler = DDPMSampler("pipeline", times=[1], num_steps=2)
                x = torch.zeros(1, 1, 8, 8)
                if sampler.model.config.in_channels == 1:
                    sampler.sample(batch(x, [4]))
            finally:
                assert_not_executed(folder)

    return use


def classifiers(source: Path) -> Use:
    """Weights of published classifiers, pickled and in safetensors."""
    torch.manual_seed(0)
    state = timm.create_model("test_vit").state_dict()

    def use(rng: random.Random, folder: Path) -> None:
        name = rng.choice(("weights.pth", "weights.safetensors", "weights.pt"))
        if name.endswith(".safetensors"):
            mutated = dict(state)
            if rng.random() < 0.4:
                first = rng.choice(list(mutated))
                mutated[first] = mutated[first].flatten()[:1].clone()
            save_file(mutated, folder / name)
            if rng.random() < 0.8:
                corrupt_file(rng, folder / name)
        else:
            _corrupt_checkpoint(rng, dict(state), folder / name)
        with inside(folder), as_reported(), torch.no_grad():
            try:
                PretrainedClassifier("timm/test_vit", name)(torch.zeros(1, 3, 8, 8))
            finally:
                assert_not_executed(folder)

    return use
