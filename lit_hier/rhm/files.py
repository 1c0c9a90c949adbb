"""A grammar's rules as a file that people can read and write.

The file is YAML (JSON is YAML too) with one key, `rules`: one entry per level, leaves first, each
a list over the symbols of the level above of their m tuples of s symbols:

.. code-block:: yaml

    rules:
    - [[[0, 1], [1, 1]], [[1, 0], [0, 0]]]   # level 0: what symbols 0 and 1 of level 1 make
    - [[[0, 0], [1, 1]], [[0, 1], [1, 0]]]   # level 1: what classes 0 and 1 make
"""

import json
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import yaml

from lit_hier.errors import InputError
from lit_hier.io.safe_read import read_file
from lit_hier.rhm.grammar import RandomHierarchyModel


class _PlainLoader(yaml.SafeLoader):
    """Knows no aliases: a few lines of them stand for more values than any memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Make a node of what comes next."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("rules have no aliases")
        return super().compose_node(parent, index)


def read_rules(path: str | PathLike[str]) -> RandomHierarchyModel:
    """Read a grammar from a file of rules.

    Raises:
        InputError: There is no such file, or what it holds is no grammar.
    """
    try:
        content = yaml.load(read_file(path).decode(), Loader=_PlainLoader)
    except OSError as error:
        raise InputError(f"path: cannot read rules from {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"path: {path} is not YAML: {reason}") from error
    if not isinstance(content, dict) or not isinstance(content.get("rules"), list):
        raise InputError(f"path: {path} has no list `rules`, one entry per level, leaves first")
    try:
        return RandomHierarchyModel.from_rules(content["rules"], content.get("num_features"))
    except InputError as error:
        raise InputError(f"path: {path}: {error}") from error


def write_rules(rhm: RandomHierarchyModel, path: str | PathLike[str]) -> None:
    """Write a grammar's rules to a file that `read_rules` reads back."""
    levels = (json.dumps(torch.as_tensor(rule).tolist()) for rule in rhm.rules)
    text = f"num_features: {rhm.num_features}\nrules:\n" + "".join(f"- {x}\n" for x in levels)
    Path(path).write_text(text, encoding="utf-8")


class RulesFromFile(RandomHierarchyModel):
    """A grammar whose rules are read from a file: the class to name in a config.

    Args:
        path: YAML or JSON file; `lit_hier.rhm.files` describes the format.

    Raises:
        InputError: There is no such file, or what it holds is no grammar.
    """

    def __init__(self, path: str) -> None:
        grammar = read_rules(path)
        self._adopt(grammar.rules, grammar.num_features)
