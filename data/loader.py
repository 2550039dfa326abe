"""Training rows for one process, made on a background thread, each batch with the state to go on from behind it."""

import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import LongTensor

from data.errors import DataError
from data.packing import labels, pad, rows
from data.shuffle import Place, Stream
from data.sources import training_source
from data.tokenizer import Encoder

CLOSE_SECONDS = 10.0  # for the thread to finish the tokenizer call or the read it is in


@dataclass(frozen=True)
class Batch:
    """This process's rows of one step. `state` maps str(stream) to its JSON-able state after this batch."""

    input_ids: LongTensor  # [rows, sequence_length]
    labels: LongTensor  # [rows, sequence_length], not shifted, -100 at padding
    state: dict[str, dict]


class TrainingData:
    """Iterator over the batches of one process; endless unless `data.repeat` is false.

    Row k of every step comes from stream k mod `data.streams`, and stream s belongs to process s mod
    `process_count`, so the rows of a step are the same on any number of processes: process p holds rows
    p, p + process_count, ... of them.

    Args:
        section: the `data` section of the settings.
        tokenizer: from `load_tokenizer`.
        vocab_size: rows of the model's embedding; ids at or above it become the unknown token.
        batch_size: rows of a step over all processes, a multiple of `data.streams`.
        state: what a batch carried, of at least the streams of this process; None starts at the beginning.

    Raises:
        DataError: here, for settings and files that cannot be right or a state of other data; from `next`, for what
            is found in the text, or a stream's end without `data.repeat`.
        SourceUnavailable: from `next`, when the network gives up. Batches made before the error come first.
    """

    def __init__(
        self,
        section,
        tokenizer,
        *,
        vocab_size: int,
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
        state: dict[str, dict] | None = None,
    ):
        count = section.streams
        if batch_size % count or count % process_count:
            raise DataError(
                f"data.streams={count} must divide the {batch_size} rows of a step and be a multiple of the number of "
                f"processes ({process_count})"
            )
        owned = range(process_index, count, process_count)
        if state is not None and (missing := [s for s in owned if str(s) not in state]):
            raise DataError(f"the saved position has no stream {missing[0]}; set data.streams={len(state)}, as it was")
        encoder = Encoder(tokenizer, vocab_size)
        source = training_source(section)
        streams = [
            Stream(
                source,
                s,
                count,
                seed=section.seed,
                buffer=section.shuffle_buffer,
                repeat=section.repeat,
                state=state[str(s)] if state is not None else None,
            )
            for s in owned
        ]
        self._batches: queue.Queue = queue.Queue(max(section.prefetch, 1))
        batches = make_batches(streams, encoder, section, rows_per_stream=batch_size // count)
        arguments = (batches, self._batches, source.closing)
        thread = threading.Thread(target=_fill, args=arguments, name="data", daemon=True)
        self._closing = source.closing
        # Also runs at the interpreter's exit: a thread inside the tokenizer must not meet the interpreter's end.
        self._finalizer = weakref.finalize(self, _stop, source.closing, thread)
        thread.start()

    def __iter__(self) -> "TrainingData":
        return self

    def __next__(self) -> Batch:
        batch = self.take(lambda: False)
        if batch is None:
            raise StopIteration
        return batch

    def take(self, interrupted: Callable[[], object]) -> Batch | None:
        """The next batch; None after close(), or once `interrupted()` holds while there is none to take yet: a
        source that is being retried can keep a batch for minutes."""
        while not self._closing.is_set():
            try:
                batch = self._batches.get(timeout=0.2)  # in steps, so that a close() from a signal handler is noticed
            except queue.Empty:
                if interrupted():
                    return None
                continue
            if isinstance(batch, Exception):
                self.close()
                raise batch
            return batch
        return None

    def close(self) -> None:
        """End the thread. Safe to call twice and from a signal handler; `next` raises StopIteration afterwards."""
        self._finalizer()


def make_batches(streams: list[Stream], encoder: Encoder, section, *, rows_per_stream: int) -> Iterator[Batch]:
    """Deal rows to batches: one of each stream in turn, `rows_per_stream` times."""
    sources = [_stream_rows(stream, encoder, section) for stream in streams]
    while True:
        dealt = [next(source) for _ in range(rows_per_stream) for source in sources]
        ids, lengths = pad([row for row, _ in dealt], section.sequence_length, encoder)
        places = [place for _, place in dealt[-len(streams) :]]
        yield Batch(
            torch.from_numpy(ids).long(),
            torch.from_numpy(labels(ids, lengths)).long(),
            {str(stream.index): stream.state(place) for stream, place in zip(streams, places, strict=True)},
        )


def _stream_rows(stream: Stream, encoder: Encoder, section) -> Iterator[tuple[list[int], Place]]:
    """Yield (ids of a row, place of the stream after it)."""
    made = rows(_documents(stream, encoder), packing=section.packing, length=section.sequence_length, eos=encoder.eos)
    for row, place, token in made:
        yield row, replace(place, token=token)


def _documents(stream: Stream, encoder: Encoder) -> Iterator[tuple[Place, int, list[int]]]:
    """Yield (place before a document, tokens of it used already, ids) from where the stream stands."""
    used, token, text_in = stream.place.document, stream.place.token, stream.place.epoch
    for start, documents in stream.blocks():
        if start.epoch > text_in + 1:
            raise DataError(f"{stream}: no document gives a token; are they all empty?")
        for number, ids in enumerate(encoder(documents[used:]), used):
            yield replace(start, document=number), token, ids
            token = 0
            text_in = start.epoch if ids else text_in
        used = token = 0


def _fill(batches: Iterator[Batch], ready: queue.Queue, closing: threading.Event) -> None:
    """The thread: hand on batches, and at last the exception, until `closing`."""
    try:
        for batch in batches:
            if not _put(ready, batch, closing):
                return
    except Exception as error:
        _put(ready, error, closing)


def _put(ready: queue.Queue, item: Batch | Exception, closing: threading.Event) -> bool:
    while not closing.is_set():
        try:
            ready.put(item, timeout=0.2)
            return True
        except queue.Full:
            continue
    return False


def _stop(closing: threading.Event, thread: threading.Thread) -> None:
    closing.set()
    thread.join(CLOSE_SECONDS)
