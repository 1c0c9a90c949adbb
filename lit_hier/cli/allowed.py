"""The classes that configs may name: this project's, and those of libraries that options take.

Classes of libraries are listed by what an option accepts: callbacks, loggers, optimizers,
networks, data sets. Left out is what imports or runs what an argument names, fetches from an
address, unpacks archives or loads pickles without a checksum, or takes functions, which no config
may name.
"""

import importlib
import re
import sys
from typing import Any, Final

import pytorch_lightning.callbacks
import torch.optim.lr_scheduler
import torchvision.transforms.v2

import lit_hier
from lit_hier.errors import InputError

_OWN: Final = tuple(
    f"lit_hier.{name}"
    for name in ("callbacks", "data", "gaussian", "modules", "nn", "processes", "rhm")
)
# Modules that export classes, the base class of those that are allowed, and those that are not,
# with the reason.
_KINDS: Final[tuple[tuple[str, type, dict[str, str]], ...]] = (
    (
        "pytorch_lightning.callbacks",
        pytorch_lightning.callbacks.Callback,
        {
            "LambdaCallback": "it takes functions",
            "ThroughputMonitor": "it takes a function",
        },
    ),
    ("torch.nn", torch.nn.Module, {}),
    ("torch.optim", torch.optim.Optimizer, {}),
    (
        "torch.optim.lr_scheduler",
        torch.optim.lr_scheduler.LRScheduler,
        {
            "LambdaLR": "it takes a function",
            "MultiplicativeLR": "it takes a function",
        },
    ),
    ("torchvision.transforms", torch.nn.Module, {}),
    (
        "torchvision.transforms.v2",
        torchvision.transforms.v2.Transform,
        {"Lambda": "it takes a function"},
    ),
)
# Classes that are allowed one by one.
_NAMED: Final = {
    "lightning_fabric.plugins.environments": (
        "LightningEnvironment",
        "SLURMEnvironment",  # its one command has no argument from a config
        "TorchElasticEnvironment",
    ),
    "pytorch_lightning.loggers": ("CSVLogger", "TensorBoardLogger"),  # others use the network
    "pytorch_lightning.plugins.environments": (
        "LightningEnvironment",
        "SLURMEnvironment",
        "TorchElasticEnvironment",
    ),
    "pytorch_lightning.profilers": (
        "AdvancedProfiler",
        "PassThroughProfiler",
        "PyTorchProfiler",
        "SimpleProfiler",
    ),
    "pytorch_lightning.strategies": ("DDPStrategy", "SingleDeviceStrategy"),
    # These read what was unpacked, from folders or files of their own names, and compare each
    # archive and each pickle with a checksum before they open it; what torch reads is checked by
    # `lit_hier.data.torch_files`.
    "torchvision.datasets": (
        "CIFAR10",
        "CIFAR100",
        "Country211",
        "EuroSAT",
        "FashionMNIST",
        "Flowers102",
        "ImageFolder",
        "ImageNet",
        "KMNIST",
        "MNIST",
        "Places365",
        "QMNIST",
        "SEMEION",
        "STL10",
        "SUN397",
        "SVHN",
    ),
    "torchvision.transforms": (
        "ConvertImageDtype",
        "PILToTensor",
        "ToPILImage",
        "ToTensor",
    ),
}
# Classes whose import takes long, each with its module: they are allowed once they are named.
LAZY: Final = dict.fromkeys(
    (
        "DDIMInverseScheduler",
        "DDIMParallelScheduler",
        "DDIMScheduler",
        "DDPMParallelScheduler",
        "DDPMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepInverseScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSDEScheduler",
        "DPMSolverSinglestepScheduler",
        "EDMDPMSolverMultistepScheduler",
        "EDMEulerScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "IPNDMScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "LCMScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
        "RePaintScheduler",
        "SASolverScheduler",
        "ScoreSdeVeScheduler",
        "TCDScheduler",
        "UniPCMultistepScheduler",
    ),
    "diffusers",
)
# A protocol or a chain of them (fsspec), a share of another machine, or what timm and Lightning
# write before a hub's name.
_ADDRESS: Final = re.compile(
    r"://|::|^\s*(//|\\\\|(data|hf[-_]hub|local-dir|registry):)", re.IGNORECASE
)


def find_paths(class_type: type, module: str) -> list[str]:
    """Return the paths that lead to a class, as users and saved configs write them.

    Args:
        class_type: The class.
        module: A module that exports it.
    """
    parts = [name.split(".") for name in (module, class_type.__module__)]
    modules = {".".join(names[:k]) for names in parts for k in range(1, len(names) + 1)}
    name = class_type.__name__
    return sorted(
        f"{owner}.{name}"
        for owner in modules
        if getattr(sys.modules.get(owner), name, None) is class_type
    )


def get_own_classes() -> dict[str, type]:
    """Return this project's classes by their short names."""
    modules = [importlib.import_module(name) for name in _OWN]
    values = {name: value for module in modules for name, value in vars(module).items()}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, type)
        and value.__module__.startswith("lit_hier.")
        and not issubclass(value, Exception)
    }


def _list_allowed() -> dict[str, type]:
    exported: list[tuple[str, Any]] = [
        *(
            ("lit_hier", value)
            for value in (getattr(lit_hier, name) for name in lit_hier.__all__)
            if isinstance(value, type)
        ),
        *((value.__module__, value) for value in get_own_classes().values()),
    ]
    for module, kind, left_out in _KINDS:
        exported += [
            (module, value)
            for name, value in vars(importlib.import_module(module)).items()
            if isinstance(value, type)
            and issubclass(value, kind)
            and name[0] != "_"
            and name not in left_out
        ]
    for module, names in _NAMED.items():
        library = importlib.import_module(module)
        exported += [(module, getattr(library, name)) for name in names]
    return {
        path: value
        for module, value in exported
        if not issubclass(value, Exception)
        for path in find_paths(value, module)
    }


ALLOWED: Final = _list_allowed()
"""The classes by each path that leads to them; without those that are allowed when named."""


def get_allowed_prefix(path: str) -> str | None:
    """Return the allowed class that a path begins with, and goes beyond; None if there is none."""
    parts = path.split(".")
    prefixes = (".".join(parts[:k]) for k in range(2, len(parts)))
    return next((prefix for prefix in prefixes if prefix in ALLOWED), None)


def check_address(key: str, value: str) -> None:
    """Reject an address of another machine or of another file system than the local one.

    Args:
        key: The user's name for the value.
        value: A text of a config.

    Raises:
        InputError: The value contains a protocol, or a chain of them.
    """
    if _ADDRESS.search(value):
        raise InputError(
            f"{key[:60]} is {value[:60]!r}, an address; give a path without a protocol: a config"
            " names a model on the Hugging Face hub by owner/name, and nothing else elsewhere"
        )
