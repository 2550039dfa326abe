"""Locks between processes on files that they share."""

import errno
import fcntl
import logging
from pathlib import Path

log = logging.getLogger(__name__)


def lock_file(descriptor: int, path: Path, *, wait: bool) -> None:
    """Take the lock of the open file `path`. The kernel drops it when the file is closed, or with the process.

    A file system without locks is warned of. Raises BlockingIOError if another process has it and `wait` is false.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        log.warning("%s: its file system has no locks, so only one process may use it at a time", path)
