"""What one config makes and another one needs: the commands that make it and that use it."""

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, Final, NamedTuple

from lit_hier.cli import configs
from lit_hier.cli.allowed import get_own_classes
from lit_hier.cli.class_values import get_class
from lit_hier.cli.errors import describe_input_error
from lit_hier.cli.parser import load_checked
from lit_hier.cli.trust import get_given
from lit_hier.errors import InputError
from lit_hier.io.safe_read import read_file
from lit_hier.modules import ForwardBackwardModule

_MAX_CONFIGS: Final = 200  # in a folder
_MAX_SHOWN: Final = 3  # commands in a line
_WRITING: Final = ("dirpath", "samples", "save_to")  # arguments that name what is written
_READERS: Final = ("StoredSamples",)  # classes of which they name what is read


class _Config(NamedTuple):
    """What a config makes and needs.

    Attributes:
        file: The config.
        stage: The command that runs it; empty if it only changes another config.
        written: The files and folders that it writes.
        read: Other paths in it.
    """

    file: Path
    stage: str
    written: list[str]
    read: list[str]

    def makes(self, path: str) -> bool:
        """Return whether the config writes a file or folder, or one that contains it."""
        return any(PurePath(path).is_relative_to(text) for text in self.written)


@contextmanager
def named_products(args: Sequence[str]) -> Iterator[None]:
    """Report a file or folder that another config makes, and that is missing, with the command.

    Configs are searched in the folders of those that are given, then among those of this package.

    Args:
        args: The command's arguments.

    Raises:
        InputError: Instead of an error that names a missing path which a config makes.
    """
    try:
        yield
    except Exception as error:
        message = describe_input_error(error) or ""
        for path in dict.fromkeys(text for _, _, text in _list_texts(get_given())):
            if _names_missing(message, path) and (command := _find_command(path, args)):
                raise InputError(
                    f"{message.partition(':')[0]:.60}: there is no {path:.120} yet; run"
                    f" `{command:.120}` first"
                ) from error
        raise


def check_stage(stage: str, class_path: str, args: Sequence[str]) -> None:
    """Reject a sampler that is to be trained or evaluated, and a task that is to sample.

    Args:
        stage: The command.
        class_path: The class of the model.
        args: The command's arguments.

    Raises:
        InputError: The command does not fit the model; the configs that do are named.
    """
    kind = get_class(class_path)
    is_sampler = isinstance(kind, type) and issubclass(kind, ForwardBackwardModule)
    if is_sampler == (stage == "predict"):
        return
    name = class_path.rpartition(".")[2]
    found = list(_list_configs(args))
    known = {os.path.realpath(file) for file in configs.list_given(args)}
    given = [config for config in found if os.path.realpath(config.file) in known]
    if is_sampler:
        own = [_get_command(config, args) for config in given if config.stage == "predict"]
        needed = [path for config in given for path in config.read]
        makers = [x for x in found if x.stage == stage and any(map(x.makes, needed))]
        makers = makers or [x for x in found if x.stage == "fit"]
        purpose = "trained" if stage == "fit" else "evaluated"
        first = f"; to sample, run {_quote(own)}" if own else ""
        raise InputError(
            f"model: {name} is a sampler, which is not {purpose}{first}; to {stage} a task, take"
            f" its config, as in {_quote(_get_command(x, args, stage) for x in makers)}"
        )
    own = [_get_command(config, args) for config in given if config.stage == "fit"]
    made = [path for config in given for path in config.written]
    commands = list_users(made, args) or [
        _get_command(x, args) for x in found if x.stage == "predict"
    ]
    first = f"; to train it, run {_quote(own)}" if own else ""
    raise InputError(
        f"model: predict needs a sampler such as BPDenoiser, not {name}{first}; to predict, take"
        f" the config of a sampler, as in {_quote(commands)}"
    )


def list_users(paths: Iterable[str], args: Sequence[str]) -> list[str]:
    """List the commands whose configs read what was written.

    Args:
        paths: What was written.
        args: The arguments of the command that wrote it.
    """
    written = [PurePath(path) for path in paths]
    return [
        _get_command(config, args)
        for config in _list_configs(args)
        if config.stage == "predict"
        and any(
            PurePath(text).is_relative_to(path) or path.is_relative_to(text)
            for text in config.read
            for path in written
        )
    ]


def list_written(config: Any) -> list[str]:
    """List the files and folders that a config's arguments name as what is written."""
    return [
        text
        for owner, name, text in _list_texts(config)
        if name in _WRITING and owner not in _READERS and _is_path(text)
    ]


def _quote(commands: Iterable[str]) -> str:
    shown = [f"`{command:.100}`" for command in commands][:_MAX_SHOWN]
    return " or ".join(shown)


def _names_missing(message: str, path: str) -> bool:
    """Return whether a message names a path, which does not exist."""
    try:
        return _is_path(path) and path in message and not os.path.lexists(path)
    except ValueError:  # a text with a null byte
        return False


def _is_path(text: str) -> bool:
    return len(PurePath(text).parts) > 1


def _find_command(path: str, args: Sequence[str]) -> str:
    """Return the command that makes a path; empty if no config does."""
    known = {os.path.realpath(file) for file in configs.list_given(args)}
    for config in _list_configs(args):
        is_other = os.path.realpath(config.file) not in known or config.stage not in args
        if config.stage and is_other and config.makes(path):
            return _get_command(config, args)
    return ""


def _get_command(config: _Config, args: Sequence[str], stage: str = "") -> str:
    """Return the command that runs a config, with the given ones that only change another."""
    given = [_read(Path(file)) for file in configs.list_given(args)]
    files = [config.file, *(other.file for other in given if other and not other.stage)]
    options = [part for file in files for part in ("-c", configs.shorten(file))]
    return shlex.join(["lit-hier", stage or config.stage, *options])


def _list_configs(args: Sequence[str]) -> Iterator[_Config]:
    """Read the configs in the folders of those that are given, then those of this package."""
    folders = [Path(file).parent for file in configs.list_given(args)]
    seen = set()
    for folder in [*folders, configs.FOLDER]:
        if (resolved := folder.resolve()) in seen:
            continue
        seen.add(resolved)
        files = sorted(x for x in folder.glob("*") if x.suffix in configs.SUFFIXES)
        for file in files[:_MAX_CONFIGS]:
            if config := _read(file):
                yield config


def _read(file: Path) -> _Config | None:
    """Read what a config makes and needs; None if it is not a config."""
    try:
        config = load_checked(read_file(file).decode())
    except Exception:  # of a file that nobody has given
        return None
    if not isinstance(config, dict):
        return None
    model = config.get("model")
    name = model.get("class_path") if isinstance(model, dict) else model
    stage = ""
    if name is not None:
        kind = get_own_classes().get(str(name).rpartition(".")[2], object)
        stage = "predict" if issubclass(kind, ForwardBackwardModule) else "fit"
    written = list_written(config)
    texts = (text for _, _, text in _list_texts(config))
    read = [text for text in texts if _is_path(text) and text not in written]
    return _Config(file, stage, written, read)


def _list_texts(value: Any, owner: str = "", name: str = "") -> Iterator[tuple[str, str, str]]:
    """List the texts in a config, each with its class and its argument."""
    if isinstance(value, str):
        yield owner, name, value
    elif isinstance(value, list):
        for item in value:
            yield from _list_texts(item, owner, name)
    elif isinstance(value, dict):
        owner = str(value.get("class_path", owner)).rpartition(".")[2]
        for key, item in value.items():
            yield from _list_texts(item, owner, str(key))
