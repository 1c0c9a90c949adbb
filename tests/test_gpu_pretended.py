"""Runs on a pretended GPU: devices do not mix, tables keep every bit, nothing waits needlessly.

A GPU computes while the CPU goes on; what makes the CPU wait for it is counted, see `pretend_gpu`.
"""

import copy
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grammar_runs
import pretend_gpu
import pretend_runs
import pytest
import test_tables
import torch
from conftest import ROOT, SMALL_POPULATION
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
)
from pretend_gpu import EVENTS, WAITS, Event, OnDevice, forked, pretended
from pytorch_lightning import Callback, Trainer
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lit_hier.callbacks.analysis import Analysis
from lit_hier.diffusion.reverse import ReverseProcess
from lit_hier.inference import density_evolution, native_library
from lit_hier.io.devices import constant, download, upload
from lit_hier.nn import HierarchicalCNN, Probe
from lit_hier.streams import generators

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*close to chance",  # networks are untrained
    "ignore:.*its accuracy holds only if",
    "ignore:.*in `.*DataLoader` does not have many workers",
    "ignore:.*logging interval",
    "ignore:.*weights_only",
)


@pytest.fixture(autouse=True)
def plain_and_undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute as on a GPU, without the native kernel; leave out figures."""
    monkeypatch.setattr(native_library, "load_kernel", lambda: None)
    monkeypatch.setattr(Analysis, "draw_later", lambda *_: None)


def on_cpu(**kwargs: Any) -> Trainer:
    return Trainer(**(kwargs | {"accelerator": "cpu"}))


def on_device(run: Callable[..., Path], *args: Any) -> tuple[Path, list[Event]]:
    """Run on the pretended GPU; return the folder of the results and all events."""
    with pretended():
        return run(pretend_gpu.trainer, *args), list(EVENTS)


def assert_same_tables(one: Path, other: Path) -> None:
    names = sorted(path.relative_to(one) for path in one.rglob("*.csv"))
    assert names == sorted(path.relative_to(other) for path in other.rglob("*.csv"))
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def waits(events: Sequence[Event], *without: str) -> Counter[str]:
    """Count the waits that files of `lit_hier` cause, by line, without those of some files."""
    return Counter(
        f"{event.kind} {event.operation} {event.place}"
        for event in events
        if event.kind in WAITS and event.place and not event.place.startswith(without)
    )


class Stopped(Exception):
    """A run was stopped after its first batch."""


class BatchEvents(Callback):
    """Keeps what happens from the start of a batch to the end of its analyses."""

    def __init__(self, stop: bool = False) -> None:
        self.stop = stop
        self.events: list[Event] = []

    def on_predict_batch_start(self, *args: Any) -> None:
        self._first = len(EVENTS)

    def on_predict_batch_end(self, *args: Any) -> None:
        self.events += EVENTS[self._first :]
        if self.stop:
            raise Stopped


def message(act: Callable[[], object]) -> str:
    """Return what an action raises; empty for nothing."""
    try:
        act()
    except (RuntimeError, TypeError) as error:
        return str(error)
    return ""


def kinds(act: Callable[[], object]) -> list[str]:
    """Return the kinds of an action's events."""
    EVENTS.clear()
    act()
    return [event.kind for event in EVENTS]


def _faults() -> None:
    with pretended() as device:
        x = torch.arange(6.0).view(2, 3)
        y = upload(x, device)
        assert isinstance(y, OnDevice)
        index, seeded = torch.tensor([1, 0]), torch.Generator()
        mixing: list[Callable[[], object]] = [
            lambda: y + x,
            lambda: x.clone().add_(y),
            lambda: x @ y.T,
            lambda: torch.cat((y, x)),
            lambda: torch.where(y > 1, y, x),
            lambda: y.index_put_((index,), x),
            lambda: nn.Linear(3, 1)(y),
            lambda: torch.ones(()).add_(y.sum()),
        ]
        for act in mixing:
            assert "on the same device" in message(act)
        assert "indices should be" in message(lambda: x[index.to(device)])
        assert "generator" in message(lambda: torch.rand(2, device=device, generator=seeded))
        assert "numpy" in message(lambda: y.numpy())
        assert "does not block" in message(lambda: y.to("cpu", non_blocking=True))
        allowed: list[tuple[Callable[[], object], list[str]]] = [
            (lambda: y * torch.tensor(2.0) + y.mean(), []),
            (lambda: torch.zeros(3, device=device).normal_(), ["random"]),
            (lambda: y.new_full((), 3.0).expand(3).clone().clamp_(max=1), []),
            (lambda: upload(x, device), []),
            (lambda: y.clone().masked_fill_(y > 1, 0), []),
            (lambda: x.to(device), ["upload"]),
            (lambda: torch.tensor([1.0], device=device), ["upload"]),
            (lambda: x.to(device, non_blocking=True), ["staged"]),
            (lambda: y.cpu(), ["download"]),
            (lambda: torch.empty(2, 3).copy_(y), ["download"]),
            (lambda: y.tolist(), ["download"]),
            (lambda: float(y.sum()), ["item"]),
            (lambda: bool((y > 1).all()), ["item"]),
            (lambda: y[index], ["upload"]),
            (lambda: y[y > 1], ["size"]),
            (lambda: (y > 1).nonzero(), ["size"]),
            (lambda: y.unique(), ["size"]),
            (lambda: torch.equal(y, y), ["size"]),
            (lambda: y.repeat_interleave(index.to(device), 0), ["upload", "size"]),
            (lambda: download([y, y, y > 1]), ["download", "download"]),
        ]
        for number, (act, expected) in enumerate(allowed):
            assert kinds(act) == expected, number
        once = constant(x, device)
        assert kinds(lambda: constant(x, device)) == []
        assert constant(x, device) is once
        assert constant(x, x.device) is x
        parts = download([y, y.long(), y[0]])
        assert [part.dtype for part in parts] == [torch.float32, torch.int64, torch.float32]
        assert all(map(torch.equal, parts, (x, x.long(), x[0])))


def test_the_pretended_gpu_finds_faults_and_waits() -> None:
    forked(_faults)


def _grammar(
    stop: bool, folder: Path, *sizes: Any
) -> tuple[Path | None, list[Event], Counter[str]]:
    """Return the results, the events of the batch, and the waits of the reference set."""
    batch, path = BatchEvents(stop), None
    with suppress(Stopped):
        path, _ = on_device(pretend_runs.grammar, folder, *sizes, batch)
    events = list(EVENTS)
    places = ("callbacks/reference", "callbacks/agreement", "metrics/functional")
    reference = waits([event for event in events if event.place.startswith(places)])
    return path, batch.events, reference


def test_no_analysis_waits_once_per_layer_level_or_time(tmp_path: Path) -> None:
    """Belief propagation itself is not counted: it waits to check the messages of each time."""
    _, few, once = forked(partial(_grammar, True, tmp_path / "small", 2, [0.0, 0.5]))
    large, many, again = forked(
        partial(_grammar, False, tmp_path / "large", 3, [0.0, 0.4, 0.8, 1.0])
    )
    assert once == again
    assert waits(few, "inference") == waits(many, "inference")
    assert not [event for event in many if event.kind in ("upload", "random")]
    expected = pretend_runs.grammar(on_cpu, tmp_path / "cpu", 3, [0.0, 0.4, 0.8, 1.0])
    assert large is not None
    assert_same_tables(expected, large)


def _sample(scheduler: Any, device: torch.device) -> tuple[Tensor, list[Event]]:
    process = ReverseProcess(scheduler, 6)
    x_0 = torch.linspace(-1, 1, 3 * 2 * 4 * 4).view(3, 2, 4, 4)
    steps, index = [0, 2, 5, 6], torch.arange(3)
    streams = [generators(0, index, step) for step in steps]
    x_0 = x_0.to(device)
    EVENTS.clear()
    result = process.sample(lambda x, t: (x * 0.5).sin() + t[:, None, None, None] * 1e-3, x_0,
                            steps, streams, 6)  # fmt: skip
    events = list(EVENTS)
    return result.cpu(), events


def _samples(schedulers: Sequence[Any]) -> list[tuple[Tensor, list[Event]]]:
    with pretended() as device:
        return [_sample(scheduler, device) for scheduler in schedulers]


def test_images_are_sampled_without_waiting_and_keep_every_bit() -> None:
    """Noise is drawn on the CPU while a GPU evaluates the model: nothing waits for either."""
    learned = {"variance_type": "fixed_small", "clip_sample": True}
    schedulers = [
        DDPMScheduler(**learned),
        DDIMScheduler(),
        DPMSolverMultistepScheduler(),
        DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
        UniPCMultistepScheduler(solver_order=2),
    ]
    found = forked(partial(_samples, schedulers))
    for scheduler, (samples, events) in zip(schedulers, found, strict=True):
        name = type(scheduler).__name__
        expected, _ = _sample(copy.deepcopy(scheduler), torch.device("cpu"))
        assert torch.equal(samples, expected), name
        assert not events, name


def _probe(num_layers: int) -> int:
    with pretended() as device:
        torch.manual_seed(0)
        network = HierarchicalCNN(4, 4, 2, num_layers, width=6).to(device)
        probe = Probe(network)
        x = torch.randn(4, 4, 2**num_layers).to(device)
        probe.check(x)
        EVENTS.clear()
        probe(x, lambda *_: None)
        assert not EVENTS
        probe.sign(x)
        return len(EVENTS)


def test_a_network_is_run_and_signed_without_a_wait_per_layer() -> None:
    assert forked(partial(_probe, 2)) == forked(partial(_probe, 4)) == 1


def _tables(run: Any, folder: Path) -> tuple[Path, list[Event]]:
    with pretended(grammar_runs):
        return test_tables.predict(folder, *run()), list(EVENTS)


@pytest.mark.slow
@pytest.mark.parametrize("run", test_tables.RUNS, ids=lambda run: run.__name__)
def test_every_kept_table_is_the_same_on_a_gpu(run: Any, tmp_path: Path) -> None:
    found, events = forked(partial(_tables, run, tmp_path / "gpu"))
    assert not [event for event in events if event.kind == "random"]
    assert_same_tables(test_tables.predict(tmp_path / "cpu", *run()), found)


@pytest.mark.slow
@pytest.mark.parametrize("run", [pretend_runs.images, pretend_runs.pretrained])
def test_runs_on_images_are_the_same_on_a_gpu(run: Any, pipeline: str, tmp_path: Path) -> None:
    found, events = forked(partial(on_device, run, tmp_path / "gpu", pipeline))
    assert not [event for event in events if event.kind == "random"]
    assert not waits([event for event in events if "reverse" in event.place])
    assert_same_tables(run(on_cpu, tmp_path / "cpu", pipeline), found)


@pytest.mark.slow
def test_training_is_the_same_on_a_gpu(tmp_path: Path) -> None:
    """In a new process, as autograd has looked for devices in this one."""
    runs = ("learned", "classifiers", "classifier", "image_training")
    code = (
        "import conftest, sys, warnings; warnings.simplefilter('ignore')\n"
        "import test_gpu_pretended as tests\n"
        "tests.train(sys.argv[1], sys.argv[2:])"
    )
    small = {**os.environ, "LIT_HIER_KERNEL": "0", "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-c", code, str(tmp_path), *runs]
    done = subprocess.run(command, env=small, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def train(folder: str, names: Sequence[str]) -> None:
    """Run tasks on the pretended GPU, then on the CPU, and compare all that they write."""
    Analysis.draw_later = lambda *_: None  # type: ignore[method-assign]
    found = {}
    with patch.multiple(density_evolution, **SMALL_POPULATION):
        for name in names:
            run = getattr(pretend_runs, name)
            found[name], events = on_device(run, Path(folder, name, "gpu"))
            # Once, to count the steps that were averaged, and in the first step.
            steps = [event for event in events if event.place.endswith(" optimizer_step")]
            assert waits(steps).total() <= 5, waits(steps)
            assert not [event for event in events if event.place.endswith(" count_errors")]
        for name in names:
            with sdpa_kernel(SDPBackend.MATH):  # which this device has to use
                expected = getattr(pretend_runs, name)(on_cpu, Path(folder, name, "cpu"))
            assert_same_tables(expected, found[name])
            assert_same_weights(Path(folder, name))


def assert_same_weights(folder: Path) -> None:
    """Compare the checkpoints of both devices bit by bit, and their pipelines up to rounding."""
    paths = sorted(path for kind in ("ckpt", "safetensors") for path in folder.rglob(f"*.{kind}"))
    of_cpu, of_gpu = (
        [x for x in paths if folder / device in x.parents] for device in ("cpu", "gpu")
    )
    assert len(of_cpu) == len(of_gpu)
    for one, other in zip(of_cpu, of_gpu, strict=True):
        if one.suffix == ".ckpt":
            states = [torch.load(x, weights_only=True)["state_dict"] for x in (one, other)]
            same = torch.equal
        else:
            states = [load_file(x) for x in (one, other)]
            same = partial(torch.allclose, atol=1e-5)
        assert states[0].keys() == states[1].keys()
        assert all(same(x, states[1][name]) for name, x in states[0].items())
