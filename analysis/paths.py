"""Folders of the project that results are read from and written to."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "configs" / "experiment"
RESULTS = ROOT / "results"
PAPER = RESULTS / "paper"
FULL = RESULTS / "full"
NANO = RESULTS / "nano"
ARENAS = ROOT / "configs" / "arena"
ARENA_RESULTS = RESULTS / "arena"
