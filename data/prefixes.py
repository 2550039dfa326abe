"""Pieces of a text whose ids, one after the other, are those of the whole.

With one document a row a text is needed up to some hundred ids, and a tokenizer takes as long as its text is long.
Where the tokenizer treats words one by one, the text can be cut between two of them.
"""

import json
import re
from typing import Any

from tokenizers import Tokenizer

# Between letters or digits of ASCII, so that no rule about several blanks, punctuation, or marks that join with the
# character before them sees a difference.
BLANK = re.compile(r"(?<=[0-9A-Za-z]) (?=[0-9A-Za-z])")

SEARCHED = 1000  # characters

# Parts of a tokenizer that see no further than a BLANK.
NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "BertNormalizer", "Lowercase", "StripAccents"}
SPLITTERS = {"WhitespaceSplit", "Whitespace", "BertPreTokenizer"}  # every blank is an end of a word
META = "\u2581"  # stands for a blank in SentencePiece


def blank_from(text: str, least: int) -> int:
    """Where the first BLANK of `text` from character `least` on is; its end if there is none in the next `SEARCHED`."""
    found = BLANK.search(text, least, least + SEARCHED)
    return found.start() if found else len(text)


def words_are_apart(tokenizer: Tokenizer) -> bool:
    """Whether the ids of a text are surely those of its part up to a BLANK and of the part from there on, together.

    So it is if every part of the tokenizer is known to treat what is left of a BLANK by itself, and one of them splits
    there: the model then gets words one by one. False means only that it is not known.
    """
    rules: dict[str, Any] = json.loads(tokenizer.to_str())
    normalizers = _flat(rules["normalizer"], "normalizers")
    splitters = _flat(rules["pre_tokenizer"], "pretokenizers")
    blank = META if any(map(_replaces_blanks, normalizers)) else " "  # as the splitters see it
    splits = [_splits_at(blank, part) for part in splitters]
    return (
        all(_replaces_blanks(part) or _normalizes_locally(part) for part in normalizers)
        and all(split or _splits_locally(part) for split, part in zip(splits, splitters, strict=True))
        and any(splits)
        and not any(" " in token["content"] for token in rules["added_tokens"])
        and not rules["model"].get("dropout")
        and _words("a word", tokenizer) == _words("a", tokenizer) + _words(" word", tokenizer)
    )


def _words(text: str, tokenizer: Tokenizer) -> list[str]:
    """What the model of `tokenizer` gets of a text."""
    normal = text if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(text)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]


def _flat(part: dict[str, Any] | None, members: str) -> list[dict[str, Any]]:
    """The parts of a tokenizer's step that may be a Sequence."""
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    return [inner for member in part[members] for inner in _flat(member, members)]


def _replaces_blanks(part: dict[str, Any]) -> bool:
    return part["type"] == "Replace" and part["pattern"] == {"String": " "} and part["content"] == META


def _normalizes_locally(part: dict[str, Any]) -> bool:
    if part["type"] == "Strip":
        return True  # the ends of the text; at a BLANK there is nothing to take away
    if part["type"] == "Replace":
        return part["pattern"] == {"Regex": " {2,}"}
    return part["type"] in NORMALIZERS


def _splits_locally(part: dict[str, Any]) -> bool:
    return part["type"] in {"Digits", "Punctuation"} or (part["type"], part.get("pattern")) == (
        "Split",
        {"Regex": r"\n"},
    )


def _splits_at(blank: str, part: dict[str, Any]) -> bool:
    """Whether a splitter ends a word before `blank`."""
    kind = part["type"]
    if kind == "Metaspace":
        return bool(part["split"])
    if kind == "Split":
        joins = part["invert"] or part["behavior"] not in ("Isolated", "MergedWithNext", "Removed")
        return part["pattern"] == {"String": blank} and not joins
    return blank == " " and (kind in SPLITTERS or (kind == "ByteLevel" and bool(part["use_regex"])))
