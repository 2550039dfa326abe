"""scripts/nano_text.py: one corpus and one tokenizer of three corpora, made once."""

import gzip
import json

import pytest
import transformers

from data.sources import training_source
from scripts import nano_text
from tests.data.conftest import make_section


@pytest.fixture
def make(tmp_path, monkeypatch, capfd):
    """Runs the script on tmp_path/corpora for tmp_path/nano; returns (exit code, stdout)."""

    def make() -> tuple[int, str]:
        monkeypatch.setattr(nano_text, "RUNS", tmp_path / "nano")
        monkeypatch.setattr("sys.argv", ["nano_text.py", str(tmp_path / "corpora")])
        code = nano_text.main()
        return code, capfd.readouterr().out

    return make


def documents(folder) -> list[str]:
    files = sorted((folder / "en").glob("c4-train.*.json.gz"))
    return [json.loads(line)["text"] for file in files for line in gzip.decompress(file.read_bytes()).splitlines()]


@pytest.mark.slow
def test_three_corpora_become_one_and_a_tokenizer_and_are_not_made_again(make, tmp_path):
    source = training_source(make_section(source="builtin"))  # 4096 pieces take some text
    addresses = [text for file in range(60) for _, text in source.read(file, 0)]
    for number, name in enumerate(("books", "modern", "c4")):
        (tmp_path / "corpora" / name / "en").mkdir(parents=True)
        texts = addresses[number::3]
        shard = tmp_path / "corpora" / name / "en" / "c4-train.00000-of-00001.json.gz"
        shard.write_bytes(gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode()))
    nano = tmp_path / "nano"
    assert make()[0] == 0
    assert sorted(documents(nano / "corpus")) == sorted(
        text for name in ("books", "modern", "c4") for text in documents(tmp_path / "corpora" / name)
    )
    assert (nano / "text").resolve() == tmp_path / "corpora"
    tokenizer = transformers.AutoTokenizer.from_pretrained(nano / "tokenizer")
    assert tokenizer.decode(tokenizer.encode("the people's hope", add_special_tokens=False)) == "the people's hope"
    assert len(tokenizer) == 4096
    before = (nano / "tokenizer" / "tokenizer.json").stat().st_mtime_ns
    assert make() == (0, "2 of 2 are finished\n")
    assert (nano / "tokenizer" / "tokenizer.json").stat().st_mtime_ns == before


def test_a_corpus_that_is_missing_is_named(make, tmp_path, capfd):
    (tmp_path / "corpora" / "books").mkdir(parents=True)
    with pytest.raises(SystemExit):
        make()
    assert f"there is no folder {tmp_path}/corpora/modern" in capfd.readouterr().err
    assert not (tmp_path / "nano").exists()


def test_other_corpora_are_not_mixed_into_text_that_is_made(make, tmp_path, capfd):
    """What was made from the first would be trained on, and the others evaluated on."""
    for name in ("books", "modern", "c4"):
        (tmp_path / "corpora" / name).mkdir(parents=True)
    nano = tmp_path / "nano"
    (nano / "corpus").mkdir(parents=True)
    (nano / "text").symlink_to(tmp_path / "others")
    with pytest.raises(SystemExit):
        make()
    assert "others; move it away to make that of" in capfd.readouterr().err
    assert (nano / "text").readlink() == tmp_path / "others"
