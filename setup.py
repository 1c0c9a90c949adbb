"""Build the native kernel of belief propagation and the package page's text.

pyproject.toml has everything else. The kernel is optional: where it cannot be built, the package
installs without it.
"""

import platform
import re
import runpy
import tomllib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
PACKAGE = "lit_hier/inference"
SOURCES = runpy.run_path(str(ROOT / PACKAGE / "kernel_sources.py"))
# A link to a file of the repository, `!` first if it is a picture; its text holds no bracket.
RELATIVE_LINK = re.compile(r"(!?)\[([^][]*)\]\((?![a-z]+:|#)([^)\s]*)\)")


class BuildKernel(build_ext):
    """Build shared libraries that ctypes loads: they do not use Python's C interface."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return a file name without the tag of a Python version."""
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Give each variant its own folder of objects: their sources have the same names."""
        build_temp = self.build_temp
        self.build_temp = str(Path(build_temp, ext.name))
        try:
            super().build_extension(ext)
        finally:
            self.build_temp = build_temp


class PlatformWheel(bdist_wheel):
    """A wheel for one platform and any version of Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return a tag of any Python 3 on this platform."""
        return "py3", "none", super().get_tag()[2]


def extensions() -> list[Extension]:
    """List the kernel's variants for this machine's architecture."""
    on_x86 = platform.machine().lower() in ("x86_64", "amd64")
    files = [f"{PACKAGE}/native/{path.name}" for path in SOURCES["source_files"]()]
    return [
        Extension(
            f"lit_hier.inference.native.kernel_{variant}",
            sources=[name for name in files if name.endswith(".c")],
            depends=[*files, "setup.py", f"{PACKAGE}/kernel_sources.py"],
            define_macros=[("SOURCE_DIGEST", SOURCES["source_digest"]())],
            extra_compile_args=[*SOURCES["FLAGS"], *instructions],
            optional=True,
        )
        for variant, instructions in SOURCES["VARIANTS"].items()
        if on_x86 or not instructions
    ]


def read_readme() -> str:
    """Read the README; links to files become absolute, or plain text if there is no address.

    The address is `Source` in `project.urls`.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address = project["urls"].get("Source", "").rstrip("/")
    link = rf"\1[\2]({address}/\3)" if address else r"\2"
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for _ in range(2):  # the picture in a link is replaced first, and then the link
        text = RELATIVE_LINK.sub(link, text)
    return text


setup(
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildKernel, "bdist_wheel": PlatformWheel},
)
