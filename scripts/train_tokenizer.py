"""Train a SentencePiece tokenizer (unigram, byte fallback) and write a folder that AutoTokenizer opens.

    python scripts/train_tokenizer.py --builtin --vocab-size 4096 --out data/builtin_tokenizer
    python scripts/train_tokenizer.py --data 'corpus/en/c4-train.*.json.gz' --vocab-size 8192 --out my_tokenizer

The same text gives the same files, byte for byte. Nothing is normalised, new lines and runs of spaces are kept and a
character that was never seen is spelled in bytes, so that decoding gives back the text, unless that spells a byte
(<0x0A>) or has the character U+2581.
"""

import argparse
import sys
from pathlib import Path

from configs.schema import Data
from data.data_errors import DataError
from data.sources import files_source, training_source
from data.tokenizer_training import first_texts, train_tokenizer, write_tokenizer
from training.processes.failures import report


def main() -> int:
    """Train and write the tokenizer that the command line describes; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--data", nargs="+", metavar="GLOB", help="files, globs or a folder with C4's shards")
    parser.add_argument("--text-field", default="text", metavar="NAME", help="of --data, as data.text_field")
    text.add_argument("--builtin", action="store_true", help="the addresses that are not held out for evaluation")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument(
        "--megabytes",
        type=float,
        default=200.0,
        help="read about so many million characters of text (memory: 10 bytes and more for each)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    arguments = parser.parse_args()
    try:
        builtin = training_source(Data(source="builtin")) if arguments.builtin else None
        texts = first_texts(builtin or files_source(arguments.data, arguments.text_field), arguments.megabytes * 1e6)
        write_tokenizer(train_tokenizer(texts, arguments.vocab_size), arguments.out)
    except (DataError, OSError) as error:
        return report(error, None)
    print(f"{arguments.vocab_size} pieces in {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
