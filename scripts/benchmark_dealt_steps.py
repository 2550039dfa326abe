"""How long is an optimizer's step when it is dealt to two processes, against the whole step on each?

    accelerate launch --config_file configs/accelerate/cpu_2.yaml scripts/benchmark_dealt_steps.py [OPTIMIZER ...]
        [--model llama_60m] [--rounds 10]

Both ways take turns in one run, on one thread a process, on the matrices of the model. A step with a refresh is not
measured. Each figure is a median of the rounds, of the process that took longest; on a machine with other work the
processor's seconds say more than the clock's.
"""

import training.processes.repeatable_sums  # noqa: F401 - before torch

# isort: split
import argparse
import os

from benchmarks.dealing import step_seconds
from configs.schema import load
from training.processes.start import start_world


def main() -> None:
    """Measure and print, on all processes that the launcher has started."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["alice", "muon"], metavar="OPTIMIZER")
    parser.add_argument("--model", default="llama_60m")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    section = load([f"model={arguments.model}"]).config.model
    world = start_world(seed=0, threads=1, deterministic=False, dtype="float32")
    for name in arguments.names:
        found = step_seconds(name, section, world, arguments.rounds)
        if world.is_main:
            print(
                f"{name:16} whole {found.whole:7.3f} s, dealt {found.dealt:7.3f} s, ratio {found.ratio:.2f}; "
                f"processor {found.whole_processor:7.3f} s, {found.dealt_processor:7.3f} s, "
                f"{found.processor_ratio:.2f}; load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    world.close()


if __name__ == "__main__":
    main()
