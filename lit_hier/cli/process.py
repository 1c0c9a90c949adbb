"""What the command changes in the whole Python process, each setting with its reason.

`configure` is called by the entry point alone: the process exists for this one run. `preserved`
surrounds a run that Python code has started: the process belongs to the caller.
"""

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # as in glibc's malloc.h
_RANK_ZERO_LOG: Final = logging.getLogger("pytorch_lightning.utilities.rank_zero")
_TORCH_FLAGS: Final = (
    (torch.backends.cudnn, "allow_tf32"),
    (torch.backends.cudnn, "benchmark"),
    (torch.backends.cuda.matmul, "allow_tf32"),
    (torch.utils.deterministic, "fill_uninitialized_memory"),
)
_SAFE_PATH: Final = "PYTHONSAFEPATH"
# Advertisement, and what this command says itself once the run has ended.
_UNHELPFUL_LINES: Final = ("Tip:", "Detected KeyboardInterrupt")
GRACE: Final = 20.0
"""Seconds within which a process ends after SIGTERM or SIGINT, whatever it is doing."""
_UNHELPFUL_WARNINGS: Final = (
    # Lightning's own use of torch's trees.
    r".*isinstance\(treespec, LeafSpec\)",
    # A process without a batch receives an empty one, and an empty log.
    "Total length of `list` across ranks is zero",
    # A short training logs at the end of its epochs.
    "The number of training batches .* smaller than the",
    # A process without a batch has an empty metric until the processes synchronize.
    "The ``compute`` method of metric",
)


def configure() -> None:
    """Configure a process that runs this command and nothing else."""
    _disable_reduced_precision()
    _retain_freed_memory()
    _silence_unhelpful_messages()
    threading.excepthook = _report_thread_error
    sys.unraisablehook = _repeat_lost_interrupt
    _Watch.start(GRACE)


@contextmanager
def preserved() -> Iterator[None]:
    """Restore what a run changes in its process, Lightning's changes and those of `configure`.

    Restored are random number generators, environment variables, working directory, signal
    handlers, hooks, filters of warnings and logs, and torch's flags; glibc's allocator cannot be.
    """
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    filters = list(_RANK_ZERO_LOG.filters)
    environment, folder = dict(os.environ), Path.cwd()
    flags, dtype = _get_torch_flags(), torch.get_default_dtype()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    num_threads = torch.get_num_threads()
    watch = _Watch.current
    generators = isolate_rng(include_cuda=torch.cuda.is_initialized())
    generators.__enter__()  # not as a context: after an exception it restores nothing
    try:
        with warnings.catch_warnings():
            yield
    finally:
        if _Watch.current is not watch:
            _Watch.stop()
        generators.__exit__(None, None, None)
        sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler and handler is not None:
                signal.signal(number, handler)
        _RANK_ZERO_LOG.filters[:] = filters
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        os.chdir(folder)
        _set_torch_flags(flags)
        torch.set_default_dtype(dtype)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        if torch.get_num_threads() != num_threads:
            torch.set_num_threads(num_threads)


@contextmanager
def safe_path() -> Iterator[None]:
    """Keep Python processes that libraries start from importing files of the working directory."""
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before


class _Watch:
    """Ends this process some seconds after SIGTERM or SIGINT if it has not ended by itself.

    Python acts on a signal only between two of its own instructions: a call of a library may last
    minutes, a network may catch the interrupt, and Lightning ends `fit` after the current step.
    All files are written atomically, so that nothing is lost but what was not yet written.

    A thread waits for the number of each signal for which Python has a handler; the handler in C
    sends it at once.
    """

    current: "_Watch | None" = None

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._over = threading.Event()
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._wait, daemon=True, name="lit_hier signals").start()

    @classmethod
    def start(cls, grace: float) -> None:
        """Watch this process, unless another thread than the main one runs the command."""
        if threading.current_thread() is threading.main_thread():
            cls.stop()
            cls.current = cls(grace)

    @classmethod
    def stop(cls) -> None:
        """End the watch."""
        watch, cls.current = cls.current, None
        if watch is not None:
            signal.set_wakeup_fd(-1)
            watch._over.set()
            watch._sender.shutdown(socket.SHUT_RDWR)  # for copies in forked processes, too
            watch._sender.close()

    @classmethod
    def forget(cls) -> None:
        """Leave the watch to the process that this one was forked from."""
        if cls.current is not None:
            cls.current = None
            with suppress(ValueError):  # where another thread than the main one forked
                signal.set_wakeup_fd(-1)

    def _wait(self) -> None:
        with self._receiver:
            while numbers := self._receiver.recv(64):
                for number in (signal.SIGTERM, signal.SIGINT):
                    if number in numbers and not self._over.wait(self._grace):
                        with suppress(OSError, ValueError):  # a closed pipe
                            sys.stderr.write(
                                f"lit-hier: ended {self._grace:.0f} seconds after {number.name},"
                                " as the run was still busy; run the same command again\n"
                            )
                            sys.stderr.flush()
                        os._exit(128 + number)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Watch.forget)


class SigtermInterrupts(Callback):
    """Interrupts a run on SIGTERM, except for `fit`; writes and logs nothing.

    Lightning itself only notes the signal, and acts on it between two steps of training. This
    must be the first callback, as others may work for minutes when a run starts.
    """

    def _register(self, trainer: Trainer) -> None:
        if trainer.state.fn != "fit" and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _interrupt_once)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace Lightning's handler, which it restores to the earlier one after the run."""
        self._register(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace Lightning's handler."""
        self._register(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace Lightning's handler."""
        self._register(trainer)


def _interrupt_once(number: int, frame: object) -> None:
    """Interrupt this process, and ignore the signal from now on: `timeout` sends it twice."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def _disable_reduced_precision() -> None:
    """Compute float32 in float32 on a GPU too: TF32 keeps 10 bits of the mantissa."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    # Deterministic algorithms would also fill all memory that is not yet written, at a cost.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _retain_freed_memory() -> None:
    """Make glibc retain freed memory, which the next batch needs again.

    By default it returns large tensors' memory to the system, and faults it in again page by page.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, 2**25)  # glibc's maximum
            mallopt(_M_TRIM_THRESHOLD, 2**28)


def _silence_unhelpful_messages() -> None:
    """Silence warnings and tips of Lightning that no user of this command can act on."""
    for message in _UNHELPFUL_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    _RANK_ZERO_LOG.addFilter(
        lambda record: not any(text in record.getMessage() for text in _UNHELPFUL_LINES)
    )


def _report_thread_error(error: threading.ExceptHookArgs) -> None:
    """Report a thread's error, unless it is an OSError: TensorBoard raises it again in `main`."""
    if not issubclass(error.exc_type, OSError):
        threading.__excepthook__(error)


def _repeat_lost_interrupt(error: "sys.UnraisableHookArgs") -> None:
    """Interrupt again, a moment later, after a finalizer has swallowed a KeyboardInterrupt."""
    if issubclass(error.exc_type, KeyboardInterrupt):
        threading.Timer(0.05, _interrupt_main_thread).start()
    else:
        sys.__unraisablehook__(error)


def _interrupt_main_thread() -> None:
    main_thread = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main_thread is not None:
        signal.pthread_kill(main_thread, signal.SIGINT)  # ends a system call that blocks, too
    else:
        signal.raise_signal(signal.SIGINT)


def _get_torch_flags() -> dict[tuple[Any, str], Any]:
    """Return the flags of torch that can be read, by the module that they belong to."""
    flags = {}
    for module, name in _TORCH_FLAGS:
        with suppress(RuntimeError):  # raised where the caller has set TF32 by its newer names
            flags[module, name] = getattr(module, name)
    return flags


def _set_torch_flags(flags: dict[tuple[Any, str], Any]) -> None:
    for (module, name), value in flags.items():
        if getattr(module, name) != value:
            setattr(module, name, value)
