"""The compiled kernel against plain operations, and how it comes to be there."""

import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import torch
from conftest import ROOT, small_grammars
from torch import Tensor

from lit_hier.inference import BeliefPropagation, compiler
from lit_hier.inference.passes import Query
from lit_hier.rhm import RandomHierarchyModel

QUESTIONS: Final[tuple[Query, ...]] = (
    "upward",
    "downward",
    "marginals",
    "log_evidence",
    "trees",
)
LARGER = [
    RandomHierarchyModel(16, 4, 2, 6),
    RandomHierarchyModel(32, 8, 2, 5),
    RandomHierarchyModel(20, 3, 3, 4, 7),
    RandomHierarchyModel(5, 3, 4, 3),
    RandomHierarchyModel(3, 2, 17, 1),
    RandomHierarchyModel(33, 5, 2, 3, 40),
]

needs_compiler = pytest.mark.skipif(
    compiler.kernel(double=False) is None, reason="there is no C compiler"
)


def random_messages(rhm: RandomHierarchyModel, batch: int, dtype: torch.dtype) -> Tensor:
    """Messages of very different scales, some symbols ruled out at some leaves."""
    g = torch.Generator().manual_seed(batch)
    shape = (batch, rhm.num_leaves, rhm.num_features)
    messages = torch.rand(shape, generator=g, dtype=torch.float64)
    true = torch.nn.functional.one_hot(rhm.sample(batch, g)[0], rhm.num_features).bool()
    messages *= (torch.rand(shape, generator=g) < 0.7) | true
    # From nothing but rounding to nothing but underflow.
    sharpness = torch.rand(batch, 1, 1, generator=g, dtype=torch.float64) * 30
    scale = torch.exp(8 * torch.randn(batch, rhm.num_leaves, 1, generator=g).double())
    messages = (messages**sharpness * scale).clamp(max=1e30)
    return torch.where(true, messages.clamp(min=1e-30), messages).to(dtype)


@needs_compiler
@pytest.mark.parametrize("rhm", small_grammars() + LARGER, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bits_are_those_of_plain_operations(
    rhm: RandomHierarchyModel, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    bp = BeliefPropagation(rhm, torch.rand(rhm.num_classes) + 0.1)
    for batch in (1, 3, 40):
        posterior = bp.condition(random_messages(rhm, batch, dtype))
        draws = torch.rand(batch, 1 + rhm.num_choices, dtype=torch.float64)
        monkeypatch.setenv("LIT_HIER_COMPILE", "0")
        plain = posterior.query(*QUESTIONS, draws=draws)
        monkeypatch.setenv("LIT_HIER_COMPILE", "1")
        together = posterior.query(*QUESTIONS, draws=draws)
        for question in QUESTIONS:
            alone = posterior.query(question, draws=draws)[question]
            for a, b, c in zip(plain[question], together[question], alone, strict=True):
                assert torch.equal(a, b)
                assert torch.equal(a, c)


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@needs_compiler
@pytest.mark.usefixtures("_threads")
def test_threads_change_no_bit() -> None:
    rhm = RandomHierarchyModel(16, 4, 2, 7)
    posterior = BeliefPropagation(rhm).condition(random_messages(rhm, 203, torch.float32))
    draws = torch.rand(203, 1 + rhm.num_choices, dtype=torch.float64)
    answers = []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        answers.append(posterior.query(*QUESTIONS, draws=draws))
    for other in answers[1:]:
        for question in QUESTIONS:
            for a, b in zip(answers[0][question], other[question], strict=True):
                assert torch.equal(a, b)


def test_answers_go_where_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rhm = RandomHierarchyModel(8, 3, 2, 3)
    posterior = BeliefPropagation(rhm).condition(random_messages(rhm, 5, torch.float32))
    for compiled in "01":
        monkeypatch.setenv("LIT_HIER_COMPILE", compiled)
        wanted = posterior.marginals()
        room = tuple(torch.empty(2, *level.shape) for level in wanted)
        given = posterior.query("marginals", out={"marginals": tuple(x[1] for x in room)})
        for a, b, c in zip(wanted, room, given["marginals"], strict=True):
            assert torch.equal(a, b[1])
            assert c.data_ptr() == b[1].data_ptr()


@needs_compiler
@pytest.mark.parametrize("misaligned", [0, 1])
def test_answers_larger_than_the_caches(misaligned: int) -> None:
    """They go around the caches, where they are aligned: the same bits as in small batches."""
    rhm = RandomHierarchyModel(16, 4, 2, 7)
    bp = BeliefPropagation(rhm)
    messages = random_messages(rhm, 300, torch.float32)
    out = tuple(
        torch.empty(300 * nodes * symbols + 1)[misaligned:][: 300 * nodes * symbols].view(
            300, nodes, symbols
        )
        for nodes, symbols in bp.level_shapes
    )
    bp.condition(messages).query("marginals", out={"marginals": out})
    parts = [bp.marginals(part) for part in messages.split(50)]
    for large, small in zip(out, zip(*parts, strict=True), strict=True):
        assert torch.equal(large, torch.cat(small))


@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e37, 3e38])
def test_leaf_messages_at_the_edge_of_the_range(
    scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rhm = RandomHierarchyModel(8, 3, 2, 3)
    bp = BeliefPropagation(rhm)
    messages = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0)) * scale
    for compiled in "01":
        monkeypatch.setenv("LIT_HIER_COMPILE", compiled)
        for single, double in zip(
            bp.marginals(messages), bp.marginals(messages.double()), strict=True
        ):
            assert (single - double).abs().max() < 1e-6
        evidence = bp.log_evidence(messages)
        assert torch.allclose(evidence, bp.log_evidence(messages.double()).float())


@pytest.mark.parametrize("compiled", "01")
@pytest.mark.parametrize("power", [3, 10, 37])
@pytest.mark.parametrize(
    "rhm",
    [
        RandomHierarchyModel(4, 1, 2, 2),
        RandomHierarchyModel(8, 2, 2, 6),
        RandomHierarchyModel(16, 4, 2, 5),
        RandomHierarchyModel(8, 8, 2, 6),
        RandomHierarchyModel(5, 3, 3, 3),
    ],
    ids=repr,
)
def test_underflow_never_shows(
    rhm: RandomHierarchyModel, power: int, compiled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages over many orders of magnitude: float32 gives what float64 does."""
    monkeypatch.setenv("LIT_HIER_COMPILE", compiled)
    g = torch.Generator().manual_seed(0)
    true = torch.nn.functional.one_hot(rhm.sample(50, g)[0], rhm.num_features).bool()
    messages = 10 ** (-power * torch.rand(true.shape, generator=g))
    messages[(torch.rand(true.shape, generator=g) < 0.1) & ~true] = 0
    bp = BeliefPropagation(rhm)
    for single, double in zip(
        bp.marginals(messages), bp.marginals(messages.double()), strict=True
    ):
        assert (single - double).abs().max() < 1e-6


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's cache with nothing in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LIT_HIER_COMPILE", "1")
    compiler._kernel.cache_clear()
    yield tmp_path / "lit-hier"
    compiler._kernel.cache_clear()


@needs_compiler
def test_a_kernel_is_compiled_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiler.kernel(double=False) is not None
    (kept,) = cache.iterdir()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert not kept.stat().st_mode & 0o022
    before = kept.stat().st_mtime_ns
    compiler._kernel.cache_clear()
    assert compiler.kernel(double=False) is not None
    assert [(x, x.stat().st_mtime_ns) for x in cache.iterdir()] == [(kept, before)]
    # Another precision, another compiler: another kernel.
    compiler.kernel(double=True)
    monkeypatch.setenv("CC", os.environ.get("CC", "cc") + " -DOTHER")
    compiler._kernel.cache_clear()
    compiler.kernel(double=False)
    assert len(list(cache.iterdir())) == 3


def start_elsewhere() -> "subprocess.Popen[bytes]":
    """Ask for a kernel in a new process."""
    program = "from lit_hier.inference import compiler; assert compiler.kernel(double=False)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", program], env=environment)


@needs_compiler
def test_nothing_is_loaded_that_others_can_write(cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    assert compiler.kernel(double=False) is not None
    assert not list(cache.iterdir())
    cache.chmod(0o700)
    # Two at once, both of them first; a process does not open again what it has loaded.
    assert [process.wait() for process in (start_elsewhere(), start_elsewhere())] == [0, 0]
    (kept,) = cache.iterdir()
    for mode in (0o600, 0o666):  # harmed; written by anybody
        kept.unlink()
        kept.write_bytes(b"harm")
        kept.chmod(mode)
        compiler._kernel.cache_clear()
        assert compiler.kernel(double=False) is not None
        assert kept.read_bytes() != b"harm"
        assert not kept.stat().st_mode & 0o022


@pytest.mark.usefixtures("cache")
def test_without_a_compiler_plain_operations_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rhm = RandomHierarchyModel(4, 2, 2, 2)
    bp = BeliefPropagation(rhm)
    messages = random_messages(rhm, 3, torch.float32)
    wanted = bp.marginals(messages)
    monkeypatch.setenv("CC", "no-such-compiler")
    compiler._kernel.cache_clear()
    with caplog.at_level(logging.INFO, "lit_hier"):
        for _ in range(2):
            for a, b in zip(bp.marginals(messages), wanted, strict=True):
                assert torch.equal(a, b)
        (record,) = caplog.records
        assert "plain torch operations" in record.getMessage()
        monkeypatch.setenv("LIT_HIER_COMPILE", "0")
        compiler._kernel.cache_clear()
        bp.marginals(messages)
        assert len(caplog.records) == 1
