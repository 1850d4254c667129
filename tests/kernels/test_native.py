"""The native step beside its twin in NumPy, and a row's bits at every batch size."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import ModelError
from decoding.kernels import NativeNetwork
from decoding.kernels.native import reference as twin
from decoding.kernels.native.layers import Activation, NativeArrays, NativeLayer
from tests.helpers.native_networks import GATES, PLAIN, network, run, states, weights

# About the 16 numbers of a vector and the 64 of a panel.
SIZES = [1, 2, 15, 16, 17, 63, 64, 65, 130]


@settings(max_examples=60, deadline=None)
@given(
    cell=st.sampled_from(list(GATES)), hidden=st.sampled_from(SIZES), layers=st.integers(1, 3), rows=st.integers(1, 9),
    time=st.integers(1, 4), table=st.booleans(), whole=st.booleans(), clip=st.sampled_from([0.0, 0.3]), residual=st.booleans(),
    context=st.sampled_from([0, 3]), seed=st.integers(0, 99),
)  # fmt: skip
def test_equals_its_twin(cell, hidden, layers, rows, time, table, whole, clip, residual, context, seed):
    rng = np.random.default_rng(seed)
    arrays, expected = network(
        rng, cell, hidden, layers=layers, inputs=hidden if residual else 5, residual=residual, clip=clip,
        whole=whole and cell == "GRU", context=context,
    )  # fmt: skip
    tokens, pairs = rng.integers(0, 11, (rows, time)), states(rng, arrays, rows)
    contexts = [weights(rng, rows, context)] if context else []
    logits, after = run(NativeNetwork(arrays, table=table), tokens, pairs, 9, contexts)
    added = contexts[0] @ arrays.contexts[0].T if context else None
    top, h, c = expected.read(tokens, [p[0] for p in pairs], [p[1] for p in pairs], added)
    near = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(logits, np.stack([expected.output(top[:, t]) for t in range(time)]), **near)
    for (found, found_c), own, own_c in zip(after, h, c, strict=True):
        np.testing.assert_allclose(found, own, **near)
        if found_c is not None:
            np.testing.assert_allclose(found_c, own_c, **near)


def mixed(rng, cell, hidden, *, dense, projected, activation):
    """A recurrent layer among dense ones, an LSTM's h projected to `projected` numbers; and the twin."""
    projected = projected if cell == "LSTM" else hidden
    made, twins, width = [], [], dense
    for kind in ("DENSE", cell, "DENSE", "DENSE"):
        size = hidden if kind == cell else dense
        w, b = weights(rng, GATES.get(kind, 1) * size, width), weights(rng, GATES.get(kind, 1) * size)
        options = {"residual": kind == "DENSE" and width == size}
        own = [Activation(activation)] if kind == "DENSE" else [Activation(name) for name in PLAIN[cell]]
        state = candidate = projection = bias = None
        if kind == cell:
            r = weights(rng, GATES[cell] * hidden, projected)
            state, candidate = (r[: 2 * hidden], r[2 * hidden :]) if cell == "GRU" else (r, None)
            projection, bias = (
                (weights(rng, projected, hidden), weights(rng, projected)) if cell == "LSTM" else (None,) * 2
            )
        made.append(
            NativeLayer(kind, size, w, b, state, own, candidate, projection=projection, projection_bias=bias, **options)
        )
        parts = [
            None if x is None else twin.Linear(x, y) for x, y in ((state, None), (candidate, None), (projection, bias))
        ]
        twins.append(twin.Layer(kind, size, twin.Linear(w, b), *parts, activations=[a.name for a in own], **options))
        width = projected if kind == cell else size
    embedding, out, last = weights(rng, 11, dense), weights(rng, 9, dense), weights(rng, 9)
    return NativeArrays(11, embedding, made, out, last), twin.Network(embedding, twins, twin.Linear(out, last))  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    cell=st.sampled_from(list(GATES)), hidden=st.sampled_from(SIZES), dense=st.sampled_from(SIZES), projected=st.sampled_from(SIZES),
    activation=st.sampled_from(["relu", "tanh", "softsign"]), rows=st.integers(1, 9), time=st.integers(1, 4), table=st.booleans(),
)  # fmt: skip
def test_dense_layers_and_projections_equal_their_twin(cell, hidden, dense, projected, activation, rows, time, table):
    rng = np.random.default_rng(hidden * dense + projected)
    arrays, expected = mixed(rng, cell, hidden, dense=dense, projected=projected, activation=activation)
    tokens = rng.integers(0, 11, (rows, time))
    pairs = [
        (None, None) if x.cell == "DENSE" else tuple(
            rng.uniform(-1, 1, (rows, n)).astype(np.float32) if n else None for n in (x.width, x.hidden if cell == "LSTM" else 0)
        )
        for x in arrays.layers
    ]  # fmt: skip
    net = NativeNetwork(arrays, table=table)
    logits, after = run(net, tokens, pairs, 9)
    top, h, c = expected.read(tokens, [p[0] for p in pairs], [p[1] for p in pairs])
    near = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(logits, np.stack([expected.output(top[:, t]) for t in range(time)]), **near)
    np.testing.assert_allclose(after[1][0], h[1], **near)
    if cell == "LSTM":
        np.testing.assert_allclose(after[1][1], c[1], **near)
    for size in range(1, rows + 1):
        cut = [(None if x is None else x[:size], None if y is None else y[:size]) for x, y in pairs]
        np.testing.assert_array_equal(run(net, tokens[:size], cut, 9)[0], logits[:, :size])


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("cell", list(GATES))
def test_a_row_has_the_same_bits_at_every_batch_size_and_place(cell, int8):
    rng = np.random.default_rng(0)
    arrays, _ = network(rng, cell, 65)
    net = NativeNetwork(arrays, int8=int8)
    tokens, pairs = rng.integers(0, 11, (130, 3)), states(rng, arrays, 130)
    logits, after = run(net, tokens, pairs, 9)
    for size in range(1, 131):
        start = (130 - size) // 2
        cut = slice(start, start + size)
        found, own = run(net, tokens[cut], [(h[cut], None if c is None else c[cut]) for h, c in pairs], 9)
        np.testing.assert_array_equal(found, logits[:, cut])
        np.testing.assert_array_equal(own[1][0], after[1][0][cut])


def test_a_long_chunk_has_the_bits_of_its_steps():
    rng = np.random.default_rng(0)
    arrays, _ = network(rng, "LSTM", 130)
    net = NativeNetwork(arrays)
    tokens, pairs = rng.integers(0, 11, (40, 150)), states(rng, arrays, 40)  # longer than one part
    logits, _ = run(net, tokens, pairs, 9)
    for t in range(150):
        one, pairs = run(net, tokens[:, t : t + 1], pairs, 9)
        np.testing.assert_array_equal(one[0], logits[t])


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 20), int8=st.booleans(), data=st.data())
def test_contexts_that_change_between_steps_have_the_bits_of_contexts_that_were_new(rows, int8, data):
    rng = np.random.default_rng(rows)
    arrays, _ = network(rng, "LSTM", 17, context=3)
    arrays = replace(arrays, contexts=[*arrays.contexts, weights(rng, 68, 5)])
    net = NativeNetwork(arrays, int8=int8)
    tokens, pairs, contexts = (
        np.zeros((rows, 1), np.int64),
        states(rng, arrays, rows),
        [weights(rng, rows, n) for n in (3, 5)],
    )
    logits, kept = np.zeros((1, rows, 9), np.float32), [(h.copy(), c.copy()) for h, c in pairs]
    stepped = net.bind(tokens, kept, logits, contexts)
    for _ in range(4):
        for which in (0, 1):
            other = data.draw(st.lists(st.integers(0, rows - 1), max_size=4))
            contexts[which][other] = data.draw(st.sampled_from([0.0, -0.0, 1.5, np.nan]))
        tokens[:] = rng.integers(0, 11, tokens.shape)
        expected, pairs = run(net, tokens, pairs, 9, contexts)
        stepped.run()
        np.testing.assert_array_equal(logits, expected)


def test_int8_is_near_float():
    rng = np.random.default_rng(0)
    arrays, _ = network(rng, "GRU", 64)
    tokens, pairs = rng.integers(0, 11, (4, 8)), states(rng, arrays, 4)
    exact, near = (run(NativeNetwork(arrays, int8=int8), tokens, pairs, 9)[0] for int8 in (False, True))
    assert 0 < np.abs(exact - near).max() < 0.02


def test_a_token_outside_the_vocabulary_is_refused_and_named():
    rng = np.random.default_rng(0)
    arrays, _ = network(rng, "RNN", 4)
    for wrong in (-1, 11):
        with pytest.raises(
            ModelError, match="row 1 has a token that lies outside the embedding; expected 0 <= token < 11"
        ):
            run(NativeNetwork(arrays, name="m"), np.array([[0], [wrong]]), states(rng, arrays, 2), 9)


def test_arrays_that_do_not_fit_are_refused():
    rng = np.random.default_rng(0)
    arrays, _ = network(rng, "LSTM", 4)
    net, pairs = NativeNetwork(arrays), states(rng, arrays, 2)
    tokens = np.zeros((2, 1), np.int64)
    with pytest.raises(ValueError, match="expected"):
        net.bind(tokens, states(rng, arrays, 3), None)
    with pytest.raises(ValueError, match="expected"):
        net.bind(tokens.astype(np.int32), pairs, None)
    with pytest.raises(ValueError, match="expected"):
        net.bind(tokens, pairs, np.zeros((1, 2, 8), np.float32))
    with pytest.raises(ValueError, match="contiguous rows"):
        net.bind(tokens, [(np.zeros((4, 2), np.float32).T, p[1]) for p in pairs], None)
