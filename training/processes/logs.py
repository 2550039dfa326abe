"""What the program says: messages on stderr, results on stdout."""

import logging
import os
import sys
from pathlib import Path


def set_up_logging(process: int) -> None:
    """Show messages as plain lines on stderr: all messages of process 0; of others their warnings, and those about
    their own data."""
    from transformers.utils.logging import disable_progress_bar  # slow, and `say` needs none of it

    _open_standard_streams()
    disable_progress_bar()  # transformers' own, for every file of weights
    logging.basicConfig(format="%(message)s" if process == 0 else f"process {process}: %(message)s")
    logging.getLogger("data").setLevel(logging.INFO)
    logging.getLogger("training").setLevel(logging.INFO if process == 0 else logging.WARNING)


def say(result: str) -> None:
    """Print `result` on stdout, escaped where its encoding has no such letters. That nobody reads there any more
    (`| head -1`) is no fault of a run."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(result.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end


def _open_standard_streams() -> None:
    """Lead streams that were closed (`2>&-`) to /dev/null. Otherwise files of the run would take their numbers, and
    libraries that ask `sys.stderr` whether it is a terminal would fail."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w"))  # noqa: SIM115 - for the process
