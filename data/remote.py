"""Files over HTTP, read as one unbroken run of bytes whatever the network does, and the lists of such files.

`datasets` finds the files of a hub dataset but does not read them: its retry calls a decompressor's `read` a second
time, and what the failed call had already taken from the network is gone (measured with datasets 5.2: one dropped
connection, 40,945 of 3,000,000 bytes lost, unnoticed). Here the retry lies below the decompressor and continues at the
byte where the connection broke, so no document is lost or repeated.
"""

import io
import logging
import re
import threading
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from urllib.parse import unquote, urljoin

import httpx
from huggingface_hub import HfFileSystem, constants
from huggingface_hub.utils import build_hf_headers

from data.errors import DataError, SourceUnavailable

# Limits are module constants so that tests can shrink them.
RETRIES = 8  # failures in a row, without one new byte, that are forgiven: about three minutes of pauses
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
CONNECT_SECONDS, READ_SECONDS = 15.0, 30.0  # no byte for READ_SECONDS is a stall
HUB_SECONDS = 20.0  # to find out whether the hub answers at all
CURABLE_STATUS = {408, 425, 429, 500, 502, 503, 504}

logger = logging.getLogger("data")


_certificates = cache(httpx.create_ssl_context)  # 50 ms, not to be spent on every shard


class _Fault(Exception):
    """An answer that a later request may not give again."""


def fetch(url: str, closing: threading.Event) -> Iterator[bytes]:
    """Yield the bytes of `url`, each exactly once and in order.

    Dropped connections, time-outs, stalls, 5xx and bodies that end early are retried with exponential backoff,
    logged, and resumed by a Range request (where the server ignores it, by skipping what has been read). `closing`
    ends a pause.

    Raises:
        DataError: `url` is none.
        SourceUnavailable: an answer that no retry cures (404, 403 ...), or RETRIES retries without a new byte.
    """
    offset, size, ended_at, failures = 0, None, None, 0
    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    identity = {"accept-encoding": "identity"}  # the bytes as they are stored: offsets must mean the same each time
    token = build_hf_headers() if url.startswith(constants.ENDPOINT) else {}
    headers = token | identity
    with httpx.Client(headers=headers, timeout=timeout, verify=_certificates(), follow_redirects=True) as client:
        while size is None or offset < size:
            try:
                with client.stream("GET", url, headers={"range": f"bytes={offset}-"} if offset else {}) as response:
                    if response.status_code in CURABLE_STATUS:
                        raise _Fault(f"HTTP {response.status_code}")
                    if response.status_code == 416 and size is None:
                        return  # asked for what follows the last byte of a file of unknown length: there is nothing
                    skip, whole = _extent(url, response, offset)
                    if size is not None and whole is not None and whole != size:
                        raise SourceUnavailable(f"{url} changed while it was read ({size} bytes, now {whole})")
                    size = whole if size is None else size
                    for chunk in response.iter_raw():
                        fresh = chunk[skip:]
                        skip -= len(chunk) - len(fresh)
                        if fresh:
                            offset, failures = offset + len(fresh), 0
                            yield fresh
                if size is not None and offset < size:
                    raise _Fault(f"the body ended at byte {offset} of {size}")
                if offset == ended_at:
                    return  # no length was given, and a second answer ends where the first did
                ended_at = offset
            except httpx.InvalidURL as error:
                raise DataError(f"{url} is no URL ({error})") from error
            except (httpx.HTTPError, _Fault) as error:
                failures += 1
                reason = f"{type(error).__name__} {error}".strip() if isinstance(error, httpx.HTTPError) else str(error)
                if failures > RETRIES:
                    raise SourceUnavailable(f"{url}: gave up after {RETRIES} retries ({reason})") from error
                pause = min(FIRST_PAUSE_SECONDS * 2 ** (failures - 1), LONGEST_PAUSE_SECONDS)
                logger.warning(
                    "%s: %s; retry %d of %d at byte %d in %.3g s", url, reason, failures, RETRIES, offset, pause
                )
                if closing.wait(pause):
                    raise SourceUnavailable(f"{url}: closed while waiting for a retry") from error


def _extent(url: str, response: httpx.Response, offset: int) -> tuple[int, int | None]:
    """How many bytes of this body come before `offset`, and the size of the whole file if the server says it."""
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

    def __init__(self, url: str, closing: threading.Event):
        self._chunks = fetch(url, closing)
        self._chunk = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        if not self._chunk:
            self._chunk = memoryview(next(self._chunks, b""))
        count = min(len(buffer), len(self._chunk))
        buffer[:count] = self._chunk[:count]
        self._chunk = self._chunk[count:]
        return count

    def close(self) -> None:
        self._chunks.close()
        super().close()


def expand_url(pattern: str) -> list[str]:
    """The URLs that a pattern names, in order.

    `{00000..00015}` is a range of numbers; `c4-train.*-of-00016.json.gz` says itself which shards there are; any other
    `*` is matched against the links of the folder's index page. Empty if nothing matches.

    Raises:
        SourceUnavailable: a folder's index page is needed and cannot be had.
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
    """Raise DataError, within HUB_SECONDS, unless the hub answers; the message names `setting` and what else to do."""
    reason = []

    def probe() -> None:
        try:
            httpx.head(constants.ENDPOINT, timeout=HUB_SECONDS / 2)
        except httpx.HTTPError as error:
            reason.append(str(error) or type(error).__name__)

    thread = threading.Thread(target=probe, daemon=True)  # a thread, because a name lookup has no time limit of its own
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
    """URLs of the files of one split of a hub dataset, in order, pinned to the revision that is there now.

    `key` is the setting that names it. `datasets` reads the dataset's card and patterns; the configuration is `en`
    (C4's English) where there is one.

    Raises:
        DataError: the hub cannot be reached, the dataset is not there, or it has no such split.
    """
    from datasets import get_dataset_config_names, load_dataset_builder  # slow to import, and only needed here

    require_hub(f"{key}={dataset}", f"{key}=FOLDER (or http://...) with C4's shards")
    try:
        configurations = get_dataset_config_names(dataset)
        builder = load_dataset_builder(dataset, "en" if "en" in configurations else None)
    except Exception as error:  # datasets, the hub's client and httpx each raise their own kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{key}={dataset}: the hub does not open this dataset ({reason})") from error
    splits = builder.config.data_files or {}
    if split not in splits:
        raise DataError(f"{key}={dataset} has no split {split!r}; it has {', '.join(splits) or 'none'}")
    hub = HfFileSystem()
    return [hub.url(str(file)) if str(file).startswith("hf://") else str(file) for file in splits[split]]
