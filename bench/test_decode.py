"""decode() beside what people do today, on one thread: 200 steps of a whole batch, sampled at temperature 0.8.

    pytest bench/test_decode.py --benchmark-json=decode.json

- bare: `run_with_iobinding` alone over preallocated buffers, no token is ever chosen: the floor.
- numpy: `session.run`, then the Keras examples' sampling, row by row (log, divide by T, exp, normalise, multinomial).
- torch: the network's own eager loop with torch.multinomial.

The table at the end gives medians a step and their ratios to the floor.
"""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch", reason="the bench extra is not installed")

import decoding  # noqa: E402
from bench.networks import make  # noqa: E402

STEPS = 200
TEMPERATURE = 0.8
# name: hidden, layers, vocabulary, batch
WORKLOADS = {
    "LSTM 2x128, V 256, B 1": (128, 2, 256, 1),
    "LSTM 2x128, V 256, B 64": (128, 2, 256, 64),
    "LSTM 1x32, V 5000, B 64": (32, 1, 5000, 64),
}


@pytest.fixture(scope="module", params=WORKLOADS, ids=lambda name: name.replace(" ", ""))
def workload(request):
    hidden, layers, vocab, batch = WORKLOADS[request.param]
    torch.set_num_threads(1)
    net, data = make(hidden, layers, vocab)
    return request.param, net, data, batch


def session_of(data):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def measure(benchmark, workload, peer, function):
    name, _, _, batch = workload
    benchmark.group = name
    benchmark.extra_info.update(workload=name, peer=peer, steps=STEPS, batch=batch)
    benchmark.pedantic(function, rounds=9, warmup_rounds=1)


def test_bare(benchmark, workload):
    _, net, data, batch = workload
    session = session_of(data)
    tokens = np.zeros((batch, 1), np.int64)
    logits = np.zeros((batch, 1, net.head.out_features), np.float32)
    sides = [[np.zeros((net.lstm.num_layers, batch, net.lstm.hidden_size), np.float32) for _ in "hc"] for _ in range(2)]
    bindings = []
    for before, after in (sides, sides[::-1]):
        binding = session.io_binding()
        for name, array in zip(("tokens", "h", "c"), (tokens, *before), strict=True):
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in zip(("logits", "h_out", "c_out"), (logits, *after), strict=True):
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        bindings.append(binding)

    def loop():
        for _ in range(STEPS // 2):
            session.run_with_iobinding(bindings[0])
            session.run_with_iobinding(bindings[1])

    measure(benchmark, workload, "bare", loop)


def test_decode(benchmark, workload):
    _, _, data, batch = workload
    model = decoding.load(data, threads=1)
    prompts = [[1]] * batch
    strategy = decoding.Sample(temperature=TEMPERATURE)
    measure(
        benchmark,
        workload,
        "decode",
        lambda: decoding.decode(model, prompts, strategy, max_new_tokens=STEPS, seed=1, batch_size=batch),
    )


def sample(probs, rng):
    """The classic sampling function, on one row."""
    with np.errstate(divide="ignore"):
        scaled = np.log(probs.astype(np.float64)) / TEMPERATURE
    exp = np.exp(scaled - scaled.max())
    return int(np.argmax(rng.multinomial(1, exp / exp.sum())))


def softmax(logits):
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def numpy_loop(net, data, batch, steps):
    """Return a function: `session.run` for each step, then the classic sampling function, row by row."""
    session, rng = session_of(data), np.random.RandomState(1)

    def loop():
        tokens = np.ones((batch, 1), np.int64)
        h, c = (state.numpy() for state in net.zero_state(batch))
        for _ in range(steps):
            logits, h, c = session.run(None, {"tokens": tokens, "h": h, "c": c})
            tokens[:, 0] = [sample(row, rng) for row in softmax(logits[:, -1])]

    return loop


def torch_loop(net, batch, steps):
    """Return a function: the network's own eager loop with `torch.multinomial`."""

    def loop():
        tokens = torch.ones(batch, 1, dtype=torch.int64)
        h, c = net.zero_state(batch)
        with torch.inference_mode():
            for _ in range(steps):
                logits, h, c = net(tokens, h, c)
                tokens = torch.multinomial(torch.softmax(logits[:, -1] / TEMPERATURE, -1), 1)

    return loop


def test_numpy(benchmark, workload):
    _, net, data, batch = workload
    measure(benchmark, workload, "numpy", numpy_loop(net, data, batch, STEPS))


def test_torch(benchmark, workload):
    _, net, _, batch = workload
    measure(benchmark, workload, "torch", torch_loop(net, batch, STEPS))
