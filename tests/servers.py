"""Servers that misbehave: a mirror of files, and a hub with datasets whose files lie on another host."""

import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest


class Mirror(ThreadingHTTPServer):
    """Serves `folder`. `faults[name]` is a list of what happens to the next requests for that file, in turn.

    A fault is a status code, (status code, seconds of its Retry-After), or (kind, bytes): after so many bytes of the
    answer, "reset" the connection, "stall", or end the body ("cut"; "cut silently": without a Content-Length).
    With `etags` a file's content is told by an ETag.
    """

    etags = False

    daemon_threads = True

    def __init__(self, folder: Path, ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder, self.ranges, self.faults, self.requests, self.tokens = folder, ranges, {}, [], set()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.ended = threading.Event()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        pass  # clients hang up in these tests

    def fault(self, name: str):
        faults = self.faults.get(name, [])
        return faults.pop(0) if faults else None


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        path = server.folder / unquote(urlsplit(self.path).path).lstrip("/")
        server.requests.append(path.name)
        server.tokens.add(self.headers.get("authorization"))
        if path.is_dir():
            page = "".join(f'<a href="{quote(p.name)}">{p.name}</a>' for p in path.iterdir())
            return self.send(page.encode(), None)
        fault = server.fault(path.name)
        if self.refuse(fault):
            return None
        return self.send(path.read_bytes(), fault) if path.exists() else self.send_error(404)

    def refuse(self, fault) -> bool:
        """Answer with the status of a fault, if it is one."""
        status, *seconds = fault if isinstance(fault, tuple) else (fault,)
        if not isinstance(status, int):
            return False
        self.send_response(status)
        for wait in seconds:
            self.send_header("Retry-After", str(wait))
        self.send_header("Content-Length", "0")
        self.end_headers()
        return True

    def send(self, data: bytes, fault):
        start, end = 0, len(data)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", "")) if self.server.ranges else None
        if asked:
            start, end = int(asked[1]), min(int(asked[2] or end) + 1, end)
        if start >= len(data):
            return self.send_error(416)
        what, byte = fault or (None, None)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        if what != "cut silently":
            self.send_header("Content-Length", str(end - start))
        if self.server.etags:
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.close_connection = what is not None
        self.end_headers()
        self.wfile.write(data[start:end][:byte])
        self.wfile.flush()
        if what == "stall":
            self.server.ended.wait(5)
        if what == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()
        return None


class Hub(Mirror):
    """The API of a hub for datasets. `commit` puts a folder there; the mirror `files`, on another host, serves files.

    Faults of the API are those of "revision", "tree" and of the name of a file that is resolved; those of a file's
    bytes are `files.faults`.
    """

    PAGE = 3  # entries of a listing's page

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.RequestHandlerClass = HubAnswer
        self.files = Mirror(folder)
        self.datasets: dict[str, dict[str, Path]] = {}  # the folder of each revision, oldest first

    def __enter__(self):
        self.files.__enter__()
        return super().__enter__()

    def __exit__(self, *_):
        super().__exit__()
        self.files.__exit__()

    def commit(self, name: str, folder: Path) -> str:
        """Make `folder`, which lies in that of the server, the newest revision of a dataset."""
        content = b"".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())
        revision = hashlib.sha1(str(folder).encode() + content).hexdigest()
        self.datasets.setdefault(name, {})[revision] = folder
        return revision


class HubAnswer(Answer):
    API = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/(.*))?)?")
    FILE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.server.requests.append(path)
        api, resolved = self.API.fullmatch(path), self.FILE.fullmatch(path)
        if not (api or resolved):  # the library asks for more than datasets
            return self.send_error(404)
        self.server.tokens.add(self.headers.get("authorization"))
        if api:
            return self.describe(*api.groups(), parse_qs(url.query))
        name, revision, file = resolved.groups()
        folder = self.folder_of(name, revision)
        if folder is None or not (folder / file).is_file():
            return self.send_error(404)
        if self.refuse(self.server.fault(Path(file).name)):
            return None
        self.send_response(302)
        place = (folder / file).relative_to(self.server.folder)
        self.send_header("Location", f"http://localhost:{self.server.files.server_port}/{place}")
        self.send_header("Content-Length", "0")
        return self.end_headers()

    def folder_of(self, name: str, revision: str | None) -> Path | None:
        revisions = self.server.datasets.get(name, {})
        return revisions.get(list(revisions)[-1] if revisions and revision in (None, "main") else revision)

    def describe(self, name: str, what: str | None, revision: str | None, inside: str | None, query):
        folder = self.folder_of(name, revision)
        fault = self.server.fault(what or "revision")
        if self.refuse(fault):
            return None
        if fault:
            self.close_connection = True
            return self.server.ended.wait(5)
        if folder is None or (inside and not (folder / inside).is_dir()):
            self.send_response(404)
            code = "EntryNotFound" if folder else "RepoNotFound"
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if what != "tree":
            sha = next(key for key, value in self.server.datasets[name].items() if value == folder)
            return self.send(json.dumps({"id": name, "sha": sha, "siblings": []}).encode(), None)
        recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        found = sorted((folder / (inside or "")).glob("**/*" if recursive else "*"))
        first = int(query.get("cursor", ["0"])[0])
        page = json.dumps([entry(p, folder) for p in found[first : first + Hub.PAGE]]).encode()
        self.send_response(200)
        if first + Hub.PAGE < len(found):
            following = f"{self.server.url}{urlsplit(self.path).path}?recursive={recursive}&cursor={first + Hub.PAGE}"
            self.send_header("Link", f'<{following}>; rel="next"')
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        return self.wfile.write(page)


def entry(path: Path, folder: Path) -> dict:
    """A file or folder as the hub lists it."""
    place = str(path.relative_to(folder))
    if path.is_dir():
        return {"type": "directory", "oid": hashlib.sha1(place.encode()).hexdigest(), "size": 0, "path": place}
    content = path.read_bytes()
    return {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": place}


def use_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process ask `hub`; a process that is started needs HF_ENDPOINT."""
    import datasets
    from huggingface_hub import constants

    files = hub.url + "/{repo_id}/resolve/{revision}/{filename}"  # made of the endpoint when the library is imported
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
