"""The tokenizer: opened from a folder or the hub, checked against the model's vocabulary, called on lists of texts."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from configs.messages import first_line, why_not_opened
from configs.user_paths import expanded, is_dir, is_file
from data.data_errors import DataError
from data.data_settings import Data
from data.hub import require_hub
from data.prefixes import blank_from, words_are_apart
from data.prepared import check_tokenizer, read_manifest, store_folder
from data.sources import Document
from data.special_tokens import without_special_tokens

BUILTIN = Path(__file__).parent / "builtin_tokenizer"
# The most that one call of the tokenizer gets: enough for its threads, and done soon. Texts are of very unlike lengths,
# so that more than eight threads would wait for the longest of 64.
GROUP_DOCUMENTS, GROUP_CHARACTERS, THREADS = 64, 1 << 16, 8
# Of the first piece of a text that is cut, about what a token has on average (C4 and T5: 4.3); of the pieces that
# follow, more, so that few texts need a third.
CHARACTERS_A_TOKEN, MORE_CHARACTERS = 4.4, 6.0
PANIC = "PanicException"  # of the library's Rust code: no Exception, and of a module that cannot be imported
SHOWN_CHARACTERS = 40  # of a text that cannot be encoded

Mark = TypeVar("Mark")
Given = TypeVar("Given")
Made = TypeVar("Made")


def load_tokenizer(section: Data) -> PreTrainedTokenizerBase:
    """Open `data.tokenizer`: a folder, a name on the hub, or None for the default of `data.source`.

    A hub name is looked up in the local cache first, so a second start needs no network. Code that comes with a
    tokenizer is never run.

    Raises:
        DataError: the folder holds no tokenizer, the name is unknown, the hub cannot be reached, or a prepared store
            was made with another tokenizer.
    """
    tokenizer = _load(section.tokenizer or _default_tokenizer(section))
    if section.source == "prepared":
        check_tokenizer(section, tokenizer)
    return tokenizer


def _load(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in the folder or with the hub name `name`."""
    name = str(name)
    folder = expanded(name)
    if is_dir(folder):
        return _open(str(folder), name, local_files_only=True)
    if is_file(folder) or folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise DataError(f"data.tokenizer={name}: no such folder; give a folder with a tokenizer's files, or a hub name")
    try:
        return _open(name, name, local_files_only=True)
    except DataError:  # not in the cache
        require_hub(f"data.tokenizer={name}", "data.tokenizer=FOLDER with a tokenizer's files")
        return _open(name, name, local_files_only=False)


def _default_tokenizer(section: Data) -> Path | str:
    if section.source == "c4":
        return "t5-base"  # as in the paper
    if section.source == "prepared":
        read_manifest(section.path)  # refuses a store that is missing or incomplete with the reason
        return store_folder(section.path) / "tokenizer"
    return BUILTIN


def _open(location: str, name: str, local_files_only: bool) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(location, local_files_only=local_files_only, trust_remote_code=False)
    except Exception as error:  # the library raises a dozen types of errors for a folder without a tokenizer
        raise DataError(f"data.tokenizer={name}: no tokenizer opens there ({why_not_opened(error)})") from error


def ordinary_pieces(tokenizer: PreTrainedTokenizerBase) -> int:
    """The vocabulary size that a model needs: up to the last ordinary piece and EOS, without T5's 100 sentinels.

    Added tokens that are not special, as GPT-NeoX's runs of blanks, are ordinary pieces of text.
    """
    special = {identifier for identifier, token in tokenizer.added_tokens_decoder.items() if token.special}
    ordinary = (identifier for identifier in tokenizer.get_vocab().values() if identifier not in special)
    return 1 + max(itertools.chain(ordinary, [tokenizer.eos_token_id]))


def id_count(tokenizer: PreTrainedTokenizerBase) -> int:
    """1 + the largest id of a tokenizer. `len` counts pieces, which are fewer where ids are left out."""
    return 1 + max(itertools.chain(tokenizer.get_vocab().values(), tokenizer.added_tokens_decoder))


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Raise DataError unless a model of `vocab_size` rows has one for every ordinary piece and the unknown token."""
    if tokenizer.eos_token_id is None:
        raise DataError("data.tokenizer has no end-of-sequence token to separate documents")
    pieces = ordinary_pieces(tokenizer)
    if pieces > vocab_size:
        raise DataError(
            f"data.tokenizer has {pieces} ordinary pieces, but model.vocab_size is {vocab_size}; "
            f"set model.vocab_size={pieces}, or train a smaller tokenizer with scripts/train_tokenizer.py"
        )
    count, unknown = id_count(tokenizer), tokenizer.unk_token_id
    if count > vocab_size and unknown is None:
        raise DataError(
            f"data.tokenizer has ids up to {count - 1}, model.vocab_size is {vocab_size}, and there is "
            f"no unknown token to replace the ids above it; set model.vocab_size={count}"
        )
    if unknown is not None and unknown >= vocab_size:
        raise DataError(
            f"data.tokenizer has the unknown token {unknown}, for which a model of model.vocab_size={vocab_size} has "
            f"no row; set model.vocab_size={unknown + 1}"
        )


class Encoder:
    """Texts to ids below `vocab_size`, without any special token.

    Args:
        most: the ids that are needed of a document; None: all. Of a longer one at least so many are given, and those
            are the same.
        special_tokens: `data.special_tokens_in_text`.

    Attributes:
        eos: the id that ends a document.
        pad: the id that fills rows.

    Raises:
        DataError: the tokenizer does not fit `vocab_size`, see `check_vocabulary`; when texts are encoded, it fails at
            one of them.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        most: int | None = None,
        *,
        special_tokens: Literal["token", "text"] = "token",
    ) -> None:
        check_vocabulary(tokenizer, vocab_size)
        self.tokenizer, self.vocab_size, self.most = tokenizer, vocab_size, most
        self.special_tokens = special_tokens
        self.eos: int = tokenizer.eos_token_id
        pad = tokenizer.pad_token_id
        self.pad: int = pad if pad is not None and pad < vocab_size else self.eos  # never a label: any id will do
        self._characters: int | None = None  # of a text, about as many are encoded first; None: all
        if tokenizer.is_fast:
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.backend_tokenizer.no_padding()
            self._fast: Tokenizer = tokenizer.backend_tokenizer
            if most is not None and words_are_apart(self._fast):
                self._characters = int(CHARACTERS_A_TOKEN * (most + 1))
            if special_tokens == "text":
                self._fast = without_special_tokens(tokenizer)

    def __call__(self, documents: Iterable[Document]) -> Iterator[list[int]]:
        """Yield the ids of each document, in order. Documents of a prepared store are ids already and pass through.

        An id at or above `vocab_size` (a sentinel of T5 that occurs in the text) becomes the unknown token.
        """
        return (ids for _, ids in self.blocks([(None, documents)]))

    def blocks(self, blocks: Iterable[tuple[Mark, Iterable[Document]]]) -> Iterator[tuple[Mark, list[int]]]:
        """Yield (mark of its block, ids) of each document of each (mark, documents), in order.

        A block may be read while the one before it is encoded; an error of `blocks` comes after the ids before it.
        """
        groups = ((mark, group) for mark, documents in blocks for group in _groups(documents, self._characters))
        for mark, encoded in _ahead(self._encode, groups) if _threads() > 1 else map(self._encode, groups):
            for ids in encoded:
                if ids and max(ids) >= self.vocab_size:
                    ids = [i if i < self.vocab_size else self.tokenizer.unk_token_id for i in ids]
                yield mark, ids

    def _encode(self, marked: tuple[Mark, list[Document]]) -> tuple[Mark, list[list[int]]]:
        mark, group = marked
        return mark, self._group(group)

    def _group(self, group: list[Document]) -> list[list[int]]:
        """The ids of documents that are all texts or all ids."""
        texts = [document for document in group if isinstance(document, str)]
        if not texts:
            return [document[: self.most].tolist() for document in group if not isinstance(document, str)]
        if self._characters is None or self.most is None:
            return self._ids(texts)
        encoded: list[list[int]] = [[] for _ in texts]
        ends = [0] * len(texts)
        least = [self._characters] * len(texts)
        waiting = list(range(len(texts)))
        while waiting:
            starts = [ends[number] for number in waiting]
            for number in waiting:
                ends[number] = blank_from(texts[number], ends[number] + least[number])
            pieces = [texts[number][start : ends[number]] for number, start in zip(waiting, starts, strict=True)]
            for number, ids in zip(waiting, self._ids(pieces), strict=True):
                encoded[number] += ids
                least[number] = int(MORE_CHARACTERS * (self.most + 1 - len(encoded[number])))
            waiting = [n for n in waiting if len(encoded[n]) < self.most and ends[n] < len(texts[n])]
        return encoded

    def _ids(self, texts: list[str]) -> list[list[int]]:
        # JSON can spell half a surrogate pair, which Python has as a str but which the tokenizer refuses.
        texts = [text.encode("utf-8", "replace").decode() for text in texts]
        try:
            return self._call(texts)
        except BaseException as error:
            if isinstance(error, MemoryError) or not (isinstance(error, Exception) or type(error).__name__ == PANIC):
                raise  # the machine's fault, or a signal
            if len(texts) > 1:  # one by one, to name the one at fault
                return [ids for text in texts for ids in self._ids([text])]
            begins = "".join(texts)[:SHOWN_CHARACTERS]
            raise DataError(
                f"data.tokenizer cannot encode the text that begins {begins!r} ({first_line(error)}); "
                "take another tokenizer, or take the text out"
            ) from error

    def _call(self, texts: list[str]) -> list[list[int]]:
        if self.tokenizer.is_fast:
            encodings = self._fast.encode_batch_fast(texts, add_special_tokens=False)
            return [encoding.ids for encoding in encodings]
        as_text = {"split_special_tokens": True} if self.special_tokens == "text" else {}
        encoded = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False, **as_text)
        ids: list[list[int]] = encoded["input_ids"]
        return ids


def _groups(documents: Iterable[Document], most: int | None) -> Iterator[list[Document]]:
    """Consecutive documents for one call, of each of which up to about `most` characters count; None: all."""
    larger = 8 if _threads() > THREADS else 1
    group: list[Document] = []
    size = 0
    for document in documents:
        group.append(document)
        size += len(document) if most is None else min(len(document), most)
        if len(group) == GROUP_DOCUMENTS * larger or size >= GROUP_CHARACTERS * larger:
            yield group
            group, size = [], 0
    if group:
        yield group


def _ahead(encode: Callable[[Given], Made], groups: Iterator[Given]) -> Iterator[Made]:
    """`encode` of each group, on a thread: meanwhile this one reads the next group, and uses the last one's ids.

    An error of `groups` comes after what was made of the groups before it.
    """
    with ThreadPoolExecutor(1, "tokenizer") as thread:
        waiting = None
        while True:
            try:
                group = next(groups)
            except StopIteration:
                break
            except Exception:
                if waiting is not None:
                    yield waiting.result()
                raise
            begun = thread.submit(encode, group)
            if waiting is not None:
                yield waiting.result()
            waiting = begun
        if waiting is not None:
            yield waiting.result()


def _threads() -> int:
    """Threads of the tokenizer."""
    chosen = os.environ.get("RAYON_NUM_THREADS", "")
    if chosen.isdecimal() and int(chosen) > 0:
        return int(chosen)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
