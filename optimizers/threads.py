"""Work of a step on all threads that torch uses (`torch.get_num_threads`), on a CPU.

torch divides one call after the other among its threads, which wait for each other at the end of each. Matrices that
are stepped beside each other, each by one thread, need not: one thread computes while another waits for memory, the
many small calls of a step share the threads too, and what a thread computes does not depend on how many there are.
"""

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import torch

_own = threading.local()


def count() -> int:
    """How many threads a call may use here: one, on a thread of `for_each`."""
    return getattr(_own, "count", None) or torch.get_num_threads()


def for_each(call: Callable[..., None], items: list[tuple]) -> None:
    """call(*item) for each of `items`, each on one thread, as many beside each other as torch uses threads.

    torch's calls on such a thread, and native.function's, do not hold the interpreter's lock, and are not divided
    further. When one raises, those that have not begun are left out, and its error is raised when the others are done.
    """
    threads = count()
    if threads == 1:
        for item in items:
            call(*item)
        return
    remaining = iter(items)  # a list's iterator gives each item to one thread

    def work() -> None:
        try:
            for item in remaining:
                call(*item)
        except BaseException:
            list(remaining)  # is none from here on
            raise

    pool = _pool(threads)
    futures = [pool.submit(work) for _ in range(min(threads, len(items)))]
    try:
        wait(futures)
    finally:  # an interrupt too waits for what runs
        list(remaining)
        wait(futures)
    for future in futures:
        future.result()


def in_ranges(call: Callable[[int, int], None], length: int) -> None:
    """call(start, end) for ranges that make up `length`, one for each thread."""
    size = max(1, -(-length // count()))
    for_each(call, [(start, min(start + size, length)) for start in range(0, length, size)])


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """That many threads on each of which torch uses only that one."""
    started = threading.Barrier(threads)

    def alone() -> None:
        _own.count = 1
        torch.set_grad_enabled(False)  # steps are not differentiated, and each thread has a switch of its own
        torch.get_num_threads()  # the first call on a thread gives it torch's number, which then can be changed
        torch.set_num_threads(1)
        started.wait(60)  # seconds: if one of them cannot be started, the others must not wait for ever

    pool = ThreadPoolExecutor(threads, thread_name_prefix="optimizers", initializer=alone)
    wait([pool.submit(int) for _ in range(threads)])
    torch.set_num_threads(threads)  # of this thread, and of all that start from now on
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has none of these threads
