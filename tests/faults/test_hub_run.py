"""Datasets on a hub that misbehaves, and runs on them that are killed: every document once, every row the same."""

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import train
from data import remote
from data.sources import evaluation_source, training_source
from tests import tiny
from tests.data.conftest import make_section, read, texts, write

pytestmark = pytest.mark.faults
ROOT = Path(train.__file__).parent
DOCUMENTS = texts(1200)
STORM = [503, (429, 0), ("reset", 700), ("stall", 900), ("cut", 300), ("cut silently", 500), 500, ("reset", 0)]


def commit(hub, suffix: str) -> str:
    """A dataset of three files of a format; its name."""
    folder = hub.folder / "data"
    for n in range(3):
        write(folder / f"train/part{n}{suffix}", DOCUMENTS[n::3])
    hub.commit("me/corpus", folder)
    return "me/corpus"


@pytest.mark.parametrize("suffix", [".jsonl", ".json.gz", ".jsonl.zst", ".parquet"])
def test_every_document_is_read_once_from_a_hub_that_fails(hub, impatient, suffix, monkeypatch):
    """Statuses, resets, stalls and short bodies of both hosts, and of the listing."""
    monkeypatch.setattr(remote, "RETRIES", 8)
    section = make_section(source="hub", path=commit(hub, suffix), held_out=0.1)
    hub.faults = {"revision": [503], "tree": [(429, 0), ("stall", 0)], f"part1{suffix}": [503, (429, 0), ("reset", 0)]}
    hub.files.faults = {f"part{n}{suffix}": STORM[n:] + STORM[:n] for n in range(3)}
    training = read(training_source(section))
    assert not any(hub.files.faults.values()) and not any(hub.faults.values()), "every fault was met"
    assert sorted(training + read(evaluation_source(section))) == sorted(DOCUMENTS)


@pytest.mark.parametrize(
    "suffix, reading", [(".jsonl.zst", "RemoteFile.readinto:9"), (".parquet", "RemoteParts._fetch_range:5")]
)
def test_a_run_that_is_killed_ends_as_one_that_is_not(hub, suffix, reading, tmp_path):
    """Killed while it reads a file, and between steps, in the middle of a row group (of 30 documents)."""
    text = ("data.source=hub", f"data.path={commit(hub, suffix)}", "data.held_out=0.1", "data.shuffle_buffer=3")
    data = [*text, "train.checkpoint_every=2"]
    whole, killed = (["tests/tiny.yaml", *data, f"run.dir={tmp_path / name}"] for name in ("whole", "killed"))
    assert train.main(whole) == 0
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1,localhost"}
    for fault in (f"kill:data.remote.{reading}", "kill:training.loop.Trainer._update:6"):
        hub.files.faults = {f"part{n}{suffix}": [503, ("reset", 900), ("cut", 200)] for n in range(3)}
        command = [sys.executable, "tests/faults/faulty.py", fault, *killed]
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert tiny.saved_steps(tmp_path / "killed") == [2, 4]
    streams = (tmp_path / "killed" / "checkpoints" / "step_00000004" / "streams.json.gz").read_bytes()
    assert all(state["position"] % 30 for state in json.loads(gzip.decompress(streams)).values()), "inside a row group"
    assert train.main(killed) == 0
    assert tiny.metrics(tmp_path / "killed") == tiny.metrics(tmp_path / "whole")
    assert tiny.weights(tmp_path / "killed") == tiny.weights(tmp_path / "whole")
