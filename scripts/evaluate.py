"""Perplexity of a finished run, on its own evaluation text or on other text.

    python scripts/evaluate.py RUN [key=value ...] [--save NAME]
    python scripts/evaluate.py runs/my_run data=files data.eval_path=book.txt data.eval_tokens=20000

RUN is a run folder. The settings are the run's, changed by the arguments; the tokenizer is the run's. Starts under
`accelerate launch` as well, and then shares the rows out. --save keeps the result as NAME in RUN/evaluations.json.
Exit codes as for train.py.
"""

import training.processes.repeatable_sums  # noqa: F401 - before torch

# isort: split
import sys
from pathlib import Path

from analysis.run_evaluation import describe, evaluate_run, evaluation_settings, save
from configs.schema import SettingsError
from configs.user_paths import is_dir
from training.processes.failures import Ending
from training.processes.launch_variables import launched
from training.processes.logs import set_up_logging
from training.processes.start import start_run


def main(arguments: list[str]) -> int:
    """Print the perplexity; returns the exit code."""
    with Ending() as ending:
        set_up_logging(launched("RANK", 0))
        if not {"-h", "--help"}.isdisjoint(arguments):
            print(__doc__)
            return 0
        run, changes, name = parse(arguments)
        config = evaluation_settings(run, changes)
        ending.world = start_run(config)
        found = evaluate_run(config, ending.world)
        ending.world.close()
        if ending.world.is_main:
            print(describe(found), flush=True)
            if name is not None:
                save(found, Path(run), name)
    return ending.code


def parse(arguments: list[str]) -> tuple[str, list[str], str | None]:
    """Run folder, changes and the name after --save. Raises SettingsError."""
    name = None
    if "--save" in arguments:
        at = arguments.index("--save")
        if at + 1 == len(arguments):
            raise SettingsError("--save needs a name for the result")
        name, arguments = arguments[at + 1], [*arguments[:at], *arguments[at + 2 :]]
    if not arguments or arguments[0].startswith("-") or ("=" in arguments[0] and not is_dir(arguments[0])):
        raise SettingsError("name a run folder: scripts/evaluate.py RUN [key=value ...] [--save NAME]")
    run, *changes = arguments
    return run, changes, name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
