"""YAML whose plain scalars keep the text that was typed until the type of their setting is known.

YAML 1.1 reads 007, 3.10, 12:30, no and 2024_01 as numbers and booleans. For a setting that is a text they are texts.
"""

import json
import re
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

# What OmegaConf and the constructors of YAML's types raise for valid YAML whose values cannot be read.
UNREADABLE = (OmegaConfBaseException, ValueError, LookupError, RecursionError)
_NULL = ("null", "Null", "NULL", "~")


class Unread(str):
    """A plain scalar as it was typed, or the value of a `key=value` argument."""

    __slots__ = ()

    def text(self) -> str | None:
        """What was typed as a text: without the quotes around it, if there are any; None for null."""
        if self in _NULL:
            return None
        if len(self) > 1 and self[0] == self[-1] and self[0] in "'\"":
            try:
                node = yaml.compose(self, Loader=yaml.SafeLoader)
            except yaml.YAMLError:
                return str(self)
            return node.value if isinstance(node, yaml.ScalarNode) else str(self)
        return str(self)

    def is_list(self) -> bool:
        """Whether a list in brackets was typed: [a, b], but not [ab]*.txt."""
        return self.startswith("[") and self.endswith("]")

    def typed(self) -> Any:
        """What was typed as a number, a boolean or null. Whole numbers are decimal, and 1:30 is no number."""
        if re.fullmatch(r"[-+]?[0-9]+(_[0-9]+)*", self):
            return int(self)
        if re.fullmatch(r"[-+]?[0-9][0-9_]*(:[0-9_]+)+(\.[0-9_]*)?", self):
            return str(self)
        container: Any = OmegaConf.to_container(OmegaConf.create(_under_a_key(self)))
        return container["value"]


class _Loader(yaml.SafeLoader):
    """Plain scalars become `Unread`, null becomes None."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        if plain and node.tag == self.resolve(yaml.ScalarNode, node.value, (True, False)):
            return None if node.tag.endswith(":null") else Unread(node.value)
        return super().construct_object(node, deep)


def structure(text: str) -> Any:
    """The lists, dicts and scalars of a value in YAML, plain scalars `Unread`; "" for no text.

    Raises yaml.YAMLError and UNREADABLE.
    """
    mapping = read_mapping(_under_a_key(text)) if text else {"value": ""}
    return mapping and mapping["value"]


def read_mapping(text: str) -> dict[Any, Any] | None:
    """The mapping that a YAML file holds, plain scalars `Unread`; None if it holds something else.

    Raises yaml.YAMLError and UNREADABLE.
    """
    OmegaConf.create(text)  # refuses duplicate keys, broken interpolations, aliases that stand for millions of values
    values = yaml.load(text, Loader=_Loader)
    return {} if values is None else values if isinstance(values, dict) else None


def line_numbers(text: str) -> dict[str, int]:
    """The line of each dotted key in a YAML mapping."""
    lines: dict[str, int] = {}
    _number(yaml.compose(text, Loader=yaml.SafeLoader), "", lines)
    return lines


def quoted(text: str) -> str:
    """`text` as the value of an argument that is read as this text: as it is, or in quotes."""
    escaped = _escaped(text)
    plain = Unread(escaped).text() == escaped and not Unread(escaped).is_list()
    return escaped if plain else json.dumps(escaped, ensure_ascii=False)


def to_yaml(settings: dict[str, Any]) -> str:
    """Resolved settings, plain values only, as a settings file that is read as these settings."""
    return yaml.dump(settings, Dumper=_ResolvedDumper, sort_keys=False, allow_unicode=True)


def from_yaml(text: str) -> Any:
    """The value that `to_yaml` wrote. Raises yaml.YAMLError, ValueError and RecursionError."""
    return yaml.load(text, Loader=_ResolvedLoader)


class _ResolvedDumper(yaml.SafeDumper):
    """Texts have no interpolation."""


class _ResolvedLoader(yaml.SafeLoader):
    """Texts are those that `_ResolvedDumper` was given."""


def _represent(dumper: _ResolvedDumper, text: str) -> yaml.Node:
    return dumper.represent_str(_escaped(text))


def _construct(loader: _ResolvedLoader, node: yaml.ScalarNode) -> str:
    return _unescaped(str(loader.construct_scalar(node)))


_ResolvedDumper.add_representer(str, _represent)
_ResolvedLoader.add_constructor("tag:yaml.org,2002:str", _construct)


def _escaped(text: str) -> str:
    """`text` without an interpolation, which "${" would begin; backslashes before it are doubled."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def _unescaped(text: str) -> str:
    return re.sub(r"(\\*)\1\\\$\{", r"\1${", text)


def problem(error: yaml.YAMLError) -> str:
    """What is wrong with the YAML, for a sentence."""
    return f"not valid YAML, {getattr(error, 'problem', None) or str(error).splitlines()[0]}"


def _under_a_key(text: str) -> str:
    return f"value: {text}"  # the space is needed: YAML reads `value:3` as one text


def _number(node: yaml.Node | None, prefix: str, lines: dict[str, int]) -> None:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        lines[f"{prefix}{key.value}"] = key.start_mark.line + 1
        _number(value, f"{prefix}{key.value}.", lines)
