"""Settings files and the command line: how they merge, what is refused, and with which words."""

import itertools
from pathlib import Path

import pytest
import yaml

from configs import checks
from configs.reading import FOLDER, GROUPS, argument
from configs.schema import SettingsError, load, optimizer_options
from optimizers import registry

OPTIMIZERS = sorted(path.stem for path in (FOLDER / "optimizer").glob("*.yaml"))


def config(*argv):
    return load(list(argv)).config


def refusal(*argv) -> str:
    with pytest.raises(SettingsError) as caught:
        load(list(argv))
    text = str(caught.value)
    assert "\n" not in text
    return text


# ---- merging


def test_no_file_is_the_quickstart():
    assert config() == config("configs/quickstart.yaml")
    assert config("train.steps=7").train.steps == 7


def test_files_merge_left_to_right_and_overrides_last(write):
    first = write("train: {steps: 11, batch_size: 16}\n", "a.yaml")
    second = write("train: {steps: 12}\n", "b.yaml")
    got = config("configs/quickstart.yaml", first, second, "train.log_every=3")
    assert (got.train.steps, got.train.batch_size, got.train.log_every) == (12, 16, 3)


def test_a_group_replaces_its_section_before_dotted_overrides():
    got = config("optimizer.alpha=0.5", "optimizer=racs")
    assert got.optimizer.name == "racs" and got.optimizer.alpha == 0.5
    assert not hasattr(got.optimizer, "rank")  # of the quick start's Alice


def test_a_group_in_a_file(write):
    named = config("configs/quickstart.yaml", write("optimizer: alice\n"))
    changed = config("configs/quickstart.yaml", write("optimizer: {base: alice, rank: 64}\n"))
    merged = config("configs/quickstart.yaml", write("optimizer: {rank: 24}\n"))
    assert (named.optimizer.rank, changed.optimizer.rank, merged.optimizer.rank) == (128, 64, 24)
    assert named.optimizer.leading == changed.optimizer.leading == 40
    assert merged.optimizer.leading == config().optimizer.leading


def test_a_file_builds_on_its_base(write):
    write("train: {steps: 5, batch_size: 24}\nmodel: llama_micro\n", "base.yaml")
    got = config("configs/quickstart.yaml", write("base: base.yaml\ntrain: {steps: 6}\n"))
    assert (got.train.steps, got.train.batch_size, got.model.hidden_size) == (6, 24, 256)
    assert "builds on itself" in refusal(write("base: loop.yaml\n", "loop.yaml"))


def test_a_file_is_found_from_the_working_directory_first(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.yaml").write_text("model: llama_nano\n")
    elsewhere = config("configs/experiment/table2/60m/adam.yaml")
    monkeypatch.chdir(tmp_path)
    assert config("configs/experiment/table2/60m/adam.yaml") == elsewhere
    assert "required" in refusal("configs/quickstart.yaml")  # the one in the working directory


def test_the_path_of_a_file_may_look_like_a_setting(tmp_path):
    (tmp_path / "optimizer.lr=0.01").mkdir()
    file = tmp_path / "optimizer.lr=0.01" / "config.yaml"
    file.write_text("train: {steps: 7}\n")
    assert config("configs/quickstart.yaml", str(file)).train.steps == 7


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_options_come_from_the_signature(name):
    given = optimizer_options(config(f"optimizer={name}").optimizer)
    assert given.keys() == registry.options(name).keys()


def test_numbers_lists_and_texts_are_read_as_typed():
    got = config("optimizer.lr=1e-3", "optimizer.betas=[0.8, 0.9, 0.99]", "wandb.tags=[a, b]", "run.name=7")
    assert got.optimizer.lr == 1e-3 and tuple(got.optimizer.betas) == (0.8, 0.9, 0.99)
    assert got.wandb.tags == ["a", "b"] and got.run.name == "7"


@pytest.mark.parametrize(
    "value",
    [
        "runs/x",
        "my runs #1/a_lr=0.1",
        "{base: alice, rank: 3}",
        "a: b",
        "7",
        "null",
        "~",
        "'",
        "'a'",
        '"',
        "é",
        "a${b}c",
        "a\\${b}",
        "*.jsonl",
        "&x",
        "[a",
        "a\tb",
        "- a",
        "1e5",
        " a ",
    ],
)
def test_an_argument_is_read_back_as_the_same_text(value):
    assert config(argument("wandb.group", value)).wandb.group == value


@pytest.mark.parametrize(
    "text", ["20260102_093015", "007", "7e2", "3.10", "12:30:00", "no", "exp #2", "&x", "*", "a: b"]
)
def test_a_text_setting_is_the_text_that_was_typed(text, write):
    assert config(f"run.name={text}").run.name == text
    assert config(f"run.name='{text}'").run.name == text  # quotes are YAML's
    if text not in ("exp #2", "&x", "*", "a: b"):  # in a file these need quotes
        assert config("configs/quickstart.yaml", write(f"run:\n  name: {text}\n")).run.name == text


def test_texts_in_lists_and_nulls_are_read_by_their_settings_type(write):
    assert config("wandb.tags=[on, 3.10, '#7']").wandb.tags == ["on", "3.10", "#7"]
    assert config("wandb.tags=[]").wandb.tags == [] and config("wandb.group=null").wandb.group is None
    got = config("configs/quickstart.yaml", write("wandb: {tags: [007, no], group: ~}\nrun: {name: 3.10}\n"))
    assert (got.wandb.tags, got.wandb.group, got.run.name) == (["007", "no"], None, "3.10")


def test_whole_numbers_are_decimal(write):
    assert config("train.steps=010").train.steps == 10
    assert config("configs/quickstart.yaml", write("train: {steps: 0100, log_every: 1_0}\n")).train.steps == 100
    assert "train.steps must be an integer, got '1:30'" in refusal("train.steps=1:30")


def test_hostile_yaml_is_a_sentence(write):
    deep = "[" * 1500 + "]" * 1500
    assert "makes no sense" in refusal(f"train.steps={deep}")
    assert "makes no sense" in refusal(write(f"train: {deep}"))
    names = "abcdefghijkl"
    bomb = "a: &a [x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise(names))
    assert "not valid YAML" in refusal(write(bomb))
    assert "not valid YAML" in refusal(write("train: &a [*a]\n"))


def test_default_names_and_folders():
    assert config("run.seed=3").run.dir == "runs/llama_nano_alice_s3"
    assert config("run.dir=~/x").run.dir == str(Path.home() / "x")
    assert config("run.dir=/data/x").run.dir == "/data/x"


def test_a_path_is_a_text_or_a_list_of_texts(write):
    def path(typed, *more):
        return config("data=files", "data.held_out=0.1", f"data.path={typed}", *more).data.path

    assert path("[a, 'b,c.jsonl', \"[d]/*.txt\", 007]") == ["a", "b,c.jsonl", "[d]/*.txt", "007"]
    for text in ("[ab]*.jsonl", "a,b.jsonl", "@list.txt", "{0..3}.txt", "a #2"):
        assert path(text) == text
    assert path(argument("x", "[a]").partition("=")[2]) == "[a]"
    file = write("data: {base: files, path: [a b, 'c, d', 3.10], eval_path: '[e]'}\n")
    section = config("configs/quickstart.yaml", file).data
    assert (section.path, section.eval_path) == (["a b", "c, d", "3.10"], "[e]")
    assert refusal("data=hub", "data.path=[a/b]").startswith("data.path must be one text with data.source=hub")
    assert "[a, [b]" in refusal("data=files", "data.path=[a, [b]")


def test_plan_flags():
    assert [load(flags).plan for flags in ([], ["--plan"], ["--plan=json"])] == [None, "text", "json"]


# ---- refusals


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("optimizer.rnak=3", "unknown key optimizer.rnak; did you mean optimizer.rank?"),
        ("trian.steps=3", "unknown key trian.steps; did you mean train.steps?"),
        ("trian.stesp=3", "unknown key trian.stesp; did you mean train.steps?"),
        ("trian=3", "unknown key trian; did you mean train?"),
        ("steps=3", "unknown key steps; did you mean train.steps?"),
        ("stepz=3", "unknown key stepz; did you mean train.steps?"),
        ("train.lr=3", "unknown key train.lr; did you mean optimizer.lr?"),
        ("train.seed=3", "unknown key train.seed; did you mean run.seed or data.seed or optimizer.seed?"),
        ("zzz.qqq=3", "unknown key zzz.qqq; known: data, model, optimizer, run, schedule, train, wandb"),
        (
            "optimizer.name=racs",
            "configs/optimizer/alice.yaml line 5: unknown key optimizer.alpha_c; optimizer.name=racs leaves the rest",
        ),
        ("optimizer=null", "argument 'optimizer=null' picks no file; known: adafactor, adam"),
        ("optimizer.rank=3 optimizer.base=racs", "unknown key optimizer.rank; known: adam_lr, alpha"),
        ("run.dir=runs/\udcff", "run.dir must be UTF-8, got"),
        (
            "optimizer=lars train.dtype=bfloat16 train.stochastic_rounding=true",
            "train.stochastic_rounding is not possible with LARS",
        ),
        ("optimizer=racs optimizer.rank=3", "unknown key optimizer.rank; known: adam_lr, alpha"),
        ("train=3", "train is a section"),
        ("train.steps=many", "train.steps must be an integer, got 'many'"),
        ("train.steps=1.5", "train.steps must be an integer, got 1.5"),
        ("train.compile=maybe", "train.compile must be one of auto, true, false"),
        ("train.clip_grad_norm=x", "train.clip_grad_norm must be a number or null"),
        ("optimizer.betas=[0.9]", "optimizer.betas must be a list of 3 numbers"),
        ("train.dtype=float16", "train.dtype must be one of float32, bfloat16"),
        ("optimizer.last_layer=both", "optimizer.last_layer must be one of method, adam"),
        ("optimizer=alicee", "optimizer=alicee is no file of configs/optimizer; did you mean alice?"),
        ("optimizer.name=alicee", "optimizer.name must be one of adafactor, adam, adam_8bit, adam_mini, alice"),
        ("optimizer.rank=0", "optimizer.rank must be"),
        ("optimizer.rank=8 optimizer.leading=9", "optimizer.leading must not exceed rank 8"),
        ("optimizer.lr=nan", "optimizer.lr must be a finite number"),
        ("optimizer.lr=0", "optimizer.lr must be greater than 0"),
        (f"model.hidden_size={2**62}", "model.hidden_size must be at most 16777216"),
        (f"model.num_hidden_layers={2**62}", "model.num_hidden_layers must be at most 10000"),
        ("train.steps=0", "train.steps must be at least 1"),
        ("schedule.warmup_fraction=1.5", "schedule.warmup_fraction must be at most 1"),
        ("run.seed=100000000000000000000000", "run.seed must be at most"),
        ("train.threads=3000000000", "train.threads must be at most 4096"),
        (f"train.steps={'9' * 400}", "train.steps must be at most 9223372036854775807"),
        (f"optimizer.rank={'9' * 400}", "optimizer.rank must be at most 9223372036854775807"),
        (f"optimizer.lr={'9' * 400}", "optimizer.lr must be a number, got 9"),
        (f'model.rope_scaling={{"rope_type":"linear","factor":{"9" * 400}}}', "a finite number above 0 as its factor"),
        ("train.eval_every=-1", "train.eval_every must be at least 0"),
        ("train.batch_size=12", "train.batch_size must be divisible by data.streams 8, got 12"),
        ("train.micro_batch_size=3", "train.batch_size must be divisible by train.micro_batch_size 3"),
        ("model.hidden_size=100", "model.hidden_size must be divisible by twice model.num_attention_heads 4"),
        ("model.head_dim=16 model.hidden_size=30", "model.hidden_size must be divisible by model.num_attention_heads"),
        ("data.sequence_length=4096", "data.sequence_length must not exceed"),
        ("data=files", "data.path is required with data.source=files"),
        ("data=hub", "data.path is required with data.source=hub"),
        ("data.path=text.txt", "data.path has no meaning with data.source=builtin; data=files trains on files"),
        (
            "data=prepared data.path=store data.eval_path=text.txt",
            "data.eval_path has no meaning with data.source=prepared: a store holds its own evaluation text",
        ),
        ("data.split=train", "data.split has no meaning with data.source=builtin"),
        ("data.held_out=0.1", "data.held_out has no meaning with data.source=builtin"),
        ("data.shuffle_buffer=10000000000000000000", "data.shuffle_buffer must be at most"),
        ("data.held_out=0.6", "data.held_out must be at most 0.5"),
        ("run.name=../x", "run.name must be one plain part of a path"),
        ("run.name=..", "run.name must be one plain part of a path"),
        ("data.packing=2", "data.packing must be true or false, got 2"),
        ("run.dir=~nobody-here/x", "run.dir begins with the home of a user who is not known here"),
        ("run.name=${nothing}", "run.name: "),
        ("train.steps=[1,", "not valid YAML"),
        ("train.steps=${HOME", "argument 'train.steps=${HOME' has a value that makes no sense: "),
        ("optimizer=[{null:1}]", "optimizer"),
        ("train.steps=[!!int,x]", "argument 'train.steps=[!!int,x]' has a value that makes no sense: "),
        ("=3", "not of the form key=value"),
        ("--paln", "unknown flag --paln; usage"),
        ("configs/quickstrat.yaml", "does not exist; did you mean configs/quickstart.yaml?"),
        ("alice", "settings file alice does not exist; did you mean optimizer=alice?"),
        ("a" * 300, "settings file aaa"),
        ("configs", "settings file configs is a folder"),
        ("configs/experiment/table2/60m.yaml", "optimizer.lr is required and not set; pick optimizer=adafactor|adam|"),
    ],
)
def test_a_refusal_names_the_key_and_the_nearest_valid_one(arguments, words):
    assert words in refusal(*(arguments.split(" ") if "[" not in arguments else [arguments]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "train:\n  steps: 3\n  log_evry: 2\n",
            "a.yaml line 3: unknown key train.log_evry; did you mean train.log_every",
        ),
        ("train:\n  steps: soon\n", "a.yaml line 2: train.steps must be an integer, got 'soon'"),
        ("optimizer:\n  base: alice\n  rank: 0\n", "a.yaml line 3: optimizer.rank must be"),
        ("\noptimizer: alise\n", "a.yaml line 2: optimizer=alise is no file"),
        ("train:\n  steps: [1\nrun: {}\n", "a.yaml line 3: not valid YAML"),
        ("train: {}\ntrain: {}\n", "a.yaml line 2: not valid YAML, found duplicate key train"),
        ("train.steps: 3\n", "a.yaml line 1: train.steps must be written as nested keys"),
        ("- train\n", "a.yaml line 1: a settings file holds keys and values"),
        ("run: {dir: '${HOME'}\n", "a.yaml makes no sense: "),
        ("base: nothing.yaml\n", "a.yaml line 1: base nothing.yaml does not exist"),
        ("<<: {base: nothing.yaml}\n", "a.yaml: base nothing.yaml does not exist"),
        (f"base: {'a' * 300}\n", "does not exist"),
        (f"base: {'a' * 300}/b.yaml\n", "does not exist"),
    ],
)
def test_a_refusal_of_a_file_names_the_line(write, text, words):
    assert words in refusal("configs/quickstart.yaml", write(text))


def test_an_unknown_option_of_no_method_is_refused(write):
    assert "a.yaml line 2: unknown key optimizer.zzz; known: adam_lr" in refusal(write("optimizer:\n  zzz: 3\n"))


@pytest.mark.parametrize(
    "key",
    ["data.eval_path", "data.tokenizer", "run.reference", "run.dir", "run.name", "model.init_from", "wandb.group"],
)
@pytest.mark.parametrize("text", ["", " ", "''"])
def test_an_empty_text_is_not_taken_for_null(key, text):
    """It is what an unset variable of the shell leaves."""
    assert refusal(f"{key}={text}").startswith(f"{key} must not be empty or blank, got '")
    assert refusal(f"{key}={text}").endswith("; null means no value")


@pytest.mark.parametrize("paths", ["[]", "[a.jsonl, '']"])
def test_a_list_of_paths_has_no_empty_one(paths):
    words = f"must not be empty or blank, got {yaml.safe_load(paths)}; null means no value"
    for key in ("data.path", "data.eval_path"):
        assert refusal("data=files", "data.held_out=0.1", "data.path=x", f"{key}={paths}") == f"{key} {words}"


def test_a_batch_must_divide_among_the_processes():
    got = config("train.batch_size=16", "train.micro_batch_size=8")
    for processes in (1, 2, 4, 8):  # with 4 and 8, a process has fewer rows than a micro-batch may have
        checks.check_layout(got, processes)
    with pytest.raises(SettingsError, match=r"data\.streams must be divisible by the number of processes 3"):
        checks.check_layout(got, 3)
    with pytest.raises(SettingsError, match=r"train\.micro_batch_size must divide the 8 rows of each of 3 processes"):
        checks.check_layout(config("train.batch_size=24", "train.micro_batch_size=6", "data.streams=3"), 3)


# ---- the files


@pytest.mark.parametrize("group", GROUPS)
def test_every_file_of_a_group_loads(group):
    for path in sorted((FOLDER / group).glob("*.yaml")):
        extra = ["data.path=x"] if path.stem in ("files", "prepared", "hub") else []
        assert getattr(config("optimizer=racs", f"{group}={path.stem}", *extra), group)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizers_file_has_its_name(name):
    assert config(f"optimizer={name}").optimizer.name == name
