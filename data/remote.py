"""Files over HTTP, read byte for byte once although connections break, and the lists of such files.

`datasets` finds the files of a hub dataset but does not read them, because its retries lose bytes (docs/data-order.md).
Here the retry is below the decompressor and continues at the byte where the connection broke.
"""

import io
import logging
import re
import threading
from collections.abc import Generator, Iterator
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin

import httpx
from huggingface_hub import HfFileSystem, constants
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from configs.messages import first_line
from data.data_errors import DataError, SourceUnavailable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Limits are module constants so that tests can shrink them.
RETRIES = 8  # in a row without a new byte between them; their pauses are about three minutes
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
CONNECT_SECONDS, READ_SECONDS = 15.0, 30.0  # a stall is READ_SECONDS without a byte
HUB_SECONDS = 20.0  # for the hub to answer at all
RETRIABLE_STATUS = {408, 425, 429, 500, 502, 503, 504}

logger = logging.getLogger("data")

_certificates = cache(httpx.create_ssl_context)  # takes 50 ms, too long to repeat for every shard


class _Transient(Exception):
    """A failure that a retry may cure."""


class _Download:
    """One file of a server and how much of it has been read."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.offset = 0  # bytes read
        self.size: int | None = None  # of the file, once the server has told it
        self.complete = False
        self.failures = 0  # since the last new byte
        self._ended_at: int | None = None  # where the last answer without a length ended

    def request(self, client: httpx.Client) -> Iterator[bytes]:
        """Yield the bytes from `offset` on, by one request. Raises _Transient, httpx's errors or SourceUnavailable."""
        headers = {"range": f"bytes={self.offset}-"} if self.offset else {}
        with client.stream("GET", self.url, headers=headers) as response:
            if response.status_code in RETRIABLE_STATUS:
                raise _Transient(f"HTTP {response.status_code}")
            if response.status_code == 416 and self.size is None:
                self.complete = True  # a file of unknown length that ends exactly at `offset`
                return
            skip, size = _extent(self.url, response, self.offset)
            if self.size is not None and size is not None and size != self.size:
                raise SourceUnavailable(f"{self.url} changed while it was read ({self.size} bytes, now {size})")
            self.size = size if self.size is None else self.size
            for chunk in response.iter_raw():
                fresh = chunk[skip:]
                skip -= len(chunk) - len(fresh)
                if fresh:
                    self.offset, self.failures = self.offset + len(fresh), 0
                    yield fresh
        if self.size is not None and self.offset < self.size:
            raise _Transient(f"the body ended at byte {self.offset} of {self.size}")
        # Without a length, the file is complete when two answers end at the same byte.
        self.complete = self.size is not None or self.offset == self._ended_at
        self._ended_at = self.offset


def fetch(url: str, closing: threading.Event) -> Generator[bytes, None, None]:
    """Yield the bytes of `url`, each exactly once and in order.

    Dropped connections, time-outs, stalls, 5xx and bodies that end early are retried with exponential backoff and
    logged. A retry continues by a Range request; if the server ignores it, the bytes before are skipped. `closing`
    ends a pause.

    Raises:
        DataError: `url` is not a URL.
        SourceUnavailable: an answer that no retry cures (404, 403 ...), or RETRIES retries without a new byte.
    """
    download = _Download(url)
    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    identity = {"accept-encoding": "identity"}  # not compressed on the way: offsets are those of the stored bytes
    token = build_hf_headers() if url.startswith(constants.ENDPOINT) else {}
    headers = token | identity
    with httpx.Client(headers=headers, timeout=timeout, verify=_certificates(), follow_redirects=True) as client:
        while not download.complete:
            try:
                yield from download.request(client)
            except httpx.InvalidURL as error:
                raise DataError(f"{url} is no URL ({error})") from error
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
    raise SourceUnavailable(f"{url}: the server answers HTTP {response.status_code}, which no retry cures")


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
    return sorted(link for link in links if fnmatchcase(unquote(link), f"{folder}/{name}"))


def require_hub(setting: str, remedy: str) -> None:
    """Raise DataError within HUB_SECONDS unless the hub answers; the message names `setting` and suggests `remedy`."""
    reason: list[str] = []

    def probe() -> None:
        try:
            httpx.head(constants.ENDPOINT, timeout=HUB_SECONDS / 2)
        except httpx.HTTPError as error:
            reason.append(str(error) or type(error).__name__)

    # In a thread, because the lookup of a host's name has no time limit.
    thread = threading.Thread(target=probe, daemon=True)
    if constants.HF_HUB_OFFLINE:
        reason.append("HF_HUB_OFFLINE is set")
    else:
        thread.start()
        thread.join(HUB_SECONDS)
    if reason or thread.is_alive():
        raise DataError(
            f"{setting} is on the hub, and {constants.ENDPOINT} cannot be reached ({''.join(reason) or 'no answer'}); "
            f"use {remedy}, data.source=files with data.path=..., or data.source=builtin"
        )


def hub_shards(key: str, dataset: str, split: str) -> list[str]:
    """URLs of the files of one split of a hub dataset, in order, pinned to its current revision.

    `key` is the setting that names the dataset. `datasets` reads its card and patterns; the configuration is `en` (C4's
    English) if there is one.

    Raises:
        DataError: the hub cannot be reached, or it has no such dataset or split.
    """
    from datasets import get_dataset_config_names, load_dataset_builder  # slow to import and only needed here

    require_hub(f"{key}={dataset}", f"{key}=FOLDER (or http://...) with C4's shards")
    try:
        configurations = get_dataset_config_names(dataset)
        builder = load_dataset_builder(dataset, "en" if "en" in configurations else None)
    except Exception as error:  # datasets, the hub's client and httpx raise types of their own
        raise DataError(f"{key}={dataset}: the hub does not open this dataset ({first_line(error)})") from error
    splits = builder.config.data_files or {}
    if split not in splits:
        raise DataError(f"{key}={dataset} has no split {split!r}; it has {', '.join(splits) or 'none'}")
    hub = HfFileSystem()
    return [hub.url(str(file)) if str(file).startswith("hf://") else str(file) for file in splits[split]]
