"""Configuration of the documentation: `make docs` builds it, without the network."""

import inspect
import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from sphinx.application import Sphinx

import lit_hier

sys.path.insert(0, str(Path(__file__).parent))
from public_names import list_public

project = "lit-hier"
author = "The lit-hier authors"
copyright = author
version = release = lit_hier.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "examples"]
templates_path = ["_templates"]

html_theme = "furo"
html_title = f"lit-hier {release}"
html_show_copyright = False
html_static_path: list[str] = []

# Notebooks are saved with their outputs, and the tests run them.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
copybutton_prompt_text = "$ "

autosummary_generate = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_use_ivar = True


def list_documented(module: str) -> list[tuple[str, str]]:
    """List the public names of a module, each with the directive that documents it."""
    package = import_module(module)
    return [(_choose_directive(getattr(package, name)), name) for name in list_public(module)]


def _choose_directive(value: object) -> str:
    if isinstance(value, ModuleType):
        return ""  # it has its own page
    if inspect.isclass(value):
        return "autoexception" if issubclass(value, Exception) else "autoclass"
    return "autofunction" if inspect.isroutine(value) else "autodata"


def escape_shapes(
    app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """Escape what a docstring means literally.

    These are the star in `(B, *shape)`, the bars of `|k|`, and a letter such as `v.` that begins a
    description, which is not the number of a list.
    """
    for number, line in enumerate(lines):
        if ":math:" not in line:
            escaped = re.sub(r"(?<=[\s(,'\"])\*(?=\w+[\s,)'\"])", r"\\*", line)
            escaped = re.sub(r"^(\s*:\w+ \w+:) ([a-zA-Z])\.", r"\1 \\\2.", escaped)
            lines[number] = re.sub(r"(?<!`)\|(\w)\|", r"\\|\1\\|", escaped)


def setup(app: Sphinx) -> None:
    """Register the handler above, after napoleon's."""
    app.connect("autodoc-process-docstring", escape_shapes, priority=900)


suppress_warnings = [
    "config.cache",  # of the function in autosummary_context
    "ref.python",  # attributes of several classes may have one name
]
autosummary_context = {"list_documented": list_documented}
