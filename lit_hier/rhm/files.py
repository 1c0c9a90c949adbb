"""Files of rules: a grammar as YAML or JSON.

The key `rules` lists the levels, leaves first. A level lists, for each symbol of the level above,
its m tuples of s symbols. The optional key `num_features` is v:

.. code-block:: yaml

    rules:
    - [[[0, 1], [1, 1]], [[1, 0], [0, 0]]]   # level 0: the tuples of symbols 0 and 1 of level 1
    - [[[0, 0], [1, 1]], [[0, 1], [1, 0]]]   # level 1: the tuples of classes 0 and 1
"""

import json
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import yaml

from lit_hier.errors import InputError, one_line
from lit_hier.io.safe_read import read_file, reading
from lit_hier.rhm.grammar import RandomHierarchyModel


class _PlainLoader(yaml.SafeLoader):
    """Rejects aliases: a few lines of them can stand for more values than fit into memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose the next node; raise if it is an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


def read_rules(path: str | PathLike[str]) -> RandomHierarchyModel:
    """Read a grammar from a file of rules.

    Raises:
        InputError: The file cannot be read, is not plain YAML or does not define an RHM.
    """
    try:
        with reading("path", path, "give a file of rules"):
            text = read_file(path)
        content = yaml.load(text.decode(), Loader=_PlainLoader)
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"path: {path} is not plain YAML: {one_line(error)}") from error
    if not isinstance(content, dict) or not isinstance(content.get("rules"), list):
        raise InputError(f"path: {path} has no list `rules`, one entry per level, leaves first")
    try:
        return RandomHierarchyModel.from_rules(content["rules"], content.get("num_features"))
    except InputError as error:
        raise InputError(f"path: {path}: {error}") from error


def write_rules(rhm: RandomHierarchyModel, path: str | PathLike[str]) -> None:
    """Write a grammar's rules to a file, from which `read_rules` reads the same grammar."""
    levels = (json.dumps(torch.as_tensor(rule).tolist()) for rule in rhm.rules)
    text = f"num_features: {rhm.num_features}\nrules:\n" + "".join(f"- {x}\n" for x in levels)
    Path(path).write_text(text, encoding="utf-8")


class RulesFromFile(RandomHierarchyModel):
    """A grammar with its rules from a file, for use in configs.

    Args:
        path: YAML or JSON file in the format that `lit_hier.rhm.files` describes.

    Raises:
        InputError: The file cannot be read, is not plain YAML or does not define an RHM.
    """

    def __init__(self, path: str) -> None:
        grammar = read_rules(path)
        self._set_rules(grammar.rules, grammar.num_features)
