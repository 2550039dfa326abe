"""What a person sees of a run while it trains: a bar on a terminal, a line now and then elsewhere."""

import logging
import math
import sys
import time

from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

LINE_EVERY = 15.0  # seconds between two lines when stderr is no terminal

log = logging.getLogger(__name__)


def set_up_logging(process: int) -> None:
    """Messages of this program as plain lines on stderr: all of the main process, and those of the others that
    are about their own data or a fault."""
    disable_progress_bar()  # transformers', for every file of weights
    logging.basicConfig(format="%(message)s" if process == 0 else f"process {process}: %(message)s")
    logging.getLogger("data").setLevel(logging.INFO)
    logging.getLogger("training").setLevel(logging.INFO if process == 0 else logging.WARNING)


class Progress:
    """Shows steps, loss, perplexity, tokens per second and the time left on stderr, if `enabled`."""

    def __init__(self, *, steps: int, done: int, enabled: bool):
        self._enabled, self._steps, self._first = enabled, steps, done
        self._started = self._line_at = time.monotonic()
        terminal = enabled and sys.stderr.isatty()
        self._bar = tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True) if terminal else None

    def show(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Update `step` is done; it had the mean `loss`."""
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

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def perplexity(loss: float) -> float:
    """exp(loss); infinite where that is no double any more."""
    return math.exp(loss) if loss < 700 else math.inf
