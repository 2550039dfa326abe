"""The paper's comparison at nano size, on real text, one CPU core a run: tuned learning rates, then three seeds.

    python scripts/nano_study.py CORPORA [-j JOBS] [--until STAGE] [--only METHOD,...]

CORPORA is a folder with C4-shaped corpora c4, books and modern. Their training documents, shuffled into one, are what
is trained on, with a tokenizer trained on them; a run is evaluated on c4's validation documents and at its end on the
books' as well. The stages, each of which needs the ones before:

    text         the mixed corpus and the tokenizer, in runs/nano
    lr           every method of configs/experiment/nano/study at its rate there times 1/8, 1/4, 1/2, 1, 2; 0.5M tokens
    adam_lr      at the best of these, three other rates of the parameters that Adam steps
    lr_again     at the best of those, the method's rate times 1/2 and 2: the first stage's best depends on adam_lr
    doubled      with the best of all, 2M tokens, seed 0; then at twice the method's rate, again and again while that
                 is better: longer runs want larger rates, and not all methods alike
    final        with the best of these, and configs/experiment/nano/ablations at the rates of the method they change;
                 seeds 0, 1 and 2, each for all of them before the next

Records of finished runs go to results/nano/tuning and results/nano/runs. A run that has one counts as finished, on any
machine; interrupted runs go on when the same command is given again.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from configs.schema import load  # noqa: E402
from scripts import records  # noqa: E402
from scripts.jobs import Job, positive, run_all, training  # noqa: E402

CONFIGS = Path("configs/experiment/nano")
RUNS, RESULTS = Path("runs/nano"), Path("results/nano")
STAGES = ("text", "lr", "adam_lr", "lr_again", "doubled", "final")
FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0)  # of the learning rate in a method's file
ADAM_LRS = (0.003, 0.01, 0.03, 0.1)  # the first is the one that `lr` is tuned with
TUNING_STEPS = 250
SEEDS = (0, 1, 2)
HELD_OUT_TOKENS = 100_000

Tried = dict[str, records.Record]  # by name


def methods() -> list[str]:
    """The rows of the study, each a file."""
    return sorted(path.stem for path in (CONFIGS / "study").glob("*.yaml"))


def tuning_name(method: str, lr: float, adam_lr: float) -> str:
    return f"{method}_lr={lr:g}_adam_lr={adam_lr:g}"


def lr_jobs(methods: list[str]) -> list[Job]:
    return [_tuning_job(method, factor * _file_lr(method), ADAM_LRS[0]) for method in methods for factor in FACTORS]


def adam_lr_jobs(methods: list[str]) -> list[Job]:
    tried = records.read(RESULTS / "tuning")
    best = ((method, _best(tried, method, _first_rates(method))) for method in methods)
    return [_tuning_job(method, lr, adam_lr) for method, (lr, _) in best for adam_lr in ADAM_LRS[1:]]


def lr_again_jobs(methods: list[str]) -> list[Job]:
    tried, jobs = records.read(RESULTS / "tuning"), []
    for method in methods:
        lr, _ = _best(tried, method, _first_rates(method))
        _, adam_lr = _best(tried, method, [(lr, adam_lr) for adam_lr in ADAM_LRS])
        jobs += [_tuning_job(method, factor * lr, adam_lr) for factor in (0.5, 2.0)]
    return jobs


def _first_rates(method: str) -> list[tuple[float, float]]:
    return [(factor * _file_lr(method), ADAM_LRS[0]) for factor in FACTORS]


def _best(tried: Tried, method: str, rates: list[tuple[float, float]]) -> tuple[float, float]:
    """(lr, adam_lr) of the best of a method's tuning runs at these."""
    return min(rates, key=lambda pair: _loss(tried[tuning_name(method, *pair)]))


def doubled_jobs(methods: list[str]) -> list[Job]:
    """The runs that are known to be needed so far: each that ends at a better loss calls for one more."""
    tried, runs = records.read(RESULTS / "tuning"), records.read(RESULTS / "runs")
    wanted = ((method, rates) for method in methods for rates in _long_rates(method, tried, runs))
    return [_final_job(method, _study_file(method), rates, SEEDS[0]) for method, rates in wanted]


def _long_rates(method: str, tried: Tried, runs: Tried) -> list[tuple[float, float]]:
    """(lr, adam_lr) to train with for 2M tokens on the first seed: the best of the tuning runs, then lr doubled as
    often as that was better than all before."""
    best = min((kept for name, kept in tried.items() if name.startswith(f"{method}_lr=")), key=_loss)["summary"]
    lr, adam_lr = best["lr"], best["adam_lr"]
    rates, lowest = [(lr, adam_lr)], float("inf")
    while (kept := runs.get(_final_name(method, lr, adam_lr, SEEDS[0]))) and _loss(kept) < lowest:
        lowest = _loss(kept)
        lr *= 2
        rates.append((lr, adam_lr))
    return rates


def final_jobs(methods: list[str]) -> list[Job]:
    tried, runs, best = records.read(RESULTS / "tuning"), records.read(RESULTS / "runs"), {}
    for method in methods:
        losses = {
            rates: _loss(runs[_final_name(method, *rates, SEEDS[0])]) for rates in _long_rates(method, tried, runs)
        }
        best[method] = min(losses, key=losses.get)
    files = [(_study_file(method), method, method) for method in methods]
    for file in sorted((CONFIGS / "ablations").glob("*.yaml")):
        method = load([str(file)]).config.optimizer.name
        if method in methods:
            files.append((file, method, f"ablation_{file.stem}"))
    return [_final_job(name, file, best[method], seed) for seed in SEEDS for file, method, name in files]


def _loss(kept: records.Record) -> float:
    return kept["summary"]["final_loss"]


def _file_lr(method: str) -> float:
    return load([str(_study_file(method))]).config.optimizer.lr


def _study_file(method: str) -> Path:
    return CONFIGS / "study" / f"{method}.yaml"


def _tuning_job(method: str, lr: float, adam_lr: float) -> Job:
    file = _study_file(method)
    arguments = [str(file), f"train.steps={TUNING_STEPS}", "train.eval_every=0"]
    if load([str(file)]).config.optimizer.__dict__.get("rank"):  # a basis's life is a share of the run's
        arguments.append(f"optimizer.update_interval={TUNING_STEPS // 20}")
    name = tuning_name(method, lr, adam_lr)
    arguments += [f"optimizer.lr={lr:g}", f"optimizer.adam_lr={adam_lr:g}"]
    return _recorded(training(name, arguments, RUNS / "tuning"), "tuning")


def _final_job(name: str, file: Path, rates: tuple[float, float], seed: int) -> Job:
    lr, adam_lr = rates
    name = _final_name(name, lr, adam_lr, seed)
    arguments = [str(file), f"optimizer.lr={lr:g}", f"optimizer.adam_lr={adam_lr:g}", f"run.seed={seed}"]
    return _recorded(training(name, arguments, RUNS / "runs"), "runs")


def _final_name(name: str, lr: float, adam_lr: float, seed: int) -> str:
    return f"{tuning_name(name, lr, adam_lr)}_s{seed}"


def _recorded(job: Job, kind: str) -> Job:
    return Job(job.name, job.command, RESULTS / kind / f"{job.name}.json", job.log)


def make_text(corpora: Path) -> int:
    """The mixed corpus, a link to the validation texts, and the tokenizer."""
    RUNS.mkdir(parents=True, exist_ok=True)
    link = RUNS / "text"
    if link.resolve() != corpora.resolve():
        link.unlink(missing_ok=True)
        link.symlink_to(corpora.resolve())
    corpus, tokenizer = RUNS / "corpus", RUNS / "tokenizer"
    sources = [str(link / name) for name in ("books", "modern", "c4")]
    last = corpus / "en" / "c4-train.00007-of-00008.json.gz"
    options = ("--data", str(corpus), "--vocab-size", "4096", "--out", str(tokenizer))
    jobs = [
        _script("corpus", "mix_corpora.py", str(corpus), *sources, proof=last),
        _script("tokenizer", "train_tokenizer.py", *options, proof=tokenizer / "tokenizer.json"),
    ]
    return run_all(jobs)


def evaluation_jobs() -> list[Job]:
    """Evaluations on the held-out books of the runs that lack one."""
    books = ("data=files", f"data.eval_path={RUNS / 'text' / 'books'}", f"data.eval_tokens={HELD_OUT_TOKENS}")
    finished = sorted(path.parent for path in (RUNS / "runs").glob("*/summary.json"))
    return [
        _script(f"books_{run.name}", "evaluate.py", str(run), "--save", "books", *books, proof=run / "evaluations.json")
        for run in finished
    ]


def _script(name: str, script: str, *arguments: str, proof: Path) -> Job:
    return Job(name, (sys.executable, f"scripts/{script}", *arguments), proof, RUNS / f"{name}.log")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path, metavar="CORPORA")
    parser.add_argument("-j", dest="jobs", type=positive, default=1, help="runs at a time, one thread each")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage to run")
    parser.add_argument("--only", default=",".join(methods()), metavar="METHOD,...", help="some methods alone")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if unknown := set(chosen) - set(methods()):
        parser.error(f"--only {unknown.pop()}: no file of {CONFIGS / 'study'}")
    stages = {
        "lr": lr_jobs,
        "adam_lr": adam_lr_jobs,
        "lr_again": lr_again_jobs,
        "doubled": doubled_jobs,
        "final": final_jobs,
    }
    for stage in STAGES[: STAGES.index(arguments.until) + 1]:
        if stage == "text":
            code = make_text(arguments.corpora)
        else:
            keep()
            print(f"stage {stage}", flush=True)
            code = run_stage(stages[stage], chosen, arguments.jobs)
        if code:
            return code
    return 0


def run_stage(jobs: Callable[[list[str]], list[Job]], methods: list[str], at_once: int) -> int:
    """Run what `jobs` names, and again what it names then, until it names no more."""
    named, before, code = jobs(methods), 0, 0
    while not code and len(named) > before:
        code = run_all(named, at_once=at_once) or run_all(evaluation_jobs(), at_once=at_once)
        keep()
        named, before = jobs(methods), len(named)
    return code


def keep() -> None:
    """Write the records of what is finished."""
    for kind in ("tuning", "runs"):
        records.gather(RUNS / kind, RESULTS / kind, name=lambda folder, _: folder.name)


if __name__ == "__main__":
    sys.exit(main())
