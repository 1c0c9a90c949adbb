"""The kernel of belief propagation for GPUs, in Triton's interpreter: bits of the plain path."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import torch
from conftest import ROOT, examples
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, grammars, messages_of_different_sharpness, random_draws, rng
from torch import Tensor

from lit_hier.errors import InputError
from lit_hier.inference import BeliefPropagation, gpu, native_library
from lit_hier.inference.passes import Passes, Query
from lit_hier.inference.semirings import LinearSemiring
from lit_hier.kernels import compiled
from lit_hier.rhm import RandomHierarchyModel, Tree

pytest.importorskip("triton")

QUERIES: Final[tuple[Query, ...]] = ("upward", "downward", "marginals", "log_evidence", "trees")
FLOATS = [torch.float32, torch.float64]
# Divisions by zero and overflow in samples that are flagged, as numpy reports them.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare with torch operations, not with the native kernel; all samples are one tile."""
    monkeypatch.setattr(native_library, "load_kernel", lambda: None)
    monkeypatch.setattr(gpu, "_WARPS_PER_MULTIPROCESSOR", 1)


def check_bits(
    rhm: RandomHierarchyModel,
    messages: Tensor,
    queries: tuple[Query, ...] = QUERIES,
    **settings: int,
) -> dict[Query, int]:
    """Compare answers and flags with the plain path's; return how many samples are flagged."""
    batch = len(messages)
    bp = BeliefPropagation(rhm)
    prior = torch.rand(batch, rhm.num_classes, generator=rng(0)) + 0.1
    draws = random_draws(rhm, batch)
    posterior = bp.condition(messages, prior)
    results = {query: posterior.allocate(query) for query in queries}
    for levels in results.values():
        for level in levels:
            level.fill_(-7)
    affected = gpu.answer_queries(
        bp.tables, messages, posterior._class_prior, draws, results, **settings
    )
    passes = Passes(bp.tables, messages, posterior._class_prior, LinearSemiring())
    flagged = {}
    for query, answer in results.items():
        expected: Tree = passes.answer(query, draws)
        fine = passes.loss <= torch.finfo(messages.dtype).eps
        assert torch.equal(affected.get(query, torch.zeros(batch, dtype=torch.bool)), ~fine), query
        for a, b in zip(answer, expected, strict=True):
            assert torch.equal(a[fine], b[fine]), query
        flagged[query] = batch - int(fine.sum())
    return flagged


@pytest.mark.parametrize(
    ("rhm", "dtype", "height", "warps"),
    [
        (RandomHierarchyModel(3, 2, 2, 3, 4), torch.float32, 2, 1),
        (RandomHierarchyModel(4, 2, 2, 2), torch.float64, 1, 2),
    ],
    ids=repr,
)
def test_the_kernel_has_the_bits_of_plain_operations(
    rhm: RandomHierarchyModel, dtype: torch.dtype, height: int, warps: int
) -> None:
    messages = messages_of_different_sharpness(rhm, 5, 1, dtype)
    check_bits(rhm, messages, height=height, warps=warps)


@pytest.mark.slow
@given(grammars(), SEEDS, st.sampled_from(FLOATS), st.integers(1, 3), st.sampled_from([1, 2, 4]))
@examples(20)
def test_the_kernel_has_the_bits_of_plain_operations_for_any_grammar(
    rhm: RandomHierarchyModel, seed: int, dtype: torch.dtype, height: int, warps: int
) -> None:
    messages = messages_of_different_sharpness(rhm, 4, seed, dtype)
    check_bits(rhm, messages, height=height, warps=warps)


@pytest.mark.slow
@pytest.mark.parametrize("queries", [(query,) for query in QUERIES] + [("marginals", "trees")])
def test_the_kernel_answers_any_queries(queries: tuple[Query, ...]) -> None:
    rhm = RandomHierarchyModel(5, 2, 2, 3)
    check_bits(rhm, messages_of_different_sharpness(rhm, 6, 2, torch.float32), queries)


def test_samples_that_underflow_are_flagged() -> None:
    rhm = RandomHierarchyModel(2, 1, 3, 2)
    messages = messages_of_different_sharpness(rhm, 12, 1, torch.float32)
    flagged = check_bits(rhm, messages, warps=1)
    assert 0 < flagged["upward"] < flagged["marginals"] < 12


def test_tiles_are_shared_among_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each program answers several tiles of one sample, one after another."""
    monkeypatch.setattr(gpu, "_SCRATCH_BYTES", 0)
    monkeypatch.setattr(gpu, "_WARPS_PER_MULTIPROCESSOR", 2)
    rhm = RandomHierarchyModel(2, 2, 2, 2)
    messages = messages_of_different_sharpness(rhm, 5, 3, torch.float32)
    check_bits(rhm, messages, ("marginals", "trees"), warps=1)


def test_memory_that_is_not_aligned() -> None:
    """Answers are written where they belong, and messages read from where they are."""
    rhm = RandomHierarchyModel(3, 2, 2, 1)
    bp = BeliefPropagation(rhm)
    messages = torch.rand(2 * 2 * 3 + 1, generator=rng(0))[1:].view(2, 2, 3)
    assert messages.data_ptr() % 16
    posterior = bp.condition(messages)
    out = tuple(torch.zeros(x.numel() + 1)[1:].view_as(x) for x in posterior.allocate("marginals"))
    gpu.answer_queries(
        bp.tables, messages, bp.class_prior.expand(2, -1), None, {"marginals": out}, warps=1
    )
    assert all(map(torch.equal, out, posterior.marginals()))


@pytest.mark.parametrize("value", [-1.0, torch.nan, torch.inf])
def test_invalid_messages_are_rejected(value: float) -> None:
    bp = BeliefPropagation(RandomHierarchyModel(2, 1, 2, 1))
    messages = torch.ones(3, 2, 2)
    messages[1, 0, 1] = value
    results = {"marginals": bp.condition(messages).allocate("marginals")}
    with pytest.raises(InputError, match="finite and non-negative"):
        gpu.answer_queries(
            bp.tables, messages, bp.class_prior.expand(3, -1), None, results, warps=1
        )


def test_the_kernel_is_chosen_when_compiling_has_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIT_HIER_KERNEL", raising=False)
    monkeypatch.setattr(compiled, "_can_compile", lambda device: True)
    monkeypatch.setattr(gpu, "_NUMBERS_PER_TERM", 2500 / (3 * 8 * 3))
    card = torch.device("cuda")
    old, new = (BeliefPropagation(RandomHierarchyModel(4, 2, 2, 3)).tables for _ in range(2))
    wide = BeliefPropagation(RandomHierarchyModel(80, 2, 2, 1)).tables
    chosen = [gpu._is_chosen(old, "one kind", 1000, card) for _ in range(4)]
    assert chosen == [False, False, True, True]
    assert not gpu._is_chosen(old, "another kind", 1000, card)
    monkeypatch.setenv("LIT_HIER_KERNEL", "0")
    assert not gpu._is_chosen(old, "one kind", 1000, card)
    monkeypatch.setenv("LIT_HIER_KERNEL", "1")
    assert gpu._is_chosen(new, "one kind", 1, card)
    assert not gpu._is_chosen(wide, "one kind", 1, card)
    assert not gpu._is_chosen(new, "one kind", 1, torch.device("cpu"))


def test_without_a_compiler_the_plain_path_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC.")

    monkeypatch.setattr(gpu, "_KERNELS", compiled.CompiledKernels("belief propagation"))
    monkeypatch.setattr(gpu, "answer_queries", fail)
    monkeypatch.setattr(gpu, "_is_chosen", lambda *args: True)
    bp = BeliefPropagation(RandomHierarchyModel(2, 1, 2, 1))
    messages = torch.rand(3, 2, 2)
    with caplog.at_level(logging.WARNING, "lit_hier"):
        answers = [bp.marginals(messages) for _ in range(2)]
    assert all(map(torch.equal, *answers))
    (record,) = caplog.records
    assert "Failed to find C compiler" in record.message
    assert "\n" not in record.message


COMPILE = """
import sys
import torch
from offline_kernels import compile_instead
from lit_hier.inference import BeliefPropagation, gpu
from lit_hier.kernels import belief_propagation
from lit_hier.rhm import RandomHierarchyModel

compiled = compile_instead(belief_propagation, ["answer_queries"], int(sys.argv[1]))
rhm = RandomHierarchyModel(*map(int, sys.argv[2:]))
queries = "upward", "downward", "marginals", "log_evidence", "trees"
for dtype in (torch.float32, torch.float64):
    for batch in (3, 32):
        bp = BeliefPropagation(rhm)
        messages = torch.ones(batch, rhm.num_leaves, rhm.num_features, dtype=dtype)
        posterior = bp.condition(messages)
        draws = torch.rand(batch, 1 + bp.tables.num_choices, dtype=torch.float64)
        results = {query: posterior.allocate(query) for query in queries}
        prior = bp.class_prior.expand(batch, -1)
        gpu.answer_queries(bp.tables, messages, prior, draws, results)
assert compiled[0] is compiled[1] and compiled[2] is compiled[3], "compiled for each batch"
for kernel in compiled:
    assert "fma" not in kernel.asm["ptx"], "fused multiply-adds change bits"
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["80", "90"])
@pytest.mark.parametrize("size", ["8 3 2 3", "5 2 3 2 4"])
def test_the_kernel_compiles_without_a_gpu(capability: str, size: str, tmp_path: Path) -> None:
    """For any batch at once, and without fused multiply-adds."""
    command = [sys.executable, "-W", "ignore", "-c", COMPILE, capability, *size.split()]
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = str(ROOT / "tests")
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-2000:]
