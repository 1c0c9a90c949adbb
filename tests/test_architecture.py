"""Imports run one way between folders, never in a cycle between files; some know no Lightning."""

import ast
import importlib
from graphlib import CycleError, TopologicalSorter
from types import FunctionType

import pytest
from conftest import ROOT

# What a part may import: parts further up, and its own row.
LAYERS = (
    {"errors", "streams", "io"},
    {"rhm", "processes", "metrics", "gaussian", "figures"},
    {"inference", "diffusion", "nn"},
    {"data"},
    {"modules"},
    {"callbacks"},
    {"results", "cli"},
    {"__main__"},
)
RANKS = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
WITHOUT_LIGHTNING = {"errors", "streams", "rhm", "processes", "metrics", "gaussian", "figures",
                     "inference", "diffusion", "nn"}  # fmt: skip
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in (ROOT / "lit_hier", ROOT / "lit_hier" / "callbacks")
    for path in sorted(folder.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def imports(name: str) -> set[str]:
    """List the modules that a file imports anywhere in it, for type checking too."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            module = node.module or ""
            inner = {f"{module}.{alias.name}" for alias in node.names}
            submodules = inner & FILES.keys()
            found |= submodules | ({module} if inner - submodules else set())
    return found


def part(name: str) -> str:
    """Give the first folder or file below lit_hier."""
    return name.split(".")[1]


def test_files_import_each_other_in_no_cycle() -> None:
    graph = {name: imports(name) & FILES.keys() - {name} for name in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a cycle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"lit_hier"}))
def test_imports_run_one_way(name: str) -> None:
    for module in imports(name):
        if module in FILES and module != "lit_hier":
            assert RANKS[part(module)] <= RANKS[part(name)], module
        if part(name) in WITHOUT_LIGHTNING:
            assert module.partition(".")[0] not in ("pytorch_lightning", "lightning_fabric")


def defined_names() -> set[str]:
    """List the private names that the package defines: functions, attributes, variables."""
    names = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names |= {node.attr} if ast.unparse(node.value) in ("self", "cls") else set()
    return names


def is_private(name: str) -> bool:
    """Tell a private name from a public one and from `__dunder__`."""
    return name.startswith("_") and not name.endswith("_")


def test_no_file_uses_a_private_name_of_a_library() -> None:
    """Neither attributes of objects, nor inherited ones, nor names or modules to import."""
    own = defined_names() | {"_fields", "_asdict", "_replace"}  # of a NamedTuple: documented
    found = []
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Attribute) and node.attr not in own:
                names = [node.attr]
            elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(
                "lit_hier"
            ):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [part for alias in node.names for part in alias.name.split(".")]
            found += [f"{file}:{node.lineno} {name}" for name in names if is_private(name)]
    assert not found


def test_no_class_overrides_a_private_method_of_a_library() -> None:
    found = []
    for name in FILES.keys() - {"lit_hier.noise", "lit_hier.__main__"}:
        for kind in vars(importlib.import_module(name)).values():
            if not isinstance(kind, type) or kind.__module__ != name:
                continue
            methods = {key for key, value in vars(kind).items() if isinstance(value, FunctionType)}
            for base in kind.__mro__[1:]:
                if not base.__module__.startswith("lit_hier"):
                    inherited = methods & vars(base).keys()
                    found += [f"{kind.__qualname__}.{key}" for key in inherited if is_private(key)]
    assert not found
