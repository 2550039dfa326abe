"""Documents to rows of `length` ids: packed without loss, or one document a row."""

from collections.abc import Iterable, Iterator

import numpy as np

from data.tokenizer import Encoder

IGNORE = -100  # the label of a position that is no target


def packed_rows(documents: Iterable[tuple[object, int, list[int]]], length: int, eos: int) -> Iterator[tuple]:
    """Join documents by EOS and cut every `length` ids. No id is lost or repeated, but for an unfilled last row.

    Args:
        documents: (mark, token, ids) each; the first `token` ids are left out (they were used before a resume).

    Yields:
        (ids of a row, mark of the document that fills it up, ids of that document used so far, EOS among them). As the
        row is full, nothing is left over but the rest of that document: the last two are all there is to remember.
    """
    row: list[int] = []
    for mark, token, ids in documents:
        ids = [*ids, eos]
        while token < len(ids):
            taken = ids[token : token + length - len(row)]
            row, token = row + taken, token + len(taken)
            if len(row) == length:
                yield row, mark, token
                row = []


def document_rows(documents: Iterable[tuple[object, int, list[int]]], length: int, eos: int) -> Iterator[tuple]:
    """One document a row: at most `length` - 1 of its ids, then EOS, the rest dropped, as GaLore's loader has it.

    Takes and yields what `packed_rows` does, with rows of at most `length` ids; a document used before is left out.
    """
    for mark, token, ids in documents:
        if token == 0:
            yield [*ids[: length - 1], eos], mark, len(ids) + 1


def rows(documents: Iterable, *, packing: bool, length: int, eos: int) -> Iterator[tuple]:
    """`packed_rows` or `document_rows`, by `data.packing`; documents without a token are skipped."""
    filled = (document for document in documents if document[2])
    return (packed_rows if packing else document_rows)(filled, length, eos)


def pad(rows: list[list[int]], length: int, encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
    """Right-pad rows of ids: an int32 array [len(rows), length], and how many ids each row has, int32 [len(rows)]."""
    ids = np.full((len(rows), length), encoder.pad, dtype=np.int32)
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = row
    return ids, np.array([len(row) for row in rows], dtype=np.int32)


def labels(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`ids` [N, L] with IGNORE at the padding, by each row's length [N]. Not shifted: the model does that."""
    return np.where(np.arange(ids.shape[1]) < lengths[:, None], ids, IGNORE)
