"""The files of configs/experiment/nano: the rows of results/nano, and short runs on built-in text."""

from pathlib import Path

from analysis.paths import ROOT
from configs.schema import load
from optimizers import registry

FOLDER = Path("configs/experiment/nano")  # in the project's folder

# The rows of results/nano: the methods of Table 2, and four more.
STUDY = (
    *("adam", "alice", "alice_0", "alice_0_last_layer_adam", "alice_last_layer_adam", "alice_two_sided"),
    *("apollo_mini", "apollo_svd", "eigen_adam", "fira", "fira_last_layer_adam", "galore"),
    *("galore_last_layer_adam", "muon", "natural_galore", "racs", "soap"),
)
# Compiled: 1.1 times the steps a second. Only the first run is slow, because the runs share the compiled code.
STUDY_SETTINGS = ("train.compile=true",)

COMPARISON_STEPS = 300
COMPARISON_SETTINGS = (
    *("data=builtin", "data.sequence_length=128", "data.eval_tokens=50000"),
    *("train.log_every=1", "optimizer.adam_lr=0.006"),
)


def file_of(row: str) -> Path:
    """The file of a row, in the project's folder."""
    return FOLDER / f"{row}.yaml"


def study_settings(file: Path) -> list[str]:
    """Arguments of train.py for a run of the study."""
    return [str(file), *STUDY_SETTINGS]


def shortened(file: Path, steps: int) -> list[str]:
    """Settings of a run of `steps` steps, in which a basis still lasts for a twentieth of the run."""
    low_rank = {"rank", "update_interval"} <= vars(load([str(ROOT / file)]).config.optimizer).keys()
    return [f"train.steps={steps}", *([f"optimizer.update_interval={steps // 20}"] if low_rank else [])]


def comparison_runs() -> dict[str, list[str]]:
    """Arguments of train.py for every registered optimizer that has a file, on the builtin text."""
    files = {name: file_of(name) for name in registry.names() if (ROOT / file_of(name)).is_file()}
    return {name: [str(file), *COMPARISON_SETTINGS, *shortened(file, COMPARISON_STEPS)] for name, file in files.items()}
