"""The two kinds of errors of data: the user's mistakes, and sources that cannot be reached."""


class DataError(ValueError):
    """A mistake in the data or its settings: one sentence for the user that names the file (and line) or the key."""


class SourceUnavailable(OSError):
    """A file cannot be fetched, because the retries are used up or the server refuses it; names the file.

    Attributes:
        status: the HTTP status with which the server refuses it, if it does.
    """

    def __init__(self, sentence: str, status: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status
