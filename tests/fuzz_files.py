"""Malformed files of every format that is read, for the classes that read them."""

import json
import random
import shutil
import warnings
from pathlib import Path

import numpy as np
import torch
import yaml
from fuzz import Kind, Rejected
from fuzz_images import downloads, folders, images, labels
from fuzz_mutations import mutate_tree
from fuzz_use import Use, as_reported, corrupt_file, corrupt_json
from fuzz_weights import adm, checkpoints, classifiers, pipelines
from sample_stores import batch, filled

from lit_hier.callbacks.reference import Reference, load, save
from lit_hier.data.hierarchy import read_hierarchy
from lit_hier.diffusion.store import SampleStore
from lit_hier.metrics import Moments
from lit_hier.modules import StoredSamples
from lit_hier.rhm.files import read_rules


def rules(source: Path) -> Use:
    """Files of a grammar's rules."""
    level = [[[0, 1], [1, 1]], [[1, 0], [0, 0]]]
    tree = {"num_features": 2, "rules": [level, level]}

    def use(rng: random.Random, folder: Path) -> None:
        path = folder / "rules.yaml"
        way = rng.choice(("tree", "tree", "bytes", "bomb"))
        text = json.dumps(mutate_tree(rng, tree) if way == "tree" else tree, skipkeys=True)
        path.write_text(text if way == "tree" else yaml.safe_dump(tree), errors="replace")
        if way == "bomb":
            lines = [f"x{k}: &x{k} [{', '.join([f'*x{k - 1}' if k else '0'] * 9)}]"
                     for k in range(9)]  # fmt: skip
            path.write_text("\n".join([*lines, f"rules: *x{rng.randrange(9)}"]))
        elif way == "bytes":
            corrupt_file(rng, path)
        with as_reported():
            read_rules(path).sample(2)

    return use


def samples(source: Path) -> Use:
    """Folders of samples."""
    _, x_start, _ = filled(source / "samples")

    def use(rng: random.Random, folder: Path) -> None:
        shutil.copytree(source / "samples", folder / "samples")
        files = sorted(path for path in (folder / "samples").rglob("*") if path.is_file())
        texts = [path for path in files if path.suffix == ".json"]
        if rng.random() < 0.6:
            corrupt_json(rng, rng.choice(texts))
        else:
            corrupt_file(rng, rng.choice([*files, *texts, files[0].parent]))
        images = batch(x_start, rng.choice([[4, 5, 6, 7, 8], [9, 10], [10, 4, 7]]))
        with as_reported():
            if rng.random() < 0.5:
                StoredSamples(str(folder / "samples")).sample(images)
            else:
                settings = {"seed": 0, "convention": "aligned"}
                store = SampleStore.create(folder / "samples", (0, 3, 25), 25, settings)
                store.finished(images.planned)
                store.load(images)

    return use


def hierarchy(source: Path) -> Use:
    """Files of a tree over classes."""
    text = "root animal\nroot thing\nanimal cat\nanimal dog\nthing spoon\nthing cat\n"

    def use(rng: random.Random, folder: Path) -> None:
        path = folder / "wordnet.is_a.txt"
        path.write_text(text)
        words = text.split()
        for _ in range(rng.randrange(4)):
            words[rng.randrange(len(words))] = rng.choice((*words, "a,b", "\x1b", "\u2028", ","))
        pairs = zip(words[::2], words[1::2], strict=True)
        path.write_text("".join(f"{parent} {child}\n" for parent, child in pairs))
        if rng.random() < 0.6:
            corrupt_file(rng, path)
        with as_reported():
            read_hierarchy(path, ["cat", "dog", "spoon"])

    return use


def reference(source: Path) -> Use:
    """Stored statistics: damaged ones are recomputed, and never an error."""
    moments = Moments(torch.tensor(4.0), torch.ones(3), torch.ones(3))
    moments = Moments(*(part.double() for part in moments))
    known = Reference([moments] * 2, [False, True], torch.tensor([4, 0, 0, 0]),
                      torch.tensor([0.5, 1.0], dtype=torch.float64), 3)  # fmt: skip
    save(source / "cached.npz", known)

    def use(rng: random.Random, folder: Path) -> None:
        path = folder / "cached.npz"
        with np.load(source / "cached.npz") as cached:
            arrays = dict(cached)
        way = rng.choice(("arrays", "bytes"))
        if way == "arrays":
            name = rng.choice(list(arrays))
            value = np.asarray(arrays[name])
            odd = [value.astype(kind) for kind in (complex, object, np.int8)]
            odd += [value[None], value.ravel()[:1], np.array([None]), np.zeros(0)]
            odd += [np.asarray(x) for x in (None, 3, "x", ["a"])]
            arrays[name] = rng.choice(odd)
            if rng.random() < 0.2:
                del arrays[name]
            np.savez(path, **arrays)
        else:
            shutil.copy(source / "cached.npz", path)
            corrupt_file(rng, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = load(path, num_layers=2)
        if found is None:
            raise Rejected(f"reference: {path} is recomputed")
        cached = Reference.unpack(found)
        assert cached.counts.shape == (4,)
        for part in cached.moments:
            part.merge(moments if part.mean.shape == moments.mean.shape else part)

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
