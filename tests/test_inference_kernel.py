"""The native kernel against plain torch operations, and how its library is chosen and checked."""

import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import torch
from strategies import messages_of_different_sharpness, random_draws

from lit_hier.inference import BeliefPropagation, kernel_sources, native_library
from lit_hier.inference.native_library import UnusableLibraryError
from lit_hier.inference.passes import Query
from lit_hier.rhm import RandomHierarchyModel, Tree

QUERIES: Final[tuple[Query, ...]] = ("upward", "downward", "marginals", "log_evidence", "trees")
GRAMMARS = [
    RandomHierarchyModel(16, 4, 2, 6),
    RandomHierarchyModel(32, 8, 2, 5),
    RandomHierarchyModel(20, 3, 3, 4, 7),
    RandomHierarchyModel(5, 3, 4, 3),
    RandomHierarchyModel(3, 2, 17, 1),
    RandomHierarchyModel(33, 5, 2, 3, 40),
]

needs_kernel = pytest.mark.skipif(
    os.environ.get("LIT_HIER_KERNEL") == "0", reason="LIT_HIER_KERNEL=0"
)


def assert_equal_bits(a: dict[Query, Tree], b: dict[Query, Tree]) -> None:
    for query in a.keys() & b.keys():
        assert all(torch.equal(x, y) for x, y in zip(a[query], b[query], strict=True)), query


@needs_kernel
def test_every_variant_was_built() -> None:
    """Without a kernel, the other tests would compare the torch operations with themselves."""
    for variant in native_library.variant_names():
        native_library.load_library(native_library.variant_path(variant))
    assert native_library.load_kernel() is not None


@needs_kernel
@pytest.mark.parametrize("rhm", GRAMMARS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_variant_has_the_bits_of_plain_operations(
    rhm: RandomHierarchyModel, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    bp = BeliefPropagation(rhm, torch.rand(rhm.num_classes) + 0.1)
    for batch in (1, 3, 40):
        posterior = bp.condition(messages_of_different_sharpness(rhm, batch, batch, dtype))
        draws = random_draws(rhm, batch)
        monkeypatch.setattr(native_library, "load_kernel", lambda: None)
        plain = posterior.query(*QUERIES, draws=draws)
        for variant in native_library.variant_names():
            native = native_library.load_library(native_library.variant_path(variant))
            monkeypatch.setattr(native_library, "load_kernel", lambda native=native: native)
            assert_equal_bits(plain, posterior.query(*QUERIES, draws=draws))
        for query in QUERIES:
            assert_equal_bits(plain, posterior.query(query, draws=draws))


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@needs_kernel
@pytest.mark.usefixtures("_threads")
def test_threads_change_no_bit() -> None:
    rhm = RandomHierarchyModel(16, 4, 2, 7)
    messages = messages_of_different_sharpness(rhm, 203, 0, torch.float32)
    posterior = BeliefPropagation(rhm).condition(messages)
    draws = random_draws(rhm, 203)
    answers = []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        answers.append(posterior.query(*QUERIES, draws=draws))
    for other in answers[1:]:
        assert_equal_bits(answers[0], other)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("switch", "01")
def test_a_forked_process_gets_the_same_bits(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads of torch, which do not survive the fork, have worked before in this process."""
    monkeypatch.setenv("LIT_HIER_KERNEL", switch)
    rhm = RandomHierarchyModel(8, 3, 2, 6)
    messages = messages_of_different_sharpness(rhm, 128, 0, torch.float64)
    draws = random_draws(rhm, 128)
    torch.set_num_threads(2)
    torch.rand(1_000_000).exp()
    expected = BeliefPropagation(rhm).condition(messages).query(*QUERIES, draws=draws)
    process = os.fork()
    if not process:
        status = 1
        try:
            signal.alarm(20)
            found = BeliefPropagation(rhm).condition(messages).query(*QUERIES, draws=draws)
            assert torch.get_num_threads() == 2
            torch.set_num_threads(1)
            assert_equal_bits(expected, found)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


@pytest.mark.parametrize("switch", "01")
def test_answers_are_written_to_given_tensors(
    switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIT_HIER_KERNEL", switch)
    rhm = RandomHierarchyModel(8, 3, 2, 3)
    messages = messages_of_different_sharpness(rhm, 5, 5, torch.float32)
    posterior = BeliefPropagation(rhm).condition(messages)
    expected = posterior.marginals()
    buffers = posterior.allocate("marginals", 2)
    out = tuple(buffer[1] for buffer in buffers)
    answer = posterior.query("marginals", out={"marginals": out})["marginals"]
    for a, b, c in zip(expected, buffers, answer, strict=True):
        assert torch.equal(a, b[1])
        assert c.data_ptr() == b[1].data_ptr()


@needs_kernel
@pytest.mark.parametrize("offset", [0, 1])
def test_answers_that_exceed_the_caches(offset: int) -> None:
    """They are written past the caches if aligned, with the same bits as in small batches."""
    rhm = RandomHierarchyModel(16, 4, 2, 7)
    bp = BeliefPropagation(rhm)
    messages = messages_of_different_sharpness(rhm, 300, 300, torch.float32)
    out = tuple(
        torch.empty(300 * nodes * symbols + 1)[offset:][: 300 * nodes * symbols].view(
            300, nodes, symbols
        )
        for nodes, symbols in bp.tables.level_shapes
    )
    bp.condition(messages).query("marginals", out={"marginals": out})
    parts = [bp.marginals(part) for part in messages.split(50)]
    for large, small in zip(out, zip(*parts, strict=True), strict=True):
        assert torch.equal(large, torch.cat(small))


@pytest.mark.parametrize("switch", "01")
@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e37, 3e38])
def test_leaf_messages_at_the_limits_of_float32(
    scale: float, switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIT_HIER_KERNEL", switch)
    rhm = RandomHierarchyModel(8, 3, 2, 3)
    bp = BeliefPropagation(rhm)
    messages = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0)) * scale
    for single, double in zip(
        bp.marginals(messages), bp.marginals(messages.double()), strict=True
    ):
        assert (single - double).abs().max() < 1e-6
    exact = bp.log_evidence(messages.double())
    assert torch.allclose(bp.log_evidence(messages), exact, rtol=1e-6)


@pytest.mark.parametrize("switch", "01")
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
def test_underflow_does_not_affect_results(
    rhm: RandomHierarchyModel, power: int, switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages over many orders of magnitude: float32 agrees with float64."""
    monkeypatch.setenv("LIT_HIER_KERNEL", switch)
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
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with copies of the package's libraries, from which they are loaded again."""
    for path in native_library.FOLDER.glob("kernel_*.so"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(native_library, "FOLDER", tmp_path)
    monkeypatch.setenv("LIT_HIER_KERNEL", "1")
    caches = (native_library._load_widest, native_library._announce_new_name)
    for cache in caches:
        cache.cache_clear()
    yield tmp_path
    for cache in caches:
        cache.cache_clear()


class LongerResults(ctypes.Structure):
    """Has more fields than the structure in the library."""

    _fields_ = (*native_library.Results._fields_, ("more", ctypes.c_void_p))


def remove(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in folder.iterdir():
        path.unlink()


def overwrite(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in folder.iterdir():
        path.unlink()
        path.write_bytes(b"not a library")


def change_sources(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "source_digest", lambda: "0" * 64)


def change_sizes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "Results", LongerResults)


@needs_kernel
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (remove, "kernel_baseline.so was not built"),
        (overwrite, "kernel_baseline.so cannot be loaded: "),
        (
            change_sources,
            "kernel_baseline.so is stale: its sources differ from those in this package",
        ),
        (change_sizes, r"kernel_baseline.so is stale: its structures have \[\d+, 64\] bytes"),
    ],
)
def test_unusable_libraries_are_reported_once_and_plain_operations_answer(
    change: Callable[[Path, pytest.MonkeyPatch], None],
    reason: str,
    libraries: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rhm = RandomHierarchyModel(4, 2, 2, 2)
    bp = BeliefPropagation(rhm)
    messages = messages_of_different_sharpness(rhm, 3, 3, torch.float32)
    with monkeypatch.context() as context:
        context.setenv("LIT_HIER_KERNEL", "0")
        expected = bp.marginals(messages)
    change(libraries, monkeypatch)
    with pytest.raises(UnusableLibraryError, match=rf"^{reason}[^\n]*$"):
        native_library.load_library(native_library.variant_path("baseline"))
    with caplog.at_level(logging.INFO, "lit_hier"):
        for _ in range(2):
            assert native_library.load_kernel() is None
            assert_equal_bits({"marginals": bp.marginals(messages)}, {"marginals": expected})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "runs as plain torch operations" in record.getMessage()
    assert "pip install --editable ." in record.getMessage()
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize("rank", [0, 1])
def test_one_process_of_a_run_reports(
    rank: int,
    libraries: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    remove(libraries, monkeypatch)
    monkeypatch.setenv("LIT_HIER_COMPILE", "1")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    assert native_library.load_kernel() is None
    assert len(caplog.records) == (0 if rank else 2)


@needs_kernel
@pytest.mark.parametrize("is_bad", [False, True])
def test_a_narrower_variant_replaces_one_that_was_not_built_or_is_bad(
    is_bad: bool,
    libraries: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(native_library, "variant_names", lambda: ["avx2", "baseline"])
    (libraries / "kernel_avx2.so").unlink(missing_ok=True)
    if is_bad:
        (libraries / "kernel_avx2.so").write_bytes(b"not a library")
    native = native_library.load_kernel()
    assert native is not None
    assert native._name == str(libraries / "kernel_baseline.so")
    assert len(caplog.records) == is_bad
    for record in caplog.records:
        assert "kernel_avx2.so cannot be loaded" in record.getMessage()
        assert "pip install --editable ." in record.getMessage()


@pytest.mark.parametrize(
    ("capability", "variants"),
    [
        ("AVX512", ["avx512", "avx2", "baseline"]),
        ("AVX2", ["avx2", "baseline"]),
        ("DEFAULT", ["baseline"]),
        ("SVE256", ["baseline"]),
    ],
)
def test_the_machines_capability_chooses_the_variants(
    capability: str, variants: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert native_library.variant_names() == variants


@needs_kernel
def test_a_package_without_sources_has_a_kernel(
    libraries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_sources, "FOLDER", libraries)
    assert kernel_sources.source_digest() is None
    assert native_library.load_kernel() is not None


def test_the_digest_depends_on_every_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = kernel_sources.source_files()
    assert {path.suffix for path in sources} == {".c", ".h"}
    for path in sources:
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(kernel_sources, "FOLDER", tmp_path)
    digests = {kernel_sources.source_digest()}
    for path in kernel_sources.source_files():
        path.write_bytes(path.read_bytes() + b"\n")
        digests.add(kernel_sources.source_digest())
    assert len(digests) == 1 + len(sources)


@pytest.mark.usefixtures("libraries")
def test_the_environment_turns_the_kernel_off_without_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LIT_HIER_KERNEL", "0")
    with caplog.at_level(logging.INFO, "lit_hier"):
        assert native_library.load_kernel() is None
    assert not caplog.records


@needs_kernel
@pytest.mark.usefixtures("libraries")
def test_the_old_environment_variable_is_answered_by_the_new_name(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LIT_HIER_COMPILE", "0")
    for _ in range(2):
        assert native_library.load_kernel() is not None
    (record,) = caplog.records
    assert "LIT_HIER_COMPILE is ignored" in record.getMessage()
    assert "LIT_HIER_KERNEL=0" in record.getMessage()


def test_the_sanitized_kernel_is_tested_whatever_the_environment(tmp_path: Path) -> None:
    """`LIT_HIER_KERNEL=0` would skip its tests."""
    interpreter = tmp_path / "python"
    interpreter.write_text('#!/bin/sh\necho "$2 ${LIT_HIER_KERNEL-unset}" >> "$RECORD"\n')
    interpreter.chmod(0o755)
    (tmp_path / ".installed").touch()
    record = tmp_path / "record"
    subprocess.run(
        ["make", "sanitize", f"BIN={tmp_path}", f"VENV={tmp_path}", f"SANITIZED={tmp_path}/build"],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"LIT_HIER_KERNEL": "0", "RECORD": str(record)},
        check=True,
        capture_output=True,
    )
    assert record.read_text().splitlines()[-1] == "pytest unset"


def test_invalid_queries_and_tensors_for_answers_are_rejected() -> None:
    """In a process without the tests' checks of types, as users have it."""
    script = """
import torch
from lit_hier.errors import InputError
from lit_hier.inference import BeliefPropagation
from lit_hier.rhm import RandomHierarchyModel
bp = BeliefPropagation(RandomHierarchyModel(4, 2, 2, 2))
posterior = bp.condition(torch.rand(3, 4, 4))
right = posterior.allocate("marginals")
wide = tuple(torch.empty(*x.shape[:-1], 2 * x.shape[-1])[..., ::2] for x in right)
assert posterior.query("marginals", out={"marginals": right})["marginals"] is right
for query, out in [
    ("tree", {}), ("", {}), ("query", {}), ("marginals", {"marginals": (torch.empty(1),)}),
    ("marginals", {"marginals": right[:-1]}), ("marginals", {"marginals": wide}),
    ("upward", {"upward": tuple(x.double() for x in right)}),
    ("log_evidence", {"log_evidence": (torch.empty(3),)}),
]:
    try:
        posterior.query(query, out=out)
    except InputError as error:
        print(error)
    else:
        raise AssertionError((query, out))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 8
    assert lines[0] == "queries: there is no query 'tree' (did you mean trees?); give one of" + (
        " upward, downward, marginals, log_evidence, trees"
    )
    assert all("must be contiguous, torch.float" in line for line in lines[3:])
