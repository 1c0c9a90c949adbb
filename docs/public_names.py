"""The public names of a module: what `__all__` lists, or if there is none, what it defines."""

from importlib import import_module


def list_public(module: str) -> list[str]:
    """List the public names of a module, given its full name."""
    package = import_module(module)
    defined = [
        name
        for name, value in vars(package).items()
        if name[0] != "_" and getattr(value, "__module__", None) == module
    ]
    return list(getattr(package, "__all__", defined))
