"""A tree over classes, such as WordNet's over ImageNet's, read from a file.

The file has a line `parent child` for each edge, as ImageNet's `wordnet.is_a.txt` does; a comma
may stand between them. A node may have several parents: the shortest way to the root counts, and
of equally short ones the first in the file.
"""

from collections.abc import Sequence
from os import PathLike

import torch
from torch import Tensor

from lit_hier.errors import InputError
from lit_hier.io.safe_read import read_file


def read_hierarchy(path: str | PathLike[str], classes: Sequence[str]) -> Tensor:
    """Read which classes are one at each depth of a tree.

    Args:
        path: The file.
        classes: Names of the classes, in the order of their numbers.

    Returns:
        For each depth, from one below the root to one above the deepest class, the number of each
        class's ancestor at that depth: classes of one number are one. A class that is not so deep
        stands for itself. int64, shape (depths, classes).

    Raises:
        InputError: There is no such file, it is no tree, or a class is not in it.
    """
    parents = _read_parents(path)
    ways = []
    for name in classes:
        if name not in parents:
            raise InputError(f"hierarchy: {path} has no class {name!r}, which the data have")
        ways.append(_way_down(name, parents, path))
    depths = range(1, max(map(len, ways), default=1) - 1)
    numbers = {node: k for k, node in enumerate(parents)}
    rows = [[numbers[way[min(depth, len(way) - 1)]] for way in ways] for depth in depths]
    return torch.tensor(rows, dtype=torch.int64).view(len(depths), len(classes))


def _read_parents(path: str | PathLike[str]) -> dict[str, list[str]]:
    """Read the parents of every node."""
    try:
        lines = read_file(path).decode().splitlines()
    except OSError as error:
        raise InputError(f"hierarchy: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"hierarchy: {path} is not text") from error
    parents: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        words = line.replace(",", " ").split()
        if not words:
            continue
        if len(words) != 2:
            raise InputError(
                f"hierarchy: line {number} of {path} is {line[:60]!r}; give `parent child`"
            )
        parent, child = words
        parents.setdefault(parent, [])
        parents.setdefault(child, []).append(parent)
    return parents


def _way_down(
    name: str, parents: dict[str, list[str]], path: str | PathLike[str]
) -> tuple[str, ...]:
    """Find the shortest way from a root down to a node."""
    ways: list[tuple[str, ...]] = [(name,)]
    seen = {name}
    for way in ways:
        if not parents[way[0]]:
            return way
        for parent in parents[way[0]]:
            if parent not in seen:
                seen.add(parent)
                ways.append((parent, *way))
    raise InputError(f"hierarchy: {path} has a circle above {name!r}; give a tree")
