"""The configs that come with the package, found by name; `lit-hier configs` lists them."""

import argparse
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from lit_hier.errors import InputError, suggest

FOLDER: Final = Path(__file__).parent.parent / "configs"
SUFFIXES: Final = (".yaml", ".yml")
_OPTION: Final = re.compile(r"(?P<option>-c=?|--config=)(?P<value>.+)", re.DOTALL)
_NAME: Final = re.compile(r"\w[\w.+-]{0,99}")  # as opposed to a path, or to YAML
_PATH: Final = re.compile(r"[^\n{}\[\]]{1,4096}\.ya?ml")


def list_names() -> list[str]:
    """Return the names of this package's configs, in order."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def find(value: str) -> str:
    """Return the path of a config: a file of this path, or the packaged one of this name.

    Args:
        value: A path, or a name such as `demo` or `demo.yaml`.

    Returns:
        The path; what is neither a path nor a name is returned unchanged, for the parser.

    Raises:
        InputError: There is no such file, nor a packaged config.
    """
    if os.path.lexists(value) and not os.path.isdir(value):
        return value
    is_name = _NAME.fullmatch(value) is not None
    if not is_name and not _PATH.fullmatch(value):
        return value
    name = re.sub(r"\.ya?ml$", "", re.split(r"[/\\]", value)[-1])
    names = list_names()
    if is_name and name in names:
        return str(FOLDER / f"{name}.yaml")
    if os.path.lexists(value):  # a folder, which the parser reports
        return value
    if name in names:
        hint = f" (did you mean {name}, which comes with this package?)"
    else:
        hint = suggest(name, names)
    raise InputError(
        f"config: there is no file {value:.100}{hint}; give a file, or a name that"
        " `lit-hier configs` lists"
    )


def find_all(args: Sequence[str]) -> list[str]:
    """Replace the names of packaged configs among a command's arguments with their paths.

    Args:
        args: The command and its arguments.

    Raises:
        InputError: See `find`.
    """
    found = []
    for before, argument in zip(("", *args), args, strict=False):
        if before in ("-c", "--config"):
            argument = find(argument)
        elif match := _OPTION.fullmatch(argument):
            argument = match["option"] + find(match["value"])
        found.append(argument)
    return found


def list_given(args: Sequence[str]) -> Iterator[str]:
    """Return the values that a command's arguments give for `-c` and `--config`."""
    for before, argument in zip(("", *args), args, strict=False):
        if before in ("-c", "--config"):
            yield argument
        elif match := _OPTION.fullmatch(argument):
            yield match["value"]


def shorten(path: str | Path) -> str:
    """Return the name of a config if it leads to the packaged file from here, else its path."""
    path = Path(path)
    packaged = FOLDER / path.name
    if path.suffix != ".yaml" or not packaged.is_file() or not path.samefile(packaged):
        return str(path)
    return path.stem if find(path.stem) == str(packaged) else str(path)


def describe(name: str) -> str:
    """Return the first line of a packaged config, which says what it is for."""
    with (FOLDER / f"{name}.yaml").open(encoding="utf-8") as file:
        return file.readline().lstrip("#").strip()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lit-hier configs`."""
    parser.description = (
        "List the configs that come with this package, or print one: `lit-hier configs demo >"
        " my.yaml` copies it, to edit it and to run it by `lit-hier predict -c my.yaml`."
    )
    parser.add_argument("name", nargs="?", help="the config to print; all are listed by default")
    parser.add_argument(
        "--copy", metavar="FILE", help="write it to a file, which must not exist yet"
    )


def execute(arguments: argparse.Namespace) -> None:
    """List the configs, or print or copy one.

    Raises:
        InputError: There is no such config, or the file to write exists or cannot be written.
    """
    names = list_names()
    if arguments.name is None:
        if arguments.copy is not None:
            raise InputError("--copy: give the config to copy, too, as in `lit-hier configs demo`")
        width = max(map(len, names)) + 2
        room = max(40, shutil.get_terminal_size((100, 50)).columns - width)
        lines = (f"{x:{width}}{textwrap.shorten(describe(x), room)}" for x in names)
        sys.stdout.write("\n".join(lines) + "\n")
        return
    name = re.sub(r"\.ya?ml$", "", arguments.name)
    if name not in names:
        raise InputError(
            f"name: there is no packaged config {arguments.name:.100}{suggest(name, names)};"
            " `lit-hier configs` lists them"
        )
    content = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    if arguments.copy is None:
        sys.stdout.write(content)
        return
    try:
        with open(arguments.copy, "x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        raise InputError(f"--copy: {arguments.copy:.100} exists; give another name") from None
    except (OSError, ValueError) as error:  # a ValueError for a null byte
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"--copy: cannot write {arguments.copy:.100}: {reason}; give another name"
        ) from None
