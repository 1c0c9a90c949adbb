"""A tree over classes, such as WordNet over the classes of ImageNet, read from a file.

The file has one line `parent child` for each edge, like ImageNet's `wordnet.is_a.txt`; a comma may
separate the two. If a node has several parents, its shortest path to a root is used, and of
equally short paths the first in the file.
"""

from collections.abc import Sequence
from os import PathLike

import torch
from torch import Tensor

from lit_hier.errors import InputError
from lit_hier.io.safe_read import read_file


def read_hierarchy(path: str | PathLike[str], classes: Sequence[str]) -> Tensor:
    """Read the ancestors of classes at each depth of a tree.

    Args:
        path: The file.
        classes: Names of the classes, by label.

    Returns:
        For each depth, from one below the root to one above the deepest class, the index of each
        class's ancestor at that depth; classes with the same ancestor have the same index. A
        class that is less deep is its own ancestor. int64, shape (depths, classes).

    Raises:
        InputError: The file cannot be read or has a malformed line, a class is missing, or there
            is a cycle.
    """
    parents = _read_parents(path)
    paths = []
    for name in classes:
        if name not in parents:
            raise InputError(
                f"hierarchy: {path} has no class {name!r}, which the data have; add its edge"
            )
        paths.append(_shortest_path(name, parents, path))
    depths = range(1, max(map(len, paths), default=1) - 1)
    index = {node: k for k, node in enumerate(parents)}
    rows = [[index[nodes[min(depth, len(nodes) - 1)]] for nodes in paths] for depth in depths]
    return torch.tensor(rows, dtype=torch.int64).view(len(depths), len(classes))


def _read_parents(path: str | PathLike[str]) -> dict[str, list[str]]:
    """Return the parents of each node."""
    try:
        lines = read_file(path).decode().splitlines()
    except OSError as error:
        raise InputError(f"hierarchy: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"hierarchy: {path} is not UTF-8 text") from error
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


def _shortest_path(
    name: str, parents: dict[str, list[str]], path: str | PathLike[str]
) -> tuple[str, ...]:
    """Return the shortest path from a root to a node, by breadth-first search."""
    queue: list[tuple[str, ...]] = [(name,)]
    visited = {name}
    for nodes in queue:
        if not parents[nodes[0]]:
            return nodes
        for parent in parents[nodes[0]]:
            if parent not in visited:
                visited.add(parent)
                queue.append((parent, *nodes))
    raise InputError(f"hierarchy: {path} has a cycle above {name!r}; give a tree")
