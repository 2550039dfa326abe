"""The thread of a process that notices when another process of the run failed or fell silent."""

import json
import os
import sys
import threading
import time

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from training.run_errors import MachineError

BEAT = 1.0  # seconds between two signs of life of a process
DEAD = 8.0  # seconds without one after which a process counts as dead, once a collective has failed
HUNG = 20.0  # the same while this process still waits in a collective (NCCL does not notice a lost peer)
GRACE = 10.0  # seconds that a process has to end by itself once the failure of another is known
LOST = 120  # beats without an answer of the store after which its machine counts as lost, while this launcher lives


class PeerFailed(MachineError):
    """Another process of the run failed. `code` is the exit code of that process."""

    def __init__(self, sentence: str, code: int):
        super().__init__(sentence)
        self.code = code


class Watchdog(threading.Thread):
    """Knows which process of the run failed or fell silent.

    Once a second every process counts up a number of its own in the launcher's store and looks whether the others'
    numbers move. Clocks of different machines are never compared. A process that fails leaves a note in the store. A
    process whose peer is gone ends itself, because the collective it waits in may never return. So does one that the
    store of another machine does not answer any more: then a second thread ends it, as the first may wait for ever.
    """

    def __init__(self, index: int, count: int):
        super().__init__(name="watchdog", daemon=True)
        self._index, self._peers = index, [peer for peer in range(count) if peer != index]
        self._stopped = threading.Event()
        client = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        # A restarted group meets the store of its predecessor.
        self._store = PrefixStore(f"watch/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", client)
        self._seen = dict.fromkeys(self._peers, (0, time.monotonic()))
        self._answers = 0  # of the store
        self._launcher = os.getppid()

    def run(self) -> None:
        """Watch until `stop`; end the process if a peer's failure has been known for GRACE seconds."""
        threading.Thread(target=self._watch_store, name="watch the store", daemon=True).start()
        known_since: float | None = None
        while not self._stopped.wait(BEAT):
            try:
                self._exchange_beats()
                failure = self.failure(HUNG)
            except RuntimeError:  # the store is gone: `Signals` or `_watch_store` notices that
                return
            self._answers += 1
            if failure is None:
                known_since = None
            elif known_since is None:
                known_since = time.monotonic()
            elif time.monotonic() - known_since > GRACE and not self._stopped.is_set():
                self.announce(str(failure), str(failure))
                os._exit(failure.code)

    def _exchange_beats(self) -> None:
        self._store.add(f"beat/{self._index}", 1)
        for peer in self._peers:
            beat = self._store.add(f"beat/{peer}", 0)
            if beat != self._seen[peer][0]:
                self._seen[peer] = (beat, time.monotonic())

    def _watch_store(self) -> None:
        """End the process if the store has been silent for LOST beats, unless its launcher went with it: `Signals`
        notices that. Beats are counted, not seconds: a suspended process goes on where it was."""
        answers, silent = 0, 0
        while silent < LOST:
            if self._stopped.wait(BEAT) or os.getppid() != self._launcher:
                return
            silent = 0 if self._answers > answers else silent + 1
            answers = self._answers
        print("the machine of process 0 is lost: its store does not answer", file=sys.stderr, flush=True)
        os._exit(1)

    def stop(self) -> None:
        """Stop watching: from now on processes may leave."""
        self._stopped.set()

    def failure(self, silence: float) -> PeerFailed | None:
        """A peer that left a note or was silent for `silence` seconds."""
        if self._store.add("notes", 0) and self._store.check(["note"]):
            note = json.loads(self._store.get("note"))
            if note["process"] != self._index:
                return PeerFailed(f"process {note['process']} failed: {note['sentence']}", note["code"])
        for peer, (_, last) in self._seen.items():
            if time.monotonic() - last > silence:
                return PeerFailed(f"process {peer} of {len(self._peers) + 1} died", 1)
        return None

    def wait_for_failure(self) -> PeerFailed | None:
        """After a failed collective: the failure of the peer that caused it, as soon as it is known."""
        for _ in range(int(2 * DEAD / BEAT)):
            try:
                failure = self.failure(DEAD)
            except RuntimeError:
                return PeerFailed("the launcher died", 1)
            if failure is not None:
                return failure
            time.sleep(BEAT)
        return None

    def leave_note(self, sentence: str, code: int) -> None:
        """Tell the others why this process ends; only the first note of a run is kept."""
        if self._store.add("notes", 1) == 1:
            note = {"process": self._index, "sentence": sentence, "code": code}
            self._store.set("note", json.dumps(note))

    def announce(self, sentence: str, line: str) -> None:
        """Print `line` on stderr, unless another process has already announced the same `sentence`."""
        if self._store.add(f"said/{sentence}", 1) == 1:
            print(line, file=sys.stderr, flush=True)
