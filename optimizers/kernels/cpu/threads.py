"""A CPU's threads (`torch.get_num_threads`), each with a matrix of its own.

torch divides each call among its threads, which wait for each other at its end. Threads that step different matrices
need not wait: one computes while another waits for memory, they also share the many small calls of a step, and what a
thread computes does not depend on how many there are.
"""

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import torch

from ...engine.stack import Stack

_own = threading.local()


def count() -> int:
    """The number of threads that a call may use here: one, on a thread of `for_each`."""
    return getattr(_own, "count", None) or torch.get_num_threads()


def for_each_stack(step: Callable[[Stack], None], stacks: list[Stack]) -> None:
    """step(stack) for each of `stacks`.

    A stack up to a thread's share of its group gets a thread. These start with the largest, so that the threads end at
    about the same time. All threads together step the others: a larger stack would keep the other threads waiting, and
    sharded stacks must go in one order on all processes.
    """
    alone: list[Stack] = []
    together: list[Stack] = []
    for stack in stacks:
        shares = not stack.sharded and stack.elements * count() <= stack.group_elements
        (alone if shares else together).append(stack)
    for stack in together:
        step(stack)
    for_each(step, [(stack,) for stack in sorted(alone, key=lambda stack: -stack.elements)])


def for_each(call: Callable[..., None], items: list[tuple]) -> None:
    """call(*item) for each of `items`, each on one thread, on as many threads at a time as torch uses.

    Calls of torch and of C++ do not hold the interpreter's lock and are not divided further on such a thread. When one
    raises, the items that have not begun are left out, and its error is raised when the others have ended.
    """
    threads = count()
    if threads == 1 or not items:
        for item in items:
            call(*item)
        return
    remaining = iter(items)  # shared: a list's iterator gives each item to one thread only

    def work() -> None:
        try:
            for item in remaining:
                call(*item)
        except BaseException:
            list(remaining)  # empties the iterator: no thread begins another item
            raise

    pool = _pool(threads)
    futures = [pool.submit(work) for _ in range(min(threads, len(items)))]
    try:
        wait(futures)
    finally:  # after an interrupt too: wait for the items that run
        list(remaining)
        wait(futures)
    for future in futures:
        future.result()


def in_ranges(call: Callable[[int, int], None], length: int) -> None:
    """call(start, end) for ranges that together are `length`, one for each thread."""
    size = max(1, -(-length // count()))
    for_each(call, [(start, min(start + size, length)) for start in range(0, length, size)])


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """That many threads, on each of which torch uses no other."""
    started = threading.Barrier(threads)

    def alone() -> None:
        _own.count = 1
        torch.set_grad_enabled(False)  # each thread has its own switch, and steps are not differentiated
        torch.get_num_threads()  # the first call on a thread sets torch's number there; only then can it be changed
        torch.set_num_threads(1)
        started.wait(60)  # seconds: if a thread cannot be started, the others must not wait for ever

    pool = ThreadPoolExecutor(threads, thread_name_prefix="optimizers", initializer=alone)
    wait([pool.submit(int) for _ in range(threads)])
    torch.set_num_threads(threads)  # for this thread, and for all that start from now on
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has none of these threads
