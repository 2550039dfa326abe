"""Train a SentencePiece tokenizer (unigram, byte fallback) and write a folder that AutoTokenizer opens.

    python scripts/train_tokenizer.py --builtin --vocab-size 4096 --out data/builtin_tokenizer
    python scripts/train_tokenizer.py --data 'corpus/en/c4-train.*.json.gz' --vocab-size 8192 --out my_tokenizer

The same text gives the same files, byte for byte. Nothing is normalised, new lines and runs of spaces are kept and a
character that was never seen is spelled in bytes, so that decoding gives back the text.
"""

import argparse
import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.data_errors import DataError
from data.sources import training_source
from training.processes import failures

PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"  # ids 0, 1, 2, as in T5
LONGEST_PIECE_BYTES = 1 << 16  # SentencePiece leaves out sentences that are longer than told


def train(texts: Iterable[str], vocab_size: int) -> bytes:
    """A serialised SentencePiece model of `vocab_size` pieces, 256 of them bytes, from documents.

    Raises:
        DataError: the text has too few different pieces for `vocab_size`, or too many characters.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for text in texts for line in _lines(text)),
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
        raise DataError(f"--vocab-size {vocab_size}: SentencePiece refuses it for this text ({error})") from error
    return model.getvalue()


def _lines(text: str) -> Iterator[str]:
    """Lines with their ends, so that words are seen after a new line as they will be when documents are encoded."""
    for line in text.splitlines(keepends=True):
        data = line.encode("utf-8", "replace")
        for start in range(0, len(data), LONGEST_PIECE_BYTES):
            yield data[start : start + LONGEST_PIECE_BYTES].decode("utf-8", "ignore")


def as_transformers(model: bytes) -> PreTrainedTokenizerFast:
    """The same tokenizer for `transformers`, whose own converter drops the split into words, and with it the speed."""
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--data", nargs="+", metavar="GLOB", help="files, globs or a folder with C4's shards")
    text.add_argument("--builtin", action="store_true", help="the addresses that are not held out for evaluation")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument(
        "--megabytes", type=float, default=200.0, help="read no more text than this (memory: about 10x)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    arguments = parser.parse_args()
    path = arguments.data and (arguments.data[0] if len(arguments.data) == 1 else arguments.data)
    section = SimpleNamespace(source="builtin" if arguments.builtin else "files", path=path)
    try:
        source = training_source(section)
        model = train(_first(source, arguments.megabytes * 1e6), arguments.vocab_size)
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "spiece.model").write_bytes(model)
        as_transformers(model).save_pretrained(arguments.out)
    except (DataError, OSError) as error:
        return failures.report(error, None)
    print(f"{arguments.vocab_size} pieces in {arguments.out}")
    return 0


def _first(source, characters: float) -> Iterator[str]:
    for file in range(len(source.files)):
        for _, text in source.read(file, 0):
            yield text
            characters -= len(text)
            if characters <= 0:
                return


if __name__ == "__main__":
    sys.exit(main())
