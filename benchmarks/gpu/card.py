"""The card: its name, its rates, and how work on it is timed; in a rehearsal, the CPU."""

import gc
import subprocess
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any, TypeVar

import numpy as np
import torch
from runner import Report
from torch import Tensor
from torch.autograd import DeviceType
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")
DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "tf32": torch.float32,
    "fp32": torch.float32,
}
# Operations that wait for the device, which a rehearsal counts on the CPU.
_WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal")


class Card:
    """A GPU or, in a rehearsal, the CPU in its place.

    Args:
        rehearse: Whether to use the CPU, and tiny sizes.
    """

    def __init__(self, rehearse: bool) -> None:
        self.rehearse = rehearse
        self.device = torch.device("cpu" if rehearse else "cuda")
        self.accelerator = "cpu" if rehearse else "gpu"
        self.use_tf32(False)
        if not rehearse:
            torch.cuda.init()

    def use_tf32(self, allowed: bool) -> None:
        """Let float32 products and convolutions use TensorFloat-32, or not."""
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed

    def size(self, full: T, tiny: T) -> T:
        """Choose a size: the full one on a card, the tiny one in a rehearsal."""
        return tiny if self.rehearse else full

    def put(self, x: Tensor) -> Tensor:
        """Copy a tensor to the card."""
        return x.to(self.device)

    def synchronize(self) -> None:
        """Wait until the card has finished all that was queued."""
        if not self.rehearse:
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], object], repeats: int = 1) -> float:
        """Time a call by the wall clock: several one after another, the end synchronized."""
        self.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        self.synchronize()
        return (time.perf_counter() - start) / repeats

    def repeats(self, call: Callable[[], object], seconds: float = 0.05) -> int:
        """Return how many calls take at least some time, 1 to 200."""
        return max(1, min(200, round(seconds / max(self.seconds(call), 1e-6))))

    def kernel_seconds(self, call: Callable[[], object], repeats: int = 3) -> float:
        """Time a call on the card: the sum of its kernels and copies; NaN if not known."""
        profiler = torch.profiler
        activities = [profiler.ProfilerActivity.CPU]
        if not self.rehearse:
            activities.append(profiler.ProfilerActivity.CUDA)
        try:
            with profiler.profile(activities=activities) as profile:
                self.seconds(call, repeats)
            events = profile.key_averages()
        except RuntimeError:  # where tracing is not permitted
            return float("nan")
        if self.rehearse:
            total = sum(event.self_cpu_time_total for event in events)
        else:
            total = sum(
                event.self_device_time_total
                for event in events
                # Annotations are events of the device that span their kernels.
                if event.device_type == DeviceType.CUDA and not event.is_user_annotation
            )
        return total / 1e6 / repeats if total else float("nan")

    def allocated(self) -> int:
        """Return the bytes of all live tensors on the card, after garbage collection."""
        gc.collect()
        if not self.rehearse:
            self.synchronize()
            return torch.cuda.memory_allocated()
        tensors = [x for x in gc.get_objects() if issubclass(type(x), Tensor)]
        return sum({x.untyped_storage().data_ptr(): x.nbytes for x in tensors}.values())

    def synchronizations(self, call: Callable[[], object]) -> int:
        """Count how often a call makes the CPU wait for the card."""
        if self.rehearse:
            with _CountWaiting() as counter:
                call()
            return counter.num
        call()  # so that what happens once does not count
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.set_warn_always(True)
            torch.cuda.set_sync_debug_mode("warn")
            try:
                call()
            finally:
                torch.cuda.set_sync_debug_mode("default")
                torch.set_warn_always(False)
        return sum("called a synchronizing" in str(warning.message) for warning in caught)


class _CountWaiting(TorchDispatchMode):
    """Counts operations that would wait for a card."""

    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.num += func.overloadpacket.__name__ in _WAITING
        return func(*args, **(kwargs or {}))


class Copy:
    """A copy of 2^30 floats, whose rate other measurements are compared with."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.source = torch.empty(card.size(2**30, 2**16), device=card.device).normal_()
        self.target = torch.empty_like(self.source)
        self.rate()

    def rate(self) -> float:
        """Return bytes read and written per second."""
        work = lambda: self.target.copy_(self.source)  # noqa: E731
        return 2 * self.source.nbytes / self.card.seconds(work, 3)


def matrix_rate(card: Card, name: str, a: Tensor, b: Tensor) -> float:
    """Return the rate of a matrix product of random numbers, in FLOP/s."""
    card.use_tf32(name == "tf32")
    try:
        return 2 * len(a) ** 3 / card.seconds(lambda: a @ b, 3)
    finally:
        card.use_tf32(False)


def quartiles(values: Any) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    low, middle, high = np.percentile(np.array(values), [25, 50, 75])
    return float(low), float(middle), float(high)


def driver() -> str:
    """Return the driver's version, by nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return output.stdout.split("\n")[0].strip()


def version(package: str) -> str:
    """Return the version of a package, if it is installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def measure_card(card: Card, report: Report) -> None:
    """Name the card; measure its copy bandwidth and its rates of matrix products."""
    facts = {"name": "CPU", "memory": "", "driver": ""}
    if not card.rehearse:
        properties = torch.cuda.get_device_properties(0)
        facts = {
            "name": f"{properties.name}, {torch.cuda.device_count()} on this machine",
            "memory": f"{properties.total_memory / 2**30:.1f} GiB",
            "driver": driver(),
        }
    facts |= {
        "torch": torch.__version__,
        "Triton": version("triton"),
        "CUDA": str(torch.version.cuda),
        "cuDNN": str(torch.backends.cudnn.version()),
    }
    report.number("facts", facts)
    copy = Copy(card)
    side = card.size(8192, 64)
    factors = {
        name: [torch.randn(side, side, device=card.device).to(dtype) for _ in range(2)]
        for name, dtype in DTYPES.items()
    }
    rates: dict[str, list[float]] = {"copy": [], **{name: [] for name in DTYPES}}
    for round_ in range(card.size(8, 3)):
        found = {"copy": copy.rate()}
        found |= {name: matrix_rate(card, name, *pair) for name, pair in factors.items()}
        if round_:  # the first is a warm-up
            for name, rate in found.items():
                rates[name].append(rate)
    report.number("rates", rates)
    for name, values in rates.items():
        low, middle, high = quartiles(values)
        if name == "copy":
            what = f"copy of 2^{copy.source.numel().bit_length() - 1} floats, read and written"
            found_text = f"{middle / 1e9:,.0f} GB/s ({low / 1e9:,.0f} to {high / 1e9:,.0f})"
        else:
            what = f"{name} product, {side} x {side}, random numbers"
            found_text = f"{middle / 1e12:,.1f} TFLOP/s ({low / 1e12:,.1f} to {high / 1e12:,.1f})"
        facts[what] = found_text
    report.number("facts", facts)
    report.note("copy bandwidth and matrix rates", "see above")
