"""Imports run one way, and the pure rooms know nothing of Lightning."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

# A room may import from those of lower rank and from itself.
ROOMS = [
    {"errors", "given_files"},
    {"checkpoints", "fourier", "pixels", "streams", "whole_files"},
    {"rhm", "noise", "metrics", "plots"},
    {"gaussian"},
    {"inference", "diffusion", "nn"},
    {"data"},
    {"modules"},
    {"callbacks", "runs"},
    {"cli_errors"},
    {"cli_parser"},
    {"cli"},
    {"__main__"},
]
RANKS = {name: rank for rank, names in enumerate(ROOMS) for name in names}
WITHOUT_LIGHTNING = set.union(*ROOMS[:5])
FILES = [
    path
    for folder in ("lit_hier", "callbacks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != ROOT / "lit_hier" / "__init__.py"
]


def room(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] == "callbacks":
        return "callbacks"
    if parts[0] == "lit_hier":
        return parts[1] if len(parts) > 1 else None
    return None


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            found |= (
                {f"{module}.{alias.name}" for alias in node.names}
                if module == "lit_hier"
                else {module}
            )
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    here = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert here is not None
    for module in imports(path):
        there = room(module)
        if there is not None and there in RANKS and there != here:
            assert RANKS[there] < RANKS[here], module
        if here in WITHOUT_LIGHTNING:
            assert module.partition(".")[0] not in ("pytorch_lightning", "lightning_fabric")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_one_room_each(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300
