"""Documents out of files: JSON lines, Parquet and text, plain or gzip, on disk or from a URL.

`datasets` is not used for lines: its readers guess a schema from each ten megabytes, cannot name the broken line, and
resume at tables instead of documents. Parquet is read with pyarrow, as `datasets` does.
"""

import gzip
import io
import json
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from configs.messages import first_line
from data.data_errors import DataError
from data.remote import RemoteFile

Texts = Iterator[tuple[int, str]]  # the position after a document, and its text
Reader = Callable[[str, int, int, int, threading.Event], Texts]  # (name, start, every, offset, closing), see `reader`

FORMATS = ".json[l][.gz], .parquet, .txt[.gz]"


def is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def reader(name: str) -> Reader:
    """The function that reads files with the suffix of `name`.

    Every row (Parquet) and every line that is not blank (JSON, text) is a document; a text of white space alone is
    given as "". Of the documents from position `start` on, the function yields those whose number in the file is
    `offset` modulo `every`, each with the position after it. A position is a line or a row counted from 0. `closing`
    ends waiting for the network.

    Raises:
        DataError: the suffix is of no known format. From the function: a file without a document, a gzip stream that
            breaks off, a broken JSON line, a `text` that is missing or not a string (each with file and line).
        SourceUnavailable: from the function, if a URL cannot be fetched (see `data.remote.fetch`).
    """
    suffix = Path(_path(name).removesuffix(".gz")).suffix.lower()
    if suffix in (".json", ".jsonl", ".ndjson"):
        return _json_lines
    if suffix in (".txt", ".text"):
        return _text_lines
    if suffix == ".parquet" and not is_url(name):
        return _parquet_rows
    where = " over the network; download the file" if suffix == ".parquet" else ""
    raise DataError(f"{name}: this format is not read{where} (formats: {FORMATS})")


def _path(name: str) -> str:
    """The part of a file's name or URL that ends in its suffix."""
    return urlsplit(name).path if is_url(name) else name


def _json_lines(name: str, start: int, every: int, offset: int, closing: threading.Event) -> Texts:
    for position, line in _lines(name, start, every, offset, closing):
        try:
            record = json.loads(line)
        except RecursionError as error:
            raise DataError(f"{name}, line {position + 1}: not readable JSON (nested too deeply)") from error
        except ValueError as error:  # broken JSON, or bytes that are not UTF-8
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise DataError(f"{name}, line {position + 1}: not valid JSON ({reason})") from error
        if not isinstance(record, dict) or "text" not in record:
            found = f"its fields: {', '.join(record) or 'none'}" if isinstance(record, dict) else "it is no object"
            raise DataError(f'{name}, line {position + 1}: no field "text" ({found})')
        text = record["text"]
        if not isinstance(text, str):
            raise DataError(f'{name}, line {position + 1}: "text" is {json.dumps(text)[:40]}, not a string')
        yield position + 1, "" if text.isspace() else text


def _text_lines(name: str, start: int, every: int, offset: int, closing: threading.Event) -> Texts:
    """One document a line, as `datasets` reads text."""
    for position, line in _lines(name, start, every, offset, closing):
        try:
            text = line.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{name}, line {position + 1}: not UTF-8 text ({error.reason})") from error
        yield position + 1, "" if text.isspace() else text


def _lines(name: str, start: int, every: int, offset: int, closing: threading.Event) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 0, line) of the lines asked for. Blank lines are not counted as documents: in many files
    every second line is blank, and two streams would get all or nothing."""
    position, documents = -1, 0
    with io.BufferedReader(RemoteFile(name, closing)) if is_url(name) else Path(name).open("rb") as file:
        lines: Iterable[bytes] = gzip.GzipFile(fileobj=file) if _path(name).endswith(".gz") else file
        try:
            for position, line in enumerate(lines):
                if line.isspace():
                    continue
                if position >= start and documents % every == offset:
                    yield position, line
                documents += 1
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{name}: the gzip stream is broken after line {position + 1} ({error})") from error
    if documents == 0:
        raise DataError(f"{name} holds no document")


def _parquet_rows(
    name: str, start: int, every: int, offset: int, closing: threading.Event
) -> Iterator[tuple[int, str]]:
    try:
        with pq.ParquetFile(name) as file:
            _check_text_column(name, file)
            for position, text in _parquet_texts(file, start):
                if position % every != offset:
                    continue
                if text is None:
                    raise DataError(f'{name}, row {position + 1}: "text" is null, not a string')
                yield position + 1, "" if text.isspace() else text
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's error: pyarrow's own have no errno
            raise
        raise DataError(f"{name}: not a readable Parquet file ({first_line(error)})") from error


def _check_text_column(name: str, file: pq.ParquetFile) -> None:
    columns = file.schema_arrow
    if "text" not in columns.names:
        raise DataError(f'{name}: no column "text" (its columns: {", ".join(columns.names) or "none"})')
    kind = columns.field("text").type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(f'{name}: column "text" is of type {kind}, not string')
    if file.metadata.num_rows == 0:
        raise DataError(f"{name} holds no document")


def _parquet_texts(file: pq.ParquetFile, start: int) -> Iterator[tuple[int, str | None]]:
    """Yield (row from 0, text) from row `start` on. Groups of rows before it are not decompressed."""
    first = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if first + rows > start:
            row = first
            for batch in file.iter_batches(batch_size=1024, row_groups=[group], columns=["text"]):
                texts = batch.column(0).to_pylist()
                yield from ((position, text) for position, text in enumerate(texts, row) if position >= start)
                row += len(texts)
        first += rows


def read_whole(name: str, start: int, every: int, offset: int, closing: threading.Event) -> Texts:
    """A text file that is one document (the builtin addresses)."""
    if start == 0 and offset == 0:
        yield 1, Path(name).read_text(encoding="utf-8")
