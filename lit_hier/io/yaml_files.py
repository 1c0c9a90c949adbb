"""YAML files as plain values: nothing that a file names is imported or built."""

from os import PathLike
from typing import Any, Final

import yaml

from lit_hier.errors import InputError
from lit_hier.io.safe_read import read_file, reading

_MAX_SIZE: Final = 2**20  # bytes
_MAX_VALUES: Final = 100_000  # an alias counts as all values that it repeats
_MAX_DEPTH: Final = 50  # levels of values


def read_yaml(path: str | PathLike[str], argument: str, hint: str) -> Any:
    """Read a file of plain values.

    Args:
        path: The file, of at most 1 MiB.
        argument: The user's name for the file, for error messages.
        hint: What to do, for error messages.

    Returns:
        Mappings, lists, texts, numbers and dates, at most 100,000, nested at most 50 levels.

    Raises:
        InputError: The file cannot be read, is not such YAML, merges mappings or repeats a key.
    """
    with reading(argument, path, hint, "is not plain YAML"):
        content = read_file(path, _MAX_SIZE)
        try:
            value = yaml.load(content, _Loader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise InputError(
                f"{argument}: {path}, line {line}: {error.problem}; {hint}"
            ) from error
        _count(value, 0)
        return value


class _Loader(yaml.SafeLoader):
    """Builds plain values; rejects merges, which may repeat values without limit."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Check the keys of a mapping."""
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge" or key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r:.60} is not allowed here, or repeated",
                    problem_mark=key.start_mark,
                )
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)


def _count(value: Any, depth: int) -> int:
    """Count values; aliases may make few lines many values, or a cycle."""
    parts: list[Any] = []
    if isinstance(value, dict):
        parts = [*value, *value.values()]
    elif isinstance(value, list):
        parts = value
    num = 1
    for part in parts:
        num += _count(part, depth + 1)
        if num > _MAX_VALUES or depth > _MAX_DEPTH:
            raise ValueError("too many values")
    return num
