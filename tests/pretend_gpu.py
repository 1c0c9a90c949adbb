"""A pretended GPU: tensors that compute on the CPU, but where a GPU would fail or wait, say so.

Tensors of the device `pretended:0` hold their values in CPU tensors, so results have the CPU's
bits. An operation raises as on a GPU if it mixes devices or uses a generator of another device.
What would make the CPU wait for the GPU, or draw numbers that are others there, is recorded in
`EVENTS` with the line of `lit_hier` that caused it:

- `item`: a tensor's value is read (`item`, `bool`, `float`, `int`).
- `download`: a copy to the CPU.
- `upload`: a blocking copy to the device.
- `staged`: a copy to the device that does not block, but from memory that is not pinned.
- `size`: an operation whose output's shape depends on values, such as `nonzero` or a mask as
  index.
- `random`: numbers of the device's own generator.
"""

import multiprocessing
import os
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast
from unittest.mock import patch

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

import lit_hier

T = TypeVar("T")
NAME = "pretended"
WAITS = ("item", "download", "upload", "size")
"""Kinds of events in which the CPU waits for all that the device has still to do."""
_PACKAGE = str(Path(lit_hier.__file__).parent)
_COPYING = f"{_PACKAGE}/io/devices.py"  # its callers are what matters
_SIZES = {
    "nonzero", "argwhere", "masked_select", "unique", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "bincount", "equal", "_linalg_eigh", "_linalg_svd",
    "_linalg_check_errors",
}  # fmt: skip
_COPIES = {"copy_", "_to_copy"}
_INDEXED = {"index", "index_put_", "index_put", "_index_put_impl_", "_unsafe_index"}
# Torch's own code calls the first two out of sight, as for `torch.tensor`, where a fallback is
# not found; the others allocate an output without elements, and change its shape.
_REGISTERED = (
    "copy_.default", "_local_scalar_dense.default",
    "arange.default", "arange.start", "arange.start_step", "linspace.default", "eye.default",
    "eye.m", "randperm.default", "randperm.generator",
)  # fmt: skip
# No part of these may be a scalar of the CPU.
_STRICT = {"cat", "stack", "gather", "scatter", "index_select", "mm", "addmm", "bmm", "index_add_"}


class Event(NamedTuple):
    """Something that a GPU would wait for, or do otherwise."""

    kind: str
    operation: str
    place: str
    """File, line and function in `lit_hier`, the innermost; empty if there is none."""


EVENTS: list[Event] = []


def _record(kind: str, operation: str) -> None:
    frame, place = sys._getframe(2), ""
    while frame is not None and not place:
        file = frame.f_code.co_filename
        if file.startswith(_PACKAGE) and file != _COPYING:
            code = frame.f_code
            place = f"{file[len(_PACKAGE) + 1 :]}:{frame.f_lineno} {code.co_name}"
        frame = frame.f_back
    EVENTS.append(Event(kind, operation, place))


class OnDevice(Tensor):
    """A tensor of the pretended device."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> "OnDevice":
        given = {"dtype": values.dtype, "layout": values.layout, "device": f"{NAME}:0"}
        sizes = (values.size(), values.stride(), values.storage_offset())
        # Torch marks a view of a tensor that is not one of inference mode, which this may be.
        with torch.inference_mode(False):
            tensor: OnDevice = Tensor._make_wrapper_subclass(cls, *sizes, **given)
        tensor.values = values
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(operation, *args, **(kwargs or {}))

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def untyped_storage(self) -> Any:
        return self.values.untyped_storage()

    def storage(self) -> Any:
        return self.values.storage()

    def __repr__(self) -> str:
        return f"OnDevice({self.values})"

    def __deepcopy__(self, memo: Any) -> Tensor:
        copy = self.detach().clone().requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, self.requires_grad)
        memo[id(self)] = copy
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().cpu().__reduce_ex__(protocol)


def _is_pinned(values: Tensor) -> bool:
    return getattr(values, "pretended_pinned", False)


def _pin(values: Tensor, device: Any = None) -> Tensor:
    if isinstance(values, OnDevice):
        raise RuntimeError("cannot pin a tensor of a device, only of the CPU")
    pinned = values.clone()
    pinned.pretended_pinned = True  # type: ignore[attr-defined]
    return pinned


def _mixed(name: str) -> RuntimeError:
    return RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices,"
        f" {NAME}:0 and cpu! (when checking arguments for {name})"
    )


def _run(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Carry an operation out on the CPU, unless a GPU would not."""
    # In inference mode, operations arrive that others make up.
    parts = operation.decompose(*args, **kwargs)
    if parts is not NotImplemented:
        return parts
    name = operation.__name__.partition(".")[0]
    leaves = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    ours = [leaf for leaf in leaves if isinstance(leaf, OnDevice)]
    target = kwargs.get("device")
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != NAME:
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu'")
    plain = tree_map(lambda x: x.values if isinstance(x, OnDevice) else x, (args, kwargs))
    if name in _COPIES:
        return _copy(operation, name, args, plain, target)
    own = args[0] if args and isinstance(args[0], Tensor) else None
    if name in _INDEXED:
        _check_index(name, args)
    elif name == "repeat_interleave" and kwargs.get("output_size") is None:
        _record("size", name)
    else:
        for leaf in leaves:
            if not isinstance(leaf, OnDevice) and (leaf.dim() or name in _STRICT) and ours:
                raise _mixed(name)
        if name.endswith("_") and own is not None and own not in ours and ours:
            raise _mixed(name)
    if name in _SIZES:
        _record("size", name)
    if name in ("_local_scalar_dense",):
        _record("item", name)
    if torch.Tag.nondeterministic_seeded in operation.tags and generator is None:
        _record("random", name)
    plain_args, plain_kwargs = plain
    if target is not None:
        plain_kwargs["device"] = "cpu"
    plain_kwargs.pop("pin_memory", None)
    before = {id(x.values): x for x in ours}
    result = operation(*plain_args, **plain_kwargs)
    for x in ours:
        if x.values.size() != x.size():  # as `squeeze_` does
            with torch._C._DisableTorchDispatch():
                sizes = (x.values.size(), x.values.stride(), x.values.storage_offset())
                torch.ops.aten.as_strided_(x, *sizes)

    def wrap(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return before[id(x)] if id(x) in before else OnDevice(x)

    return tree_map(wrap, result)


def _copy(operation: Any, name: str, args: Any, plain: Any, target: Any) -> Any:
    """Copy within the device, to it or from it."""
    plain_args, plain_kwargs = plain
    blocking = not (
        plain_kwargs.get("non_blocking", False) or (name == "copy_" and args[2:] and args[2])
    )
    source = args[1] if name == "copy_" else args[0]
    here = isinstance(source, OnDevice)
    there = (
        isinstance(args[0], OnDevice)
        if name == "copy_"
        else (here if target is None else torch.device(target).type == NAME)
    )
    if here and not there:
        if not blocking:
            raise RuntimeError("a copy to the CPU that does not block is read before it is done")
        _record("download", name)
    elif there and not here:
        if blocking:
            _record("upload", name)
        elif not _is_pinned(source):
            _record("staged", name)
    if target is not None:
        plain_kwargs["device"] = "cpu"
    plain_kwargs.pop("pin_memory", None)
    result = operation(*plain_args, **plain_kwargs)
    if name == "copy_":
        return args[0]
    return OnDevice(result) if there else result


def _check_index(name: str, args: Any) -> None:
    """Check the devices of an indexing operation, and record masks and copies of indices."""
    indexed, indices = args[0], [x for x in args[1] if x is not None]
    if not isinstance(indexed, OnDevice):
        raise RuntimeError(
            "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
        )
    value = args[2] if len(args) > 2 else None
    if value is not None and not isinstance(value, OnDevice) and value.dim():
        raise _mixed(name)
    fills = value is not None and not value.dim() and len(indices) == 1
    for index in indices:
        if not isinstance(index, OnDevice):
            _record("upload", name)
        if index.dtype in (torch.bool, torch.uint8) and not fills:
            _record("size", name)


class _Backend:
    """What torch asks a device's module."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class PretendedAccelerator(Accelerator):
    """The pretended device, for Lightning."""

    def setup_device(self, device: torch.device) -> None:
        assert device.type == NAME

    def teardown(self) -> None:
        pass

    @staticmethod
    def parse_devices(devices: Any) -> int:
        return 1

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device(NAME, 0)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return NAME

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}


def trainer(**kwargs: Any) -> Trainer:
    """Return a trainer on the pretended device."""
    accelerator = PretendedAccelerator()
    strategy = SingleDeviceStrategy(device=torch.device(NAME, 0), accelerator=accelerator)
    return Trainer(**(kwargs | {"accelerator": "auto", "strategy": strategy, "devices": 1}))


@cache
def set_up() -> tuple[Any, ...]:
    """Register the device, once per process; return what must live as long."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME, _Backend())
    everything = torch.library.Library("_", "IMPL")
    everything.fallback(_run, "PrivateUse1")
    some = torch.library.Library("aten", "IMPL")
    for name in _REGISTERED:
        packet, overload = name.split(".")
        operation = getattr(getattr(torch.ops.aten, packet), overload)
        given = name.removesuffix(".default")
        some.impl(given, partial(_run, operation), "PrivateUse1")
    return everything, some


def forked(function: Callable[[], T]) -> T:
    """Call a function in a forked process, and return its result.

    The device is registered for the rest of a process, and autograd looks for devices once, before
    its first use; both leave this process as it is.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        try:
            answer = function(), ""
        except BaseException:
            answer = None, traceback.format_exc()
        sender.send_bytes(pickle.dumps(answer))  # tensors too, as bytes
        sender.close()
        os._exit(0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        process = context.Process(target=child)
        process.start()
    sender.close()
    result, failure = pickle.loads(receiver.recv_bytes())
    process.join()
    assert not failure, failure
    return cast("T", result)


@contextmanager
def pretended(*modules: Any) -> Iterator[torch.device]:
    """Set the device up, without events; trainers that these modules make are on it."""
    set_up()
    EVENTS.clear()
    replaced = (
        (Tensor, "pin_memory", _pin),
        (Tensor, "is_pinned", _is_pinned),
        *((module, "Trainer", trainer) for module in modules),
    )
    with ExitStack() as patches:
        for owner, name, value in replaced:
            patches.enter_context(patch.object(owner, name, value))
        yield torch.device(NAME, 0)
