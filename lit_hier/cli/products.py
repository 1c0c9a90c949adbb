"""What one config makes and another one needs: the command that makes what is missing."""

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, Final

from lit_hier.cli.allowed import get_own_classes
from lit_hier.cli.errors import describe_input_error
from lit_hier.cli.parser import load_checked
from lit_hier.cli.trust import get_given
from lit_hier.errors import InputError
from lit_hier.io.safe_read import read_file
from lit_hier.modules import ForwardBackwardModule

_SUFFIXES: Final = (".yaml", ".yml")
_MAX_CONFIGS: Final = 200  # in a folder
_SHIPPED: Final = Path(__file__).parent.parent / "configs"
_WRITING: Final = ("dirpath", "samples", "save_to")  # arguments that name what is written
_READERS: Final = ("StoredSamples",)  # classes of which they name what is read


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


def _names_missing(message: str, path: str) -> bool:
    """Return whether a message names a path, which does not exist."""
    try:
        return len(PurePath(path).parts) > 1 and path in message and not os.path.lexists(path)
    except ValueError:  # a text with a null byte
        return False


def _find_command(path: str, args: Sequence[str]) -> str:
    """Return the command that makes a path; empty if no config does."""
    values = [arg.rpartition("=")[2] for arg in args]
    given = [Path(value) for value in values if value.endswith(_SUFFIXES)]
    known = {os.path.realpath(file) for file in given}
    for folder in dict.fromkeys([*(file.parent for file in given), _SHIPPED]):
        files = sorted(x for x in folder.glob("*") if x.suffix in _SUFFIXES)[:_MAX_CONFIGS]
        for file in files:
            stage = _get_stage(file, path)
            if stage and (os.path.realpath(file) not in known or stage not in args):
                return shlex.join(["lit-hier", stage, "-c", str(file)])
    return ""


def _get_stage(file: Path, path: str) -> str:
    """Return the command with which a config makes a path; empty if it does not."""
    try:
        config = load_checked(read_file(file).decode())
    except Exception:  # of a file that nobody has given
        return ""
    made = any(
        len(PurePath(text).parts) > 1
        for owner, name, text in _list_texts(config)
        if name in _WRITING and owner not in _READERS and PurePath(path).is_relative_to(text)
    )
    if not made:
        return ""
    model = config.get("model") if isinstance(config, dict) else None
    name = str(model.get("class_path") if isinstance(model, dict) else model)
    kind = get_own_classes().get(name.rpartition(".")[2], object)
    return "predict" if issubclass(kind, ForwardBackwardModule) else "fit"


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
