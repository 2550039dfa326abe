"""What a run leaves behind in `run.dir`: config.yaml, metrics.jsonl, summary.json, and who may write there.

config.yaml      the resolved config
metrics.jsonl    one object a line, as training goes
summary.json     there only when the run is finished
checkpoints/  model/  curve.png
lock             held by the process that trains
"""

import contextlib
import errno
import fcntl
import json
import logging
import math
import os
import socket
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from configs.messages import one_line
from training.errors import RunFolderError, SaveError
from training.files import free_bytes, in_words, write_atomically

log = logging.getLogger(__name__)


class RunFolder:
    """The paths of a run and, inside `with`, the right to write there.

    Entering creates the folder and locks it; the kernel drops the lock with the process, however that ends.
    Raises RunFolderError with one sentence if the folder cannot be made, written or locked.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.summary = path / "summary.json"
        self.curve = path / "curve.png"
        self.model = path / "model"
        self.checkpoints = path / "checkpoints"

    def __enter__(self) -> Self:
        with self._refusing():
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except FileExistsError:
                raise RunFolderError(f"run.dir: {self.path} is a file, not a folder") from None
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._take_lock()
            except BaseException:
                os.close(self._lock)
                raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._lock, 200, 0).decode(errors="replace").strip()
            raise RunFolderError(
                f"run.dir: another run ({owner}) is training in {self.path}; "
                "wait for its end or give this one a run.dir of its own"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            log.warning("the file system of %s has no locks: do not start a second run there", self.path)
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def require_space(self, needed: int) -> None:
        """Refuse, before any work is done, a disk that cannot take `needed` bytes: those of one checkpoint."""
        with self._refusing():
            free = free_bytes(self.path)
        if free < needed:
            raise RunFolderError(
                f"run.dir: a checkpoint takes {in_words(needed)}, but only {in_words(free)} are free in {self.path}"
            )

    def read_config(self) -> dict[str, Any] | None:
        """The config this folder was last started with, None in a new one."""
        with self._refusing():
            try:
                return yaml.safe_load(self.config.read_text())
            except FileNotFoundError:
                return None
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise RunFolderError(f"run.dir: {self.config} is not readable: {one_line(error)}") from error

    def write_config(self, config: dict[str, Any]) -> None:
        """Put the resolved config, plain values only, into config.yaml."""
        with self._refusing():
            write_atomically(self.config, yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())

    def read_summary(self) -> dict[str, Any] | None:
        """The summary if the run in this folder is finished, else None."""
        try:
            return json.loads(self.summary.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s is not readable (%s): the run counts as unfinished", self.summary, error)
            return None

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Declare the run finished. Raises SaveError."""
        try:
            write_atomically(self.summary, (json.dumps(_plain(summary), indent=2, allow_nan=False) + "\n").encode())
        except OSError as error:
            raise SaveError(f"cannot write {self.summary}: {error.strerror}") from error

    @contextlib.contextmanager
    def _refusing(self):
        try:
            yield
        except OSError as error:
            raise RunFolderError(f"run.dir: cannot use {self.path}: {error.strerror}") from error


class MetricsLog:
    """metrics.jsonl: a row is in the file when `write` returns, in order, never half of one.

    A full or failing disk does not end the run: rows wait in memory and follow when there is room again.

    Args:
        path: the file.
        resumed_step: the step of the checkpoint the run resumes from; later rows, and torn ones, are dropped
            because those steps are trained again. None = a run from the beginning: all are.
        evaluated_step: the step of the last evaluation that the checkpoint knows of; later ones are made again.

    Attributes:
        evaluations: the rows of kind "eval" so far, those from before the resume included.
    """

    def __init__(self, path: Path, resumed_step: int | None = None, evaluated_step: int | None = None):
        self._path = path
        self._pending: deque[bytes] = deque()
        self._failing = False
        self.evaluations: list[dict[str, Any]] = []
        try:
            before = path.read_bytes() if path.exists() else b""
            kept = b""
            if resumed_step is not None:
                evaluated = resumed_step if evaluated_step is None else evaluated_step
                lines = [
                    (line, row)
                    for line, row in _rows(before)
                    if row["step"] <= (evaluated if row["kind"] == "eval" else resumed_step)
                ]
                kept = b"".join(line for line, _ in lines)
                self.evaluations = [row for _, row in lines if row["kind"] == "eval"]
            if kept != before:
                write_atomically(path, kept)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunFolderError(f"run.dir: cannot write {path}: {error.strerror}") from error
        self._size = len(kept)

    def write(self, row: dict[str, Any]) -> None:
        """Append `row`: plain values, with "kind" and "step". Numbers that are not finite become null."""
        row = _plain(row)
        if row["kind"] == "eval":
            self.evaluations.append(row)
        self._pending.append((json.dumps(row, allow_nan=False) + "\n").encode())
        try:
            self._flush()
        except OSError as error:
            if not self._failing:
                log.warning("cannot write %s: %s; training goes on and the rows are kept", self._path, error.strerror)
            self._failing = True

    def sync(self) -> None:
        """Return when every row is on the disk. To be called before a checkpoint, which must not be ahead of
        the metrics, or a resume from it would leave a gap. Raises SaveError."""
        try:
            self._flush()
            os.fsync(self._file)
        except OSError as error:
            raise SaveError(
                f"cannot write {self._path}: {error.strerror} (rows waiting: {len(self._pending)})"
            ) from error

    def close(self) -> None:
        """Write what waits and close the file. Raises SaveError if rows are lost."""
        try:
            self.sync()
        finally:
            os.close(self._file)

    def _flush(self) -> None:
        try:
            while self._pending:
                line, end = self._pending[0], self._size
                while line:  # a disk that fills up takes a part of the line first
                    written = os.pwrite(self._file, line, end)
                    line, end = line[written:], end + written
                self._size = end
                self._pending.popleft()
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        if self._failing:
            log.warning("%s is complete again", self._path)
            self._failing = False


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, whole ones only. Raises OSError."""
    return [row for _, row in _rows(path.read_bytes())]


def _rows(data: bytes) -> Iterable[tuple[bytes, dict[str, Any]]]:
    """Each whole line, newline included, with its row."""
    for line in data.splitlines(keepends=True):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            if line.endswith(b"\n") and isinstance(row["step"], int) and row["kind"]:
                yield line, row


@dataclass(frozen=True)
class Reference:
    """The finished run that another is compared with, usually Adam's.

    final_loss: nats per token on the evaluation set after its last step; tokens: targets it was trained on.
    """

    name: str
    final_loss: float
    tokens: int

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a run folder or its summary.json. Raises ValueError that names `run.reference`."""
        file = path / "summary.json" if path.is_dir() else path
        try:
            summary = json.loads(file.read_text())
            return cls(str(summary["name"]), float(summary["final_loss"]), int(summary["tokens"]))
        except OSError as error:
            raise ValueError(
                f"run.reference: cannot read {file} ({error.strerror}); "
                "it must be the folder of a finished run or its summary.json"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"run.reference: {file} is not the summary of a run with a final loss") from error


def effective_tokens_per_second(reference: Reference, evaluations: Iterable[dict[str, Any]]) -> float:
    """The paper's effective throughput: the tokens the reference was trained on, divided by the seconds of
    training this run took to be as good (its first evaluation at or below the reference's final loss); 0.0
    until it is."""
    for row in evaluations:
        if row["loss"] is not None and row["loss"] <= reference.final_loss and row["train_seconds"] > 0:
            return reference.tokens / row["train_seconds"]
    return 0.0


def _plain(value: Any) -> Any:
    """`value` with numbers JSON has no word for (NaN, infinities) as None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
