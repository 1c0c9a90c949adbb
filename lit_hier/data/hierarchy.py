"""A tree over classes, such as WordNet over the classes of ImageNet, read from a file.

The file has one line `parent child` for each edge, like ImageNet's `wordnet.is_a.txt`; a tab or a
comma may separate the two, so that names may have blanks. Names in other Unicode forms are equal.
If a node has several parents, its shortest path to a root is used, and of equally short paths the
first in the file.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Final

import torch
from torch import Tensor

from lit_hier.data.classes import normalize
from lit_hier.errors import InputError
from lit_hier.io.safe_read import read_file, reading

_MAX_SIZE: Final = 2**24  # bytes of a file; all of WordNet has an eighth
_MAX_DEPTH: Final = 100  # all of WordNet has 20
_HINT: Final = "give lines `parent child`"


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
        InputError: The file cannot be read or has a malformed line, a class is missing or too
            deep, or there is a cycle.
    """
    parents = _read_parents(path)
    depth_of = _measure_depths(parents)
    paths = []
    for name in classes:
        if name not in parents:
            raise InputError(
                f"hierarchy: {path} has no class {name!r:.60}, which the data have; add its edge"
            )
        if name not in depth_of:
            raise InputError(f"hierarchy: {path} has a cycle above {name!r:.60}; give a tree")
        if depth_of[name] > _MAX_DEPTH:
            raise InputError(
                f"hierarchy: class {name!r:.60} of {path} is {depth_of[name]} deep; give a tree of"
                f" at most {_MAX_DEPTH} levels"
            )
        paths.append(_shortest_path(name, parents, depth_of))
    depths = range(1, max(map(len, paths), default=1) - 1)
    index = {node: k for k, node in enumerate(parents)}
    rows = [[index[nodes[min(depth, len(nodes) - 1)]] for nodes in paths] for depth in depths]
    return torch.tensor(rows, dtype=torch.int64).view(len(depths), len(classes))


def _read_parents(path: str | PathLike[str]) -> dict[str, list[str]]:
    """Return the parents of each node."""
    with reading("hierarchy", path, _HINT):
        content = read_file(path, _MAX_SIZE)
        try:
            lines = content.decode().splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"hierarchy: {path} is not UTF-8 text") from error
    parents: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        separator = next((mark for mark in "\t," if line.count(mark) == 1), None)
        words = [normalize(word.strip()) for word in line.split(separator)]
        if not any(words):
            continue
        if len(words) != 2 or not all(words):
            raise InputError(
                f"hierarchy: line {number} of {path} is {line[:60]!r}; give `parent child`"
            )
        parent, child = words
        parents.setdefault(parent, [])
        parents.setdefault(child, []).append(parent)
    return parents


def _measure_depths(parents: dict[str, list[str]]) -> dict[str, int]:
    """Return the edges between each node and the nearest root; none for a node in a cycle."""
    children: dict[str, list[str]] = {}
    for child, above in parents.items():
        for parent in above:
            children.setdefault(parent, []).append(child)
    depths = {node: 0 for node, above in parents.items() if not above}
    queue = list(depths)
    for node in queue:
        for child in children.get(node, ()):
            if child not in depths:
                depths[child] = depths[node] + 1
                queue.append(child)
    return depths


def _shortest_path(
    name: str, parents: dict[str, list[str]], depth_of: dict[str, int]
) -> tuple[str, ...]:
    """Return the shortest path from a root to a node; of several, the first in the file."""
    path = [name]
    while depth := depth_of[path[-1]]:
        above = (node for node in parents[path[-1]] if depth_of.get(node) == depth - 1)
        path.append(next(above))
    return tuple(path[::-1])
