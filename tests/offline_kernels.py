"""Compile Triton's kernels for a GPU that is not there; for scripts without the interpreter."""

from types import ModuleType
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class _Driver:
    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


class _Launcher:
    """Compiles a kernel where it would be launched."""

    def __init__(self, kernel: Any, compiled: list[Any]) -> None:
        self._kernel, self._compiled = kernel, compiled

    def __getitem__(self, grid: Any) -> Any:
        grid = grid if isinstance(grid, tuple) else (grid,)
        return lambda *args, **options: self._compiled.append(
            self._kernel.warmup(*args, grid=grid, **options)
        )


def compile_instead(module: ModuleType, names: list[str], capability: int) -> list[Any]:
    """Replace kernels of a module; return the list to which launches add what they compile."""
    driver.set_active(_Driver(capability))
    compiled: list[Any] = []
    for name in names:
        setattr(module, name, _Launcher(getattr(module, name), compiled))
    return compiled
