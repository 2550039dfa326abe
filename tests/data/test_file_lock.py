"""Locks of files: refused while another holds one, and a warning where the file system has none."""

import errno
import os

import pytest

from data.file_lock import lock_file


def test_a_lock_is_refused_until_its_file_is_closed(tmp_path):
    path = tmp_path / "lock"
    with path.open("w") as first, path.open("w") as second:
        lock_file(first.fileno(), path, wait=False)
        with pytest.raises(BlockingIOError):
            lock_file(second.fileno(), path, wait=False)
        first.close()
        lock_file(second.fileno(), path, wait=True)


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog, wait, number):
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with (tmp_path / "lock").open("w") as file:
        lock_file(file.fileno(), tmp_path / "lock", wait=wait)
    assert f"{tmp_path / 'lock'}: its file system has no locks" in caplog.text


def test_another_error_is_not_taken_for_a_missing_lock(tmp_path):
    with (tmp_path / "lock").open("w") as file:
        closed = file.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        lock_file(closed, tmp_path / "lock", wait=False)
