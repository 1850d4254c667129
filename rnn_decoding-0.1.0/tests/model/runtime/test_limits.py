"""decoding/model/runtime/limits.py: load() answers Ctrl-C, and ends runs that take too long (issue 13)."""

import signal
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from decoding import ModelError, load
from decoding.model.runtime import limits
from tests.helpers import build

needs_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer that sends a signal")


def endless():
    """A model that ends in a Loop of 2**62 turns."""
    proto = build.recurrent("GRU")
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Neg", ["v"], ["w"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("v", TensorProto.FLOAT, None)],
        [value("on", TensorProto.BOOL, []), value("w", TensorProto.FLOAT, None)],
    )
    last = proto.graph.node[-1]
    end, last.output[0] = last.output[0], "before"
    constants = {"turns": np.array(2**62), "start": np.array(True)}
    proto.graph.initializer.extend([numpy_helper.from_array(v, name) for name, v in constants.items()])
    proto.graph.node.append(helper.make_node("Loop", ["turns", "start", "before"], [end], body=body))
    return proto


@contextmanager
def interrupt_after(seconds):
    """Raise KeyboardInterrupt from a signal's handler, as Ctrl-C does; yield a list with the time of it."""
    sent = []

    def handler(*_):
        sent.append(time.perf_counter())
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield sent
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("verify", [True, False])
def test_a_loop_without_end(monkeypatch, verify):
    monkeypatch.setattr(limits, "RUN_SECONDS", 0.3)
    began = time.perf_counter()
    with pytest.raises(
        ModelError, match=r"a run over tokens \[5, 3\].* took more than 0\.\d+ s, so it was stopped.*verify=False"
    ):
        load(endless(), threads=1, verify=verify)
    assert time.perf_counter() - began < 5  # one run is stopped, not one for each layout


@needs_timer
def test_interrupting_a_loop_without_end():
    with interrupt_after(0.3) as sent:
        with pytest.raises(KeyboardInterrupt):
            load(endless(), threads=1)
        assert time.perf_counter() - sent[0] < 1  # about 0.05 where the machine is idle
    time.sleep(0.5)
    assert load(build.recurrent("GRU"), threads=1).describe()


@needs_timer
def test_interrupts_at_any_moment_leave_no_thread():
    proto = build.recurrent("GRU")
    before = len(sys._current_frames())
    for milliseconds in range(1, 31):
        with interrupt_after(milliseconds / 1000):
            try:
                load(proto, threads=1)
                time.sleep(0.05)
            except KeyboardInterrupt:
                pass
    deadline = time.monotonic() + 5
    while len(sys._current_frames()) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(sys._current_frames()) <= before


def test_a_run_that_cannot_be_ended_is_left_alone(monkeypatch):
    """Such as a Loop with an empty body, in which onnxruntime never looks whether it is to end."""
    monkeypatch.setattr(limits, "_PATIENCE", 0.2)
    monkeypatch.setattr(limits, "_EXIT_PATIENCE", 0.1)

    @limits.interruptible
    def work():
        options = limits.ort.RunOptions()
        limits.run_limit().run(lambda _: time.sleep(3), "x: a run", 0.1, options)

    began = time.perf_counter()
    with pytest.raises(ModelError, match=r"x: a run took more than 0\.\d+ s"):
        work()
    assert time.perf_counter() - began < 2


def test_errors_and_results_come_through():
    @limits.interruptible
    def half(number, *, to=2):
        if number < 0:
            raise ModelError("below zero")
        return number / to

    assert half(3) == 1.5
    assert half(3, to=3) == 1
    with pytest.raises(ModelError, match="below zero"):
        half(-1)
    assert limits.run_limit() is None
