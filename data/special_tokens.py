"""A tokenizer for text in which special tokens are spelled, but not meant.

A page that writes about </s> is no end of a document. By itself a tokenizer gives the token's id for it, in two ways:
special tokens are cut out of the text before anything else, and some models (Unigram, WordLevel) also hold them as
pieces of their vocabulary, which match like any other piece.
"""

import json
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase


def without_special_tokens(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The rules of a fast tokenizer with all special tokens made unspellable. Ids of everything else are the same."""
    rules: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["content"] for token in rules["added_tokens"] if token["special"]}
    for token in rules["added_tokens"]:  # they are not taken out: ids of added tokens are counted
        token["content"] = _unspellable(token["content"], special)
    rules["post_processor"] = None  # it would add special tokens, which are not asked for
    model = rules["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {_unspellable(piece, special): identifier for piece, identifier in vocabulary.items()}
    else:
        model["vocab"] = [[_unspellable(piece, special), score] for piece, score in vocabulary]
    if "merges" in model:  # of BPE: one may make a special token of its parts
        model["merges"] = [pair for pair in model["merges"] if not special & {*_parts(pair), "".join(_parts(pair))}]
    if model.get("unk_token") is not None:
        model["unk_token"] = _unspellable(model["unk_token"], special)
    made = Tokenizer.from_str(json.dumps(rules))
    made.encode_special_tokens = True  # special tokens are not cut out of the text
    return made


def _parts(merge: str | list[str]) -> list[str]:
    """The two pieces that a merge joins: a pair, or in older files a text with a blank."""
    return merge.split(" ") if isinstance(merge, str) else merge


def _unspellable(piece: str, special: set[str]) -> str:
    """Another name for a special piece. No model sees a blank: it is replaced or cut at before."""
    return f" {piece} " if piece in special else piece
