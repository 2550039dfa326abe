"""scripts/mix_corpora.py: no document is lost, and equal corpora give equal bytes."""

import errno
import gzip
import json
import sys

import pytest

from data.tokenizer import load_tokenizer
from scripts import mix_corpora, train_tokenizer
from tests.data.conftest import make_section, texts


@pytest.fixture
def mix(tmp_path, monkeypatch, capsys):
    """Calls the script on lines of JSON, into tmp_path/out; returns (exit code, stderr)."""

    def mix(lines: str, *options: str) -> tuple[int, str]:
        (tmp_path / "a.jsonl").write_text(lines)
        monkeypatch.setattr(sys, "argv", ["mix", str(tmp_path / "out"), str(tmp_path / "a.jsonl"), *options])
        return mix_corpora.main(), capsys.readouterr().err

    return mix


def texts_in(folder) -> list[str]:
    shards = sorted(folder.glob("en/c4-train.*"))
    return [json.loads(line)["text"] for shard in shards for line in gzip.decompress(shard.read_bytes()).splitlines()]


def test_half_a_surrogate_pair_is_kept(mix, tmp_path):
    assert mix('{"text": "a \\ud83d \u00e9"}\n{"text": "b"}\n', "--shards", "2") == (0, "")
    assert sorted(texts_in(tmp_path / "out")) == ["a \ud83d \u00e9", "b"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["en"]


def test_a_shard_without_a_document_is_refused(mix, tmp_path):
    code, said = mix('{"text": "a"}\n' * 3)
    assert code == 2 and said == "--shards 8, but there are 3 documents; lower it to that at most\n"
    assert not (tmp_path / "out").exists()


def test_shards_of_another_number_are_not_mixed_with(mix, tmp_path):
    """The same number is replaced, as scripts/nano_text.py does when it starts again."""
    assert mix('{"text": "a"}\n' * 3, "--shards", "3")[0] == 0
    code, said = mix('{"text": "b"}\n' * 3, "--shards", "2")
    assert code == 2 and "out/en has c4-train.00000-of-00003.json.gz, which would be read too" in said
    assert mix('{"text": "b"}\n' * 3, "--shards", "3")[0] == 0
    assert texts_in(tmp_path / "out") == ["b"] * 3


def test_what_fails_half_way_leaves_the_old_shards(mix, tmp_path, monkeypatch):
    assert mix('{"text": "a"}\n' * 3, "--shards", "3")[0] == 0
    lines = iter([json.dumps({"text": "b"})])

    def dumps(*_, **__) -> str:
        for line in lines:
            return line
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mix_corpora.json, "dumps", dumps)
    assert mix('{"text": "b"}\n' * 3, "--shards", "3") == (1, "[Errno 28] No space left on device\n")
    assert texts_in(tmp_path / "out") == ["a"] * 3


def test_the_scripts_read_text_of_another_name(mix, tmp_path, monkeypatch):
    lines = "".join(json.dumps({"body": text}) + "\n" for text in texts(60))
    assert mix(lines, "--shards", "2", "--text-field", "body")[0] == 0
    assert len(texts_in(tmp_path / "out")) == 60
    options = ["--data", str(tmp_path / "a.jsonl"), "--text-field", "body", "--vocab-size", "300"]
    monkeypatch.setattr(sys, "argv", ["train", *options, "--out", str(tmp_path / "made")])
    assert train_tokenizer.main() == 0
    assert len(load_tokenizer(make_section(tokenizer=str(tmp_path / "made")))) == 300


def test_corpora_are_mixed_without_loss_and_the_same_every_time(tmp_path, monkeypatch, capsys):
    documents_of = {corpus: {f"{corpus} {i}\nline" for i in range(30)} for corpus in ("a", "b")}
    for corpus, documents in documents_of.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in sorted(documents))
        (tmp_path / f"{corpus}.jsonl").write_text(lines)
    sources = [str(tmp_path / f"{corpus}.jsonl") for corpus in documents_of]
    for out in ("one", "two"):
        monkeypatch.setattr(sys, "argv", ["mix", str(tmp_path / out), *sources, "--shards", "4"])
        assert mix_corpora.main() == 0
    shards = sorted((tmp_path / "one").rglob("*.gz"))
    assert [shard.name for shard in shards] == [f"c4-train.0000{i}-of-00004.json.gz" for i in range(4)]
    read = [json.loads(line)["text"] for shard in shards for line in gzip.decompress(shard.read_bytes()).splitlines()]
    assert len(read) == 60 and set(read) == documents_of["a"] | documents_of["b"]
    assert all({text[0] for text in read[k : k + 15]} == {"a", "b"} for k in range(0, 60, 15))
    for shard in shards:
        assert shard.read_bytes() == (tmp_path / "two" / "en" / shard.name).read_bytes()
    monkeypatch.setattr(sys, "argv", ["mix", str(tmp_path / "out"), str(tmp_path / "missing.jsonl")])
    assert mix_corpora.main() == 2 and "missing.jsonl" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["mix", sources[0], sources[1]])  # a file is no folder
    assert mix_corpora.main() == 1 and "Traceback" not in capsys.readouterr().err
