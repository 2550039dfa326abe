"""The run folder: one run at a time, its config, and a summary that means finished."""

import logging
import os
import signal
import tempfile
from pathlib import Path

import pytest

from configs.identity import to_dict
from configs.reading import argument
from configs.schema import load
from tests.training.run.rows import files_of_at_most
from training.run.folder import RunFolder
from training.run_errors import RunFolderError, SaveError


def test_a_second_run_is_refused_by_process_id(tmp_path):
    path = tmp_path / "runs" / "a"
    with RunFolder(path), pytest.raises(RunFolderError, match=rf"run\.dir.*process {os.getpid()} on"), RunFolder(path):
        pass
    with RunFolder(path):
        pass


def test_kill_9_releases_the_lock(tmp_path):
    ready, say = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with RunFolder(tmp_path):
                os.write(say, b"x")
                signal.pause()
        finally:
            os._exit(1)
    try:
        os.read(ready, 1)
        with pytest.raises(RunFolderError, match=f"process {child} on"), RunFolder(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with RunFolder(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / "lock").read_text()


def test_a_refused_run_changes_nothing(tmp_path):
    with RunFolder(tmp_path):
        owner = (tmp_path / "lock").read_text()
        with pytest.raises(RunFolderError), RunFolder(tmp_path):
            pass
        assert (tmp_path / "lock").read_text() == owner


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/run"])
def test_a_place_that_cannot_hold_a_run(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=rf"^run\.dir: .*{place}[^\n]*$"), RunFolder(tmp_path / place):
        pass


def test_a_disk_too_small_for_a_checkpoint(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.require_space(1, 0)
        with pytest.raises(RunFolderError, match=r"run\.dir: a checkpoint takes 1,000,000,000\.0 GB, but only .* free"):
            folder.require_space(10**18, 0)


@pytest.mark.parametrize("name", ["summary.json", "curve.png", "metrics.jsonl"])
def test_what_is_in_the_way_of_a_result_is_found_at_the_start(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(RunFolderError, match=rf"{name} is a folder"), RunFolder(tmp_path):
        pass


@pytest.mark.parametrize("name", ["checkpoints", "model"])
def test_a_file_in_the_way_of_a_result_is_found_at_the_start(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(RunFolderError, match=rf"{name} is a file"), RunFolder(tmp_path):
        pass


@pytest.mark.parametrize(
    "name", ["model/config.json", "checkpoints/step_00000010/weights.bin", "metrics.jsonl", "config.yaml", "curve.png"]
)
def test_a_folder_with_results_of_no_run_is_refused_and_kept(tmp_path, name):
    """Also beside the lock of a run that was refused there before."""
    with RunFolder(tmp_path):
        pass
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("run: mine\n")
    with pytest.raises(RunFolderError, match=rf"holds {Path(name).parts[0]}, which is of no run"), RunFolder(tmp_path):
        pass
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {file, tmp_path / "lock"}


def test_a_run_that_was_refused_after_it_had_opened_its_metrics_starts_again(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    with RunFolder(tmp_path):
        pass


@pytest.mark.parametrize("own", ["run: {name: a, seed: 0}", "glue: {task: rte, seed: 0}"])
@pytest.mark.parametrize("sign", ["config.yaml", "checkpoints/step_00000003/complete.json"])
def test_each_file_of_a_run_shows_that_its_results_are_its_own(tmp_path, sign, own):
    (tmp_path / "model").mkdir()
    for path in (tmp_path / "model" / "config.json", tmp_path / "metrics.jsonl", tmp_path / sign):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{own}\noptimizer: {{name: adam}}\n")
    with RunFolder(tmp_path):
        assert (tmp_path / "model" / "config.json").exists()


@pytest.mark.parametrize("name", ["checkpoints", "model"])
def test_a_link_to_nothing_is_found_at_the_start(tmp_path, name):
    (tmp_path / name).symlink_to(tmp_path / "gone")
    with pytest.raises(RunFolderError, match=rf"{name} is a link to a folder that does not exist"), RunFolder(tmp_path):
        pass


def test_a_mount_in_place_of_the_model_is_found_at_the_start(tmp_path):
    (tmp_path / "config.yaml").write_text("run: {name: a, seed: 0}\noptimizer: {name: adam}\n")
    (tmp_path / "model").symlink_to("/proc")
    with pytest.raises(RunFolderError, match=r"model is a mount, which cannot be replaced"), RunFolder(tmp_path):
        pass


def test_room_is_looked_for_where_checkpoints_go(tmp_path, monkeypatch):
    (tmp_path / "large").mkdir()
    monkeypatch.setattr("training.run.folder.free_bytes", lambda path: 100 if path.resolve().name == "large" else 0)
    with RunFolder(tmp_path / "run") as folder:
        folder.checkpoints.symlink_to(tmp_path / "large")
        folder.require_space(100, 0)


@pytest.mark.parametrize("content", ["[3]", "7", "null", "[" * 1500 + "]" * 1500])
def test_damaged_files_of_a_run_are_a_sentence(tmp_path, content, caplog):
    folder = RunFolder(tmp_path)
    folder.summary.write_text(content)
    assert folder.read_summary() is None and "counts as unfinished" in caplog.text
    folder.config.write_text(content)
    with pytest.raises(RunFolderError, match=r"config\.yaml is not readable"):
        folder.read_config()


def test_a_full_disk_at_the_start(tmp_path):
    with files_of_at_most(0), pytest.raises(RunFolderError, match=r"^run\.dir: cannot use"), RunFolder(tmp_path):
        pass
    with RunFolder(tmp_path) as folder:
        folder.write_config({"old": 1})
        with files_of_at_most(5), pytest.raises(RunFolderError, match=r"^run\.dir: cannot use"):
            folder.write_config({"new": "x" * 100})
        assert folder.read_config() == {"old": 1}
        assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "lock"]


def test_config_comes_back(tmp_path):
    config = {
        "run": {"name": "llama_nano_alice_s0", "seed": 0, "reference": None, "deterministic": False},
        "optimizer": {"lr": 1e-5, "betas": [0.9, 0.999], "projection": "random"},
        "data": {"path": "Ünïcode: #*.jsonl", "repeat": True, "tokenizer": "1e3"},
    }
    folder = RunFolder(tmp_path)
    assert folder.read_config() is None
    folder.write_config(config)
    assert folder.read_config() == config
    assert list(folder.read_config()) == list(config)


@pytest.mark.parametrize("name", ["cost${x}", "${run.seed}", r"a\${b}", r"\\${c", "a}${", "1e3", "null", "[a]", "'a'"])
def test_config_is_a_settings_file_of_the_same_settings(tmp_path, name):
    config = load([argument("run.name", name), argument("data.tokenizer", f"/{name}/a")]).config
    folder = RunFolder(tmp_path)
    folder.write_config(to_dict(config))
    assert config.run.name == name
    assert folder.read_config() == to_dict(config)
    assert load([str(folder.config)]).config == config


def test_an_unreadable_config_is_refused_in_one_sentence(tmp_path):
    folder = RunFolder(tmp_path)
    folder.config.write_text("run: [1, 2\nname: }")
    with pytest.raises(RunFolderError, match=r"^run\.dir: .*config\.yaml is not readable: [^\n]*$"):
        folder.read_config()


def test_a_run_is_finished_when_its_summary_is_whole(tmp_path, caplog):
    folder = RunFolder(tmp_path)
    assert folder.read_summary() is None
    folder.write_summary({"name": "a", "final_loss": 2.5, "versions": {"torch": "2"}, "final_perplexity": float("inf")})
    assert folder.read_summary() == {
        "name": "a",
        "final_loss": 2.5,
        "versions": {"torch": "2"},
        "final_perplexity": None,
    }
    folder.summary.write_text('{"name": ')
    with caplog.at_level(logging.WARNING):
        assert folder.read_summary() is None
    assert "counts as unfinished" in caplog.text


def test_a_summary_that_cannot_be_read_is_refused(tmp_path):
    """The run may be finished."""
    folder = RunFolder(tmp_path)
    folder.summary.mkdir()
    with pytest.raises(RunFolderError, match=r"^run\.dir: cannot use"):
        folder.read_summary()


def test_a_summary_that_cannot_be_written_is_not_there(tmp_path):
    folder = RunFolder(tmp_path)
    with files_of_at_most(10), pytest.raises(SaveError, match=r"summary\.json: File too large"):
        folder.write_summary({"name": "x" * 100})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "model", "checkpoints"])
def test_a_folder_that_cannot_be_written_is_found_at_the_start(name):
    with tempfile.TemporaryDirectory() as outer:  # pytest's own folders are closed to other users
        run = Path(outer) / "run"
        (run / name).mkdir(parents=True)
        (run / "lock").touch()
        for path, mode in ((Path(outer), 0o755), (run / "lock", 0o666), (run, 0o777), (run / name, 0o555)):
            path.chmod(mode)
        user = os.geteuid()
        if user == 0:  # to whom every folder is open
            os.seteuid(65534)
        try:
            with pytest.raises(RunFolderError, match=rf"cannot write in {run / name}: Permission"), RunFolder(run):
                pass
        finally:
            os.seteuid(user)
            (run / name).chmod(0o755)


def test_nothing_is_left_of_the_trial(tmp_path):
    (tmp_path / "model").mkdir()
    with RunFolder(tmp_path):
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["lock", "model"]
