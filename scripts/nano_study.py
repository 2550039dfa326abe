"""The paper's comparison at nano size, on real text, one CPU core a run: tuned learning rates, then three seeds.

    python scripts/nano_study.py CORPORA [-j JOBS] [--until STAGE] [--only METHOD,...]

CORPORA is a folder with C4-shaped corpora c4, books and modern. The runs train on their training documents, shuffled
into one corpus, with a tokenizer trained on them. They are evaluated on c4's validation documents, and at their end on
the books' too. The stages, each of which needs the ones before:

    text         the mixed corpus and the tokenizer, in runs/nano
    lr           every method (experiments/nano_files.py) at its file's rate times 1/8, 1/4, 1/2, 1, 2; 0.5M tokens
    adam_lr      at the best of these rates, three other rates for the parameters that Adam steps
    lr_again     at the best of those, the method's rate times 1/2 and 2: the best of the first stage depends on adam_lr
    doubled      at the best rates so far, 2M tokens, seed 0; then at twice the method's rate, again and again while
                 that is better: longer runs need larger rates, and how much larger depends on the method
    final        at the best of these rates every method, and the ablations (configs/experiment/nano/ablations) at the
                 rates of the method they change; all with seed 0, then with 1, then with 2

Records of finished runs go to results/nano/tuning and results/nano/runs. A run with a record counts as finished, on any
machine; the same command again resumes interrupted runs.
"""

import argparse
import sys
from pathlib import Path

from experiments import nano_stages
from experiments.jobs import positive
from experiments.nano_files import STUDY

STAGES = ("text", *nano_stages.STAGES)


def main() -> int:
    """Run the stages up to the one that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path, metavar="CORPORA")
    parser.add_argument("-j", dest="jobs", type=positive, default=1, help="runs at a time, one thread each")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage to run")
    parser.add_argument("--only", default=",".join(STUDY), metavar="METHOD,...", help="some methods alone")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if unknown := [method for method in chosen if method not in STUDY]:
        parser.error(f"--only {unknown[0]}: no method of the study; there are {', '.join(STUDY)}")
    for stage in STAGES[: STAGES.index(arguments.until) + 1]:
        if stage == "text":
            code = nano_stages.make_text(arguments.corpora)
        else:
            nano_stages.keep()
            print(f"stage {stage}", flush=True)
            code = nano_stages.run_stage(nano_stages.STAGES[stage], chosen, arguments.jobs)
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
