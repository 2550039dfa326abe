"""The order of documents: a pure function of (data.seed, the files, data.streams), whatever the number of processes.

The source is dealt to `streams` sub-streams. Within one, each epoch shuffles the files it holds, reads them in blocks
of `data.shuffle_buffer` documents, and shuffles each block. A block, where others keep a rolling buffer, because a
block can be had again from where it starts: the state of a stream is a handful of integers and not a thousand
documents, no random state has to be carried, and resuming is exact (the buffer of `datasets` loses and repeats
documents over a resume).
"""

import logging
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice

from data.errors import DataError

logger = logging.getLogger("data")


@dataclass(frozen=True)
class Place:
    """Where a stream stands: `document` documents of a block and `token` tokens of the next one have been used."""

    epoch: int = 0
    file: int = 0  # in this epoch's order of files, where the block starts
    position: int = 0  # in that file (line, row or document from 0), where the block starts
    block: int = 0  # blocks of this epoch before this one
    document: int = 0
    token: int = 0


class Stream:
    """Sub-stream `index` of `count` over a source: its documents, and its state as a JSON-able dict."""

    def __init__(self, source, index: int, count: int, *, seed: int, buffer: int, repeat: bool, state: dict | None):
        self.source, self.index, self.count = source, index, count
        self.seed, self.buffer, self.repeat = seed, max(buffer, 1), repeat
        if len(source.files) >= count:
            self.files, self.every, self.offset = range(index, len(source.files), count), 1, 0
        else:  # every stream reads all files and keeps every `count`-th document
            self.files, self.every, self.offset = range(len(source.files)), count, index
        self.place = Place() if state is None else self._restore(state)

    def __str__(self) -> str:
        return f"stream {self.index} of {self.count} ({self.source.setting})"

    def state(self, place: Place) -> dict:
        """The JSON-able state to give to `__init__` to go on from `place`."""
        return asdict(place) | self._order()

    def _order(self) -> dict:
        """What a place means nothing without."""
        order = {"streams": self.count, "seed": self.seed, "shuffle_buffer": self.buffer}
        return {"files": self.source.fingerprint} | order

    def _restore(self, state: dict) -> Place:
        for key, now in self._order().items():
            if state[key] != now and key == "files":
                raise DataError(
                    f"{self.source.setting}: the saved position belongs to other data (names or sizes of the "
                    f"{len(self.source.files)} files differ); give the data back, or start a new run"
                )
            if state[key] != now:
                raise DataError(
                    f"data.{key}={now}, but the saved position was reached with {state[key]}; "
                    "set it back, or start a new run"
                )
        return Place(**{key: value for key, value in state.items() if key not in self._order()})

    def blocks(self) -> Iterator[tuple[Place, list]]:
        """Yield (the place where the block starts, its documents in training order), from `self.place` on.

        The first block comes whole: the caller leaves out the `document` documents and `token` tokens of `self.place`.

        Raises:
            DataError: the stream has no document, or it ends and `data.repeat` is false.
        """
        place = replace(self.place, document=0, token=0)
        while True:
            files = list(self.files)
            self._random(place.epoch).shuffle(files)
            documents = self._read(files, place)
            read = place.block * self.buffer
            while block := list(islice(documents, self.buffer)):
                texts = [document for _, _, document in block]
                self._random(place.epoch, place.block).shuffle(texts)
                yield place, texts
                file, position, _ = block[-1]
                read += len(block)
                place = replace(place, file=file, position=position, block=place.block + 1)
            self._end_of_epoch(place.epoch, read)
            place = Place(epoch=place.epoch + 1)

    def _read(self, files: list[int], place: Place) -> Iterator[tuple[int, int, str]]:
        for number in range(place.file, len(files)):
            start = place.position if number == place.file else 0
            for position, document in self.source.read(files[number], start, self.every, self.offset):
                yield number, position, document

    def _random(self, *place: int) -> random.Random:
        """A generator of its own for each shuffle. Seeded by a string, which Python hashes the same everywhere."""
        return random.Random("/".join(map(str, (self.seed, self.index, *place))))

    def _end_of_epoch(self, epoch: int, documents: int) -> None:
        if documents == 0:
            raise DataError(f"{self} has no document; lower data.streams or give more text")
        if not self.repeat:
            raise DataError(
                f"{self} ended after its {documents} documents; "
                "lower train.steps, give more text, or set data.repeat=true"
            )
        logger.info("%s: epoch %d ended after %d documents, epoch %d starts", self, epoch, documents, epoch + 1)
