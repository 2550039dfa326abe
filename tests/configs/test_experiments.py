"""The files of configs/experiment: all load, and the paper's cells carry the published settings."""

import csv

import pytest

from configs.identity import to_dict
from configs.reading import FOLDER
from configs.schema import Config, load, optimizer_options
from training.plan import plan_run

EXPERIMENTS = FOLDER / "experiment"
# A file that has the name of a folder is the base of the files in the folder. Those in glue are not for train.py.
CELLS = sorted(
    path
    for path in EXPERIMENTS.rglob("*.yaml")
    if not path.with_suffix("").is_dir() and path.parent != EXPERIMENTS / "glue"
)

# Tables 7 to 11 and App. F of arXiv 2502.07752; APOLLO's values from its own scripts, its ranks from Table 3's memory.
COLUMNS = ("60m", "130m", "350m", "1_3b")
TABLE = {
    "steps": (10_000, 20_000, 60_000, 100_000),
    "positions": (1.3e9, 2.6e9, 7.8e9, 13.1e9),
    "parameters": (58.07, 134.11, 367.97, 1339.08),  # millions
    "attention and MLP": (25.30, 84.93, 302.38, 1207.91),
    "galore batch": (256, 128, 128, 256),
    "adam lr": (0.001, 0.001, 0.001, 0.0007),
    "rank": (128, 256, 256, 512),
    "leading": (40, 40, 40, 160),
    "galore lr": (0.02, 0.02, 0.02, 0.01),
    "galore scale": (0.3, 0.3, 0.3, 0.25),
    "racs alpha": (0.05, 0.05, 0.05, 0.02),
    "alice alpha": (0.3, 0.3, 0.3, 0.25),
    "alice alpha_c": (0.4, 0.4, 0.4, 0.2),
    "mini scale": (128, 192, 128, 128),
    "mini front": (True, True, False, False),
}
PUBLISHED = {size: {row: values[i] for row, values in TABLE.items()} for i, size in enumerate(COLUMNS)}
SIZES = list(PUBLISHED.items())
MICRO_BATCH = {"60m": 256, "130m": 128, "350m": 128, "1_3b": 32}  # rows that a process holds at once; not published


def config(path) -> Config:
    return load([str(path)]).config


def options(path) -> dict:
    """Learning rate and options of the file's optimizer."""
    section = config(path).optimizer
    return {"lr": section.lr, **optimizer_options(section)}


def assert_has(path, **expected) -> None:
    got = options(path)
    got = {key: list(got[key]) if isinstance(got[key], tuple) else got[key] for key in expected}
    assert got == expected, path


@pytest.fixture(scope="module")
def plans():
    """`train.py FILE --plan=json` of every cell of the paper, by its path below configs/experiment."""
    cells = [path for path in CELLS if path.relative_to(EXPERIMENTS).parts[0] not in ("nano", "later")]
    return {str(path.relative_to(EXPERIMENTS).with_suffix("")): plan_run(config(path)) for path in cells}


@pytest.mark.slow
def test_all_load_and_no_two_share_a_run_folder():
    runs = {path.relative_to(EXPERIMENTS): config(path).run.dir for path in CELLS}
    # scripts/arena.sh and scripts/compare.py name the folders of nano runs.
    runs = [run for path, run in runs.items() if path.parts[0] != "nano"]
    assert len(runs) == len(set(runs)) >= 64


@pytest.mark.slow
@pytest.mark.parametrize(("size", "published"), SIZES)
def test_table_2(size, published):
    folder = EXPERIMENTS / "table2" / size
    cells = {path.stem: path for path in folder.glob("*.yaml")}
    low_rank = ["alice", "alice_0", "galore", "fira"]
    last_layer_adam = [f"{name}_last_layer_adam" for name in low_rank]
    assert set(cells) == {"adam", "racs", "apollo_mini", "apollo_svd", "muon", *low_rank, *last_layer_adam}
    for name, path in cells.items():
        cell = config(path)
        assert (cell.model.name, cell.train.steps) == (f"llama_{size}", published["steps"])
        assert (cell.train.batch_size, cell.train.galore_batch_size) == (512, published["galore batch"])
        assert (cell.train.dtype, cell.train.clip_grad_norm, cell.run.seed) == ("bfloat16", None, 0)
        assert (cell.data.source, cell.data.packing, cell.data.sequence_length) == ("c4", False, 256)
        assert (cell.schedule.warmup_fraction, cell.schedule.final_fraction) == (0.1, 0.1)
        assert cell.optimizer.adam_lr == published["adam lr"]
        assert cell.optimizer.last_layer == ("adam" if "last_layer" in name else None)
        assert options(path)["weight_decay"] == 0
        assert options(path).get("gamma", 1.01) == 1.01

    assert_has(cells["adam"], lr=published["adam lr"], betas=[0.9, 0.999])
    assert_has(cells["racs"], lr=0.02, beta=0.9, alpha=published["racs alpha"], ema=True)
    shared = {"rank": published["rank"], "update_interval": 200}
    for last_layer in ("", "_last_layer_adam"):
        for name in ("galore", "fira"):
            scale = published["galore scale"]
            assert_has(cells[name + last_layer], lr=published["galore lr"], scale=scale, betas=[0.9, 0.999], **shared)
        alice = {"lr": 0.02, "alpha": published["alice alpha"], "alpha_c": published["alice alpha_c"], **shared}
        alice |= {"leading": published["leading"], "switching": "complement", "compensation": "optimal"}
        assert_has(cells["alice" + last_layer], **alice, betas=[0.9, 0.9, 0.999], tracking=True)
        assert_has(cells["alice_0" + last_layer], **alice, tracking=False)
        assert options(cells["alice_0" + last_layer])["betas"][:2] == (0.9, 0.9)
    mini = {"scale": published["mini scale"], "scale_front": published["mini front"], "scaling": "tensor"}
    assert_has(cells["apollo_mini"], lr=0.01, rank=1, update_interval=200, **mini)
    svd = {"projection": "svd", "scaling": "channel", "scale_front": False}
    assert_has(cells["apollo_svd"], lr=0.01, scale=1, **shared, **svd)
    assert_has(cells["muon"], lr=published["adam lr"], momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw")


def table_2_cell(size: str, method: str) -> list[str]:
    """Settings of a cell of Table 2 as changes to the defaults: shared ones, then those of the method."""
    published = PUBLISHED[size]
    low_rank = {"rank": published["rank"], "update_interval": 200}
    subspace = {"lr": published["galore lr"], "scale": published["galore scale"], **low_rank}
    alice = {"lr": 0.02, "alpha": published["alice alpha"], "alpha_c": published["alice alpha_c"], **low_rank}
    alice |= {"leading": published["leading"]}
    mini = {"scale": published["mini scale"], "scale_front": published["mini front"]}
    options = {
        "adam": {"lr": published["adam lr"]},
        "racs": {"lr": 0.02, "alpha": published["racs alpha"]},
        "alice": alice,
        "alice_0": alice,
        "galore": subspace,
        "fira": subspace,
        "apollo_mini": {"lr": 0.01, **mini},
        "apollo_svd": {"lr": 0.01, **low_rank},
        "muon": {"lr": published["adam lr"], "adjust_lr_fn": "match_rms_adamw"},
    }
    name = method.removesuffix("_last_layer_adam")
    chosen = {"name": name, "adam_lr": published["adam lr"], **options[name]}
    chosen |= {"last_layer": "adam"} if name != method else {}
    train = {"steps": published["steps"], "batch_size": 512, "galore_batch_size": published["galore batch"]}
    train |= {"micro_batch_size": MICRO_BATCH[size], "eval_every": 500, "checkpoint_every": 1000}
    train |= {"dtype": "bfloat16"}
    sections = {"train": train, "optimizer": chosen}
    changes = [f"{section}.{key}={value}" for section, values in sections.items() for key, value in values.items()]
    return [f"model=llama_{size}", "data=c4", *changes, f"run.name=llama_{size}_{method}_s0"]


@pytest.mark.parametrize("size", COLUMNS)
def test_a_table_2_file_is_exactly_its_size_and_method(size, tmp_path):
    """Every setting of every cell, not those of the paper alone."""
    (tmp_path / "nothing.yaml").write_text("{}")  # without a file the quick start's would be read
    methods = ("adam", "racs", "apollo_mini", "apollo_svd", "muon", "alice", "alice_0", "galore", "fira")
    methods += tuple(f"{name}_last_layer_adam" for name in ("alice", "alice_0", "galore", "fira"))
    folder = EXPERIMENTS / "table2" / size
    assert {path.stem for path in folder.iterdir()} == set(methods)
    for method in methods:
        expected = load([str(tmp_path / "nothing.yaml"), *table_2_cell(size, method)]).config
        assert to_dict(config(folder / f"{method}.yaml")) == to_dict(expected), method


@pytest.mark.slow
def test_later_methods_are_table_2_runs_but_for_their_optimizer():
    """The methods published since, and three with states in 8 bits, at the sizes and with the training of Table 2."""
    later = {"sinkgd", "scale", "normuon", "adam_mini", "ldadam", "dion", "adafactor", "lion", "alice_soap", "octave"}
    later |= {"flip_flop", "racs_muon"} | {f"{name}_8bit" for name in ("muon", "normuon", "alice")}
    for size in COLUMNS:
        folder, adam = EXPERIMENTS / "later" / size, config(EXPERIMENTS / "table2" / size / "adam.yaml")
        assert {path.stem for path in folder.iterdir()} == later
        for name in later:
            cell = config(folder / f"{name}.yaml")
            assert (cell.model, cell.data, cell.train, cell.schedule) == (
                adam.model,
                adam.data,
                adam.train,
                adam.schedule,
            )
            assert (cell.optimizer.name, cell.run.dir.count(name)) == (name.removesuffix("_8bit"), 1)
            narrow = name.endswith("_8bit") or name in ("octave", "flip_flop", "racs_muon")
            assert cell.optimizer.state_bits == (8 if narrow else 32)
        assert options(folder / "sinkgd.yaml")["lr"] == 0.02
        assert options(folder / "scale.yaml")["lr"] == (0.0002 if size == "1_3b" else 0.001)
        assert (
            options(folder / "ldadam.yaml")["rank"] == options(folder / "dion.yaml")["rank"] == PUBLISHED[size]["rank"]
        )
        alice, alice_soap = options(EXPERIMENTS / "table2" / size / "alice.yaml"), options(folder / "alice_soap.yaml")
        shared = (alice.keys() & alice_soap.keys()) - {"name", "compensation"}
        assert {key: alice_soap[key] for key in shared} == {key: alice[key] for key in shared}


@pytest.mark.slow
@pytest.mark.parametrize(("size", "published"), SIZES)
def test_sizes_of_table_10(size, published, plans):
    cells = {name: plan for name, plan in plans.items() if name.startswith(f"table2/{size}/")}
    for plan in cells.values():
        assert plan["parameters"] / 1e6 == pytest.approx(published["parameters"], abs=0.005)
        assert plan["positions"] == published["steps"] * 512 * 256
        assert plan["positions"] == pytest.approx(published["positions"], rel=0.01)
    for name in ("adam", "racs", "muon", "apollo_svd", "galore_last_layer_adam", "alice_last_layer_adam"):
        matrices = cells[f"table2/{size}/{name}"]["matrix_parameters"]
        assert matrices / 1e6 == pytest.approx(published["attention and MLP"], abs=0.005)
    head = cells[f"table2/{size}/alice"]["matrix_parameters"] - matrices
    assert head == 32_000 * config(EXPERIMENTS / "table2" / size / "adam.yaml").model.hidden_size


@pytest.mark.slow
def test_memory_of_table_3(plans):
    with (FOLDER.parent / "results" / "paper" / "table3_memory.csv").open() as file:
        rows = list(csv.DictReader(file))
    compared = 0
    for row in rows:
        name = row["method"] + ("_last_layer_adam" if row["last_layer"] == "adam" else "")
        for size in COLUMNS:
            plan = plans.get(f"table2/{size}/{name}") or plans.get(f"table2/{size}/{row['method']}")
            if row[size]:
                held = (plan["weight_bytes"] + plan["optimizer_state_bytes"]) / 2**30
                assert held == pytest.approx(float(row[size]), abs=0.011), (name, size)
                compared += 1
    assert compared >= 40


@pytest.mark.slow
def test_table_4(plans):
    folder = EXPERIMENTS / "table4"
    assert {path.stem for path in folder.glob("*.yaml")} == {"racs", "alice"}
    for name in ("racs", "alice"):
        cell, plan = config(folder / f"{name}.yaml"), plans[f"table4/{name}"]
        assert (cell.model.name, cell.train.steps, cell.train.batch_size) == ("llama_1_3b", 150_000, 512)
        assert cell.train.batch_size // (8 * cell.train.micro_batch_size) == 4  # accumulations on 8 GPUs
        assert {40_000, 80_000, 120_000, 150_000} <= set(plan["evaluation_steps"])
        assert (cell.train.dtype, cell.data.source, cell.optimizer.adam_lr) == ("bfloat16", "c4", 0.0007)
    assert options(folder / "racs.yaml") == options(EXPERIMENTS / "table2" / "1_3b" / "racs.yaml")
    assert config(folder / "alice.yaml").optimizer.last_layer == "adam"
    published = {"alpha": 0.3, "alpha_c": 0.2, "rank": 512, "leading": 160}
    assert options(folder / "alice.yaml") == options(EXPERIMENTS / "table2" / "1_3b" / "alice.yaml") | published


@pytest.mark.slow
def test_ablations_differ_from_the_130m_runs_only_in_their_parts():
    folder, size = EXPERIMENTS / "ablations", EXPERIMENTS / "table2" / "130m"
    alice = {
        "none": {"tracking": False, "switching": "none", "compensation": "none"},
        "tracking": {"switching": "none", "compensation": "none"},
        "switching": {"tracking": False, "compensation": "none"},
        "tracking_switching": {"compensation": "none"},
        "full_basis": {"switching": "full_basis", "compensation": "none"},
        "gaussian_mix": {"switching": "gaussian_mix", "compensation": "none"},
        "gaussian": {"switching": "gaussian", "compensation": "none"},
        "compensation_fira": {"compensation": "fira"},
        "compensation_fira_plus": {"compensation": "fira_plus"},
    }
    assert {path.stem for path in folder.glob("*.yaml")} == {*alice, "racs_no_ema"}
    assert {path.stem for path in (EXPERIMENTS / "nano" / "ablations").glob("*.yaml")} == {*alice, "racs_no_ema"}
    for name, changes in alice.items():
        cell, base = config(folder / f"{name}.yaml"), config(size / "alice.yaml")
        assert options(folder / f"{name}.yaml") == options(size / "alice.yaml") | changes
        assert (cell.model, cell.data, cell.train, cell.schedule) == (base.model, base.data, base.train, base.schedule)
        assert cell.optimizer.last_layer is None  # the method, for Alice
        assert cell.run.record_basis_cosines == (name in ("none", "tracking"))
    cell = config(folder / "racs_no_ema.yaml")
    assert options(folder / "racs_no_ema.yaml") == options(size / "racs.yaml") | {"ema": False}
    assert cell.optimizer.last_layer == "method"
    assert cell.train == config(size / "racs.yaml").train
