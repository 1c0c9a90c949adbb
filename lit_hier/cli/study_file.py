"""The file of a study: which commands run, for which combinations of values."""

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Final

import yaml

from lit_hier.errors import InputError, suggest
from lit_hier.io.yaml_files import read_yaml

COMMANDS: Final = ("fit", "validate", "test", "predict")
_HINT: Final = "give a study such as configs/fig8_ensemble.yaml"
_MAX_COMBINATIONS: Final = 1000
_LABEL: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,60}", re.ASCII)  # the name of a folder, too
_ARGUMENT: Final = re.compile(r"[A-Za-z_][\w.]*\+?", re.ASCII)
_SECTIONS: Final = ("runs", "vary", "name", "average", "compare", "correlations")

Arguments = Mapping[str, Any]
"""Values by the dotted name of the argument that they set."""


@dataclass(frozen=True)
class Command:
    """One run of a combination.

    Attributes:
        name: A command of lit-hier's that runs a config.
        configs: Its configs; later ones change values of earlier ones.
        arguments: Arguments besides those of the combination.
    """

    name: str
    configs: tuple[Path, ...]
    arguments: Arguments

    def __str__(self) -> str:
        """Return the command and the names of its configs."""
        return " ".join([self.name, *(config.stem for config in self.configs)])

    def build(self, arguments: Arguments) -> list[str]:
        """Return the command's arguments, with those of a combination, which come last.

        One whose name begins with that of a command, such as `fit.model.init_args.seed`, is for
        this command only.
        """
        configs = [part for path in self.configs for part in ("-c", str(path))]
        given = []
        for name, value in {**self.arguments, **arguments}.items():
            command, _, rest = name.partition(".")
            if command not in COMMANDS:
                given.append(f"--{name}={_write(value)}")
            elif command == self.name:
                given.append(f"--{rest}={_write(value)}")
        return [self.name, *configs, *given]


@dataclass(frozen=True)
class Combination:
    """One choice of a value from each axis.

    Attributes:
        choices: The label of the value, by axis.
        arguments: What the values set.
    """

    choices: Mapping[str, str]
    arguments: Arguments

    @property
    def label(self) -> str:
        """The labels, joined: the name of the combination's folder."""
        return "_".join(self.choices.values())


@dataclass(frozen=True)
class Averages:
    """What is averaged: see `lit_hier.results.average_tables`.

    Attributes:
        tables: Tables of the last run.
        independent: Axes whose combinations of values are independent units; by default all.
    """

    tables: tuple[str, ...]
    independent: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """What is laid over each other: see `lit_hier.results.compare_runs`.

    Attributes:
        tables: Tables of the last run.
        panels: The axis with a row of panels per value.
        lines: The axis with a line per value.
        theory: The table whose theory is drawn; empty for each table's own.
    """

    tables: tuple[str, ...]
    panels: str
    lines: str
    theory: str


@dataclass(frozen=True)
class Study:
    """An experiment that is run once for each combination of values.

    Attributes:
        name: Results are in `logs/{name}`.
        commands: The runs of each combination, in order.
        axes: What varies: arguments by label, by axis.
        averages: What is averaged over combinations, if anything.
        comparison: What is laid over each other, if anything.
        correlations: The axis whose runs' correlated changes are put side by side; empty for none.
    """

    name: str
    commands: tuple[Command, ...]
    axes: Mapping[str, Mapping[str, Arguments]]
    averages: Averages | None = None
    comparison: Comparison | None = None
    correlations: str = ""
    combinations: tuple[Combination, ...] = field(init=False)

    def __post_init__(self) -> None:
        """List the combinations, the last axis varying fastest."""
        object.__setattr__(self, "combinations", tuple(self._combine()))

    def _combine(self) -> Iterator[Combination]:
        for values in product(*(axis.items() for axis in self.axes.values())):
            choices = dict(zip(self.axes, (label for label, _ in values), strict=True))
            merged: dict[str, Any] = {}
            for _, arguments in values:
                merged.update(arguments)
            yield Combination(choices, merged)

    def covering(self) -> list[Combination]:
        """Choose combinations that have every value of every axis."""
        num = max(len(axis) for axis in self.axes.values())
        labels = [
            {name: list(axis)[k % len(axis)] for name, axis in self.axes.items()}
            for k in range(num)
        ]
        return [x for x in self.combinations if x.choices in labels]


def read_study(path: Path) -> Study:
    """Read the file of a study; paths in it are relative to its folder.

    Raises:
        InputError: It cannot be read, or something in it is not what a study has; the place is
            named.
    """
    content = _mapping(read_yaml(path, "config", _HINT), "study", _SECTIONS, ("runs", "vary"))
    name = _label(content.get("name", path.stem), "name")
    axes = {
        _label(axis, "vary"): {
            _label(label, f"vary.{axis}"): _arguments(value, f"vary.{axis}.{label}")
            for label, value in _mapping(values, f"vary.{axis}").items()
        }
        for axis, values in _mapping(content["vary"], "vary").items()
    }
    _check_axes(axes)
    runs = content["runs"]
    if not isinstance(runs, list) or not runs:
        raise InputError("runs: give a list, such as [{command: predict, config: fig8.yaml}]")
    commands = tuple(_command(run, f"runs[{k}]", path.parent) for k, run in enumerate(runs))
    others = set(COMMANDS) - {command.name for command in commands}
    for argument in {x for values in axes.values() for given in values.values() for x in given}:
        if argument.partition(".")[0] in others:
            raise InputError(
                f"vary: {argument} is for a command that is not in runs; give one of"
                f" {', '.join(command.name for command in commands)}"
            )
    return Study(
        name,
        commands,
        axes,
        _averages(content["average"], axes) if "average" in content else None,
        _comparison(content["compare"], axes) if "compare" in content else None,
        _correlations(content["correlations"], axes) if "correlations" in content else "",
    )


def _check_axes(axes: Mapping[str, Mapping[str, Arguments]]) -> None:
    """Check that combinations have folders, values and arguments of their own."""
    num = math.prod(map(len, axes.values()))
    if num > _MAX_COMBINATIONS:
        raise InputError(f"vary: it has {num} combinations; give at most {_MAX_COMBINATIONS}")
    owners: dict[str, str] = {}
    for axis, values in axes.items():
        for argument in {name for arguments in values.values() for name in arguments}:
            if owners.setdefault(argument, axis) != axis:
                raise InputError(
                    f"vary: {owners[argument]} and {axis} both set {argument}; leave it to one"
                )
    labels = ["_".join(choice) for choice in product(*axes.values())]
    if repeated := {label for label in labels if labels.count(label) > 1}:
        raise InputError(
            f"vary: two combinations have the label {min(repeated)}; change a label of theirs"
        )


def _command(value: Any, place: str, folder: Path) -> Command:
    given = _mapping(value, place, ("command", "config", "arguments"), ("command", "config"))
    name = _choice(given["command"], f"{place}.command", COMMANDS)
    names = _texts(given["config"], f"{place}.config")
    configs = [Path(folder, config).absolute() for config in names]
    for config, path in zip(names, configs, strict=True):
        if not path.is_file():
            raise InputError(
                f"{place}.config: there is no file {config} in {folder}; give a path relative to"
                " the study"
            )
    arguments = given.get("arguments", {})
    return Command(name, tuple(configs), _arguments(arguments, f"{place}.arguments"))


def _averages(value: Any, axes: Collection[str]) -> Averages:
    given = _mapping(value, "average", ("tables", "independent"), ("tables",))
    independent = given.get("independent", list(axes))
    place = "average.independent"
    return Averages(
        _texts(given["tables"], "average.tables"),
        tuple(_choice(axis, place, axes) for axis in _texts(independent, place)),
    )


def _comparison(value: Any, axes: Collection[str]) -> Comparison:
    needed = ("tables", "panels", "lines")
    given = _mapping(value, "compare", (*needed, "theory"), needed)
    panels, lines = (_choice(_text(given, x), f"compare.{x}", axes) for x in needed[1:])
    if {panels, lines} != set(axes) or panels == lines:
        raise InputError(
            f"compare: panels is {panels} and lines {lines}, but vary has {', '.join(axes)};"
            " compare needs two axes, one for each"
        )
    theory = _text(given, "theory") if "theory" in given else ""
    return Comparison(_texts(given["tables"], "compare.tables"), panels, lines, theory)


def _correlations(value: Any, axes: Collection[str]) -> str:
    axis = _choice(value, "correlations", axes)
    if len(axes) > 1:
        raise InputError(f"correlations: vary has {', '.join(axes)}; leave only {axis}")
    return axis


def _mapping(
    value: Any, place: str, known: Sequence[str] = (), required: Sequence[str] = ()
) -> dict[Any, Any]:
    """Check that a value is a mapping, with these keys if any are given."""
    if not isinstance(value, dict) or not value:
        raise InputError(f"{place}: {value!r:.60} is not a mapping; {_HINT}")
    for key in value:
        if known and key not in known:
            near = suggest(str(key), known)
            raise InputError(f"{place}: no such key {key!s:.60}{near}; it has {', '.join(known)}")
    for key in required:
        if key not in value:
            raise InputError(f"{place}: {key} is missing; {_HINT}")
    return value


def _label(value: Any, place: str) -> str:
    if not isinstance(value, str | int) or not _LABEL.fullmatch(str(value)) or value == "theory":
        raise InputError(
            f"{place}: {value!r:.60} cannot name a folder; give letters, digits, dots, - and _"
        )
    return str(value)


def _choice(value: Any, place: str, known: Collection[str]) -> str:
    if value not in known:
        near = suggest(str(value), known)
        raise InputError(f"{place}: {value!s:.60}{near} is not one of {', '.join(known)}")
    return str(value)


def _texts(value: Any, place: str) -> tuple[str, ...]:
    """Return the texts of a list; one text is a list of one."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(x, str) for x in texts):
        raise InputError(f"{place}: {value!r:.60} is not a list of names; give at least one")
    return tuple(texts)


def _text(given: Mapping[str, Any], key: str) -> str:
    """Return the one name that a key of `compare` has."""
    names = _texts(given[key], f"compare.{key}")
    if len(names) > 1:
        raise InputError(f"compare.{key}: {given[key]!r:.60} is not one name; give one")
    return names[0]


def _arguments(value: Any, place: str) -> Arguments:
    if value == {}:
        return {}
    for name in (arguments := _mapping(value, place)):
        if not isinstance(name, str) or not _ARGUMENT.fullmatch(name):
            raise InputError(
                f"{place}: {name!r:.60} is not an argument; give a dotted name, such as"
                " data.init_args.seed"
            )
    return arguments


def _write(value: Any) -> str:
    """Write a value so that a command reads the same one."""
    if isinstance(value, str):
        try:
            if yaml.safe_load(value) == value:
                return value
        except yaml.YAMLError:
            pass
    return json.dumps(value, default=str)
