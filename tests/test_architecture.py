"""The direction of imports between folders and between files."""

import ast
import importlib
from graphlib import CycleError, TopologicalSorter
from types import FunctionType

from conftest import ROOT

# A part may import parts of its own row and of the rows above.
LAYERS = (
    {"errors", "streams", "io", "triton_support"},
    {"rhm", "processes", "clock", "metrics", "gaussian", "figures"},
    {"inference", "diffusion", "nn"},
    {"data"},
    {"modules"},
    {"callbacks"},
    {"results", "cli"},
    {"experiment", "__main__"},
)
RANKS = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
FRAMEWORKS = ("jsonargparse", "lightning_fabric", "pytorch_lightning", "torchmetrics")
WITHOUT_LIGHTNING = {"errors", "streams", "triton_support", "rhm", "processes", "metrics",
                     "gaussian", "figures", "inference", "diffusion", "nn"}  # fmt: skip
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in (ROOT / "lit_hier", ROOT / "lit_hier" / "callbacks")
    for path in sorted(folder.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def imports(name: str) -> set[str]:
    """Return the modules that a file imports anywhere, including for type checking."""
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
    """Return whether a name is private: neither public nor a `__dunder__`."""
    return name.startswith("_") and not name.endswith("_")


def test_no_file_uses_a_private_name_of_a_library() -> None:
    """Neither attributes of objects, nor inherited ones, nor names or modules to import."""
    own = defined_names() | {"_fields", "_asdict", "_replace"}  # of a NamedTuple: documented
    own |= {"_exit", "_current_frames"}  # of `os` and `sys`: documented
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


def test_no_class_overrides_a_private_method_of_lightning_or_jsonargparse() -> None:
    found = []
    for name in FILES.keys() - {"lit_hier.noise", "lit_hier.__main__"}:
        for kind in vars(importlib.import_module(name)).values():
            if not isinstance(kind, type) or kind.__module__ != name:
                continue
            methods = {key for key, value in vars(kind).items() if isinstance(value, FunctionType)}
            for base in kind.__mro__[1:]:
                if base.__module__.startswith(FRAMEWORKS):
                    inherited = methods & vars(base).keys()
                    found += [f"{kind.__qualname__}.{key}" for key in inherited if is_private(key)]
    assert not found
