"""Random networks for the native step, beside their twins in NumPy."""

import numpy as np

from decoding.kernels.native import reference as twin
from decoding.kernels.native.layers import Activation, NativeArrays, NativeLayer

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
PLAIN = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}


def weights(rng, *shape):
    return (rng.uniform(-1, 1, shape) / np.sqrt(shape[-1])).astype(np.float32)


def network(rng, cell, hidden, *, layers=2, vocab=11, inputs=5, outputs=9, residual=False, clip=0.0, whole=False, context=0, int8=False):  # fmt: skip
    """The arrays of a random network, and its twin; with `int8`, the twin computes as int8 kernels do."""

    def linear(*parts):
        return twin.Linear(*parts, int8=int8, largest=127)

    made, twins = [], []
    for i in range(layers):
        n, width = GATES[cell] * hidden, inputs if i == 0 else hidden
        w, b, r, rb = weights(rng, n, width), weights(rng, n), weights(rng, n, hidden), weights(rng, hidden)
        own = residual and width == hidden
        options = {"clip": clip, "residual": own, "linear_before_reset": whole}
        peepholes = weights(rng, 3, hidden) if cell == "LSTM" else None
        candidate = r[2 * hidden :] if cell == "GRU" else None
        state = r[: 2 * hidden] if cell == "GRU" else r
        named = [Activation(name) for name in PLAIN[cell]]
        made.append(
            NativeLayer(cell, hidden, w, b, state, named, candidate, rb if whole else None, peepholes, **options)
        )
        twins.append(
            twin.Layer(
                cell, hidden, linear(w, b), linear(state), None if candidate is None else linear(candidate, rb),
                peepholes=peepholes, activations=PLAIN[cell], **options,
            )
        )  # fmt: skip
    embedding, out, bias = weights(rng, vocab, inputs), weights(rng, outputs, hidden), weights(rng, outputs)
    contexts = [weights(rng, GATES[cell] * hidden, context)] if context else []
    arrays = NativeArrays(vocab, embedding, made, out, bias, contexts)
    return arrays, twin.Network(embedding, twins, linear(out, bias))


def states(rng, arrays, rows):
    return [
        (rng.uniform(-1, 1, (rows, x.hidden)).astype(np.float32),
         rng.uniform(-1, 1, (rows, x.hidden)).astype(np.float32) if x.cell == "LSTM" else None)
        for x in arrays.layers
    ]  # fmt: skip


def run(net, tokens, pairs, outputs, contexts=()):
    """Logits [time, rows, outputs], and the states after the tokens."""
    pairs = [tuple(None if x is None else x.copy() for x in pair) for pair in pairs]
    logits = np.full((tokens.shape[1], len(tokens), outputs), np.nan, np.float32)
    net.bind(np.ascontiguousarray(tokens), pairs, logits, contexts).run()
    return logits, pairs
