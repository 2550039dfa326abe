"""From what `data.path` says to names of files and URLs: files, globs, folders with C4's shards, lists of all these."""

import glob
import os
import threading
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin, urlsplit

from configs.user_paths import expanded, is_dir, is_file
from data.data_errors import DataError
from data.files import is_url, kind_of
from data.hub import hub_url
from data.remote import expand_url, fetch

HubName = Callable[[str, str], list[str]]  # (setting, name) -> the URLs of its files


def named_files(key: str, path: str | list[str], shards: str, hub: HubName | None) -> list[str]:
    """Names of files and URLs, each file once, however many links lead to it: in the order of a list, sorted within a
    glob or folder.

    An entry is a file, a glob, a URL, hf://datasets/OWNER/NAME[@REVISION]/PATH, or a folder with C4's `shards`.
    @ENTRY is a file that lists entries, one a line.

    Args:
        key: the setting.
        path: an entry; or a list of entries; or, if no file has such a name, entries with commas between them.
        hub: finds the files of a name on the hub; None: there are no such names.

    Raises:
        DataError: an entry names no file.
        SourceUnavailable: an index page or a list cannot be fetched.
    """
    names: list[str] = []
    for entry in _entries(path):
        is_list = entry.startswith("@") and not _exists(entry)
        for member in _lines(key, entry[1:]) if is_list else [entry]:
            found = _expand(key, member, shards, hub)
            if not found:
                raise DataError(f"{key}={entry}: no file matches{f' {member}' if is_list else ''}")
            names += found
    if not names:
        raise DataError(f"{key} is empty: it names no file")
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(name if is_url(name) else os.path.realpath(name), name)
    return list(first.values())


def _exists(path: str) -> bool:
    return os.path.exists(expanded(path))  # noqa: PTH110  Path.exists raises for a long text


def _entries(path: str | list[str]) -> list[str]:
    """The entries of a list; of a text that names no file, the parts between its commas."""
    if isinstance(path, list):
        return [entry for entry in path if entry.strip()]
    if _exists(path) or ("," in path and not is_url(path) and _matches(path)):
        return [path]
    return [entry.strip() for entry in path.split(",") if entry.strip()]


def _lines(key: str, name: str) -> list[str]:
    """The entries in the file `name`, a local one or a URL. Those that are relative are so to the file."""
    name = hub_url(key, name) if name.startswith("hf://") else name
    if is_url(name):
        content = b"".join(fetch(name, threading.Event()))
    elif _exists(name):
        content = expanded(name).read_bytes()
    else:
        raise DataError(f"{key}=@{name}: there is no list {name}")
    lines = [line.strip() for line in content.decode("utf-8-sig", "replace").splitlines() if line.strip()]
    if is_url(name):
        return [line if line.startswith("hf://") else urljoin(name, line) for line in lines]
    folder = expanded(name).parent
    return [line if "://" in line else str(folder / expanded(line)) for line in lines]


def _expand(key: str, entry: str, shards: str, hub: HubName | None) -> list[str]:
    """The files of an entry, in order."""
    if entry.startswith("hf://"):
        return [hub_url(key, entry)]
    if is_url(entry):
        return expand_url(f"{entry.rstrip('/')}/en/{shards}.*" if _is_mirror(entry) else entry)
    folder = expanded(entry)
    if is_dir(folder):
        pattern = f"{shards}.*.json.gz"
        found = sorted(folder.glob(f"en/{pattern}")) or sorted(folder.glob(pattern))
        if not found:
            raise DataError(f"{key}={entry}: the folder has no en/{pattern}; name files by a glob, as {entry}/*.jsonl")
        return [str(path) for path in found]
    if is_file(folder):
        return [str(folder)]
    if hub and not glob.has_magic(entry) and entry.count("/") <= 1 and not entry.startswith((".", "~", "/")):
        return hub(key, entry)
    return _matches(str(folder))


def _is_mirror(url: str) -> bool:
    """Whether a URL is a folder with C4's shards. Its last part may have a dot, as c4-v1.0 has."""
    path = urlsplit(url).path
    suffix = PurePosixPath(path).suffix.removeprefix(".")
    return "*" not in url and kind_of(url) is None and (not suffix or suffix.isdecimal() or path.endswith("/"))


def _matches(pattern: str) -> list[str]:
    """The files that a local glob matches, sorted. Brackets in the name of a folder that is there are plain."""
    path = expanded(pattern)
    folder = next((parent for parent in path.parents if glob.has_magic(str(parent)) and is_dir(parent)), None)
    escaped = str(path) if folder is None else str(Path(glob.escape(str(folder)), path.relative_to(folder)))
    matches = glob.glob(escaped, recursive=True)  # noqa: PTH207  Path.glob takes no absolute pattern
    return sorted(name for name in matches if Path(name).is_file())
