"""The two kinds of errors of data: the user's mistakes, and sources that cannot be reached."""


class DataError(ValueError):
    """A mistake in the data or its settings: one sentence for the user that names the file (and line) or the key."""


class SourceUnavailable(OSError):
    """A file cannot be fetched, because the retries are used up or the server refuses it; names the file."""
