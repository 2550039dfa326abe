"""Write the settings of a run into docs/settings.md as the rooms declare them, and the options of every optimizer into
docs/options.md and README.md's table as the constructors do.

    python scripts/document_options.py
"""

import argparse
import html
import re
import types
import typing
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal

import omegaconf

from configs.sections import Config, Optimizer
from optimizers import registry
from optimizers.engine.base import BaseOptimizer
from optimizers.engine.options import Declared, declared

ROOT = Path(__file__).resolve().parents[1]
README, PAGE, SETTINGS = ROOT / "README.md", ROOT / "docs" / "options.md", ROOT / "docs" / "settings.md"
LARGE = 1e6  # a bound that only keeps counts from overflowing is not worth a reader's time
EVERYWHERE = ("weight_decay", "state_bits")  # options that README's table need not repeat
TABLE = re.compile(r"(?<=<!-- options: begin -->\n).*?(?=<!-- options: end -->)", flags=re.DOTALL)

HEAD = """# Options of the optimizers

This page is written by `python scripts/document_options.py` from the constructors. Each option is declared once, those
that several methods have in `optimizers/engine/options.py`. In settings an option is `optimizer.<option>`; in Python it
is a keyword. A group of parameters with `algorithm="adam"` takes Adam's `lr`, `betas`, `eps` and `weight_decay`
instead.

## Settings of every optimizer

Each file of `configs/optimizer/` gives `lr` and most options; a `lr` in settings is above 0. Which parameter is what:
[in your own loop](in-your-own-loop.md).

| setting | meaning |
|---|---|
"""

SETTINGS_HEAD = """# Settings of a run

This page is written by `python scripts/document_options.py`: each setting is declared once, by the room that uses it.
In a YAML file a setting is a key of its section; on the command line it is `section.key=value`. Those of `optimizer`
are in [options](options.md). `python train.py ... --plan` shows the parameters, memory and steps that they give.

- **Files** merge from left to right over the defaults, the command line over them. `base: ../60m.yaml` in a file begins
  with another one, relative to itself. `model=`, `data=` and `optimizer=` pick a file of that folder of `configs/`.
- **The learning rate** of every group is its own `lr` times one factor: linear from 0 to 1 over the first
  `warmup_fraction` of the steps, then half a cosine from 1 to `final_fraction`, which the last step has
  (`training/schedule.py`).
- **A resume** asks for the same settings, but for those that do not change the result (`configs/identity.py`).
  `run.allow_config_change=true` goes on with others.
"""


def main() -> None:
    """Rewrite the three files."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    README.write_text(readme(README.read_text()))
    PAGE.write_text(page())
    SETTINGS.write_text(settings())


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


def settings() -> str:
    """docs/settings.md: a section for each of a `Config`, but for the optimizer's."""
    text = SETTINGS_HEAD
    for section in fields(Config):
        if section.name != "optimizer":
            rows = "".join(map(_setting_row, fields(typing.cast(Any, section.type))))
            text += f"\n## {section.name}\n\n| setting | type | default | meaning |\n|---|---|---|---|\n{rows}"
    return text


def _setting_row(each: "Field[Any]") -> str:
    words = {"least": "at least", "above": "above", "most": "at most"}
    bounds = " and ".join(
        f"{words[key]} {each.metadata[key]:g}" for key in words if each.metadata.get(key, LARGE) < LARGE
    )
    kind = _kind(each.type) + (f", {bounds}" if bounds else "")
    value = [] if each.default is MISSING else each.default  # a list has a factory
    default = "must be given" if value == omegaconf.MISSING else f"`{_yaml(value)}`"
    return f"| `{each.name}` | {kind} | {default} | {html.escape(each.metadata['meaning'], quote=False)} |\n"


def _yaml(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _kind(kind: Any) -> str:
    """A type in words; null is said by the default or the meaning."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return " or ".join(_kind(part) for part in typing.get_args(kind) if part is not types.NoneType)
    if typing.get_origin(kind) is Literal:
        return ", ".join(map(_yaml, typing.get_args(kind)))
    if typing.get_origin(kind) is list:
        return "list"
    words: dict[Any, str] = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    return words.get(kind, "mapping")


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
    shown = f"{len(typing.get_args(kind))} numbers" if typing.get_origin(kind) is tuple else _kind(kind)
    bounds = option.option.bounds()
    return (
        f"| `{option.name}` | {shown}{f', {bounds}' if bounds else ''} | `{option.default}` | {option.option.meaning} |"
    )


if __name__ == "__main__":
    main()
