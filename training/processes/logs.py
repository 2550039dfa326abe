"""The messages of the program on stderr."""

import logging

from transformers.utils.logging import disable_progress_bar


def set_up_logging(process: int) -> None:
    """Show messages as plain lines on stderr: all messages of process 0; of others their warnings, and those about
    their own data."""
    disable_progress_bar()  # transformers' own, for every file of weights
    logging.basicConfig(format="%(message)s" if process == 0 else f"process {process}: %(message)s")
    logging.getLogger("data").setLevel(logging.INFO)
    logging.getLogger("training").setLevel(logging.INFO if process == 0 else logging.WARNING)
