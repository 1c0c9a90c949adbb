"""Imports run one way between folders, never in a cycle between files; some know no Lightning."""

import ast
from graphlib import CycleError, TopologicalSorter

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
