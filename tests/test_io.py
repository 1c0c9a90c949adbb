"""Format versions of what runs write, and locks of folders."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from filelock import FileLock

from lit_hier.errors import InputError
from lit_hier.io.atomic import atomic_write, lock_folder
from lit_hier.io.checkpoints import read_checkpoint
from lit_hier.io.formats import check_run
from lit_hier.io.safe_read import only_regular_files, open_regular, read_file, read_json

HOLD_LOCK = (
    "import sys, time; from lit_hier.io.atomic import lock_folder;"
    "lock = lock_folder(sys.argv[1]); print('locked', flush=True); time.sleep(600)"
)


def test_checkpoints_of_older_formats_are_read_and_newer_ones_rejected(tmp_path: Path) -> None:
    path = tmp_path / "network.ckpt"
    for record in ({}, {"lit_hier": {"format": 1}}, {"lit_hier": {"format": 2}}):
        torch.save({"state_dict": {}, **record}, path)
        assert read_checkpoint(path, "weights")["state_dict"] == {}
    for found, reason in ((3, "has format 3, .* reads formats 1 to 2; update"), ("2", "damaged")):
        torch.save({"state_dict": {}, "lit_hier": {"format": found}}, path)
        with pytest.raises(InputError, match=rf"^weights: .*network.ckpt .*{reason}"):
            read_checkpoint(path, "weights")


@pytest.mark.parametrize("content", ["", "[]", "{}", "\x00", "3"])
def test_a_damaged_description_of_a_run_is_rejected(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"^config: .*run.json is damaged; run it again$"):
        check_run(tmp_path, "config")


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(BlockingIOError):
            lock_folder(tmp_path)
        process.kill()
    lock_folder(tmp_path).release()


def test_a_lock_does_not_bind_its_own_process(tmp_path: Path) -> None:
    first, second = lock_folder(tmp_path), lock_folder(tmp_path)
    assert first.is_locked
    second.release(force=True)
    assert not first.is_locked


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_runs_work_on_a_file_system_without_locks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    fcntl = pytest.importorskip("fcntl")
    with patch.object(fcntl, "flock", side_effect=OSError(number, "no locks")):
        for _ in range(2):
            lock_folder(tmp_path).release(force=True)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    message = f"{tmp_path / '.lock'}: this file system has no locks; start one run per folder"
    assert caplog.messages == [message] * 2


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_other_errors_of_locking_are_raised(tmp_path: Path, number: int) -> None:
    with (
        patch.object(FileLock, "acquire", side_effect=OSError(number, "no lock")),
        pytest.raises(OSError, match="no lock") as raised,
    ):
        lock_folder(tmp_path)
    assert raised.value.errno == number


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("kept")
    (tmp_path / "link").symlink_to("outside")
    (tmp_path / "hard").hardlink_to(tmp_path / "outside")
    for name in ("link", "hard"):
        with atomic_write(tmp_path / name) as file:
            file.write(b"new")
        assert (tmp_path / name).read_bytes() == b"new"
        assert not (tmp_path / name).is_symlink()
    assert (tmp_path / "outside").read_text() == "kept"


def test_pipes_and_devices_are_neither_opened_nor_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    paths = [tmp_path / "pipe", tmp_path / "link", Path("/dev/zero"), Path("/dev/tty")]
    for path in paths:
        with pytest.raises(OSError, match="Not a regular file"):
            open_regular(path)
        with only_regular_files(), pytest.raises(OSError, match="Not a regular file"):
            path.open("rb")
    with only_regular_files(), open(os.devnull) as file:
        assert file.read() == ""
    with pytest.raises(OSError, match="File too large"):
        read_file(__file__, limit=9)


def test_json_is_checked_against_its_schema() -> None:
    schema = {"a": int, "b": [str]}
    assert read_json(b'{"a": 1, "b": ["x"], "c": 0}', schema)["b"] == ["x"]
    for text in (
        '{"a": true, "b": []}',
        '{"a": 1}',
        '{"a": 1, "b": [1]}',
        "[]",
        "[" * 10**5,
        "9" * 9999,
    ):
        with pytest.raises(ValueError, match=r"."):
            read_json(text.encode(), schema)
