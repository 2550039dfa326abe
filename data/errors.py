"""The two ways in which data can fail."""


class DataError(ValueError):
    """The data or a data setting is at fault: one sentence for the user, naming the file (and line) or the key."""


class SourceUnavailable(OSError):
    """The network gave up after its retries, or the server says that a file is not there; names the file."""
