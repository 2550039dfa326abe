"""Documents to rows of `length` ids: packed without loss, or one document a row."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np

from data.data_settings import Data

IGNORE = -100  # the label of a position that is no target

Mark = TypeVar("Mark")  # whatever the caller wants to know of the document in which a row ends


def packed_rows(
    documents: Iterable[tuple[Mark, int, list[int]]], length: int, eos: int
) -> Iterator[tuple[list[int], Mark, int]]:
    """Join documents by EOS and cut every `length` ids. Every id is used once; only an unfilled last row is dropped.

    Args:
        documents: (mark, used, ids) each; the first `used` ids are left out, because rows before a resume have them.

    Yields:
        (ids of a row, mark of the document in which it ends, ids of that document used so far, counting EOS). The last
        two are all that a resume needs: a full row leaves nothing over but the rest of that document.
    """
    row: list[int] = []
    for mark, used, ids in documents:
        ids = [*ids, eos]
        while used < len(ids):
            taken = ids[used : used + length - len(row)]
            row, used = row + taken, used + len(taken)
            if len(row) == length:
                yield row, mark, used
                row = []


def document_rows(
    documents: Iterable[tuple[Mark, int, list[int]]], length: int, eos: int
) -> Iterator[tuple[list[int], Mark, int]]:
    """One document a row: at most `length` - 1 of its ids, then EOS; the rest is dropped, as in GaLore's loader.

    Takes and yields the same as `packed_rows`, but rows have at most `length` ids. A document that was used before a
    resume is left out.
    """
    for mark, used, ids in documents:
        if used == 0:
            row = [*ids[: length - 1], eos]
            yield row, mark, len(row)


def rows(
    documents: Iterable[tuple[Mark, int, list[int]]], *, packing: bool, length: int, eos: int
) -> Iterator[tuple[list[int], Mark, int]]:
    """`packed_rows` or `document_rows`, by `data.packing`; documents without a token are skipped."""
    filled = (document for document in documents if document[2])
    return (packed_rows if packing else document_rows)(filled, length, eos)


def ids_of_a_document(section: Data) -> int | None:
    """How many ids of a document `rows` uses at most; None: all."""
    return None if section.packing else section.sequence_length - 1


def pad(rows: list[list[int]], length: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Right-pad rows of ids: int32 [len(rows), length], and the number of ids in each row, int32 [len(rows)]."""
    ids = np.full((len(rows), length), pad_id, dtype=np.int32)
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = row
    return ids, np.array([len(row) for row in rows], dtype=np.int32)


def labels(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`ids` [N, L] with IGNORE at the padding, by each row's length [N]. Not shifted: the model does that."""
    return np.where(np.arange(ids.shape[1]) < lengths[:, None], ids, IGNORE)
