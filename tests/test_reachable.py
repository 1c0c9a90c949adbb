"""What a config can reach: every class that an argument accepts, and what its arguments may do."""

import importlib
import inspect
import typing
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace
from pytorch_lightning import LightningDataModule, LightningModule, Trainer

import lit_hier.cli.command  # noqa: F401  # sets the limits
from lit_hier.cli.allowed import ALLOWED, LAZY
from lit_hier.cli.class_values import check_class_values
from lit_hier.errors import InputError

REVIEWED = Path(__file__).with_name("reachable.txt")
UNTYPED = inspect.Parameter.empty
OPEN = (Any, object, type, UNTYPED, dict, list, tuple, set)
# Words in the name of an argument that may import, run, fetch, or take an address or a path.
SUSPECT = (
    "addr address backend cmd code command dir dirpath download endpoint exec fn fqn func function"
    " getter hook host import lambda loader mirror module modules path port pretrained repo root"
    " script uri url wrapper"
)
EXCUSED = {
    "dirpath default_root_dir root_dir save_dir sub_dir": "a folder to write",
    "exclude_batches_path path root": "a file or a folder to read",
    "download": "from the data set's own address, as the user asks, with a checksum",
    "pretrained": "a folder, or a name on the Hugging Face hub; never an address",
    "module modules": "networks",
    "lambda_min_clipped record_module_names": "a number, and a switch",
    "process_group_backend": "a name that torch compares with those it knows",
    "adjust_lr_fn line_search_fn": "a name that is compared with those that exist",
    "avg_fn ddp_comm_hook ddp_comm_wrapper distance_function labels_getter lambda_func loader"
    " pruning_fn scale_fn tau_func": "a function: no path leads to any but the allowed classes",
}


@cache
def list_classes() -> dict[str, type]:
    """Return the classes that a config may name, by the module and name that define them."""
    lazy = [getattr(importlib.import_module(module), name) for name, module in LAZY.items()]
    return {f"{c.__module__}.{c.__qualname__}": c for c in [*ALLOWED.values(), *lazy]}


def list_arguments(owner: type) -> dict[str, Any]:
    """Return the types of a class's arguments, with those that it may pass on to its bases."""
    arguments: dict[str, Any] = {}
    known = {base.__name__: base for c in list_classes().values() for base in c.__mro__}
    for base in owner.__mro__:
        function = vars(base).get("__init__")
        if not inspect.isfunction(function):
            continue
        try:
            hints = typing.get_type_hints(function, localns=known)
        except (NameError, TypeError):
            hints = {}
        parameters = inspect.signature(function).parameters.values()
        for parameter in parameters:
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                arguments.setdefault(parameter.name, hints.get(parameter.name, UNTYPED))
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
            break
    return {name: value for name, value in arguments.items() if name != "self"}


def list_types(annotation: Any) -> Iterator[Any]:
    """Return the types that a type consists of; of functions, that of what they return too."""
    kind, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if kind is Callable:
        yield Callable
        yield from (t for t in list_types(parts[-1]) if t not in OPEN) if parts else ()
    elif kind is dict:  # a key is a text
        yield from list_types(parts[1])
    elif kind is not typing.Literal:
        yield from (t for part in parts for t in list_types(part)) if parts else (annotation,)


@cache
def walk() -> tuple[dict[str, set[str]], list[tuple[type, str, Any]]]:
    """Walk from the roots of a config through every type that an argument accepts.

    Returns:
        The types through which each class is reached; each owner, argument and its type.
    """
    classes = list_classes()
    found: dict[str, set[str]] = {}
    arguments = []
    waiting: list[Any] = [Trainer, LightningModule, LightningDataModule]
    owners: set[Any] = set()
    accepted: set[Any] = {LightningModule, LightningDataModule}
    while waiting:
        owner = waiting.pop()
        owners.add(owner)
        for name, annotation in list_arguments(owner).items():
            arguments.append((owner, name, annotation))
            accepted |= {t for t in list_types(annotation) if isinstance(t, type)}
        for wanted in accepted - set(OPEN):
            for path, class_type in classes.items():
                # Where a function is accepted, the path of any class that is allowed is, too.
                if wanted is Callable or issubclass(class_type, wanted):
                    found.setdefault(path, set()).add(wanted.__name__)
                    if class_type not in owners and class_type not in waiting:
                        waiting.append(class_type)
        accepted = set()
    return found, arguments


def describe() -> list[str]:
    """Return the lines of the list: each class, and where in a config it can stand."""
    found, arguments = walk()
    places: dict[str, set[str]] = {"LightningModule": {"model"}, "LightningDataModule": {"data"}}
    for owner, name, annotation in arguments:
        for wanted in list_types(annotation):
            if isinstance(wanted, type):
                places.setdefault(wanted.__name__, set()).add(f"{owner.__name__}.{name}")
    used = sorted({wanted for names in found.values() for wanted in names})
    return [
        *(f"{wanted} <- {place}" for wanted in used for place in sorted(places[wanted])),
        *(f"{path}: {', '.join(sorted(names))}" for path, names in sorted(found.items())),
    ]


def test_every_class_that_a_config_reaches_was_reviewed() -> None:
    reviewed = [x for x in REVIEWED.read_text().splitlines() if x[:1] not in ("", "#")]
    found = describe()
    assert sorted(set(found) - set(reviewed)) == [], "review them; then run this file"
    assert [x for x in reviewed if x not in found and exists(x)] == []


def exists(line: str) -> bool:
    """Return whether the installed version of a library has what a line names."""
    if " <- " in line:
        owner, _, name = line.partition(" <- ")[2].partition(".")
        owners = {c.__name__: c for c in [*list_classes().values(), Trainer]}
        return owner in owners and name in list_arguments(owners[owner])
    return line.partition(":")[0] in list_classes()


def test_no_class_stands_where_the_type_does_not_name_it() -> None:
    given = Namespace(class_path="torch.nn.Identity", init_args=Namespace())
    num_open = 0
    for owner, name, annotation in walk()[1]:
        if any(wanted in OPEN for wanted in list_types(annotation)):
            num_open += 1
            for value in (given, [given], {"x": [given]}):
                with pytest.raises(InputError, match="does not say which classes"):
                    check_class_values(Namespace(**{name: value}), owner, "model")
    assert num_open > 100


def test_no_argument_imports_runs_or_fetches_what_its_value_names() -> None:
    excused = {name for names in EXCUSED for name in names.split()}
    suspects = {name for _, name, _ in walk()[1] if set(SUSPECT.split()) & set(name.split("_"))}
    assert suspects - excused == set()


if __name__ == "__main__":
    head = [x for x in REVIEWED.read_text().splitlines() if x[:1] == "#"]
    REVIEWED.write_text("\n".join([*head, *describe(), ""]))
