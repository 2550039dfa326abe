"""What can end a run: `train.py` exits with 1 if the machine is at fault, with 2 if the settings are."""


class MachineError(RuntimeError):
    """The machine let the run down: disk, network, a dead process, a loss that is not finite."""


class SaveError(MachineError):
    """A file of the run could not be written. Whatever was saved before is untouched."""


class RunFolderError(ValueError):
    """`run.dir` cannot be used: not a folder, not writable, full, or in use by another run."""
