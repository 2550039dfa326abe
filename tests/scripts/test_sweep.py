"""scripts/sweep.sh: names, refusals, real runs that are interrupted and resumed; and the scripts of the tables."""

import os
import shlex
import signal
import subprocess
import sys

import pytest
import yaml

from analysis.paths import ROOT
from configs.identity import to_dict
from configs.schema import load
from experiments.grid import combinations
from scripts.sweep import main
from tests import tiny
from tests.processes import started, wait_until

QUICKSTART = "configs/quickstart.yaml"


@pytest.fixture
def sweep(monkeypatch, capfd):
    """Calls the main function of scripts/sweep.sh with these arguments; returns (exit code, stdout, stderr)."""

    def sweep(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", ["sweep.py", *arguments])
        try:
            code = main()
        except SystemExit as end:
            code = end.code
        return code, *capfd.readouterr()

    return sweep


def planned(shown: str) -> list[list[str]]:
    """The arguments of train.py in the output of -n."""
    return [shlex.split(line.split(" train.py ")[1]) for line in shown.splitlines()]


# ---- names


def test_names_hold_what_varies():
    runs = combinations(["a/alice.yaml"], ["optimizer.lr=0.01,0.02", "train.steps=7", "run.seed=0,1"])
    assert list(runs) == [
        "alice_lr=0.01_seed=0",
        "alice_lr=0.01_seed=1",
        "alice_lr=0.02_seed=0",
        "alice_lr=0.02_seed=1",
    ]
    assert runs["alice_lr=0.02_seed=0"] == ["a/alice.yaml", "optimizer.lr=0.02", "train.steps=7", "run.seed=0"]
    assert list(combinations(["alice.yaml"], ["data.path=x/a,x/b"])) == ["alice_data.path=x-a", "alice_data.path=x-b"]


def test_brackets_hold_a_value_together():
    betas = "optimizer.betas=[0.9,0.99],[0.8,0.99]"
    assert list(combinations(["a.yaml"], [betas])) == ["a_betas=[0.9,0.99]", "a_betas=[0.8,0.99]"]
    nested = "optimizer={base: alice, betas: [0.9,0.9,0.99]},{base: racs}"
    assert [run[1] for run in combinations(["a.yaml"], [nested]).values()] == [
        "optimizer={base: alice, betas: [0.9,0.9,0.99]}", "optimizer={base: racs}",
    ]  # fmt: skip
    one = "optimizer={base: alice, rank: 64}"
    assert combinations(["a.yaml"], [one, "wandb.tags=[x,y]"]) == {"a": ["a.yaml", one, "wandb.tags=[x,y]"]}


def test_files_of_one_name_are_told_apart_by_their_folders():
    assert list(combinations(["60m/alice.yaml", "130m/alice.yaml", "60m/racs.yaml"], [])) == [
        "60m_alice", "130m_alice", "60m_racs",
    ]  # fmt: skip
    assert list(combinations(["x/a/alice.yaml", "y/a/alice.yaml"], [])) == ["x_a_alice", "y_a_alice"]


# ---- refusals


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("nothing.yaml", "settings file nothing.yaml does not exist"),
        (f"{QUICKSTART},./{QUICKSTART}", "a settings file is given twice"),
        (f"{QUICKSTART} optimizer.rnak=3,4", "unknown key optimizer.rnak; did you mean optimizer.rank?"),
        (f"{QUICKSTART} optimizer.rank=16,x", "quickstart_rank=x: optimizer.rank must be an integer, got 'x'"),
        (f"{QUICKSTART} optimizer.rank=8,8", "two runs would be called quickstart_rank=8"),
        (
            f"{QUICKSTART} optimizer.rank=8,16 optimizer.rank=4",
            "optimizer.rank is given again behind its list of values",
        ),
        (f"{QUICKSTART} seed", "argument 'seed' is not of the form key=value"),
        (f"{QUICKSTART} run.dir=x", "run.dir is OUT and the run's name"),
        (f"{QUICKSTART} -j 0", "argument -j: must be at least 1, got 0"),
        (f"{QUICKSTART} -g 0,99", "-g: there is no CUDA device"),
        (f"{QUICKSTART} -l 'python", '-l: "\'python" is no command (No closing quotation)'),
        (f"{QUICKSTART} -l no-such-launcher", "-l: there is no program no-such-launcher"),
        (f"{QUICKSTART} run.seed=0,1 --job-index 2", "--job-index must be from 0 to 1, got 2"),
        (f"{QUICKSTART} run.seed=0,1 --only x", "no run is called x; there are quickstart_seed=0, quickstart_seed=1"),
        (f"{QUICKSTART} --every", "unrecognized arguments: --every"),
        ("", "the following arguments are required"),
    ],
)
def test_refusals_are_one_sentence(sweep, tmp_path, arguments, words):
    code, out, said = sweep(str(tmp_path), *arguments.split())
    assert (code, out) == (2, "")
    assert said.startswith("sweep.sh: error: ") and words in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", [[], ["run.allow_config_change=true"]])
def test_a_folder_of_something_else_is_refused(sweep, tmp_path, change):
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart" / "config.yaml").write_text("a: 1\n")
    code, _, said = sweep(str(tmp_path), QUICKSTART, *change, "-n")
    assert code == 2 and said.endswith("quickstart holds a config.yaml that is of no run: choose another OUT\n")


def test_a_device_is_one_that_is_visible(sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert "no CUDA device 0; there are 2, 5\n" in sweep(str(tmp_path), QUICKSTART, "-g", "5,0")[2]


def test_the_run_that_refuses_a_setting_is_named(sweep):
    files = f"{QUICKSTART},configs/experiment/nano/racs.yaml"
    assert sweep("runs/x", files, "optimizer.rank=16")[2].startswith(
        "sweep.sh: error: racs: unknown key optimizer.rank"
    )


# ---- real runs


@pytest.fixture
def tiny_sweep(text, tmp_path):
    """Arguments of a sweep of two tiny runs, long enough to be interrupted."""
    data = (f"data.path={text}/train.jsonl", f"data.eval_path={text}/eval.jsonl")
    length = ("train.steps=150", "train.eval_every=0", "train.checkpoint_every=0", "optimizer.update_interval=100")
    return [str(tmp_path / "out"), "tests/tiny.yaml", *data, *length, "run.seed=0,1"]


@pytest.mark.faults
def test_an_interrupted_sweep_resumes_and_a_finished_one_is_skipped(sweep, tiny_sweep, tmp_path):
    first, second = tmp_path / "out" / "tiny_seed=0", tmp_path / "out" / "tiny_seed=1"
    environment = os.environ | {"PYTHON": sys.executable}
    command = ["scripts/sweep.sh", *tiny_sweep]
    with started(command, env=environment, stdout=subprocess.PIPE) as driver:
        wait_until((first / "metrics.jsonl").exists)
        wait_until((first / "metrics.jsonl").read_text)  # before that there is nothing to save
        driver.send_signal(signal.SIGINT)
        said, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130
    (saved,) = tiny.saved_steps(first)
    assert f"tiny_seed=0: interrupted; step {saved} is saved" in said
    assert not second.exists()

    code, said, _ = sweep(*tiny_sweep, "-j", "2")
    assert code == 0, said
    steps = [row["step"] for row in tiny.metrics(first) if row["kind"] == "train"]
    assert steps == list(range(1, 151)) and 0 < saved < 150
    assert tiny.weights(first) != tiny.weights(second)

    assert sweep(*tiny_sweep)[:2] == (0, "2 of 2 are finished\n")
    assert sweep(*tiny_sweep, "--only", "tiny_seed=1")[:2] == (0, "1 of 1 are finished\n")
    code, _, said = sweep(*tiny_sweep, "optimizer.lr=0.01")
    assert code == 2 and f"{first} holds a run with other settings (optimizer.lr): choose another OUT\n" in said


def test_a_run_of_another_seed_is_not_resumed(sweep, tiny_sweep, tmp_path):
    *others, _ = tiny_sweep
    (tmp_path / "out" / "tiny").mkdir(parents=True)
    before = to_dict(load([*others[1:], "run.seed=0"]).config)
    (tmp_path / "out" / "tiny" / "config.yaml").write_text(yaml.safe_dump(before))
    assert sweep(*others, "run.seed=0", "-n")[0] == 0
    assert "holds a run with other settings (run.seed)" in sweep(*others, "run.seed=1", "-n")[2]
    assert sweep(*others, "run.seed=1", "run.allow_config_change=true", "-n")[0] == 0


def test_a_run_of_a_method_file_that_was_edited_is_not_skipped(sweep, tmp_path):
    file, folder = tiny.method_file(tmp_path, "mine_s"), tmp_path / "out" / "mine"
    settings = tmp_path / "mine.yaml"
    settings.write_text(f"base: {ROOT / QUICKSTART}\noptimizer: {{base: {file}, lr: 0.01}}\n")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(load([str(settings)]).config)))
    (folder / "summary.json").write_text("{}")
    assert sweep(str(tmp_path / "out"), str(settings))[:2] == (0, "1 of 1 are finished\n")
    (folder / "environment.json").write_text('{"optimizer_file_sha256": "of before"}')
    code, _, said = sweep(str(tmp_path / "out"), str(settings))
    assert code == 2 and "holds a run with other settings (optimizer_file_sha256)" in said


def test_a_finished_run_resumes_when_told(sweep, tiny_sweep, tmp_path):
    *others, _ = tiny_sweep
    finished = tmp_path / "out" / "tiny"
    finished.mkdir(parents=True)
    (finished / "config.yaml").write_text(yaml.safe_dump(to_dict(load(others[1:]).config)))
    (finished / "summary.json").write_text("{}")
    assert planned(sweep(*others, "run.allow_config_change=true", "-n")[1]) == []
    assert len(planned(sweep(*others, "train.steps=300", "run.allow_config_change=true", "-n")[1])) == 1


def test_a_folder_may_have_any_name(sweep, tmp_path):
    out = tmp_path / "my runs #1"
    [arguments] = planned(sweep(str(out), QUICKSTART, "-n")[1])
    assert load(arguments).config.run.dir == str(out / "quickstart")


def test_one_run_is_picked_by_its_place_among_all(sweep, tiny_sweep, tmp_path):
    (tmp_path / "out" / "tiny_seed=0").mkdir(parents=True)
    (tmp_path / "out" / "tiny_seed=0" / "summary.json").write_text("{}")
    for choice in (["--job-index", "1"], ["--only", "tiny_seed=1"], []):
        (arguments,) = planned(sweep(*tiny_sweep, "-n", *choice)[1])
        assert arguments[-2:] == ["run.seed=1", f"run.dir={tmp_path}/out/tiny_seed=1"]
    assert sweep(*tiny_sweep, "-n", "--job-index", "0")[:2] == (0, "")


# ---- wandb


def agents_command(agent, config: dict, name: str) -> list[str]:
    """What wandb's agent executes for one value of the parameter, by its own functions (Agent._command_run)."""
    found = agent.create_sweep_command_args({"args": {"only": {"value": name}}})
    found["program"] = [config["program"]]
    command = []
    for part in agent.create_sweep_command(config["command"]):
        command += found[part[2:-1]] if part.startswith("${") and part.endswith("}") else [part]
    return command


@pytest.mark.slow
def test_an_agent_makes_the_runs_of_the_sweep(sweep, tiny_sweep, tmp_path):
    settings = ["wandb.project=llama", "wandb.tags=[a,b]"]
    _, printed, _ = sweep(*tiny_sweep, *settings, "-l", f"{sys.executable} -u", "--wandb")
    (tmp_path / "sweep.yaml").write_text(printed)
    from wandb.sdk.launch.sweeps import utils as agent  # seconds, for this test alone

    config = agent.load_sweep_config(str(tmp_path / "sweep.yaml"))
    assert (config["method"], config["project"]) == ("grid", "llama")
    assert config["metric"] == {"name": "eval/perplexity", "goal": "minimize"}
    names = config["parameters"]["only"]["values"]
    assert names == ["tiny_seed=0", "tiny_seed=1"]
    command = agents_command(agent, config, names[1])
    assert command[:2] == ["bash", "scripts/sweep.sh"]
    _, shown, _ = sweep(*command[2:], "-n")
    assert shown.startswith(f"{sys.executable} -u train.py tests/tiny.yaml ")
    (arguments,) = planned(shown)
    run = load(arguments).config
    assert (run.run.dir, run.run.seed) == (str(tmp_path / "out" / "tiny_seed=1"), 1)
    assert (run.wandb.mode, run.wandb.project, run.wandb.tags) == ("online", "llama", ["a", "b"])


# ---- the tables


@pytest.fixture
def shell(tmp_path):
    """Runs a script with a Python that only prints its arguments, a line each."""
    shown = tmp_path / "python"
    shown.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    shown.chmod(0o755)

    def shell(*command: str) -> subprocess.CompletedProcess:
        environment = os.environ | {"PYTHON": str(shown)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return shell


@pytest.mark.parametrize(
    ("words", "folder", "count"),
    [(("table2.sh", size), f"table2/{size}", 13) for size in ("60m", "130m", "350m", "1_3b")]
    + [(("table4.sh",), "table4", 2), (("ablations.sh",), "ablations", 10)],
)
def test_a_table_is_a_sweep_over_the_files_of_its_folder(shell, words, folder, count):
    script, *size = words
    ended = shell(str(ROOT / "scripts" / script), *size, "run.seed=0,1", "-l", "accelerate launch")
    program, out, files, *rest = ended.stdout.splitlines()
    assert (program, out, rest) == ("scripts/sweep.py", f"runs/{folder}", ["run.seed=0,1", "-l", "accelerate launch"])
    assert files.split(",") == sorted(f"configs/experiment/{folder}/{stem}.yaml" for stem in stems(folder))
    assert len(files.split(",")) == count


def stems(folder: str) -> set[str]:
    return {path.stem for path in (ROOT / "configs" / "experiment" / folder).glob("*.yaml")}


@pytest.mark.parametrize("words", [(), ("7b",), ("-n",)], ids=str)
def test_a_wrong_size_is_refused(shell, words):
    ended = shell(str(ROOT / "scripts" / "table2.sh"), *words)
    got = words[0] if words else ""
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"table2.sh: error: the size must be one of 60m, 130m, 350m, 1_3b, got '{got}'\n"


# ---- batch jobs


@pytest.fixture
def cluster(tmp_path):
    """Starts a script of scripts/slurm in `tmp_path`, with programs that are shell scripts: cluster(programs, ...)."""

    def cluster(programs: dict[str, str], script: str, *arguments: str, **variables: str):
        for name, text in programs.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / name).chmod(0o755)
        environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "40", **variables}
        return started(["bash", str(ROOT / "scripts/slurm" / script), *arguments], cwd=tmp_path, env=environment)

    return cluster


@pytest.mark.faults
def test_an_array_task_requeues_itself_before_the_limit(cluster, tmp_path):
    programs = {
        "scontrol": 'echo "$@" > requeued',
        "table": 'trap "sleep 0.3; touch saved; exit 143" TERM; echo "$@" > arguments; while :; do sleep 0.1; done',
        "finished": "exit 0",
        "failing": "exit 2",
    }

    def start(*command: str):
        return cluster(programs, "array.sbatch", *command, SLURM_ARRAY_TASK_ID="1", SLURM_ARRAY_JOB_ID="40")

    for command, code in (("finished", 0), ("failing", 2)):
        with start(command) as task:
            assert task.wait(60) == code
    assert not (tmp_path / "requeued").exists()
    with start("table", "60m", "run.seed=0,1") as task:
        wait_until((tmp_path / "arguments").exists)
        task.send_signal(signal.SIGTERM)
        assert task.wait(60) == 0
    assert (tmp_path / "arguments").read_text() == "60m run.seed=0,1 --job-index 1\n"
    assert (tmp_path / "requeued").read_text() == "requeue 40_1\n"
    assert (tmp_path / "saved").exists()


@pytest.mark.faults
def test_a_job_of_machines_lets_its_processes_save_and_requeues_itself(cluster, tmp_path):
    """The processes hear the signal, and their launcher does not; at a preemption a machine's task alone hears it."""
    programs = {
        "scontrol": '[ "$1" = show ] && printf "node%s\\n" 1 2 || echo "$@" > requeued',
        "srun": 'echo $$ > task; echo "$SRUN_CPUS_PER_TASK" > cores; SLURM_NODEID=0 exec "$@"',
        "accelerate": """case "$*" in *finished*) exit 0 ;; *failing*) exit 3 ;; esac
            trap "touch killed; exit 1" TERM
            echo "$@" > arguments
            sh -c 'trap "sleep 0.3; touch saved; exit 143" TERM; touch running; while :; do sleep 0.1; done' &
            wait $!""",
    }

    def start(*arguments: str, **more: str):
        machines = {"SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_NODELIST": "node[1-2]"}
        return cluster(programs, "train.sbatch", *arguments, **machines, **more)

    for name, code in (("finished", 0), ("failing", 3)):
        with start(f"{name}.yaml") as job:
            assert job.wait(60) == code
    assert not (tmp_path / "requeued").exists()
    with start("alice.yaml", "run.name=a b") as job:
        wait_until((tmp_path / "running").exists)
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 0
    words = "--num_machines 2 --num_processes 16 --machine_rank 0 --main_process_ip node1 --main_process_port 20040"
    config = "configs/accelerate/multi_node.yaml"
    expected = f"launch --config_file {config} {words} train.py alice.yaml run.name=a b\n"
    assert (tmp_path / "arguments").read_text() == expected and (ROOT / config).is_file()
    assert (tmp_path / "requeued").read_text() == "requeue 40\n"
    assert (tmp_path / "saved").exists() and not (tmp_path / "killed").exists()

    for name in ("requeued", "saved", "running"):
        (tmp_path / name).unlink()
    with start("alice.yaml", SLURM_CPUS_PER_TASK="24") as job:
        wait_until((tmp_path / "running").exists)
        os.kill(int((tmp_path / "task").read_text()), signal.SIGTERM)
        assert job.wait(60) == 143
    assert (tmp_path / "saved").exists() and not (tmp_path / "killed").exists()
    assert not (tmp_path / "requeued").exists()
    assert (tmp_path / "cores").read_text() == "24\n"
