"""What an arena compares, and how: the file configs/arena/NAME.yaml."""

import dataclasses
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from analysis.paths import ARENAS, ROOT
from analysis.rows import style
from configs.checks import check_bounds, check_options
from configs.identity import differences, to_dict
from configs.reading import Settings, with_training_text
from configs.schema import Config, Optimizer, SettingsError, load, read_into


@dataclass
class Entrant:
    """A row: settings of train.py, and what of them is tuned.

    file: below configs/experiment; None: nano/<row>.yaml. lr, adam_lr: where tuning starts. own: an option of the
    method with the values to try, the first of which tuning starts with. rates_of: a row whose tuned values this one
    takes instead. ladder: whether it is trained at all data ratios. style: the row of `analysis.rows` that it has label
    and colour of; None: its own name.
    """

    file: str | None = None
    lr: float | None = None
    adam_lr: float | None = None
    own: dict[str, list[Any]] = field(default_factory=dict)
    rates_of: str | None = None
    seeds: int = 1
    ladder: bool = False
    style: str | None = None


@dataclass
class Tuning:
    """runs: of each row and cell; factor: between two neighbouring rates; noise: what a loss (nats) must be lower by to
    count as better."""

    tokens: int = 4_096_000
    runs: int = 5
    factor: float = 2.0
    noise: float = 0.003


@dataclass
class Budget:
    """Of one job: positions a second, until records say better, and the price of an hour."""

    positions_per_second: float = 5000.0
    hourly_rate: float = 0.0
    currency: str = "USD"


@dataclass
class Spec:
    """An arena. A cell is a model size with a batch size; `tokens` are positions of a run.

    ladder: the data ratios, as positions; refreshes: how often a low-rank basis is renewed in a run; settings: of
    train.py, for all runs; against: rows that the others are tested against, at the level `significance` on one side;
    published: whether each row also runs as its file says; first_seed: of the compared runs (tuning has seed 0);
    tuned_in: another arena whose tuned values the rows take instead of being tuned;
    held_out: name -> settings of other texts that the finished runs at `tokens` are evaluated on.
    """

    title: str = ""
    settings: list[str] = field(default_factory=list)
    sizes: list[str] = field(default_factory=lambda: ["llama_nano"])
    batch_sizes: list[int] = field(default_factory=lambda: [64])
    tokens: int = 4_096_000
    ladder: list[int] = field(default_factory=list)
    refreshes: int = 20
    tuning: Tuning = field(default_factory=Tuning)
    published: bool = True
    first_seed: int = 0
    tuned_in: str | None = None
    against: list[str] = field(default_factory=lambda: ["adam", "muon"])
    significance: float = 0.01
    held_out: dict[str, list[str]] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    rows: dict[str, Entrant] = field(default_factory=dict)
    name: str = ""  # the file's stem

    def seeds(self, row: str) -> range:
        """Those of a row's compared runs."""
        return range(self.first_seed, self.first_seed + self.rows[row].seeds)

    def style_of(self, row: str) -> str:
        """The name of a row's style in `analysis.rows`."""
        return self.rows[row].style or row

    def label(self, row: str) -> str:
        """A row's name in tables and pictures."""
        return style(self.style_of(row)).label


@dataclass(frozen=True)
class Cell:
    """A model size with a batch size, in rows a step."""

    size: str
    batch_size: int


def read_spec(path: Path) -> Spec:
    """The arena that a YAML file declares. Raises SettingsError, one sentence, for a file that is none."""
    spec = _parsed(path)
    try:
        _check(spec)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error
    return spec


def _parsed(path: Path) -> Spec:
    try:
        given = OmegaConf.load(path)
        if not isinstance(given, DictConfig):
            raise SettingsError(f"{path}: an arena is a mapping of settings")
        spec = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Spec), given))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except (OmegaConfBaseException, ValueError) as error:
        raise SettingsError(f"{path}: {str(error).splitlines()[0]}") from error
    assert isinstance(spec, Spec)
    spec.name = path.stem
    return spec


def all_specs() -> list[Spec]:
    """The arenas of configs/arena by name, then those of its folders."""
    paths = sorted(ARENAS.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    for path in paths:
        check_place(path)
    return [read_spec(path) for path in paths]


@cache
def spec_named(name: str) -> Spec:
    """The arena of configs/arena and its folders that has this name. Raises SettingsError where there is none that is
    tuned itself."""
    found = list(ARENAS.rglob(f"{name}.yaml"))
    if len(found) != 1:
        raise SettingsError(f"{len(found) or 'no'} files below configs/arena are called {name}.yaml")
    if _parsed(found[0]).tuned_in is not None:  # seen before it is checked, or two that name each other had no end
        raise SettingsError(f"tuned_in: {name} is not tuned itself")
    return read_spec(found[0])


def check_place(path: Path) -> None:
    """Raises SettingsError for a file that scripts/results.sh does not find, or whose records another file has too."""
    found = list(ARENAS.rglob("*.yaml"))
    if path.resolve() not in found:
        raise SettingsError(f"{path}: tables are made of the .yaml files below configs/arena alone, move it there")
    namesakes = [str(other) for other in found if other.stem == path.stem]
    if len(namesakes) > 1:
        raise SettingsError(f"{' and '.join(sorted(namesakes))} have one name, and would share their records")


def cells(spec: Spec) -> list[Cell]:
    """Every size with every batch size."""
    return [Cell(size, batch_size) for size in spec.sizes for batch_size in spec.batch_sizes]


def file_of(spec: Spec, row: str) -> Path:
    """The settings file of a row, in the project's folder."""
    return Path("configs/experiment") / (spec.rows[row].file or f"nano/{row}.yaml")


def config_of(spec: Spec, row: str, cell: Cell) -> Config:
    """The settings of a row as its file and the arena have them."""
    return _loaded((str(ROOT / file_of(spec, row)), *shared_settings(spec, cell)))


def shared_settings(spec: Spec, cell: Cell) -> list[str]:
    """The settings of all runs of a cell."""
    return [f"model={cell.size}", *spec.settings, f"train.batch_size={cell.batch_size}"]


@cache
def _loaded(arguments: tuple[str, ...]) -> Config:
    return load(list(arguments)).config


def positions_per_step(spec: Spec, cell: Cell) -> int:
    """Positions that a step of a cell's runs trains on."""
    row = next(iter(spec.rows))
    return cell.batch_size * config_of(spec, row, cell).data.sequence_length


def _check(spec: Spec) -> None:
    """Raises SettingsError for a spec whose runs cannot be made or compared."""
    for key in ("rows", "sizes", "batch_sizes"):
        if not getattr(spec, key):
            raise SettingsError(f"{key} is empty")
    for key in ("sizes", "batch_sizes", "ladder", "against"):
        if (twice := _twice(getattr(spec, key))) is not None:
            raise SettingsError(f"{key} has {twice} twice")
    _check_numbers(spec)
    for row in spec.rows:
        _check_row(spec, row)
    if (label := _twice([spec.label(row) for row in spec.rows])) is not None:
        raise SettingsError(f"two rows are called {label} in tables: give one of them another style")
    if spec.tuned_in is not None:
        _check_source(spec, spec_named(spec.tuned_in))
    if not spec.against:
        raise SettingsError("against is empty")
    for row in spec.against:
        if row not in spec.rows:
            raise SettingsError(f"against: there is no row {row}")
    for cell in cells(spec):
        step = positions_per_step(spec, cell)
        tuned_here = [] if spec.tuned_in is not None else [spec.tuning.tokens]
        for tokens in (spec.tokens, *tuned_here, *spec.ladder):
            if tokens % step or tokens <= 0:
                raise SettingsError(f"{tokens} positions are no whole number of steps of {step}")
    _check_settings(spec)


def _check_numbers(spec: Spec) -> None:
    """Raises SettingsError for a number that is out of its bounds."""
    if spec.tuning.runs < 1 or spec.tuning.factor <= 1 or spec.tuning.noise < 0:
        raise SettingsError("tuning needs at least one run, a factor above 1 and a noise of at least 0")
    if spec.first_seed < 0:
        raise SettingsError(f"first_seed must be at least 0, got {spec.first_seed}")
    if spec.refreshes < 1:
        raise SettingsError(f"refreshes must be at least 1, got {spec.refreshes}")
    if not 0 < spec.significance < 1:
        raise SettingsError(f"significance must be above 0 and below 1, got {spec.significance:g}")
    if spec.budget.positions_per_second <= 0 or spec.budget.hourly_rate < 0:
        raise SettingsError("budget needs positions_per_second above 0 and an hourly_rate of at least 0")


def _twice(values: list[Any]) -> Any:
    """The first value that is there twice; None if there is none."""
    return next((value for place, value in enumerate(values) if value in values[:place]), None)


def _check_row(spec: Spec, row: str) -> None:
    entrant = spec.rows[row]
    if not (ROOT / file_of(spec, row)).is_file():
        raise SettingsError(f"rows.{row}: there is no file {file_of(spec, row)}")
    if entrant.seeds < 1:
        raise SettingsError(f"rows.{row}.seeds must be at least 1, got {entrant.seeds}")
    if len(entrant.own) > 1:
        raise SettingsError(f"rows.{row}.own: one option of its own is tuned, got {', '.join(entrant.own)}")
    for option, values in entrant.own.items():
        if not values or None in values or _twice(values) is not None:
            raise SettingsError(f"rows.{row}.own.{option} needs values to try, none of them null or given twice")
        if len({isinstance(value, str) for value in values}) > 1:
            raise SettingsError(f"rows.{row}.own.{option} has names and numbers among its values")
    if entrant.rates_of is not None and (
        entrant.rates_of not in spec.rows or spec.rows[entrant.rates_of].rates_of is not None
    ):
        raise SettingsError(f"rows.{row}.rates_of: {entrant.rates_of} is no row that is tuned")


def _check_source(spec: Spec, source: Spec) -> None:
    """Raises SettingsError where another arena has no tuned values for this one."""
    for cell in cells(spec):
        if cell not in cells(source):
            raise SettingsError(f"tuned_in: {source.name} has no {cell.size} with a batch size of {cell.batch_size}")
    for row, entrant in spec.rows.items():
        if (entrant.rates_of or row) not in source.rows:
            raise SettingsError(f"tuned_in: {source.name} has no row {row}")
        if entrant.lr or entrant.adam_lr or entrant.own:
            raise SettingsError(f"rows.{row}: its values are those of {source.name}, so it needs none")


@dataclass
class _Optimizer:
    """The section of a run's settings that tuning changes."""

    optimizer: Optimizer = field(default_factory=Optimizer)


def _check_settings(spec: Spec) -> None:
    """Read what the runs will read: a mistake is found before hours of other runs.

    Raises SettingsError for options that are refused, and for a row that differs from the first in more than those.
    """
    cell = cells(spec)[0]
    first = to_dict(config_of(spec, next(iter(spec.rows)), cell))
    for row, entrant in spec.rows.items():
        source = spec.rows[entrant.rates_of or row]
        rates = {name: rate for name in ("lr", "adam_lr") if (rate := getattr(source, name)) is not None}
        tried = [{option: value} for option, values in source.own.items() for value in values]
        try:
            config = config_of(spec, row, cell)
            other = [key for key in differences(first, to_dict(config)) if not key.startswith("optimizer.")]
            if other:
                raise SettingsError(f"{other[0]} is not that of the first row, so their losses would not compare")
            section = dataclasses.asdict(config.optimizer)
            for own in tried or [{}]:
                settings = Settings()  # the files are read already, which takes ten times as long
                settings.values["optimizer"] = section | rates | own
                read = read_into(_Optimizer, settings)
                check_bounds(read, settings)
                check_options(read.optimizer, settings)
        except SettingsError as error:
            raise SettingsError(f"rows.{row}: {error}") from error
    file = str(ROOT / file_of(spec, next(iter(spec.rows))))
    for name, changes in spec.held_out.items():
        try:
            load([file, *shared_settings(spec, cell), *with_training_text(changes)])
        except SettingsError as error:
            raise SettingsError(f"held_out.{name}: {error}") from error
