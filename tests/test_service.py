"""Requests that come at any time: from threads, from asyncio, cancelled, with errors of their own."""

import asyncio
import os
import threading
import time

import numpy as np
import pytest

from decoding import (
    Beam,
    Cancelled,
    DecodeError,
    Engine,
    Greedy,
    OptionError,
    QueueFull,
    Request,
    Sample,
    decode,
    load,
    stream,
)
from decoding.engine.live.searches import LiveSearch
from scripts import soak_engine
from tests.helpers import build
from tests.helpers.seq2seq import AdditiveModel

OPTIONS = {"max_new_tokens": 12, "eos_token_id": 3}
pytestmark = pytest.mark.thread_unsafe(
    reason="waits a time for threads of its own, which take longer beside three others"
)


@pytest.fixture(scope="module")
def model():
    return load(build.recurrent("LSTM", vocab=23, hidden=16, layers=2, seed=8), executor="native", threads=1)


class Gate:
    """A processor that lets each step of its rows wait until it is opened."""

    def __init__(self):
        self.steps, self.opened = threading.Semaphore(0), threading.Event()

    def __call__(self, history, logits):
        self.steps.release()
        assert self.opened.wait(20)


def test_results_are_those_of_decode(model):
    requests = [Request([i % 23, i % 5], Sample(top_k=9), seed=i, num_return_sequences=1 + i % 3) for i in range(60)]
    with Engine(model, batch_size=7, **OPTIONS) as engine:
        tickets = [engine.submit(r) for r in requests]
        found = [ticket.result(20) for ticket in tickets]
        assert all(ticket.done() for ticket in tickets)
    for request, own in zip(requests, found, strict=True):
        expected = decode(model, request, **OPTIONS)
        assert own.tokens == expected.tokens
        assert [(h.prompt_index, h.rank, h.finish_reason) for h in own] == [
            (0, h.rank, h.finish_reason) for h in expected
        ]


def test_a_soak_of_threads_and_tasks_finds_nothing_wrong():
    state, statistics = soak_engine.soak(4, 32, seed=int(time.time()), count=60)
    assert not state.wrong
    assert (statistics.queued, statistics.running) == (0, 0)
    assert state.counts["finished"] > 50
    assert state.counts["cancelled"] + state.counts["timed out"] > 10


@pytest.mark.parametrize("strategy", [Greedy(), Sample(), Beam(num_beams=2), Sample(replacement=False)], ids=str)
def test_events_come_in_order_and_are_those_of_the_result(model, strategy):
    outputs = 1 if strategy == Greedy() else 2
    with Engine(model, strategy, batch_size=4, **OPTIONS) as engine:
        ticket = engine.submit(Request([5], seed=1, num_return_sequences=outputs))
        first = list(ticket)
        assert list(ticket) == first  # again, after the end
        expected = ticket.result(0)
        asked_late = engine.submit(Request([5], seed=1, num_return_sequences=outputs))
        time.sleep(0.05)
        assert sorted(map(str, asked_late)) == sorted(map(str, first))
    for events in ([e for e in first if e.output_index == n] for n in range(outputs)):
        assert all(e.finish_reason is None for e in events[:-1])
        assert events[-1].finish_reason is not None
    ended = {3} if any(h.finish_reason == "eos" for h in expected) else set()
    tokens = [[e.token for e in first if e.output_index == n] for n in range(outputs)]
    assert sorted(t[:-1] if t[-1] in ended else t for t in tokens) == sorted(expected.tokens)


def test_events_come_while_the_request_runs(model):
    gate = Gate()
    with Engine(model, **OPTIONS) as engine:
        ticket = engine.submit(Request([5], processors=[gate], eos_token_id=None))
        events = iter(ticket)
        assert gate.steps.acquire(timeout=20)
        gate.opened.set()
        assert next(events).token is not None
        assert len(list(events)) == 11


def test_a_cancelled_request_frees_its_row_at_the_next_step(model):
    gate = Gate()
    with Engine(model, batch_size=1, max_queue=4, **OPTIONS) as engine:
        first = engine.submit(Request([1], processors=[gate], max_new_tokens=1000, eos_token_id=None))
        assert gate.steps.acquire(timeout=20)
        second, third = engine.submit([2]), engine.submit([4])
        assert third.cancel()
        assert first.cancel()
        assert not first.cancel()
        gate.opened.set()
        assert second.result(20).tokens == decode(model, [[2]], **OPTIONS).tokens
        steps = 1
        while gate.steps.acquire(blocking=False):
            steps += 1
        assert steps <= 2
        for ticket in (first, third):
            with pytest.raises(Cancelled, match="was cancelled"):
                ticket.result(0)
        assert engine.statistics().cancelled == 2


def test_a_full_queue_says_so_at_once(model):
    gate = Gate()
    with Engine(model, batch_size=1, max_queue=2, **OPTIONS) as engine:
        engine.submit(Request([1], processors=[gate]))
        assert gate.steps.acquire(timeout=20)
        waiting = [engine.submit([2]), engine.submit([4])]
        with pytest.raises(QueueFull, match="2 requests wait already"):
            engine.submit([5])
        assert engine.statistics().queued == 2
        waiting[0].cancel()
        last = engine.submit([6])
        gate.opened.set()
        assert last.result(20)
    with pytest.raises(OptionError, match="max_queue=0"):
        Engine(model, max_queue=0)


@pytest.mark.parametrize("strategy", [Sample(), Beam(num_beams=2), Sample(replacement=False)], ids=str)
def test_an_error_ends_its_own_request_alone(model, strategy):
    def broken(history, logits):
        if any(len(output) == 3 for output in history.outputs):
            raise ZeroDivisionError("after three tokens")

    def gives_nan(history, logits):
        logits[:] = np.nan

    with Engine(model, strategy, batch_size=16, max_new_tokens=8, eos_token_id=None) as engine:
        good = [engine.submit(Request([i], seed=i)) for i in range(9)]
        bad = [engine.submit(Request([i], seed=i, processors=[broken])) for i in range(3)]
        nan = engine.submit(Request([7], processors=[gives_nan]))
        for ticket in bad:
            with pytest.raises(ZeroDivisionError, match="after three"):
                ticket.result(20)
        with pytest.raises(DecodeError, match="NaN"):
            nan.result(20)
        for i, ticket in enumerate(good):
            expected = decode(model, Request([i], seed=i), strategy, max_new_tokens=8, eos_token_id=None)
            assert ticket.result(20).tokens == expected.tokens
        assert engine.statistics().failed == 4


def test_a_row_of_nan_ends_its_own_request_alone(model):
    """Also where many steps are one native call, which chooses again for the other rows."""
    embedding = np.random.default_rng(0).uniform(-1, 1, model._graph.initializers["table"][1]).astype(np.float32)
    embedding[5] = np.nan
    faulty = model.with_weights({"table": embedding})
    requests = [Request([i % 23], Sample(top_k=1 + i % 5), seed=i) for i in range(40)]
    options = {"max_new_tokens": 40, "eos_token_id": list(range(5, 23, 9))}
    with Engine(faulty, batch_size=11, **options) as engine:
        tickets = [engine.submit(request) for request in requests]
        failed = 0
        for request, ticket in zip(requests, tickets, strict=True):
            try:
                expected = decode(faulty, request, **options).tokens
            except DecodeError:
                failed += 1
                with pytest.raises(DecodeError, match="NaN"):
                    ticket.result(20)
            else:
                assert ticket.result(20).tokens == expected
    assert 0 < failed < 40
    with Engine(faulty, batch_size=2, **options) as engine:
        for _ in range(3):  # nothing else runs, nor comes
            with pytest.raises(DecodeError, match="NaN"):
                engine.submit([5]).result(20)


def test_close_drains_or_cancels(model):
    engine = Engine(model, batch_size=2, **OPTIONS)
    tickets = [engine.submit([i]) for i in range(20)]
    engine.close()
    assert all(ticket.result(0) for ticket in tickets)
    with pytest.raises(DecodeError, match="the engine is closed"):
        engine.submit([1])
    engine.close()
    gate = Gate()
    engine = Engine(model, batch_size=1, **OPTIONS)
    tickets = [engine.submit(Request([1], processors=[gate])), engine.submit([2])]
    assert gate.steps.acquire(timeout=20)
    threading.Timer(0.1, gate.opened.set).start()
    engine.close(drain=False)
    for ticket in tickets:
        with pytest.raises(Cancelled, match="the engine was closed"):
            ticket.result(0)
    assert not [t for t in threading.enumerate() if t.name == "decoding"]


def test_a_request_that_comes_while_the_engine_is_closed_is_refused(model, monkeypatch):
    """Another thread closes it after `submit()` saw it open; the ticket would wait for ever."""
    engine = Engine(model, **OPTIONS)
    made = engine._ticket

    def slowly(request):
        ticket = made(request)
        engine.close()
        return ticket

    monkeypatch.setattr(engine, "_ticket", slowly)
    with pytest.raises(DecodeError, match="the engine is closed"):
        engine.submit([1])
    assert (engine.statistics().queued, engine.statistics().running) == (0, 0)


def test_many_outputs_do_not_keep_others_waiting(model):
    with Engine(model, Sample(), batch_size=4, max_new_tokens=40, eos_token_id=None) as engine:
        slow = Request([1], num_return_sequences=64, processors=[lambda history, logits: time.sleep(0.001)])
        many = engine.submit(slow)  # at least 640 steps, of a millisecond each
        for number in range(6):
            engine.submit(Request([number], max_new_tokens=5)).result(20)
        assert not many.done()
        assert len(many.result(60)) == 64


def test_a_conversation_reads_each_token_once(model):
    """Every turn's prompt is all that came before, and something new."""
    reads = []
    read_chunk = type(model._network.read_session).run

    def counted(session, feeds, outputs, **options):
        reads.append(feeds[model._network.contract.token.name].size)
        return read_chunk(session, feeds, outputs, **options)

    for known_states in (0, 8):
        with Engine(model, known_states=known_states, **OPTIONS) as engine:
            text, expected = [1, 2], []
            reads.clear()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(type(model._network.read_session), "run", counted)
                for turn in range(20):
                    text += [turn % 23, 5]
                    found = engine.submit(Request(text, Sample(), seed=turn)).result(20)[0].tokens
                    expected.append((list(text), found))
                    text += found
            if known_states:
                assert sum(reads) <= 4 * 20
            else:
                assert sum(reads) > 500
        for turn, (prompt, found) in enumerate(expected):
            assert decode(model, Request(prompt, Sample(), seed=turn), **OPTIONS)[0].tokens == found


def test_conversations_side_by_side_know_their_states(model):
    """A row that has finished keeps its state, while the others of the batch go on in the same native call."""
    texts = [[i, 2] for i in range(12)]
    with Engine(model, Sample(), max_new_tokens=60, eos_token_id=[3, 7]) as engine:
        for turn in range(6):
            tickets = [engine.submit(Request(text, seed=turn)) for text in texts]
            for text, ticket in zip(texts, tickets, strict=True):
                found = ticket.result(20)[0].tokens
                same = Request(text, Sample(), seed=turn)
                assert decode(model, same, max_new_tokens=60, eos_token_id=[3, 7])[0].tokens == found
                text += [*found, turn]
        assert max(map(len, texts)) > 100
        assert len(engine._known._states) > 12


def test_a_long_beam_search_lets_others_run_and_be_cancelled(model):
    """No candidate of the search ever ends, so that its steps are all plain: many would be one native call."""
    with Engine(model, Sample(), batch_size=8, max_new_tokens=20, eos_token_id=None) as engine:
        beam = engine.submit(Request([1], Beam(num_beams=4), max_new_tokens=2_000_000))
        for number in range(5):
            assert engine.submit(Request([number], seed=number)).result(20)
        other = engine.submit(Request([2], Beam(num_beams=4), max_new_tokens=2_000_000))
        assert not beam.done()
        assert beam.cancel()
        assert other.cancel()
        assert engine.submit([1]).result(20)


def test_encoders_and_contexts_share_a_batch_where_they_may():
    system = AdditiveModel(3, metadata={"decoding.bos": 1, "decoding.eos": 0})
    with_encoder = load(system.decoder(), encoder=system.encoder())
    sources = [np.random.default_rng(n).integers(0, 12, n).tolist() for n in (3, 8, 1, 5, 8, 2, 13)]
    options = {"max_new_tokens": 8, "eos_token_id": None}
    with Engine(with_encoder, batch_size=3, **options) as engine:
        tickets = [engine.submit(Request(source, return_attention=i % 2 == 0)) for i, source in enumerate(sources)]
        found = [ticket.result(30)[0] for ticket in tickets]
    expected = decode(with_encoder, sources, return_attention=True, **options)
    for i, (h, other) in enumerate(zip(found, expected, strict=True)):
        assert h.tokens == other.tokens
        assert (h.attention is None) == bool(i % 2)
        if h.attention is not None:
            np.testing.assert_allclose(h.attention, other.attention, atol=1e-5)


def test_asyncio_generates_streams_and_cancels(model):
    async def main():
        with Engine(model, batch_size=4, **OPTIONS) as engine:
            found = await asyncio.gather(*(engine.generate(Request([i % 23], Sample(), seed=i)) for i in range(30)))
            for i, own in enumerate(found):
                assert own.tokens == decode(model, Request([i % 23], Sample(), seed=i), **OPTIONS).tokens
            events = [event async for event in engine.stream([7])]
            assert [e.token for e in events if e.finish_reason != "eos"] == decode(model, [[7]], **OPTIONS)[0].tokens
            gate = Gate()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(engine.generate(Request([1], processors=[gate], max_new_tokens=500)), 0.2)
            gate.opened.set()
            stream = engine.stream(Request([1], max_new_tokens=10**6, eos_token_id=None))
            async for _ in stream:
                break
            await stream.aclose()
            assert engine.statistics().cancelled == 2
            with pytest.raises(OptionError, match="id 99"):
                await engine.generate([99])

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")
def test_a_forked_child_is_told(model):
    with Engine(model, **OPTIONS) as engine:
        ticket = engine.submit([1])
        ticket.result(20)
        pid = os.fork()
        if not pid:
            try:
                engine.submit([2])
            except DecodeError as error:
                os._exit(7 if "threads of the process that was forked" in str(error) else 1)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert engine.submit([2]).result(20)


def test_timeouts_and_wrong_requests(model):
    gate = Gate()
    with Engine(model, batch_size=1, **OPTIONS) as engine:
        ticket = engine.submit(Request([1], processors=[gate]))
        with pytest.raises(TimeoutError, match=r"has not ended after 0\.01 seconds"):
            ticket.result(0.01)
        assert "open" in repr(ticket)
        gate.opened.set()
        assert ticket.result(20)
        for wrong, message in (
            ([], "empty"),
            (Request([1], Beam(2), num_return_sequences=3), "more than the num_beams"),
        ):
            with pytest.raises(OptionError, match=message):
                engine.submit(wrong)
        assert engine.statistics().queued == engine.statistics().running == 0


@pytest.mark.parametrize("strategy", [Sample(), Beam(2), Sample(replacement=False)])
def test_an_error_while_a_request_gets_its_rows_reaches_its_caller(model, strategy, monkeypatch):
    """There is no memory for it, say: it has left the queue and no search has it yet."""
    taken = LiveSearch._completed
    failures = iter([MemoryError("none left")])

    def fail_once(search, rows):
        for error in failures:
            raise error
        return taken(search, rows)

    monkeypatch.setattr(LiveSearch, "_completed", fail_once)
    request = Request([1, 2], strategy, seed=None if strategy == Beam(2) else 5, num_return_sequences=2)
    with Engine(model, batch_size=4, **OPTIONS) as engine:
        with pytest.raises(MemoryError, match="none left"):
            engine.submit(request).result(20)
        assert engine.submit(request).result(20).tokens == decode(model, request, **OPTIONS).tokens


@pytest.mark.parametrize("count", [1, 3])
def test_events_have_the_best_tokens_of_their_steps(model, count):
    request = Request([5], Sample(), seed=1, num_return_sequences=2, logprobs=count)
    with Engine(model, **OPTIONS) as engine:
        ticket = engine.submit(request)
        live, late = list(ticket), list(ticket)
        plain = list(engine.submit(Request([5], Sample(), seed=1)))
    assert live == late
    streamed = list(stream(model, Request([5], Sample(), seed=1, num_return_sequences=2, logprobs=count), **OPTIONS))
    assert all(event.top_logprobs is None for event in plain)
    for hypothesis in ticket.result():
        ids, values = hypothesis.top_logprobs
        expected = [tuple(zip(*step, strict=True)) for step in zip(ids.tolist(), values.tolist(), strict=True)]
        for events in (live, streamed):
            own = [e for e in events if e.output_index == hypothesis_index(events, hypothesis)]
            assert [e.top_logprobs for e in own] == expected


def hypothesis_index(events, hypothesis):
    """Return the number of the output whose events have the tokens of a hypothesis."""
    outputs = {e.output_index for e in events}
    (found,) = (
        n
        for n in outputs
        if [e.token for e in events if e.output_index == n and e.finish_reason != "eos"] == hypothesis.tokens
    )
    return found
