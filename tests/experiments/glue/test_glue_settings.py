"""The files of configs/experiment/glue and what a run makes of them: GaLore's published settings, and refusals."""

import pytest

from analysis.paths import EXPERIMENTS
from configs.schema import SettingsError
from experiments.glue.glue_runs import check_folder, chosen_seeds, chosen_tasks, describe, plan
from experiments.glue.glue_settings import load
from experiments.glue.tasks import TASKS

GLUE = EXPERIMENTS / "glue"
GALORE = str(GLUE / "galore_rank_4.yaml")
# Table 7 of arXiv 2403.03507: learning rates at ranks 4 and 8, batch sizes.
PUBLISHED = {
    "mnli": (1e-5, 1e-5, 16),
    "sst2": (1e-5, 2e-5, 16),
    "mrpc": (3e-5, 2e-5, 16),
    "cola": (3e-5, 1e-5, 32),
    "qnli": (1e-5, 1e-5, 16),
    "qqp": (1e-5, 2e-5, 16),
    "rte": (1e-5, 2e-5, 16),
    "stsb": (1e-5, 3e-5, 16),
}


@pytest.mark.parametrize("task", TASKS)
def test_galore_has_its_published_settings(task):
    rate_4, rate_8, batch_size = PUBLISHED[task]
    for rank, rate, scale in ((4, rate_4, 4.0), (8, rate_8, 2.0)):
        config = load(str(GLUE / f"galore_rank_{rank}.yaml"), [], task, seed=3)
        glue, optimizer = config.glue, config.optimizer
        assert (optimizer.name, optimizer.rank, optimizer.scale) == ("galore", rank, scale)
        assert (optimizer.lr, optimizer.adam_lr, optimizer.update_interval) == (rate, rate, 500)
        assert (glue.task, glue.seed, glue.epochs, glue.batch_size, glue.max_length) == (task, 3, 30, batch_size, 512)
        assert (glue.model, glue.data, glue.warmup) == ("FacebookAI/roberta-base", None, 0.0)


def test_every_file_loads_and_asks_for_the_rates_that_nobody_published():
    files = {file.stem: str(file) for file in GLUE.glob("*.yaml")}
    assert {"adam", "racs", "galore_rank_4", "galore_rank_8", "alice_rank_4", "alice_rank_8"} == set(files)
    for name in files.keys() - {"galore_rank_4", "galore_rank_8"}:
        with pytest.raises(SettingsError, match=r"optimizer\.(adam_)?lr is required and not set"):
            load(files[name], [], "rte", 0)
        rates = ["optimizer.lr=2e-3", *([] if name == "adam" else ["optimizer.adam_lr=1e-5"])]
        config = load(files[name], rates, "rte", 0)
        assert (config.optimizer.lr, config.optimizer.adam_lr) == (2e-3, 2e-3 if name == "adam" else 1e-5)


def test_overrides_come_after_the_task_and_the_task_after_the_file(tmp_path):
    file = tmp_path / "f.yaml"
    file.write_text(
        "glue: {model: m, epochs: 3, batch_size: 8, max_length: 9}\noptimizer: {name: fira, lr: 0.1}\n"
        "tasks:\n  cola: {lr: 0.2, adam_lr: 0.01, epochs: 5}\n"
    )
    cola, rte = (load(str(file), [], task, 0) for task in ("cola", "rte"))
    assert (cola.optimizer.lr, cola.optimizer.adam_lr, cola.glue.epochs, cola.glue.batch_size) == (0.2, 0.01, 5, 8)
    assert (rte.optimizer.lr, rte.optimizer.adam_lr, rte.glue.epochs) == (0.1, 0.1, 3)
    changed = load(str(file), ["optimizer.lr=0.3", "glue.epochs=7"], "cola", 0)
    assert (changed.optimizer.lr, changed.optimizer.adam_lr, changed.glue.epochs) == (0.3, 0.01, 7)


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        ("", ["glue.epoch=3"], "unknown key glue.epoch; did you mean glue.epochs?"),
        ("", ["glue.epochs=many"], "glue.epochs must be an integer, got 'many'"),
        ("", ["glue.warmup=1"], "glue.warmup must be less than 1, got 1.0"),
        ("", ["optimizer.rank=0"], "optimizer.rank must be a whole number at least 1, got 0"),
        ("", ["optimizer.name=galor"], "optimizer.name must be one of"),
        ("", ["optimizer.last_layer=adam"], "optimizer.last_layer has no use here"),
        ("tasks: {colla: {lr: 1}}", [], "unknown task 'colla', must be one of cola, stsb, mrpc"),
        ("tasks:\n  cola: {rank: 4}", [], "f.yaml line 3: tasks.cola.rank is not one of the settings of a task: lr,"),
        ("tasks: cola", [], "f.yaml line 2: tasks must hold keys and values, got 'cola'"),
        ("tasks: {cola: 3e-5}", [], "f.yaml line 2: tasks.cola must hold keys and values, got '3e-5'"),
        ("glue: 3", [], "f.yaml line 2: glue must hold keys and values, got '3'"),
    ],
)
def test_a_mistake_gets_one_sentence(tmp_path, text, overrides, said):
    file = tmp_path / "f.yaml"
    file.write_text(f"base: {GALORE}\n{text}\n")
    with pytest.raises(SettingsError) as raised:
        load(str(file), overrides, "cola", 0)
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_runs_are_every_setting_on_every_task_with_every_seed():
    runs = plan([GALORE], ["optimizer.lr=1e-5,2e-5", "glue.epochs=3"], ["glue.data=x"], ["cola"], [0, 7])
    assert list(runs) == [f"galore_rank_4_lr={lr}_cola_s{seed}" for lr in ("1e-5", "2e-5") for seed in (0, 7)]
    config = runs["galore_rank_4_lr=2e-5_cola_s7"]
    assert (config.optimizer.lr, config.glue.seed, config.glue.epochs, config.glue.data) == (2e-5, 7, 3, "x")
    assert "task=cola seed=7" in describe(config) and " lr=2e-05 adam_lr=2e-05 " in describe(config)


def test_lists_on_the_command_line_are_checked(tmp_path):
    assert (chosen_tasks("rte,cola,rte"), chosen_seeds("2,0,2")) == (["rte", "cola"], [2, 0])
    with pytest.raises(SettingsError, match=r"unknown task 'mrcp'.*did you mean mrpc"):
        chosen_tasks("cola,mrcp")
    with pytest.raises(SettingsError, match="a seed must be a whole number, got '-1'"):
        chosen_seeds("0,-1")
    with pytest.raises(SettingsError, match=r"rte_s4294967296: glue.seed must be at most 4294967295, got 4294967296"):
        plan([GALORE], [], [], ["rte"], [2**32])
    with pytest.raises(SettingsError, match="tasks and seeds are named by --tasks and --seeds"):
        plan([GALORE], ["glue.task=cola"], [], ["rte"], [0])
    with pytest.raises(SettingsError, match=f"{tmp_path} has no folder rte: for several tasks"):
        plan([GALORE], [], [f"glue.data={tmp_path}"], ["cola", "rte"], [0])


def test_a_folder_of_a_run_with_other_settings_is_refused(tmp_path):
    config = load(GALORE, [], "cola", 0)
    check_folder(tmp_path, config)
    (tmp_path / "config.yaml").write_text("glue: {epochs: 3}\noptimizer: {lr: 3.0e-05}\n")
    with pytest.raises(SettingsError, match=r"holds a run with other settings \(.*glue.epochs.*\): choose another OUT"):
        check_folder(tmp_path, config)
