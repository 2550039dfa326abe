"""scripts/mix_corpora.py: no document is lost, and equal corpora give equal bytes."""

import gzip
import json
import sys

from scripts import mix_corpora


def test_corpora_are_mixed_without_loss_and_the_same_every_time(tmp_path, monkeypatch, capsys):
    texts = {corpus: {f"{corpus} {i}\nline" for i in range(30)} for corpus in ("a", "b")}
    for corpus, documents in texts.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in sorted(documents))
        (tmp_path / f"{corpus}.jsonl").write_text(lines)
    sources = [str(tmp_path / f"{corpus}.jsonl") for corpus in texts]
    for out in ("one", "two"):
        monkeypatch.setattr(sys, "argv", ["mix", str(tmp_path / out), *sources, "--shards", "4"])
        assert mix_corpora.main() == 0
    shards = sorted((tmp_path / "one").rglob("*.gz"))
    assert [shard.name for shard in shards] == [f"c4-train.0000{i}-of-00004.json.gz" for i in range(4)]
    read = [json.loads(line)["text"] for shard in shards for line in gzip.decompress(shard.read_bytes()).splitlines()]
    assert len(read) == 60 and set(read) == texts["a"] | texts["b"]
    assert all({text[0] for text in read[k : k + 15]} == {"a", "b"} for k in range(0, 60, 15))
    for shard in shards:
        assert shard.read_bytes() == (tmp_path / "two" / "en" / shard.name).read_bytes()
    monkeypatch.setattr(sys, "argv", ["mix", str(tmp_path / "out"), str(tmp_path / "missing.jsonl")])
    assert mix_corpora.main() == 2 and "missing.jsonl" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["mix", sources[0], sources[1]])  # a file is no folder
    assert mix_corpora.main() == 1 and "Traceback" not in capsys.readouterr().err
