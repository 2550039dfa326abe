"""Write the table of docs/eight-bit-states.md: bytes of every optimizer's state, its moments wide and in 8 bits.

python scripts/document_states.py
"""

import training.processes.repeatable_sums  # noqa: F401 - before torch

# isort: split
import argparse
import re
from pathlib import Path

import torch

import optimizers
from configs.schema import load
from models.llama import build_model
from optimizers import registry

PAGE = Path(__file__).resolve().parents[1] / "docs" / "eight-bit-states.md"
TABLE = re.compile(r"(?<=<!-- states: begin -->\n).*?(?=<!-- states: end -->)", flags=re.DOTALL)
MODEL = "llama_60m"
HEAD = """| optimizer | 32 | 8 | of it in bytes |
|---|---|---|---|
"""


def main() -> None:
    """Rewrite the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PAGE.write_text(TABLE.sub(lambda _: table(), PAGE.read_text()))


def table() -> str:
    """A row for each name: MiB of state of `MODEL` in bfloat16 at the default options, counted on the meta device."""
    model = build_model(load([f"model={MODEL}"]).config.model, dtype=torch.bfloat16, seed=0, device="meta")
    lines = []
    for name in registry.names():
        wide, narrow = (optimizers.build(model, name, lr=0.01, state_bits=bits) for bits in (32, 8))
        for optimizer in (wide, narrow):
            optimizer.allocate_state()
        counted = [optimizers.state_bytes(wide), optimizers.state_bytes(narrow), _byte_elements(narrow)]
        lines.append(" | ".join([f"| `{name}`", *(f"{each / 2**20:.1f}" for each in counted)]) + " |\n")
    return HEAD + "".join(lines)


def _byte_elements(optimizer: optimizers.BaseOptimizer) -> int:
    held = (value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor))
    return sum(value.numel() for value in held if value.dtype == torch.uint8)


if __name__ == "__main__":
    main()
