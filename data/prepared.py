"""Text tokenised once by scripts/prepare_data.py: memory-mapped ids that give the same rows as their source.

    STORE/manifest.json       settings of its source, sizes and SHA-256 of the files below; written last
    STORE/tokenizer/          the tokenizer, as transformers saves it; older stores have no SHA-256 of it
    STORE/<split>.ids         ids of all documents end to end, without EOS, uint16 or uint32
    STORE/<split>.ends        uint64 [documents], where each document's ids end
    STORE/<split>.positions   uint64 [documents], the position after each document in its file (see data.files.reader)

The documents keep their order, files and positions, so streams, shuffling, packing and saved states are the same as for
the source: a run may change from one to the other (run.allow_config_change=true).
"""

import hashlib
import json
import operator
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from configs.user_paths import expanded
from data.data_errors import DataError

if TYPE_CHECKING:
    from data.data_settings import Data

FORMAT = 1
OFFSET = np.dtype("<u8")
SPLITS = ("train", "validation")


class PreparedSource:
    """One split of a store, with the attributes and `read` of `TextSource`; documents are arrays of ids [tokens]."""

    def __init__(self, folder: str | list[str] | None, split: str) -> None:
        self.setting = f"data.path={folder}"
        self.closing = threading.Event()
        manifest = read_manifest(folder)
        self.files: tuple[str, ...] = tuple(file["name"] for file in manifest["splits"][split]["files"])
        self.fingerprint: str = manifest["splits"][split]["fingerprint"]
        # Stores that were made before there were these have none.
        self.held_out: float | None = manifest["splits"][split].get("held_out")
        self.revision: str | None = manifest["splits"][split].get("revision")
        self._first = np.cumsum([0] + [file["documents"] for file in manifest["splits"][split]["files"]])
        arrays = {"ids": np.dtype(manifest["dtype"]), "ends": OFFSET, "positions": OFFSET}
        root = store_folder(folder)
        self._ids, self._ends, self._positions = (
            _map(root / f"{split}.{kind}", dtype) for kind, dtype in arrays.items()
        )

    def read(self, file: int, start: int, every: int = 1, offset: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (position after it, ids) of the documents of file number `file`, see `data.files.reader`."""
        first, last = self._first[file], self._first[file + 1]
        for document in range(first + np.searchsorted(self._positions[first:last], start, side="right"), last):
            if (document - first) % every == offset:
                begin = self._ends[document - 1] if document else 0
                yield int(self._positions[document]), self._ids[begin : self._ends[document]]


def _map(path: Path, dtype: np.dtype) -> np.ndarray:
    return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)


def store_folder(path: str | list[str] | None) -> Path:
    """The folder that `data.path` names. Raises DataError if it names none."""
    if not path or isinstance(path, list):
        raise DataError("data.source=prepared needs data.path: a folder made by scripts/prepare_data.py")
    return expanded(path)


def read_manifest(folder: str | list[str] | None) -> dict[str, Any]:
    """The manifest of a store, after a check that its files are complete.

    Raises:
        DataError: there is no store, it is of another format, or a file is missing or of the wrong size.
    """
    path = store_folder(folder) / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"data.path={folder} is no prepared store ({error}); see scripts/prepare_data.py") from error
    if not isinstance(manifest, dict) or not {"checksums", "splits", "dtype", "tokenizer"} <= manifest.keys():
        raise DataError(f"{path} is damaged: it is not the manifest of a store; prepare the data again")
    if manifest.get("format") != FORMAT:
        raise DataError(
            f"{path} is of format {manifest.get('format')}, this code reads format {FORMAT}; prepare it again"
        )
    if not _is_whole(manifest):
        raise DataError(f"{path} is damaged: entries are missing, or do not agree; prepare the data again")
    for name, expected in manifest["checksums"].items():
        file = path.parent / name
        size = file.stat().st_size if file.exists() else 0
        if size != expected["bytes"]:
            raise DataError(f"{file} has {size} bytes, its manifest says {expected['bytes']}; prepare the data again")
    return manifest


def _is_whole(manifest: dict[str, Any]) -> bool:
    """Whether all that is read of a manifest is there, of the right type, and fits the sizes of the files."""
    checksums = manifest["checksums"]
    try:
        for split in SPLITS:
            entry = manifest["splits"][split]
            names = [file["name"] for file in entry["files"]]
            documents = sum(operator.index(file["documents"]) for file in entry["files"])
            sizes = (entry["tokens"] * np.dtype(manifest["dtype"]).itemsize, *[documents * OFFSET.itemsize] * 2)
            written = tuple(checksums[f"{split}.{kind}"]["bytes"] for kind in ("ids", "ends", "positions"))
            if written != sizes or not all(isinstance(text, str) for text in (entry["fingerprint"], *names)):
                return False
        files = checksums.values()
        return all(isinstance(file["sha256"], str) and isinstance(file["bytes"], int) for file in files)
    except (KeyError, TypeError, AttributeError):
        return False


def verify(folder: str) -> None:
    """Raise DataError unless every file of a store has the SHA-256 of its manifest. Reads all of them."""
    for name, expected in read_manifest(folder)["checksums"].items():
        path = store_folder(folder) / name
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                raise DataError(f"{path} is damaged (its SHA-256 differs); prepare the data again")


def check_tokenizer(section: "Data", tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise DataError unless the store at `data.path` was prepared with `tokenizer`, used in the same way."""
    manifest = read_manifest(section.path)
    if tokenizer_fingerprint(tokenizer) != manifest["tokenizer"]:
        raise DataError(
            f"data.path={section.path} was prepared with another tokenizer than data.tokenizer; "
            "leave data.tokenizer out to use the one in the store, or prepare the data again"
        )
    special_tokens = manifest.get("special_tokens_in_text", "token")  # as it was before there was the setting
    if section.special_tokens_in_text != special_tokens:
        raise DataError(
            f"data.path={section.path} was prepared with data.special_tokens_in_text={special_tokens}, not "
            f"{section.special_tokens_in_text}; set it so, or prepare the data again"
        )


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of all that decides which ids a text has; not of truncation and padding, which every call sets."""
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        rules = {key: value for key, value in rules.items() if key not in ("truncation", "padding")}
    else:
        rules = tokenizer.get_vocab()
    text = json.dumps([rules, tokenizer.eos_token_id], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
