"""The Random Hierarchy Model: rules, sampling, parsing, counting, files, ensembles."""

from lit_hier.rhm.encoding import whitened_one_hot
from lit_hier.rhm.ensemble import GrammarEnsemble
from lit_hier.rhm.files import RulesFromFile, read_rules, write_rules
from lit_hier.rhm.grammar import Grammars, RandomHierarchyModel, Tree
from lit_hier.rhm.parameters import GrammarParameters

__all__ = [
    "GrammarEnsemble",
    "GrammarParameters",
    "Grammars",
    "RandomHierarchyModel",
    "RulesFromFile",
    "Tree",
    "read_rules",
    "whitened_one_hot",
    "write_rules",
]
