"""Goes through checks: a line for each value, on after an error, until the time is over."""

import gc
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.acceptance.items import Check, Measured, Setup
from configs.messages import first_line


@dataclass
class Run:
    """`rows`: a dictionary for each line, fit for JSON. `failures`: the number of lines that failed."""

    setup: Setup
    seconds: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def failures(self) -> int:
        return sum(row["passed"] is False for row in self.rows)

    def through(self, checks: dict[str, Check]) -> None:
        """Run the checks, by name. What the time does not allow fails as not run."""
        for name, check in checks.items():
            if self._is_over():
                self._note(name, Measured("", f"not run: {self.seconds:g} s are over", "-", False))
                continue
            try:
                self._items(name, check)
            except Exception as error:
                self._failed(name, error)

    def _items(self, name: str, check: Check) -> None:
        for item in check(self.setup):
            if self._is_over():
                self._note(name, Measured(item.name, f"not run: {self.seconds:g} s are over", "-", False))
                return
            begun = time.monotonic()
            try:
                for measured in item.measure():
                    self._note(name, measured, time.monotonic() - begun)
            except Exception as error:
                self._failed(name, error, item.name)
            _free()

    def _is_over(self) -> bool:
        return time.monotonic() - self.started > self.seconds

    def _failed(self, check: str, error: Exception, item: str = "") -> None:
        text = "".join(traceback.format_exception(error))
        row = Measured(item, f"{type(error).__name__}: {first_line(error)}", "-", False)
        self._note(check, row, traceback=text)

    def _note(self, check: str, measured: Measured, seconds: float | None = None, **more: str) -> None:
        name, value = f"{check}.{measured.name}".rstrip("."), measured.value
        shown = value if isinstance(value, str) else f"{value:.4g}"
        print("FAIL" if measured.passed is False else "PASS", name, shown, measured.limit, flush=True)
        self.rows.append(
            {
                "name": name,
                "value": value,
                "limit": measured.limit,
                "passed": measured.passed,
                "seconds": seconds,
                **more,
            }
        )


def _free() -> None:
    """An item's tensors must not be there during the next."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def chosen(checks: dict[str, Check], only: list[str]) -> dict[str, Check]:
    """Those named in `only`, or all. Raises ValueError for an unknown name."""
    for name in only:
        if name not in checks:
            raise ValueError(f"--only must be one of {', '.join(checks)}, got {name!r}")
    return {name: check for name, check in checks.items() if name in only or not only}
