"""Writing of a prepared store: any source's text, tokenised once (see data/prepared.py)."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from data.data_errors import DataError
from data.file_lock import lock_file
from data.prepared import FORMAT, OFFSET, PreparedSource, tokenizer_fingerprint
from data.sources import TextSource, evaluation_source, training_source, warn_of_shared_files
from data.tokenizer import Encoder, id_count

if TYPE_CHECKING:
    from data.data_settings import Data


# Which text a store holds; order, packing and row length are chosen when it is read.
SETTINGS = (
    "source",
    "path",
    "eval_path",
    "config",
    "split",
    "eval_split",
    "held_out",
    "text_field",
    "tokenizer",
    "special_tokens_in_text",
)


class ArrayFile:
    """A file that grows by arrays of one dtype, and its SHA-256."""

    def __init__(self, path: Path, dtype: "np.dtype[Any]"):
        self.path, self.dtype = path, dtype
        self.file, self.sha256, self.bytes = path.open("wb"), hashlib.sha256(), 0

    def append(self, values: Sequence[int]) -> None:
        """Write the values at the end."""
        data = np.asarray(values, dtype=self.dtype).tobytes()
        self.file.write(data)
        self.sha256.update(data)
        self.bytes += len(data)

    def close(self) -> dict[str, dict[str, Any]]:
        """Put the file on the disk; returns its size and checksum by its name."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        return {self.path.name: {"bytes": self.bytes, "sha256": self.sha256.hexdigest()}}


def prepare(store: Path, section: "Data", tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the training and evaluation text of a `data` section to `store`.

    The store appears whole or not at all: it is written under another name, synced and renamed.

    Raises:
        DataError: the folder exists, another process is preparing it, or the text is at fault.
        SourceUnavailable: a file cannot be fetched.
    """
    _refuse_existing(store)
    sources = {"train": training_source(section), "validation": evaluation_source(section)}
    warn_of_shared_files(sources["train"], sources["validation"].files)
    with _locked(store):
        _refuse_existing(store)  # another process may have finished it since
        _write(store, section, tokenizer, sources)


def _refuse_existing(store: Path) -> None:
    if store.exists() or store.is_symlink():  # a link may lead nowhere
        raise DataError(f"{store} exists; remove it, or prepare the data somewhere else")


@contextlib.contextmanager
def _locked(store: Path) -> Iterator[None]:
    """The right to prepare the store, which the kernel drops with the process. Raises DataError if another has it."""
    store.parent.mkdir(parents=True, exist_ok=True)
    path = store.with_name(store.name + ".lock")
    with path.open("w") as file:
        try:
            lock_file(file.fileno(), path, wait=False)
        except BlockingIOError:
            raise DataError(f"{store} is being prepared by another process; wait for its end") from None
        yield
        path.unlink(missing_ok=True)  # not after a failure: two processes could then hold files of one name


def _write(
    store: Path, section: "Data", tokenizer: PreTrainedTokenizerBase, sources: dict[str, TextSource | PreparedSource]
) -> None:
    """Write the store beside its place, then move it there."""
    partial = store.with_name(store.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    ids = id_count(tokenizer)
    dtype = np.dtype("<u2" if ids <= 1 << 16 else "<u4")
    splits: dict[str, Any] = {}
    checksums: dict[str, Any] = {}
    for split, source in sources.items():
        # Ids that a model has no row for are replaced when rows are made.
        encoder = Encoder(tokenizer, ids, special_tokens=section.special_tokens_in_text)
        splits[split], written = _write_split(partial, split, source, encoder, dtype)
        checksums |= written
    tokenizer.save_pretrained(partial / "tokenizer")
    for path in sorted((partial / "tokenizer").rglob("*")):
        if path.is_file():
            checksums[path.relative_to(partial).as_posix()] = _checksum(path)
    manifest = {
        "format": FORMAT,
        "dtype": dtype.str,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "special_tokens_in_text": section.special_tokens_in_text,
        "settings": {key: getattr(section, key) for key in SETTINGS},
        "splits": splits,
        "checksums": checksums,
    }
    with (partial / "manifest.json").open("w") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(store)


def _checksum(path: Path) -> dict[str, Any]:
    """Put the file on the disk; returns its size and checksum."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _write_split(
    folder: Path,
    split: str,
    source: TextSource | PreparedSource,
    encoder: Encoder,
    dtype: "np.dtype[Any]",
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write a split; returns its entry in the manifest, and its files' checksums."""
    ids = ArrayFile(folder / f"{split}.ids", dtype)
    ends = ArrayFile(folder / f"{split}.ends", OFFSET)
    positions = ArrayFile(folder / f"{split}.positions", OFFSET)
    files, tokens = [], 0
    for number, name in enumerate(source.files):
        after: list[int] = []

        for document in encoder(_texts(source, number, after)):
            tokens += len(document)
            ids.append(document)
            ends.append([tokens])
        positions.append(after)
        files.append({"name": Path(name).name, "documents": len(after)})
        logging.info("%s: %s, file %d of %d, %d tokens so far", split, name, number + 1, len(source.files), tokens)
    entry = {
        "files": files,
        "tokens": tokens,
        "fingerprint": source.fingerprint,
        "held_out": source.held_out,
        "revision": source.revision,
    }
    return entry, ids.close() | ends.close() | positions.close()


def _texts(source: TextSource | PreparedSource, number: int, after: list[int]) -> Iterator[str]:
    """The documents of a file; the position after each is appended to `after`."""
    for position, text in source.read(number, 0):
        assert isinstance(text, str)  # a prepared store as the source has been refused
        after.append(position)
        yield text
