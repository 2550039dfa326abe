"""Fine-tune an encoder on tasks of GLUE with any optimizer. Finished runs are skipped, killed ones go on.

    python scripts/glue.py OUT FILE.yaml[,FILE.yaml...] [key=value[,value...] ...] [--tasks cola,mrpc] [--seeds 0,1,2]
        [--data FOLDER] [--model NAME] [-j JOBS] [-g DEVICES] [-n] [--only NAME]
    python scripts/glue.py OUT --table [--title TEXT]

    --tasks LIST   default: all eight
    --seeds LIST   default: 0
    --data FOLDER  with train.* and validation.* (.jsonl, .csv, .tsv, .parquet) in the columns of nyu-mll/glue; for
                   several tasks each in a folder of its name (default: nyu-mll/glue on the hub)
    --model NAME   the encoder: a name on the hub or a folder (default: the file's)
    -j JOBS        runs at a time (default: one for each device of -g, else 1)
    -g DEVICES     CUDA devices to deal the runs to, as 0,1,2
    -n             print the command and the settings of the runs that are not finished instead of running them
    --only NAME    only the run of this name, here and now, its output on the terminal
    --table        write OUT/table.md and OUT/table.csv from the records below OUT

Started in the project's folder. FILE.yaml is one of configs/experiment/glue. A run is in OUT/<file's name>[_<key>=
<value>...]_<task>_s<seed>, its output in <the same>.log, its record in record.jsonl there.
"""

import training.processes.repeatable_sums  # noqa: F401 - before torch

# isort: split
import argparse
import shlex
import sys
from pathlib import Path

from analysis.tables.table import write_table
from configs.reading import argument
from configs.schema import SettingsError
from experiments.glue import glue_table
from experiments.glue.glue_runs import all_tasks, check_folder, chosen_seeds, chosen_tasks, describe, plan
from experiments.glue.glue_settings import RECORD, GlueConfig
from experiments.grid import choose
from experiments.jobs import Job, run_all
from experiments.placement import add_options, machine_of
from training.run_errors import MachineError, RunFolderError


def parse() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The parser, for its errors, and what it read."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        usage=argparse.SUPPRESS,  # the description begins with it
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("files", nargs="?", metavar="FILE.yaml[,FILE.yaml...]")
    parser.add_argument("settings", nargs="*", metavar="key=value[,value...]")
    parser.add_argument("--tasks", default=all_tasks(), metavar="LIST")
    parser.add_argument("--seeds", default="0", metavar="LIST")
    parser.add_argument("--data", metavar="FOLDER")
    parser.add_argument("--model", metavar="NAME")
    add_options(parser, launcher=False)
    parser.add_argument("--only", metavar="NAME")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--title", default="GLUE", metavar="TEXT")
    arguments = parser.parse_intermixed_args()
    if arguments.table == (arguments.files is not None):
        parser.error("name settings files to run, or --table without any")
    return parser, arguments


def start(arguments: argparse.Namespace) -> int:
    """Run, or list, what the command line names; returns the exit code.

    Raises SettingsError, RunFolderError and MachineError.
    """
    shared = [("glue.data", arguments.data), ("glue.model", arguments.model)]
    overrides = [argument(key, value) for key, value in shared if value is not None]
    tasks, seeds = chosen_tasks(arguments.tasks), chosen_seeds(arguments.seeds)
    runs = plan(arguments.files.split(","), arguments.settings, overrides, tasks, seeds)
    for name in (names := choose(list(runs), arguments.only, None)):
        check_folder(arguments.out / name, runs[name])
    if arguments.only is not None and not arguments.dry:
        run_here(runs[arguments.only], arguments.out / arguments.only)
        return 0
    jobs = [_job(name, arguments) for name in names]
    if arguments.dry:
        for job in (job for job in jobs if not job.proof.exists()):
            print(f"{shlex.join(job.command)}  # {describe(runs[job.name])}")
        return 0
    machine = machine_of(arguments)
    machine.check()
    return run_all(jobs, at_once=machine.at_once, devices=machine.devices)


def run_here(config: GlueConfig, folder: Path) -> None:
    """Finish the run in `folder` in this process. Raises as `fine_tune` does."""
    if (folder / RECORD).exists():
        print(f"{folder} holds a finished run")
        return
    import datasets  # here, so that a list or a table need not wait for them
    import transformers

    from experiments.glue.fine_tuning import fine_tune

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    made = fine_tune(config, folder)
    print(f"best {made['score']} {made['best']:.4f} after epoch {made['best_epoch']}")


def _job(name: str, arguments: argparse.Namespace) -> Job:
    """This script again, for one run."""
    given = [str(arguments.out), arguments.files, *arguments.settings, "--tasks", arguments.tasks]
    given += ["--seeds", arguments.seeds]
    for flag, value in (("--data", arguments.data), ("--model", arguments.model)):
        given += [flag, value] if value is not None else []
    command = (sys.executable, "scripts/glue.py", *given, "--only", name)
    return Job(name, command, proof=arguments.out / name / RECORD, log=arguments.out / f"{name}.log")


def write(out: Path, title: str) -> int:
    """Write the table of the records below `out`; returns the exit code. Raises SettingsError."""
    rows = glue_table.read(out)
    if not rows:
        print(f"{out} holds no finished run of scripts/glue.py", file=sys.stderr)
        return 2
    table = glue_table.glue_table(rows, title)
    write_table(out / table.name, f"# {table.title}", table.columns, table.rows, table.note)
    print((out / f"{table.name}.md").read_text(), end="")
    return 0


def main() -> int:
    """Do what the command line says; returns the exit code."""
    parser, arguments = parse()
    try:
        return write(arguments.out, arguments.title) if arguments.table else start(arguments)
    except (SettingsError, RunFolderError) as error:
        parser.error(str(error))
    except MachineError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
