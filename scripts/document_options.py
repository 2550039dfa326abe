"""Write the options of every optimizer into docs/options.md and README.md's table, as the constructors declare them.

python scripts/document_options.py
"""

import re
import typing
from dataclasses import fields
from pathlib import Path
from typing import Literal

from configs.sections import Optimizer
from optimizers import registry
from optimizers.engine.base import BaseOptimizer
from optimizers.engine.options import Declared, declared

ROOT = Path(__file__).resolve().parents[1]
README, PAGE = ROOT / "README.md", ROOT / "docs" / "options.md"
EVERYWHERE = ("weight_decay", "state_bits")  # options that README's table need not repeat
TABLE = re.compile(r"(?<=<!-- options: begin -->\n).*?(?=<!-- options: end -->)", flags=re.DOTALL)

HEAD = """# Options of the optimizers

This page is written by `python scripts/document_options.py` from the constructors, where each option is declared once
(`optimizers/engine/options.py`). In settings an option is `optimizer.<option>`; in Python it is a keyword. A group of
parameters with `algorithm="adam"` takes Adam's `lr`, `betas`, `eps` and `weight_decay` instead.

## Settings of every optimizer

Each file of `configs/optimizer/` gives `lr` and most options; a `lr` in settings is above 0. Which parameter is what:
[in your own loop](in-your-own-loop.md).

| setting | meaning |
|---|---|
"""


def main() -> None:
    """Rewrite both files."""
    README.write_text(readme(README.read_text()))
    PAGE.write_text(page())


def readme(text: str) -> str:
    """README's `text` with the last column of its table of optimizers renewed."""
    return TABLE.sub(lambda table: "".join(map(_with_options, table[0].splitlines(keepends=True))), text)


def page() -> str:
    """docs/options.md: a section for each class."""
    names: dict[type[BaseOptimizer], list[str]] = {}
    for name in registry.names():
        names.setdefault(registry.get(name)[0], []).append(name)
    every = (f"| `optimizer.{each.name}` | {each.metadata['meaning']} |\n" for each in fields(Optimizer))
    return HEAD + "".join(every) + "".join(_section(cls, names[cls]) for cls in names)


def _with_options(line: str) -> str:
    cells = line.rstrip("\n").split(" | ")
    names = re.findall(r"`(\w+)`", cells[0])
    if not names:
        return line
    lists = [" ".join(key for key in registry.options(name) if key not in EVERYWHERE) for name in names]
    return " | ".join([*cells[:-1], "; ".join(f"`{options}`" for options in dict.fromkeys(lists))]) + " |\n"


def _section(cls: type[BaseOptimizer], names: list[str]) -> str:
    presets = {name: registry.get(name)[1] for name in names}
    lines = [f"\n## {cls.__name__}\n"]
    for name, preset in presets.items():
        settings = ", ".join(f"`{key}={value}`" for key, value in preset.items())
        lines.append(f"- `{name}`{f': {settings}' if preset else ''}")
    lines += ["", _stepped(cls), "", "| option | type | default | meaning |", "|---|---|---|---|"]
    lines += [_row(option) for option in declared(cls).values()]
    return "\n".join(lines) + "\n"


def _stepped(cls: type[BaseOptimizer]) -> str:
    traits = cls.traits
    if traits.steps_everything:
        return "It steps everything."
    parts = ["the matrices of hidden layers"]
    parts += ["`lm_head`"] if traits.last_layer == "method" else []
    parts += ["embeddings"] if traits.embeddings == "method" else []
    parts += [{"norm": "norms", "bias": "biases"}[part] for part in traits.also_steps]
    listed = " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
    rest = " It cannot step `lm_head` or embeddings." if traits.last_layer_refusal else ""
    return f"By default it steps {listed}. The rest is Adam's, at `adam_lr`.{rest}"


def _row(option: Declared) -> str:
    kind = option.annotation
    if typing.get_origin(kind) is Literal:
        shown = ", ".join(map(str, typing.get_args(kind)))
    elif typing.get_origin(kind) is tuple:
        shown = f"{len(typing.get_args(kind))} numbers"
    else:
        shown = {int: "whole number", float: "number", bool: "true or false"}[kind]
    bounds = option.option.bounds()
    return (
        f"| `{option.name}` | {shown}{f', {bounds}' if bounds else ''} | `{option.default}` | {option.option.meaning} |"
    )


if __name__ == "__main__":
    main()
