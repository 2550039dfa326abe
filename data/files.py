"""Documents out of files: JSON lines, Parquet and text, plain, gzip or Zstandard, on disk or from a URL.

`datasets` is not used for lines: its readers guess a schema from each ten megabytes, cannot name the broken line, and
resume at tables instead of documents. Parquet is read with pyarrow, as `datasets` does.
"""

import gzip
import io
import json
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from configs.messages import first_line
from data.data_errors import DataError, SourceUnavailable
from data.remote import RemoteFile, RemoteParts

Texts = Iterator[tuple[int, str]]  # the position after a document, and its text
Lines = Iterator[tuple[int, bytes]]  # the number of a line from 0, and the line
# (name, field, start, every, offset, closing), see `reader`
Reader = Callable[[str, str, int, int, int, threading.Event], Texts]

FORMATS = ".json[l][.gz|.zst], .parquet, .txt[.gz|.zst]"
SUFFIXES = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".txt": "text",
    ".text": "text",
    ".parquet": "parquet",
}
PAGES_BYTES = 1 << 20  # of a Parquet column that are held at a time, instead of the whole row group


def is_url(name: str) -> bool:
    """Whether a file is read over HTTP."""
    return name.startswith(("http://", "https://"))


def kind_of(name: str) -> str | None:
    """The kind of a file by its suffix: json, text or parquet; None: no known format."""
    return SUFFIXES.get(Path(_path(name).removesuffix(".gz").removesuffix(".zst")).suffix.lower())


def reader(name: str) -> Reader:
    """The function that reads files with the suffix of `name`.

    Every row (Parquet) and every line that is not blank (JSON, text) is a document; a text of white space alone is
    given as "". Of the documents from position `start` on, the function yields those whose number in the file is
    `offset` modulo `every`, each with the position after it. A position is a line or a row counted from 0. `field` is
    the field or column with the text; a text file has none. `closing` ends waiting for the network.

    Raises:
        DataError: the suffix is of no known format. From the function: a file without a document, a compressed stream
            that breaks off, a broken JSON line, a text that is missing or not a string (each with file and line).
        SourceUnavailable: from the function, if a URL cannot be fetched (see `data.remote.fetch`).
    """
    kind = kind_of(name)
    if kind is None:
        raise DataError(f"{name}: this format is not read (formats: {FORMATS})")
    return {"json": _json_lines, "text": _text_lines, "parquet": _parquet_rows}[kind]


def _path(name: str) -> str:
    """The part of a file's name or URL that ends in its suffix."""
    return urlsplit(name).path if is_url(name) else name


def _json_lines(name: str, field: str, start: int, every: int, offset: int, closing: threading.Event) -> Texts:
    for position, line in _lines(name, start, every, offset, closing):
        try:
            record = _object(line)
        except RecursionError as error:
            raise DataError(f"{name}, line {position + 1}: not readable JSON (nested too deeply)") from error
        except ValueError as error:  # broken JSON, or bytes that are not UTF-8
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise DataError(f"{name}, line {position + 1}: not valid JSON ({reason})") from error
        if not isinstance(record, dict) or field not in record:
            found = f"its fields: {', '.join(record) or 'none'}" if isinstance(record, dict) else "it is no object"
            raise DataError(f'{name}, line {position + 1}: no field "{field}" ({found}); see data.text_field')
        text = record[field]
        if not isinstance(text, str):
            raise DataError(f'{name}, line {position + 1}: "{field}" is {json.dumps(text)[:40]}, not a string')
        yield position + 1, "" if text.isspace() else text


def _object(line: bytes) -> Any:
    """The value of a JSON line. Raises ValueError and RecursionError."""
    try:
        return json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:  # of an integer with more digits than Python reads
        return json.loads(line, parse_int=float)


def _text_lines(name: str, field: str, start: int, every: int, offset: int, closing: threading.Event) -> Texts:
    """One document a line, as `datasets` reads text."""
    for position, line in _lines(name, start, every, offset, closing):
        try:
            text = line.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{name}, line {position + 1}: not UTF-8 text ({error.reason})") from error
        yield position + 1, "" if text.isspace() else text


def _lines(name: str, start: int, every: int, offset: int, closing: threading.Event) -> Lines:
    """Yield the lines asked for. Blank lines are not counted as documents: in many files every second line is blank,
    and two streams would get all or nothing."""
    position, documents = -1, 0
    with io.BufferedReader(RemoteFile(name, closing)) if is_url(name) else Path(name).open("rb") as file:
        try:
            for position, line in enumerate(_decompressed(name, file)):
                if line.isspace():
                    continue
                if position >= start and documents % every == offset:
                    yield position, line
                documents += 1
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{name}: the gzip stream is broken after line {position + 1} ({error})") from error
        except OSError as error:
            if isinstance(error, SourceUnavailable) or error.errno is not None:  # pyarrow's own have no errno
                raise
            raise DataError(f"{name}: the zstd stream is broken after line {position + 1} ({error})") from error
    if documents == 0:
        raise DataError(f"{name} holds no document")


def _decompressed(name: str, file: BinaryIO) -> Iterable[bytes]:
    """The lines of a file. A stream may consist of several, one after the other, as `pigz` and `pzstd` write."""
    if _path(name).endswith(".gz"):
        return gzip.GzipFile(fileobj=file)
    if _path(name).endswith(".zst"):
        return io.BufferedReader(pa.CompressedInputStream(file, "zstd"))
    return file


def _parquet_rows(name: str, field: str, start: int, every: int, offset: int, closing: threading.Event) -> Texts:
    try:
        with (
            RemoteParts(name, closing) if is_url(name) else pa.OSFile(os.fsencode(name)) as content,
            pq.ParquetFile(content, buffer_size=PAGES_BYTES, pre_buffer=False) as file,
        ):
            _check_text_column(name, field, file)
            for position, text in _parquet_texts(file, field, start):
                if position % every != offset:
                    continue
                if text is None:
                    raise DataError(f'{name}, row {position + 1}: "{field}" is null, not a string')
                yield position + 1, "" if text.isspace() else text
    except SourceUnavailable:
        raise
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's error: pyarrow's own have no errno
            raise
        raise DataError(f"{name}: not a readable Parquet file ({first_line(error)})") from error


def _check_text_column(name: str, field: str, file: pq.ParquetFile) -> None:
    columns = file.schema_arrow
    if columns.names.count(field) > 1:
        raise DataError(
            f'{name}: {columns.names.count(field)} columns have the name "{field}"; data.text_field needs one'
        )
    if field not in columns.names:
        found = ", ".join(columns.names) or "none"
        raise DataError(f'{name}: no column "{field}" (its columns: {found}); see data.text_field')
    if not _is_text(columns.field(field).type):
        raise DataError(f'{name}: column "{field}" is of type {columns.field(field).type}, not string')
    if file.metadata.num_rows == 0:
        raise DataError(f"{name} holds no document")


def _is_text(kind: Any) -> bool:
    """Whether a column of this type (pyarrow.DataType) holds strings, in whatever encoding."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _parquet_texts(file: pq.ParquetFile, field: str, start: int) -> Iterator[tuple[int, str | None]]:
    """Yield (row from 0, text) from row `start` on. Groups of rows before it are not fetched nor decompressed."""
    first = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if first + rows > start:
            row = first
            for batch in file.iter_batches(batch_size=1024, row_groups=[group], columns=[field], use_threads=False):
                texts = batch.column(field).to_pylist()  # a field "b" of a column "a" comes along with a column "a.b"
                yield from ((position, text) for position, text in enumerate(texts, row) if position >= start)
                row += len(texts)
        first += rows


def read_whole(name: str, field: str, start: int, every: int, offset: int, closing: threading.Event) -> Texts:
    """A text file that is one document (the builtin addresses)."""
    if start == 0 and offset == 0:
        yield 1, Path(name).read_text(encoding="utf-8")
