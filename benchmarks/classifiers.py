"""Put published classifiers with random weights through the check that precedes every run.

python benchmarks/classifiers.py                          # all of torchvision, timm's families
python benchmarks/classifiers.py torchvision/resnet18 timm/mixer_s32_224

Of timm, that is one model of each architecture file: the smallest of a few that take images of 224
or 256 pixels. The layers are the default ones or, where there are none, the model's outermost
parts; a part that is refused is listed with the reason, and the others are checked without it. The
table is Markdown; a model that cannot be built is a row of it too. Hours on two cores.
"""

import argparse
import gc
import re
import time
from collections.abc import Iterator

import timm
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torchvision import models

from lit_hier.errors import InputError
from lit_hier.nn import PretrainedClassifier, Probe
from lit_hier.nn.layers import named_layers

SIZES = (224, 256)
MAX_CANDIDATES = 6  # of a family, whose parameters are counted
MAX_REFUSED = 40  # layers of a model


def photographs() -> Tensor:
    """Return three squares of photographs, in [-1, 1], shape (3, 3, 256, 256)."""
    flower, china = (
        torch.from_numpy(image).movedim(-1, 0) for image in load_sample_images().images
    )
    parts = [flower[:, :256, :256], china[:, :256, :256], china[:, -256:, -256:]]
    return torch.stack(parts).float() / 127.5 - 1


def families() -> Iterator[tuple[str, str]]:
    """Yield a family and a model's name: all classifiers of torchvision, one of each of timm's."""
    for name in models.list_models(module=models):
        yield models.get_model_builder(name).__module__.rpartition(".")[2], f"torchvision/{name}"
    for family in sorted(timm.list_modules()):
        fitting = [
            name
            for name in timm.list_models(module=family)
            if (config := timm.get_pretrained_cfg(name)) is not None
            and config.input_size[1] in SIZES
        ]
        if not fitting:
            yield family, ""
            continue
        some = fitting[:: -(-len(fitting) // MAX_CANDIDATES)]
        yield family, f"timm/{min(some, key=num_parameters)}"


def num_parameters(name: str) -> float:
    """Count a model's parameters without allocating them; infinite if that is not possible."""
    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in timm.create_model(name).parameters())
    except Exception:  # constructors that compute with their tensors fail in many ways
        return float("inf")


def check(name: str, x: Tensor) -> tuple[str, str]:
    """Build and check a model; return the layers that pass, and the result."""
    network = PretrainedClassifier(name, "random")
    default = list(network.paper_layers)
    layers = default or [
        part
        for part, module in named_layers(network.hooked).items()
        if "." not in part and not isinstance(module, nn.Identity)
    ]
    refused: list[str] = []
    while True:
        try:
            checked = Probe(network, layers).check(x)
        except InputError as error:
            found = re.match(r"layers: '([\w.]+)'", str(error))
            if found and not default and "does not run" in str(error):
                # A container whose parts the network calls itself.
                layers.remove(found[1])
                parts = network.hooked.get_submodule(found[1]).named_children()
                layers += [f"{found[1]}.{part}" for part, _ in parts]
                if layers:
                    continue
            refused.append(str(error))
            if default or found is None or len(refused) > MAX_REFUSED:
                return ", ".join(layers), "**refused**: " + "; ".join(refused)
            layers = [layer for layer in layers if layer != found[1]]
            continue
        rounding = max(layer.rounding for layer in checked)
        result = f"{len(checked) - 1} layers and the logits, rounding {rounding:.0e}"
        return ", ".join(layers), "; refused: ".join((result, *refused))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="models as PretrainedClassifier names them")
    given = parser.parse_args().names
    x = photographs()
    print("| family | model | layers | result | seconds |\n| --- | --- | --- | --- | --- |")
    for family, name in [(name.partition("/")[0], name) for name in given] or families():
        start = time.perf_counter()
        layers, result = "", f"no model takes images of {' or '.join(map(str, SIZES))} pixels"
        if name:
            torch.manual_seed(0)
            try:
                layers, result = check(name, x)
            except Exception as error:  # of a library: listed, not hidden
                result = (
                    f"**failed**: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
                )
        cells = (family, name, layers, result, f"{time.perf_counter() - start:.0f}")
        print("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |", flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
