"""Build the native kernel of belief propagation; pyproject.toml has everything else.

The kernel is optional: where it cannot be built, the package installs without it.
"""

import platform
import runpy
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

PACKAGE = "lit_hier/inference"
SOURCES = runpy.run_path(str(Path(__file__).parent / PACKAGE / "kernel_sources.py"))


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


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildKernel, "bdist_wheel": PlatformWheel},
)
