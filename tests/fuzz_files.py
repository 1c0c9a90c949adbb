"""Harmed files of every format that is read, for the classes that read them."""

import contextlib
import io
import json
import logging
import os
import random
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import yaml
from conftest import inside, random_pipeline
from fuzz import LIMIT, Kind, Refused
from fuzz_configs import mnist
from fuzz_mutations import ODD, mutate_bytes, mutate_place, mutate_tree
from PIL import Image
from safetensors.torch import save_file
from scipy.io import savemat
from test_diffusion_adm import ADM, ATTENDS, WIDTHS
from test_diffusion_store import batch, filled
from torchvision import datasets

from callbacks.reference import Reference, recall
from lit_hier.cli_errors import build, explain, shown
from lit_hier.data import ImageDataModule, ImageFiles
from lit_hier.data.hierarchy import read_hierarchy
from lit_hier.diffusion.adm import load_adm
from lit_hier.diffusion.store import SampleStore
from lit_hier.metrics import Moments
from lit_hier.modules import DDPMSampler, ImageClassifier, RHMClassifier, StoredSamples
from lit_hier.nn import PretrainedClassifier, TrainedCNN, TrainedImageCNN
from lit_hier.rhm.files import read_rules

Use = Callable[[random.Random, Path], None]
Memory = (MemoryError, RecursionError)


@contextlib.contextmanager
def as_the_command_says_it() -> Iterator[None]:
    """Turn what the command line would explain into what it would print."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Memory:
        raise  # a reader should not have begun
    except Exception as error:
        if (said := explain(error)) is None or "asks for more memory" in said:
            raise
        raise Refused(shown(said)) from error


class Log(logging.Handler):
    """Keeps what is logged: of images that cannot be read."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def logged() -> Iterator[Log]:
    """Keep what lit-hier logs, and nothing else."""
    log, logger = Log(), logging.getLogger("lit_hier")
    logger.addHandler(log)
    logger.propagate = False
    try:
        yield log
    finally:
        logger.removeHandler(log)
        logger.propagate = True


def harm_file(chance: random.Random, path: Path) -> None:
    """Harm a file's bytes, or put something else in its place."""
    if chance.random() < 0.12 or not path.is_file():
        mutate_place(chance, path)
    else:
        path.write_bytes(mutate_bytes(chance, path.read_bytes()))


def harm_json(chance: random.Random, path: Path) -> None:
    """Harm what a JSON file says."""
    path.write_text(json.dumps(mutate_tree(chance, json.loads(path.read_text())), skipkeys=True))


def rules(place: Path) -> Use:
    """Files of a grammar's rules."""
    level = [[[0, 1], [1, 1]], [[1, 0], [0, 0]]]
    tree = {"num_features": 2, "rules": [level, level]}

    def use(chance: random.Random, folder: Path) -> None:
        path = folder / "rules.yaml"
        way = chance.choice(("tree", "tree", "bytes", "bomb"))
        text = json.dumps(mutate_tree(chance, tree) if way == "tree" else tree, skipkeys=True)
        path.write_text(text if way == "tree" else yaml.safe_dump(tree), errors="replace")
        if way == "bomb":
            lines = [f"x{k}: &x{k} [{', '.join([f'*x{k - 1}' if k else '0'] * 9)}]"
                     for k in range(9)]  # fmt: skip
            path.write_text("\n".join([*lines, f"rules: *x{chance.randrange(9)}"]))
        elif way == "bytes":
            harm_file(chance, path)
        with as_the_command_says_it():
            read_rules(path).sample(2)

    return use


def _training(module: type, **arguments: Any) -> dict[str, Any]:
    """Give a checkpoint as Lightning writes it, of a module that has learnt nothing."""
    made = module(**arguments, trained_on="")
    hyper_parameters = {key: value for key, value in made.hparams.items() if key != "optimizer"}
    return {
        "epoch": 1,
        "global_step": 3,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": made.state_dict(),
        "hyper_parameters": hyper_parameters,
    }


def _harm_tensors(chance: random.Random, state: dict[str, Any]) -> None:
    """Change a tensor's type, shape or numbers, or put something else in its place."""
    name = chance.choice(list(state))
    value = state[name]
    if not isinstance(value, torch.Tensor):
        return
    state[name] = chance.choice(
        (
            value.flatten(),
            value[None],
            value.half(),
            value.to(torch.complex64),
            value.long(),
            value * torch.nan,
            torch.zeros(0),
            value.flatten()[:1].as_strided((3, 3), (0, 0)),
            torch.zeros(1).expand(10**6, 10**6),
            *ODD[:12],
        )
    )


def _harm_checkpoint(chance: random.Random, content: Any, path: Path) -> None:
    """Write a checkpoint that is harmed in what it says, in its tensors, or in its bytes."""
    way = chance.choice(("tree", "tree", "tensors", "bytes", "code"))
    if way == "tree":
        content = mutate_tree(chance, content)
    elif way == "tensors":
        content = dict(content)
        state = dict(content.get("state_dict", content))
        _harm_tensors(chance, state)
        content = content | {"state_dict": state} if "state_dict" in content else state
    elif way == "code":
        content = {**content, "code": _Attack()}
    torch.save(content, path)
    if way == "bytes":
        harm_file(chance, path)


class _Attack:
    """Unpickled carelessly, it makes a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("HARM",)


def _unharmed(folder: Path) -> None:
    assert not (folder / "HARM").exists(), "code of a file has been run"


def checkpoints(place: Path) -> Use:
    """Checkpoints of training, as `weights:` of networks."""
    numbers = {"num_features": 4, "num_classes": 4, "tuple_size": 2, "num_layers": 2, "width": 4}
    whole = [
        (TrainedCNN, _training(RHMClassifier, **numbers), torch.zeros(1, 4, 4)),
        (
            TrainedImageCNN,
            _training(ImageClassifier, channels=1, num_classes=3, widths=[4, 4]),
            torch.zeros(1, 1, 8, 8),
        ),
    ]

    def use(chance: random.Random, folder: Path) -> None:
        network, content, x = chance.choice(whole)
        _harm_checkpoint(chance, content, folder / "weights.ckpt")
        with inside(folder), as_the_command_says_it():
            try:
                made = network("weights.ckpt")
                if tuple(x.shape[1:2]) == (made.layers[0][0].in_channels,):
                    made.eval()(x)
            finally:
                _unharmed(folder)

    return use


def adm(place: Path) -> Use:
    """ADM checkpoints."""
    torch.manual_seed(0)
    content = ADM(WIDTHS[:1] * 2, ATTENDS[-1:] * 2).state_dict()
    content = ADM((64, 64), (False, True)).state_dict()

    def use(chance: random.Random, folder: Path) -> None:
        _harm_checkpoint(chance, dict(content), folder / "adm.pt")
        with inside(folder), as_the_command_says_it(), torch.no_grad():
            try:
                model = load_adm("adm.pt")
                if model.config.in_channels == 3 and model.dtype == torch.float32:
                    model(torch.zeros(1, 3, 8, 8), 3)
            finally:
                _unharmed(folder)

    return use


def pipelines(place: Path) -> Use:
    """Pipeline folders of diffusers."""
    random_pipeline(place / "pipeline", channels=1)

    def use(chance: random.Random, folder: Path) -> None:
        shutil.copytree(place / "pipeline", folder / "pipeline")
        files = sorted(path for path in (folder / "pipeline").rglob("*") if path.is_file())
        texts = [path for path in files if path.suffix == ".json"]
        for code in ("evil", "unet/evil", "scheduler/evil"):
            (folder / f"pipeline/{code}.py").write_text("import os\nos.mkdir('HARM')\n")
        way = chance.choice(("json", "json", "bytes", "code", "pickle"))
        if way == "json":
            harm_json(chance, chance.choice(texts))
        elif way == "bytes":
            harm_file(chance, chance.choice(files))
        elif way == "code":
            index = folder / "pipeline/model_index.json"
            content = json.loads(index.read_text())
            part = chance.choice(("unet", "scheduler", "_class_name", "other"))
            content[part] = [chance.choice(("evil", "os", "lit_hier.cli", "torch.nn", "..evil")),
                             chance.choice(("evil", "system", "main", "Linear"))]  # fmt: skip
            index.write_text(json.dumps(content))
        else:
            weights = next(path for path in files if path.suffix == ".safetensors")
            weights.unlink()
            torch.save(_Attack(), weights.with_suffix(".bin"))
        with inside(folder), as_the_command_says_it(), torch.no_grad():
            try:
                sampler = DDPMSampler("pipeline", times=[1], num_steps=2)
                x = torch.zeros(1, 1, 8, 8)
                if sampler.model.config.in_channels == 1:
                    sampler.turn_round(batch(x, [4]))
            finally:
                _unharmed(folder)

    return use


def samples(place: Path) -> Use:
    """Folders of samples."""
    _, x_start, _ = filled(place / "samples")

    def use(chance: random.Random, folder: Path) -> None:
        shutil.copytree(place / "samples", folder / "samples")
        files = sorted(path for path in (folder / "samples").rglob("*") if path.is_file())
        texts = [path for path in files if path.suffix == ".json"]
        if chance.random() < 0.6:
            harm_json(chance, chance.choice(texts))
        else:
            harm_file(chance, chance.choice([*files, *texts, files[0].parent]))
        images = batch(x_start, chance.choice([[4, 5, 6, 7, 8], [9, 10], [10, 4, 7]]))
        with as_the_command_says_it():
            if chance.random() < 0.5:
                StoredSamples(str(folder / "samples")).turn_round(images)
            else:
                decided = {"seed": 0, "convention": "aligned"}
                store = SampleStore.create(folder / "samples", (0, 3, 25), 25, decided)
                store.finished(images.planned)
                store.load(images)

    return use


def _chunk(kind: bytes, data: bytes) -> bytes:
    checked = kind + data
    return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    """Write a PNG's header with any size, and chunks."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (_chunk(b"IHDR", header), *chunks, _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@cache
def bombs() -> dict[str, bytes]:
    """Small files that unpack to much."""
    zeros = zlib.compress(bytes(64 * 2**20), 9)
    image = _chunk(b"IDAT", zlib.compress(bytes(13 * 4)))
    giant = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(giant, "TIFF", compression="group4")
    return {
        "giant.png": _png(2**31 - 1, 2**31 - 1, _chunk(b"IDAT", zeros)),
        "wide.png": _png(2**30, 1, _chunk(b"IDAT", zeros)),
        "large.png": _png(30_000, 30_000, _chunk(b"IDAT", zeros)),
        "narrow.png": _png(1, 150_000_000, _chunk(b"IDAT", zeros)),
        "profile.png": _png(4, 4, _chunk(b"iCCP", b"x\0\0" + zeros), image),
        "words.png": _png(4, 4, _chunk(b"iTXt", b"x\0\x01\0\0\0" + zeros), image),
        "text.png": _png(4, 4, *[_chunk(b"zTXt", b"x\0\0" + zeros)] * 9, image),
        "giant.gif": b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b"\x2c\0\0\0\0\xff\xff\xff\xff"
        b"\0\x08\x01\x00\x00;",
        "giant.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40,
                                         *[2**31 - 1] * 2, 1, 24, *[0] * 6),
        "giant.ppm": b"P6 2147483647 2147483647 255\n",
        "many.pgm": b"P2 9999999 9 255\n" + b"1 " * 99,
        "giant.tiff": giant.getvalue(),
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }  # fmt: skip


def pictures() -> dict[str, bytes]:
    """Whole images of every format and mode that is read."""
    noise = np.random.default_rng(0).integers(0, 256, (18, 14, 3), dtype=np.uint8)
    colours = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    frames = {"save_all": True, "append_images": [colours.convert("L").convert("P")] * 3}
    kinds: list[tuple[str, Any, dict[str, Any]]] = [
        ("a.png", colours, {}),
        ("b.png", colours.convert("P"), {}),
        ("c.png", colours.convert("RGBA"), {}),
        ("d.png", colours.convert("I;16"), {}),
        ("e.png", colours.convert("1"), {}),
        ("f.jpg", colours, {"exif": exif}),
        ("g.jpg", colours.convert("CMYK"), {}),
        ("h.jpg", colours, {"progressive": True}),
        ("i.gif", colours.convert("P"), frames),
        ("j.webp", colours, {"lossless": True}),
        ("k.webp", colours, frames),
        ("l.tif", colours, {"compression": "tiff_lzw"}),
        ("m.tif", colours.convert("F"), {}),
        ("n.tif", colours, {"save_all": True, "append_images": [colours] * 3}),
        ("o.bmp", colours.convert("P"), {}),
        ("p.ppm", colours, {}),
        ("q.pgm", colours.convert("L"), {}),
        ("r.png", colours, {"icc_profile": b"x" * 5000}),
    ]
    made = {}
    for name, image, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, format=Image.registered_extensions()[Path(name).suffix], **options)
        made[name] = buffer.getvalue()
    return made


def images(place: Path) -> Use:
    """Files of images."""
    whole, unpacking = pictures(), bombs()

    def use(chance: random.Random, folder: Path) -> None:
        name, content = chance.choice(list(whole.items()))
        way = chance.random()
        if way < 0.12:
            name, content = chance.choice(list(unpacking.items()))
        elif way < 0.2:
            content = chance.choice(list(whole.values()))
        (folder / name).write_bytes(content)
        if way >= 0.2:
            harm_file(chance, folder / name)
        (folder / "whole.png").write_bytes(whole["a.png"])
        channels = chance.choice((1, 3))
        with as_the_command_says_it(), logged() as log:
            found = ImageDataModule(ImageFiles(str(folder)), size=8, channels=channels,
                                    num_per_class=None)  # fmt: skip
            read = found._splits["predict"][torch.arange(len(found.held_out))]
            assert len(read["x"]) + len(log.lines) == len(found.held_out)
            assert read["x"].isfinite().all()
            if log.lines:
                raise Refused(log.lines[0][-LIMIT:])  # a path may be long

    return use


NAMES = (
    *("a", "cat", "n01440764", "ILSVRC2012_val_00000001", "ILSVRC2012_val_00000002_n01440764"),
    *("two\nlines", "\x1b[31mred", "ünïcödé", "name with, comma", '"quoted"', " ", "..a"),
    *(".hidden", "-1", "0", "1", "99999999999", "x" * 200),
    b"\xff\xfe".decode(errors="surrogateescape"),
)
ENDINGS = (".png", ".PNG", ".JPEG", ".jpg", ".txt", "", ".png.png", ".pt", ".zip")


def folders(place: Path) -> Use:
    """Layouts of folders of images, with strange names, links and files."""
    whole = list(pictures().values())

    def use(chance: random.Random, folder: Path) -> None:
        root = folder / "images"
        root.mkdir()
        (folder / "outside.png").write_bytes(whole[0])
        inner = chance.sample(NAMES, chance.randrange(4))
        for name in [*inner, "./."] if chance.random() < 0.5 else inner:
            if name != "./." and os.path.lexists(root / name):
                continue
            (root / name).mkdir(exist_ok=True)
            for _ in range(chance.randrange(4)):
                path = root / name / f"{chance.choice(NAMES)}{chance.choice(ENDINGS)}"
                if os.path.lexists(path):
                    continue
                path.write_bytes(chance.choice(whole))
                if chance.random() < 0.2:
                    path.unlink()
                    mutate_place(chance, path)
        if chance.random() < 0.2:
            (root / "link").symlink_to(chance.choice(("..", ".", "../outside.png", "/proc/self")))
        with as_the_command_says_it(), logged() as log:
            data = ImageDataModule(ImageFiles(str(root)), size=8, num_per_class=None)
            for start in range(0, min(len(data.held_out), 9), 3):
                data._splits["predict"][torch.arange(start, min(start + 3, len(data.held_out)))]
            data.fingerprint("predict")
            if log.lines:
                raise Refused(log.lines[0][-LIMIT:])  # a path may be long

    return use


def labels(place: Path) -> Use:
    """Files of labels: tables, and ImageNet's development kit."""
    names = [f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 7)]
    (place / "images").mkdir()
    for name in names:
        (place / "images" / name).write_bytes(pictures()["a.png"])
    wnids = ["n01440764", "n02123394", "n04037443"]
    synsets = np.zeros(3, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")])
    for number, wnid in enumerate(wnids):
        synsets[number] = (number + 1, wnid, 0)
    (place / "devkit").mkdir()
    savemat(place / "devkit/meta.mat", {"synsets": synsets})
    truth = "ILSVRC2012_validation_ground_truth.txt"
    (place / "devkit" / truth).write_text("1\n2\n3\n3\n2\n1\n")
    tables = {
        "wnids.csv": "".join(f"{name},{wnids[k % 3]}\n" for k, name in enumerate(names)),
        "numbers.csv": "".join(f"{name},{k % 3}\n" for k, name in enumerate(names)),
        "kaggle.csv": "ImageId,PredictionString\n"
        + "".join(f"{name[:-5]},n01440764 1 2 3 4\n" for name in names),
    }

    def use(chance: random.Random, folder: Path) -> None:
        if chance.random() < 0.5:
            shutil.copytree(place / "devkit", folder / "devkit")
            harm_file(chance, folder / "devkit" / chance.choice((truth, "meta.mat")))
            given = chance.choice(("devkit", f"devkit/{truth}"))
        else:
            given, text = chance.choice(list(tables.items()))
            (folder / given).write_text(text)
            harm_file(chance, folder / given)
            if (path := folder / given).is_file() and not path.is_symlink():
                cells = (
                    b",",
                    b"\n",
                    b'"',
                    b"../../x.png",
                    b"\x1b",
                    b"-1",
                    b"1e9",
                    b"\0",
                    b"9" * 400,
                )
                content = path.read_bytes()
                where = chance.randrange(len(content) + 1)
                if chance.random() < 0.5:
                    path.write_bytes(content[:where] + chance.choice(cells) + content[where:])
        with as_the_command_says_it():
            ImageFiles(str(place / "images"), str(folder / given))

    return use


def hierarchy(place: Path) -> Use:
    """Files of a tree over classes."""
    text = "root animal\nroot thing\nanimal cat\nanimal dog\nthing spoon\nthing cat\n"

    def use(chance: random.Random, folder: Path) -> None:
        path = folder / "wordnet.is_a.txt"
        path.write_text(text)
        words = text.split()
        for _ in range(chance.randrange(4)):
            words[chance.randrange(len(words))] = chance.choice(
                (*words, "a,b", "\x1b", "\u2028", ",")
            )
        pairs = zip(words[::2], words[1::2], strict=True)
        path.write_text("".join(f"{parent} {child}\n" for parent, child in pairs))
        if chance.random() < 0.6:
            harm_file(chance, path)
        with as_the_command_says_it():
            read_hierarchy(path, ["cat", "dog", "spoon"])

    return use


def reference(place: Path) -> Use:
    """Statistics that were kept: what is damaged is taken anew, and nothing is ever refused."""
    moments = Moments(torch.tensor(4.0), torch.ones(3), torch.ones(3))
    moments = Moments(*(part.double() for part in moments))
    known = Reference([moments] * 2, [False, True], torch.tensor([4, 0, 0, 0]),
                      torch.tensor([0.5, 1.0], dtype=torch.float64), 3)  # fmt: skip
    np.savez(place / "kept.npz", **known.pack())

    def use(chance: random.Random, folder: Path) -> None:
        path = folder / "kept.npz"
        arrays = known.pack()
        way = chance.choice(("arrays", "bytes"))
        if way == "arrays":
            name = chance.choice(list(arrays))
            value = np.asarray(arrays[name])
            odd = [value.astype(kind) for kind in (complex, object, np.int8)]
            odd += [value[None], value.ravel()[:1], np.array([None]), np.zeros(0)]
            odd += [np.asarray(x) for x in (None, 3, "x", ["a"])]
            arrays[name] = chance.choice(odd)
            if chance.random() < 0.2:
                del arrays[name]
            np.savez(path, **arrays)
        else:
            shutil.copy(place / "kept.npz", path)
            harm_file(chance, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = recall(path, num_layers=2)
        if found is None:
            raise Refused(f"reference: {path} is taken anew")
        kept = Reference.unpack(found)
        assert kept.counts.shape == (4,)
        for part in kept.moments:
            part.merge(moments if part.mean.shape == moments.mean.shape else part)

    return use


def downloads(place: Path) -> Use:
    """Files of torchvision's MNIST and CIFAR-10."""
    mnist(place)
    archive = place / "cifar-10-batches-py"
    archive.mkdir()
    for name, _ in (*datasets.CIFAR10.train_list, *datasets.CIFAR10.test_list):
        (archive / name).write_bytes(b"cos\nmkdir\n(S'HARM'\ntR.")

    def use(chance: random.Random, folder: Path) -> None:
        shutil.copytree(place, folder, dirs_exist_ok=True)
        kind = chance.choice((datasets.MNIST, datasets.MNIST, datasets.CIFAR10))
        for path in chance.sample(sorted(folder.rglob("*-ubyte")), 3):
            harm_file(chance, path)
        with inside(folder), as_the_command_says_it():
            try:
                data = build(kind, root=".", train=chance.random() < 0.5)
                found = build(ImageDataModule, data, size=8, channels=1, num_per_class=1)
                found._splits["predict"][torch.arange(1)]
            finally:
                _unharmed(folder)

    return use


def classifiers(place: Path) -> Use:
    """Weights of published classifiers, pickled and in safetensors."""
    torch.manual_seed(0)
    state = timm.create_model("test_vit").state_dict()

    def use(chance: random.Random, folder: Path) -> None:
        name = chance.choice(("weights.pth", "weights.safetensors", "weights.pt"))
        if name.endswith(".safetensors"):
            harmed = dict(state)
            if chance.random() < 0.4:
                first = chance.choice(list(harmed))
                harmed[first] = harmed[first].flatten()[:1].clone()
            save_file(harmed, folder / name)
            if chance.random() < 0.8:
                harm_file(chance, folder / name)
        else:
            _harm_checkpoint(chance, dict(state), folder / name)
        with inside(folder), as_the_command_says_it(), torch.no_grad():
            try:
                PretrainedClassifier("timm/test_vit", name)(torch.zeros(1, 3, 8, 8))
            finally:
                _unharmed(folder)

    return use


FILES = {
    "rules": Kind(rules),
    "checkpoints": Kind(checkpoints),
    "adm": Kind(adm),
    "pipelines": Kind(pipelines),
    "samples": Kind(samples),
    "images": Kind(images, weight=2),
    "folders": Kind(folders),
    "labels": Kind(labels),
    "hierarchy": Kind(hierarchy),
    "reference": Kind(reference),
    "downloads": Kind(downloads),
    "classifiers": Kind(classifiers),
}
