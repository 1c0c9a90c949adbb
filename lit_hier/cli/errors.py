"""How the command line reports unusable input: in one line, in the user's own words."""

import ast
import errno
import re
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from lightning_fabric.utilities.exceptions import MisconfigurationException
from torchvision import datasets

from lit_hier.cli.exits import shorten
from lit_hier.errors import InputError, one_line, suggest

TRUST_VARIABLE: Final = "LIT_HIER_TRUST"  # in the environment: a user's own packages
# Old names of classes and of packages with them, and the new ones. A longer name comes first.
RENAMED: Final = {
    "lit_hier.modules.DDPMTrainer": "lit_hier.modules.DDPMTask",
    "DDPMTrainer": "DDPMTask",
    "lit_hier.noise": "lit_hier.processes",
    "callbacks": "lit_hier.callbacks",
}
T = TypeVar("T")
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Parts of Lightning that check the trainer's arguments, also against a cluster's environment.
_CHECKING: Final = (
    "pytorch_lightning/trainer/connectors",
    "lightning_fabric/plugins/environments",
)
_MAX_VALUE: Final = 60  # characters of a value in a line
_MAX_TEXT: Final = 720  # characters of a text that is cut to a line later
# Of several errors about one value, these are the least informative.
_VAGUE: Final = re.compile(
    "^Expected an? |Does not validate|^Importing|^a dict|^a class|^Not a valid subclass"
)
# What an argument accepts, with the brackets of a type.
_KIND: Final = re.compile(
    r"Expected an? (?!path but)((?:\w|\.)+\[.*?\](?=[.,]? |[.,]?$)|.*?)(?:[.,] |$)"
    r"|(Not a valid subclass of \w+)",
    re.MULTILINE,
)
# RuntimeErrors of Lightning and torch that the input causes.
_TRANSLATIONS: Final = {
    "loading state_dict": "ckpt_path: the weights belong to another model: {}",
    "is not in bounds, numpy accepts": "seed_everything: {}",
    "stateful loaders": "ckpt_path: {}",
    "Early stopping conditioned": "trainer.callbacks: {}",
    "Timed out waiting": "trainer.strategy: processes waited longer than its timeout ({});"
    " give a longer one, or find out what the others do",
    "can't allocate memory": "config: not enough memory ({}); reduce the sizes",
}
# What torch reports of a state dict, the first of each kind.
_DIFFERENCES: Final = (
    (r'Missing key\(s\) in state_dict: "([^"]*)"', "{} is missing"),
    (r'Unexpected key\(s\) in state_dict: "([^"]*)"', "{} is unexpected"),
    (r"size mismatch for (\S+): .*?Size\(\[(.*?)\]\) from .*?Size\(\[(.*?)\]\)",
     "{} has shape ({}), not ({})"),
)  # fmt: skip
# jsonargparse's names of Python's types, and those of YAML.
_YAML_TERMS: Final = (
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
    (r"'\w+' object has no attribute '\w+'", "its init_args are not a mapping"),
    (r"(?:argument of type )?'(\w+)'(?: object)? is not (?:a container or )?"
     r"(?:iterable|subscriptable)", r"a value of type \1 is not allowed in its place"),
    (r"unhashable type: '(\w+)'", r"a \1 is not allowed as a key"),
    (r"(\w+)\.__init__\(\) got an unexpected keyword argument '([^']*)'",
     r"\1 has no argument \2"),
)  # fmt: skip


def describe_parser_error(
    message: str, unusable: Mapping[str, str], known: Collection[str]
) -> str:
    """Translate an error of the parser: the key, what is wrong with it, and what is allowed.

    Args:
        message: What jsonargparse reports.
        unusable: Why a class must not be named, by its name and by its path.
        known: Short names of the classes that a config may name.
    """
    key = _find_key(message)
    if "subcommand" in message and "not provided" in message:
        return "there is no command; give one before the options, as in `lit-hier predict -c demo`"
    # An unknown class fails under every type that the argument accepts; report only its name.
    if unknown := re.search(r"Expected a dot import path string: (.*)", message):
        return f"{key}: {_describe_unknown_class(unknown[1], unusable, known)}"
    if "Problems parsing config" in message:
        bare = re.sub(r'^.*?Problems parsing config:|in "<unicode string>",', "", message)
        remedy = "" if ";" in bare else "; correct the file"
        return f"{key}: not valid YAML: {one_line(bare)}{remedy}"
    bare = re.sub(r'Parser key "[^"]*":\s*', "", message)
    bare = re.sub(r"Problem with given class_path '(?:\w+\.)*(\w+)':\s*", r"\1: ", bare)
    bare = bare.partition("Subclass types expect one of:")[0].rstrip()
    value = re.search(r"Given value: (.*)", bare, re.DOTALL)
    value = value or re.search(r"Got value: (.*)", bare, re.DOTALL)
    # One of several types that an argument accepts may be one that no config may name.
    denied = re.search(r"Importing '([\w.]+)' is not allowed", message)
    base = denied[1].rpartition(".")[2] if denied else ""
    if base in ("LightningModule", "LightningDataModule") and value and base not in value[1]:
        return (
            f"{key}: no class is given, whose arguments these could be; give a config by -c, or"
            f" --{key} CLASS before them"
        )
    if denied and (value is None or denied[1].rpartition(".")[2] in value[1]):
        return f"{key}: {_describe_denied_class(denied[1], unusable)}"
    if missing := re.search(r"No module named '([\w.]+)'", bare):
        path = _find_class_path(value[1]) if value else "the class"
        return f"{key}: cannot import {path}: no module named {missing[1]}; check the spelling"
    if missing := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", bare):
        return f"{key}: {_describe_missing_class(*missing.groups())}"
    if several := re.search(r"Multiple subclasses with name (\w+).* ambiguity: (.*)\.", bare):
        paths = " or ".join(several[2].split(", "))
        return f"{key}: several classes are named {several[1]}; write {paths}"
    if value and re.search(r"instantiatable class, but .*is (?:abstract|a protocol)", bare):
        path = _find_class_path(value[1])
        return f"{key}: {path} is abstract; name a subclass of it, as listed by --help"
    if value and (wrong := re.search(r"does not correspond to a subclass of (\w+)", bare)):
        path = _find_class_path(value[1])
        return f"{key}: {path} is not a subclass of {wrong[1]}; name one, as listed by --help"
    if bare.startswith("Unexpected config:"):
        content = _shorten_value(bare.partition(":")[2])
        found = f"it contains {content}" if content else "the file is empty"
        return f"{key}: {found}; give a mapping such as that of `lit-hier configs demo`"
    given = f", but it is {_shorten_value(_use_yaml_terms(value[1])) or 'empty'}" if value else ""
    errors = re.findall(r"^\s*- (.*)", bare, re.MULTILINE) or bare.splitlines()[:1]
    telling = [error for error in errors if not _VAGUE.search(error)]
    if telling:
        reason = _use_yaml_terms(re.sub(r"[.,]? Got value: .*", "", telling[0]))
        return f"{key}: {_shorten_value(reason, 2 * _MAX_VALUE)}" + (
            given if len(errors) > 1 else ""
        )
    kinds = list(map("".join, _KIND.findall(bare)))
    wanted = " or ".join(dict.fromkeys(map(_describe_kind, kinds)))
    if not wanted:
        return f"{key}: {_use_yaml_terms(bare)}"
    choices = [x for kind in kinds for x in _list_choices(kind)]
    nearest = suggest(value[1].strip(), choices) if value else ""
    return f"{key}: give {wanted}{given}{nearest}"


def _describe_kind(kind: str) -> str:
    """Describe a type in YAML's terms; list the values of a choice."""
    return " or ".join(_list_choices(kind)) or _use_yaml_terms(kind)


def _list_choices(kind: str) -> list[str]:
    """Return the values of a choice; none for other types."""
    choices = re.fullmatch(r"(?:typing\.)?Literal\[(.*)\]", kind)
    values = ast.literal_eval(f"[{choices[1]}]") if choices else []
    return ["null" if value is None else str(value) for value in values]


def _describe_unknown_class(name: str, unusable: Mapping[str, str], known: Collection[str]) -> str:
    if name in unusable:
        return unusable[name]
    if renamed := _find_new_name(name):
        return renamed
    if name in known:
        return f"{name} is not a class that this key accepts; check the key against --help"
    return (
        f"there is no class {_shorten_value(name)}{suggest(name, known)}; a class of your own"
        " needs its full path, as in my_module.MyClass"
    )


def _describe_denied_class(path: str, unusable: Mapping[str, str]) -> str:
    if renamed := _find_new_name(path):
        return renamed
    if path in unusable:
        return unusable[path]
    if path.startswith("lit_hier."):
        return _describe_own_path(path)
    if path.startswith("torchvision.datasets."):
        return (
            f"{path} is not an allowed data set, as it may open what has no checksum; unpack its"
            " images and name the folder with ImageFiles"
        )
    return (
        f"{path} is not an allowed class; if you trust it, set"
        f" {TRUST_VARIABLE}={path.rpartition('.')[0]} in the environment"
    )


def _describe_own_path(path: str) -> str:
    """Describe a path in this project that no config may name, as trust is not the remedy."""
    for old, new in RENAMED.items():
        if old.startswith("lit_hier.") and path.startswith(f"{old}."):
            path = new + path.removeprefix(old)
    found, parent = _resolve(path), path.rpartition(".")[0]
    if found is not None:
        return f"{path} is not an allowed class; name one that is listed by --help"
    while (owner := _resolve(parent)) is None:
        path, parent = parent, parent.rpartition(".")[0]
    name = path.rpartition(".")[2]
    return f"{parent} has no {name}{suggest(name, vars(owner))}; name a class listed by --help"


def _describe_missing_class(module: str, name: str) -> str:
    if renamed := _find_new_name(f"{module}.{name}"):
        return renamed
    nearest = suggest(name, vars(sys.modules[module])) if module in sys.modules else ""
    return f"{module} has no class {name}{nearest}; write the name of a class that it has"


def _find_class_path(value: str) -> str:
    """Return the class path in a value that is reported, or the value itself."""
    paths = re.findall(r"class_path['\"]?[:=] ?['\"]([^'\"]+)", value)
    return _shorten_value(paths[-1] if paths else value)


def _resolve(path: str) -> Any:
    """Return what a path in this project stands for, None for nothing; of loaded modules."""
    value: Any = sys.modules.get("lit_hier")
    for name in path.split(".")[1:]:
        value = getattr(value, name, None)
    return value


def _find_new_name(name: str) -> str | None:
    """Return the error line for a renamed class, None for any other."""
    for old, new in RENAMED.items():
        if name == old or name.startswith(f"{old}."):
            path = new + name.removeprefix(old)
            if "." not in path or _resolve(path) is not None:
                return f"{name} was renamed; write {path}"
    return None


def _find_key(message: str) -> str:
    """Return the innermost key that a message is about."""
    keys = re.findall(r'Parser key "([^"]*)"|^--([\w.]+):', message)
    keys = ["".join(pair) for pair in keys]
    return str(keys[-1]) if keys and keys[-1] else "config"


def _use_yaml_terms(text: str) -> str:
    text = " ".join(text[:_MAX_TEXT].split())
    for pattern, term in _YAML_TERMS:
        text = re.sub(pattern, term, text)
    return text


def _shorten_value(value: str, limit: int = _MAX_VALUE) -> str:
    line = " ".join(value.split())
    return line if len(line) <= limit else f"{line[:limit]} ..."


def instantiate(class_type: type[T], *args: Any, **kwargs: Any) -> T:
    """Instantiate a class that a config names.

    Raises:
        InputError: It rejects its arguments, by an exception of any type; the class is named.
    """
    with blaming(class_type.__name__):
        return class_type(*args, **kwargs)


@contextmanager
def blaming(name: str) -> Iterator[None]:
    """Report any error of code that uses a user's values, and nothing else, as theirs.

    Args:
        name: The class or the option that has these values.

    Raises:
        InputError: Any exception was raised; libraries raise exceptions of many types.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if (message := describe_input_error(error)) is not None:
            prefix = f"{name}: " if isinstance(error, MisconfigurationException) else ""
            raise InputError(prefix + message) from error
        reason = _use_yaml_terms(str(error)) or type(error).__name__
        if isinstance(error, ImportError):
            raise InputError(
                f"{name}: a package is missing: {shorten(reason)[:200]}; install it, or choose"
                " other values"
            ) from error
        raise InputError(f"{name}: invalid arguments: {reason}") from error


def describe_input_error(error: BaseException) -> str | None:
    """Return what is wrong with the input, or None if the input may not be at fault."""
    # jsonargparse wraps a class's error about its arguments in its own errors.
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__
    if cause is not None:
        return str(cause)
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        place = error.filename or "the output"
        return f"cannot write {place}: {error.strerror}; free space, then run the command again"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MisconfigurationException | OSError):
        return str(error)
    if isinstance(error, MemoryError):
        return _TRANSLATIONS["can't allocate memory"].format(error)
    if isinstance(error, UnicodeDecodeError):
        return f"config: not UTF-8 text: {error.reason} at byte {error.start}"
    if message := _describe_dataset_error(error):
        return message
    frames = traceback.extract_tb(error.__traceback__)
    files = [Path(frame.filename).as_posix() for frame in frames]
    if files and any(f"{part}/" in files[-1] for part in _CHECKING):
        return f"trainer: {_use_yaml_terms(str(error))}"
    if any(re.search(r"/(pytorch_lightning|lightning_fabric)/loggers/", name) for name in files):
        return f"trainer.logger: {_use_yaml_terms(str(error))}; correct its arguments"
    for part, message in _TRANSLATIONS.items():
        if part in str(error):
            return message.format(_describe_state_dict(str(error)))
    if any(_restores(frame) for frame in frames):
        reason = _shorten_value(one_line(error), 3 * _MAX_VALUE) or type(error).__name__
        return (
            f"ckpt_path: the checkpoint does not fit this run: {type(error).__name__}: {reason};"
            " give another one, or leave out ckpt_path"
        )
    return None


def _describe_state_dict(text: str) -> str:
    """Return the first difference of a state dict that torch reports; any other text unchanged."""
    for pattern, difference in _DIFFERENCES:
        if found := re.search(pattern, text):
            return difference.format(*(part[:80] for part in found.groups()))
    return text


def _restores(frame: traceback.FrameSummary) -> bool:
    """Return whether a frame is Lightning's restoring of a checkpoint."""
    name = frame.name.lstrip("_")
    return frame.filename.endswith("checkpoint_connector.py") and name.startswith(
        ("restore", "resume")
    )


def _describe_dataset_error(error: BaseException) -> str:
    """Return what a data set of torchvision reports about its files; empty for other errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if not any(Path(datasets.__path__[0]) in Path(file).parents for file in files):
        return ""
    reason = str(error).strip() or "its files are damaged"
    return f"data: cannot load the data set: {reason}"
