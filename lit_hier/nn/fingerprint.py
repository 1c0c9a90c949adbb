"""A digest of what determines a network's output, as a key for results that are saved."""

import builtins
import enum
import functools
import hashlib
import inspect
import sys
import sysconfig
import types
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

_LIBRARIES: Final = {"diffusers", "lit_hier", "timm", "torch", "torchvision"}
_MAX_VALUES: Final = 100_000  # visited in all; a network's own code and state have far fewer
# Attributes of torch's and diffusers' modules that follow from others or do not matter.
_BOOKKEEPING: Final = {
    *vars(nn.Module()),
    "_from_deprecated_attn_block",
    "_gradient_checkpointing_func",
    "_internal_dict",
    "_reversed_padding_repeated_twice",
}
_HOOKS: Final = ("_forward_pre_hooks", "_forward_hooks")
_INSTALLED: Final = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib")} | {
    sysconfig.get_path(kind) for kind in ("purelib", "platlib")
}
_FUNCTIONS: Final = types.FunctionType | types.MethodType | functools.partial


def fingerprint(network: nn.Module) -> str:
    """Return the SHA-256, in hexadecimal digits, of a network's architecture and weights.

    It covers the classes of all modules and their hooks; their parameters, buffers and other
    attributes, private ones too; and all code that is not a library's: of the modules' classes and
    their base classes, and of what that code refers to, by global names, closures, decorators,
    defaults and attributes. A library is covered by its version.
    """
    digest = hashlib.sha256(_source(type(network)).encode())
    kinds = dict.fromkeys(type(module) for module in network.modules())
    for kind in kinds:
        if kind is not type(network) and kind.__module__.partition(".")[0] not in _LIBRARIES:
            digest.update(_source(kind).encode())
    attributes: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        kind = type(module)
        public = {key: value for key, value in vars(module).items() if key[0] != "_"}
        plain = {
            key: value for key, value in public.items() if key != "training" and _is_plain(value)
        }
        digest.update(f"{name} {kind.__module__}.{kind.__qualname__} {plain}".encode())
        attributes |= {f"{name}.{k}": x for k, x in public.items() if isinstance(x, Tensor)}
    state = network.state_dict()
    # Buffers that are not persistent have no entry in the state dict.
    hidden = [(name, value) for name, value in network.named_buffers() if name not in state]
    for name, value in chain(state.items(), hidden, attributes.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(_bytes(value))
    # Nothing more for a network of a library without hooks, whose digest is part of what earlier
    # versions stored.
    walk = _Walk()
    for name, module in network.named_modules():
        walk.add_module(name, module)
    for part in walk.parts:
        digest.update(part)
    return digest.hexdigest()


class _Walk:
    """Visits, once each, the values and the code that a network's output may depend on.

    Attributes:
        parts: What was found, in order.
    """

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._seen: dict[int, tuple[int, Any]] = {}  # keeps values, so that no id is used twice

    def _note(self, *parts: object) -> None:
        self.parts.extend(str(part).encode() + b"\0" for part in parts)

    def add_module(self, name: str, module: nn.Module) -> None:
        """Visit the hooks, the class and the attributes that the state dict does not contain."""
        kind = type(module)
        if not _is_library(kind.__module__):
            self._note("module", name)
            self.add(kind)
        for hooks in _HOOKS:
            for hook in vars(module).get(hooks, {}).values():
                self._note(name, hooks)
                self.add(hook)
        for key, value in vars(module).items():
            done = key[0] != "_" and (_is_plain(value) or isinstance(value, Tensor))
            known = _is_library(kind.__module__) and _is_library_object(value)
            if key not in _BOOKKEEPING and not done and not known:
                self._note(name, key)
                self.add(value)

    def add(self, value: Any) -> None:
        """Visit a value, unless that was done before."""
        if _is_plain(value) or isinstance(value, complex | bytes):
            self._note(type(value).__name__, repr(value))
            return
        if id(value) in self._seen:
            self._note("seen", self._seen[id(value)][0])
            return
        if len(self._seen) >= _MAX_VALUES:
            return
        self._seen[id(value)] = (len(self._seen), value)
        if isinstance(value, Tensor):
            self._note("tensor", value.dtype, tuple(value.shape))
            with suppress(RuntimeError, NotImplementedError):  # on no device, or sparse
                self.parts.append(bytes(_bytes(value)))
        elif isinstance(value, np.ndarray | np.generic):
            self._note("array", value.dtype, value.shape)
            if not value.dtype.hasobject:
                self.parts.append(value.tobytes())
        elif isinstance(value, enum.Enum):
            self._note("enum", value)
        elif isinstance(value, dict | types.MappingProxyType):
            self._note("mapping", len(value))
            for key, item in value.items():
                self.add(key)
                self.add(item)
        elif isinstance(value, set | frozenset):
            plain = map(repr, filter(_is_plain, value))
            self._note("set", len(value), *sorted(plain))
        elif isinstance(value, list | tuple):
            self._note("sequence", len(value))
            for item in value:
                self.add(item)
        elif isinstance(value, nn.Module):
            # A part of the network is visited by name, too; others are attributes in disguise.
            self._note("nn.Module", type(value).__qualname__)
            self.add_module("", value)
            for item in chain(value.parameters(), value.buffers(), value.children()):
                self.add(item)
        elif isinstance(value, type):
            self._add_class(value)
        elif isinstance(value, types.ModuleType):
            self._note("import", value.__name__)
        elif isinstance(value, functools.partial):
            self._note("partial")
            for item in (value.func, value.args, value.keywords):
                self.add(item)
        elif isinstance(value, types.MethodType):
            self._note("method")
            self.add(value.__func__)
            if not isinstance(value.__self__, types.ModuleType):
                self.add(value.__self__)
        elif isinstance(value, types.FunctionType):
            self._add_function(value)
        elif isinstance(value, types.BuiltinFunctionType):
            self._note("built-in", value.__module__, value.__qualname__)
        elif isinstance(value, staticmethod | classmethod):
            self.add(value.__func__)
        elif isinstance(value, property):
            self.add((value.fget, value.fset))
        elif isinstance(value, functools.cached_property):
            self.add(value.func)
        elif wrapped := getattr(value, "__wrapped__", None):  # as of functools.cache
            self._note("wrapper")
            self.add(wrapped)
        else:
            self._add_object(value)

    def _add_class(self, kind: type) -> None:
        self._note("class", kind.__module__, kind.__qualname__)
        for base in kind.__mro__:
            if _is_library(base.__module__):
                self._add_library(base.__module__)
                continue
            for name, value in vars(base).items():
                if name.startswith("__") and not isinstance(value, _FUNCTIONS):
                    continue
                self._note(name)
                self.add(value)

    def _add_function(self, function: types.FunctionType) -> None:
        if _is_library(function.__module__ or ""):
            self._note("function", function.__module__, function.__qualname__)
            self._add_library(function.__module__)
            # A library's decorator closes over what it decorates.
            self._add_cells(function)
            return
        self._note("function", function.__name__)
        names = self._add_code(function.__code__)
        self.add((function.__defaults__, function.__kwdefaults__))
        self._add_cells(function)
        found = [
            (name, function.__globals__[name])
            for name in sorted(names)
            if name in function.__globals__ and not hasattr(builtins, name)
        ]
        for name, value in found:
            self._note("global", name)
            self.add(value)
            if isinstance(value, types.ModuleType) and not _is_library(value.__name__):
                for attribute in sorted(names & vars(value).keys()):
                    self._note(attribute)
                    self.add(vars(value)[attribute])

    def _add_cells(self, function: types.FunctionType) -> None:
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # an empty cell
                self.add(cell.cell_contents)

    def _add_code(self, code: types.CodeType) -> set[str]:
        """Visit code without its place in a file; return the names that it uses."""
        self.parts.append(code.co_code)
        names = set(code.co_names)
        self._note(*code.co_names, *code.co_varnames, *code.co_freevars)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                names |= self._add_code(constant)
            else:
                self.add(constant)
        return names

    def _add_object(self, value: Any) -> None:
        kind = type(value)
        self._note("object", kind.__module__, kind.__qualname__)
        if not _is_library(kind.__module__):
            self.add(kind)
        names = dict(getattr(value, "__dict__", {}))
        for base in kind.__mro__:
            slots = vars(base).get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                with suppress(AttributeError):
                    names.setdefault(slot, getattr(value, slot))
        if _is_library_object(value):
            names = {name: x for name, x in names.items() if name[0] != "_" and _is_value(x)}
        for name, item in names.items():
            self._note(name)
            self.add(item)
        if not names and " at 0x" not in (text := repr(value)):
            self._note(text)

    def _add_library(self, module: str) -> None:
        top = module.partition(".")[0]
        if top not in _LIBRARIES:
            with suppress(PackageNotFoundError):
                self._note(top, version(top))


@functools.cache
def _is_library(module: str) -> bool:
    """Return whether a module belongs to Python, to a library with a version or to this project.

    Packages that are installed without a version of their own name count as the user's.
    """
    top = module.partition(".")[0]
    if top in _LIBRARIES or top in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(top), "__file__", None)
    if file is None or not any(Path(folder) in Path(file).parents for folder in _INSTALLED):
        return False
    with suppress(PackageNotFoundError):
        return bool(version(top))
    return False


def _is_library_object(value: Any) -> bool:
    """Return whether a value is an instance of a library's class, not a container or code."""
    code = isinstance(value, type | types.SimpleNamespace | types.BuiltinFunctionType | _FUNCTIONS)
    return not code and _is_library(type(value).__module__) and not _is_value(value)


def _is_value(value: Any) -> bool:
    """Return whether a value is made of numbers, texts and tensors alone."""
    if isinstance(value, dict):
        return all(map(_is_value, chain(value.keys(), value.values())))
    if isinstance(value, tuple | list | set | frozenset):
        return all(map(_is_value, value))
    return _is_plain(value) or isinstance(value, Tensor | np.ndarray | np.generic | complex)


def _bytes(tensor: Tensor) -> memoryview:
    values = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return values.numpy().data


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # defined in an interactive session
        return ""


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
