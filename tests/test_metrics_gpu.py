"""The kernels for similarity and moments on a GPU, in Triton's interpreter, against float64."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from torch import Tensor

from lit_hier.kernels import compiled
from lit_hier.kernels.compiled import CompiledKernels
from lit_hier.metrics import Moments, SimilarityTo, Standardization, channel_moments, similarity
from lit_hier.metrics.functional import moments

pytest.importorskip("triton")
from lit_hier.kernels import activations as kernels

LAYOUTS = {
    "first": (0, 1, 2, 3),
    "last": (0, 2, 3, 1),
    "between": (0, 3, 1, 2),
    "batch last": (1, 2, 3, 0),
}
TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float32)
SPACING = 2.0**-23
DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def raw() -> Standardization:
    return Standardization(torch.zeros(1, device=DEVICE), torch.ones(1, device=DEVICE))


def stored(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return equal values that have their axes in another order in memory."""
    inverse = sorted(range(x.ndim), key=axes.__getitem__)
    return x.permute(axes).contiguous().permute(inverse)


def cosines(start: Tensor, x: Tensor, standardization: Standardization) -> Tensor:
    """Compute in float64, from the definition, what `with_partners` returns."""
    units = x.shape[1:]
    each = units if len(standardization.mean) == units.numel() else (-1, *[1] * (x.ndim - 2))
    mean, inverse_std = (part.double().view(each) for part in standardization)
    a, b = (((values.double() - mean) * inverse_std).flatten(1) for values in (start, x))
    return torch.stack([torch.cosine_similarity(a, c, 1, 1e-8) for c in (b, b.roll(-1, 0))])


def deviations(found: Moments, x: Tensor) -> tuple[float, float]:
    """Return the largest errors of means, and relative ones of squares, against float64."""
    values = x.double().movedim(1, 0).flatten(1)
    mean = values.mean(1)
    squares = (values - mean[:, None]).square().sum(1)
    assert found.size == values.shape[1]
    relative = (found.squares - squares).abs() / squares
    return float((found.mean - mean).abs().max()), float(relative.max())


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose the kernels as on a GPU."""
    for module in (moments, similarity):
        monkeypatch.setattr(module, "_KERNELS", CompiledKernels("a test"))
    monkeypatch.setattr(CompiledKernels, "can_run_on", lambda self, x: not self._failed)


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch, on_gpu: None) -> None:
    """Choose kernels that may not fail, with blocks and tiles so small that there are several."""
    monkeypatch.setattr(CompiledKernels, "run", lambda self, x, launch: launch())
    for name, size in {"SAMPLES": 2, "BLOCK": 64, "TILE": 32, "ACROSS": 8, "PROGRAMS": 4}.items():
        monkeypatch.setattr(kernels, f"_{name}", size)


@pytest.mark.parametrize(("layout", "dtype"), zip(LAYOUTS, TYPES, strict=True))
def test_cosines_in_every_layout_and_type(layout: str, dtype: torch.dtype, request: Any) -> None:
    reference = 0.5 + numbers(6, 5, 3, 7)
    reference[:, 2] = 1  # a constant channel
    standardizations = [
        Standardization.of(channel_moments(reference)),
        Standardization.of(channel_moments(reference.flatten(1))),
    ]
    request.getfixturevalue("chosen")
    start, x = reference.to(dtype).chunk(2)
    for standardization in standardizations:
        compared = SimilarityTo(stored(start, LAYOUTS[layout]), standardization)
        found = compared.with_partners(stored(x, LAYOUTS[layout]))
        error = (found - cosines(start, x, standardization)).abs().max()
        assert error < 24 * SPACING
    # The order of sums is that of the start's memory, whatever that of `x` is.
    assert torch.equal(compared(x), found[0])


@pytest.mark.parametrize(("layout", "dtype"), zip(LAYOUTS, TYPES, strict=True))
@pytest.mark.usefixtures("chosen")
def test_moments_in_every_layout_and_type(layout: str, dtype: torch.dtype) -> None:
    x = (100 + numbers(5, 3, 4, 7)).to(dtype)
    x[:2] = 30  # the first tiles' means say little of the others'
    mean_error, relative_error = deviations(channel_moments(stored(x, LAYOUTS[layout])), x)
    assert mean_error < 1e-13
    assert relative_error < 1e-13


@pytest.mark.usefixtures("chosen")
def test_moments_of_units_and_of_many_channels() -> None:
    x = numbers(3, 21)
    assert max(deviations(channel_moments(x), x)) < 1e-14
    wide = numbers(9, 10, 2)[::2].expand(-1, -1, 2)  # not dense in memory
    assert max(deviations(channel_moments(wide), wide)) < 1e-14
    double = numbers(4, 3).double()
    assert torch.equal(channel_moments(double).mean, double.mean(0))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.usefixtures("chosen")
def test_constants_have_no_variance_and_what_is_not_finite_shows() -> None:
    x = torch.full((11, 3, 5), 0.7, device=DEVICE)
    x[4, 1, 2], x[5, 2, 3] = torch.nan, torch.inf
    found = channel_moments(x)
    assert found.squares.tolist()[0] == 0
    assert found.mean[0] == x[0, 0, 0]
    assert found.squares.isfinite().tolist() == [True, False, False]


@pytest.mark.usefixtures("chosen")
def test_samples_without_direction_partner_or_number() -> None:
    standardization = raw()
    start, x = numbers(4, 70), numbers(4, 70, seed=1)
    x[1], x[2, 5] = 0, torch.nan
    own, partners = SimilarityTo(start, standardization).with_partners(x)
    assert own[1] == partners[0] == 0
    assert own.isnan().tolist() == [False, False, True, False]
    assert partners.isnan().tolist() == [False, True, False, False]
    alone = SimilarityTo(start[:1], standardization)
    single = alone.with_partners(x[:1])
    assert single[0] == own[0]
    assert single[1].isnan()
    with pytest.raises(Exception, match="60"):
        SimilarityTo(start, standardization)(x[:, :60])


@pytest.mark.usefixtures("chosen")
def test_a_network_may_overwrite_its_activations() -> None:
    start, x = numbers(2, 3, 70)
    compared = SimilarityTo(overwritten := start.clone(), raw())
    overwritten.zero_()
    assert (compared(start) - 1).abs().max() < SPACING
    assert (compared.with_partners(x) - cosines(start, x, raw())).abs().max() < 24 * SPACING


def test_if_compilation_fails_torch_computes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, request: Any
) -> None:
    start, x = stored(numbers(3, 5, 4, 2), LAYOUTS["last"]), numbers(3, 5, 4, 2, seed=1)
    standardization = Standardization.of(expected := channel_moments(start))
    cosine = SimilarityTo(start, standardization).with_partners(x)
    request.getfixturevalue("on_gpu")

    def fail(*_: object) -> None:
        raise RuntimeError("no\ncompiler")

    monkeypatch.setattr(kernels, "cosines", fail)
    monkeypatch.setattr(kernels, "moments", fail)
    for _ in range(2):
        compared = SimilarityTo(start, standardization)
        assert torch.equal(compared.with_partners(x), cosine)
        assert torch.equal(compared(x), cosine[0])
        assert torch.equal(channel_moments(start).squares, expected.squares)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 2
    assert all("(no compiler); set LIT_HIER_KERNEL=0" in line for line in lines)


def test_kernels_are_for_gpus_and_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIT_HIER_KERNEL", raising=False)
    monkeypatch.setattr(compiled, "_can_compile", lambda device: True)
    kernels_of_a_task = CompiledKernels("a test")
    on_gpu = torch.device("cuda")
    assert not kernels_of_a_task.can_run_on(torch.device("cpu"))
    assert kernels_of_a_task.can_run_on(on_gpu)
    monkeypatch.setenv("LIT_HIER_KERNEL", "0")
    assert not kernels_of_a_task.can_run_on(on_gpu)


# Compiles what would be launched on a GPU of compute capability 9.0.
COMPILE = """
import torch
from offline_kernels import compile_instead
from lit_hier.kernels import activations as kernels

NAMES = ["_sum_products", "_divide", "_chunk_moments", "_merge_moments"]
compiled = compile_instead(kernels, NAMES, 90)
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for channels in (64, 5):
        x = torch.zeros(300, channels, 7, 8, dtype=dtype)
        for layout in (torch.channels_last, torch.contiguous_format):
            y = x.contiguous(memory_format=layout)
            kernels.cosines(y, y, torch.zeros(channels), torch.ones(channels), [0, 2, 3, 1], 1e-8)
            kernels.moments(y)
            for kernel in compiled:
                used = [word for word in ("cp.async.cg", "atom.") if word in kernel.asm["ptx"]]
                print(kernel.metadata.name, channels, *used)
            compiled.clear()
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_without_one(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = str(ROOT / "tests")
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    names = ("_sum_products", "_divide", "_chunk_moments", "_merge_moments")
    assert {name for name, *_ in lines} == {*names}
    assert not any("atom." in words for words in lines)
    # While a program computes, the next 16 bytes of each thread are on their way.
    ahead = {name for name, channels, *words in lines if words and channels == "64"}
    assert ahead == {"_sum_products", "_chunk_moments"}
