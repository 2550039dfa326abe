"""Parts of the sentences that tell users what went wrong. No import of the project: every room may use it."""

import difflib
from collections.abc import Mapping, Sequence


def one_line(error: BaseException) -> str:
    """The whole text of an error on one line, or the name of its type if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or the name of its type if it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def why_not_opened(error: BaseException) -> str:
    """The reason of `transformers`, on one line. Its advice to trust code that comes with a model is left out."""
    return "it comes with code of its own, which is never run" if "trust_remote_code" in str(error) else one_line(error)


def nearest(word: str, choices: Sequence[str] | Mapping[str, str]) -> str:
    """'; did you mean ...?' with the choice spelled most like `word`, or what a mapping has for it; '' if none is."""
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if not close:
        return ""
    return f"; did you mean {choices[close[0]] if isinstance(choices, Mapping) else close[0]}?"
