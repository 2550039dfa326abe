"""metrics.jsonl: the rows of a run, none lost, none twice."""

import contextlib
import json
import logging
import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from training.run.atomic import write_atomically
from training.run.plain_json import finite
from training.run_errors import RunFolderError, SaveError

log = logging.getLogger(__name__)


class MetricsLog:
    """metrics.jsonl: a row is in the file when `write` returns, in order, never half of one.

    A full or failing disk does not end the run: rows wait in memory and follow when there is room again.

    Args:
        path: the file.
        resumed_step: the step of the checkpoint the run resumes from. Later rows, and torn ones, are dropped,
            because those steps are trained again. None for a run from the beginning: all rows are dropped.
        evaluated_step: the step of the last evaluation that the checkpoint knows of. Later ones are dropped too.

    Attributes:
        evaluations: the rows of kind "eval" so far, those from before the resume included.

    Raises RunFolderError if the file cannot be written.
    """

    def __init__(self, path: Path, resumed_step: int | None = None, evaluated_step: int | None = None):
        self._path = path
        self._pending: deque[bytes] = deque()
        self._failing = False
        self.evaluations: list[dict[str, Any]] = []
        try:
            before = path.read_bytes() if path.exists() else b""
            kept = self._rows_to_keep(before, resumed_step, evaluated_step)
            if kept != before:
                write_atomically(path, kept)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunFolderError(f"run.dir: cannot write {path}: {error.strerror}") from error
        self._size = len(kept)

    def _rows_to_keep(self, before: bytes, resumed_step: int | None, evaluated_step: int | None) -> bytes:
        """The lines of `before` up to the steps resumed from; collects the evaluations among them."""
        if resumed_step is None:
            return b""
        last = {"eval": resumed_step if evaluated_step is None else evaluated_step}
        rows = list(_rows(before))
        if damaged := before.count(b"\n") - len(rows):  # a torn line, which a crash leaves, has no end
            log.warning("%s: lines that are no rows of a run, and are dropped: %d", self._path, damaged)
        kept = [(line, row) for line, row in rows if row["step"] <= last.get(row["kind"], resumed_step)]
        self.evaluations = [row for _, row in kept if row["kind"] == "eval"]
        return b"".join(line for line, _ in kept)

    def write(self, row: dict[str, Any]) -> None:
        """Append `row`: plain values, with "kind" and "step". A number that is not finite becomes null."""
        row = finite(row)
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
        """Return when every row is on the disk. Raises SaveError.

        To be called before a checkpoint is saved: a resume from one ahead of the metrics would leave a gap in them.
        """
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
                while line:  # a disk that fills up may take only a part of the line
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
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            row = json.loads(line)
            if line.endswith(b"\n") and isinstance(row["step"], int) and _has_numbers(row):
                yield line, row


def _has_numbers(row: dict[str, Any]) -> bool:
    """Whether `row` has what comparisons and curves read of its kind. Raises KeyError where one is missing."""
    if row["kind"] not in ("train", "eval"):
        return isinstance(row["kind"], str)
    return isinstance(row["loss"], float | int | None) and isinstance(row["train_seconds"], float | int)
