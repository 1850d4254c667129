"""Threads of a call: bounded both ways, stopped whenever the caller leaves, and gone after a fork (issue 13)."""

import gc
import itertools
import os
import queue
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import pytest

from decoding import DecodeError, Sample, decode, decode_iter, load, stream
from decoding.engine import forks, loop
from decoding.engine.live import iterable
from decoding.engine.workers import wait_for
from scripts import interrupts
from tests.helpers.build import recurrent

pytestmark = pytest.mark.thread_unsafe(reason="counts the process's threads, or stops them")


@pytest.fixture(scope="module")
def model():
    return load(recurrent(), threads=1)


def options(**more):
    return {"max_new_tokens": 5, "eos_token_id": None, "seed": 1, "batch_size": 2, **more}


def run(code):
    """Run a script in a process of its own, and return its exit status and what it wrote."""
    head = """
        import decoding, itertools, os, signal, threading, time
        from tests.helpers.build import recurrent
        model = decoding.load(recurrent(), threads=1)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout.strip(), done.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_prompts_that_take_results_of_their_own_call_are_an_error(model, workers):
    """It would wait for itself, whether or not the caller waits for a result just then."""

    def prompts():
        for number in range(20):
            if number == 7:
                with pytest.raises(DecodeError, match=r"decode_iter\(\): next\(\) was called"):
                    next(results)
            yield [1, 2]

    results = decode_iter(model, prompts(), workers=workers, **options())
    assert len(list(results)) in (20, 0)  # the error may have ended the iterator that the caller reads


def test_a_stream_that_takes_its_own_events_is_an_error(model):
    class Processor:
        def __call__(self, history, logits):
            next(events)

    events = stream(model, [[1]], processors=[Processor()], max_new_tokens=3)
    with pytest.raises(DecodeError, match=r"stream\(\): next\(\) was called while"):
        next(events)


@pytest.mark.parametrize("workers", [1, 3])
def test_close_and_with_stop_the_call_and_its_threads(model, workers):
    before = threading.active_count()
    with decode_iter(model, itertools.repeat([1]), workers=workers, **options()) as results:
        next(results)
        assert threading.active_count() == before + workers + 1  # one reads the prompts
    end = time.monotonic() + 10  # leaving waits for that one only a moment
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.001)
    assert threading.active_count() == before
    assert list(results) == []
    results.close()
    with stream(model, [[1]], max_new_tokens=3, eos_token_id=None) as events:
        next(events)
    assert list(events) == []


def test_a_prompt_that_comes_while_the_caller_looks_for_more_is_decoded(model, monkeypatch):
    """The last prompt is read between two looks of the caller: at what is missing, and at whether all is read."""
    looked = threading.Event()

    class Missing(dict):
        def __bool__(self):
            some = len(self) > 0
            looked.set()
            if not some:
                time.sleep(0.2)  # the last prompt comes, and all is read
            return some

    class Results(iterable._Results):
        def __init__(self, *args):
            super().__init__(*args)
            self._missing = Missing()

    def prompts():
        looked.wait(0.5)
        yield [1, 2]

    monkeypatch.setattr(iterable, "_Results", Results)
    assert len(list(decode_iter(model, prompts(), **options()))) == 1


def test_a_value_error_of_the_prompts_stays_itself(model):
    def prompts():
        yield [1]
        raise ValueError("mine")

    for workers in (1, 2):
        with pytest.raises(ValueError, match="mine"):
            list(decode_iter(model, prompts(), workers=workers, **options()))


def test_workers_take_prompts_as_slots_get_free_and_results_wait_within_a_bound(model):
    taken = itertools.count()
    results = decode_iter(model, (([1, 2], next(taken))[0] for _ in itertools.count()), workers=2, **options())
    next(results)
    time.sleep(0.3)
    slots = 2 * 2
    # Those in the slots, those that wait for one, and those whose results wait for the caller.
    assert next(taken) <= 3 * slots + 2


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_while_the_prompts_block(model, workers):
    """As from a queue that somebody else fills: each result is there before the next prompt is."""
    waiting = queue.Queue()
    results = decode_iter(model, iter(waiting.get, None), Sample(), workers=workers, **options())
    found = []
    for number in range(12):
        waiting.put([number % 10])
        found.append(next(results))
    waiting.put(None)
    assert list(results) == []
    alone = decode(model, [[number % 10] for number in range(12)], Sample(), **options())
    assert [(h.prompt_index, h.tokens) for h in found] == [(h.prompt_index, h.tokens) for h in alone]


def test_an_iterable_and_a_list_give_the_same(model):
    found = list(decode_iter(model, iter([[1, 2]] * 30), Sample(), workers=3, **options()))
    alone = list(decode_iter(model, [[1, 2]] * 30, Sample(), **options()))
    key = lambda h: (h.prompt_index, h.tokens)  # noqa: E731
    assert sorted(map(key, found)) == sorted(map(key, alone))


def test_leaving_the_process_with_threads_alive_is_clean():
    code = """
        results = decoding.decode_iter(model, itertools.repeat([1, 2]), max_new_tokens=5, batch_size=4, workers=2)
        next(results)
        print("left")
    """
    for _ in range(5):
        assert run(code) == (0, "left", "")


def test_an_interrupt_while_prompts_block_ends_the_call_at_once():
    code = """
        interrupt = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        def prompts():
            yield from [[1]] * 8
            interrupt.start()
            time.sleep(60)
        start = time.monotonic()
        try:
            list(decoding.decode_iter(model, prompts(), max_new_tokens=5, batch_size=2, workers=2))
        except KeyboardInterrupt:
            took = time.monotonic() - start
            interrupt.join()
            print(took < 30, threading.active_count())
    """
    assert run(code)[:2] == (0, "True 2")  # the thread that reads is in the iterable, where nothing can end it


@pytest.mark.parametrize("inside", ["pass", "threading.Lock().release()"], ids=["between lines", "in a condition"])
def test_an_interrupt_while_threads_start_leaves_none(inside):
    """`threading.Condition` makes "release unlocked lock" of one that comes between two of its lines."""
    code = f"""
        inside = {inside!r}
        start, started = threading.Thread.start, []
        def interrupted(thread):
            start(thread)
            started.append(thread)
            if len(started) == 2:
                try:
                    raise KeyboardInterrupt
                finally:
                    exec(inside)
        threading.Thread.start = interrupted
        try:
            next(decoding.decode_iter(model, itertools.repeat([1]), max_new_tokens=5, batch_size=2, workers=4))
        except KeyboardInterrupt:
            print(len(started), threading.active_count())
    """
    assert run(code)[:2] == (0, "2 1")


def test_calls_that_share_a_small_model_run_in_one_thread_each():
    """Onnxruntime's threads help a call that is alone, and get in the way of others."""
    shared = load(recurrent(), executor="onnxruntime")
    chosen = load(recurrent(), executor="onnxruntime", threads=2)
    for model in (shared, chosen):
        network = model._network
        assert loop._in_its_share(network) is network
        with forks.using(network), forks.using(network):
            own = loop._in_its_share(network)
        assert own.session.threads == (1 if model is shared else 2)
        assert (own is network) == (model is chosen)


def test_random_interrupts_neither_abort_nor_hang_nor_leave_threads():
    counts, latencies = interrupts.run(20, seed=int(time.time()))
    assert counts == {"interrupted": 20, "threads left": 0, "other tokens afterwards": 0}
    assert max(latencies) < 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")
def test_a_child_is_told_that_its_model_was_in_use():
    code = """
        busy, leave = threading.Event(), threading.Event()
        def wait(history, logits):
            busy.set()
            leave.wait()
        other = decoding.load(recurrent(), threads=1)
        thread = threading.Thread(target=lambda: decoding.decode(model, [1], processors=[wait], max_new_tokens=2))
        thread.start()
        busy.wait()
        pid = os.fork()
        if not pid:
            try:
                decoding.decode(model, [1], max_new_tokens=2)
            except decoding.ModelError as error:
                print(str(error)[:75], flush=True)
            decoding.decode(other, [1], max_new_tokens=2)
            os._exit(3)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        leave.set()
        thread.join()
        decoding.decode(model, [1], max_new_tokens=2)
    """
    status, out, _ = run(code)
    assert status == 0
    assert out.splitlines() == [
        "the ModelProto: another thread was decoding with this model when the proces",
        "3",
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")
def test_a_call_whose_threads_stayed_in_the_parent_says_so():
    code = """
        results = decoding.decode_iter(model, itertools.repeat([1]), max_new_tokens=3, batch_size=2, workers=2)
        next(results)
        pid = os.fork()
        if not pid:
            signal.alarm(20)
            try:
                list(results)
            except decoding.DecodeError as error:
                print("threads of the process that was forked" in str(error), flush=True)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        next(results)
    """
    status, out, _ = run(code)
    assert (status, out) == (0, "True\n0")


def test_a_thread_that_ends_without_a_word_is_an_error(model, monkeypatch):
    """Python cannot tell of a thread that had no memory to begin with: the caller looks for it."""
    monkeypatch.setattr(iterable._Results, "read", lambda self, requests, searches: None)
    with pytest.raises(DecodeError, match="a thread of the call ended without a result"):
        list(decode_iter(model, iter([[1]]), **options()))


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_of_a_call_are_gone_with_it(model, workers, monkeypatch):
    """In no cycle: a thread that garbage collection finds is forgotten by a callback, in which Ctrl-C would be lost."""
    monkeypatch.setattr(iterable, "_PATIENCE", 60.0)  # a busy machine may give the reader no core for milliseconds
    gc.collect()
    gc.disable()
    try:
        before = set(threading.enumerate())
        with decode_iter(model, itertools.repeat([1]), workers=workers, **options()) as results:
            next(results)
            started = [weakref.ref(thread) for thread in threading.enumerate() if thread not in before]
        assert len(started) == workers + 1
        assert [thread() for thread in started] == [None] * len(started)
    finally:
        gc.enable()


def test_a_thread_that_is_just_starting_is_waited_for():
    """Ctrl-C in Thread.start() may leave a thread that runs and that join() refuses (found by scripts/interrupts.py)."""
    refused = []

    class Starting(threading.Thread):
        def join(self, timeout=None):
            if not refused:
                refused.append(timeout)
                raise RuntimeError("cannot join thread before it is started")
            super().join(timeout)

    leave = threading.Event()
    thread = Starting(target=leave.wait)
    wait_for(thread, time.monotonic() + 10)  # it never started
    thread.start()
    threading.Timer(0.05, leave.set).start()
    wait_for(thread, time.monotonic() + 10)
    assert refused
    assert not thread.is_alive()
