"""From an error to one sentence and an exit code."""

import contextlib
import sys
import traceback
from collections.abc import Iterator

import torch

from configs.schema import SettingsError
from data.data_errors import DataError
from training.distributed import Interrupted, PeerFailed, World
from training.errors import MachineError, RunFolderError

USER, MACHINE = 2, 1  # exit codes
USER_ERRORS = (SettingsError, DataError, RunFolderError)


@contextlib.contextmanager
def of_settings() -> Iterator[None]:
    """While a run is built from its settings a ValueError is the settings' fault, and so is an ImportError: it is of a
    package that only some settings need. Raises SettingsError."""
    try:
        yield
    except USER_ERRORS:
        raise
    except (ValueError, ImportError) as error:
        raise SettingsError(str(error)) from error


def report(error: BaseException, world: World | None) -> int:
    """Say on stderr why the run ends, in one sentence, and tell the other processes; returns the exit code.

    Errors that nobody but a programmer can do something about are shown with their traceback.
    """
    code, sentence = verdict(error, world)
    if sentence is None:
        traceback.print_exception(error)
        sentence = f"{type(error).__name__}: {error}"
    if world is not None:
        world.fail(sentence, code)
    else:
        print(sentence, file=sys.stderr, flush=True)
    return code


def verdict(error: BaseException, world: World | None) -> tuple[int, str | None]:
    """(exit code, sentence) of an error; no sentence for a defect of the program."""
    if isinstance(error, USER_ERRORS):
        return USER, str(error)
    if isinstance(error, PeerFailed):
        return error.code, str(error)
    if isinstance(error, MachineError | OSError):
        return MACHINE, str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return MACHINE, f"out of memory; lower train.micro_batch_size ({str(error).splitlines()[0]})"
    if isinstance(error, Interrupted):
        # The launcher ends all processes when one fails.
        failed = world and world.peer_failure(wait=False)
        return (failed.code, str(failed)) if failed else (128 + error.signum, "interrupted; there is nothing to save")
    if isinstance(error, RuntimeError) and world and (failed := world.peer_failure()):
        return failed.code, str(failed)  # a collective broke because its peer is gone
    return MACHINE, None
