"""One malformed input in a process of its own: what it touches, runs and takes.

Each input has a folder:

- `run`: the working directory, and the only place that a run may change, besides `tmp` (TMPDIR).
- `outside`, `home`: files of many kinds that hostile paths and links point to. They are listed
  before and after: names, kinds, contents, times of change.
- `bin`: the first folder of PATH, with stand-ins for external programs that leave a mark.

The process is forked from one that has imported everything. An audit hook reports what it writes,
removes, starts, imports and connects to. SIGALRM interrupts it after a time, in which waiting for
a free processor does not count. Memory is the growth of the peak of resident memory (VmHWM, reset
by `clear_refs`), without pages of files; far above the limit, RLIMIT_AS stops it.
"""

import contextlib
import faulthandler
import hashlib
import json
import os
import random
import resource
import select
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, Final

from attack import EXECUTED

from lit_hier.cli.provenance import find_commit

SECONDS: Final = 10.0  # beyond an unchanged input of the same kind
MEMORY: Final = 2**30  # bytes beyond what importing takes
_HARD_MEMORY: Final = 4 * 2**30  # of address space beyond what is in use
GRACE: Final = 10.0  # seconds from the interruption to SIGKILL
_PROGRAMS: Final = (
    *("gs", "gswin32c", "gswin64c", "latex", "pdflatex", "lualatex", "xelatex", "dvipng"),
    *("kpsewhich", "inkscape", "convert", "ffmpeg", "git", "curl", "wget", "ssh", "tar", "unzip"),
    *("gzip", "bzip2", "xz", "tensorboard", "evil", "touch"),
)
_CHANGING: Final = {  # audit events: the positions of the paths that they change
    **dict.fromkeys(("os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.chown"), (0,)),
    **dict.fromkeys(("os.truncate", "os.utime", "os.setxattr", "shutil.rmtree"), (0,)),
    **dict.fromkeys(("os.rename", "os.link"), (0, 1)),
    "os.symlink": (1,),
}
_CREATING: Final = ("open", "os.mkdir", "os.symlink", "os.rename", "os.link")
_STARTING: Final = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn",
                    "os.startfile", "pty.spawn")  # fmt: skip
_CONNECTING: Final = ("socket.connect", "socket.getaddrinfo", "socket.sendto",
                      "socket.gethostbyname", "urllib.Request")  # fmt: skip
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_DEVICES: Final = ("/dev/null", "/dev/tty", "/dev/shm/", "/proc/self/")
# jsonargparse's search for stubs asks another Python for its path.
_ASKING: Final = "import sys, json; print(json.dumps(sys.path))"
# Modules of Python that do something when they are imported.
_ACTING: Final = {"this", "antigravity", "idlelib", "turtle", "turtledemo"}

DEFECTS: Final = {
    "wrongly accepted": "accepted although it must be rejected",
    "outside": "changed or left something outside the run's folder",
    "code": "ran code or a program, imported or connected",
    "hang": "more than 10 s beyond an unchanged input",
    "memory": "more than 1 GiB beyond what importing takes",
    "traceback": "any other exception, or a process that was killed",
    "unclear": "a line that is too long or shows internals",
}


class TooLong(BaseException):
    """An input took too long; a BaseException, so that `except Exception` does not catch it."""


class Rejected(Exception):
    """The program has rejected its input with a line that says why."""


@dataclass
class Outcome:
    """What became of an input.

    Attributes:
        change: The kind of hostile change.
        answer: `accepted`, `rejected`, or empty if there was neither.
        message: The line of a rejection.
        defects: Details by the names in `DEFECTS`.
        seconds: How long the program took.
        memory: Growth of its peak of resident memory in bytes.
    """

    change: str = "unchanged"
    answer: str = ""
    message: str = ""
    defects: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    memory: int = 0


@dataclass
class Trial:
    """One input, as its kind sees it.

    Attributes:
        rng: Decides about the input.
        root: The folder of all its folders.
        hostile: Whether to change anything.
        must_reject: Why accepting it would be wrong; empty if it may be accepted.
        targets: Places outside that the input names, openly, to write to: new files there are no
            defect.
        change: The kind of change.
        may_connect: Whether the input asks for a download, openly; it fails.
    """

    rng: random.Random
    root: Path
    hostile: bool = True
    must_reject: str = ""
    targets: list[Path] = field(default_factory=list)
    change: str = "unchanged"
    may_connect: bool = False
    _started: Callable[["Trial"], None] = lambda trial: None

    @property
    def folder(self) -> Path:
        """The working directory."""
        return self.root / "run"

    @property
    def outside(self) -> Path:
        """Files that nothing may touch."""
        return self.root / "outside"

    def choose(self, *changes: str) -> str:
        """Choose the kind of change; `unchanged` for a trial that changes nothing."""
        self.change = self.rng.choice(changes) if self.hostile else "unchanged"
        return self.change

    @contextlib.contextmanager
    def program(self) -> Iterator[None]:
        """Surround the use of the input; what was done before prepares it."""
        self._started(self)
        yield


@cache
def known_packages() -> frozenset[str]:
    """Return the packages that may be imported: those installed, and Python's own."""
    loaded = {name.partition(".")[0] for name in sys.modules}
    return frozenset({*loaded, *packages_distributions(), *sys.stdlib_module_names} - _ACTING)


class _Watch:
    """An audit hook that keeps what a process does outside a folder."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.active = trial, False
        self.inside = tuple(f"{os.path.realpath(trial.root / name)}/" for name in ("run", "tmp"))
        self.root = os.path.realpath(trial.root)
        self.packages = known_packages()
        self.touched: list[str] = []
        self.code: list[str] = []
        self.imported: list[str] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.active:
            return
        self.active = False  # what follows is not the program's
        try:
            self._note(event, args)
        finally:
            self.active = True

    def _note(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            if args[2] and args[2] & _WRITING:
                # Neither follows a link.
                own = args[2] & (os.O_EXCL | os.O_NOFOLLOW)
                self._touch("create" if own else event, args[0])
        elif event in _CHANGING:
            for position in _CHANGING[event]:
                self._touch(event, args[position])
        elif event in _STARTING and _ASKING not in (args[1] if len(args) > 1 else ()):
            self.code.append(f"{event} {args[:2]!r:.200}")
        elif event in _CONNECTING:
            if not self.trial.may_connect:
                self.code.append(f"{event} {args!r:.200}")
            raise OSError(101, "Network is unreachable")
        elif event == "import":
            if args[0].partition(".")[0] not in self.packages:
                self.imported.append(args[0])
        elif event in ("exec", "ctypes.dlopen"):
            name = getattr(args[0], "co_filename", args[0])
            # A library without a folder is looked for where the system's are.
            is_file = (
                isinstance(name, str) and name[:1] != "<" and ("/" in name or event == "exec")
            )
            if is_file and os.path.realpath(name).startswith(self.root):
                self.code.append(f"{event} {name}")

    def _touch(self, event: str, path: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        name = os.fsdecode(path)
        if event == "open" or "\0" in name:
            place = os.path.realpath(name) if "\0" not in name else name
        else:
            place = os.path.join(
                os.path.realpath(os.path.dirname(name) or "."), os.path.basename(name)
            )
        if f"{place}/".startswith(self.inside) or place.startswith(_DEVICES):
            return
        exists = "\0" not in name and os.path.lexists(place)
        if event == "os.mkdir" and exists:
            return  # changes nothing
        if event == "create" and exists and os.path.islink(place):
            return  # fails
        new = ("open", "create", "os.mkdir", "os.symlink", "os.rename")
        if event not in new and not exists:
            return
        if any(target in (Path(place), *Path(place).parents) for target in self.trial.targets):
            return  # what was there before is compared
        self.touched.append(f"{event} {place[-200:]}")


def list_tree(root: Path) -> dict[str, tuple[Any, ...]]:
    """List what lies below a folder: kinds, times of change and contents, by path."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = ""
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        when = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
        found[str(path.relative_to(root))] = (status.st_mode, when, content)
    return found


def create_sandbox(root: Path) -> None:
    """Create the folders of an input."""
    for name in ("run", "tmp", "bin", "home/.ssh", "home/precious", "outside/checkpoints",
                 "outside/pipeline", "outside/samples/start", "outside/empty"):  # fmt: skip
        (root / name).mkdir(parents=True)
    for name in ("outside/notes.txt", "outside/weights.ckpt", "outside/checkpoints/a.ckpt",
                 "outside/checkpoints/notes.txt", "outside/checkpoints/last.ckpt",
                 "outside/00000004.png", "outside/samples/start/00000004.png", "outside/a.png",
                 "outside/samples/manifest.json", "outside/data.json", "outside/table.csv",
                 "outside/pipeline/model_index.json", "outside/pipeline/mine.txt",
                 "home/precious/a.ckpt", "home/precious/b.ckpt", "home/.bashrc",
                 "home/.ssh/authorized_keys", "home/weights.ckpt"):  # fmt: skip
        (root / name).write_text(f"precious {name}\n")
    mark = f"#!/bin/sh\n: > '{root / EXECUTED}'\n"
    for name in _PROGRAMS:
        (root / "bin" / name).write_text(mark)
        (root / "bin" / name).chmod(0o755)
    # Python started in the folder would import the last three instead of its own modules.
    for name in ("run/harm.py", "outside/harm.py", "run/json.py", "run/yaml.py", "run/torch.py"):
        (root / name).write_text(f"open({str(root / EXECUTED)!r}, 'w')\n\ndef Harm(*_): ...\n")


def _status(name: str) -> int:
    """Return a size in this process's status, in bytes; 0 where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def _waited() -> float:
    """Return the seconds that this process was ready but had no processor."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


class _Meter:
    """Limits and measures the program from the moment when it is used."""

    def __init__(self, trial: Trial, idle: float) -> None:
        self.trial, self.limit, self.resident = trial, idle + SECONDS, 0
        self.watch = _Watch(trial)
        self.before: dict[str, Any] = {}
        self.begin = self.waited = 0.0
        self.started = False

    def start(self, trial: Trial) -> None:
        self.before = {name: list_tree(trial.root / name) for name in ("outside", "home", "tmp")}
        self.started = True
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self.resident = _status("VmRSS") - _status("RssFile")
        limit = _status("VmSize") + _HARD_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
        self.begin, self.waited = time.monotonic(), _waited()
        signal.signal(signal.SIGALRM, self._alarm)
        signal.setitimer(signal.ITIMER_REAL, self.limit)
        sys.addaudithook(self.watch)
        self.watch.active = True

    def _alarm(self, *_: Any) -> None:
        active, self.watch.active = self.watch.active, False
        remaining = self.limit - self.seconds()
        if remaining > 0.1:
            signal.setitimer(signal.ITIMER_REAL, remaining)
            self.watch.active = active
            return
        raise TooLong(f"it takes more than {self.limit:.1f} s")

    def seconds(self) -> float:
        return time.monotonic() - self.begin - (_waited() - self.waited)

    def stop(self) -> None:
        self.watch.active = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def finish(self, outcome: Outcome) -> None:
        """Add what was measured to an outcome."""
        trial = self.trial
        outcome.seconds = self.seconds()
        outcome.memory = _status("VmHWM") - _status("RssFile") - self.resident
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        if outcome.memory > MEMORY:
            outcome.defects["memory"] = f"{outcome.memory / 2**30:.2f} GiB"
        touched = list(self.watch.touched)
        for name, before in self.before.items():
            after = list_tree(trial.root / name)
            for path in before.keys() | after.keys():
                place = trial.root / name / path
                if before.get(path) != after.get(path):
                    new = path not in before
                    if not (new and any(t in (place, *place.parents) for t in trial.targets)):
                        verb = "created" if new else "changed" if path in after else "removed"
                        touched.append(f"{verb} {name}/{path[-200:]}")
        # What cannot be found runs nothing: libraries try what they would use.
        found = [name for name in self.watch.imported if name in sys.modules]
        code = [*self.watch.code, *(f"import {name!r:.200}" for name in found)]
        for mark in (trial.root / EXECUTED, trial.folder / EXECUTED, trial.outside / EXECUTED):
            if mark.exists():
                code.append(f"left the mark {mark.relative_to(trial.root)}")
        for module in list(sys.modules.values()):
            source = str(getattr(module, "__file__", None) or "")
            if source.startswith(f"{trial.root}/"):
                code.append(f"imported {source}")
        if touched:
            outcome.defects["outside"] = "; ".join(dict.fromkeys(touched[:8]))
        if code:
            outcome.defects["code"] = "; ".join(dict.fromkeys(code[:8]))


def _use(use: Callable[[Trial], None], trial: Trial, idle: float,
         judge: Callable[[str], str], writer: int) -> Outcome:  # fmt: skip
    """Use an input in this process, which ends afterwards."""
    outcome = Outcome()
    meter = _Meter(trial, idle)

    def start(trial: Trial) -> None:
        os.write(writer, json.dumps({"change": trial.change}).encode() + b"\n")
        meter.start(trial)

    trial._started = start
    try:
        use(trial)
        meter.stop()
        outcome.answer = "accepted"
        if trial.must_reject:
            outcome.defects["wrongly accepted"] = trial.must_reject
    except BaseException as error:
        meter.stop()
        lines = f"{type(error).__name__}: {error!s:.300}\n" + traceback.format_exc()[-2500:]
        if isinstance(error, Rejected):
            outcome.answer, outcome.message = "rejected", str(error)
            if fault := judge(outcome.message):
                outcome.defects["unclear"] = f"{fault}: {outcome.message:.1000}"
            if trial.must_reject and "NaN or infinity" in outcome.message:
                outcome.defects["wrongly accepted"] = f"it ran, although {trial.must_reject}"
            if "not enough memory" in outcome.message:
                outcome.defects["memory"] = outcome.message
        elif isinstance(error, TooLong):
            outcome.defects["hang"] = lines
        elif isinstance(error, MemoryError):
            outcome.defects["memory"] = lines
        else:
            outcome.defects["traceback"] = lines
    outcome.change = trial.change
    if meter.started:
        meter.finish(outcome)
    return outcome


def run_forked(function: Callable[[int], None], seconds: float) -> tuple[bytes, int]:
    """Call a function with a pipe, in a forked process.

    Returns:
        What it writes into the pipe, and the signal that ended the process, or 0.
    """
    reader, writer = os.pipe()
    if not (process := os.fork()):
        try:
            os.close(reader)
            os.setpgid(0, 0)
            function(writer)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(writer)
    content, end = b"", time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([reader], [], [], left)[0]:
            part = os.read(reader, 2**16)
            if not part:
                break
            content += part
    os.close(reader)
    ended, status = os.waitpid(process, os.WNOHANG)
    for _ in range(20):
        if ended:
            break
        time.sleep(0.01)
        ended, status = os.waitpid(process, os.WNOHANG)
    if not ended:
        os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
    return content, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def run_input(use: Callable[[Trial], None], trial: Trial, idle: float,
              judge: Callable[[str], str]) -> Outcome:  # fmt: skip
    """Use an input in a forked process and return its outcome.

    Args:
        use: Creates the input and calls the program with it.
        trial: The input.
        idle: Seconds that an unchanged input takes.
        judge: Returns what is unclear about the line of a rejection.
    """
    create_sandbox(trial.root)
    known_packages()  # before the fork, as it takes a while
    find_commit()  # starts git, once per process

    def child(writer: int) -> None:
        _enter(trial.root)
        outcome = _use(use, trial, idle, judge, writer)
        os.write(writer, json.dumps(vars(outcome)).encode())

    # Waiting for processors is not known from here, so this limit is generous.
    content, killed_by = run_forked(child, 4 * (idle + SECONDS) + GRACE)
    found = Outcome()
    for line in content.splitlines():
        found = Outcome(**json.loads(line))
    if found.answer or found.defects:
        return found
    if killed_by == signal.SIGKILL:
        return Outcome(found.change, defects={"hang": "it cannot be interrupted"})
    output = (trial.root / "output").read_text(errors="replace")[-500:]
    return Outcome(found.change, defects={"traceback": f"ended by signal {killed_by}: {output}"})


def _enter(root: Path) -> None:
    """Make a process see the folders of an input, an input that never comes, and no output."""
    faulthandler.disable()  # pytest's; the parent sees the signal
    os.chdir(root / "run")
    os.environ |= {"HOME": str(root / "home"), "TMPDIR": str(root / "tmp"),
                   "PATH": f"{root / 'bin'}:{os.environ.get('PATH', '')}"}  # fmt: skip
    tempfile.tempdir = None
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(root / "run"))
    waiting, _ = os.pipe()
    os.dup2(waiting, 0)
    output = os.open(root / "output", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)


def remove_sandbox(root: Path) -> None:
    """Remove the folders of an input, whatever its process has left there."""
    shutil.rmtree(root, ignore_errors=True)
