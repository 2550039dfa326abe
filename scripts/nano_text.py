"""The text and the tokenizer of the runs at nano size, from real corpora.

    python scripts/nano_text.py CORPORA

CORPORA is a folder with C4-shaped corpora c4, books and modern. Their training documents are shuffled into one corpus,
runs/nano/corpus, and a tokenizer is trained on them, runs/nano/tokenizer. runs/nano/text is a link to CORPORA: runs are
evaluated on c4's validation documents. What is there already is not made again.
"""

import argparse
import sys
from pathlib import Path

from experiments.jobs import Job, run_all

RUNS = Path("runs/nano")


def main() -> int:
    """Make what is missing; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path, metavar="CORPORA")
    corpora = parser.parse_args().corpora
    sources = [corpora / name for name in ("books", "modern", "c4")]
    if missing := [source for source in sources if not source.is_dir()]:
        parser.error(f"there is no folder {missing[0]}")
    RUNS.mkdir(parents=True, exist_ok=True)
    link, corpus, tokenizer = RUNS / "text", RUNS / "corpus", RUNS / "tokenizer"
    if link.resolve() != corpora.resolve():
        if corpus.exists() or (link.exists() and not link.is_symlink()):
            parser.error(f"{RUNS} holds the text of {link.resolve()}; move it away to make that of {corpora}")
        link.unlink(missing_ok=True)
        link.symlink_to(corpora.resolve())
    mixed = corpus / "en" / "c4-train.00007-of-00008.json.gz"
    options = ("--data", str(corpus), "--vocab-size", "4096", "--out", str(tokenizer))
    return run_all(
        [
            _script("mix_corpora.py", str(corpus), *map(str, sources), proof=mixed),
            _script("train_tokenizer.py", *options, proof=tokenizer / "tokenizer.json"),
        ]
    )


def _script(script: str, *arguments: str, proof: Path) -> Job:
    name = script.removesuffix(".py")
    return Job(name, (sys.executable, f"scripts/{script}", *arguments), proof, RUNS / f"{name}.log")


if __name__ == "__main__":
    sys.exit(main())
