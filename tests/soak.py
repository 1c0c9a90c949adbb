"""Disturb runs at random moments and resume them: report losses, differences and messages.

python tests/soak.py [--trials 30] [--seed 0] [--only images training ...]      (or: make soak)

Each trial starts a run of the command line and disturbs it at a random moment of its duration
(statistics, sampling, similarity, writing): SIGTERM, SIGINT or SIGKILL, a disk that is full or
read-only, another run in the same folder. Of 2 and 3 processes one is killed, stopped for a
moment, or stopped while another one is killed; none may be left after ten seconds. Then the same
command is run again to its end. Tables, samples, weights and the optimizer's state must equal
those of an undisturbed run, no finished batch may be recomputed, and a run that ends in an error
must report it in one line.

Runs are forked from one process that has imported all libraries but computed nothing.
"""

import argparse
import contextlib
import fcntl
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import processes
import torch

import lit_hier.cli.command  # imported here, once, not in each fork
from lit_hier.cli import run as lit_hier

TRAINED = ("demo_classifier", "digits_ddpm", "digits_classifier")
PIPES: dict[Path, int] = {}  # output of the last run in each folder
FSIZE = resource.RLIMIT_FSIZE
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
QUIET = (*processes.QUIET, "--trainer.accelerator=cpu")
LAST = ("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_last=true",
        "--trainer.callbacks.every_n_train_steps=3", "--trainer.callbacks.save_top_k=0",
        "--trainer.callbacks.dirpath=last", "--ckpt_path=last")  # fmt: skip
RUNS = {
    # A run on images stores its samples, and resumes from them.
    "images": [*processes.command("digits"), "--data.init_args.num_predict=90",
               "--data.init_args.num_val=1617", "--data.init_args.eval_batch_size=6",
               "--model.init_args.num_steps=10", "--model.init_args.times=[0,4,10]"],
    # A run on the RHM takes seconds to minutes, and restarts in a new folder.
    "rhm": [*processes.command("demo"), "--data.init_args.num_predict=200"],
    "training": [*processes.command("demo_classifier"), *LAST, "--trainer.max_epochs=4"],
    "diffusion": [*processes.command("digits_ddpm"), *LAST, "--trainer.max_epochs=3"],
}  # fmt: skip

PREDICTED = ("images", "rhm")
NAMES = [*RUNS, "processes"]


def start(
    folder: Path,
    name: str,
    obstruct: Callable[[], object] = lambda: None,
    more: Sequence[str] = (),
) -> int:
    """Fork a run in a folder; return its process. A pipe, unlike a file, can always be written."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 2**20)
    if process := os.fork():
        os.close(writing)
        PIPES[folder] = reading
        return process
    os.setsid()
    os.dup2(writing, 1)
    os.dup2(writing, 2)
    torch.set_num_threads(1)
    os.chdir(folder)
    obstruct()
    given = RUNS[name] if name in RUNS else processes.command(name)
    sys.argv = ["lit-hier", *given, *QUIET, *more]
    processes.run_and_exit(lit_hier)


def start_processes(folder: Path, name: str, num: int) -> int:
    """Fork a run of several processes in a folder; return the first, which starts the others."""
    devices = ("--trainer.strategy=ddp", f"--trainer.devices={num}")
    return start(folder, name, partial(processes.fork_children, lit_hier), devices)


def session(leader: int) -> list[int]:
    """Return the living processes of a session in the order of their start."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, owner = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(owner) == leader and state != "Z":
                found.append(int(path.name))
    return sorted(found)


def wait(process: int) -> int:
    """Wait for a run; return its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def read_output(folder: Path) -> str:
    """Return the output of the last run in a folder, which has ended."""
    with os.fdopen(PIPES.pop(folder), "rb") as pipe:
        return pipe.read().decode(errors="replace")


def results(folder: Path) -> dict[str, bytes]:
    """Return what the last run has written: tables and arrays, all samples, trained weights."""
    found = {}
    for name, content in processes.tables(folder / "logs").items():
        parts = Path(name).parts
        versions = folder.glob(f"logs/{parts[0]}/version_*/*.csv")
        newest = max((int(path.parent.name[8:]) for path in versions), default=0)
        if parts[1] in ("samples", f"version_{newest}"):
            found["/".join((parts[0], parts[1].partition("_")[0], *parts[2:]))] = content
    weights = folder.glob("logs/*/weights/*.ckpt")
    for path in [*weights, *folder.glob("logs/*/pipeline/unet/*.safetensors")]:
        content = path.read_bytes()
        if path.suffix == ".ckpt":
            kept = torch.load(path, weights_only=True)
            content = repr([kept["epoch"], kept["global_step"]]).encode()
            for value in [*kept["state_dict"].values(), *_tensors(kept["optimizer_states"])]:
                content += value.numpy().tobytes()
        found[str(path.relative_to(folder))] = content
    return found


def _tensors(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return _tensors(list(value.values()))
    return [x for part in value for x in _tensors(part)] if isinstance(value, list) else []


def finished(folder: Path) -> dict[str, int]:
    """Return the stored batches, and when each was finished."""
    records = folder.glob("logs/*/samples/batches/*.json")
    return {path.name: path.stat().st_mtime_ns for path in records}


@dataclass
class Count:
    """The outcomes of one kind of fault."""

    trials: int = 0
    in_time: int = 0
    lost: int = 0
    differences: int = 0
    unclear: int = 0
    orphans: int = 0
    where: dict[str, int] = field(default_factory=dict)


class Soak:
    """The trials, and the undisturbed runs that they are compared with."""

    def __init__(self, root: Path, rng: random.Random, names: list[str]) -> None:
        self.root, self.rng = root, rng
        self.counts: dict[str, Count] = {}
        self.number = 0
        base = self.folder()
        names = [*({*names, *PREDICTED} if "processes" in names else names)]
        names = [name for name in RUNS if name in names]
        for name in TRAINED if set(PREDICTED) & set(names) else ():
            assert wait(start(base, name)) == 0, read_output(base)
            read_output(base)
        self.trained = base
        self.wanted, self.length = {}, {}
        for name in names:
            folder, begun = self.folder(name), time.monotonic()
            assert wait(start(folder, name)) == 0, read_output(folder)
            read_output(folder)
            self.length[name] = time.monotonic() - begun
            self.wanted[name] = results(folder)
            assert self.wanted[name]

    def folder(self, name: str = "") -> Path:
        """Create a folder, with the trained networks that a prediction needs."""
        self.number += 1
        folder = self.root / f"{self.number:03d}"
        folder.mkdir()
        if name in ("images", "rhm"):
            processes.trained(self.trained, folder)
        return folder

    def resume(
        self, kind: str, name: str, folder: Path, before: dict[str, int], num: int = 1
    ) -> None:
        """Run the same command again, on as many processes, and compare."""
        process = start(folder, name) if num == 1 else start_processes(folder, name, num)
        self.compare(kind, name, folder, before, wait(process))

    def compare(
        self, kind: str, name: str, folder: Path, before: dict[str, int], status: int
    ) -> None:
        """Compare what a run that has ended left behind with an undisturbed one."""
        count = self.counts[kind]
        text = read_output(folder)
        count.unclear += status != 0
        after, found = finished(folder), results(folder)
        lost = sum(after.get(batch) != when for batch, when in before.items())
        wanted = self.wanted[name]
        differ = {key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)}
        count.lost += lost
        count.differences += len(differ)
        if status or lost or differ:
            print(f"  {kind}: status {status}, {lost} recomputed, differ: {sorted(differ)[:5]}")
            print(text[-1500:], flush=True)

    def interrupted(self, name: str) -> None:
        """Send a signal at a random moment."""
        kind, count = f"signal, {name}", self.count(f"signal, {name}")
        folder, sent = self.folder(name), self.rng.choice(SIGNALS)
        process = start(folder, name)
        time.sleep(self.rng.random() * self.length[name])
        running = os.waitpid(process, os.WNOHANG) == (0, 0)
        if running:
            os.kill(process, sent)
            status = wait(process)
            # After a signal that it ignored, the run would end by itself.
            running = status != 0
            text = read_output(folder)
            if "Traceback" in text:
                count.unclear += 1
                print(f"  {kind}: {sent.name}, status {status}\n{text[-1500:]}", flush=True)
        count.in_time += running
        before = finished(folder)
        phase = self.phase(name, folder)
        count.where[phase] = count.where.get(phase, 0) + running
        self.resume(kind, name, folder, before)
        shutil.rmtree(folder)

    def disturbed(self, name: str, num: int) -> None:
        """Kill one of several processes, stop it for a while, or stop it and kill another one."""
        fault = self.rng.choice(("one killed", "one killed", "one stopped", "stopped, one killed"))
        kind, folder = f"{num} processes, {fault}, {name}", self.folder(name)
        count, victim = self.count(kind), self.rng.randrange(num)
        leader = start_processes(folder, name, num)
        time.sleep((0.1 + 0.9 * self.rng.random()) * self.length[name] * 0.75 * num)
        running = session(leader)
        begun = len(running) == num
        count.in_time += begun
        if running:  # maybe fewer at the very start
            victim, num_running = victim % len(running), len(running)
        with contextlib.suppress(ProcessLookupError, IndexError):
            if fault != "one killed":
                os.kill(running[victim], signal.SIGSTOP)
                time.sleep(self.rng.uniform(0, 3))
            if fault != "one stopped":
                dead = victim if fault == "one killed" else (victim + 1) % num_running
                os.kill(running[dead], signal.SIGKILL)
            if fault == "one stopped" or victim == 0:  # a first process ends no others meanwhile
                os.kill(running[victim], signal.SIGCONT)
        phase = self.phase(name, folder)
        count.where[phase] = count.where.get(phase, 0) + begun
        if fault == "one stopped":
            self.compare(kind, name, folder, finished(folder), wait(leader))
            shutil.rmtree(folder)
            return
        deadline = time.monotonic() + 10
        while session(leader) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = session(leader)
        count.orphans += len(left)
        for process in left:
            os.kill(process, signal.SIGKILL)
        status, text = wait(leader), read_output(folder)
        lines = [line for line in text.splitlines() if "lit-hier: error:" in line]
        clear = len(lines) == 1 if status == 2 else status in (0, -signal.SIGKILL)
        if left or not clear or "Traceback" in text:
            count.unclear += not clear or "Traceback" in text
            print(
                f"  {kind}: {victim}, status {status}, {len(left)} left\n{text[-1500:]}",
                flush=True,
            )
        self.resume(kind, name, folder, finished(folder), num)
        shutil.rmtree(folder)

    def count(self, kind: str) -> Count:
        """Count another trial of a kind; return its counts."""
        count = self.counts.setdefault(kind, Count())
        count.trials += 1
        return count

    def phase(self, name: str, folder: Path) -> str:
        """Return how far a run has come."""
        if name in ("training", "diffusion"):
            return "after a checkpoint" if (folder / "last/last.ckpt").exists() else "before one"
        if not any(folder.glob("logs/reference/*.npz")):
            return "statistics"
        if any(folder.glob("logs/*/version_*/*.csv")):
            return "writing"
        return "sampling" if name == "rhm" or len(finished(folder)) < 15 else "similarity"

    def full(self, name: str) -> None:
        """Let no file grow beyond some size, as on a full disk; then resume without the limit."""
        most, folder = int(10 ** self.rng.uniform(0, 4.5)), self.folder(name)
        limits = most, resource.RLIM_INFINITY
        kind = f"files that cannot grow, {name}"
        self.obstructed(kind, name, folder, partial(resource.setrlimit, FSIZE, limits))
        self.resume(kind, name, folder, finished(folder))
        shutil.rmtree(folder)

    def obstructed(
        self, kind: str, name: str, folder: Path, obstruct: Callable[[], object] = lambda: None
    ) -> None:
        """Run where something cannot be written: the run must report it in one line."""
        count = self.count(kind)
        status = wait(start(folder, name, obstruct))
        text = read_output(folder)
        count.in_time += status != 0
        lines = [line for line in text.splitlines() if "lit-hier: error:" in line]
        if status and (status != 2 or len(lines) != 1 or "Traceback" in text):
            count.unclear += 1
            print(f"  {kind}: status {status}\n{text[-1500:]}", flush=True)

    def mounted(self, name: str) -> None:
        """Run on a separate file system that is too small or read-only; as root only."""
        folder = self.folder()
        needs = name in ("images", "rhm")
        size = int(self.rng.uniform(30, 700))
        small = self.rng.random() < 0.8
        if os.system(f"mount -t tmpfs -o size={size if small else 9000}k tmpfs {folder}"):
            return
        try:
            kind = f"a full disk, {name}" if small else f"a read-only disk, {name}"
            with contextlib.suppress(OSError):
                if needs:
                    processes.trained(self.trained, folder)
            if not small:
                os.system(f"mount -o remount,ro {folder}")
            self.obstructed(kind, name, folder)
            os.system(f"mount -o remount,rw,size=9000k {folder}")
            if needs:
                for path in TRAINED:
                    shutil.rmtree(folder / "logs" / path, ignore_errors=True)
                processes.trained(self.trained, folder)
            self.resume(kind, name, folder, finished(folder))
        finally:
            os.system(f"umount {folder}")

    def twice(self, name: str) -> None:
        """Start two runs in one folder at once."""
        kind = f"two runs at once, {name}"
        count, folder = self.count(kind), self.folder(name)
        first = start(folder, name)
        pipe = PIPES.pop(folder)
        ends = sorted(map(wait, (first, start(folder, name))))
        os.close(pipe)
        text = read_output(folder)
        count.in_time += 1
        # One stores samples and the other is rejected; or each has its own folder.
        if ends not in ([0, 0], [0, 2]):
            count.unclear += 1
            print(f"  {kind}: {ends}\n{text[-1500:]}", flush=True)
        before = finished(folder)
        tables = [results(folder)]
        if name == "rhm":
            shutil.move(folder / "logs/demo/version_1", folder / "logs/demo/_other")
            tables.append(results(folder))
        for found in tables:
            differ = {
                key
                for key in found.keys() | self.wanted[name].keys()
                if found.get(key) != self.wanted[name].get(key)
            }
            if differ:
                print(f"  {kind}: {ends}, differ: {sorted(differ)[:5]}\n{text[-1500:]}")
            count.differences += len(differ)
        self.resume(kind, name, folder, before)

    def shared(self, nodes: int, per_node: int) -> None:
        """Compare several processes, on one node or on two, with a single one: every config."""
        kind = f"{nodes} node(s) of {per_node} process(es), tables and samples"
        folders = [self.folder() for _ in range(2)]
        for folder, numbers in zip(folders, ((1, 1), (nodes, per_node)), strict=True):
            processes.prepare(folder)
            if folder is folders[0]:
                processes.launch(folder, processes.FITS)
            else:
                processes.trained(folders[0], folder)
            processes.launch(folder, processes.PREDICTIONS, *numbers)
        wanted, found = map(processes.tables, folders)
        count = self.count(kind)
        count.trials = count.in_time = len(wanted)
        count.differences = sum(
            wanted.get(name) != found.get(name) for name in wanted.keys() | found.keys()
        )

    def run(self, names: list[str], trials: int) -> None:
        """Run the trials of all kinds of faults."""
        for name in names:
            if name != "processes":
                self.run_alone(name, trials)
        for number in range(trials if "processes" in names else 0):
            self.disturbed(self.rng.choice(PREDICTED), 2 + number % 2)
        if names == NAMES:
            self.shared(1, 3)
            self.shared(2, 2)

    def run_alone(self, name: str, trials: int) -> None:
        """Run the trials of one process."""
        for _ in range(trials):
            self.interrupted(name)
        for _ in range(trials // 3 + 1):
            self.full(name)
        for _ in range(trials // 3 if os.geteuid() == 0 else 0):
            self.mounted(name)
        if name in PREDICTED:
            self.twice(name)


def main() -> None:
    """Run the trials and print a table of outcomes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=30, help="interruptions of each kind of run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        soak = Soak(Path(root), random.Random(given.seed), given.only)
        with contextlib.suppress(KeyboardInterrupt):  # the outcomes until then are printed
            soak.run(given.only, given.trials)
    print(f"`python tests/soak.py {' '.join(sys.argv[1:])}`, seed {given.seed}\n")
    print("| fault | trials | in time | orphans | lost | differences | unclear | where |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind, count in soak.counts.items():
        where = ", ".join(f"{number} {phase}" for phase, number in sorted(count.where.items()))
        print(f"| {kind} | {count.trials} | {count.in_time} | {count.orphans} | {count.lost}"
              f" | {count.differences} | {count.unclear} | {where} |")  # fmt: skip
    bad = (
        count.orphans + count.lost + count.differences + count.unclear
        for count in soak.counts.values()
    )
    sys.exit(any(bad))


if __name__ == "__main__":
    main()
