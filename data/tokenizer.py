"""The tokenizer: opened from a folder or the hub, held against the model's vocabulary, called on lists of texts."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from data.errors import DataError
from data.prepared import check_tokenizer, read_manifest
from data.remote import require_hub

BUILTIN = Path(__file__).parent / "builtin_tokenizer"
GROUP_DOCUMENTS, GROUP_CHARACTERS = 64, 1 << 16  # a call of the tokenizer: enough for its threads, soon done


def load_tokenizer(section) -> PreTrainedTokenizerBase:
    """Open `data.tokenizer`: a folder, a name on the hub, or None for the one that belongs to `data.source`.

    A hub name is looked up in the local cache first, so a second start needs no network. Code that comes with a
    tokenizer is never run.

    Raises:
        DataError: the folder holds no tokenizer, the name is unknown, the hub cannot be reached, or a prepared store
            was made with another tokenizer.
    """
    tokenizer = _load(section.tokenizer or _default_tokenizer(section))
    if section.source == "prepared":
        check_tokenizer(section.path, tokenizer)
    return tokenizer


def _load(name: str | Path) -> PreTrainedTokenizerBase:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _open(str(folder), name, local_files_only=True)
    if folder.is_file() or folder.is_absolute() or str(name).startswith((".", "~")) or str(name).count("/") > 1:
        raise DataError(f"data.tokenizer={name}: no such folder; give a folder with a tokenizer's files, or a hub name")
    try:
        return _open(name, name, local_files_only=True)
    except DataError:  # not in the cache
        require_hub(f"data.tokenizer={name}", "data.tokenizer=FOLDER with a tokenizer's files")
        return _open(name, name, local_files_only=False)


def _default_tokenizer(section) -> Path | str:
    if section.source == "c4":
        return "t5-base"  # the paper's protocol
    if section.source == "prepared":
        read_manifest(section.path)  # says what is wrong with the store, if there is none
        return Path(section.path).expanduser() / "tokenizer"
    return BUILTIN


def _open(location: str, name: str, local_files_only: bool) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(location, local_files_only=local_files_only)
    except Exception as error:  # the library raises a dozen kinds for a folder that is not a tokenizer's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"data.tokenizer={name}: no tokenizer opens there ({reason})") from error


def ordinary_pieces(tokenizer: PreTrainedTokenizerBase) -> int:
    """Ids a model must have: up to the last ordinary piece and EOS. T5's 100 sentinels after them do not count."""
    added = tokenizer.added_tokens_decoder
    ordinary = (identifier for identifier in tokenizer.get_vocab().values() if identifier not in added)
    return 1 + max(itertools.chain(ordinary, [tokenizer.eos_token_id]))


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Raise DataError unless every ordinary piece of the tokenizer has a row in a model of `vocab_size` rows."""
    if tokenizer.eos_token_id is None:
        raise DataError("data.tokenizer has no end-of-sequence token, which is what separates documents")
    pieces = ordinary_pieces(tokenizer)
    if pieces > vocab_size:
        raise DataError(
            f"data.tokenizer has {pieces} ordinary pieces, but model.vocab_size is {vocab_size}; "
            f"set model.vocab_size={pieces}, or train a smaller tokenizer with scripts/train_tokenizer.py"
        )
    if len(tokenizer) > vocab_size and tokenizer.unk_token_id is None:
        raise DataError(
            f"data.tokenizer has ids up to {len(tokenizer) - 1}, model.vocab_size is {vocab_size}, and there is "
            f"no unknown token to stand for the rest; set model.vocab_size={len(tokenizer)}"
        )


class Encoder:
    """Texts to ids below `vocab_size`, without any special token; `eos` and `pad` are the ids of the row makers."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int):
        check_vocabulary(tokenizer, vocab_size)
        self.tokenizer, self.vocab_size = tokenizer, vocab_size
        self.eos: int = tokenizer.eos_token_id
        pad = tokenizer.pad_token_id
        self.pad: int = pad if pad is not None and pad < vocab_size else self.eos  # never a label, any id will do

    def __call__(self, documents: Iterable[str] | Iterable[np.ndarray]) -> Iterator[list[int]]:
        """Yield the ids of each document, in order. Documents that are ids already (a prepared store) pass through.

        An id at or above `vocab_size` (a sentinel of T5 that stands in the text) becomes the unknown token.
        """
        for group in _groups(documents):
            for ids in self._encode(group):
                if ids and max(ids) >= self.vocab_size:
                    ids = [i if i < self.vocab_size else self.tokenizer.unk_token_id for i in ids]
                yield ids

    def _encode(self, group: list) -> list[list[int]]:
        if not isinstance(group[0], str):
            return [ids.tolist() for ids in group]
        # JSON can spell half a surrogate pair, which is a str in Python but no text for the tokenizer.
        texts = [text.encode("utf-8", "replace").decode() for text in group]
        encoded = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        return encoded["input_ids"]


def _groups(documents: Iterable) -> Iterator[list]:
    """Runs of at most GROUP_DOCUMENTS documents and about GROUP_CHARACTERS characters."""
    group, size = [], 0
    for document in documents:
        group.append(document)
        size += len(document)
        if len(group) == GROUP_DOCUMENTS or size >= GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group
