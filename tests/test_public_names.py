"""What `import lit_hier` offers, and that the package imports on other systems."""

import pkgutil
import subprocess
import sys

import pytest

import lit_hier


def test_importing_the_package_imports_no_torch() -> None:
    program = (
        "import sys, lit_hier, lit_hier.cli.own_commands; print(dir(lit_hier));"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    names, has_torch = done.stdout.splitlines()
    assert has_torch == "False", done.stderr
    assert all(repr(name) in names for name in (*lit_hier.__all__, "__version__"))


@pytest.mark.parametrize("name", lit_hier.__all__)
def test_every_public_name_is_a_class_with_a_docstring(name: str) -> None:
    value = getattr(lit_hier, name)
    assert value.__name__ == name
    assert value.__doc__
    assert name in dir(lit_hier)


def test_no_public_name_is_that_of_a_submodule() -> None:
    submodules = {module.name for module in pkgutil.iter_modules(lit_hier.__path__)}
    assert submodules >= {"callbacks", "cli", "inference", "processes"}
    assert submodules.isdisjoint(lit_hier.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'BeliefPropagator'"):
        _ = lit_hier.BeliefPropagator


def test_an_old_name_is_answered_by_the_new_one() -> None:
    with pytest.raises(ImportError, match=r"DDPMTrainer.*: it was renamed; write DDPMTask$"):
        from lit_hier.modules import DDPMTrainer  # noqa: F401
    with pytest.raises(AttributeError, match=r"no attribute 'DDPMTrainers'$"):
        _ = lit_hier.modules.DDPMTrainers


@pytest.mark.slow
def test_every_module_imports_without_what_only_unix_has() -> None:
    """The libraries are imported first: only this package's own imports are tested."""
    program = """
import importlib, os, pkgutil, signal, sys
import diffusers, filelock, matplotlib.pyplot, pandas, pytorch_lightning.cli, scipy.io, sklearn
import scipy.stats, sklearn.datasets, timm, torch.utils.tensorboard, torchvision
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for module, name in ((os, "getuid"), (os, "geteuid"), (os, "fork"), (signal, "pthread_kill"),
                     (signal, "SIGALRM"), (signal, "SIGKILL")):
    delattr(module, name)
import lit_hier
names = [found.name for found in pkgutil.walk_packages(lit_hier.__path__, "lit_hier.")
         if found.name not in ("lit_hier.noise",)]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60
