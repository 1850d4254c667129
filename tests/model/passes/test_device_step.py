"""decoding/model/device.py: the device's step graph, run on the CPU provider."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from decoding import load
from decoding.kernels import reference
from decoding.model.passes import device_step
from decoding.model.passes.device_step import CHOICE, DRAW, STEP, Reduction
from decoding.model.runtime.session import Session
from tests.helpers import build
from tests.helpers.exports import fixture, fixtures, outcome

VOCAB = 700  # three blocks, the last one not full


@pytest.fixture(scope="module")
def model():
    return load(build.unigram(np.zeros(VOCAB)))


def chosen(model, logits, reduction, draws=None):
    """What comes down for these logits: ids [B, k], values [B, k], log-sum-exp [B]."""
    # The logits are a table that the token picks: the model's own layers add nothing to it.
    logits = np.asarray(logits, np.float32)
    proto = build.recurrent("GRU", vocab=logits.shape[1], hidden=2, exposed=True, bias=np.zeros(logits.shape[1]))
    for tensor in proto.graph.initializer:
        if tensor.name == "out":
            tensor.CopyFrom(build.numpy_helper.from_array(np.zeros((2, logits.shape[1]), np.float32), "out"))
    table = np.zeros((logits.shape[1], logits.shape[1]), np.float32)
    table[: len(logits)] = logits
    proto.graph.initializer.append(build.numpy_helper.from_array(table, "rows"))
    proto.graph.node.append(helper.make_node("Gather", ["rows", "tokens"], ["wanted"]))
    last = next(n for n in proto.graph.node if "logits" in n.output)
    last.input[1] = "wanted"
    nodes = [n for n in proto.graph.node if n is not last and n.output[0] != "wanted"]
    nodes += [n for n in proto.graph.node if n.output[0] == "wanted"] + [last]
    del_and_set(proto.graph.node, nodes)
    loaded = load(proto, verify=False)
    session = Session(device_step.device_graph(loaded._graph, loaded._network.contract, reduction), threads=1)
    rows = np.arange(len(logits))
    feeds = {STEP: np.stack([rows, rows])} | {
        s.input: s.initial_rows(len(rows)) for s in loaded._network.contract.states
    }
    if draws is not None:
        feeds[DRAW] = draws
    (down,) = session.run(feeds, [CHOICE])
    k = reduction.count
    return down[:, k : 2 * k].astype(np.int64), down[:, :k], down[:, 2 * k]


def del_and_set(field, nodes):
    copies = [type(n).FromString(n.SerializeToString()) for n in nodes]
    del field[:]
    field.extend(copies)


def rows_of(seed, rows=40, scale=4.0):
    return np.random.default_rng(seed).standard_normal((rows, VOCAB)).astype(np.float32) * np.float32(scale)


@pytest.mark.parametrize("k", [1, 7])
def test_the_best_and_the_sum_of_all(k):
    logits = rows_of(1)
    logits[3, 100:] = -np.inf
    ids, values, normalizers = chosen(None, logits, Reduction("best", k))
    best, order = reference.top_k(logits, k)
    np.testing.assert_array_equal(values, best)
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_allclose(values - normalizers[:, None], reference.top_logprobs(logits, k)[0], atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.3, 1.0, 2.5]), st.floats(0.1, 30))
def test_a_draw_is_the_kernels_draw(seed, temperature, scale):
    logits = rows_of(seed, scale=scale)
    logits[1, 5:] = -np.inf
    logits[2, :-1] = -np.inf
    rows = np.arange(len(logits))
    u = reference.uniform(seed, rows, 3, 1)[:, 0]
    ids, values, normalizers = chosen(None, logits, Reduction("draw"), np.stack([u, np.full(len(u), temperature)]))
    tokens, logprobs = reference.draw(logits, temperature=temperature, seed=seed, rows=rows, step=3)
    near = [_near_a_boundary(x, temperature, at) for x, at in zip(logits, u, strict=True)]
    assert sum(near) < 5
    same = ~np.array(near)
    np.testing.assert_array_equal(ids[same, 0], tokens[same])
    np.testing.assert_allclose((values[:, 0] - normalizers)[same], logprobs[same], rtol=1e-5, atol=1e-5)


def _near_a_boundary(logits, temperature, u):
    """Does the draw hang on how sums are rounded?"""
    running = np.cumsum(reference.softmax(logits, temperature))
    return np.abs(running - u).min() < 1e-5 and np.isfinite(logits).sum() > 1


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2.0**-53])
def test_the_ends_of_a_draw_fall_on_what_is_possible(u):
    logits = np.full((3, VOCAB), -np.inf, np.float32)
    logits[0, [10, 600]] = 0, 1
    logits[1, 255:257] = 3
    logits[2] = np.linspace(-60, 0, VOCAB)
    ids, _, _ = chosen(None, logits, Reduction("draw"), np.stack([np.full(3, u), np.ones(3)]))
    assert np.isfinite(logits[np.arange(3), ids[:, 0]]).all()
    if u == 0:
        assert ids[:2, 0].tolist() == [10, 255]
    if u > 0.9:
        assert ids[:2, 0].tolist() == [600, 256]


@pytest.mark.parametrize("reduction", [Reduction("best", 3), Reduction("draw")])
def test_rows_that_cannot_be_drawn_from_are_told_by_their_sum(reduction):
    logits = rows_of(0, rows=4)
    logits[0, 5] = np.nan
    logits[1, 6] = np.inf
    logits[2] = -np.inf
    _, _, normalizers = chosen(None, logits, reduction, np.stack([np.full(4, 0.5), np.ones(4)]) if reduction.how == "draw" else None)  # fmt: skip
    assert np.isnan(normalizers[0])
    assert normalizers[1] == np.inf
    assert normalizers[2] == -np.inf
    assert np.isfinite(normalizers[3])


@pytest.mark.parametrize("name", fixtures("step"))
def test_every_export_steps_by_its_device_graph(name):
    """Rows are moved by their indices alone: each step reads the states of another order."""
    _, _, roles = fixture(name)
    model, _ = outcome(name, roles)
    if model is None or model._network.contract.window is not None:
        pytest.skip("refused, or run by windows, as test_fixtures.py accepts")
    c = model._network.contract
    if any(state.free_axis is not None for state in c.states):
        pytest.skip("a state of no fixed size, which is for the CPU")
    reduction = Reduction("best", 2) if device_step.can_reduce(model._graph) else None
    session = Session(device_step.device_graph(model._graph, c, reduction), threads=1)
    rng, batch, time = np.random.default_rng(0), 4, 6
    ids = rng.integers(0, c.logits.vocab_size, (batch, time))
    plain = {s.input: s.initial_rows(batch) for s in c.states}
    states = dict(plain)
    names = [c.logits.name, *(s.output for s in c.states)]
    fixed = {k: v for k, v in c.feeds(ids[:, :1]).items() if k in {p.name for p in device_step.device_graph(model._graph, c, None).inputs}}  # fmt: skip
    positions = [f for f in c.auxiliary_inputs if f.kind == "position"]
    for t in range(time):
        rows = rng.permutation(batch) if t else np.arange(batch)
        plain = {s.input: plain[s.input].take(rows, s.batch_axis) for s in c.states}
        expected, *after = model._network.session.run({**c.feeds(ids[:, t : t + 1], t), **plain}, names)
        step = np.stack([ids[:, t], rows, *(np.full(batch, t) for _ in positions)])
        extra = [] if reduction is None else [CHOICE]
        found, *moved = session.run({STEP: step, **fixed, **states}, [*names, *extra])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        if reduction is not None:
            best = reference.top_k(c.logits.arrange(expected)[:, -1], 2)[0]
            np.testing.assert_allclose(moved.pop()[:, :2], best, rtol=1e-5, atol=1e-5)
        plain = dict(zip((s.input for s in c.states), after, strict=True))
        states = dict(zip((s.input for s in c.states), moved, strict=True))
