"""What the command line says of input that it cannot use: one line, in the user's own words."""

import errno
import re
import sys
import traceback
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from lightning_fabric.utilities.exceptions import MisconfigurationException
from torchvision import datasets

from lit_hier.errors import InputError, one_line

TRUST: Final = "LIT_HIER_TRUST"  # the environment's variable with a user's own packages
T = TypeVar("T")
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MOST: Final = 360  # letters of a line
_SHOWN: Final = 60  # letters of a value in it
# Of several errors of a value, those that say least.
_VAGUE: Final = re.compile(
    "^Expected an? |Does not validate|^Importing|^a dict|^a class|^Not a valid subclass"
)
# What Lightning and torch say of the input as a RuntimeError, and what it means here.
_TRANSLATIONS: Final = {
    "loading state_dict": "ckpt_path: the weights are of another model: {}",
    "is not in bounds, numpy accepts": "seed_everything: {}",
    "Early stopping conditioned": "trainer.callbacks: {}",
    "can't allocate memory": "config: it asks for more memory than there is ({}); take less",
}
# What jsonargparse says of Python's types, and what a YAML file calls them.
_WORDS: Final = (
    (r"NestedArg\(key='[^']*', val=(.*?)\)?$", r"\1"),
    (r"<class '(?:[\w<>]+\.)*(\w+)'>", r"\1"),
    (r"(?:typing|collections\.abc|pathlib)\.", ""),
    (r"\b(?:[a-z_]\w*\.)+([A-Z]\w+)", r"\1"),
    (r"\bNoneType\b|\bNone\b", "null"),
    (r"\bSequence\b|\bIterable\b", "list"),
    (r"\bstr\b", "text"),
    (r"Namespace\(", "("),
    (r"\bNestedArg\b", "mapping"),
    (r"Not a valid subclass of (\w+)", r"the class_path of a \1"),
    (r"'\w+' object has no attribute '\w+'", "its init_args are no mapping"),
    (r"unhashable type: '(\w+)'", r"a \1 cannot stand here"),
    (r"(\w+)\.__init__\(\) got an unexpected keyword argument '([^']*)'", r"\1 takes no \2"),
)


def shown(message: object) -> str:
    """Give a message as one line that can be printed, and be read."""
    line = one_line(message)
    return line if len(line) <= _MOST else f"{line[: _MOST - 4]} ..."


def fail(message: object) -> NoReturn:
    """Say what is wrong and end with status 2."""
    sys.stderr.write(f"lit-hier: error: {shown(message)}\n")
    sys.exit(2)


def of_parsing(message: str) -> str:
    """Say what a parser says: the key, what is wrong with it, and what it takes."""
    key = _key(message)
    # A class that there is not fails each way of reading it; the name is what helps.
    if unknown := re.search(r"Expected a dot import path string: (.*)", message):
        return f"{key}: there is no class {_short(unknown[1])}; check its spelling against --help"
    if "Problems parsing config" in message:
        bare = re.sub(r'^.*?Problems parsing config:|in "<unicode string>",', "", message)
        return f"{key}: it cannot be read: {one_line(bare)}"
    bare = re.sub(r'Parser key "[^"]*":\s*', "", message)
    bare = re.sub(r"Problem with given class_path '(?:\w+\.)*(\w+)':\s*", r"\1: ", bare)
    value = re.search(r"(?:Given value: |Got value: )(.*)", bare, re.DOTALL)
    # A type that a value may have, besides others, can be one that no config may name.
    denied = re.search(r"Importing '([\w.]+)' is not allowed", message)
    if denied and (value is None or denied[1].rpartition(".")[2] in value[1]):
        return (
            f"{key}: {denied[1]} is none of the classes that a config may name; if you trust it,"
            f" set {TRUST}={denied[1].rpartition('.')[0]} in the environment"
        )
    given = f", but it is {_short(_words(value[1])) or 'empty'}" if value else ""
    errors = re.findall(r"^\s*- (.*)", bare, re.MULTILINE) or bare.splitlines()[:1]
    telling = [error for error in errors if not _VAGUE.search(error)]
    if telling:
        said = _words(re.sub(r"[.,]? Got value: .*", "", telling[0]))
        return f"{key}: {_short(said, 2 * _SHOWN)}" + (given if len(errors) > 1 else "")
    kinds = re.findall(r"Expected an? (.*?)(?:[.,] |$)|(Not a valid subclass of \w+)", bare, re.M)
    wanted = " or ".join(dict.fromkeys(_words("".join(kind)) for kind in kinds))
    return f"{key}: give {wanted}{given}" if wanted else f"{key}: {_words(bare)}"


def _key(message: str) -> str:
    """Find the innermost key that a message is about."""
    keys = re.findall(r'Parser key "([^"]*)"', message)
    return str(keys[-1]) if keys and keys[-1] else "config"


def _words(text: str) -> str:
    text = " ".join(text[: 2 * _MOST].split())  # what is longer is not shown anyway
    for pattern, words in _WORDS:
        text = re.sub(pattern, words, text)
    return text


def _short(value: str, most: int = _SHOWN) -> str:
    line = " ".join(value.split())
    return line if len(line) <= most else f"{line[:most]} ..."


def build(class_type: type[T], *args: Any, **kwargs: Any) -> T:
    """Make an object of a class that a config names.

    Raises:
        InputError: It refuses its arguments, in whatever way; the class is named.
    """
    try:
        return class_type(*args, **kwargs)
    except InputError:
        raise
    except Exception as error:  # classes of libraries check their arguments as they like
        if (said := explain(error)) is not None:
            known = isinstance(error, MisconfigurationException)
            raise InputError(f"{class_type.__name__}: {said}" if known else said) from error
        said = _words(str(error)) or type(error).__name__
        raise InputError(f"{class_type.__name__}: its arguments are refused: {said}") from error


def explain(error: BaseException) -> str | None:
    """Say what of the input has caused an error; None if it is not known to be the input."""
    # jsonargparse wraps what a class says of its arguments in what it tried to make of them.
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__
    if cause is not None:
        return str(cause)
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        place = error.filename or "the output"
        return f"cannot write {place}: {error.strerror}; make room, then give the same command"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MisconfigurationException | OSError):
        return str(error)
    if isinstance(error, MemoryError):
        return _TRANSLATIONS["can't allocate memory"].format(error)
    if isinstance(error, UnicodeDecodeError):
        return f"config: it is no UTF-8 text: {error.reason} at byte {error.start}"
    if said := _of_data_set(error):
        return said
    frames = traceback.extract_tb(error.__traceback__)
    if frames and "pytorch_lightning/trainer/connectors" in Path(frames[-1].filename).as_posix():
        return f"trainer: {_words(str(error))}"
    for part, said in _TRANSLATIONS.items():
        if part in str(error):
            return said.format(error)
    return None


def _of_data_set(error: BaseException) -> str:
    """Say what a data set of torchvision says of its files; nothing of other errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if not any(Path(datasets.__path__[0]) in Path(file).parents for file in files):
        return ""
    said = str(error).strip() or "its files are broken"
    return f"data: the data set cannot be loaded: {said}"
