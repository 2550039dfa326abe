"""The errors that end a run. train.py exits with 1 after a MachineError and with 2 after a RunFolderError."""


class MachineError(RuntimeError):
    """The machine failed: disk, network, a process that died, a loss that is not finite."""


class SaveError(MachineError):
    """A file of the run could not be written. What was saved before is untouched."""


class RunFolderError(ValueError):
    """`run.dir` cannot be used: it is not a folder, not writable, full, or in use by another run."""
