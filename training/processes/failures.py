"""From an error to one sentence and an exit code."""

import contextlib
import signal
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import torch

from configs.schema import SettingsError
from data.data_errors import DataError
from training.processes.signals import Interrupted
from training.processes.watchdog import PeerFailed
from training.processes.world import World
from training.run_errors import MachineError, RunFolderError

USER, MACHINE = 2, 1  # exit codes
USER_ERRORS = (SettingsError, DataError, RunFolderError)


class Ending:
    """How a program ends: inside `with`, an error becomes one sentence on stderr and the exit code `code`.

        with Ending() as ending:
            ending.world = start_world(...)
            ending.code = run(config, ending.world)
        return ending.code

    Afterwards signals have Python's own handlers again.
    """

    def __init__(self) -> None:
        self.code = 0
        self.world: World | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        try:
            if isinstance(error, Exception | Interrupted | KeyboardInterrupt):
                self.code = report(error, self.world)
                return True
        finally:
            if self.world is not None:
                self.world.signals.release()
        return False


@contextlib.contextmanager
def settings_errors() -> Iterator[None]:
    """Around the construction of a run from its settings: ValueError and ImportError become SettingsError.

    An ImportError is the settings' fault too: it names a package that only some settings need.
    """
    try:
        yield
    except USER_ERRORS:
        raise
    except (ValueError, ImportError) as error:
        raise SettingsError(str(error)) from error


def report(error: BaseException, world: World | None) -> int:
    """Say on stderr why the run ends, in one sentence, and tell the other processes; returns the exit code.

    A defect of the program is shown with its traceback.
    """
    code, sentence = classify(error, world)
    if sentence is None:
        traceback.print_exception(error)
        sentence = f"{type(error).__name__}: {error}"
    if world is not None:
        world.fail(sentence, code)
    else:
        print(sentence, file=sys.stderr, flush=True)
    return code


def classify(error: BaseException, world: World | None) -> tuple[int, str | None]:
    """(exit code, sentence) of an error. The sentence is None for a defect of the program."""
    if isinstance(error, USER_ERRORS):
        return USER, str(error)
    if isinstance(error, PeerFailed):
        return error.code, str(error)
    if isinstance(error, MachineError | OSError):
        return MACHINE, str(error)
    if isinstance(error, KeyboardInterrupt):  # before the run's own handler was there
        return 128 + signal.SIGINT, "interrupted; there is nothing to save"
    if isinstance(error, torch.OutOfMemoryError):
        return MACHINE, f"out of memory; lower train.micro_batch_size ({str(error).splitlines()[0]})"
    if isinstance(error, Interrupted):
        # The launcher ends all processes when one fails.
        failed = world and world.peer_failure(wait=False)
        return (failed.code, str(failed)) if failed else (128 + error.signum, "interrupted; there is nothing to save")
    if isinstance(error, RuntimeError) and world and (failed := world.peer_failure()):
        return failed.code, str(failed)  # a collective broke because its peer is gone
    return MACHINE, None
