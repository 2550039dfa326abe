"""The progress of a run for the person who watches it: a bar on a terminal, elsewhere a line every 15 seconds."""

import contextlib
import logging
import sys
import time
from typing import Self

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from training.evaluation import perplexity

LINE_EVERY = 15.0  # seconds between two lines when stderr is no terminal

log = logging.getLogger(__name__)


class Progress:
    """Shows steps, loss, perplexity, tokens per second and the time left on stderr, inside `with` and if `enabled`."""

    def __init__(self, *, steps: int, done: int, enabled: bool):
        self._enabled, self._steps, self._first = enabled, steps, done
        self._started = self._line_at = time.monotonic()
        self._bar: tqdm | None = None
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if self._enabled and sys.stderr.isatty():
            self._opened.enter_context(logging_redirect_tqdm())  # messages appear above the bar
            bar = tqdm(total=self._steps, initial=self._first, unit="step", dynamic_ncols=True)
            self._bar = self._opened.enter_context(bar)
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.close()

    def show(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Update `step` is done; its mean loss was `loss`."""
        if not self._enabled:
            return
        figures = f"loss {loss:.3f}, perplexity {perplexity(loss):.4g}, {tokens_per_second:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.set_postfix_str(figures, refresh=False)
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._line_at > LINE_EVERY or step == self._first + 1:
            self._line_at = time.monotonic()
            left = (self._line_at - self._started) / (step - self._first) * (self._steps - step)
            log.info("step %d/%d: %s, %s left", step, self._steps, figures, tqdm.format_interval(left))
