"""Checkpoints that are whole or not there.

A checkpoint is a folder `checkpoints/step_XXXXXXXX/`:

    model.safetensors   weights
    optimizer.pt        `optimizer.state_dict()`: tensors and plain values
    random.pt           random states: tensors and plain values
    streams.json.gz     the cursor of every data stream: its files, blocks and documents
    state.json          step, counters (tokens, seconds, ...), the resolved config, format version
    complete.json       the marker: size and SHA-256 of each file above

It is written to the folder `step_XXXXXXXX.tmp`. Every file and the folder are flushed to the disk, the folder is
renamed, and the marker is written last. So whatever interrupts a save leaves either no marker or a whole checkpoint,
and later damage (truncation, a flipped bit) shows in the checksums. Why SHA-256: docs/distributed.md.

Nothing here unpickles code (`weights_only=True`, safetensors, JSON). Nothing here knows of processes: the caller
gathers the state, one process saves and prunes, and all may read.
"""

import contextlib
import errno
import gzip
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from training.run.atomic import fsync, write_atomically
from training.run.compact import compact, tensors
from training.run.disk import free_bytes, in_words, is_full
from training.run.stored import Stored, open_safetensors, open_torch
from training.run_errors import MachineError, SaveError

FORMAT = 1
MODEL, OPTIMIZER, RANDOM, STREAMS, STATE = FILES = (
    "model.safetensors",
    "optimizer.pt",
    "random.pt",
    "streams.json.gz",
    "state.json",
)
MARKER = "complete.json"
Writers = dict[str, Callable[[Path], object]]  # how each of FILES is written to a path
DISK_ERRORS = (OSError, SafetensorError, RuntimeError)  # what a disk that refuses is raised as

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on the disk: the step it follows, and the counters and config of that moment."""

    path: Path
    step: int
    counters: dict[str, Any]
    config: dict[str, Any]


@dataclass(frozen=True)
class State:
    """The state that `save` was given, value for value; weights and optimizer state are still in their files."""

    model: Stored
    optimizer: Stored
    streams: dict[str, dict]
    random_states: Any


def save(
    folder: Path,
    step: int,
    *,
    model_state: dict[str, Tensor],
    optimizer_state: dict[str, Any],
    streams: dict[str, dict],
    random_states: Any,
    counters: dict[str, Any],
    config: dict[str, Any],
) -> Path:
    """Write the state after update `step` to `folder/step_XXXXXXXX`, verify it there and return the path.

    Tensors may be on any device and be views of larger storages; the files hold the bytes of the views.
    `streams`, `counters` and `config` must be JSON, `optimizer_state` and `random_states` tensors and plain
    values (TypeError otherwise). If there is a whole checkpoint of this step already, it is kept.

    Raises SaveError with one sentence if the disk refuses (full, over quota, broken). Nothing of the attempt
    is left behind, so the caller may go on and try again later. Older checkpoints are not touched, except where the
    disk or a quota has no room for one more: then all but the newest whole one are deleted for it.
    """
    final = folder / f"step_{step:08d}"
    try:
        if final.exists() and fault(final) is None:
            return final
    except OSError as error:
        raise SaveError(
            f"cannot save the checkpoint of step {step}: {final} cannot be read: {error.strerror}; it is untouched"
        ) from error
    model_state = {name: tensor.detach().contiguous() for name, tensor in model_state.items()}
    optimizer_state = compact(optimizer_state)
    random_states = compact(random_states)
    streams_json = json.dumps(streams).encode()
    state_json = json.dumps({"format": FORMAT, "step": step, "counters": counters, "config": config}, indent=1)
    writers: Writers = {
        MODEL: lambda path: save_file(model_state, path, metadata={"format": "pt"}),
        OPTIMIZER: lambda path: _torch_save(optimizer_state, path),
        RANDOM: lambda path: _torch_save(random_states, path),
        STREAMS: lambda path: path.write_bytes(gzip.compress(streams_json, compresslevel=1, mtime=0)),
        STATE: lambda path: path.write_text(state_json),
    }
    needed = sum(tensor.nbytes for tensor in tensors([model_state, optimizer_state]))
    room = f"{in_words(needed)} needed"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        _delete(final)  # a damaged one of the same step
        if (missing := needed - free_bytes(folder)) > 0:
            delete_older(folder, missing)
        free = free_bytes(folder)
        room += f", {in_words(free)} free"
        if free < needed:
            # Refuse while there is a little room left: the metrics and the logs still need it.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            _write(writers, final)
        except DISK_ERRORS as error:
            if not (is_full(error) and delete_older(folder)):  # a quota does not show in the free bytes
                raise
            _write(writers, final)
    except DISK_ERRORS as error:
        raise SaveError(
            f"cannot save the checkpoint of step {step} in {folder}: {_reason(error)} ({room}); "
            "the newest one before it is untouched"
        ) from error
    return final


def _write(writers: Writers, final: Path) -> None:
    """Write every file of a checkpoint, then publish them as `final`. A failed or interrupted one leaves nothing."""
    temporary = final.with_suffix(".tmp")
    try:
        temporary.mkdir()
        for name, write in writers.items():
            write(temporary / name)
        _publish(temporary, final)
    except BaseException:
        _delete(temporary)
        _delete(final)
        raise


def _publish(temporary: Path, final: Path) -> None:
    """Flush the files of `temporary`, rename it to `final`, write the marker and verify all. Raises OSError."""
    for name in FILES:
        fsync(temporary / name)
    fsync(temporary)
    marker = {name: _fingerprint(temporary / name) for name in FILES}
    temporary.rename(final)
    fsync(final.parent)
    write_atomically(final / MARKER, json.dumps(marker, indent=1).encode())
    if reason := fault(final):
        raise OSError(errno.EIO, f"read back wrong: {reason}")


def newest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint in `folder`, None if there is none.

    Every file is read and compared with its checksum. A torn or damaged checkpoint gives a warning that names the
    damage, and the one before is tried. MachineError for one that cannot be read, which may be whole, and ValueError
    for one of another format version.
    """
    for path in _newest_first(folder):
        try:
            reason = fault(path)
        except OSError as error:
            raise MachineError(
                f"cannot read the checkpoint {path}: {error.strerror}; nothing was changed: start again when it can be "
                "read, or move it elsewhere to go on from the one before"
            ) from error
        if reason:
            log.warning("checkpoint %s is damaged and will not be used: %s", path, reason)
        else:
            return read(path)
    return None


def read(path: Path) -> Checkpoint:
    """The checkpoint at `path`, known to be whole (another process may have verified it)."""
    state = json.loads((path / STATE).read_text())
    if state["format"] != FORMAT:
        raise ValueError(f"{path} has checkpoint format {state['format']}, this code reads format {FORMAT}")
    return Checkpoint(path, state["step"], state["counters"], state["config"])


def load(checkpoint: Checkpoint) -> State:
    """Open `checkpoint`. Its weights and optimizer state are read one tensor at a time, by whoever needs them.

    Raises OSError.
    """
    path = checkpoint.path
    return State(
        model=open_safetensors(path / MODEL),
        optimizer=open_torch(path / OPTIMIZER),
        streams=json.loads(gzip.decompress((path / STREAMS).read_bytes())),
        random_states=torch.load(path / RANDOM, map_location="cpu", weights_only=True),
    )


def prune(saved: Path, keep: int = 2) -> None:
    """Keep `saved`, which `save` has just returned, and the `keep - 1` checkpoints before it; delete all others.

    Later ones are deleted too: they are damaged, or belong to a continuation that was given up. The marker of each
    is deleted first, so that an interrupted deletion leaves nothing that looks whole.
    """
    assert keep >= 1 and (saved / MARKER).exists(), saved
    paths = _newest_first(saved.parent)
    older = [path for path in paths[paths.index(saved) + 1 :] if (path / MARKER).exists()]
    for path in paths:
        if path not in [saved, *older[: keep - 1]]:
            _delete(path)


def reclaimable(folder: Path, whole: Path | None) -> int:
    """Bytes that a save gives up where there is no other room: leftovers, and, beside the newest `whole` checkpoint,
    all others. None: there is no whole one, and none is given up."""
    given_up = [*folder.glob("step_*.tmp"), *_beside(folder, whole)]
    return sum(file.stat().st_size for path in given_up if path.is_dir() for file in path.iterdir())


def delete_older(folder: Path, missing: int = 1) -> bool:
    """Delete all checkpoints but the newest whole one, if there is one and that frees `missing` bytes; says whether.

    None is deleted where one cannot be read, because the newest whole one is not known then.
    """
    try:
        whole = next((path for path in _newest_first(folder) if fault(path) is None), None)
    except OSError:
        return False
    if reclaimable(folder, whole) < missing:
        return False
    remove_leftovers(folder)
    for path in _beside(folder, whole):
        _delete(path)
    return True


def _beside(folder: Path, whole: Path | None) -> list[Path]:
    return [] if whole is None else [path for path in _newest_first(folder) if path != whole]


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary folders of saves that were cut short. Only for the process that saves here."""
    for path in folder.glob("step_*.tmp"):
        _delete(path)


def damaged(folder: Path) -> bool:
    """Whether a checkpoint in `folder`, none of which is whole, was whole once: it has its marker."""
    return any((path / MARKER).exists() for path in _newest_first(folder))


def fault(path: Path) -> str | None:
    """The damage of the checkpoint at `path` in a few words; None if it is whole.

    Raises OSError if a file is there and cannot be read: that says nothing of what it holds.
    """
    try:
        marker = json.loads((path / MARKER).read_text())
        for name in FILES:
            size, expected = (path / name).stat().st_size, marker[name]["bytes"]
            if size != expected:
                return f"{name} has {size} bytes instead of {expected}"
            if _fingerprint(path / name) != marker[name]:
                return f"the checksum of {name} differs"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"{MARKER} makes no sense"
    return None


def _torch_save(value: Any, path: Path) -> None:
    with path.open("wb") as file:  # given a path instead, torch.save hides the reason of a failed write
        torch.save(value, file)


def _fingerprint(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _newest_first(folder: Path) -> list[Path]:
    try:  # iterdir, because glob takes a folder that cannot be read for an empty one
        paths = [path for path in folder.iterdir() if re.fullmatch(r"step_\d{8,}", path.name)]
    except FileNotFoundError:
        return []
    return sorted(paths, key=lambda path: int(path.name.removeprefix("step_")), reverse=True)


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):
        (path / MARKER).unlink()
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        log.warning("cannot delete %s", path)


def _reason(error: BaseException) -> str:
    """The operating system's words. torch may hide them behind its own; safetensors has them in its text."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return cause.strerror if cause is not None and cause.strerror else str(error)
