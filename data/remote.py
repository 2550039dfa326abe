"""Files over HTTP, read byte for byte once although connections break, and the lists of such files.

The retry is below the decompressor and continues at the byte where the connection broke (docs/data-order.md).
"""

import io
import logging
import re
import threading
import time
from collections.abc import Generator, Iterator
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin

import httpx
from fsspec.spec import AbstractBufferedFile
from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from data.data_errors import DataError, SourceUnavailable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Limits are module constants so that tests can shrink them.
RETRIES = 8  # in a row without a new byte between them; their pauses are about three minutes
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
LONGEST_RETRY_AFTER_SECONDS = 600.0  # that a server may ask for; the hub counts requests over five minutes
CONNECT_SECONDS, READ_SECONDS = 15.0, 30.0  # a stall is READ_SECONDS without a byte
RETRIABLE_STATUS = {408, 425, 429, 500, 502, 503, 504}
PART_BYTES = 1 << 22  # that are read ahead of a file that is read in parts

logger = logging.getLogger("data")

_certificates = cache(httpx.create_ssl_context)  # takes 50 ms, too long to repeat for every shard


class _Transient(Exception):
    """A failure that a retry may cure, not before `seconds` if the server says so."""

    def __init__(self, reason: str, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.seconds = seconds


class _Download:
    """One file of a server, or its bytes from `offset` to `stop`, and how much of it has been read.

    `known` is another download of the same file: this one goes on with what the server has told of it.
    """

    def __init__(self, url: str, offset: int = 0, stop: int | None = None, known: "_Download | None" = None) -> None:
        self.url = url
        self.offset = offset  # of the next byte
        self.stop = stop  # None: the end of the file
        self.size: int | None = known.size if known else None  # of the whole file, once the server has told it
        self._etags: dict[str, str] = known._etags if known else {}  # of the file's content, by the host that gives it
        self.complete = False
        self.failures = 0  # since the last new byte
        self._ended_at: int | None = None  # where the last answer without a length ended

    def request(self, client: httpx.Client) -> Iterator[bytes]:
        """Yield the bytes from `offset` on, by one request.

        Raises _Transient, httpx's errors, SourceUnavailable (also for another content than that of the answers before)
        or, if a server cannot send parts, DataError.
        """
        part = "" if self.stop is None else str(self.stop - 1)
        headers = {"range": f"bytes={self.offset}-{part}"} if self.offset or part else {}
        with client.stream("GET", self.url, headers=headers) as response:
            if response.status_code in RETRIABLE_STATUS:
                raise _Transient(f"HTTP {response.status_code}", _retry_after(response))
            if response.status_code == 416 and self.size is None:
                self.complete, self.size = True, self.offset  # a file of unknown length that ends exactly there
                return
            if response.status_code == 416 and self.size is not None and self.offset < self.size:
                raise SourceUnavailable(f"{self.url} changed while it was read ({self.size} bytes, now fewer)")
            if response.status_code == 200 and part:
                raise DataError(f"{self.url}: the server sends whole files only, not the parts that Parquet is read in")
            skip, size = _extent(self.url, response, self.offset)
            self._require_unchanged(response, size)
            self.size = size if self.size is None else self.size
            end = self._end()
            for chunk in response.iter_raw():
                fresh = chunk[skip : None if end is None else skip + end - self.offset]
                skip = max(skip - len(chunk), 0)
                if fresh:
                    self.offset, self.failures = self.offset + len(fresh), 0
                    yield fresh
                elif self.offset == end:
                    break  # the server sends more than it was asked for
        if end is not None and self.offset < end:
            raise _Transient(f"the body ended at byte {self.offset} of {end}")
        # Without a length, the file is complete when two answers end at the same byte.
        self.complete = end is not None or self.offset == self._ended_at
        self._ended_at = self.offset

    def _require_unchanged(self, response: httpx.Response, size: int | None) -> None:
        """Raise SourceUnavailable if an answer is of another content than those before it."""
        if self.size is not None and size is not None and size != self.size:
            raise SourceUnavailable(f"{self.url} changed while it was read ({self.size} bytes, now {size})")
        etag, host = response.headers.get("etag", ""), response.url.host  # hosts of one mirror may differ in it
        if etag.startswith('"') and self._etags.setdefault(host, etag) != etag:  # a weak one, W/..., says less
            raise SourceUnavailable(
                f"{self.url} changed while it was read (its ETag was {self._etags[host]}, now {etag})"
            )

    def _end(self) -> int | None:
        """The offset after the last byte that is wanted; None if it is not known yet."""
        return min((end for end in (self.stop, self.size) if end is not None), default=None)


def fetch(url: str, closing: threading.Event) -> Generator[bytes, None, None]:
    """Yield the bytes of `url`, each exactly once and in order.

    Dropped connections, time-outs, stalls, 5xx, 429 and bodies that end early are retried with exponential backoff, or
    when the server's Retry-After says so, and logged. A retry continues by a Range request; if the server ignores it,
    the bytes before are skipped. `closing` ends a pause.

    Raises:
        DataError: `url` is not a URL.
        SourceUnavailable: an answer that no retry cures (404, 403 ...), or RETRIES retries without a new byte.
    """
    with _client(url) as client:
        yield from _bytes(_Download(url), client, closing)


def _client(url: str) -> httpx.Client:
    """A client for one file. The hub's token goes to the hub alone; httpx drops it on a redirect to another host."""
    headers = {"accept-encoding": "identity"}  # not compressed on the way: offsets are those of the stored bytes
    if url.startswith(constants.ENDPOINT.rstrip("/") + "/"):
        headers = build_hf_headers() | headers
    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    return httpx.Client(headers=headers, timeout=timeout, verify=_certificates(), follow_redirects=True)


def _bytes(download: _Download, client: httpx.Client, closing: threading.Event) -> Generator[bytes, None, None]:
    """Yield the bytes of a download, retried as `fetch` says."""
    while not download.complete:
        try:
            yield from download.request(client)
        except httpx.InvalidURL as error:
            raise DataError(f"{download.url} is no URL ({error})") from error
        except (httpx.HTTPError, _Transient) as error:
            _pause(download, error, closing)


def _pause(download: _Download, error: Exception, closing: threading.Event) -> None:
    """Wait before the next retry. Raises SourceUnavailable when there is none left, or when `closing` is set."""
    url = download.url
    download.failures += 1
    reason = f"{type(error).__name__} {error}".strip() if isinstance(error, httpx.HTTPError) else str(error)
    if download.failures > RETRIES:
        raise SourceUnavailable(f"{url}: gave up after {RETRIES} retries ({reason})") from error
    seconds = min(FIRST_PAUSE_SECONDS * 2 ** (download.failures - 1), LONGEST_PAUSE_SECONDS)
    if isinstance(error, _Transient):
        seconds = max(seconds, error.seconds)
    logger.warning(
        "%s: %s; retry %d of %d at byte %d in %.3g s",
        url,
        reason,
        download.failures,
        RETRIES,
        download.offset,
        seconds,
    )
    if closing.wait(seconds):
        raise SourceUnavailable(f"{url}: closed while waiting for a retry") from error


def _retry_after(response: httpx.Response) -> float:
    """The seconds for which a server asks to be left alone, within bounds; 0 if it does not."""
    text = response.headers.get("retry-after", "")
    try:
        seconds = float(text) if text.isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_SECONDS)


def _extent(url: str, response: httpx.Response, offset: int) -> tuple[int, int | None]:
    """How many bytes of this body come before `offset`, and the size of the whole file if the server tells it."""
    if response.status_code == 200:
        length = response.headers.get("content-length")
        return offset, int(length) if length and length.isdigit() else None
    if response.status_code == 206:
        range_ = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("content-range", ""))
        if range_ and int(range_[1]) <= offset:
            return offset - int(range_[1]), None if range_[2] == "*" else int(range_[2])
        raise SourceUnavailable(f"{url}: the server answers a request for byte {offset} with another range")
    status = response.status_code
    raise SourceUnavailable(f"{url}: the server answers HTTP {status}, which no retry cures", status)


class RemoteFile(io.RawIOBase):
    """`fetch(url, closing)` as a raw binary file, for the decompressor and the line reader."""

    def __init__(self, url: str, closing: threading.Event) -> None:
        self._chunks = fetch(url, closing)
        self._chunk = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        target = memoryview(buffer)
        if not self._chunk:
            self._chunk = memoryview(next(self._chunks, b""))
        count = min(len(target), len(self._chunk))
        target[:count] = self._chunk[:count]
        self._chunk = self._chunk[count:]
        return count

    def close(self) -> None:
        self._chunks.close()
        super().close()


class RemoteParts(AbstractBufferedFile):
    """A file of a server that can be read from any byte, for Parquet. What is read ahead is kept by fsspec.

    Raises:
        DataError, SourceUnavailable: as `fetch`, of all parts together; DataError also for a server that does not send
            parts of files.
    """

    def __init__(self, url: str, closing: threading.Event) -> None:
        self._client, self._closing = _client(url), closing
        magic = _Download(url, 0, 4)  # Parquet begins with four known bytes; the answer tells the size of the file
        for _ in _bytes(magic, self._client, closing):
            pass
        self._magic = magic
        if magic.size is None:
            raise DataError(f"{url}: the server does not tell how long the file is, and Parquet is read from its end")
        super().__init__(None, url, block_size=PART_BYTES, size=magic.size)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return b"".join(_bytes(_Download(self.path, start, end, self._magic), self._client, self._closing))

    def close(self) -> None:
        self._client.close()
        super().close()


def expand_url(pattern: str) -> list[str]:
    """The URLs that a pattern names, in order; empty if nothing matches.

    `{00000..00015}` is a range of numbers. `c4-train.*-of-00016.json.gz` is all 16 shards, by its own number. Any other
    `*` is matched against the links of the folder's index page.

    Raises:
        SourceUnavailable: a folder's index page is needed and cannot be fetched.
    """
    if braces := re.search(r"\{(\d+)\.\.(\d+)\}", pattern):
        first, last = braces.groups()
        numbers = (str(n).zfill(len(first)) for n in range(int(first), int(last) + 1))
        return [url for n in numbers for url in expand_url(pattern[: braces.start()] + n + pattern[braces.end() :])]
    if "*" not in pattern:
        return [pattern]
    if shards := re.search(r"\*-of-(\d+)", pattern):
        count = shards[1]
        names = (str(n).zfill(len(count)) for n in range(int(count)))
        return [url for n in names for url in expand_url(pattern.replace("*-of-", f"{n}-of-", 1))]
    folder, name = pattern.rsplit("/", 1)
    page = b"".join(fetch(folder + "/", threading.Event())).decode("utf-8", "replace")
    links = {urljoin(folder + "/", link) for link in re.findall(r"href=[\"']?([^\"' >]+)", page)}
    plain, name = unquote(folder) + "/", unquote(name)  # only the name is a pattern
    inside = (link for link in links if unquote(link).startswith(plain))
    return sorted(link for link in inside if fnmatchcase(unquote(link).removeprefix(plain), name))
