"""Published classifiers by their names in torchvision and timm."""

import hashlib
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final, NamedTuple

from safetensors import SafetensorError
from torch import Tensor, nn
from torchvision import models

from lit_hier.errors import InputError, one_line
from lit_hier.io.checkpoints import load_state, read_state_dict
from lit_hier.io.safe_read import reading
from lit_hier.nn.published_transform import PublishedTransform

_SUFFIXES: Final = (".pth", ".pt", ".safetensors")
_FAILURES: Final = (OSError, RuntimeError, ValueError, EOFError, UnpicklingError, SafetensorError)
_FILE: Final = f"a {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]} file with its state dict"


class Published(NamedTuple):
    """A classifier and its preprocessing."""

    model: nn.Module
    transform: PublishedTransform


def from_torchvision(name: str, weights: str) -> Published:
    """Build a classifier of torchvision: see `PretrainedClassifier`."""
    _check_name(name, models.list_models(module=models), "torchvision")
    entries: dict[str, Any] = dict(models.get_model_weights(name).__members__)
    entry = entries["DEFAULT"]
    path = Path(weights)
    if path.suffix in _SUFFIXES:
        files = {Path(member.url).name: member for member in entries.values()}
        if path.name in files:
            entry = files[path.name]
            _check_hash(path)
        model = _load_file(partial(_torchvision, name, entry), path, name)
    elif weights == "random":
        model = _torchvision(name, entry)
    elif weights == "default" or weights in entries:
        entry = entries.get(weights, entry)
        model = _download(partial(models.get_model, name, weights=entry), name, weights)
    else:
        names = ", ".join(entries)
        raise InputError(f"weights is {weights!r}; give default, random, {names}, or {_FILE}")
    return Published(model, PublishedTransform.of_torchvision(entry))


def from_timm(name: str, weights: str) -> Published:
    """Build a classifier of timm: see `PretrainedClassifier`."""
    import timm  # takes a second

    _check_name(name, {*timm.list_models(), *timm.list_pretrained()}, "timm")
    build = partial(timm.create_model, name)
    path = Path(weights)
    if path.suffix in _SUFFIXES:
        model = _load_file(build, path, name)
    elif weights == "random":
        model = build()
    elif weights == "default":
        model = _download(partial(build, pretrained=True), name, weights)
    else:
        raise InputError(
            f"weights is {weights!r}; give default, random or {_FILE}; in timm, the weights are"
            " part of the model's name, as in vit_small_patch16_224.augreg_in1k"
        )
    return Published(model, PublishedTransform.of_timm(model))


def _check_name(name: str, known: Iterable[str], library: str) -> None:
    known = set(known)
    if name not in known:
        close = get_close_matches(name, sorted(known)) or sorted(known)[:3]
        raise InputError(
            f"name: {library} has no classifier {name!r}; did you mean {', '.join(close)}?"
        )


def _torchvision(name: str, entry: Any, **options: Any) -> nn.Module:
    """Build a model with random weights and the architecture that an entry's weights need."""
    if name.startswith("vit_"):
        options["image_size"] = entry.meta["min_size"][0]
    if name in ("googlenet", "inception_v3"):
        # Their weights were converted from TensorFlow and expect images scaled as in TensorFlow.
        options |= {"transform_input": True, "init_weights": False}
    model: nn.Module = models.get_model(name, weights=None, **options)
    return model


def _download(build: Callable[[], nn.Module], name: str, weights: str) -> nn.Module:
    try:
        return build()
    except _FAILURES as error:
        reason = one_line(error)[:200]
        raise InputError(
            f"weights: cannot load {weights} of {name}: {reason}; without a connection, give"
            f" {_FILE}"
        ) from error


def _load_file(build: Callable[..., nn.Module], path: Path, name: str) -> nn.Module:
    """Build a model, with the number of classes of a file, and load the file."""
    state = _read_state(path)
    model = build()
    expected = model.state_dict()
    *_, last = expected  # the logits' weight or bias
    with suppress(RuntimeError, ValueError, TypeError):  # raised for files of other models
        num_classes = len(state[last]) if last in state else 0
        # The file must hold all tensors of that size before memory is allocated for them.
        layer = [name for name in expected if name.rpartition(".")[0] == last.rpartition(".")[0]]
        sizes = {name: (num_classes, *expected[name].shape[1:]) for name in layer}
        is_whole = all(name in state and state[name].shape == sizes[name] for name in layer)
        if num_classes != len(expected[last]) and is_whole:
            model = build(num_classes=num_classes)
    load_state(model, state, f"weights: {path}", name, f"give {_FILE}")
    return model


def _read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict without running code."""
    state = read_state_dict(path, "weights", f"give {_FILE}")
    if any(re.search(r"denselayer\d+\.norm\.1\.", key) for key in state):
        # torchvision renamed the layers of DenseNets after it published their files.
        pattern = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")
        state = {pattern.sub(r"\1", key): value for key, value in state.items()}
    return state


def _check_hash(path: Path) -> None:
    """Compare a file, if it exists, with the hash at the end of its name.

    Raises:
        InputError: They differ.
    """
    expected = path.stem.rpartition("-")[2]
    if not path.is_file():
        return
    with reading("weights", path, f"give {_FILE}"), path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise InputError(
            f"weights: {path} is not the published file: its SHA-256 begins with"
            f" {found[: len(expected)]}, not {expected}; download it again"
        )
