"""Published classifiers with random weights: transforms, layers and weight files."""

import hashlib
import urllib.error
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from attack import Attack
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torchvision import models
from torchvision.models import Weights, WeightsEnum
from torchvision.transforms._presets import ImageClassification

from lit_hier.errors import InputError
from lit_hier.io.pixels import from_levels
from lit_hier.nn import PretrainedClassifier, Probe, hook_layers, match_layers
from lit_hier.nn.layers import channels_last
from lit_hier.nn.published_transform import PublishedTransform
from lit_hier.nn.registries import _torchvision

SMALL = ("torchvision/resnet18", "timm/test_vit", "timm/test_convnext", "timm/resnet10t")


def smooth_levels(num: int, height: int, width: int) -> Tensor:
    """Images with structure at all scales, like photographs; uint8, (num, 3, H, W)."""
    noise = torch.randn(num, 3, height, width, generator=torch.Generator().manual_seed(0))
    smooth = noise.cumsum(2).cumsum(3)
    low, high = smooth.amin((2, 3), keepdim=True), smooth.amax((2, 3), keepdim=True)
    return ((smooth - low) / (high - low) * 255).round().to(torch.uint8)


def pil_images(levels: Tensor) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in levels]


def timm_config(**changes: Any) -> nn.Module:
    """The attributes of a timm model that determine its transform."""
    module = nn.Module()
    module.pretrained_cfg = {
        "input_size": (3, 40, 40),
        "mean": (0.5, 0.3, 0.2),
        "std": (0.2, 0.3, 0.4),
        "crop_pct": 0.8,
        "interpolation": "bicubic",
        **changes,
    }
    return module


def both(changes: dict[str, Any] | None) -> tuple[PublishedTransform, Any, float]:
    """Our transform, the library's own, and the size of a level after it."""
    if changes is None:
        entry = models.ResNet18_Weights.DEFAULT
        return PublishedTransform.of_torchvision(entry), entry.transforms(), 1 / 255 / 0.224
    model = timm_config(**changes)
    theirs = create_transform(**resolve_model_data_config(model), is_training=False)
    return PublishedTransform.of_timm(model), theirs, 1 / 255 / 0.2


CHANGES = [
    None,
    {},
    {"interpolation": "bilinear"},
    {"crop_mode": "squash"},
    {"crop_mode": "border"},
    {"crop_mode": "border", "crop_pct": 1.0},
    {"input_size": (3, 40, 56)},
]


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("size", [(90, 90), (64, 110), (30, 30)])
def test_transforms_equal_the_published_ones_within_rounding(
    changes: dict[str, Any] | None, size: tuple[int, int]
) -> None:
    ours, theirs, level = both(changes)
    levels = smooth_levels(2, *size)
    expected = torch.stack([theirs(image) for image in pil_images(levels)])
    found = ours(levels)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 2.5 * level
    assert (found - expected).abs().mean() < 0.6 * level


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        (None, (256, 256)),
        ({}, (50, 50)),
        ({"crop_mode": "squash"}, (50, 50)),
        ({"crop_mode": "border"}, (50, 50)),
        ({"crop_mode": "border", "crop_pct": 1.0}, (30, 40)),
    ],
)
def test_without_resizing_transforms_are_equal(
    changes: dict[str, Any] | None, size: tuple[int, int]
) -> None:
    ours, theirs, _ = both(changes)
    levels = torch.randint(256, (2, 3, *size), dtype=torch.uint8)
    assert torch.equal(ours(levels), torch.stack([theirs(image) for image in pil_images(levels)]))


@pytest.mark.parametrize("changes", CHANGES)
def test_an_image_is_transformed_independently_of_its_batch(
    changes: dict[str, Any] | None,
) -> None:
    transform, _, _ = both(changes)
    levels = smooth_levels(7, 61, 75)
    whole = transform(levels)
    for part in ([0], [6], [5, 2, 3]):
        assert torch.equal(transform(levels[part]), whole[part])


def test_different_transforms_have_different_reprs() -> None:
    texts = [repr(both(changes)[0]) for changes in CHANGES]
    assert texts == [repr(both(changes)[0]) for changes in CHANGES]
    assert len(set(texts)) == len(CHANGES)
    assert not any("\n" in text or " at 0x" in text for text in texts)


@pytest.mark.parametrize("name", SMALL)
def test_a_classifier_receives_the_levels_of_an_image_file(name: str) -> None:
    network = PretrainedClassifier(name, "random").requires_grad_(False)
    assert not network.training
    assert network.hooked is network.model
    levels = smooth_levels(3, 70, 70)
    x = from_levels(levels)
    logits = network(x)
    assert torch.equal(logits, network.model(network.transform(levels)))
    assert logits.shape == (3, 1000)
    assert torch.equal(network(x + 0.4 / 127.5), logits)
    assert torch.equal(network(x.half()), logits)
    assert torch.equal(network(x.double().contiguous(memory_format=torch.channels_last)), logits)
    assert torch.allclose(network(x[1:2]), logits[1:2], atol=1e-4)
    gray = x[:, :1]
    assert torch.equal(network(gray), network(gray.expand(-1, 3, -1, -1)))
    assert network.bfloat16()(x).dtype == torch.bfloat16
    for shape in ((2, 2, 8, 8), (2, 3, 8)):
        with pytest.raises(InputError, match=r"^network: PretrainedClassifier takes [^\n]*$"):
            network(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("torchvision/convnext_base", 41, (128, 56, 56)),
        ("torchvision/resnet50", 17, (256, 56, 56)),
        ("torchvision/wide_resnet50_2", 17, (256, 56, 56)),
        ("torchvision/resnet152", 51, (256, 56, 56)),
        ("torchvision/vit_b_16", 13, (197, 768)),
        ("timm/convnext_base", 41, (128, 56, 56)),
        ("timm/resnet50", 17, (256, 56, 56)),
        ("timm/vit_tiny_patch16_224", 13, (197, 192)),
    ],
)
def test_the_layers_of_the_paper_run_once_and_in_order(
    name: str, count: int, first: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        network = PretrainedClassifier(name, "random")
        x = torch.zeros(2, 3, 224, 224)
    names = match_layers(network.hooked, network.paper_layers)
    shapes: dict[str, torch.Size] = {}
    with hook_layers(network.hooked, names, lambda name, out: shapes.update({name: out.shape})):
        network.model(x)
    assert list(shapes) == names
    assert len(names) == count
    assert shapes[names[0]] == (2, *first)
    assert shapes[names[-1]] == (2, 1000)
    assert not network.channels_last_layers


def test_outputs_of_resnet_blocks_follow_their_last_relu() -> None:
    network = PretrainedClassifier("torchvision/resnet18", "random")
    names = match_layers(network.hooked, network.paper_layers)
    minima: dict[str, Tensor] = {}
    with (
        torch.inference_mode(),
        hook_layers(network.hooked, names, lambda name, out: minima.update({name: out.min()})),
    ):
        network(torch.rand(2, 3, 32, 32))
    assert minima.pop("fc") < 0
    assert min(minima.values()) >= 0


def test_other_models_have_no_default_layers() -> None:
    network = PretrainedClassifier("torchvision/mobilenet_v3_small", "random")
    assert network.paper_layers == ()
    assert len(match_layers(network.hooked, ["features.*"])) == 13


def test_blocks_of_swin_transformers_return_channels_last() -> None:
    theirs = models.SwinTransformer(
        [4, 4], embed_dim=12, depths=[1, 1], num_heads=[1, 2], window_size=[2, 2]
    )
    timms = timm.models.SwinTransformer(
        img_size=32, embed_dim=12, depths=(1, 1), num_heads=(1, 2), window_size=4
    )
    for network, name in ((theirs, "features.1.0"), (timms, "layers.0.blocks.0")):
        shapes = []
        with hook_layers(network, [name], lambda _, out, shapes=shapes: shapes.append(out.shape)):
            network(torch.zeros(2, 3, 32, 32))
        assert shapes == [(2, 8, 8, 12)]
        assert channels_last(network)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_a_local_file_is_loaded(name: str, suffix: str, tmp_path: Path) -> None:
    network = PretrainedClassifier(name, "random")
    path = tmp_path / f"weights{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(network.model.state_dict(), path)
    restored = PretrainedClassifier(name, str(path))
    state = restored.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in network.model.state_dict().items())
    assert repr(restored.transform) == repr(network.transform)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/test_vit"])
def test_a_file_may_have_another_number_of_classes(name: str, tmp_path: Path) -> None:
    library, _, model = name.partition("/")
    build = models.get_model if library == "torchvision" else timm.create_model
    save_file(build(model, num_classes=7).state_dict(), tmp_path / "fine_tuned.safetensors")
    network = PretrainedClassifier(name, str(tmp_path / "fine_tuned.safetensors"))
    assert network(torch.zeros(1, 3, 8, 8)).shape == (1, 7)


@pytest.mark.parametrize("weights", ["default", "DEFAULT", "IMAGENET1K_V1"])
def test_weights_of_an_entry_are_loaded(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    state = models.resnet18().state_dict()
    torch.save(state, path)
    network = PretrainedClassifier("torchvision/resnet18", weights)
    assert torch.equal(network.model.fc.weight, state["fc.weight"])


def test_a_file_with_an_entrys_name_is_verified_and_has_its_transform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = models.resnet18().state_dict()
    torch.save(state, tmp_path / "file.pth")
    digest = hashlib.sha256((tmp_path / "file.pth").read_bytes()).hexdigest()[:8]
    path = (tmp_path / "file.pth").rename(tmp_path / f"resnet18-{digest}.pth")

    class Entries(WeightsEnum):
        OLD = Weights(f"https://x/{path.name}", partial(ImageClassification, crop_size=32), {})
        DEFAULT = Weights("https://x/new-00.pth", partial(ImageClassification, crop_size=64), {})

    monkeypatch.setattr(models, "get_model_weights", lambda name: Entries)
    network = PretrainedClassifier("torchvision/resnet18", str(path))
    assert torch.equal(network.model.fc.weight, state["fc.weight"])
    assert "crop_size=[32]" in repr(network.transform)
    other = path.rename(tmp_path / "other.pth")
    network = PretrainedClassifier("torchvision/resnet18", str(other))
    assert "crop_size=[64]" in repr(network.transform)
    path.write_bytes(other.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"^weights: .* is not the published file: [^\n]*$"):
        PretrainedClassifier("torchvision/resnet18", str(path))


def test_old_layer_names_of_densenets_are_read(tmp_path: Path) -> None:
    with torch.device("meta"):
        expected = models.densenet121().state_dict()
    old = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): torch.zeros_like(
            value, device="cpu"
        )
        for key, value in expected.items()
    }
    torch.save(old, tmp_path / "densenet.pth")
    network = PretrainedClassifier("torchvision/densenet121", str(tmp_path / "densenet.pth"))
    assert not any(value.any() for value in network.model.state_dict().values())


def test_the_architecture_matches_the_training_of_the_weights(tmp_path: Path) -> None:
    torch.save(models.inception_v3(init_weights=False).state_dict(), tmp_path / "inception.pth")
    network = PretrainedClassifier("torchvision/inception_v3", str(tmp_path / "inception.pth"))
    assert network.model.transform_input
    entry = models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1
    with torch.device("meta"):
        assert _torchvision("vit_b_16", entry).image_size == 384


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet50", "random", r"name is 'resnet50'; write the library before"),
        ("keras/resnet50", "random", r"name is 'keras/resnet50'; write the library"),
        ("torchvision/", "random", r"name is 'torchvision/'; write the library"),
        ("torchvision/resnet51", "random", r"name: torchvision has no .*mean .*resnet50"),
        ("torchvision/fasterrcnn_resnet50_fpn", "random", r"name: torchvision has no classifier"),
        ("timm/vit_tny_patch16_224", "random", r"name: timm has no .*vit_tiny_patch16_224"),
        ("timm/vit_tiny_patch16_224.augreg_in1k", "random", r"name: timm has no .*in21k_ft_in1k"),
        ("torchvision/resnet18", "IMAGENET1K_V3", r"weights is 'IMAGENET1K_V3'; .*IMAGENET1K_V1"),
        ("timm/resnet10t", "IMAGENET1K_V1", r"weights is 'IMAGENET1K_V1'; .* part of the model's"),
        ("torchvision/resnet18", "none.pth", r"weights: cannot read none\.pth: No such file"),
        ("torchvision/resnet18", "resnet18-f37072fd.pth", r"weights: cannot read resnet18-f3"),
        ("timm/resnet10t", "none.safetensors", r"weights: cannot read none\.safetensors: "),
    ],
)
def test_invalid_arguments(name: str, weights: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"^{message}[^\n]*$"):
        PretrainedClassifier(name, weights)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet10t"])
def test_invalid_files_are_rejected_in_one_line(name: str, tmp_path: Path) -> None:
    path, folder = tmp_path / "weights.pth", tmp_path / "created"
    tensors = tmp_path / "weights.safetensors"

    def reject(path: Path, reason: str) -> None:
        with pytest.raises(InputError, match=rf"^weights: [^\n]*{reason}[^\n]*$"):
            PretrainedClassifier(name, str(path))

    other = models.resnet34().state_dict()
    torch.save(other, path)
    save_file(other, tensors)
    for file in (path, tensors):
        reject(file, r"does not fit resnet1\w+: \S+ (is unexpected|is missing|has shape .*); give")
    for file in (path, tensors):
        file.write_bytes(file.read_bytes()[:-100_000])
    reject(path, "is not a tensors-only checkpoint")
    reject(tensors, "is damaged")
    torch.save({"fc.bias": torch.zeros(())}, path)
    reject(path, r"does not fit resnet1\w+: conv1\S* is missing; give")
    torch.save({"epoch": 3}, path)
    reject(path, "is not a state dict")
    torch.save({"fc.bias": Attack(folder)}, path)
    reject(path, "is not a tensors-only checkpoint")
    assert not folder.exists()


def test_a_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("no connection\nat all")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
    for name in ("torchvision/resnet18", "timm/resnet10t"):
        with pytest.raises(InputError, match=r"^weights: cannot load default of .*no connection"):
            PretrainedClassifier(name)
    path = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    path.write_bytes(b"an interrupted download")
    with pytest.raises(InputError, match=r"^weights: cannot load default of resnet18: [^\n]*$"):
        PretrainedClassifier("torchvision/resnet18")


def test_logits_before_the_first_class_are_left_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = str(tmp_path / "eight.safetensors")
    save_file(timm.create_model("test_convnext", num_classes=8).state_dict(), file)
    build = partial(PretrainedClassifier, "timm/test_convnext", file)
    x = from_levels(smooth_levels(2, 30, 30))
    with torch.no_grad():
        assert torch.equal(build(class_offset=1)(x), build()(x)[:, 1:])
        with pytest.raises(InputError, match=r"^class_offset is 8, but the network has 8 logits"):
            build(class_offset=8)(x)
    identities = {Probe(build(class_offset=k), ["head.fc"]).identity for k in (0, 1)}
    assert len(identities) == 2
    with pytest.raises(InputError, match=r"^class_offset is -1; give at least 0"):
        build(class_offset=-1)
