"""The recurrent operators of ONNX in float64 NumPy, written from the operators' formulas.

An independent truth for tests: nothing here looks at onnxruntime, and `onnx.reference` is no help
because it ignores `clip`, `input_forget` and `sequence_lens`. One direction (forward) and the default
layout, without the `num_directions` axis:

    x [T, B, I]    W [gates*H, I]    R [gates*H, H]    B [2*gates*H] (Wb then Rb)    P [3*H] (i, o, f)
    h0, c0 [B, H]  lens [B] or None

Gates stand in ONNX's order: LSTM i, o, f, c; GRU z, r, h. Each function returns Y [T, B, H] and the last
state(s) [B, H]. Past a row's length Y is zero and the state stays at its last valid step.
"""

import numpy as np

_SIMPLE = {
    "Relu": lambda x: np.maximum(x, 0),
    "Tanh": np.tanh,
    "Sigmoid": lambda x: 0.5 * (1 + np.tanh(0.5 * x)),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Softplus": lambda x: np.logaddexp(0, x),
}
# name: (function, default alpha, default beta); None: the function has no such parameter
_WITH_PARAMETERS = {
    "Affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "LeakyRelu": (lambda x, a, b: np.where(x >= 0, x, a * x), 0.01, None),
    "ThresholdedRelu": (lambda x, a, b: np.where(x >= a, x, 0), 1.0, None),
    "ScaledTanh": (lambda x, a, b: a * np.tanh(b * x), 1.0, 1.0),
    "HardSigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), 0.2, 0.5),
    "Elu": (lambda x, a, b: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0))), 1.0, None),
}


def activation_functions(names, alpha=(), beta=(), clip=None):
    """The functions of an `activations` list; each takes its alpha and beta from the front of those lists.

    A function that has no alpha (or beta) consumes none. `clip` bounds the input of each of them.
    """
    alpha, beta = list(alpha), list(beta)

    def clipped(f):
        return f if not clip else lambda x: f(np.clip(x, -clip, clip))

    functions = []
    for name in names:
        if name in _SIMPLE:
            functions.append(clipped(_SIMPLE[name]))
            continue
        f, a, b = _WITH_PARAMETERS[name]
        a = alpha.pop(0) if a is not None and alpha else a
        b = beta.pop(0) if b is not None and beta else b
        functions.append(clipped(lambda x, f=f, a=a, b=b: f(x, a, b)))
    return functions


def _prepare(gates, x, W, R, B, *states):
    x, W, R = (np.asarray(a, np.float64) for a in (x, W, R))
    hidden = R.shape[1]
    B = np.zeros(2 * gates * hidden) if B is None else np.asarray(B, np.float64)
    states = [np.zeros((x.shape[1], hidden)) if s is None else np.asarray(s, np.float64) for s in states]
    return x, W, R, B[: gates * hidden], B[gates * hidden :], *states


def _scan(x, lens, states, step):
    """Run `step` over time, keeping a row's state once it is past its length."""
    ys = []
    for t in range(x.shape[0]):
        new = step(x[t], *states)
        alive = np.ones((x.shape[1], 1), bool) if lens is None else (np.asarray(lens) > t)[:, None]
        ys.append(np.where(alive, new[0], 0))
        states = [np.where(alive, n, s) for n, s in zip(new, states, strict=True)]
    return np.stack(ys), *states


def rnn(x, W, R, B=None, h0=None, *, activations=("Tanh",), alpha=(), beta=(), clip=None, lens=None):
    """H = f(x W' + Wb + H R' + Rb)."""
    x, W, R, wb, rb, h0 = _prepare(1, x, W, R, B, h0)
    (f,) = activation_functions(activations, alpha, beta, clip)
    return _scan(x, lens, [h0], lambda x_t, h: [f(x_t @ W.T + wb + h @ R.T + rb)])


def gru(
    x, W, R, B=None, h0=None, *, linear_before_reset=0, activations=("Sigmoid", "Tanh"), alpha=(), beta=(),
    clip=None, lens=None,
):  # fmt: skip
    """H = (1 - z) * h + z * H, with the reset gate before (0) or after (1) the recurrent product of h."""
    x, W, R, wb, rb, h0 = _prepare(3, x, W, R, B, h0)
    f, g = activation_functions(activations, alpha, beta, clip)
    n = R.shape[1]

    def step(x_t, h):
        xz, xr, xh = np.split(x_t @ W.T + wb, 3, axis=-1)
        hz, hr = np.split(h @ R[: 2 * n].T + rb[: 2 * n], 2, axis=-1)
        z, r = f(xz + hz), f(xr + hr)
        if linear_before_reset:
            new = g(xh + r * (h @ R[2 * n :].T + rb[2 * n :]))
        else:
            new = g(xh + (r * h) @ R[2 * n :].T + rb[2 * n :])
        return [(1 - z) * new + z * h]

    return _scan(x, lens, [h0], step)


def lstm(
    x, W, R, B=None, h0=None, c0=None, P=None, *, activations=("Sigmoid", "Tanh", "Tanh"), alpha=(), beta=(),
    clip=None, input_forget=0, lens=None,
):  # fmt: skip
    """C = f * C + i * g(...), H = o * h(C); peepholes: i and f see the old C, o the new one.

    `input_forget` couples the gates: f = 1 - i. `clip` bounds what enters the gates and the candidate; the
    new C enters h unclipped. (The operator's text, "applied to the input of activations", would allow both;
    this is how onnxruntime reads it.)
    """
    x, W, R, wb, rb, h0, c0 = _prepare(4, x, W, R, B, h0, c0)
    f, g, _ = activation_functions(activations, alpha, beta, clip)
    h = activation_functions(activations, alpha, beta)[2]
    pi, po, pf = np.zeros((3, R.shape[1])) if P is None else np.split(np.asarray(P, np.float64), 3)

    def step(x_t, h_t, c_t):
        i, o, forget, c = np.split(x_t @ W.T + wb + h_t @ R.T + rb, 4, axis=-1)
        i = f(i + pi * c_t)
        forget = 1 - i if input_forget else f(forget + pf * c_t)
        c_new = forget * c_t + i * g(c)
        return [f(o + po * c_new) * h(c_new), c_new]

    return _scan(x, lens, [h0, c0], step)
