"""engine/scoring.py: log-probabilities of given sequences, by runs of many tokens and by steps."""

import signal
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import load, score
from decoding.engine import score as scoring
from tests.helpers import build
from tests.helpers.exports import MODELS


@pytest.fixture(params=["runs", "steps"])
def way(request, monkeypatch):
    """Either way, whatever the size of the vocabulary."""
    monkeypatch.setattr(scoring, "_LARGE_STEP", 0 if request.param == "steps" else 1 << 60)


def models():
    protos = {cell: build.recurrent(cell, layers=2, seed=2) for cell in build.CELLS}
    return {cell: (load(proto), proto) for cell, proto in protos.items()}


MODELS_OF_CELLS = models()


@pytest.mark.usefixtures("way")
@given(
    beginnings=st.lists(st.lists(st.integers(0, 10), max_size=6), min_size=1, max_size=4),
    ends=st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.integers(0, 10), min_size=1, max_size=7)), min_size=1, max_size=12
    ),
    batch_size=st.integers(1, 14),
    cell=st.sampled_from(build.CELLS),
)
@settings(max_examples=60, deadline=None)
def test_scores_of_sequences_that_have_beginnings_in_common(beginnings, ends, batch_size, cell):
    sequences = [beginnings[i % len(beginnings)] + end for i, end in ends]
    model, proto = MODELS_OF_CELLS[cell]
    for ids, found in zip(sequences, score(model, sequences, batch_size=batch_size), strict=True):
        logits = build.whole_run(proto, [ids])[0, :-1].astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        np.testing.assert_allclose(found[1:], expected[np.arange(len(ids) - 1), ids[1:]], atol=1e-5)
        assert np.isnan(found[0])


@pytest.mark.usefixtures("way")
def test_the_same_sequence_with_contexts_of_its_own():
    model = load(MODELS / "torch_legacy_gru_context.onnx")
    (aux,) = model._network.contract.contexts
    context = np.random.default_rng(0).standard_normal((3, *aux.sizes)).astype(np.float32) * 3
    together = score(model, [[1, 2, 3]] * 3, context={aux.name: context})
    assert not np.allclose(together[0][1:], together[1][1:], atol=1e-3)
    for row, found in enumerate(together):
        (alone,) = score(model, [[1, 2, 3]], context={aux.name: context[row : row + 1]})
        np.testing.assert_allclose(found, alone, atol=1e-5)


def test_a_beginning_is_read_once(monkeypatch):
    """With a large vocabulary, where a step at a time is as quick as many."""
    model = load(build.recurrent("GRU", vocab=3000, hidden=4))
    rows = []
    bind = model._network.step_session.bind

    def counting(inputs, outputs):
        rows.append(len(inputs["tokens"]))
        return bind(inputs, outputs)

    monkeypatch.setattr(model._network.step_session, "bind", counting)
    score(model, [[1, 2, 3, 4, i] for i in range(100)] + [[1, 2, 9, i, i] for i in range(28)])
    assert sorted(set(rows)) == [1, 2, 29]  # 1, 2; 3 and 9; 4 and 28 of them after 9


def test_a_run_does_bounded_work(monkeypatch):
    """One run over all of 2,000 tokens of 128 rows answered Ctrl-C after 16 s (issue 13)."""
    model = load(build.recurrent("LSTM", hidden=64), threads=1, executor="onnxruntime")
    monkeypatch.setattr(scoring, "_PRODUCTS", 1 << 24)
    sizes = []
    run = model._network.session.run
    monkeypatch.setattr(model._network.session, "run", lambda feeds, names: (sizes.append(feeds["tokens"].size), run(feeds, names))[1])  # fmt: skip
    ids = np.random.default_rng(0).integers(0, 11, (20, 100))
    found = score(model, ids)
    assert 20 <= max(sizes) <= max(20, (1 << 24) / (model._network.session.bytes / 4))
    assert len(sizes) > 1
    monkeypatch.setattr(scoring, "_PRODUCTS", 1 << 60)
    np.testing.assert_allclose(found, score(model, ids), atol=1e-5)


def test_every_run_takes_a_token_however_large_the_model_is(monkeypatch):
    model = load(build.recurrent("GRU"), threads=1)
    monkeypatch.setattr(scoring, "_PRODUCTS", 1)
    assert np.isfinite(score(model, [[1, 2, 3, 4], [1, 2]])[0][1:]).all()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer that sends a signal")
def test_score_answers_an_interrupt_at_once():
    model = load(build.recurrent("LSTM", hidden=512), threads=1)
    ids = np.random.default_rng(0).integers(0, 11, (128, 4000))

    sent = []

    def handler(*_):
        sent.append(time.perf_counter())
        raise KeyboardInterrupt

    began, before = time.perf_counter(), signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            score(model, ids)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    # Of the handler's call: onnxruntime held the thread until then. About 0.02 s where the machine is idle.
    assert sent[0] - began < 2


def test_progress_counts_the_tokens_that_have_scores(way, capsys):
    model = load(build.recurrent("GRU", seed=3))
    score(model, [[1, 2, 3], [4, 5], [6, 7, 8, 9]], progress=True)
    assert "6.00/6.00" in capsys.readouterr().err  # nothing comes before the first token of each without a BOS
    score(model, [[1, 2, 3]])
    assert capsys.readouterr().err == ""
