"""Matrices on the threads of a CPU, each on one."""

import multiprocessing
import threading
import time

import pytest
import torch

from optimizers import registry
from optimizers.engine.matrix import MatrixOptimizer
from optimizers.engine.stack import Stack
from optimizers.kernels.cpu import threads

from .harness import options_of, parameters, train

# Stacks that are stepped on a thread each, and a matrix that is more than a thread's share.
SHAPES = [(8, 12)] * 4 + [(12, 8)] * 3 + [(10, 10)] * 3 + [(9, 14), (14, 9), (200, 24)]
MATRICES = [name for name in registry.names() if issubclass(registry.get(name)[0], MatrixOptimizer)]


@pytest.fixture
def three_threads(set_threads):
    set_threads(3)


@pytest.mark.parametrize("name", MATRICES)
def test_steps_on_three_threads_are_those_on_one(name, set_threads):
    runs = {}
    for count in (1, 3):
        set_threads(count)
        optimizer = registry.get(name)[0](parameters(SHAPES), lr=0.01, **options_of(name))
        runs[count] = train(optimizer, range(1, 8))
    small, large = [slice(0, -1), slice(-1, None)]
    assert all(torch.equal(one, three) for one, three in zip(runs[1][small], runs[3][small], strict=True))
    assert torch.allclose(runs[1][large][0], runs[3][large][0], rtol=0, atol=1e-10)


def test_a_missing_gradient_does_not_change_the_threads(three_threads, monkeypatch):
    """`step` and `step_parameter` divide products alike, though the latter cannot know which gradients are missing."""
    given, for_each = [], threads.for_each

    def noting(call, items):
        if isinstance(items[0][0], Stack):
            given.append(len(items))
        for_each(call, items)

    monkeypatch.setattr(threads, "for_each", noting)
    for alone in (False, True):
        first, second = parameters([(16, 24), (20, 40)])
        optimizer = registry.get("galore")[0]([first, second], rank=4)
        first.grad = torch.ones_like(first)
        optimizer.step_parameter(first) if alone else optimizer.step()
    assert given == [1, 1]


def test_each_call_has_one_thread_and_divides_no_further(three_threads):
    seen = []

    def call(item):
        seen.append((threading.get_ident(), torch.get_num_threads(), threads.count()))
        inner = []
        threads.for_each(inner.append, [(1,), (2,)])  # on a thread of a pool that may be full: it would wait forever
        threads.in_ranges(lambda start, end: inner.append((start, end)), 5)
        assert inner == [1, 2, (0, 5)]

    threads.for_each(call, [(i,) for i in range(20)])
    assert len(seen) == 20 and {(one, count) for _, one, count in seen} == {(1, 1)}
    assert threading.get_ident() not in {thread for thread, _, _ in seen}
    assert torch.get_num_threads() == 3
    elsewhere = []
    thread = threading.Thread(target=lambda: elsewhere.append(torch.get_num_threads()))
    thread.start(), thread.join()
    assert elsewhere == [3]  # what starts later is not bound to one


def test_an_error_is_raised_when_nothing_runs_any_more(three_threads):
    running, ended, last = [], [], threading.Event()

    def call(item):
        running.append(item)
        if item == 1:
            raise ValueError("the second")
        if item == 0:  # which is waited for, while the others could run to the end
            last.wait(1)
        time.sleep(0.01)
        ended.append(item)
        if item == 99:
            last.set()

    with pytest.raises(ValueError, match="the second"):
        threads.for_each(call, [(i,) for i in range(100)])
    assert sorted(running) == sorted([1, *ended]) and not last.is_set()


def test_ranges_make_up_the_length(three_threads):
    for length in (1, 2, 3, 7, 300):
        parts = []
        threads.in_ranges(lambda start, end, parts=parts: parts.append((start, end)), length)
        assert len(parts) <= 3
        assert [i for start, end in sorted(parts) for i in range(start, end)] == list(range(length))


def test_a_forked_process_makes_threads_of_its_own(three_threads):
    threads.for_each(int, [(1,), (2,)])
    child = multiprocessing.get_context("fork").Process(target=threads.for_each, args=(int, [(1,), (2,)]))
    child.start()
    child.join(60)
    child.kill()
    assert child.exitcode == 0
