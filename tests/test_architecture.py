"""The direction of imports between folders and between files."""

import ast
from graphlib import CycleError, TopologicalSorter

from conftest import ROOT

# A part may import parts of its own row and of the rows above.
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
    """Return the modules that a file imports anywhere in it, also for type checking."""
    modules = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            module = node.module or ""
            names = {f"{module}.{alias.name}" for alias in node.names}
            submodules = names & FILES.keys()
            modules |= submodules | ({module} if names - submodules else set())
    return modules


IMPORTS = {name: imports(name) for name in FILES}


def part(name: str) -> str:
    """Return the folder or file directly below lit_hier."""
    return name.split(".")[1]


def test_imports_between_files_have_no_cycle() -> None:
    graph = {name: IMPORTS[name] & FILES.keys() - {name} for name in FILES}
    cycle: list[str] = []
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle = error.args[1]
    assert not cycle, " <- ".join(cycle)


def test_imports_between_folders_run_one_way() -> None:
    against = [
        f"{name} imports {module}"
        for name in FILES.keys() - {"lit_hier"}
        for module in IMPORTS[name] & FILES.keys() - {"lit_hier"}
        if RANKS[part(module)] > RANKS[part(name)]
    ]
    assert not against, "\n".join(sorted(against))


def test_core_packages_do_not_import_lightning() -> None:
    against = [
        f"{name} imports {module}"
        for name in FILES.keys() - {"lit_hier"}
        for module in IMPORTS[name]
        if part(name) in WITHOUT_LIGHTNING
        and module.partition(".")[0] in ("pytorch_lightning", "lightning_fabric")
    ]
    assert not against, "\n".join(sorted(against))
