"""Which files a dataset on the hub has: its configurations and splits, pinned to one revision.

`datasets` knows the rules (the README's `configs`, names of files and folders that stand for splits); the files are
read by `data.remote`. The answers that decide which files are chosen are fetched with its retries: `datasets` takes a
README that could not be fetched for one that is not there, and then picks other files.
"""

import json
import logging
import posixpath
import re
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote, unquote

import httpx
from fsspec.core import has_magic
from huggingface_hub import DatasetCard, HfFileSystem, constants, hf_hub_url, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]
from huggingface_hub.utils._http import default_client_factory

from configs.messages import first_line, nearest
from data import remote
from data.data_errors import DataError, SourceUnavailable
from data.files import FORMATS, SUFFIXES, kind_of
from data.remote import RETRIABLE_STATUS, fetch

HUB_SECONDS = 20.0  # for the hub to answer at all
CARDS = ("README.md", ".huggingface.yaml")  # where a dataset describes its configurations, the last one wins
VALIDATION = "validation"
# A revision has no slash that is not escaped, but for those of the hub's own references.
FILE = re.compile(r"hf://datasets/([^/@]+)/([^/@]+)(?:@(refs/(?:convert|pr)/[^/]+|[^/]*))?/(.+)")
PATTERN = re.compile(r"\*|\{\d+\.\.\d+\}")

logger = logging.getLogger("data")


@dataclass(frozen=True)
class HubFile:
    """A file of a dataset: where it is fetched, and what tells its content from any other."""

    url: str
    identity: str  # path in the dataset and hash of the content


@dataclass(frozen=True)
class HubDataset:
    """One configuration of a dataset at one revision."""

    setting: str  # that names it: key=value
    name: str
    revision: str
    folder: str  # that the patterns start from, within the dataset
    patterns: dict[str, list[str]]  # of the files of each split
    described: bool  # the patterns are the dataset's own, not guessed from names

    @property
    def splits(self) -> str:
        """The names of the splits, for a sentence."""
        return ", ".join(self.patterns) or "none"

    def files(self, split: str) -> tuple[HubFile, ...]:
        """The files of a split, each once, in the order of `datasets`.

        Raises:
            DataError: there is no such split, or it has no file of a format that is read.
            SourceUnavailable: the hub's listing cannot be fetched.
        """
        if split not in self.patterns:
            hint = nearest(split, list(self.patterns))
            raise DataError(f"{self.setting} has no split {split!r}; it has {self.splits}{hint}")
        try:
            paths = self._paths(split)
            if not self.described:
                paths = _of_the_commonest_kind(paths)
            identities = self._identities(paths)
        except Exception as error:
            raise _refusal(self.setting, error) from error
        if not paths:
            raise DataError(f"{self.setting}: split {split!r} has no file that is read (formats: {FORMATS})")
        return tuple(HubFile(self._url(path), identities[path]) for path in paths)

    def _paths(self, split: str) -> list[str]:
        from datasets.data_files import resolve_pattern  # slow to import and only needed here

        root = f"hf://datasets/{self.name}@{self.revision}/"
        base = posixpath.join(root, self.folder).rstrip("/")
        paths: dict[str, None] = {}
        for pattern in self.patterns[split]:
            try:
                found = resolve_pattern(pattern, base, allowed_extensions=list(SUFFIXES))
            except FileNotFoundError:
                if not has_magic(pattern):
                    raise
                continue
            if outside := [path for path in found if not path.startswith(root)]:
                raise DataError(f"{self.setting}: {outside[0]} is outside the dataset; name it by data.source=files")
            paths |= dict.fromkeys(path.removeprefix(root) for path in found)
        return list(paths)

    def _identities(self, paths: list[str]) -> dict[str, str]:
        hub, root = HfFileSystem(endpoint=constants.ENDPOINT), f"datasets/{self.name}@{self.revision}"
        blobs: dict[str, str] = {}
        for folder in dict.fromkeys(posixpath.dirname(path) for path in paths):
            listed: list[Any] = hub.ls(posixpath.join(root, folder).rstrip("/"), detail=True)
            blobs |= {entry["name"]: entry.get("blob_id", "") for entry in listed}
        return {path: f"{path} {blobs[f'{root}/{path}']}" for path in paths}

    def _url(self, path: str) -> str:
        return hf_hub_url(self.name, path, repo_type="dataset", revision=self.revision, endpoint=constants.ENDPOINT)


def open_dataset(key: str, path: str, config: str | None, *, preferred: str | None = None) -> HubDataset:
    """The dataset OWNER/NAME[@REVISION] that the setting `key` names, at the revision that is there now.

    In a process a dataset is asked for once, so that training and evaluation see one revision.

    Args:
        config: its configuration; None: `preferred` if there is one, otherwise the only or default one.

    Raises:
        DataError: the hub cannot be reached, or there is no such dataset or configuration.
        SourceUnavailable: the hub stops answering.
    """
    return _open_dataset(constants.ENDPOINT, key, path, config, preferred)


@cache
def _open_dataset(endpoint: str, key: str, path: str, config: str | None, preferred: str | None) -> HubDataset:
    from datasets.data_files import get_data_patterns, sanitize_patterns  # slow to import and only needed here

    setting = f"{key}={path}"
    name, _, asked = path.partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise DataError(f"{setting} is no dataset of the hub; name one as OWNER/NAME or OWNER/NAME@REVISION")
    require_hub(setting, f"{key}=FOLDER (or http://...) with C4's shards")
    set_client_factory(_impatient_client)
    try:
        at = f"/revision/{quote(unquote(asked), safe='')}" if asked else ""
        revision = _revision(setting, f"{endpoint}/api/datasets/{name}{at}")
        configs = _configs(name, revision)
        chosen = _config(setting, configs, config, preferred)
        folder = chosen.get("data_dir") or ""
        described = chosen.get("data_files")
        base = posixpath.join(f"hf://datasets/{name}@{revision}", folder).rstrip("/")
        if described is None:
            _refuse_program(setting, name, revision)
        found = get_data_patterns(base) if described is None else sanitize_patterns(described)
        patterns = {str(split): files for split, files in found.items()}  # the library's own names are no texts
    except Exception as error:
        raise _refusal(setting, error) from error
    logger.info("%s: at revision %s", setting, revision)
    return HubDataset(setting, name, revision, folder, patterns, described is not None)


def _impatient_client() -> Any:
    """The hub's own client (httpx2.Client), which by itself waits for a listing that stalls until the end of days."""

    def limit(request: Any) -> None:
        waits = request.extensions["timeout"]
        waits |= {kind: remote.READ_SECONDS for kind in ("connect", "read", "write") if waits.get(kind) is None}

    client = default_client_factory()
    client.event_hooks["request"].append(limit)
    return client


def hub_url(key: str, entry: str) -> str:
    """The URL of hf://datasets/OWNER/NAME[@REVISION]/PATH, which is one file.

    Raises:
        DataError: `entry` has another form, or is a pattern.
    """
    named = FILE.fullmatch(entry)
    if not named:
        raise DataError(f"{key}={entry} is of no form that is read; write hf://datasets/OWNER/NAME[@REVISION]/PATH")
    owner, name, revision, path = named.groups()
    dataset = f"{owner}/{name}"
    if PATTERN.search(path):
        raise DataError(
            f"{key}={entry}: an hf:// name is one file, not a pattern; name each, or set data.source=hub "
            f"data.path={dataset}"
        )
    commit = unquote(revision) if revision else None
    return hf_hub_url(dataset, path, repo_type="dataset", revision=commit, endpoint=constants.ENDPOINT)


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


def _revision(setting: str, url: str) -> str:
    """The commit that is there now."""
    try:
        return str(json.loads(b"".join(fetch(url, threading.Event())))["sha"])
    except SourceUnavailable as error:
        if error.status in (401, 403, 404):
            raise DataError(
                f"{setting}: the hub has no such dataset or revision (HTTP {error.status}), or it is private or gated: "
                "then accept its terms and set HF_TOKEN"
            ) from error
        raise


def _configs(name: str, revision: str) -> dict[str, dict[str, Any]]:
    """What the dataset's cards say of each configuration; empty if there is no card, or it names none."""
    from datasets.utils.metadata import MetadataConfigs

    described: dict[str, Any] = {}
    for card in CARDS:
        url = hf_hub_url(name, card, repo_type="dataset", revision=revision, endpoint=constants.ENDPOINT)
        try:
            text = b"".join(fetch(url, threading.Event())).decode("utf-8", "replace")
        except SourceUnavailable as error:
            if error.status != 404:
                raise
            continue
        front = text if card.endswith(".md") else f"---\n{text.strip()}\n---\n"
        if front.lstrip().startswith("---"):  # otherwise it is a description in words alone
            described |= DatasetCard(front).data.to_dict()
    return dict(MetadataConfigs.from_dataset_card_data(described))


def _config(
    setting: str, configs: dict[str, dict[str, Any]], asked: str | None, preferred: str | None
) -> dict[str, Any]:
    """What is said of the configuration that is asked for. Raises DataError."""
    from datasets.utils.metadata import MetadataConfigs

    if asked is None and preferred in configs:
        asked = preferred
    if asked is None and configs:
        asked = MetadataConfigs(configs).get_default_config_name()
    if asked in (None, "default") and not configs:
        return {}
    names = ", ".join(configs) or "none"
    if asked is None:
        raise DataError(f"{setting} has several configurations; set data.config to one of {names}")
    if asked not in configs:
        hint = nearest(asked, list(configs))
        raise DataError(f"{setting} has no configuration data.config={asked}; it has {names}{hint}")
    return configs[asked]


def _refuse_program(setting: str, name: str, revision: str) -> None:
    """Refuse a dataset that a program of its own loads: the files beside that are not its text. Raises DataError."""
    program = f"{name.rpartition('/')[2]}.py"
    root = f"datasets/{name}@{revision}"
    if f"{root}/{program}" in HfFileSystem(endpoint=constants.ENDPOINT).ls(root, detail=False):
        raise DataError(
            f"{setting} is loaded by a program ({program}), which is not run; name its files by data.source=files"
        )


def _of_the_commonest_kind(paths: Iterable[str]) -> list[str]:
    """The files of the format that most of them have: others are lists and descriptions that lie beside them."""
    paths = list(paths)
    kinds = Counter(kind_of(path) for path in paths)
    return [path for path in paths if kind_of(path) == kinds.most_common(1)[0][0]]


def _refusal(setting: str, error: Exception) -> Exception:
    """The error for users from whatever `datasets`, the hub's client or httpx raise."""
    if isinstance(error, DataError | SourceUnavailable):
        return error
    response = getattr(error, "response", None)
    refused = isinstance(error, HfHubHTTPError) and getattr(response, "status_code", None) not in RETRIABLE_STATUS
    if isinstance(error, HTTPError) and not refused:
        return SourceUnavailable(f"{setting}: the hub does not list its files ({first_line(error)})")
    return DataError(f"{setting}: the hub does not open this dataset ({first_line(error)})")
