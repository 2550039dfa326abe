"""Made-up records, for tests of tables, figures and report."""

import dataclasses
import math
from pathlib import Path

from analysis import records, rows
from configs.schema import load
from experiments.nano_files import STUDY

NANO = Path("configs/experiment/nano")
STEPS = range(50, 1001, 50)


def kept(file, seed, final, steps=STEPS):
    """A record of a run of the settings in `file`, whose perplexity falls to `final`."""
    config = load([str(file), f"run.seed={seed}"]).config
    evaluations = []
    for step in steps:
        perplexity = final * (1 + 8 * math.exp(-7 * step / steps[-1])) * (1 + 0.004 * math.sin(7 * seed + step))
        row = {"kind": "eval", "step": step, "tokens": 2040 * step, "loss": math.log(perplexity)}
        evaluations.append(
            row | {"perplexity": perplexity, "train_seconds": (0.35 + 0.01 * seed) * step, "galore_perplexity": None}
        )
    last = evaluations[-1]
    record = {
        "summary": {
            "name": config.run.name,
            "model": config.model.name,
            "optimizer": config.optimizer.name,
            "seed": seed,
            "steps": last["step"],
            "tokens": last["tokens"],
            "final_loss": last["loss"],
            "final_perplexity": last["perplexity"],
            "config_hash": f"{config.optimizer.name} {config.optimizer.lr}",
            "git_commit": "0" * 40,
            "optimizer_state_bytes": 1,
            "lr": config.optimizer.lr,
            "tokens_per_second": last["tokens"] / last["train_seconds"],
        },
        "settings": {key: dataclasses.asdict(getattr(config, key)) for key in ("model", "optimizer", "train", "data")},
        "evaluations": evaluations,
        "training": {},
    }
    if config.run.record_basis_cosines:
        record["basis_cosines"] = [
            {"step": step, **{str(i): 1 / (1 + i * (1 + math.sin(step + seed)) / 20) for i in records.EIGENVECTORS}}
            for step in steps[1:]
        ]
    return record


def nano_study(folder, seeds=(0, 1, 2)):
    """The records of a whole nano study."""
    finals = dict(zip([*STUDY, *rows.ABLATIONS], range(180, 400, 7), strict=False)) | {"adam": 330}
    for seed in seeds:
        for file in (NANO / f"{row}.yaml" for row in STUDY):
            records.write(kept(file, seed, finals[file.stem]), folder / f"{file.stem}_s{seed}.json")
        for file in sorted((NANO / "ablations").glob("*.yaml")):
            records.write(kept(file, seed, finals[file.stem]), folder / f"ablation_{file.stem}_s{seed}.json")
