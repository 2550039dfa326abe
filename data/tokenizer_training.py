"""Training of a SentencePiece tokenizer (unigram, byte fallback): the same text gives the same files, byte for byte."""

import io
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from data.data_errors import DataError
from data.prepared import PreparedSource
from data.sources import TextSource

PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"  # ids 0, 1, 2, as in T5
MOST_PIECES = 1 << 24  # as many rows a model can have; SentencePiece counts in 32 bits
LONGEST_PIECE_BYTES = 1 << 16  # SentencePiece leaves out sentences that are longer than told


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> bytes:
    """A serialised SentencePiece model of `vocab_size` pieces, 256 of them bytes, trained on documents.

    Raises:
        DataError: the text has too few different pieces for `vocab_size`, or too many characters.
        Exception: what `texts` raises.
    """
    if vocab_size > MOST_PIECES:
        raise DataError(f"--vocab-size must be at most {MOST_PIECES}, got {vocab_size}")
    model = io.BytesIO()
    failed: list[BaseException] = []

    def lines() -> Iterator[str]:
        try:
            for text in texts:
                yield from _lines(text)
        except BaseException as error:
            failed.append(error)
            raise

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines(),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=1 - 1e-6,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            user_defined_symbols=["\n"],
            max_sentence_length=LONGEST_PIECE_BYTES,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            num_threads=1,  # the sums of several threads differ in their last bits, and pieces with them
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        if failed:  # the text's own error, or ctrl-C, which SentencePiece reports as its own
            raise failed[0] from None
        raise DataError(f"--vocab-size {vocab_size}: SentencePiece refuses it for this text ({error})") from error
    return model.getvalue()


def _lines(text: str) -> Iterator[str]:
    """Lines with their ends, so that words are seen after a new line as they will be when documents are encoded."""
    for line in text.splitlines(keepends=True):
        data = line.encode("utf-8", "replace")
        for start in range(0, len(data), LONGEST_PIECE_BYTES):
            yield data[start : start + LONGEST_PIECE_BYTES].decode("utf-8", "ignore")


def as_transformers(model: bytes) -> PreTrainedTokenizerFast:
    """The same tokenizer for `transformers`. Its own converter drops the split into words, without which it is slow.

    Two texts are read otherwise than SentencePiece reads them: one that spells a byte piece, as <0x0A>, gets that byte,
    and a lower one eighth block (U+2581) becomes a blank.
    """
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    scored = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.vocab_size())]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=pieces.unk_id(), byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), "isolated"),
            pre_tokenizers.Split("▁", "merged_with_next"),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def write_tokenizer(model: bytes, folder: Path) -> None:
    """Write a folder that AutoTokenizer opens. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(model)
    as_transformers(model).save_pretrained(folder)


def first_texts(source: TextSource | PreparedSource, characters: float = math.inf) -> Iterator[str]:
    """The first documents of a source, until so many characters are read."""
    for file in range(len(source.files)):
        for _, text in source.read(file, 0):
            assert isinstance(text, str)  # a prepared store holds ids and is no source here
            yield text
            characters -= len(text)
            if characters <= 0:
                return
