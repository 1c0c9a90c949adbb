"""How the command line reads configs: within limits, and with errors of one line."""

import os
from typing import Final, NoReturn

import yaml
from jsonargparse import _loaders_dumpers, add_instantiator, set_parsing_settings
from jsonargparse._loaders_dumpers import get_yaml_default_loader
from pytorch_lightning.cli import LightningArgumentParser

from lit_hier.cli.errors import TRUST, build, fail, of_parsing

# What a config may name classes of; a class of any other place would run code on its import.
_EXPOSED: Final = (
    "lit_hier.callbacks",
    "diffusers",
    "lightning_fabric",
    *(f"lit_hier.{part}" for part in ("data", "gaussian", "modules", "nn", "processes", "rhm")),
    "pytorch_lightning",
    "torch.nn",
    "torch.optim",
    "torchvision.datasets",
    "torchvision.transforms",
)
# What these hold beside classes: functions that fetch, unpack, unpickle or import what they are
# told to. A config may name functions too, where a class takes one, such as a data set's `loader`.
_CLOSED: Final = (
    "*",
    *(f"diffusers.{part}" for part in ("commands", "loaders", "pipelines", "utils")),
    "lightning_fabric.utilities",
    *(f"pytorch_lightning.{part}" for part in ("cli", "core.saving", "demos", "utilities")),
    "torchvision.datasets.lsun",
    "torchvision.datasets.utils",
)
_LARGEST: Final = 100_000  # values in a config; aliases count as often as they stand there
_DEEPEST: Final = 50  # levels of them


class OneLineParser(LightningArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and end with status 2."""
        fail(of_parsing(message))


def limit_configs() -> None:
    """Let configs name the classes of this project and of its libraries, and those trusted.

    Nothing is fetched, and what is written to fill the memory is refused before it does.
    """
    trusted = [name for name in os.environ.get(TRUST, "").split(",") if name]
    set_parsing_settings(
        import_path_denylist=list(_CLOSED),
        import_path_allowlist=[*_EXPOSED, *trusted],
        config_read_mode_fsspec_enabled=False,
    )
    add_instantiator(build, object)
    loader = get_yaml_default_loader()
    if not issubclass(loader, _Limited):
        limited = type("LimitedLoader", (_Limited, loader), {})
        vars(_loaders_dumpers)["yaml_default_loader"] = limited


class _Limited:
    """A loader of YAML that looks at what it is given before it builds anything of it."""

    def __init__(self, stream: str) -> None:
        _measure(stream)
        super().__init__(stream)  # type: ignore[call-arg]


def _measure(text: str) -> None:
    """Count the values that YAML stands for, event by event: building them is what may fail.

    Raises:
        YAMLError: There are too many, or they are nested too deeply, as in a circle of aliases.
    """
    anchors: dict[str | None, int] = {}
    open_values: list[tuple[str | None, int]] = [(None, 0)]  # anchor and size of each
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        name, size = open_values.pop() if isinstance(event, yaml.CollectionEndEvent) else (None, 0)
        if isinstance(event, yaml.CollectionStartEvent):
            open_values.append((event.anchor, 1))
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in (name for name, _ in open_values):
                raise yaml.YAMLError(f"alias {event.anchor!r} stands inside of what it names")
            size = anchors.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            name, size = event.anchor, 1
        if name is not None:
            anchors[name] = size
        above, total = open_values.pop()
        open_values.append((above, total + size))
        if total + size > _LARGEST:
            raise yaml.YAMLError(f"it holds more than {_LARGEST} values, counting aliases")
        if len(open_values) > _DEEPEST:
            raise yaml.YAMLError(f"values are nested more than {_DEEPEST} levels deep")
