"""What the documentation shows runs: examples, blocks of code, and commands."""

import argparse
import ast
import pkgutil
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, inside

import lit_hier
from lit_hier.cli import command, main, own_commands

EXAMPLES = sorted((ROOT / "docs/examples").glob("*.py"))
# In the order in which they are read: a block may use what an earlier page made.
PAGES = [
    *(ROOT / name for name in ("README.md", "docs/quickstart.md", "docs/results.md")),
    *sorted((ROOT / "docs").glob("**/*.md")),
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROGRAMS = {"cd", "conda", "git", "lit-hier", "make", "mkdir", "pip", "python3", "source"}
FAST = {"denoiser", "grammar"}


def blocks(*languages: str) -> list[str]:
    pages = dict.fromkeys(PAGES)
    found = [block for page in pages for block in BLOCK.findall(page.read_text())]
    return [text for language, text in found if language in languages]


def shown_commands() -> Iterator[list[str]]:
    """Yield every shell command that a page shows, in words."""
    for text in blocks("console", "bash", ""):
        lines = text.replace("\\\n", " ").splitlines()
        for line in lines:
            words = shlex.split(line.removeprefix("$ "), comments=True)
            part: list[str] = []
            for word in [*words, "&&"]:
                if word != "&&":
                    part.append(word)
                elif part:
                    yield part
                    part = []


def lit_hier_commands() -> list[list[str]]:
    """List the different commands of lit-hier, each with its environment before it."""
    found = {}
    for words in shown_commands():
        if "lit-hier" in words and "install" not in words:
            start = words.index("lit-hier")
            environment = [word for word in words[:start] if re.match(r"[A-Z_]+=", word)]
            arguments = words[start + 1 :]
            if ">" in arguments:
                arguments = arguments[: arguments.index(">")]
            if arguments:
                found[shlex.join([*environment, *arguments])] = [*environment, *arguments]
    return list(found.values())


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=() if path.stem in FAST else pytest.mark.slow) for path in EXAMPLES],
    ids=lambda path: path.stem,
)
@pytest.mark.filterwarnings("ignore:.*close to chance")  # networks are untrained
def test_an_example_is_short_and_runs(path: Path, tmp_path: Path) -> None:
    assert len(path.read_text().splitlines()) < 40
    page = (ROOT / "docs/own/index.md").read_text()
    assert f"```{{literalinclude}} ../examples/{path.name}" in page
    with inside(tmp_path):
        runpy.run_path(str(path), run_name="__main__")
    assert any(tmp_path.iterdir())
    if "Trainer" in path.read_text():
        assert list(tmp_path.glob("logs/*/version_0/*.csv"))


def test_blocks_of_python_run(tmp_path: Path) -> None:
    programs = blocks("python")
    assert len(programs) >= 3
    with inside(tmp_path):
        for program in programs:
            exec(compile(program, "page", "exec"), {})


@pytest.mark.slow
@pytest.mark.parametrize("arguments", lit_hier_commands(), ids=shlex.join)
def test_a_command_that_is_shown_is_valid(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is parsed by the command line, which checks each argument; it stops before it runs."""
    while "=" in arguments[0] and arguments[0][0] != "-":
        name, _, value = arguments[0].partition("=")
        if name == "PYTHONPATH":
            monkeypatch.syspath_prepend(ROOT / "docs/examples")
        else:
            monkeypatch.setenv(name, value)
        arguments = arguments[1:]
    named = ROOT / "configs"
    resolved = [
        str(named / f"{Path(word).stem}.yaml") if before == "-c" else word
        for before, word in zip(["", *arguments], arguments, strict=False)
    ]

    if arguments[0] in own_commands.OWN_COMMANDS:
        parser = argparse.ArgumentParser()
        import_module(f"lit_hier.cli.{arguments[0]}").add_arguments(parser)
        parser.parse_args(arguments[1:])
        return

    def stop(self: command.LitHierCLI) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(command.LitHierCLI, "before_instantiate_classes", stop)
    with inside(tmp_path), pytest.raises(SystemExit) as end:
        main(resolved)
    assert end.value.code == 0


def test_programs_and_targets_that_are_shown_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for words in shown_commands():
        program = next(word for word in words if "=" not in word)
        assert program.removeprefix(".venv/bin/") in PROGRAMS | {"srun", "torchrun"}, words
        if program == "make":
            assert f"\n{words[1]}:" in makefile.replace(" test-newest:", "\ntest-newest:"), words


def test_configs_that_are_named_exist() -> None:
    for page in dict.fromkeys(PAGES):
        for name in re.findall(r"lit-hier \w+ -c (?:\S*configs/)?(\w+)", page.read_text()):
            assert name == "CONFIG" or (ROOT / f"configs/{name}.yaml").is_file(), (page, name)


def test_every_public_name_is_in_the_reference() -> None:
    listed = re.findall(r"^   (lit_hier[\w.]*)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    list_public = runpy.run_path(str(ROOT / "docs/public_names.py"))["list_public"]
    documented = {
        id(getattr(import_module(module), name))
        for module in listed
        for name in list_public(module)
    }
    documented |= {id(import_module(module)) for module in listed}
    packages = [info.name for info in pkgutil.iter_modules(lit_hier.__path__) if info.ispkg]
    for package in ("", *(f".{name}" for name in packages)):
        module = import_module(f"lit_hier{package}")
        for name in getattr(module, "__all__", ()):
            assert id(getattr(module, name)) in documented, f"{module.__name__}.{name}"


def test_pages_link_to_what_exists() -> None:
    for page in [*dict.fromkeys(PAGES), ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), (page, target)


def test_the_citation_is_of_this_version_and_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == lit_hier.__version__
    assert citation["license"] == project["license"]
    (author,) = project["authors"]
    assert citation["authors"] == [author]
    assert author["name"].removeprefix("The ") in (ROOT / "LICENSE").read_text()


def test_the_package_page_has_no_relative_links() -> None:
    """`read_readme` is run without the call of `setup` that follows it."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    wanted = [
        node
        for node in tree.body
        if (isinstance(node, ast.FunctionDef) and node.name == "read_readme")
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "RELATIVE_LINK")
        or (isinstance(node, ast.Import) and node.names[0].name in ("re", "tomllib"))
    ]
    names = {"ROOT": ROOT}
    exec(compile(ast.Module(wanted, []), "setup.py", "exec"), names)
    text = names["read_readme"]()
    assert len(text) > 2000
    assert not re.search(r"\]\((?!https?:|#)", text)
