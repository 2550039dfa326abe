"""YAML files and `key=value` arguments, merged into one plain dict that remembers where every value was written."""

import glob
import typing
from pathlib import Path
from typing import Any

import yaml

from configs.messages import nearest, one_line
from configs.user_paths import is_dir, is_file
from configs.yaml_values import UNREADABLE, Unread, line_numbers, problem, quoted, read_mapping, structure

FOLDER = Path(__file__).resolve().parent
GROUPS = ("model", "data", "optimizer")


class SettingsError(ValueError):
    """A mistake in the settings; its text is one sentence for the user."""


class Settings:
    """The settings read so far.

    Attributes:
        values: nested plain dicts, a section each. The type of an `Unread` value is decided by its setting.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._origins: dict[str, str] = {}

    def where(self, key: str) -> str:
        """'FILE line N: ' for a dotted key set in a file, '' for one from the command line or not set."""
        return self._origins.get(key, "")

    def typed(self, key: str) -> Any:
        """The value of a dotted key of a section that the command line has set, else None."""
        section, _, name = key.partition(".")
        return None if self._origins.get(key) != "" else self.values[section][name]

    def require(self, holds: bool, key: str, text: str) -> None:
        """Raise SettingsError '<where it was set><key> <text>' unless `holds`."""
        if not holds:
            raise SettingsError(f"{self.where(key)}{key} {text}")

    def choices(self, group: str) -> list[str]:
        """Names of the files of a group, sorted."""
        return sorted(path.stem for path in (FOLDER / group).glob("*.yaml"))

    def add_file(self, name: str) -> None:
        """Merge a settings file: relative to the current directory, or else to the folder that holds configs/."""
        path = Path(name)
        if not is_file(path):
            path = FOLDER.parent / name
        if not is_file(path):
            if is_dir(path):
                raise SettingsError(f"settings file {name} is a folder")
            picks = [f"{group}={choice}" for group in GROUPS for choice in self.choices(group) if choice == path.stem]
            files = [str(file.relative_to(FOLDER.parent)) for file in sorted(FOLDER.rglob("*.yaml"))]
            hint = f"; did you mean {picks[0]}?" if picks else nearest(name, files)
            raise SettingsError(f"settings file {name} does not exist{hint}")
        self._merge_file(path, shown=name, opened=())

    def add_overrides(self, arguments: list[str]) -> None:
        """Merge `key=value` arguments: those that pick a file of a group first, then the others in order."""
        pairs = [(argument, *argument.split("=", 1)) for argument in arguments]
        for argument, key, text in sorted(pairs, key=lambda pair: pair[1].removesuffix(".base") not in GROUPS):
            if not all(key.split(".")):
                raise SettingsError(f"argument {argument!r} is not of the form key=value")
            # Whether YAML or a text was typed is known with the setting's type; a whole section is always YAML.
            value: Any = Unread(text) if "." in key else _structure(text, argument)
            if key in GROUPS and value is None:
                raise SettingsError(f"argument {argument!r} picks no file; known: {', '.join(self.choices(key))}")
            for part in reversed(key.split(".")):
                value = {part: value}
            self._merge(value, lines={}, shown="")

    def _merge_file(self, path: Path, shown: str, opened: tuple[Path, ...]) -> None:
        """Merge a file after its base; `shown` is its name in messages, `opened` the files that build on it."""
        if path.resolve() in opened:
            raise SettingsError(f"settings file {shown} builds on itself through its base")
        content, lines = _read(path, shown)
        base = content.pop("base", None)
        if base is not None:
            base_path = path.parent / str(base)
            if not is_file(base_path):
                files = glob.glob("*.yaml", root_dir=base_path.parent)  # noqa: PTH207  Path.glob raises for a long name
                hint = nearest(base_path.name, sorted(files))
                raise SettingsError(f"{_origin(shown, lines, 'base')}base {base} does not exist{hint}")
            self._merge_file(base_path, shown=str(Path(shown).parent / str(base)), opened=(*opened, path.resolve()))
        self._merge(content, lines, shown)

    def _merge(self, content: dict[Any, Any], lines: dict[str, int], shown: str) -> None:
        for group in GROUPS:
            if group in content:
                content[group] = self._pick(group, content[group], _origin(shown, lines, group))
        self._update(self.values, content, "", lines, shown)

    def _pick(self, group: str, value: Any, where: str) -> dict[Any, Any]:
        """Load the file named by `alice` or `{base: alice, ...}` as the whole section; return the changes to it.

        A Python file in place of an optimizer is its `optimizer.file`, without any other setting.
        """
        changes = dict(value) if isinstance(value, dict) else {"base": value}
        name = changes.pop("base", None)
        if name is None:
            return changes
        if group == "optimizer" and str(name).endswith(".py"):
            self._replace(group, {"file": name}, {}, where.removesuffix(": "))
            return changes
        if name not in self.choices(group):
            choices = self.choices(group)
            raise SettingsError(
                f"{where}{group}={name} is no file of configs/{group}"
                f"{nearest(str(name), choices) or '; known: ' + ', '.join(choices)}"
            )
        path = FOLDER / group / f"{name}.yaml"
        shown = str(path.relative_to(FOLDER.parent))
        content, lines = _read(path, shown)
        self._replace(group, content, {f"{group}.{key}": n for key, n in lines.items()}, shown)
        return changes

    def _replace(self, group: str, content: dict[Any, Any], lines: dict[str, int], shown: str) -> None:
        """Put `content` in the place of a whole section."""
        self.values[group] = {}
        self._origins = {key: origin for key, origin in self._origins.items() if not key.startswith(f"{group}.")}
        self._update(self.values, {group: content}, "", lines, shown)

    def _update(
        self, values: dict[Any, Any], content: dict[Any, Any], prefix: str, lines: dict[str, int], shown: str
    ) -> None:
        for name, value in content.items():
            key = f"{prefix}{name}"
            self._origins[key] = _origin(shown, lines, key)
            if not prefix and value is None:  # a section whose keys are all commented out
                value = {}
            if isinstance(value, dict) and isinstance(values.get(name, {}), dict):
                values.setdefault(name, {})
                self._update(values[name], value, f"{key}.", lines, shown)
            else:
                values[name] = value


def argument(key: str, value: str) -> str:
    """key=value so that `add_overrides` reads the text `value`: in quotes if it would be read as something else."""
    return f"{key}={quoted(value)}"


def with_training_text(changes: list[str]) -> list[str]:
    """Changes for an evaluation on other text, which takes the training text's place too: that is not read, and its
    default may not fit the new evaluation text."""
    paths = [change.replace("eval_path", "path", 1) for change in changes if change.startswith("data.eval_path=")]
    return [*changes, *paths[:1]]


def value_of(value: Any, hint: Any, key: str) -> Any:
    """What was typed for the setting `key` of the type `hint`: for a text the text, otherwise what it means as YAML.

    For a text or a list of them, [a, b] is a list and everything else the text that was typed.

    Raises SettingsError naming the argument if a value from the command line is no YAML.
    """
    if hint in (str, str | None):
        return value.text() if isinstance(value, Unread) else value
    if hint == str | list[str] | None and isinstance(value, Unread) and not value.is_list():
        return value.text()
    if isinstance(value, Unread):
        value = _structure(value, f"{key}={value}")
    if isinstance(value, list):
        (item, *_) = typing.get_args(hint) or (None,)
        return [value_of(member, item, key) for member in value]
    if isinstance(value, dict):
        return {str(name): value_of(member, Any, f"{key}.{name}") for name, member in value.items()}
    return value.typed() if isinstance(value, Unread) else value


def _structure(text: str, argument: str) -> Any:
    """The YAML of an argument. Raises SettingsError."""
    try:
        return structure(text)
    except yaml.YAMLError as error:
        quotes = "; a text with *, @, {, [ or a comma needs quotes in a list" if text.lstrip().startswith("[") else ""
        raise SettingsError(f"argument {argument!r} has a value that is {problem(error)}{quotes}") from error
    except UNREADABLE as error:
        raise SettingsError(f"argument {argument!r} has a value that makes no sense: {one_line(error)}") from error


def _read(path: Path, shown: str) -> tuple[dict[Any, Any], dict[str, int]]:
    """The mapping in a YAML file, and the line of each dotted key."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        values, lines = read_mapping(text), line_numbers(text)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {shown} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise SettingsError(f"{shown}{f' line {mark.line + 1}' if mark else ''}: {problem(error)}") from error
    except UNREADABLE as error:
        raise SettingsError(f"{shown} makes no sense: {one_line(error)}") from error
    if values is None:
        raise SettingsError(f"{shown} line 1: a settings file holds keys and values")
    return values, lines


def _origin(shown: str, lines: dict[str, int], key: str) -> str:
    """'FILE line N: ', without the line for keys that YAML's anchors or merges bring in; '' outside files."""
    return f"{shown} line {lines[key]}: " if key in lines else f"{shown}: " if shown else ""
