"""Writing files so that a power cut or `kill -9` leaves the old one or the new one, never half of one."""

import contextlib
import os
from pathlib import Path


def fsync(path: Path) -> None:
    """Return when the file at `path`, or the entries of that folder, are on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes) -> None:
    """Make `data` the content of `path` in one step and flushed. An OSError leaves the old file."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(data)
        fsync(temporary)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fsync(path.parent)
