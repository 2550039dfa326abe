"""The order of documents: a pure function of (data.seed, the files, data.streams), whatever the number of processes.

The documents are dealt to `streams` sub-streams. In each epoch a stream shuffles its files, reads them in blocks of
`data.shuffle_buffer` documents, and shuffles each block. Unlike a rolling buffer, a block can be read again from where
it starts: the state of a stream is a handful of integers, and resuming is exact (docs/data-order.md).
"""

import hashlib
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from data.data_errors import DataError
from data.sources import Document, Source

logger = logging.getLogger("data")

StreamState = dict[str, Any]  # a cursor's numbers and the settings they depend on, fit for JSON


@dataclass(frozen=True)
class Cursor:
    """How far a stream has been read: to a block, and in it `document` documents and `token` tokens of the next one."""

    epoch: int = 0
    file: int = 0  # in this epoch's order of files, where the block starts
    position: int = 0  # in that file (line, row or document from 0), where the block starts
    block: int = 0  # blocks of this epoch before this one
    document: int = 0
    token: int = 0


class Stream:
    """Sub-stream `index` of `count` over a source.

    Args:
        seed, buffer, repeat: data.seed, data.shuffle_buffer, data.repeat.
        tokenizer: fingerprint of the one that makes tokens of the documents.
        state: from `state()`, to resume there; None starts at the beginning.
        mended: the files are those of the state, whose sizes may have changed since.

    Raises:
        DataError: the state is of other data, of another tokenizer or of other settings.
    """

    def __init__(
        self,
        source: Source,
        index: int,
        count: int,
        *,
        seed: int,
        buffer: int,
        repeat: bool,
        tokenizer: str,
        state: StreamState | None,
        mended: bool = False,
    ) -> None:
        self.source, self.index, self.count = source, index, count
        self.seed, self.buffer, self.repeat, self.mended = seed, max(buffer, 1), repeat, mended
        self.tokenizer = tokenizer
        if len(source.files) >= count:
            self.files, self.every, self.offset = range(index, len(source.files), count), 1, 0
        else:  # every stream reads all files and keeps every `count`-th document
            self.files, self.every, self.offset = range(len(source.files)), count, index
        self.cursor = Cursor() if state is None else self._restore(state)

    def __str__(self) -> str:
        return f"stream {self.index} of {self.count} ({self.source.setting})"

    def state(self, cursor: Cursor) -> StreamState:
        """The state from which `__init__` resumes at `cursor`."""
        return asdict(cursor) | self._order() | {"revision": self.source.revision, "tokenizer": self.tokenizer}

    def _order(self) -> StreamState:
        """All that the order of documents depends on; a cursor is valid for one order only."""
        return {
            "files": self.source.fingerprint,
            "names": _hash_of_names(self.source.files),
            "streams": self.count,
            "seed": self.seed,
            "shuffle_buffer": self.buffer,
            "held_out": self.source.held_out,
        }

    def _restore(self, state: StreamState) -> Cursor:
        order = self._order()
        same_names = state.get("names") == order.pop("names")
        if state["files"] != order.pop("files") and not (self.mended and same_names and self.source.revision is None):
            raise DataError(
                f"{self.source.setting}: the saved position belongs to other data (names or sizes of the "
                f"{len(self.source.files)} files differ); give the data back, or start a new run"
                f"{self._older_revision(state)}"
            )
        if state.get("tokenizer", self.tokenizer) != self.tokenizer:  # a state of an older version has none
            raise DataError(
                f"data.tokenizer: the saved position in {self.source.setting} was reached with another tokenizer; "
                "give that one back, or start a new run"
            )
        for key, now in order.items():
            before = state.get(key)  # a state of an older version has not all of them
            if before != now:
                raise DataError(
                    f"data.{key}={_spelled(now)}, but the saved position was reached with {_spelled(before)}; "
                    "set it back, or start a new run"
                )
        return Cursor(**{field.name: state[field.name] for field in fields(Cursor)})

    def _older_revision(self, state: StreamState) -> str:
        """For a dataset on the hub that has changed since `state` was saved: where its older files are."""
        before = state.get("revision")
        if before in (None, self.source.revision):
            return ""
        name = self.source.setting.partition("@")[0]
        return f"; with run.allow_config_change=true {name}@{before} goes on with the files of that time"

    def data_changed(self, state: StreamState) -> bool:
        """Whether the files had other sizes when `state` was saved."""
        return bool(state["files"] != self.source.fingerprint)

    def blocks(self) -> Iterator[tuple[Cursor, list[Document]]]:
        """Yield (cursor where a block starts, its documents in training order), from the block of `self.cursor` on.

        The first block is complete: the caller skips the documents and tokens that `self.cursor` counts as used.

        Raises:
            DataError: the stream has no document, or it ends and `data.repeat` is false.
        """
        cursor = replace(self.cursor, document=0, token=0)
        while True:
            files = list(self.files)
            self._random(cursor.epoch).shuffle(files)
            documents = self._read(files, cursor)
            read = cursor.block * self.buffer
            while block := list(islice(documents, self.buffer)):
                texts = [document for _, _, document in block]
                self._random(cursor.epoch, cursor.block).shuffle(texts)
                yield cursor, texts
                file, position, _ = block[-1]
                read += len(block)
                cursor = replace(cursor, file=file, position=position, block=cursor.block + 1)
            self._end_of_epoch(cursor.epoch, read)
            cursor = Cursor(epoch=cursor.epoch + 1)

    def _read(self, files: list[int], cursor: Cursor) -> Iterator[tuple[int, int, Document]]:
        for number in range(cursor.file, len(files)):
            start = cursor.position if number == cursor.file else 0
            for position, document in self.source.read(files[number], start, self.every, self.offset):
                yield number, position, document

    def _random(self, *shuffle: int) -> random.Random:
        """A generator for one shuffle: (epoch) or (epoch, block). Seeds that are texts are hashed alike everywhere."""
        return random.Random("/".join(map(str, (self.seed, self.index, *shuffle))))

    def _end_of_epoch(self, epoch: int, documents: int) -> None:
        if documents == 0:
            raise DataError(f"{self} has no document; lower data.streams or give more text")
        if not self.repeat:
            raise DataError(
                f"{self} ended after its {documents} documents; "
                "lower train.steps, give more text, or set data.repeat=true"
            )
        logger.info("%s: epoch %d ended after %d documents, epoch %d starts", self, epoch, documents, epoch + 1)


def _spelled(value: object) -> object:
    return "null" if value is None else value


def _hash_of_names(files: Sequence[str]) -> str:
    return hashlib.sha256(
        "\n".join(PurePosixPath(name).name for name in files).encode("utf-8", "surrogateescape")
    ).hexdigest()[:16]
