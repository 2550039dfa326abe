"""The run folder `run.dir`, and the right to write there.

config.yaml      the resolved config
environment.json where the process that trains has been started: commit, device, versions, a method's own file
metrics.jsonl    one object a line, as training goes
summary.json     there only when the run is finished
checkpoints/  model/  curve.png
lock             held by the process that trains
"""

import contextlib
import json
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from configs.messages import one_line
from configs.schema import Config
from configs.user_paths import expanded
from configs.yaml_values import from_yaml, to_yaml
from data.file_lock import lock_file
from training.run.atomic import write_atomically
from training.run.disk import free_bytes, in_words
from training.run.plain_json import finite
from training.run_errors import RunFolderError, SaveError

if TYPE_CHECKING:
    from training.processes.world import World

log = logging.getLogger(__name__)


class RunFolder:
    """The paths of a run and, inside `with`, the right to write there.

    Entering creates the folder and locks it; the kernel drops the lock with the process, however that ends.
    RunFolderError if the folder cannot be made, written or locked.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.summary = path / "summary.json"
        self.curve = path / "curve.png"
        self.model = path / "model"
        self.checkpoints = path / "checkpoints"
        self._lock: int | None = None  # file descriptor

    def __enter__(self) -> Self:
        self.lock()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def lock(self) -> None:
        """Create the folder and take its lock. Raises RunFolderError."""
        with self._refusing():
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except FileExistsError:
                raise RunFolderError(f"run.dir: {self.path} is a file, not a folder") from None
            self._check_results()
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._take_lock(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            self._lock = descriptor

    def _check_results(self) -> None:
        """Refuse what is in the way of the results: they are written when the work is done."""
        for path in (self.config, self.environment, self.metrics, self.summary, self.curve):
            if path.is_dir():
                raise RunFolderError(f"run.dir: {path} is a folder, but the run writes a file of that name")
        for path in (self.checkpoints, self.model):
            if path.is_symlink() and not path.exists():
                raise RunFolderError(f"run.dir: {path} is a link to a folder that does not exist")
            if path.exists() and not path.is_dir():
                raise RunFolderError(f"run.dir: {path} is a file, but the run makes a folder of that name")
        self._refuse_foreign_results()
        model = self.model.resolve()  # which a link may lead to; the final one is written beside it and takes its place
        if model.is_mount():
            raise RunFolderError(f"run.dir: {self.model} is a mount, which cannot be replaced; mount a folder above it")
        for path in (self.path, self.checkpoints, self.model, model.parent):
            if path.exists():
                _try_writing(path)

    def _refuse_foreign_results(self) -> None:
        """Refuse a folder that holds what the run would overwrite or delete, and no sign of an earlier run."""
        written_by_runs = (self.config, self.environment, self.metrics, self.summary, self.curve)
        files = [path for path in written_by_runs if path.exists()]
        # A run that was refused leaves its lock, which says nothing of other files, and an empty metrics.jsonl.
        written = [path for path in files if path.stat().st_size > 0]
        filled = [path for path in (self.model, self.checkpoints) if path.exists() and any(path.iterdir())]
        found = [*written, *filled]
        if not found or any(self.checkpoints.glob("step_*/complete.json")):
            return
        if not _is_of_a_run(self.config):
            raise RunFolderError(
                f"run.dir: {self.path} holds {found[0].name}, which is of no run and would be lost; "
                "choose another run.dir"
            )

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self, descriptor: int) -> None:
        try:
            lock_file(descriptor, self.path / "lock", wait=False)
        except BlockingIOError:
            owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            raise RunFolderError(
                f"run.dir: another run ({owner}) is training in {self.path}; "
                "wait for its end or give this one a run.dir of its own"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def require_space(self, needed: int, reclaimable: int) -> None:
        """Refuse, before any work is done, a disk that cannot take `needed` bytes: those of one checkpoint.

        `reclaimable`: bytes of the checkpoints that are given up where there is no other room.
        """
        with self._refusing():
            free = free_bytes(self.checkpoints) + reclaimable  # they may be a link to another disk
        if free < needed:
            raise RunFolderError(
                f"run.dir: a checkpoint takes {in_words(needed)}, but only {in_words(free)} are free in {self.path}"
            )

    def read_config(self) -> dict[str, Any] | None:
        """The config this folder was last started with, None in a new one."""
        with self._refusing():
            try:
                config = dict(from_yaml(self.config.read_text()))
            except FileNotFoundError:
                return None
            except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
                raise RunFolderError(f"run.dir: {self.config} is not readable: {one_line(error)}") from error
            return config

    def write_config(self, config: dict[str, Any]) -> None:
        """Put the resolved config, plain values only, into config.yaml."""
        with self._refusing():
            write_atomically(self.config, to_yaml(config).encode())

    def write_environment(self, found: dict[str, Any]) -> None:
        """Put what `provenance.environment` found into environment.json."""
        with self._refusing():
            write_atomically(self.environment, (json.dumps(found, indent=2) + "\n").encode())

    def read_environment(self) -> dict[str, Any]:
        """What `write_environment` put there; {} if nothing did, or, after a warning, if it is not readable."""
        with self._refusing():
            try:
                return dict(json.loads(self.environment.read_text()))
            except FileNotFoundError:
                return {}
            except (ValueError, TypeError, RecursionError) as error:
                log.warning("%s is not readable (%s): nobody knows where this run was made", self.environment, error)
                return {}

    def read_summary(self) -> dict[str, Any] | None:
        """The summary if the run in this folder is finished, else None. Raises RunFolderError if it cannot be read."""
        with self._refusing():
            try:
                return dict(json.loads(self.summary.read_text()))
            except FileNotFoundError:
                return None
            except (ValueError, TypeError, RecursionError) as error:
                log.warning("%s is not readable (%s): the run counts as unfinished", self.summary, error)
                return None

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Declare the run finished. Raises SaveError."""
        try:
            write_atomically(self.summary, (json.dumps(finite(summary), indent=2, allow_nan=False) + "\n").encode())
        except OSError as error:
            raise SaveError(f"cannot write {self.summary}: {error.strerror}") from error

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunFolderError(f"run.dir: cannot use {self.path}: {error.strerror}") from error


@contextlib.contextmanager
def locked_run_folder(config: Config, world: "World") -> Iterator[RunFolder]:
    """The folder of the run, which the main process locks for all.

    Raises RunFolderError, on every process, if it cannot, or if the run would replace the model that it starts from.
    """
    assert config.run.dir is not None, "configs.schema fills it in"
    folder = RunFolder(Path(config.run.dir))
    initial = config.model.init_from
    if initial is not None and Path(os.path.realpath(expanded(initial))).is_relative_to(os.path.realpath(folder.model)):
        raise RunFolderError(
            f"model.init_from: {initial} is where the run in {folder.path} writes its own model, and would be lost; "
            "choose another run.dir"
        )
    try:
        world.from_main(folder.lock)
        yield folder
    finally:
        folder.release()


def _is_of_a_run(config: Path) -> bool:
    """Whether the file `config` is there and holds the settings of a run, pretraining or GLUE. Raises OSError."""
    try:
        settings = yaml.safe_load(config.read_text())
        own, keys = ("glue", {"task", "seed"}) if "glue" in settings else ("run", {"name", "seed"})
        return settings[own].keys() >= keys and "optimizer" in settings
    except (FileNotFoundError, yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def _try_writing(folder: Path) -> None:
    """Raises RunFolderError unless files can be made and deleted in `folder`."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix="trial_"):
            pass
    except OSError as error:
        raise RunFolderError(f"run.dir: cannot write in {folder}: {error.strerror}") from error
