"""Processes of one run: none outlives the others, and none waits for another in silence.

The processes are forked and connected as in a run, but compute nothing.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT
from processes import free_port, run_and_exit

from lit_hier.cli import command, supervision
from lit_hier.cli.errors import describe_input_error
from lit_hier.cli.exits import exit_with_error
from lit_hier.cli.supervision import Supervisor, bound_to_parent
from lit_hier.errors import InputError
from lit_hier.io.atomic import atomic_write

Work = Callable[[int], object]


def execute(rank: int, world_size: int, port: int, work: Work, wait_limit: float) -> None:
    """Do what `command.execute` does, with a trainer that only connects its processes."""
    environment = SimpleNamespace(main_address="127.0.0.1", main_port=port)
    strategy = SimpleNamespace(
        node_rank=0, local_rank=rank, cluster_environment=environment, launcher=None,
        setup_environment=lambda: None,
    )  # fmt: skip
    trainer: Any = SimpleNamespace(num_nodes=1, num_devices=world_size, strategy=strategy)
    supervisor = Supervisor()
    try:
        with bound_to_parent():
            supervisor.attach(trainer, wait_limit)
            strategy.setup_environment()
            work(rank)
            supervisor.close()
    except KeyboardInterrupt as error:  # as Lightning handles it
        supervisor.on_exception(trainer, None, error)  # type: ignore[arg-type]
        sys.exit(1)
    except Exception as error:
        message = describe_input_error(error)
        supervisor.report(message)
        if message is None:
            raise
        exit_with_error(message)


class Processes:
    """Forked processes of one run; rank 0 has started the others."""

    def __init__(self, work: Work, ranks: Sequence[int], size: int, limit: float = 1) -> None:
        self.reading, self.writing = os.pipe()
        pids_reading, pids_writing = os.pipe()
        port, names = free_port(), {"LOCAL_RANK": "0", "WORLD_SIZE": str(size)}
        leader = os.fork()
        if not leader:
            os.setsid()
            os.dup2(self.writing, 1)
            os.dup2(self.writing, 2)
            os.close(self.writing)
            sys.stderr = os.fdopen(2, "w", buffering=1)  # pytest replaces it
            os.environ.update(names, LIT_HIER_PARENT=str(os.getpid()))
            own = 0
            for rank in ranks[1:]:
                if not (process := os.fork()):
                    own = rank
                    os.environ["LOCAL_RANK"] = str(rank)
                    break
                os.write(pids_writing, f"{process}\n".encode())
            os.close(pids_writing)
            run_and_exit(lambda: execute(own, size, port, work, limit))
        os.close(pids_writing)
        os.close(self.writing)
        with os.fdopen(pids_reading) as file:  # until all processes have been started
            self.pids = dict(zip(ranks, [leader, *map(int, file)], strict=True))

    def end(self) -> tuple[int, list[str]]:
        """Wait until no process is left; return the first one's status, and all lines."""
        begun = time.monotonic()
        status = os.waitstatus_to_exitcode(os.waitpid(self.pids[0], 0)[1])
        with os.fdopen(self.reading) as pipe:
            text = pipe.read()  # until the last process has closed its end
        assert time.monotonic() - begun < 10
        return status, text.splitlines()


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_BEAT", 0.05), ("_GRACE", 0.2)):
        monkeypatch.setattr(supervision, name, value)


@pytest.fixture
def _frequent_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_SILENCE", 0.2), ("_REPORT", 0.3)):
        monkeypatch.setattr(supervision, name, value)


def sleep(rank: int) -> None:
    time.sleep(60)


def wait_for(path: Path, num: int) -> None:
    deadline = time.monotonic() + 20
    while len(list(path.iterdir())) < num and time.monotonic() < deadline:
        time.sleep(0.01)


def sleeping(folder: Path, size: int, **options: Any) -> Processes:
    """Start processes that sleep, and wait until all are connected."""

    def work(rank: int) -> None:
        (folder / str(rank)).touch()
        sleep(rank)

    started = Processes(work, range(size), size, **options)
    wait_for(folder, size)
    return started


def test_processes_that_come_to_their_end_say_nothing() -> None:
    def work(rank: int) -> None:
        time.sleep(0.05 * rank)

    assert Processes(work, range(3), 3).end() == (0, [])


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_all_processes_end_when_one_is_killed(tmp_path: Path, size: int) -> None:
    started = sleeping(tmp_path, size)
    os.kill(started.pids[size - 1], signal.SIGKILL)
    status, lines = started.end()
    assert status == 2
    assert len(lines) == 1
    assert re.match(rf"lit-hier: error: process {size - 1} on .* has ended without a", lines[0])


def test_what_a_killed_process_has_forked_does_not_hide_its_end(tmp_path: Path) -> None:
    """As the workers of a data loader, which end a few seconds later."""

    def work(rank: int) -> None:
        if rank == 1 and not os.fork():
            for descriptor in (1, 2):
                os.close(descriptor)
            with atomic_write(tmp_path / "worker"):
                pass
            time.sleep(5)
            os._exit(0)
        (tmp_path / str(rank)).touch()
        sleep(rank)

    started = Processes(work, range(2), 2)
    wait_for(tmp_path, 3)
    os.kill(started.pids[1], signal.SIGKILL)
    begun = time.monotonic()
    status, lines = started.end()
    assert status == 2
    assert len(lines) == 1
    assert time.monotonic() - begun < 4


def test_all_processes_end_when_the_first_is_killed(tmp_path: Path) -> None:
    """Even one that is stopped, on Linux."""
    started = sleeping(tmp_path, 3)
    if sys.platform == "linux":
        os.kill(started.pids[2], signal.SIGSTOP)
    os.kill(started.pids[0], signal.SIGKILL)
    status, lines = started.end()
    assert status == -signal.SIGKILL
    assert len(lines) <= 1


def test_other_machines_notice_that_the_first_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have other parents: the connection tells them, and one of them says so."""
    monkeypatch.setattr(supervision, "_find_parent", lambda: None)
    started = sleeping(tmp_path, 3)
    os.kill(started.pids[0], signal.SIGKILL)
    _, lines = started.end()
    assert len(lines) == 1
    assert "process 0 on 127.0.0.1 has ended without a message; run the same" in lines[0]


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("model: unusable"), "lit-hier: error: model: unusable"),
        (MemoryError("4 GiB"), "lit-hier: error: config: not enough memory (4 GiB); reduce"),
    ],
    ids=["refused", "memory"],
)
def test_an_error_of_one_process_is_reported_once(rank: int, error: Exception, line: str) -> None:
    def work(own: int) -> None:
        if own == rank:
            raise error
        sleep(own)

    status, lines = Processes(work, range(3), 3).end()
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith(line)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_interrupt_of_one_process_ends_all(rank: int) -> None:
    """Lightning reports that of the first process."""

    def work(own: int) -> None:
        if own == rank:
            raise KeyboardInterrupt
        sleep(own)

    status, lines = Processes(work, range(2), 2).end()
    assert status == (1, 2)[rank]
    assert len(lines) == rank
    assert all("process 1 on" in line and "was interrupted" in line for line in lines)


def test_an_error_of_two_processes_ends_them_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if another process reports it after the first one has decided how the run ends."""
    monkeypatch.setattr(supervision, "_GRACE", 6)
    dismiss = supervision._Hub.dismiss

    def wait_and_dismiss(hub: Any, status: int) -> None:
        (tmp_path / "decided").touch()
        time.sleep(0.3)
        dismiss(hub, status)

    monkeypatch.setattr(supervision._Hub, "dismiss", wait_and_dismiss)

    def work(rank: int) -> None:
        if rank:
            wait_for(tmp_path, 1)
        raise InputError("data: unusable")

    begun = time.monotonic()
    assert Processes(work, range(2), 2).end() == (2, ["lit-hier: error: data: unusable"])
    assert time.monotonic() - begun < 5


def test_the_last_message_before_an_end_arrives() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(server.getsockname()) as far:
        connection = supervision._Connection(server.accept()[0])
        far.sendall(b'{"end": 2}\n')
    time.sleep(0.01)
    assert connection.receive() == [{"end": 2}]
    with pytest.raises(ConnectionError):
        connection.receive()
    connection.close()


def test_an_error_of_all_processes_is_reported_once() -> None:
    def work(rank: int) -> None:
        raise InputError("data: unusable")

    assert Processes(work, range(3), 3).end() == (2, ["lit-hier: error: data: unusable"])


@pytest.mark.slow
def test_an_unexpected_error_has_one_traceback() -> None:
    def work(rank: int) -> None:
        if rank == 1:
            raise RuntimeError("unexpected")
        sleep(rank)

    status, lines = Processes(work, range(3), 3).end()
    assert status == 1
    assert sum(line == "RuntimeError: unexpected" for line in lines) == 1


def test_an_error_due_to_the_end_of_another_process_is_not_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "_GRACE", 3)

    def work(rank: int) -> None:
        (tmp_path / str(rank)).touch()
        if rank == 1:
            sleep(rank)
        while not (tmp_path / "killed").exists():
            time.sleep(0.01)
        raise RuntimeError("Connection closed by peer")

    started = Processes(work, range(3), 3)
    wait_for(tmp_path, 3)
    os.kill(started.pids[1], signal.SIGKILL)
    (tmp_path / "killed").touch()
    _, lines = started.end()
    assert len(lines) == 1
    assert "process 1 on" in lines[0]


@pytest.mark.slow
@pytest.mark.usefixtures("_frequent_lines")
def test_a_stopped_process_is_named_until_the_limit(tmp_path: Path) -> None:
    started = sleeping(tmp_path, 3, limit=0.9 / 3600)
    os.kill(started.pids[2], signal.SIGSTOP)
    time.sleep(0.5)
    os.kill(started.pids[2], signal.SIGCONT)
    time.sleep(0.1)
    os.kill(started.pids[1], signal.SIGSTOP)
    status, lines = started.end()
    assert status == 2
    *waits, last = [line for line in lines if " to start since " not in line]
    named = [re.match(r"lit-hier: waiting for process (\d) on .*stopped since", w) for w in waits]
    assert {match[1] for match in named if match} == {"1", "2"}
    assert re.search(r"error: waited for process 1 on .* longer than wait_limit", last)
    assert len(last) < 360


@pytest.mark.slow
@pytest.mark.usefixtures("_frequent_lines")
def test_a_stopped_first_process_is_named_until_the_limit(tmp_path: Path) -> None:
    started = sleeping(tmp_path, 3, limit=0.6 / 3600)
    os.kill(started.pids[0], signal.SIGSTOP)
    time.sleep(1)
    os.kill(started.pids[0], signal.SIGCONT)
    status, lines = started.end()
    lines = [line for line in lines if "process 0" in line]
    assert status == 2
    assert re.match(
        r"lit-hier: waiting for process 0 on .*, which may be stopped, since", lines[0]
    )
    assert any("waited for process 0" in line and "longer than wait_" in line for line in lines)


@pytest.mark.usefixtures("_frequent_lines")
def test_a_busy_process_is_named_by_those_that_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collective: dict[str, Any] = {"__name__": "torch.distributed.test", "sleep": sleep}
    exec("def wait(rank): sleep(rank)", collective)

    def work(rank: int) -> None:
        (sleep if rank == 2 else collective["wait"])(rank)

    status, lines = Processes(work, range(3), 3, limit=0.6 / 3600).end()
    assert status == 2
    lines = [line for line in lines if " to start since " not in line]
    assert re.match(r"lit-hier: waiting for process 2 on \S* \(pid \d+\) since \d\d:", lines[0])
    assert all("process 2" in line and "stopped" not in line for line in lines)


@pytest.mark.parametrize(
    ("program", "lines"),
    [
        (
            "kill -9 $$",
            [r"error: process 1 \(pid \d+\) was ended by SIGKILL, perhaps because"],
        ),
        ("exit 2", []),  # it has reported an error itself
    ],
)
def test_a_child_that_ends_before_it_is_connected_ends_the_run(
    program: str, lines: list[str]
) -> None:
    def work(rank: int) -> None:
        launcher = SimpleNamespace(procs=[subprocess.Popen(["sh", "-c", program])])
        observed = launcher.procs
        hub = supervision._Hub(2, supervision._adopt_children(launcher), 60)
        assert not observed
        assert len(launcher.procs) == 1
        hub.listen("127.0.0.1")
        hub.start()
        sleep(rank)

    status, found = Processes(work, [0], 1).end()
    assert status == 2
    assert len(found) == len(lines)
    assert all(re.search(*pair) for pair in zip(lines, found, strict=True))


@pytest.mark.usefixtures("_frequent_lines")
def test_a_process_that_never_comes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "RENDEZVOUS", 0.6)
    status, lines = Processes(sleep, (0, 2), 4).end()
    assert status == 2
    assert any("waiting for process 1, 3 to start since" in line for line in lines[:-1])
    assert "num_nodes: of 4 processes, process 1, 3 did not come to 127.0.0.1:" in lines[-1]


def test_a_first_process_that_never_comes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "RENDEZVOUS", 0.1)
    with pytest.raises(InputError, match=r"MASTER_ADDR: process 0 did not answer at 127\.0"):
        supervision._open_store("127.0.0.1", free_port(), 1, 2)


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(InputError, match=rf"MASTER_PORT is {port}, on which 127\.0\.0\.1"):
            supervision._open_store("127.0.0.1", port, 0, 2)


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.0\r\n\r\n", b"[" * 70_000 + b"\n", b"x" * 400_000, b"",
             b'{"token": "0", "rank": 1, "host": "x", "pid": 1}\n', b'{"failed": "no"}\n[1]\n'],
    ids=["http", "nested", "long", "empty", "token", "failed"],
)  # fmt: skip
def test_strangers_cannot_disturb_a_run(sent: bytes) -> None:
    hub = supervision._Hub(2, [], 60)
    port = hub.listen("127.0.0.1")
    hub.start()
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as stranger:
            stranger.settimeout(5)
            try:
                stranger.sendall(sent)
                stranger.shutdown(socket.SHUT_WR)
                assert stranger.recv(1) == b""
            except OSError:  # it was closed
                pass
        assert hub.missing() == "process 1"
    finally:
        hub.close()
        hub.join(5)
    assert not hub.is_alive()


def test_nothing_is_written_after_the_parent_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a process that has not noticed yet."""
    monkeypatch.setattr(supervision, "_BEAT", 60)
    monkeypatch.setattr(supervision, "set_death_signal", lambda number: None)
    reading, writing = os.pipe()
    parent = os.fork()
    if not parent:
        os.environ.update(LOCAL_RANK="0", LIT_HIER_PARENT=str(os.getpid()))
        if os.fork():
            time.sleep(60)
        os.environ["LOCAL_RANK"] = "2"

        def work() -> None:
            mine = os.getppid()
            with bound_to_parent():
                with atomic_write(tmp_path / "before"):
                    pass
                while os.getppid() == mine:
                    time.sleep(0.01)
                with atomic_write(tmp_path / "after"):
                    pass

        run_and_exit(work)
    os.close(writing)
    wait_for(tmp_path, 1)
    while not (tmp_path / "before").exists():
        time.sleep(0.01)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    os.read(reading, 1)  # ends with the last process
    assert [path.name for path in tmp_path.iterdir()] == ["before"]


@pytest.mark.parametrize(
    ("option", "value", "accelerator", "message"),
    [
        ("devices", 99999, "cpu", "trainer.devices is 99999, more than 4 processes per core of"),
        ("devices", "99999", "auto", "trainer.devices is 99999, more than 4 processes per core"),
        ("devices", 10**30, "cpu", "0; give a number, a list of GPUs or auto"),
        ("devices", -3, "cpu", "trainer.devices is -3; on CPUs it is a number of processes, at"),
        ("devices", 0, "cpu", "trainer.devices is 0; on CPUs it is"),
        ("devices", "-1", "cpu", "trainer.devices is '-1'; on CPUs it is"),
        ("devices", [0, 0], "cpu", "trainer.devices is [0, 0]; on CPUs it is"),
        ("devices", 1.5, "cpu", "trainer.devices is 1.5; give a number, a list of GPUs or auto"),
        ("devices", [[0]], "gpu", "trainer.devices is [[0]]; give a number, a list"),
        ("num_nodes", -2, "cpu", "trainer.num_nodes is -2; give at least 1"),
        ("num_nodes", 0, "cpu", "trainer.num_nodes is 0; give at least 1"),
        ("num_nodes", 10**6, "cpu", "trainer.num_nodes is 1000000, but no other node can find"),
    ],
)
def test_numbers_of_processes_that_cannot_be_started(
    option: str, value: Any, accelerator: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.torch.accelerator, "is_available", lambda: False)
    for name in command._ADDRESSES:
        monkeypatch.delenv(name, raising=False)
    trainer = SimpleNamespace(devices=1, num_nodes=1, accelerator=accelerator)
    command._check_processes(trainer, 4.0)
    setattr(trainer, option, value)
    with pytest.raises(InputError, match=re.escape(message)):
        command._check_processes(trainer, 4.0)


def test_more_processes_than_cores_when_asked_for() -> None:
    trainer = SimpleNamespace(devices="999", num_nodes=1, accelerator="cpu")
    command._check_processes(trainer, 999.0)


@pytest.mark.slow
def test_disturbed_processes_lose_nothing_and_keep_every_bit() -> None:
    """A short soak: of 2 and 3 processes of Lightning's launcher one is killed or stopped."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "tests/soak.py"), "--trials", "4",
         "--seed", "5", "--only", "processes"],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^\| [23] processes, [^|]* \| (\d+) \|", done.stdout, re.MULTILINE)
    assert sum(map(int, rows)) == 4
