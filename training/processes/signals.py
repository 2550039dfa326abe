"""The signals that ask a run to end, and the launcher's death."""

import contextlib
import os
import signal
from collections.abc import Iterator

from training.processes.launch_variables import by_accelerate

# A terminal sends SIGINT (ctrl-C), SIGQUIT (ctrl-\\) and SIGHUP (it closes); a batch system SIGTERM, or, before its
# limit, SIGUSR1, SIGUSR2 or SIGXCPU. SIGTSTP (ctrl-Z) keeps its meaning: the run waits for `fg`.
STOPS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),
)


class Interrupted(BaseException):
    """The run was asked to stop by the signal `signum`."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


@contextlib.contextmanager
def ctrl_c_ends_the_process() -> Iterator[None]:
    """Around a wait in C++, where no handler of Python's runs. Signals without one end the process anyway."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not where ctrl-C is ignored, as behind `&` in a script
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Signals:
    """`STOPS` and the launcher's death, as one number that is read at step boundaries.

    From `catch()` to `defer()` a signal raises `Interrupted` at once. After that it is only remembered, however often
    it comes, so that a second ctrl-C cannot tear a checkpoint. A launched process also watches its parent, because
    accelerate's launcher does not pass every signal on (docs/distributed.md).
    """

    def __init__(self) -> None:
        self._requested = 0
        self._deferred = False
        self._parent = os.getppid() if by_accelerate() else None
        self._handled: list[signal.Signals] = []

    def catch(self) -> None:
        """From now on a signal raises Interrupted."""
        for signum in STOPS:
            if signum in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(signum) is not signal.SIG_IGN:  # nohup
                signal.signal(signum, self._handle)
                self._handled.append(signum)

    def _handle(self, signum: int, frame: object) -> None:
        if not self._deferred:
            raise Interrupted(signum)
        self._requested = self._requested or signum

    def defer(self) -> None:
        """From now on signals wait for the next step boundary."""
        self._deferred = True

    def release(self) -> None:
        """Install the handlers that Python starts with."""
        for signum in self._handled:
            signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)

    @property
    def requested(self) -> int:
        """The signal that asked for the end of the run (SIGTERM when the launcher is gone), or 0."""
        if not self._requested and self._parent is not None and os.getppid() != self._parent:
            self._requested = int(signal.SIGTERM)
        return self._requested
