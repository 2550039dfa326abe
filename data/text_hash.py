"""Documents held out for evaluation by a hash of their text."""

import hashlib


def is_held_out(text: str, share: float) -> bool:
    """Whether a document belongs to the `share` (0 to 1) of all documents that is held out.

    The answer depends on its text alone, so two equal documents are never on both sides, and a larger share holds out
    all that a smaller one does.
    """
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
