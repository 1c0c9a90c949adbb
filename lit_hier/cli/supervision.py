"""The processes of one run end together, and none waits for another in silence.

The first process listens, and each other process keeps a connection to it. The operating system
closes the connection of a process that ends, however it ends, and keeps that of a process that is
stopped; so the first process knows the two apart, and each other process knows when the first one
has ended. Once a second each tells the other that it is running, and whether it waits in a
collective operation of torch. If a process ends early, the first one reports it in one line, and
all end.

A process that Lightning or torchrun started also ends with the process that started it.
"""

import ctypes
import hmac
import json
import os
import secrets
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import count, islice
from typing import Any, Final, NoReturn
from weakref import WeakSet

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from lit_hier.cli.exits import shorten
from lit_hier.errors import InputError
from lit_hier.io.atomic import checked_writes

RENDEZVOUS: Final = 600.0  # seconds that processes wait for each other at the start
_PARENT: Final = "LIT_HIER_PARENT"  # in the environment: the process that starts the others
_BEAT: Final = 1.0  # seconds between two signs of life
_SILENCE: Final = 10.0  # seconds without one after which a process may be stopped
_REPORT: Final = 180.0  # seconds between two lines about a process that is waited for
_GRACE: Final = 5.0  # seconds that others get to end, or to report an error first
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 6}
_PR_SET_PDEATHSIG: Final = 1  # as in Linux's prctl.h
_LOOPBACK: Final = ("127.0.0.1", "localhost")
_MAX_MESSAGE: Final = 2**16  # bytes
_MAX_NAMES: Final = 4  # processes that a line names
_RUNS: Final = count()  # the same in every process, as all execute the same runs


def _say(line: str) -> None:
    with suppress(OSError, ValueError):  # a closed pipe
        sys.stderr.write(f"lit-hier: {line}\n")
        sys.stderr.flush()


def _leave(status: int) -> NoReturn:
    """End this process, whose main thread may wait in a library for ever."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(status)


def _waits(thread: int | None) -> bool:
    """Return whether a thread waits in a collective operation of torch."""
    frame = sys._current_frames().get(thread or 0)
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith("torch.distributed"):
            return True
        frame = frame.f_back
    return False


# The process that started this one.


def _find_parent() -> int | None:
    """Return the process that started this one for a run; None if it was not started for one."""
    if os.environ.get("LOCAL_RANK") is None:
        return None
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return os.getppid()
    given = os.environ.get(_PARENT, "")
    return int(given) if given.isdecimal() and os.environ["LOCAL_RANK"] != "0" else None


def set_death_signal(number: int) -> None:
    """Let Linux send a signal to this process when its parent ends, even if it is stopped."""
    if sys.platform == "linux":
        prctl = getattr(ctypes.CDLL(None), "prctl", None)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number))


def _check_parent(parent: int) -> None:
    """End this process if its parent has ended."""
    if os.getppid() != parent:
        elastic = "TORCHELASTIC_RUN_ID" in os.environ
        if os.environ.get("LOCAL_RANK") == ("0" if elastic else "1"):
            _say("error: the process that started this run has ended; run the same command again")
        _leave(2)


@contextmanager
def bound_to_parent() -> Iterator[None]:
    """End this process with the one that started it, if that was Lightning's or torchrun's.

    Files are not written after the parent has ended.
    """
    if "LOCAL_RANK" not in os.environ:
        os.environ[_PARENT] = str(os.getpid())  # for those that Lightning will start
    parent = _find_parent()
    if parent is None:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_BEAT / 2):
            _check_parent(parent)

    if "TORCHELASTIC_RUN_ID" not in os.environ:  # whose agent may start it in a thread that ends
        set_death_signal(signal.SIGKILL)
    _check_parent(parent)  # it may have ended before
    threading.Thread(target=watch, daemon=True, name="lit_hier parent").start()
    try:
        with checked_writes(partial(_check_parent, parent)):
            yield
    finally:
        over.set()
        set_death_signal(0)


# Connections between the first process and each other one.


_ENDPOINTS: Final[WeakSet[socket.socket]] = WeakSet()


def _close_endpoints() -> None:
    """Close what a forked process, such as a data loader's, has inherited.

    It would keep the connection of a process that has ended.
    """
    for endpoint in list(_ENDPOINTS):
        endpoint.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_endpoints)


class _Connection:
    """A socket that carries one JSON object per line; several threads may use it."""

    def __init__(self, endpoint: socket.socket) -> None:
        endpoint.setblocking(False)
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # not every system names them
                endpoint.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        _ENDPOINTS.add(endpoint)
        self._endpoint = endpoint
        self._buffer = b""
        self._sending = threading.Lock()

    def fileno(self) -> int:
        return self._endpoint.fileno()

    def close(self) -> None:
        self._endpoint.close()

    def send(self, **message: Any) -> None:
        """Send a message; if the other end does not read, it is lost, and so are later ones."""
        with self._sending, suppress(OSError):
            self._endpoint.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """Return the messages that have arrived; the last ones before the end of the connection.

        Raises:
            OSError: The other end is closed, or what arrives is no message.
        """
        ended = False
        try:
            while part := self._endpoint.recv(_MAX_MESSAGE):
                self._buffer += part
                if len(self._buffer) > 4 * _MAX_MESSAGE:
                    raise ConnectionError
            ended = True
        except BlockingIOError:
            pass
        except OSError:
            ended = True
        if ended and b"\n" not in self._buffer:
            raise ConnectionError
        *lines, self._buffer = self._buffer.split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except (ValueError, RecursionError) as error:
            raise ConnectionError from error
        if not all(isinstance(message, dict) for message in messages):
            raise ConnectionError
        return messages


@dataclass
class _Member:
    """What the first process knows of a process, itself included; times are monotonic."""

    rank: int
    host: str
    pid: int
    seen: float = field(default_factory=time.monotonic)
    busy_since: float = field(default_factory=time.monotonic)
    waits_since: float | None = None
    done: bool = False

    def update(self, waits: bool) -> None:
        """Note a sign of life."""
        self.seen = time.monotonic()
        if waits:
            self.waits_since = self.waits_since or self.seen
            self.busy_since = self.seen
        else:
            self.waits_since = None

    def __str__(self) -> str:
        return f"process {self.rank} on {self.host} (pid {self.pid})"


def _since(start: float) -> str:
    """Describe a monotonic time as a time of the day and a duration."""
    seconds = time.monotonic() - start
    begun = datetime.now() - timedelta(seconds=seconds)
    return f"since {begun:%H:%M} ({seconds / 60:.0f} min)"


def _enumerate(names: Iterable[object], num: int) -> str:
    """Join the first names of several."""
    shown = list(map(str, islice(names, _MAX_NAMES)))
    more = num - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


class _Hub(threading.Thread):
    """The first process's end of all connections."""

    def __init__(
        self, world_size: int, children: list["subprocess.Popen[bytes]"], limit: float
    ) -> None:
        super().__init__(daemon=True, name="lit_hier processes")
        self.token = secrets.token_hex(16)
        self.complete, self._closing, self._over = (threading.Event() for _ in range(3))
        self._world_size, self._children, self._limit = world_size, children, limit
        self._own = _Member(0, socket.gethostname(), os.getpid())
        self._members: dict[_Connection, _Member] = {}
        self._said = self._begun = time.monotonic()
        self._decision = threading.Lock()
        self._status: int | None = None  # with which all end
        self._main = threading.current_thread().ident
        self._selector = selectors.DefaultSelector()

    def listen(self, host: str) -> int:
        """Open the port that the other processes connect to.

        Args:
            host: Their name of this machine; a loopback address is not reached from others.

        Returns:
            Its number.
        """
        dual = socket.has_dualstack_ipv6() and host not in _LOOPBACK
        family = socket.AF_INET6 if dual else socket.AF_INET
        backlog = min(self._world_size + 8, 4096)
        server = socket.create_server(("", 0), family=family, dualstack_ipv6=dual, backlog=backlog)
        server.setblocking(False)
        _ENDPOINTS.add(server)
        self._selector.register(server, selectors.EVENT_READ)
        port: int = server.getsockname()[1]
        return port

    def run(self) -> None:
        """Watch the other processes until the run is over and they have closed their ends."""
        next_beat = 0.0
        while self._members or not self._over.is_set():
            self._poll(max(0.0, next_beat - time.monotonic()))
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + _BEAT
                self._own.update(_waits(self._main))
                for connection in list(self._members):
                    connection.send(alive=True)
                if not self._closing.is_set():
                    self._check_children()
                    self._check_waits()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _poll(self, seconds: float) -> None:
        """Accept connections and messages, waiting for the first of them for some seconds."""
        for key, _ in self._selector.select(seconds):
            if isinstance(key.fileobj, socket.socket):
                self._accept(key.fileobj)
            elif isinstance(key.fileobj, _Connection):
                self._receive(key.fileobj)

    def _accept(self, server: socket.socket) -> None:
        with suppress(OSError):
            connection = _Connection(server.accept()[0])
            self._selector.register(connection, selectors.EVENT_READ)

    def _receive(self, connection: _Connection) -> None:
        try:
            for message in connection.receive():
                self._handle(connection, message)
        except (OSError, KeyError, TypeError, ValueError):
            self._selector.unregister(connection)
            connection.close()
            member = self._members.pop(connection, None)
            if member is not None and not member.done and not self._closing.is_set():
                self._report_death(member)

    def _handle(self, connection: _Connection, message: Mapping[str, Any]) -> None:
        member = self._members.get(connection)
        if member is None:
            if not hmac.compare_digest(str(message["token"]), self.token):
                raise ValueError
            member = _Member(int(message["rank"]), str(message["host"]), int(message["pid"]))
            self._members[connection] = member
            if len(self._members) == self._world_size - 1:
                self.complete.set()
            if self._status is not None:
                connection.send(end=self._status)
            return
        member.update(bool(message.get("waits")))
        member.done = member.done or bool(message.get("done"))
        if "failed" in message:
            self.end(message["failed"], 1 if message["failed"] is None else 2)
        if "interrupted" in message:
            time.sleep(_BEAT)  # an interrupt from a keyboard reaches all
            self.end(f"{member} was interrupted; run the same command again", 2)

    def _report_death(self, member: _Member) -> None:
        """End the run after a process has ended without a message."""
        reason = "has ended without a message; if it was killed, memory may have been short"
        for child in self._children:
            if child.pid == member.pid:
                with suppress(subprocess.TimeoutExpired):
                    reason = _describe_end(child.wait(_BEAT)) or reason
        self.end(f"{member} {reason}; run the same command again", 2)

    def _check_children(self) -> None:
        """End the run if a child has ended before it was connected."""
        known = {member.pid for member in self._members.values()}
        for local_rank, child in enumerate(self._children, 1):
            if child.poll() and child.pid not in known:
                reason = _describe_end(child.returncode)  # else it has reported an error itself
                message = f"process {local_rank} (pid {child.pid}) {reason}; run it again"
                self.end(message if reason else None, 2)

    def missing(self) -> str:
        """Name the processes that have not connected."""
        known = {member.rank for member in self._members.values()}
        ranks = (rank for rank in range(1, self._world_size) if rank not in known)
        return f"process {_enumerate(ranks, self._world_size - 1 - len(known))}"

    def _check_waits(self) -> None:
        """Now and then, name who is waited for; end the run at the limit."""
        now = time.monotonic()
        if not self.complete.is_set():
            late, since, who = True, self._begun, f"{self.missing()} to start"
        else:
            members = [self._own, *(m for m in self._members.values() if not m.done)]
            begun = [m.waits_since for m in members if m.waits_since is not None]
            found: list[tuple[float, str]] = []
            for m in members:
                if now - m.seen > _SILENCE:
                    found.append((m.seen, f"{m}, which may be stopped"))
                elif begun and m.waits_since is None:
                    found.append((max(min(begun), m.busy_since), str(m)))
            late, since = bool(found), min(found)[0] if found else now
            who = _enumerate((name for _, name in sorted(found)), len(found))
        if late and self.complete.is_set() and now - since > self._limit:
            self.end(
                f"waited for {who} {_since(since)}, longer than wait_limit; run the same command"
                " again, with a higher wait_limit if it was busy",
                2,
            )
        if late and now - max(since, self._said) >= _REPORT:
            self._said = now
            _say(f"waiting for {who} {_since(since)}")

    def decide(self) -> None:
        """Claim the decision how this run ends; wait for ever if it has been made already."""
        self._decision.acquire()
        self._closing.set()

    def end(self, message: object, status: int) -> None:
        """Report why the run ends, and end all its processes, unless it ends already.

        This thread never waits for the decision: it must notice that the others have ended.
        """
        if not self._decision.acquire(blocking=False):
            return
        if message is not None:
            _say(f"error: {shorten(message)}")
        self.dismiss(status)
        _leave(status)

    def dismiss(self, status: int) -> None:
        """Tell all other processes to end, and end those of this machine."""
        self._closing.set()
        self._status = status
        for connection in list(self._members):
            connection.send(end=status)
        deadline = time.monotonic() + _GRACE
        for child in self._children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.1, deadline - time.monotonic()))
            child.kill()
        # A socket that is closed before all is read resets the connection, and the other end loses
        # the message to end. Who has not introduced itself yet may be about to.
        joining = time.monotonic() + _BEAT
        while time.monotonic() < deadline and (
            self._members or (not self.complete.is_set() and time.monotonic() < joining)
        ):
            if threading.current_thread() is self:
                self._poll(_BEAT / 20)
            else:
                time.sleep(_BEAT / 20)

    def close(self) -> None:
        """Wait for the other processes to come to their end, and let them go."""
        deadline = time.monotonic() + 12 * _GRACE
        while time.monotonic() < deadline and not all(
            member.done for member in list(self._members.values())
        ):
            time.sleep(_BEAT / 20)
        self.decide()
        for connection in list(self._members):
            connection.send(done=True)
        self._over.set()


def _describe_end(status: int) -> str:
    """Describe the signal that ended a process; empty if it ended itself."""
    if status >= 0:
        return ""
    with suppress(ValueError):
        name = signal.Signals(-status).name
        hint = ", perhaps because memory was short" if name == "SIGKILL" else ""
        return f"was ended by {name}{hint}"
    return f"was ended by signal {-status}"


class _Link(threading.Thread):
    """Another process's connection to the first one."""

    def __init__(self, connection: _Connection, rank: int, host: str, limit: float) -> None:
        super().__init__(daemon=True, name="lit_hier processes")
        self.connection = connection
        self._rank, self._limit = rank, limit
        self._first = _Member(0, host, 0)
        self._said = time.monotonic()
        self._main = threading.current_thread().ident
        self._receiving = threading.Lock()
        self._over = False

    def run(self) -> None:
        """Send signs of life until the run is over."""
        next_beat = 0.0
        while not self._over:
            select.select([self.connection], [], [], max(0.0, next_beat - time.monotonic()))
            self.check()
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + _BEAT
                self.connection.send(waits=_waits(self._main))
                self._check_wait()
        self.connection.close()

    def check(self) -> None:
        """End this process if the first one has ended, or has said so."""
        with self._receiving:
            if self._over:
                return
            try:
                messages = self.connection.receive()
            except OSError:
                self._end_without_first()
            for message in messages:
                self._first.seen = time.monotonic()
                if "end" in message:
                    _leave(int(message["end"]))
                if "done" in message:
                    self._over = True

    def _check_wait(self) -> None:
        silence = time.monotonic() - self._first.seen
        line = f"process 0 on {self._first.host}, which may be stopped, {_since(self._first.seen)}"
        if silence > self._limit:
            if self._rank == 1:
                _say(f"error: waited for {line}, longer than wait_limit")
            _leave(2)
        if silence >= _REPORT and time.monotonic() - self._said >= _REPORT:
            self._said = time.monotonic()
            if self._rank == 1:
                _say(f"waiting for {line}")

    def _end_without_first(self) -> NoReturn:
        """End after the first process; one process of each machine reports it."""
        time.sleep(_BEAT / 2)  # it may end with its parent
        local_rank = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
        if local_rank == int(self._rank == local_rank):
            _say(
                f"error: process 0 on {self._first.host} has ended without a message; run the"
                " same command again"
            )
        _leave(2)

    def close(self) -> None:
        """Say that this process has come to its end, and wait until the first one has heard."""
        self.connection.send(done=True)
        deadline = time.monotonic() + 12 * _GRACE
        while not self._over and time.monotonic() < deadline:
            time.sleep(_BEAT / 20)
        self._over = True


class Supervisor(Callback):
    """Connects the processes of a run, if there are several; writes and logs nothing.

    Between the start of a process and `close` a process ends when the first one does, and the
    first one ends all when one ends early.
    """

    def __init__(self) -> None:
        self._hub: _Hub | None = None
        self._link: _Link | None = None
        self._checks: Any = None

    def attach(self, trainer: Trainer, wait_limit: float) -> None:
        """Connect the processes before torch does.

        Args:
            trainer: The run's trainer.
            wait_limit: Hours that processes wait for one that is busy or stopped.
        """
        if trainer.num_nodes * trainer.num_devices > 1:
            strategy = trainer.strategy
            connect = partial(self._connect, trainer, wait_limit, strategy.setup_environment)
            strategy.setup_environment = connect  # type: ignore[method-assign]

    def _connect(self, trainer: Trainer, wait_limit: float, proceed: Any) -> None:
        strategy: Any = trainer.strategy
        environment = strategy.cluster_environment
        rank = int(strategy.node_rank) * trainer.num_devices + int(strategy.local_rank)
        world_size = trainer.num_nodes * trainer.num_devices
        host, port = environment.main_address, environment.main_port
        limit = wait_limit * 3600
        store = _open_store(host, port, rank, world_size)
        if rank == 0:
            self._hub = _Hub(world_size, _adopt_children(strategy.launcher), limit)
            store.set("address", json.dumps([self._hub.listen(host), self._hub.token]))
            self._hub.start()
            if not self._hub.complete.wait(RENDEZVOUS):
                raise InputError(
                    f"trainer.num_nodes: of {world_size} processes, {self._hub.missing()} did not"
                    f" come to {host}:{port} within {RENDEZVOUS / 60:.0f} minutes;"
                    " start the command on every node"
                )
        else:
            try:
                number, token = json.loads(store.get("address"))
                endpoint = socket.create_connection((host, number), RENDEZVOUS)
            except (RuntimeError, OSError, ValueError) as error:
                raise _unreachable(host, port) from error
            self._link = _Link(_Connection(endpoint), rank, host, limit)
            own = {"rank": rank, "host": socket.gethostname(), "pid": os.getpid()}
            self._link.connection.send(token=token, **own)
            self._link.start()
            self._checks = checked_writes(self._link.check)
            self._checks.__enter__()
        proceed()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Let the other processes end after an interrupt, without a line of their own."""
        if isinstance(exception, KeyboardInterrupt | SystemExit):
            if self._hub is not None:
                self._hub.decide()
                self._hub.dismiss(1)
            elif self._link is not None:
                self._link.connection.send(interrupted=True)

    def report(self, message: str | None) -> None:
        """Before this process reports an error, end the others without a line of their own.

        If another one has ended, or reported before, this one ends here.

        Args:
            message: The line; None for an error with a traceback.
        """
        if message is None and (self._hub or self._link):
            time.sleep(_GRACE / 2)  # the error may be due to the end of another process
        if self._hub is not None:
            self._hub.decide()
            self._hub.dismiss(2 if message else 1)
        elif self._link is not None:
            if message is None:
                traceback.print_exc()
            self._link.connection.send(failed=message)
            time.sleep(3 * _GRACE)  # until the first process ends this one

    def close(self) -> None:
        """Part from the other processes at the end of a run."""
        if self._hub is not None:
            self._hub.close()
        elif self._link is not None:
            self._checks.__exit__(None, None, None)
            self._link.close()


def _open_store(host: str, port: int, rank: int, world_size: int) -> PrefixStore:
    """Open the store of key-value pairs that torch opens later; the first process serves it."""
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # torchrun
    try:
        # Torch itself would write lines of its own.
        if not serves:
            _wait_for_port(host, port)
        elif not torch.distributed.is_initialized():  # by an earlier run in this process
            socket.create_server(("", port)).close()
        store = TCPStore(
            host, port, world_size, serves, timedelta(seconds=RENDEZVOUS),
            wait_for_workers=False, multi_tenant=serves,
        )  # fmt: skip
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        if serves:
            raise InputError(
                f"MASTER_PORT is {port}, on which {host} cannot listen; another program may use"
                " it: set another number in the environment"
            ) from error
        raise _unreachable(host, port) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"lit_hier/{attempt}/{next(_RUNS)}", store)


def _wait_for_port(host: str, port: int) -> None:
    """Wait until something listens.

    Raises:
        OSError: Nothing does for some minutes.
    """
    deadline = time.monotonic() + RENDEZVOUS
    while True:
        try:
            socket.create_connection((host, port), _GRACE).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_BEAT / 4)


def _unreachable(host: str, port: int) -> InputError:
    return InputError(
        f"MASTER_ADDR: process 0 did not answer at {host}:{port}; start the command on the first"
        " node, too, or check MASTER_ADDR and MASTER_PORT"
    )


def _adopt_children(launcher: Any) -> list["subprocess.Popen[bytes]"]:
    """Return the processes that Lightning's launcher has started; it watches them no longer.

    Its observer would end this process, too, without a line. The observer keeps the first list,
    and the launcher, which forwards signals, gets another one.
    """
    started = getattr(launcher, "procs", [])
    children = [child for child in started if isinstance(child, subprocess.Popen)]
    if children:
        launcher.procs = list(children)
        started.clear()
    return children
