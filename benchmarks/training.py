"""How fast is training, and what memory does it take, against a plain loop and against the matrix products alone?

    python scripts/benchmark_training.py [FILE.yaml ...] [key=value ...] [--steps 8] [--rounds 5] [--threads 1]
        [--checkpointing] [--results results/benchmarks]

The settings are those of train.py (default: model=llama_nano train.batch_size=16). Runs of train.py take turns with
runs of a plain loop, each in a process of its own: transformers' LlamaForCausalLM with its own loss, torch's fused
AdamW, and a loader that tokenises one document at a time and pads it, as GaLore's training code does (torchrun_main.py
and peft_pretraining/dataloader.py of jiaweizzhao/GaLore). Both train the same model, by Adam, on as many rows of the
same documents (of C4's lengths, made from the builtin text), one document a row; "train.py, packed" joins documents
instead, as data.packing=true does (the default but for C4, whose published numbers are of padded rows).
--checkpointing adds the first two with activation checkpointing. Medians over the steps after the first two, then over
the rounds:

    positions/s   a second of training steps         ratio   of a round's speeds, to the plain loop
                  (train.py leaves out padding, so the more of it there is, the higher this; tokens/s is what counts)
    tokens/s      without padding                    ratio   likewise
    of bound      the time that 6 FLOPs for each token and each element of the matrices and lm_head take at the rate of
                  a matrix product, measured in each round, over the time of a step
    data          share of the time that waits for data, %
    first         seconds of the first step, compilation included        peak    memory of the process, MiB

Writes training_<model>_<device>_<dtype>.csv into the results' folder.
"""

import argparse
import csv
import itertools
import json
import math
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from configs.schema import Config, SettingsError, load  # noqa: E402
from data import load_tokenizer  # noqa: E402
from data.sources import training_source  # noqa: E402
from models import estimate  # noqa: E402
from models.llama import llama_config  # noqa: E402
from scripts.machine import rates  # noqa: E402
from training.recorder import peak_memory_bytes  # noqa: E402

WARM = 2  # steps that are not counted
# Characters of a document: log-normal with the median and the spread of 500 documents of C4's validation set.
DOCUMENT, SPREAD = 1_150, 1.1
COLUMNS = ("loop", "checkpointing", "positions_per_second", "ratio", "tokens_per_second", "tokens_ratio", "of_bound",
           "data_percent", "first_seconds", "peak_bytes", "peak_ratio")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="as for train.py")
    parser.add_argument("--steps", type=int, default=8, help="of a run, the first two of which are not counted")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checkpointing", action="store_true", help="also with activation checkpointing")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)  # the plain loop's own process: its documents
    arguments = parser.parse_intermixed_args()
    if arguments.steps <= WARM:
        parser.error(f"--steps must be above {WARM}, got {arguments.steps}")
    settings = [
        *(arguments.settings or ["model=llama_nano", "train.batch_size=16"]),
        *("optimizer=adam", "optimizer.lr=0.001", "data=files", "data.eval_tokens=1000"),
        *(f"train.steps={arguments.steps}", f"train.threads={arguments.threads}"),
        *("train.eval_every=0", "train.checkpoint_every=0", "train.log_every=1", "wandb.mode=disabled"),
    ]
    if arguments.plain:
        print(json.dumps(train_plainly(load([*settings, "data.path=unused"]).config, arguments.plain)))
        return
    try:
        config = load([*settings, "data.path=unused"]).config
    except SettingsError as error:
        parser.error(str(error))
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        documents = write_documents(Path(folder))
        settings += [f"data.path={documents}", f"data.eval_path={documents}"]
        rounds, gemm = take_turns(settings, documents, arguments.rounds, arguments.checkpointing, config)
    rows = evaluate(rounds, gemm, config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    conditions = (
        f"{config.model.name}, {config.train.batch_size} rows of {config.data.sequence_length}, {config.train.dtype}; "
        f"{device}, {arguments.threads} thread(s), torch {torch.__version__}, GEMM {statistics.median(gemm) / 1e9:.0f} "
        "GFLOP/s"
    )
    show(rows, conditions)
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / f"training_{config.model.name}_{device}_{config.train.dtype}.csv"
    with path.open("w", newline="") as file:
        file.write(f"# {conditions}\n")
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(path)


def write_documents(folder: Path) -> Path:
    """The builtin text, cut into documents of the lengths of C4's, as a JSON Lines file in `folder`."""
    path = folder / "documents.jsonl"
    files = training_source(load(["data=builtin"]).config.data).files
    text = "\n".join(Path(file).read_text(encoding="utf-8") for file in files)
    source, start = random.Random(0), 0
    with path.open("w") as file:
        while start < len(text):
            end = start + round(source.lognormvariate(math.log(DOCUMENT), SPREAD))
            file.write(json.dumps({"text": text[start:end]}) + "\n")
            start = end
    return path


def take_turns(settings: list[str], documents: Path, rounds: int, checkpointing: bool, config: Config):
    """({(loop, checkpointing): a run's result for each round}, GEMM rates of the rounds)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    measure_rates = rates(device, getattr(torch, config.train.dtype))
    results: dict[tuple[str, bool], list[dict]] = {}
    gemm = []
    for _ in range(rounds):
        gemm.append(measure_rates()[1])
        for recompute in (False, True)[: 1 + checkpointing]:
            chosen = [*settings, f"train.activation_checkpointing={str(recompute).lower()}"]
            results.setdefault(("plain", recompute), []).append(run_plain(chosen, documents, config))
            ours = {"train.py": "data.packing=false"}
            if not recompute:
                ours["train.py, packed"] = "data.packing=true"
            for loop, packing in ours.items():
                results.setdefault((loop, recompute), []).append(run_ours([*chosen, packing], documents.parent / "run"))
    return results, gemm


def run(command: list[str]) -> str:
    """What a Python process with these arguments prints. Raises CalledProcessError, after showing its stderr."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
    done.check_returncode()
    return done.stdout


def run_ours(settings: list[str], folder: Path) -> dict:
    """Seconds of the steps of one run of train.py, its waits for data, its tokens and its peak memory."""
    shutil.rmtree(folder, ignore_errors=True)  # of the round before
    run([str(ROOT / "train.py"), *settings, f"run.dir={folder}"])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["kind"] == "train"]
    totals = [0.0, *(row["train_seconds"] for row in rows)]
    return {
        "seconds": [after - before for before, after in itertools.pairwise(totals)],
        "data_seconds": [row["data_seconds"] for row in rows],
        "tokens": rows[-1]["tokens"],
        "peak_bytes": json.loads((folder / "summary.json").read_text())["peak_memory_bytes"],
    }


def run_plain(settings: list[str], documents: Path, config: Config) -> dict:
    """The same of the plain loop."""
    extra = ["--steps", str(config.train.steps), "--threads", str(config.train.threads)]
    return json.loads(run([__file__, *settings, *extra, "--plain", str(documents)]).splitlines()[-1])


def train_plainly(config: Config, documents: Path) -> dict:
    """The plain loop. Returns what `run_ours` does."""
    import transformers

    torch.set_num_threads(config.train.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = load_tokenizer(config.data)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = transformers.LlamaForCausalLM(llama_config(config.model))
    model.set_attn_implementation("sdpa")  # transformers' default, not this repository's
    model = model.to(device, getattr(torch, config.train.dtype)).train()
    if config.train.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optimizer.lr, weight_decay=0.0, fused=True)
    micro = config.train.micro_batch_size or config.train.batch_size
    accumulation = config.train.batch_size // micro
    batches = plain_batches(documents, tokenizer, micro, config.data.sequence_length)
    seconds, data_seconds, tokens = [], [], 0
    for _ in range(config.train.steps):
        started, waited = time.perf_counter(), 0.0
        for _ in range(accumulation):
            asked = time.perf_counter()
            batch = {key: value.to(device) for key, value in next(batches).items()}
            waited += time.perf_counter() - asked
            labels = batch["input_ids"].clone()
            labels[batch["attention_mask"] == 0] = -100
            tokens += (labels[:, 1:] != -100).sum().item()
            loss = model(**batch, labels=labels).loss / accumulation
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # logged at every step
        seconds.append(time.perf_counter() - started)
        data_seconds.append(waited)
    peak = peak_memory_bytes(device)
    return {"seconds": seconds, "data_seconds": data_seconds, "tokens": tokens, "peak_bytes": peak}


def plain_batches(documents: Path, tokenizer, rows: int, length: int):
    """Endless padded batches, each document tokenised alone when it is needed."""
    options = {"max_length": length, "truncation": True, "padding": "max_length", "return_tensors": "pt"}
    while True:
        with documents.open() as file:
            while lines := list(itertools.islice(file, rows)):
                encoded = [tokenizer(json.loads(line)["text"], **options) for line in lines]
                yield {key: torch.cat([one[key] for one in encoded]) for key in ("input_ids", "attention_mask")}


def evaluate(rounds: dict, gemm: list[float], config: Config) -> list[dict]:
    """The rows of the table."""
    positions = config.train.batch_size * config.data.sequence_length
    plan, attention = estimate.plan(config), 6 * config.model.num_hidden_layers * config.model.hidden_size
    flops_per_token = plan["flops_per_position"] - attention * config.data.sequence_length
    median, rows = statistics.median, []
    speeds = {key: [positions / median(one["seconds"][WARM:]) for one in runs] for key, runs in rounds.items()}
    whole_run = positions * config.train.steps
    useful = {
        key: [speed * one["tokens"] / whole_run for speed, one in zip(speeds[key], runs, strict=True)]
        for key, runs in rounds.items()
    }
    peaks = {key: median(one["peak_bytes"] for one in runs) for key, runs in rounds.items()}
    for key, runs in rounds.items():
        counted = [(sum(one["data_seconds"][WARM:]), sum(one["seconds"][WARM:])) for one in runs]
        plain, plain_useful = (
            [mine / theirs for mine, theirs in zip(of[key], of["plain", False], strict=True)] for of in (speeds, useful)
        )
        bounds = [flops_per_token * speed / rate for rate, speed in zip(gemm, useful[key], strict=True)]
        rows.append(
            {
                "loop": key[0],
                "checkpointing": key[1],
                "positions_per_second": median(speeds[key]),
                "ratio": median(plain),
                "tokens_per_second": median(useful[key]),
                "tokens_ratio": median(plain_useful),
                "of_bound": median(bounds),
                "data_percent": 100 * median(waited / whole for waited, whole in counted),
                "first_seconds": median(one["seconds"][0] for one in runs),
                "peak_bytes": peaks[key],
                "peak_ratio": peaks[key] / peaks["plain", False],
            }
        )
    return rows


def show(rows: list[dict], conditions: str) -> None:
    """The table, on stdout."""
    heads = ("positions/s", "ratio", "tokens/s", "ratio", "of bound", "data", "first", "peak MiB", "ratio")
    print(f"{conditions}\n{'':24}" + "".join(f"{head:>12}" for head in heads))
    for row in rows:
        name = row["loop"] + (", checkpointing" if row["checkpointing"] else "")
        cells = (
            f"{row['positions_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['tokens_ratio']:.2f}",
            f"{row['of_bound']:.2f}",
            f"{row['data_percent']:.2f}%",
            f"{row['first_seconds']:.1f}",
            f"{row['peak_bytes'] / 2**20:,.0f}",
            f"{row['peak_ratio']:.2f}",
        )
        print(f"{name:24}" + "".join(f"{cell:>12}" for cell in cells))


if __name__ == "__main__":
    main()
