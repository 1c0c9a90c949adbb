"""Checkpoints of a training: what is written and removed, and what of one counts on resumption.

A checkpoint may come from anyone. Nothing that it says names a path to write or remove: of such
entries only the bare file name counts, in the folder that the config gives, and as many folders
above it as the config's template of file names makes there. Every other state must have the
structure of the state that it replaces.
"""

import logging
import os
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path, PureWindowsPath
from typing import Any, Final

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import Strategy
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_hier.errors import InputError
from lit_hier.io.atomic import atomic_write
from lit_hier.io.checkpoints import check_kinds, read_checkpoint

_LOG: Final = logging.getLogger("lit_hier")
_SUFFIX: Final = ".ckpt"
_REMOTE: Final = re.compile(r"::|://")  # what fsspec takes for a protocol
_VERSION: Final = re.compile(r"(\d{1,4})(\.\w{1,9}){1,4}(\+\w{1,20})?")
_OLDEST: Final = 2  # Lightning rewrites states of older versions, after they were checked
_HINT: Final = "give another checkpoint of this training, or leave out ckpt_path to restart"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, reads only tensors, and removes only checkpoints.

    Args:
        trainer: The trainer whose checkpoints these are; without one, states are not checked, and
            only files that this object wrote are removed.
    """

    def __init__(self, trainer: Trainer | None = None) -> None:
        super().__init__()
        self.trainer = trainer
        self._written: set[Path] = set()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | PathLike[str], storage_options: Any = None
    ) -> None:
        """Replace a checkpoint.

        Raises:
            InputError: The path is not one of this machine.
        """
        check_local("trainer.callbacks: dirpath", path)
        with atomic_write(path) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                # If a file cannot grow, torch raises this, with the cause as its context.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
        self._written.add(Path(path).absolute())

    def load_checkpoint(
        self, path: str | PathLike[str], map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, wherever Lightning found it; `map_location` is ignored.

        Raises:
            InputError: It cannot be read, or does not fit the trainer.
        """
        checkpoint = read_checkpoint(path, "ckpt_path")
        if self.trainer is None:
            return checkpoint
        return _restrict(checkpoint, self.trainer, f"ckpt_path: {path}")

    def remove_checkpoint(self, path: str | PathLike[str]) -> None:
        """Remove a regular `.ckpt` file that this trainer wrote, or in a folder of its callbacks.

        Anything else is kept.
        """
        target = Path(path).absolute()
        if not os.path.lexists(target):
            return
        callbacks = self.trainer.checkpoint_callbacks if self.trainer else []
        is_own = target in self._written or any(_is_in_folder(c, target) for c in callbacks)
        if is_own and target.name.endswith(_SUFFIX) and _is_regular(target):
            target.unlink(missing_ok=True)
        else:
            _LOG.warning("%s is not a checkpoint of this run; it is kept", target)


def check_local(argument: str, path: object) -> None:
    """Check that a path is one of this machine.

    Raises:
        InputError: It has a protocol.
    """
    if _REMOTE.search(str(path)):
        raise InputError(f"{argument} is {str(path)!r:.80}; give a folder on this machine")


def check_trainer(trainer: Trainer, resumes: bool) -> None:
    """Check where a trainer writes, and that it reads checkpoints here.

    Args:
        trainer: The trainer.
        resumes: Whether it will read a checkpoint.

    Raises:
        InputError: A folder is not on this machine, a link could replace a folder, or the strategy
            reads checkpoints itself.
    """
    for argument, folder in get_folders(trainer):
        check_local(argument, folder)
    for callback in trainer.checkpoint_callbacks:
        # Lightning replaces what has the name of the link, a folder too.
        if getattr(callback, "save_last", None) == "link" and (folder := _dirpath(callback)):
            for path in Path(folder).glob(f"*{_SUFFIX}"):
                if path.is_dir() and not path.is_symlink():
                    raise InputError(
                        f"trainer.callbacks: save_last=link could replace the folder {path}; give"
                        " another dirpath"
                    )
    strategy = type(trainer.strategy)
    if resumes and strategy.load_checkpoint is not Strategy.load_checkpoint:
        raise InputError(
            f"trainer.strategy: {strategy.__name__} has checkpoints of its own, which are not read"
            " from ckpt_path; use auto or ddp"
        )


def get_folders(trainer: Trainer) -> list[tuple[str, str]]:
    """Return the folders that a trainer's parts write to, with the names of the arguments."""
    folders = [("trainer.default_root_dir", str(trainer.default_root_dir))]
    folders += [
        ("trainer.logger: save_dir", str(x.save_dir)) for x in trainer.loggers if x.save_dir
    ]
    found = ((type(c).__name__, _dirpath(c)) for c in trainer.checkpoint_callbacks)
    return folders + [(f"trainer.callbacks: dirpath of {n}", f) for n, f in found if f]


def _dirpath(callback: Callback) -> str:
    return str(getattr(callback, "dirpath", None) or "")


def _get_depth(callback: Callback) -> int:
    """Return the number of folders below `dirpath` that a template of names makes.

    A metric whose name has a slash, such as `{val/loss:.2f}`, makes one.
    """
    template = getattr(callback, "filename", None)
    if not isinstance(callback, ModelCheckpoint) or not template:
        return 0
    return callback.format_checkpoint_name({}, template).removeprefix(
        os.path.join(_dirpath(callback), "")
    ).count("/")  # fmt: skip


def _is_in_folder(callback: Callback, path: Path) -> bool:
    """Return whether a path is where a callback writes its checkpoints, not through links."""
    if not (folder := _dirpath(callback)):
        return False
    parents = path.parts[-1 - _get_depth(callback) : -1]
    direct = Path(os.path.realpath(folder))
    return os.path.realpath(path.parent) in (str(direct), str(direct.joinpath(*parents)))


def _is_regular(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _restrict(checkpoint: dict[str, Any], trainer: Trainer, source: str) -> dict[str, Any]:
    """Return the part of a checkpoint that a trainer may restore."""
    version = checkpoint.get("pytorch-lightning_version")
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if match is None or int(match[1]) < _OLDEST:
        raise InputError(f"{source} names no version of Lightning from {_OLDEST}.0 on; {_HINT}")
    module = trainer.lightning_module
    check_kinds(
        module.state_dict(), checkpoint["state_dict"], source, type(module).__name__, _HINT
    )
    restricted = dict(checkpoint)
    states = restricted.get("callbacks")
    if trainer.state.fn != "fit":
        restricted.pop("loops", None)
        if states is not None:
            restricted["callbacks"] = {}
        return restricted
    kinds = {"callbacks": dict, "loops": dict, "optimizer_states": list, "lr_schedulers": list}
    for name, kind in kinds.items():
        if not isinstance(restricted.get(name), kind):
            raise InputError(f"{source} has no {name}, so training cannot resume; {_HINT}")
    own = trainer.fit_loop.state_dict()
    check_like(own, restricted["loops"].get("fit_loop"), f"{source}: loops.fit_loop")
    loaders = restricted["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
    if not isinstance(loaders, list):
        raise InputError(f"{source}: loops.fit_loop has a damaged combined_loader; {_HINT}")
    if not all(isinstance(key, str) and key.isprintable() for key in restricted["callbacks"]):
        raise InputError(f"{source}: callbacks has names that are no text; {_HINT}")
    restricted["callbacks"] = {key[:200]: {} for key in restricted["callbacks"]}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if (key := callback.state_key) not in checkpoint["callbacks"]:
            continue
        state, name = checkpoint["callbacks"][key], f"{source}: {type(callback).__name__}"
        if not isinstance(state, dict):
            raise InputError(f"{name} has a state that is no mapping; {_HINT}")
        if isinstance(callback, ModelCheckpoint):
            state = trainer.strategy.broadcast(_resolve_paths(callback, state, name))
        elif type(callback).__module__.startswith("pytorch_lightning."):
            own = callback.state_dict()
            state = own | state  # older versions have less
            check_like(own, state, name)
        restricted["callbacks"][key] = state
    return restricted


def _resolve_paths(
    callback: ModelCheckpoint, state: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """Return a state of ModelCheckpoint whose paths are checkpoints in its own folder.

    Args:
        callback: The callback that the state is for.
        state: The state in a checkpoint.
        name: Its name in error messages.
    """
    scores = state.get("best_k_models", {})
    values = [state.get("best_model_score"), state.get("current_score"), state.get("kth_value")]
    values += scores.values() if isinstance(scores, dict) else [""]
    for value in values:
        is_score = isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()
        if value is not None and not is_score:
            raise InputError(f"{name} has a score that is no number; {_HINT}")
    if None in scores.values():
        raise InputError(f"{name} has a checkpoint without a score; {_HINT}")
    folder, theirs = Path(_dirpath(callback)).absolute(), state.get("dirpath")
    is_elsewhere, depth = _is_other_folder(folder, theirs), _get_depth(callback)

    def resolve(entry: Any, may_link: bool = False) -> str:
        found = PureWindowsPath(entry).parts[-1 - depth :] if isinstance(entry, str) else ()
        if is_elsewhere or not all(x.isprintable() and x != ".." for x in found):
            return ""
        paths = folder.joinpath(*found), folder / "".join(found[-1:])
        for path in dict.fromkeys(paths):
            try:
                usable = _is_regular(path) or (may_link and path.is_symlink())
            except OSError:  # such as too long a name
                usable = False
            if usable and path.name.endswith(_SUFFIX) and _is_in_folder(callback, path):
                return str(path)
        return ""

    best_k = {path: score for entry, score in scores.items() if (path := resolve(entry))}
    sign, k = (1 if callback.mode == "min" else -1), callback.save_top_k
    ranked = sorted(best_k, key=lambda path: sign * float(best_k[path]))
    if k >= 0:
        best_k = {path: score for path, score in best_k.items() if path in ranked[:k]}
    choose = (max, min) if callback.mode == "min" else (min, max)
    worst, best = (f(best_k, key=best_k.__getitem__) if best_k else "" for f in choose)
    is_full = bool(best_k) and (k == -1 or len(best_k) == k)
    return {
        "monitor": callback.monitor,
        "dirpath": callback.dirpath,
        "best_k_models": best_k,
        "kth_best_model_path": worst if is_full else "",
        "kth_value": best_k[worst] if is_full else callback.kth_value,
        "best_model_path": best or resolve(state.get("best_model_path")),
        "best_model_score": best_k[best] if best else None,
        "current_score": state.get("current_score"),
        "last_model_path": resolve(state.get("last_model_path"), callback.save_last == "link"),
    }


def _is_other_folder(folder: Path, theirs: Any) -> bool:
    """Return whether a run wrote to another folder, which is still there."""
    try:
        return Path(theirs).is_dir() and not os.path.samefile(theirs, folder)
    except (TypeError, ValueError, OSError):  # nothing that names a folder
        return False


def check_like(own: Any, theirs: Any, name: str) -> None:
    """Check that a state has the structure of the one that it replaces.

    An empty container in `own` may have any contents, and None may be replaced by any value.

    Args:
        own: The state that is replaced.
        theirs: The state in a checkpoint.
        name: Its name in error messages.

    Raises:
        InputError: They differ; the place is named.
    """
    if isinstance(own, dict):
        kind: Any = dict
    elif isinstance(own, list | tuple):
        kind = list | tuple
    elif isinstance(own, float):
        kind = float | int
    else:
        kind = object if own is None else type(own)
    if not isinstance(theirs, kind) or isinstance(theirs, bool) > (kind in (bool, object)):
        raise InputError(f"{name} is {type(theirs).__name__}, not {_describe(own)}; {_HINT}")
    if isinstance(own, dict) and own:
        for key in own.keys() - theirs.keys():
            raise InputError(f"{name} has no {key}; {_HINT}")
        for key in theirs.keys() - own.keys():
            raise InputError(f"{name} has an unknown {str(key)!r:.40}; {_HINT}")
        for key, value in own.items():
            check_like(value, theirs[key], f"{name}.{key}")
    elif isinstance(own, list | tuple) and own:
        if len(own) != len(theirs):
            raise InputError(f"{name} has {len(theirs)} entries, not {len(own)}; {_HINT}")
        for k, (value, other) in enumerate(zip(own, theirs, strict=True)):
            check_like(value, other, f"{name}.{k}")
    elif isinstance(own, Tensor):
        if own.shape != theirs.shape or own.is_complex() != theirs.is_complex():
            raise InputError(f"{name} is {_describe(theirs)}, not {_describe(own)}; {_HINT}")
    elif type(own) is int and theirs < min(own, 0):
        raise InputError(f"{name} is {theirs}; {_HINT}")


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype}"
    return type(value).__name__


def check_optimizers(trainer: Trainer, checkpoint: Mapping[str, Any], num_steps: int) -> None:
    """Check the states of optimizers and learning rate schedulers before they are restored.

    Args:
        trainer: A trainer with optimizers.
        checkpoint: The checkpoint; `optimizer_states` and `lr_schedulers` are lists.
        num_steps: Steps that the optimizers have taken in the checkpoint.

    Raises:
        InputError: A state is missing, or has another structure.
    """
    source, states = "ckpt_path: the checkpoint", checkpoint["optimizer_states"]
    if len(states) != len(trainer.optimizers):
        raise InputError(
            f"{source} has the states of {len(states)} optimizers, not of"
            f" {len(trainer.optimizers)}; {_HINT}"
        )
    for optimizer, state in zip(trainer.optimizers, states, strict=True):
        name, own = f"{source}: {type(optimizer).__name__}", optimizer.state_dict()
        check_like({"state": {}, "param_groups": []}, state, name)
        groups = state["param_groups"]
        for group in groups:
            check_like({}, group, f"{name}.param_groups")
        check_like([{}] * len(own["param_groups"]), groups, f"{name}.param_groups")
        for k, (mine, group) in enumerate(zip(own["param_groups"], groups, strict=True)):
            optional = {key: mine[key] for key in mine.keys() - {"params", "lr"}}
            group.update({key: optional[key] for key in optional.keys() - group.keys()})
            known = {key: group[key] for key in mine.keys() & group.keys()}
            flags = {key for key, value in mine.items() if isinstance(value, bool | None)}
            for key in flags & known.keys():
                if known[key] is None:
                    known[key] = mine[key]
                elif mine[key] is None:
                    mine[key] = known[key] if isinstance(known[key], bool | float | int) else False
            check_like(mine, known, f"{name}.param_groups.{k}")
            if mine["params"] != known["params"]:
                raise InputError(f"{name} has states of other parameters; {_HINT}")
        expected = _get_expected_state(optimizer)
        if expected and num_steps and not state["state"]:
            raise InputError(f"{name} has no state, so training cannot resume; {_HINT}")
        parameters = {key for group in own["param_groups"] for key in group["params"]}
        for key, value in state["state"].items():
            if key not in parameters:
                raise InputError(f"{name} has a state of no parameter; {_HINT}")
            check_like(expected.get(key, {}), value, f"{name}.state.{key}")
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    check_like([{}] * len(schedulers), checkpoint["lr_schedulers"], f"{source}: lr_schedulers")
    if len(schedulers) != len(checkpoint["lr_schedulers"]):
        raise InputError(f"{source} has other learning rate schedulers; {_HINT}")
    for k, scheduler in enumerate(schedulers):
        mine, state = scheduler.state_dict(), checkpoint["lr_schedulers"][k]
        kept: dict[str, Any] = {key: state[key] for key in mine if key in state}
        required = {
            key: value for key, value in mine.items() if key in kept or key == "last_epoch"
        }
        check_like(required, kept, f"{source}: {type(scheduler).__name__}")
        checkpoint["lr_schedulers"][k] = kept


def _get_expected_state(optimizer: Optimizer) -> dict[Any, Any]:
    """Return the state that an optimizer has after a step, without values; empty if unknown."""
    groups = []
    for group in optimizer.param_groups:
        parameters = [nn.Parameter(x.detach().to("meta")) for x in group["params"]]
        for x in parameters:
            x.grad = torch.zeros_like(x)
        trial_group: dict[str, Any] = {**group, "params": parameters}
        trial_group |= {key: False for key in ("fused", "foreach", "capturable") if key in group}
        groups.append(trial_group)
    try:
        kind: Any = type(optimizer)
        trial = kind(groups)
        trial.step()
    except Exception:  # of an optimizer that needs values, or more arguments
        return {}
    state: dict[Any, Any] = trial.state_dict()["state"]
    return state
