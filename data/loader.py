"""The training rows of one process, made on a background thread. Each batch carries the state that resumes after it."""

import itertools
import logging
import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data.data_errors import DataError
from data.data_settings import Data
from data.packing import ids_of_a_document, labels, pad, rows
from data.prepared import PreparedSource, tokenizer_fingerprint
from data.shuffle import Cursor, Stream, StreamState
from data.sources import Document, TextSource, training_source, warn_of_shared_files
from data.tokenizer import Encoder

logger = logging.getLogger("data")

Place = tuple[Cursor, int]  # where a block starts, and the number of a document in it

CLOSE_SECONDS = 10.0  # for the thread to finish its current call of the tokenizer or of a read


@dataclass(frozen=True)
class Batch:
    """The rows of one step that belong to this process."""

    input_ids: Tensor  # int64 [rows, sequence_length]
    labels: Tensor  # int64 [rows, sequence_length], not shifted, -100 at padding
    stream_states: dict[str, StreamState]  # of each of its streams, by number as text, after this batch; fit for JSON

    def pinned(self) -> "Batch":
        """The batch in memory from which a GPU copies without the host waiting for it."""
        return replace(self, input_ids=self.input_ids.pin_memory(), labels=self.labels.pin_memory())


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
        stream_states: those of the batch to resume after, of at least the streams of this process; None starts at
            the beginning.
        mended: `data.path` is that of the states, so files of other sizes are the same ones, mended.
        pin: batches are `pinned`, on the thread that makes them.
        evaluated: the files of `EvaluationData`; the main process warns if one is trained on.

    Raises:
        DataError: by the constructor, for settings and files that cannot be right or a state of other data or of
            another tokenizer; by `next`, for mistakes in the text, or a stream's end without `data.repeat`.
        SourceUnavailable: by `next`, when a file cannot be fetched. Batches made before an error come first.
    """

    def __init__(
        self,
        section: Data,
        tokenizer: PreTrainedTokenizerBase,
        *,
        vocab_size: int,
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
        stream_states: dict[str, StreamState] | None = None,
        mended: bool = False,
        pin: bool = False,
        evaluated: Iterable[str] = (),
    ) -> None:
        count = section.streams
        if batch_size % count or count % process_count:
            raise DataError(
                f"data.streams={count} must divide the {batch_size} rows of a step and be a multiple of the number of "
                f"processes ({process_count})"
            )
        owned = range(process_index, count, process_count)
        states = stream_states
        if states is not None and (missing := [s for s in owned if str(s) not in states]):
            raise DataError(f"the saved position has no stream {missing[0]}; set data.streams={len(states)}, as it was")
        encoder = Encoder(
            tokenizer, vocab_size, ids_of_a_document(section), special_tokens=section.special_tokens_in_text
        )
        source = training_source(section)
        if process_index == 0:
            warn_of_shared_files(source, evaluated)
        streams = _streams(section, source, owned, states, tokenizer=tokenizer_fingerprint(tokenizer), mended=mended)
        self._batches: queue.Queue[Batch | Exception] = queue.Queue(max(section.prefetch, 1))
        batches = make_batches(streams, encoder, section, rows_per_stream=batch_size // count)
        if pin:
            batches = map(Batch.pinned, batches)
        arguments = (batches, self._batches, source.closing)
        self._thread = threading.Thread(target=_fill, args=arguments, name="data", daemon=True)
        self._closing = source.closing
        # Also runs when the interpreter exits, before it tears down what a thread inside the tokenizer still uses.
        self._finalizer = weakref.finalize(self, _stop, source.closing, self._thread)
        self._thread.start()

    def __iter__(self) -> "TrainingData":
        return self

    def __next__(self) -> Batch:
        batch = self.next_batch(lambda: False)
        if batch is None:
            raise StopIteration
        return batch

    def next_batch(self, interrupted: Callable[[], object]) -> Batch | None:
        """The next batch, or None after `close()` or when `interrupted()` holds before a batch is ready.

        The caller needs that way out because a source that is being retried can take minutes.
        """
        while not self._closing.is_set():
            try:
                batch = self._batches.get(timeout=0.2)  # short waits, to notice a close() from a signal handler
            except queue.Empty:
                if interrupted():
                    return None
                if not self._thread.is_alive() and self._batches.empty() and not self._closing.is_set():
                    raise RuntimeError("the thread that makes batches has ended without an error") from None
                continue
            if isinstance(batch, Exception):
                self.close()
                raise batch
            return batch
        return None

    def close(self) -> None:
        """End the thread. Safe to call twice and from a signal handler; `next` raises StopIteration afterwards."""
        self._finalizer()


def make_batches(streams: list[Stream], encoder: Encoder, section: Data, *, rows_per_stream: int) -> Iterator[Batch]:
    """Deal rows to batches: one row of each stream in turn, `rows_per_stream` times."""
    sources = [_stream_rows(stream, encoder, section) for stream in streams]
    while True:
        dealt = [next(source) for _ in range(rows_per_stream) for source in sources]
        ids, lengths = pad([row for row, _, _ in dealt], section.sequence_length, encoder.pad)
        states = {}
        for stream, (_, (start, document), token) in zip(streams, dealt[-len(streams) :], strict=True):
            states[str(stream.index)] = stream.state(replace(start, document=document, token=token))
        yield Batch(torch.from_numpy(ids).long(), torch.from_numpy(labels(ids, lengths)).long(), states)


def _streams(
    section: Data,
    source: TextSource | PreparedSource,
    owned: Iterable[int],
    states: dict[str, StreamState] | None,
    *,
    tokenizer: str,
    mended: bool,
) -> list[Stream]:
    """The streams of one process, at the places of `states`. Raises DataError as `Stream`."""
    streams = [
        Stream(
            source,
            index,
            section.streams,
            seed=section.seed,
            buffer=section.shuffle_buffer,
            repeat=section.repeat,
            tokenizer=tokenizer,
            state=None if states is None else states[str(index)],
            mended=mended,
        )
        for index in owned
    ]
    if states is not None and any(stream.data_changed(states[str(stream.index)]) for stream in streams):
        logger.warning(
            "%s: files have other sizes than when the run was saved; it goes on from the same line of each, and "
            "documents near a line that was put in or taken out may be read twice or not at all",
            source.setting,
        )
    return streams


def _stream_rows(stream: Stream, encoder: Encoder, section: Data) -> Iterator[tuple[list[int], Place, int]]:
    """Yield (ids of a row, place of the document in which it ends, tokens of that document used so far)."""
    return rows(_documents(stream, encoder), packing=section.packing, length=section.sequence_length, eos=encoder.eos)


def _documents(stream: Stream, encoder: Encoder) -> Iterator[tuple[Place, int, list[int]]]:
    """Yield (place of a document, tokens of it used already, ids), from the stream's cursor on."""
    token, last_text_epoch = stream.cursor.token, stream.cursor.epoch
    for places, ids in encoder.blocks(_blocks(stream)):
        start, number = next(places)
        if start.epoch > last_text_epoch + 1:
            raise DataError(
                f"{stream}: no document gives a token; are they all empty, or held out? Fewer data.streams have more "
                "of them each"
            )
        yield (start, number), token, ids
        token = 0
        last_text_epoch = start.epoch if ids else last_text_epoch


def _blocks(stream: Stream) -> Iterator[tuple[Iterator[Place], list[Document]]]:
    """Yield (places of documents, the documents) of each block, without those that the cursor counts as used."""
    used = stream.cursor.document
    for start, documents in stream.blocks():
        yield zip(itertools.repeat(start), itertools.count(used)), documents[used:]
        used = 0


def _fill(batches: Iterator[Batch], ready: queue.Queue[Batch | Exception], closing: threading.Event) -> None:
    """The thread's work: queue batches, and an exception if one ends them, until `closing`."""
    try:
        for batch in batches:
            if not _put(ready, batch, closing):
                return
    except Exception as error:
        _put(ready, error, closing)
    except BaseException as error:  # such as a panic of Rust code: nobody waits for this thread's end
        _put(ready, RuntimeError(f"{type(error).__name__}: {error}"), closing)


def _put(ready: queue.Queue[Batch | Exception], item: Batch | Exception, closing: threading.Event) -> bool:
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
