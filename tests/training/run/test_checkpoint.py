"""Checkpoints: exact, whole or absent whatever interrupts a save, and never more than their bytes."""

import errno
import hashlib
import io
import logging
import os
import random
import resource
import shutil
import signal
import sys
from pathlib import Path

import numpy
import pytest
import torch

from training.run import checkpoint
from training.run.random_states import random_states, set_random_states
from training.run.stored import Stored
from training.run_errors import MachineError, SaveError


def contents(step: int) -> dict:
    """A small state that differs in every file from one step to the next."""
    generator = torch.Generator().manual_seed(step)
    stack = torch.randn(3, 16, 8, generator=generator)
    return {
        "model_state": {"embed": torch.randn(32, 8, generator=generator), "up": stack[0].bfloat16()},
        "optimizer_state": {
            "state": {0: {"basis": stack[1], "step": torch.tensor(float(step))}, 1: {"count": step}},
            "param_groups": [{"lr": 0.1 / step, "betas": (0.9, 0.999), "params": [0, 1], "fused": None}],
        },
        "streams": {"0": {"epoch": 1, "buffer": ["Grüße, 世界", "a"], "random": 2**127 + step, "tokens": [1, 2]}},
        "random_states": {"python": (3, (1, 2, step), None), "torch": torch.tensor([7, step % 251], dtype=torch.uint8)},
        "counters": {"tokens": 1000 * step, "train_seconds": 0.1 + step},
        "config": {"run": {"seed": 0}, "data": {"path": None}},
    }


def save(folder: Path, step: int) -> Path:
    return checkpoint.save(folder, step, **contents(step))


def assert_holds(found: checkpoint.Checkpoint, step: int) -> None:
    expected, state = contents(step), checkpoint.load(found)
    assert found.step == step
    assert (found.counters, found.config) == (expected["counters"], expected["config"])
    assert_same(values(state.model), expected["model_state"])
    assert_same(values(state.optimizer), expected["optimizer_state"])
    assert_same(state.random_states, expected["random_states"])
    assert state.streams == expected["streams"]


def values(stored: Stored):
    """All that is stored, its tensors read one after the other."""

    def walk(value):
        if isinstance(value, torch.Tensor):
            return stored.read(value)
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items()}
        return type(value)(map(walk, value)) if isinstance(value, list | tuple) else value

    return walk(stored.content)


def assert_same(got, expected) -> None:
    assert type(got) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert got.dtype == expected.dtype
        assert torch.equal(got, expected)
    elif isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_same(got[key], expected[key])
    elif isinstance(expected, list | tuple):
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other)
    else:
        assert got == expected


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_everything_comes_back(tmp_path):
    assert checkpoint.newest(tmp_path / "checkpoints") is None
    path = save(tmp_path / "checkpoints", 7)
    assert path == tmp_path / "checkpoints" / "step_00000007"
    assert_holds(checkpoint.newest(tmp_path / "checkpoints"), 7)


def test_newest_is_by_number_not_by_name(tmp_path):
    for step in (99_999_999, 100_000_000, 5):
        save(tmp_path, step)
    assert checkpoint.newest(tmp_path).step == 100_000_000


def test_a_step_is_saved_once(tmp_path):
    save(tmp_path, 1)
    before = fingerprint(tmp_path)
    checkpoint.save(tmp_path, 1, **contents(2))
    assert fingerprint(tmp_path) == before


def test_views_do_not_drag_their_storage_along(tmp_path):
    stack = torch.randn(64, 128, 128)
    views = {
        "one": stack[3],
        "part": stack[4, :10],
        "turned": stack[5].T,
        "every other": stack[6, :, ::2],
        "rows": list(torch.randn(4, 128, 128)),
    }
    part = contents(1) | {"optimizer_state": views, "model_state": {"a": stack[0], "b": stack[1].T}}
    path = checkpoint.save(tmp_path, 1, **part)
    needed = sum(t.nbytes for t in (stack[3], stack[4, :10], stack[5], stack[6, :, ::2])) + 4 * stack[0].nbytes
    assert (path / checkpoint.OPTIMIZER).stat().st_size < needed + 10_000
    assert (path / checkpoint.MODEL).stat().st_size < 2 * stack[0].nbytes + 10_000
    state = checkpoint.load(checkpoint.newest(tmp_path))
    assert_same(values(state.optimizer), views)
    assert torch.equal(state.model.read(state.model.content["b"]), stack[1].T)


def test_objects_are_refused_by_place(tmp_path):
    bad = contents(1) | {"optimizer_state": {"state": {3: {"projector": random.Random()}}}}
    with pytest.raises(TypeError, match=r"state\['state'\]\[3\]\['projector'\] is a Random"):
        checkpoint.save(tmp_path, 1, **bad)
    assert list(tmp_path.iterdir()) == []


def test_loading_runs_no_code(tmp_path):
    path = save(tmp_path, 1)

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"state": Trap()}, path / checkpoint.OPTIMIZER)
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        checkpoint.load(checkpoint.read(path))
    assert not (tmp_path / "sprung").exists()


def test_prune_keeps_two_and_deletes_later_ones(tmp_path):
    paths = {step: save(tmp_path, step) for step in (1, 2, 3, 4, 9)}
    (paths[3] / checkpoint.MARKER).unlink()
    checkpoint.prune(paths[4])
    assert {path.name for path in tmp_path.iterdir()} == {"step_00000002", "step_00000004"}
    checkpoint.prune(paths[4], keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000004"]


@pytest.mark.parametrize("name", [*checkpoint.FILES, checkpoint.MARKER])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed", "emptied"])
def test_a_damaged_file_means_the_checkpoint_before(tmp_path, caplog, name, damage):
    save(tmp_path, 1)
    file = save(tmp_path, 2) / name
    data = bytearray(file.read_bytes())
    if damage == "removed":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes({"truncated": data[: len(data) // 2], "flipped": data, "emptied": b""}[damage])
    with caplog.at_level(logging.WARNING):
        assert_holds(checkpoint.newest(tmp_path), 1)
    assert "step_00000002 is damaged" in caplog.text
    assert name in caplog.text or name == checkpoint.MARKER

    checkpoint.prune(save(tmp_path, 2))  # and the next save of that step makes it good
    assert_holds(checkpoint.newest(tmp_path), 2)


UNREADABLE = [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE]


@pytest.mark.parametrize("code", UNREADABLE, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", [*checkpoint.FILES, checkpoint.MARKER])
def test_a_checkpoint_that_cannot_be_read_is_not_damaged(tmp_path, monkeypatch, name, code):
    """No other one is taken for the newest, and nothing is deleted or overwritten."""
    for step in (1, 2):
        save(tmp_path, step)
    before, opened = fingerprint(tmp_path), io.open

    def refuse(path, *arguments, **named):
        if Path(path) == tmp_path / "step_00000002" / name:
            raise OSError(code, os.strerror(code), str(path))
        return opened(path, *arguments, **named)

    monkeypatch.setattr(io, "open", refuse)
    with pytest.raises(MachineError, match=f"cannot read the checkpoint .*step_00000002: {os.strerror(code)}; nothing"):
        checkpoint.newest(tmp_path)
    with pytest.raises(SaveError, match=f"step_00000002 cannot be read: {os.strerror(code)}"):
        save(tmp_path, 2)
    assert not checkpoint.delete_older(tmp_path)
    monkeypatch.undo()
    assert fingerprint(tmp_path) == before
    assert checkpoint.newest(tmp_path).step == 2


def test_a_folder_that_cannot_be_listed_is_not_empty(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        checkpoint.newest(tmp_path)


def test_another_format_is_refused(tmp_path, monkeypatch):
    save(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    with pytest.raises(ValueError, match="has checkpoint format 1, this code reads format 2"):
        checkpoint.newest(tmp_path)


def killed_at(moment: int, work) -> bool:
    """Run `work` in a fork that dies of SIGKILL at its `moment`-th touch of the disk; False if it comes through.

    A touch is an open, a rename, a folder made, a deletion, and each fsync twice: before and after.
    """
    child = os.fork()
    if child == 0:
        touches = 0

        def touch(*_):
            nonlocal touches
            touches += 1
            if touches == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        def fsync(descriptor, sync=os.fsync):
            touch()
            sync(descriptor)
            touch()

        os.fsync = fsync
        events = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}
        sys.addaudithook(lambda event, _: touch() if event in events else None)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


@pytest.mark.faults
def test_kill_at_every_moment_of_a_save(tmp_path):
    """In the way: a torn save of the same step and an abandoned temporary folder, left by earlier kills."""
    before = tmp_path / "before"
    save(before, 1)
    (save(before, 2) / checkpoint.MARKER).unlink()
    (before / "step_00000009.tmp").mkdir()
    steps = set()
    for moment in range(1, 1000):
        folder = tmp_path / str(moment)
        shutil.copytree(before, folder)
        killed = killed_at(moment, lambda folder=folder: checkpoint.prune(save(folder, 2), keep=1))
        found = checkpoint.newest(folder)
        steps.add(found.step)
        assert_holds(found, found.step)

        checkpoint.prune(save(folder, 2), keep=1)
        assert_holds(checkpoint.newest(folder), 2)
        assert [path.name for path in folder.iterdir()] == ["step_00000002"]
        if not killed:
            break
    assert moment > 40
    assert steps == {1, 2}


FULL = [errno.ENOSPC, errno.EDQUOT, errno.EIO]


@pytest.mark.parametrize("code", FULL, ids=errno.errorcode.get)
def test_a_failing_disk_at_every_fsync(tmp_path, monkeypatch, code):
    save(tmp_path, 1)
    before, sync = fingerprint(tmp_path), os.fsync
    for moment in range(1, 100):
        calls = 0

        def fail(descriptor, moment=moment):
            nonlocal calls
            calls += 1
            if calls == moment:
                raise OSError(code, os.strerror(code))
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", fail)
        try:
            path = save(tmp_path, 2)
            break
        except SaveError as error:
            assert isinstance(error, MachineError)
            assert os.strerror(code) in str(error)
            assert str(tmp_path) in str(error)
            assert fingerprint(tmp_path) == before
    assert moment > len(checkpoint.FILES)
    assert checkpoint.newest(tmp_path).path == path


@pytest.mark.parametrize("limit", [100, 1_500, 3_000, 300_000])
def test_a_write_that_fails_half_way(tmp_path, limit):
    """The kernel cuts files off at `limit` bytes: in the small files, the weights, the optimizer's state."""
    save(tmp_path, 1)
    before = fingerprint(tmp_path)
    big = contents(2)
    big["optimizer_state"] = {"moment": torch.zeros(100_000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(SaveError, match="File too large"):
            checkpoint.save(tmp_path, 2, **big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert fingerprint(tmp_path) == before
    assert checkpoint.newest(tmp_path).step == 1


def test_a_full_disk_is_noticed_before_the_last_byte_is_taken(tmp_path, monkeypatch):
    save(tmp_path, 1)
    before = fingerprint(tmp_path)
    monkeypatch.setattr(checkpoint, "free_bytes", lambda folder: 1000)
    sentence = r"checkpoint of step 2 in .*: No space left on device \(0\.0 MB needed, 0\.0 MB free\)"
    with pytest.raises(SaveError, match=sentence):
        save(tmp_path, 2)
    assert fingerprint(tmp_path) == before


def test_a_disk_with_room_for_two_keeps_the_newest_whole_one(tmp_path, monkeypatch):
    """Older ones are deleted to make room for the next."""
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / "step_00000003" / "model.safetensors").write_bytes(b"damaged")
    monkeypatch.setattr(checkpoint, "free_bytes", lambda folder: 10**9 * (len(list(folder.glob("step_*"))) < 2))
    saved = save(tmp_path, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000002", "step_00000004"]
    assert checkpoint.newest(tmp_path).path == saved


@pytest.mark.parametrize("where", ["_torch_save", "fsync"])
def test_a_quota_with_room_for_two_keeps_the_newest_whole_one(tmp_path, monkeypatch, where):
    """It is noticed when a file is written, or flushed to a server; the disk says that it has room."""
    for step in (1, 2):
        save(tmp_path, step)
    original = getattr(checkpoint, where)

    def refuse(*arguments):
        if len(list(tmp_path.glob("step_*"))) > 2:
            if where == "fsync":
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
            arguments = (arguments[0], Path("/dev/full"))
        original(*arguments)

    monkeypatch.setattr(checkpoint, where, refuse)
    for step in (3, 4):
        save(tmp_path, step)
        assert_holds(checkpoint.newest(tmp_path), step)
        assert [path.name for path in sorted(tmp_path.iterdir())] == [f"step_{n:08d}" for n in (step - 1, step)]


def test_nothing_is_deleted_for_a_checkpoint_that_cannot_fit(tmp_path, monkeypatch):
    for step in (1, 2):
        save(tmp_path, step)
    before = fingerprint(tmp_path)
    monkeypatch.setattr(checkpoint, "free_bytes", lambda folder: 1000)
    with pytest.raises(SaveError, match="No space left"):
        checkpoint.save(tmp_path, 3, **contents(3) | {"model_state": {"big": torch.zeros(10**6)}})
    assert fingerprint(tmp_path) == before


def test_random_states_continue():
    states = random_states()
    expected = random.random(), numpy.random.rand(), torch.rand(3)
    set_random_states(states)
    assert (random.random(), numpy.random.rand()) == expected[:2]
    assert torch.equal(torch.rand(3), expected[2])


def test_random_states_survive_a_checkpoint(tmp_path):
    states = random_states()
    checkpoint.save(tmp_path, 1, **contents(1) | {"random_states": [states]})
    assert_same(checkpoint.load(checkpoint.newest(tmp_path)).random_states, [states])
