"""Checkpoints from others: bounded before they are built, and never a path to write or remove."""

import itertools
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT, random_pipeline, rejection, run_in
from hostile_checkpoints import FILES, VALUES, long_legacy, safetensors_header
from pytorch_lightning.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save_file

from lit_hier.cli.checkpoint_io import AtomicCheckpointIO, _resolve_paths
from lit_hier.diffusion.pipelines import check_target, write_pipeline
from lit_hier.diffusion.pretrained import load_pretrained
from lit_hier.errors import InputError
from lit_hier.io.checkpoints import load_state, read_checkpoint, read_state_dict

FIT = (
    *("fit", "-c", str(ROOT / "configs/demo_classifier.yaml"), "--model.init_args.width=4"),
    *("--data.init_args.num_train=64", "--data.init_args.num_val=8"),
    "--data.init_args.num_predict=8",
    *("--data.init_args.num_test=8", "--data.init_args.rhm.init_args.num_layers=2"),
    *("--data.init_args.batch_size=32", "--trainer.enable_progress_bar=false"),
    *("--trainer.enable_model_summary=false", "--trainer.callbacks=ModelCheckpoint"),
    *("--trainer.callbacks.dirpath=best", "--trainer.callbacks.save_top_k=2"),
    *("--trainer.callbacks.monitor=val/loss", "--trainer.callbacks.filename={epoch}"),
    *("--trainer.callbacks.save_last=true", "--trainer.callbacks+=EarlyStopping"),
    *("--trainer.callbacks.monitor=val/loss", "--trainer.callbacks.patience=100"),
)


def some(values: Iterable[Any], *fast: Any) -> list[Any]:
    """Return the values as parameters, of which all but the fast ones are slow."""
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)),
            marks=() if value in fast else pytest.mark.slow,
        )
        for value in values
    ]


QUIET = pytest.mark.filterwarnings(
    "ignore:Checkpoint directory", "ignore:The dirpath has changed", "ignore:Be aware"
)


@pytest.mark.filterwarnings("ignore:.*quantize", "ignore:.*nested tensors")
@pytest.mark.parametrize("kind", VALUES)
def test_a_checkpoint_is_bounded_before_anything_is_made_of_it(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {"x": VALUES[kind]()}}, path)
    with pytest.raises(InputError, match=rf"^weights: {path} is not a tensors-only checkpoint"):
        read_checkpoint(path, "weights")


@pytest.mark.parametrize("write", some(FILES, *(set(FILES) - {long_legacy})))
def test_a_file_of_torch_is_bounded_before_it_is_read(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "weights.ckpt"
    write(path)
    begin = time.monotonic()
    with pytest.raises(InputError, match=rf"^weights: {path} is not a tensors-only checkpoint"):
        read_checkpoint(path, "weights")
    assert time.monotonic() - begin < 10


def test_files_of_old_versions_of_torch_are_read(tmp_path: Path) -> None:
    state = {"x": torch.arange(3.0), "y": torch.ones(2, 3).half()}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    found = read_state_dict(tmp_path / "old.pth", "weights", "give another")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("length", "header"),
    [
        (2**62, b"{}"),
        (3, b"{}"),
        (2, b"[]"),
        (2, b'{"'),
        (0, b'{"x": {"dtype": "F32", "shape": [1000000, 1000000], "data_offsets": [0, 4]}}'),
        (0, b'{"x": {"dtype": "F32", "shape": ["3"], "data_offsets": [0, 4]}}'),
        (0, b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'),
    ],
)
def test_headers_of_safetensors_are_checked(length: int, header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors_header(length or len(header), header))
    with pytest.raises(InputError, match=rf"^weights: {path} is damaged; give another"):
        read_state_dict(path, "weights", "give another")


def _without_a_tensor(state: dict[str, Any]) -> None:
    del state["conv_in.weight"]


def _with_another(state: dict[str, Any]) -> None:
    state["other.weight"] = torch.zeros(2)


def _with_another_shape(state: dict[str, Any]) -> None:
    state["conv_in.weight"] = state["conv_in.weight"].flatten().contiguous()


def _with_integers(state: dict[str, Any]) -> None:
    state["conv_in.weight"] = state["conv_in.weight"].long()


def _with_infinity(state: dict[str, Any]) -> None:
    state["conv_in.weight"] = state["conv_in.weight"].double() * 1e300


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (_without_a_tensor, "conv_in.weight is missing"),
        (_with_another, "other.weight is unexpected"),
        (_with_another_shape, "conv_in.weight has another shape"),
        (_with_integers, "not all floating-point numbers: conv_in.weight"),
        (_with_infinity, "conv_in.weight has values that are not finite"),
    ],
)
@pytest.mark.parametrize("suffix", some([".safetensors", ".bin"], ".safetensors"))
def test_a_pipeline_has_all_tensors_and_no_others(
    harm: Callable[[dict[str, Any]], None], reason: str, suffix: str, tmp_path: Path
) -> None:
    folder = Path(random_pipeline(tmp_path / "pipeline", channels=1))
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    harm(state)
    weights.unlink()
    (save_file if suffix == ".safetensors" else torch.save)(state, weights.with_suffix(suffix))
    with pytest.raises(
        InputError, match=rf"^pretrained: cannot load {folder}: .*{reason}"
    ) as error:
        load_pretrained(str(folder))
    assert len(str(error.value)) < 360


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.ones(2, dtype=torch.int64), "x.weight is torch.int64, not torch.float32"),
        (torch.ones(2, dtype=torch.bool), "x.weight is torch.bool"),
        (torch.ones(2, dtype=torch.complex64), "x.weight is torch.complex64"),
        (torch.full((2,), 1e300, dtype=torch.float64), "x.weight has values that are not finite"),
        (torch.tensor([1, torch.nan]), "x.weight has values that are not finite"),
        (torch.ones(2, dtype=torch.float16), None),
    ],
)
def test_weights_of_another_kind_of_number_are_refused(value: torch.Tensor, reason: str) -> None:
    network = torch.nn.ModuleDict({"x": torch.nn.LayerNorm(2, bias=False)})
    network.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    state = {"x.weight": value, "mask": torch.tensor([0.0, -torch.inf])}
    if reason is None:
        load_state(network, state, "weights: file", "a network", "give another")
        assert torch.equal(network["x"].weight, torch.ones(2))
        return
    with pytest.raises(InputError, match=rf"^weights: file.* {reason}.*; give another$"):
        load_state(network, state, "weights: file", "a network", "give another")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"block_out_channels": [8, 400_000]}, "has another shape"),
        ({"layers_per_block": 900_000}, "more layers than its weights have"),
        ({"sample_size": 10**12}, "is above 1000000"),
        ({"quantization_config": {"quant_method": "gguf"}}, "describes quantized weights"),
    ],
)
def test_settings_of_a_pipeline_allocate_no_more_than_its_weights(
    settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    folder = Path(random_pipeline(tmp_path / "pipeline", channels=1))
    path = folder / "unet/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(InputError, match=reason):
        load_pretrained(str(folder))


def test_weights_in_parts_stay_in_their_folder(tmp_path: Path) -> None:
    folder = Path(random_pipeline(tmp_path / "pipeline", channels=1))
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    part = weights.with_name("diffusion_pytorch_model-00001-of-00001.safetensors")
    names = dict.fromkeys(load_file(weights), part.name)
    weights.rename(part)
    index = weights.with_name(f"{weights.name}.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert load_pretrained(str(folder))[0].config.sample_size == 8
    shutil.copy(part, tmp_path / part.name)
    names["conv_in.weight"] = f"../../{part.name}"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    with pytest.raises(InputError, match="names files that are not its own"):
        load_pretrained(str(folder))


def test_a_pipeline_replaces_no_other_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(random_pipeline(tmp_path / "pipeline", channels=1))
    check_target(folder, "save_to")
    model, scheduler = load_pretrained(str(folder))
    (folder / "notes.txt").write_text("mine")
    (folder / "unet/samples").mkdir()
    (folder / "unet/samples/0.png").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/config.json").write_text("mine")
    shutil.rmtree(folder / "scheduler")
    (folder / "scheduler").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="holds something other than a pipeline"):
        check_target(folder, "save_to")
    with caplog.at_level(logging.WARNING, logger="lit_hier"):
        write_pipeline(model, scheduler, folder)
    check_target(folder, "save_to")
    (kept,) = tmp_path.glob("pipeline.*.old")
    assert str(kept) in caplog.text
    found = {path.name for path in kept.rglob("*") if path.is_file()}
    assert found == {"notes.txt", "0.png"}
    assert (tmp_path / "elsewhere/config.json").read_text() == "mine"
    link = tmp_path / "link"
    link.symlink_to(folder)
    write_pipeline(model, scheduler, link)
    assert link.is_symlink()
    check_target(link, "save_to")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("a file/pipeline", "Not a directory"),
        ("loop/pipeline", "symbolic links"),
        ("logs", "other than"),
    ],
)
def test_a_target_that_cannot_be_written_is_found_before_training(
    folder: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    line = rejection(
        tmp_path, capsys, "fit", "-c", str(ROOT / "configs/digits_ddpm.yaml"),
        f"--model.init_args.save_to={folder}", "--model.init_args.widths=[8]",
        "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
    )  # fmt: skip
    assert line.startswith("save_to: ")
    assert reason in line
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "argument",
    [
        "--trainer.callbacks.dirpath=a file/weights",
        "--trainer.default_root_dir=a file/root",
        "--trainer.callbacks.dirpath=memory://weights",
        "--trainer.default_root_dir=memory://root",
    ],
)
def test_folders_of_the_trainer_are_tried_before_training(
    argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a file").write_text("mine")
    arguments = [*FIT, "--trainer.callbacks+=ModelCheckpoint", argument]
    line = rejection(tmp_path, capsys, *arguments)
    name = (
        "default_root_dir" if "root" in argument else r"callbacks(: dirpath of Model|\.dirpath is)"
    )
    assert re.match(rf"trainer\.{name}", line)
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train for three epochs, and keep the two best checkpoints."""
    folder = tmp_path_factory.mktemp("best")
    run_in(folder, *FIT, "--trainer.max_epochs=3")
    return folder


def _copy(trained: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Copy a run, and return its last checkpoint, whose paths name the copy."""
    shutil.copytree(trained / "best", folder / "best")
    path = folder / "best/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    text = {str(trained): str(folder)}

    def move(value: Any) -> Any:
        if isinstance(value, dict):
            return {move(key): move(item) for key, item in value.items()}
        if isinstance(value, str):
            return value.replace(*next(iter(text.items())))
        return value

    checkpoint["callbacks"] = move(checkpoint["callbacks"])
    return path, checkpoint


def _keeper(checkpoint: dict[str, Any]) -> dict[str, Any]:
    states: dict[str, Any] = checkpoint["callbacks"]
    return next(state for key, state in states.items() if key.startswith("ModelCheckpoint"))


HOSTILE = {
    "above": "{best}/../victim",
    "absolute": "{victim}",
    "protocol": "file://{victim}",
    "chained": "simplecache::file://{victim}",
    "memory": "memory://{victim}",
    "windows": "{best}\\..\\victim",
    "folder": "{best}/folder.ckpt",
    "link": "{best}/link.ckpt",
    "long": "{best}/" + "x" * 5000 + ".ckpt",
    "null": "{victim}\0.ckpt",
}


@QUIET
@pytest.mark.parametrize(
    ("kind", "entry"),
    some(
        [
            *((kind, "best_k_models") for kind in HOSTILE),
            *itertools.product(("above", "protocol"), ("best_model_path", "last_model_path")),
        ],
        ("above", "best_k_models"),
    ),
)
def test_a_checkpoint_names_nothing_that_is_removed(
    trained: Path, tmp_path: Path, kind: str, entry: str
) -> None:
    path, checkpoint = _copy(trained, tmp_path)
    best, victim = tmp_path / "best", tmp_path / "victim"
    for folder in (victim, best / "folder.ckpt"):
        folder.mkdir()
        (folder / "thesis.ckpt").write_text("mine")
    (best / "link.ckpt").symlink_to(victim / "thesis.ckpt")
    text = HOSTILE[kind].format(best=best, victim=victim)
    state = _keeper(checkpoint)
    if entry == "best_k_models":
        state[entry] = {text: torch.tensor(99.0), **state[entry]}
        state["kth_best_model_path"] = text
    else:
        state[entry] = text
    torch.save(checkpoint, path)
    run_in(tmp_path, *FIT, "--trainer.max_epochs=6", f"--ckpt_path={path}")
    for folder in (victim, best / "folder.ckpt"):
        assert (folder / "thesis.ckpt").read_text() == "mine"
    assert (best / "link.ckpt").is_symlink()


@QUIET
@pytest.mark.slow
def test_the_best_checkpoints_go_on_as_if_nothing_had_happened(
    trained: Path, tmp_path: Path
) -> None:
    """Hostile entries beside the true ones change neither what is kept nor the scores."""
    found = []
    for name in ("undisturbed", "hostile"):
        folder = tmp_path / name
        path, checkpoint = _copy(trained, folder)
        if name == "hostile":
            state = _keeper(checkpoint)
            state["best_k_models"] = {
                f"{folder}/best/../victim/{Path(key).name}": score
                for key, score in state["best_k_models"].items()
            }
            state |= {
                key: f"file:///victim/{Path(state[key]).name}"
                for key in ("best_model_path", "kth_best_model_path", "last_model_path")
            }
            state["dirpath"] = "memory://victim"
            torch.save(checkpoint, path)
        else:
            torch.save(checkpoint, path)
        run_in(folder, *FIT, "--trainer.max_epochs=6", f"--ckpt_path={path}")
        state = _keeper(torch.load(folder / "best/last.ckpt", weights_only=True))
        scores = {Path(key).name: float(x) for key, x in state["best_k_models"].items()}
        found.append((sorted(file.name for file in (folder / "best").iterdir()), scores))
    assert found[0] == found[1]
    assert len(found[0][1]) == 2


@pytest.mark.parametrize("kind", ["folder", "link", "other", "outside", "missing"])
def test_only_checkpoints_of_this_run_are_removed(kind: str, tmp_path: Path) -> None:
    keep = AtomicCheckpointIO()
    own = tmp_path / "own.ckpt"
    keep.save_checkpoint({}, own)
    keep.remove_checkpoint(own)
    assert not own.exists()
    target = tmp_path / "target.ckpt"
    if kind == "folder":
        target.mkdir()
    elif kind == "link":
        (tmp_path / "victim").write_text("mine")
        target.symlink_to("victim")
    elif kind != "missing":
        target = tmp_path / ("notes.txt" if kind == "other" else "outside.ckpt")
        target.write_text("mine")
    before = sorted(tmp_path.iterdir())
    keep.remove_checkpoint(target)
    assert sorted(tmp_path.iterdir()) == before


def test_checkpoints_in_folders_that_their_names_make_are_kept_and_removed_likewise(
    tmp_path: Path,
) -> None:
    """A metric named `val/loss` makes a folder for each value of what stands before the slash."""
    best, victim = tmp_path / "best", tmp_path / "victim"
    callback = ModelCheckpoint(
        best, filename="{epoch}-{val/loss:.2f}", monitor="val/loss", save_top_k=5
    )
    own = [best / f"epoch={k}-val/loss=0.{k}0.ckpt" for k in (1, 2)] + [best / "last.ckpt"]
    (best / "deep/deep").mkdir(parents=True)
    others = [best / "linked/a.ckpt", best / "deep/deep/a.ckpt", best / "../victim/a.ckpt"]
    victim.mkdir()
    (best / "linked").symlink_to(victim)
    for path in (*own, victim / "a.ckpt", *others[1:]):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    scores = {str(path): torch.tensor(k + 0.5) for k, path in enumerate([*own, *others])}
    found = _resolve_paths(callback, {"best_k_models": scores, "dirpath": str(best)}, "x")
    assert found["best_k_models"] == {str(path): scores[str(path)] for path in own}
    assert found["best_model_path"] == str(own[0])
    trainer: Any = SimpleNamespace(checkpoint_callbacks=[callback])
    keep = AtomicCheckpointIO(trainer)
    for path in (*own, *others):
        keep.remove_checkpoint(path)
    assert not any(path.exists() for path in own)
    assert all(path.exists() for path in others)


def _set(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(checkpoint: dict[str, Any]) -> None:
        place: Any = checkpoint
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


def _drop(*keys: Any) -> Callable[[dict[str, Any]], None]:
    def change(checkpoint: dict[str, Any]) -> None:
        place: Any = checkpoint
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return change


def _in_callback(name: str, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(checkpoint: dict[str, Any]) -> None:
        for found, state in checkpoint["callbacks"].items():
            if found.startswith(name):
                state[key] = value

    return change


def _no_mappings(checkpoint: dict[str, Any]) -> None:
    checkpoint["callbacks"] = dict.fromkeys(checkpoint["callbacks"], 3)


OPTIMIZER = ("optimizer_states", 0)
PROGRESS = ("loops", "fit_loop", "epoch_progress", "current")
HARMS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no optimizer": (_drop("optimizer_states"), "has no optimizer_states"),
    "no schedulers": (_drop("lr_schedulers"), "has no lr_schedulers"),
    "no loops": (_drop("loops"), "has no loops"),
    "no callbacks": (_drop("callbacks"), "has no callbacks"),
    "no version": (_drop("pytorch-lightning_version"), "names no version"),
    "old version": (_set("pytorch-lightning_version", value="0.9.0"), "names no version"),
    "empty optimizer": (_set(*OPTIMIZER, "state", value={}), "lacks a part of the optimizer"),
    "part of optimizer": (_drop(*OPTIMIZER, "state", 0), "lacks a part of the optimizer"),
    "optimizers": (_set("optimizer_states", value=[]), "lacks a part"),
    "moment": (_set(*OPTIMIZER, "state", 0, "exp_avg", value=torch.zeros(1)), "tensor of shape"),
    "step": (_set(*OPTIMIZER, "state", 0, "step", value=torch.zeros(7)), "tensor of shape"),
    "group": (_set(*OPTIMIZER, "param_groups", 0, "lr", value="fast"), "lr is str, not float"),
    "betas": (_set(*OPTIMIZER, "param_groups", 0, "betas", value=[0.9]), "has 1 entries, not 2"),
    "groups": (_set(*OPTIMIZER, "param_groups", value=[]), "has 0 entries, not 1"),
    "params": (_set(*OPTIMIZER, "param_groups", 0, "params", value=[0]), "entries, not"),
    "progress": (_set(*PROGRESS, "ready", value="x"), "ready is str, not int"),
    "negative": (_set(*PROGRESS, "ready", value=-3), "ready is -3"),
    "method": (_set(*PROGRESS, "reset", value=3), "has an unknown 'reset'"),
    "tracker": (_drop(*PROGRESS, "ready"), "has no ready"),
    "loader": (_set("loops", "fit_loop", "state_dict", "combined_loader", value=5), "combined"),
    "stopping": (_in_callback("EarlyStopping", "wait_count", "x"), "wait_count is str"),
    "reason": (_in_callback("EarlyStopping", "stopping_reason", 99), "does not fit this run"),
    "score": (_in_callback("ModelCheckpoint", "best_k_models", {"a.ckpt": "x"}), "no number"),
    "scores": (_in_callback("ModelCheckpoint", "best_k_models", 3), "no number"),
    "state": (_no_mappings, "EarlyStopping has a state that is no mapping"),
    "config": (_set("lit_hier_run", value=[3]), "damaged config"),
    "config value": (_set("lit_hier_run", value={"model.x": "y" * 10**5}), "that run has data"),
    "complex": (
        _set("state_dict", "network.readout.bias", value=torch.zeros(16, dtype=torch.complex64)),
        "network.readout.bias is torch.complex64",
    ),
    "no weights": (_drop("state_dict", "network.readout.bias"), "network.readout.bias"),
    "trained on": (_set("lit_hier", "trained_on", value={"x": 3}), "damaged name of its training"),
}


@QUIET
@pytest.mark.parametrize("kind", some(HARMS, "empty optimizer", "progress"))
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path, checkpoint = _copy(trained, tmp_path)
    harm, reason = HARMS[kind]
    harm(checkpoint)
    torch.save(checkpoint, path)
    before = {file: file.read_bytes() for file in (tmp_path / "best").iterdir()}
    name = "last" if kind in ("progress", "no loops") else str(path)
    line = rejection(tmp_path, capsys, *FIT, "--trainer.max_epochs=6", f"--ckpt_path={name}")
    assert line.startswith("ckpt_path: ")
    assert reason in line
    assert len(line) <= 360
    assert before == {file: file.read_bytes() for file in (tmp_path / "best").iterdir()}


@QUIET
@pytest.mark.slow
@pytest.mark.parametrize("keyword", ["last", "hpc"])
def test_a_checkpoint_that_lightning_finds_is_read_likewise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keyword: str
) -> None:
    (tmp_path / "best").mkdir()
    content = b"no checkpoint"
    for name in ("best/last.ckpt", "hpc_ckpt_1.ckpt"):
        (tmp_path / name).write_bytes(content)
    line = rejection(tmp_path, capsys, *FIT, f"--ckpt_path={keyword}")
    assert "ckpt is not a tensors-only checkpoint; give" in line


def test_a_pipeline_of_mixed_precisions_runs_in_single(tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    random_pipeline(folder, channels=1)
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    first, *_ = state
    save_file(state | {first: state[first].double()}, weights)
    model, _ = load_pretrained(str(folder))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
