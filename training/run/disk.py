"""How much room a disk has."""

import errno
import re
import shutil
from pathlib import Path


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written below `folder`, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def in_words(count: int) -> str:
    """A number of bytes for a sentence: 12.3 GB, 4.5 MB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def is_full(error: BaseException | None) -> bool:
    """Whether an error is a full disk or quota, or came of one. safetensors has the number in its text, torch its
    own words and the other error as the context."""
    full = (errno.ENOSPC, errno.EDQUOT)
    while error is not None:
        found = re.search(r"os error (\d+)", str(error))
        if (isinstance(error, OSError) and error.errno in full) or (found and int(found[1]) in full):
            return True
        error = error.__cause__ or error.__context__
    return False
