"""Hostile values: paths, links, special files, foreign formats, archives, sizes, class paths."""

import gzip
import io
import math
import os
import pickle
import random
import shutil
import socket
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attack import EXECUTED, Attack
from fuzz_sandbox import Trial
from PIL import Image

LENGTH = 5000  # characters of a path that no file system has

FILES = ("weights.ckpt", "notes.txt", "data.json", "a.png", "table.csv", "checkpoints/a.ckpt",
         "checkpoints/last.ckpt", "harm.py")  # fmt: skip
FOLDERS = ("checkpoints", "pipeline", "samples", "empty", "")


def path_outside(rng: random.Random, trial: Trial, places: Sequence[str] = ()) -> str:
    """Return a path to something outside the run's folder, in one of many spellings."""
    target = trial.outside / rng.choice(places or (*FILES, *FOLDERS))
    relative = os.path.relpath(target, trial.folder)
    return rng.choice((
        str(target), relative, f"./logs/../{relative}", f"logs/../../run/{relative}",
        relative.replace("/", "\\"), f"//{target}", f"{target}/", f"{target}/.",
        "~/precious", "~/precious/a.ckpt", "~/weights.ckpt", "$HOME/precious", "..", "../..",
        f"{target}\0.ckpt", f"{relative}\n", "x" * LENGTH, f"../{'y/' * LENGTH}", "", ".", " ",
        "C:\\outside\\weights.ckpt", "\\\\host\\share\\x.ckpt", "-rf", "*", f"{target}*",
    ))  # fmt: skip


def path_with_protocol(rng: random.Random, trial: Trial, places: Sequence[str] = ()) -> str:
    """Return a path outside with a protocol that fsspec and others know in front."""
    target = trial.outside / rng.choice(places or (*FILES, *FOLDERS))
    return rng.choice((
        f"file://{target}", f"file:{target}", f"local://{target}", f"memory://{target}",
        f"simplecache::file://{target}", f"filecache::file://{target}", f"dir::file://{target}",
        f"blockcache::local://{target}", f"FILE://{target}", f"file://localhost{target}",
        f"zip://x::file://{target}", f"tar://x::file://{target}", f"libarchive://x::{target}",
        f"reference::{target}", f"github://a:b@{target}", f"git://{target}", f"sftp://h{target}",
    ))  # fmt: skip


def address(rng: random.Random) -> str:
    """Return an address in a network."""
    return rng.choice((
        "http://127.0.0.1:9/x.ckpt", "https://localhost/x.pt", "ftp://127.0.0.1/x", "s3://a/b",
        "gs://a/b", "hf://a/b", "simplecache::http://127.0.0.1:9/x", "//127.0.0.1/x",
        "http://169.254.169.254/latest", "hf-hub:a/b", "local-dir:../outside", "az://a/b",
    ))  # fmt: skip


def odd_type(rng: random.Random) -> Any:
    """Return a value of a type that is rarely meant."""
    return rng.choice((
        "3", "1e3", "nan", True, False, None, math.nan, math.inf, 1e300, float("1e400"), 10**30,
        -1, -(2**63), 0.5, [], {}, [[]], [None], {"a": 1}, {"": ""}, [1, "a", None],
        "\0", "\ud7ff", "\x1b[31m", "two\nlines", {1: 2}, [True], [1.0], [math.nan],
    ))  # fmt: skip


def huge(rng: random.Random) -> Any:
    """Return a number, a text or a list that is much larger than expected."""
    return rng.choice((
        10**6, 10**7, 10**9, 10**12, 2**31, 2**63, 10**400, -(10**9), 1e18,
        "x" * 10**6, list(range(8000)), list(range(50_000)), [0.5] * 8000, ["a"] * 8000,
        {f"k{k}": k for k in range(8000)}, [10**9] * 4,
    ))  # fmt: skip


def nested(levels: int, kind: type = list) -> Any:
    """Return a value inside many lists or mappings."""
    value: Any = 1
    for _ in range(levels):
        value = [value] if kind is list else {"a": value}
    return value


def laughs(levels: int) -> Any:
    """Return nine lists of nine lists ... that share their parts: small, until it is expanded."""
    value: Any = ["ha"] * 9
    for _ in range(levels):
        value = [value] * 9
    return value


def deep(rng: random.Random) -> Any:
    """Return a value that is nested deeply."""
    return nested(rng.choice((30, 60, 200, 900)), rng.choice((list, dict)))


CLASSES = (
    *("os.system", "builtins.eval", "builtins.exec", "subprocess.Popen"),
    *("importlib.import_module", "torch.hub.load", "torch.load", "pickle.loads"),
    *("harm.Harm", "runpy.run_path", "harm", "this", "antigravity.webbrowser"),
    *("idlelib.idle.x", "webbrowser.open", "shutil.rmtree"),
    *("lightning_fabric.utilities.registry._register_classes", "lightning_fabric.Fabric"),
    *("lightning_fabric.utilities.imports.RequirementCache",),
    *("torch.nn.utils.prune.BasePruningMethod",),
    *("lightning_utilities.core.imports.RequirementCache",),
    *("pytorch_lightning.cli.LightningCLI",),
    *("lightning_utilities.core.imports.LazyModule",),
    *("lightning_utilities.core.imports.ModuleAvailableCache",),
    *("lightning_fabric.accelerators.registry._AcceleratorRegistry",),
    *("torch.package.PackageImporter", "lightning_fabric.loggers.TensorBoardLogger"),
    *("lightning_fabric.plugins.io.TorchCheckpointIO",),
    *("lightning_fabric.strategies.registry._StrategyRegistry",),
    *("pytorch_lightning.Trainer",),
    *("lightning_fabric.plugins.environments.MPIEnvironment",),
    *("lightning_fabric.CSVLogger", "pytorch_lightning.loggers.WandbLogger"),
    *("pytorch_lightning.loggers.MLFlowLogger", "pytorch_lightning.loggers.CometLogger"),
    *("pytorch_lightning.loggers.NeptuneLogger",),
    *("pytorch_lightning.callbacks.OnExceptionCheckpoint",),
    *("pytorch_lightning.callbacks.LambdaCallback",),
    *("pytorch_lightning.profilers.AdvancedProfiler",),
    *("pytorch_lightning.profilers.PyTorchProfiler",),
    *("pytorch_lightning.strategies.DeepSpeedStrategy", "pytorch_lightning.tuner.Tuner"),
    *("pytorch_lightning.plugins.io.AsyncCheckpointIO",),
    *("pytorch_lightning.LightningModule",),
    *("pytorch_lightning.plugins.environments.LSFEnvironment", "torch.nn.Linear"),
    *("torch.nn.Module", "diffusers.DiffusionPipeline", "diffusers.UNet2DModel"),
    *("diffusers.DDIMScheduler", "diffusers.AutoencoderKL"),
    *("diffusers.ModelMixin.from_pretrained", "timm.create_model"),
    *("torchvision.datasets.DatasetFolder", "torchvision.datasets.LSUN"),
    *("torchvision.datasets.Kinetics", "torchvision.datasets.FakeData"),
    *("torchvision.transforms.Lambda", "torchvision.models.get_model"),
    *("torchvision.datasets.utils.extract_archive", "torchvision.transforms.v2.Lambda"),
    *("torch.optim.Adam", "torch.utils.data.DataLoader", "torch.jit.load"),
    *("torch.classes.load_library", "logging.config.fileConfig", "unittest.mock.patch"),
    *("jsonargparse.set_parsing_settings", "lit_hier.cli.main"),
    *("lit_hier.io.atomic.atomic_write", "pathlib.Path", "io.open"),
)  # fmt: skip


def class_path(rng: random.Random) -> Any:
    """Return a class, a function or a module as configs name them, with arguments."""
    name = rng.choice(CLASSES)
    given = rng.choice((
        {}, {"command": "touch EXECUTED"}, {"args": "touch EXECUTED"}, {"name": "harm"},
        {"module": "harm"}, {"requirement": "harm", "module": "harm"}, {"path": "harm.py"},
        {"root": ".", "download": True}, {"save_dir": "../outside"}, {"dirpath": "../outside"},
        {"module_name": "harm"}, {"version": "../../outside", "save_dir": "."},
    ))  # fmt: skip
    return rng.choice((
        name, {"class_path": name}, {"class_path": name, "init_args": given},
        {"class_path": name, "dict_kwargs": given}, [{"class_path": name, "init_args": given}],
        {"x": {"class_path": name, "init_args": given}}, f"{name}.__init__", f"{name}:harm",
    ))  # fmt: skip


@cache
def contents() -> dict[str, bytes]:
    """Return files of other formats than those that are meant, some of them bombs."""
    picture = Image.fromarray(np.arange(90, dtype=np.uint8).reshape(6, 5, 3))
    found = {}
    for kind in ("GIF", "TIFF", "BMP", "JPEG", "PPM", "PCX", "TGA", "ICO", "WEBP", "PDF"):
        with io.BytesIO() as file:
            picture.save(file, kind)
            found[kind] = file.getvalue()
    for name, image in (("deep.png", picture.convert("I;16")),
                        ("palette.png", picture.convert("P")),
                        ("alpha.png", picture.convert("RGBA")), ("grey.png", picture.convert("L")),
                        ("line.png", Image.new("RGB", (4000, 1)))):  # fmt: skip
        with io.BytesIO() as file:
            image.save(file, "PNG")
            found[name] = file.getvalue()
    eps = io.BytesIO()
    picture.save(eps, "EPS")
    found["EPS"] = eps.getvalue()
    found["DOS EPS"] = b"\xc5\xd0\xd3\xc6\x1e\0\0\0" + bytes(22) + eps.getvalue()
    found["SVG"] = (
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    )
    found["WMF"] = b"\xd7\xcd\xc6\x9a\0\0" + bytes(40)
    found["FPX"] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
    found["pickle"] = pickle.dumps(Attack())
    found["pickle of eval"] = b'cbuiltins\neval\n(S\'__import__("os").mkdir("EXECUTED")\'\ntR.'
    with io.BytesIO() as file:
        torch.save(Attack(), file)
        found["torch"] = file.getvalue()
    found["gzip"] = gzip.compress(bytes(2**26))
    found["zip"] = archive("zip")
    found["tar"] = archive("tar")
    found["npy of objects"] = _objects()
    found["zip bomb"] = _zip_bomb()
    found["html"] = b"<html><script src='http://127.0.0.1:9/x'></script></html>"
    found["php"] = b"#!/bin/sh\ntouch EXECUTED\n"
    found["safetensors header"] = (2**60).to_bytes(8, "little") + b"{}"
    found["json"] = b"[" * 100_000
    found["empty"] = b""
    return found


def _objects() -> bytes:
    with io.BytesIO() as file:
        np.save(file, np.array([Attack()], dtype=object), allow_pickle=True)
        return file.getvalue()


def _zip_bomb() -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
            for name in ("archive/data.pkl", "counts.npy"):
                with packed.open(name, "w", force_zip64=True) as member:
                    for _ in range(20):
                        member.write(bytes(2**22))
        return file.getvalue()


def archive(kind: str, mode: str = "") -> bytes:
    """Return an archive with members that lead outside: by their names, or by links.

    Args:
        kind: `zip` or `tar`.
        mode: Compression of a tar, as of `tarfile`.
    """
    file = io.BytesIO()
    names = ("../outside/unpacked.txt", "../../outside/unpacked.txt", "unpacked.txt",
             "../../../outside/unpacked.txt", "x/a.png", "../outside/notes.txt")  # fmt: skip
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as packed:
            for name in names:
                packed.writestr(name, f"{EXECUTED}\n")
    else:
        with tarfile.open(fileobj=file, mode=f"w:{mode}") as packed:
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, "../outside"
            packed.addfile(link)
            for name in (*names, "link/unpacked.txt"):
                member = tarfile.TarInfo(name)
                member.size = 9
                packed.addfile(member, io.BytesIO(b"EXECUTED\n"))
    return file.getvalue()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link(rng: random.Random, path: Path, trial: Trial) -> None:
    """Replace a file or a folder by a link: to itself moved outside, to others, in a circle."""
    way = rng.choice(("moved", "moved", "moved", "dangling", "circle", "parent", "other", "hard"))
    if way in ("moved", "hard") and path.exists():
        moved = trial.outside / f"moved_{path.name}"
        shutil.move(path, moved)
        if way == "hard" and moved.is_file():
            os.link(moved, path)
        else:
            path.symlink_to(moved, moved.is_dir())
        return
    _remove(path)
    targets = {
        "circle": path.name,
        "parent": "..",
        "other": trial.outside / rng.choice((*FILES, *FOLDERS)),
    }
    path.symlink_to(targets.get(way, trial.outside / "dangling"))


def _become_socket(path: Path) -> None:
    before = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(path.name[:90])
    os.chdir(before)


SPECIAL: tuple[Callable[[Path], object], ...] = (
    lambda path: os.mkfifo(path),
    _become_socket,
    lambda path: path.mkdir(),
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.symlink_to("/dev/null"),
    lambda path: path.symlink_to("/dev/stdin"),
    lambda path: path.symlink_to("/dev/full"),
    lambda path: path.symlink_to("/proc/self/fd/0"),
    lambda path: path.symlink_to("/proc/self/mem"),
)


def special(rng: random.Random, path: Path) -> None:
    """Replace a file or a folder by a pipe, a socket, a device, a folder."""
    _remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rng.choice(SPECIAL)(path)


def special_path(rng: random.Random, trial: Trial) -> str:
    """Return the path of a pipe, a device or a socket."""
    pipe = trial.folder / "special"
    special(rng, pipe)
    return rng.choice(("/dev/zero", "/dev/stdin", "/dev/null", "/proc/self/fd/0", "special",
                       str(pipe)))  # fmt: skip


def foreign(rng: random.Random, path: Path) -> None:
    """Replace a file's content by another format's."""
    path.write_bytes(rng.choice(list(contents().values())))


def tensors(value: torch.Tensor) -> tuple[Any, ...]:
    """Return what may stand in place of a tensor: other shapes, types, layouts, no tensors."""
    flat = value.detach().flatten()
    found: tuple[Any, ...] = (
        flat.clone(), value[None].clone(), torch.zeros(0), torch.zeros(1).expand(10**6, 10**6),
        flat[:1].as_strided((3, 3), (0, 0)), torch.empty(value.shape, device="meta"),
        value.to(torch.complex64), value.long(), value.bool(), value.double(), value.half(),
        value.to(torch.float8_e4m3fn), value.float() * torch.nan, value.float() * torch.inf,
        torch.zeros(2, 3).to_sparse(), torch.eye(3).to_sparse_csr(),
        torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        torch.zeros(()), torch.zeros(10**6), "text", None, 3, [1.0], {"a": 1}, laughs(7),
    )  # fmt: skip
    return found
