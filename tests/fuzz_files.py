"""Hostile files of every format that is read, for the classes that read them."""

import contextlib
import csv
import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import yaml
from conftest import random_pipeline
from fuzz_hostile import contents, nested
from fuzz_images import folders, images, labels
from fuzz_sandbox import Trial, run_forked
from fuzz_use import (
    FILE,
    NAME,
    VALUE,
    Use,
    change_file,
    change_json,
    change_tree,
    corrupt_bytes,
    used,
)
from fuzz_weights import adm, checkpoints, classifiers, pipelines
from image_runs import Net, predict, sampler

from lit_hier.callbacks import ActivationSimilarity
from lit_hier.callbacks import reference as reference_module
from lit_hier.data.hierarchy import read_hierarchy
from lit_hier.metrics import Moments
from lit_hier.modules import StoredSamples
from lit_hier.rhm.files import read_rules

DATA = {"num_predict": 7, "num_test": 8, "eval_batch_size": 5}
STEPS: dict[str, Any] = {"times": [0.0, 1.0, 2.0], "num_steps": 2}


def rules(source: Path) -> Use:
    """Files of a grammar's rules."""
    level = [[[0, 1], [1, 1]], [[1, 0], [0, 0]]]
    tree = {"num_features": 2, "rules": [level, level]}

    def use(trial: Trial) -> None:
        path = trial.folder / "rules.yaml"
        way = trial.choose(*VALUE, *FILE)
        changed: Any = tree
        if way in VALUE and way not in NAME:
            changed = change_tree(trial, tree)
        path.write_text(json.dumps(changed, skipkeys=True), errors="replace")
        given = path.name
        if way == "nesting" and trial.rng.random() < 0.5:
            lines = [f"x{k}: &x{k} [{', '.join([f'*x{k - 1}' if k else '0'] * 9)}]"
                     for k in range(9)]  # fmt: skip
            path.write_text("\n".join([*lines, f"rules: *x{trial.rng.randrange(9)}"]))
        elif way == "sizes" and trial.rng.random() < 0.5:
            large = [[[0] * 2] * 10_000] * 2
            path.write_text(yaml.safe_dump({"num_features": 2, "rules": [large]}))
        elif way in (*FILE, *NAME):
            given = change_file(trial, path)
        with used(trial):
            read_rules(given).sample(2)

    return use


def _run(trial: Trial, **analyses: Any) -> Path:
    """Run forward-backward on digits in the working directory of a trial."""
    model = sampler("pipeline", Path("samples"), **STEPS)
    return predict(trial.folder, model, analyses.get("callbacks", []), **DATA)


def _prepare_run(source: Path, *callbacks: Any) -> None:
    """Run in another process: this one must not start threads."""

    def run(writer: int) -> None:
        with contextlib.chdir(source):
            model = sampler("pipeline", Path("samples"), **STEPS)
            predict(source, model, list(callbacks), **DATA)

    random_pipeline(source / "pipeline", channels=1)
    run_forked(run, 60)
    assert (source / "samples/manifest.json").exists()


def _change_picture(trial: Trial, folder: Path) -> None:
    """Replace a picture by another format, with its digest in the record of the batch."""
    rng = trial.rng
    record = rng.choice(sorted((folder / "batches").glob("*.json")))
    batch = json.loads(record.read_text())
    name = rng.choice(sorted(batch["sha256"]))
    column = rng.randrange(len(batch["index"]))
    content = rng.choice(list(contents().values()))
    (folder / name / f"{batch['index'][column]:08d}.png").write_bytes(content)
    batch["sha256"][name][column] = hashlib.sha256(content).hexdigest()
    record.write_text(json.dumps(batch))


def samples(source: Path) -> Use:
    """Folders of kept samples: manifest, records, pictures, lock; reading and going on."""
    _prepare_run(source)

    def use(trial: Trial) -> None:
        rng = trial.rng
        shutil.copytree(source, trial.folder, dirs_exist_ok=True)
        folder = trial.folder / "samples"
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        texts = [path for path in files if path.suffix == ".json"]
        way = trial.choose(*VALUE, *FILE, "formats", "formats", "links", "links", "unfinished")
        if way == "unfinished":
            # The run goes on where links wait for it.
            for path in rng.sample(texts, 2):
                path.unlink()
            trial.change = "links"
            places = [
                folder / name
                for name in (
                    "start",
                    "k_0001",
                    "batches",
                    ".lock",
                    "start/00000003.png",
                    "k_0002/00000001.png",
                    "batches/00000000.json",
                    "manifest.json",
                )
            ]
            change_file(trial, rng.choice(places))
        elif way == "formats" and rng.random() < 0.7:
            _change_picture(trial, folder)
        elif way in FILE:
            subfolders = sorted(path for path in folder.iterdir() if path.is_dir())
            change_file(trial, rng.choice([*files, *texts, *subfolders, folder / ".lock"]))
        elif trial.hostile:
            change_json(trial, rng.choice(texts))
        with used(trial):
            if rng.random() < 0.5:
                predict(trial.folder, StoredSamples("samples"), [], **DATA)
            else:
                _run(trial)

    return use


def reference(source: Path) -> Use:
    """Cached statistics of a reference set: harmed ones are computed again."""
    _prepare_run(source, ActivationSimilarity(Net(), ["0", "1"]))
    cached = next((source / "logs/reference").glob("*.npz"))
    expected = _similarities(next((source / "logs/run").iterdir()))

    def use(trial: Trial) -> None:
        rng = trial.rng
        shutil.copytree(source, trial.folder, dirs_exist_ok=True)
        path = trial.folder / cached.relative_to(source)
        way = trial.choose("types", "types", "values", "values", "ranges", "keys", *FILE)
        compute = reference_module._compute
        if way in ("types", "keys", "values"):
            with np.load(cached) as file:
                arrays = dict(file)
            _change_arrays(rng, way, arrays)
            np.savez(path, **arrays)
        elif way == "ranges":
            # With its right digest, whatever that is: the program writes it.
            path.unlink()

            def harmed(*given: Any) -> Any:
                return _change_reference(rng, compute(*given))

            with (
                patch.object(reference_module, "_compute", harmed),
                contextlib.suppress(Exception),
            ):
                _run(trial, callbacks=[ActivationSimilarity(Net(), ["0", "1"])])
        elif trial.hostile:
            change_file(trial, path)
        with used(trial):
            run = _run(trial, callbacks=[ActivationSimilarity(Net(), ["0", "1"])])
        if not np.array_equal(_similarities(run), expected, equal_nan=True):
            trial.must_reject = "the harmed statistics were used"

    return use


def _similarities(run: Path) -> Any:
    with (run / "similarity.csv").open() as file:
        return np.array([float(row["mean"]) for row in csv.DictReader(file)])


def _change_arrays(rng: random.Random, way: str, arrays: dict[str, Any]) -> None:
    """Change one of the arrays of a file."""
    name = rng.choice(list(arrays))
    value = np.asarray(arrays[name])
    if way == "keys":
        if rng.random() < 0.5:
            arrays[f"{name}_"] = value
        del arrays[name]
    elif way == "values":
        if value.dtype.kind == "f":
            arrays[name] = value + rng.choice((1.0, 0.1, 1e-3))
        else:
            arrays[name] = ~value if value.dtype.kind == "b" else value[::-1].copy() if (
                value.ndim) else value + 1  # fmt: skip
    else:
        odd = [value.astype(kind) for kind in (complex, object, np.int8, np.float16, "U9")]
        odd += [value[None], value.ravel()[:1], np.array([None]), np.zeros(0), np.zeros((2, 0, 3))]
        odd += [np.asarray(x) for x in (None, 3, "x", ["a"])]
        odd += [np.zeros(0, dtype=[("a", "f8")]), np.array(nested(20), dtype=object)]
        arrays[name] = rng.choice(odd)


def _change_reference(rng: random.Random, found: Any) -> Any:
    """Return statistics that no reference set has."""
    values = {
        "moments": found.moments, "without_positions": found.without_positions,
        "counts": found.counts, "accuracy": found.accuracy, "num_logits": found.num_logits,
    }  # fmt: skip
    first = found.moments[0]
    odd = [
        Moments(first.size, first.mean, -first.squares - 1),
        Moments(-first.size, first.mean, first.squares),
        Moments(first.size, first.mean * torch.nan, first.squares),
        Moments(first.size, first.mean, first.squares * torch.inf),
        Moments(first.size * 0, first.mean, first.squares),
    ]
    values |= rng.choice((
        *({"moments": [moments, *found.moments[1:]]} for moments in odd),
        {"counts": -found.counts - 1},
        {"accuracy": found.accuracy + 2},
        {"accuracy": found.accuracy - 3},
        {"num_logits": -4},
    ))  # fmt: skip
    return type(found)(**values)


def hierarchy(source: Path) -> Use:
    """Files of a tree over classes."""
    text = "root animal\nroot thing\nanimal cat\nanimal dog\nthing spoon\nthing cat\n"
    many = [f"c{k}" for k in range(1000)]

    def use(trial: Trial) -> None:
        rng = trial.rng
        path = trial.folder / "wordnet.is_a.txt"
        path.write_text(text)
        given, names = path.name, ["cat", "dog", "spoon"]
        way = trial.choose("keys", "sizes", "bytes", *FILE, *NAME)
        if way == "keys":
            words = text.split()
            for _ in range(1 + rng.randrange(3)):
                words[rng.randrange(len(words))] = rng.choice((*words, "a,b", "\x1b", "\u2028"))
            pairs = zip(words[::2], words[1::2], strict=True)
            path.write_text("".join(f"{parent} {child}\n" for parent, child in pairs))
        elif way == "sizes":
            depth, names = rng.choice((1000, 20_000)), many
            edges = [f"n{k} n{k + 1}" for k in range(depth)]
            edges += [f"n{depth} {name}" for name in many]
            if rng.random() < 0.3:  # many parents of each
                edges = [f"n{a} n{b}" for a in range(200) for b in range(a + 1, 200)]
                edges += [f"n{a} {name}" for a in range(0, 200, 7) for name in many]
            elif rng.random() < 0.3:
                edges = [f"root {'x' * 10**5}{k}" for k in range(9)] + [f"root {c}" for c in many]
            path.write_text("\n".join(edges))
        elif trial.hostile:
            given = change_file(trial, path)
            if path.is_file() and way == "bytes":
                corrupt_bytes(rng, path)
        with used(trial):
            read_hierarchy(given, names)

    return use


FILES = {
    "rules": rules,
    "checkpoints": checkpoints,
    "adm": adm,
    "classifiers": classifiers,
    "pipelines": pipelines,
    "samples": samples,
    "images": images,
    "folders": folders,
    "labels": labels,
    "hierarchy": hierarchy,
    "reference": reference,
}
