"""The kernels beside what one would call instead, on one thread, in one run.

    pytest bench/test_kernels.py --benchmark-json=kernels.json
    python -m bench.report_kernels kernels.json docs/benchmarks

Peers draw a token and no more; ours also gives its log-probability under the logits as they were. `maximum` is
NumPy's maximum of every row: the floor for anything that reads the logits once.
"""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from scipy import special

torch = pytest.importorskip("torch", reason="the bench extra is not installed")

from decoding import kernels  # noqa: E402

SHAPES = [(1, 256), (64, 256), (64, 5000), (16, 10000), (8, 32000), (1, 50257), (1, 128256)]
BEAMS = [(2, 5, 256), (2, 5, 10000), (8, 4, 32000)]
TEMPERATURE, TOP_K, TOP_P = 0.8, 50, 0.9
RNG = np.random.default_rng(0)


def session(operator, logits, **attributes):
    """An onnxruntime session of one operator over the logits divided by the temperature."""
    helper, kind = onnx.helper, onnx.TensorProto
    constants = []
    if operator == "TopK":
        constants.append(helper.make_tensor("k", kind.INT64, [1], [TOP_K]))
        nodes = [helper.make_node("TopK", ["x", "k"], ["values", "out"])]
    else:
        constants.append(helper.make_tensor("t", kind.FLOAT, [], [TEMPERATURE]))
        nodes = [
            helper.make_node("Div", ["x", "t"], ["z"]),
            helper.make_node(operator, ["z"], ["out"], **attributes),
        ]
    element = kind.FLOAT if operator == "Softmax" else kind.INT32 if operator == "Multinomial" else kind.INT64
    graph = helper.make_graph(
        nodes,
        "peer",
        [helper.make_tensor_value_info("x", kind.FLOAT, list(logits.shape))],
        [helper.make_tensor_value_info("out", element, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    run = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run
    return lambda: run(None, {"x": logits})


# ---- drawing at a temperature ----------------------------------------------------------------------


def numpy_draw(x):
    z = x / TEMPERATURE
    running = np.cumsum(np.exp(z - z.max(axis=1, keepdims=True)), axis=1)
    return (running > RNG.random((len(x), 1)) * running[:, -1:]).argmax(axis=1)


def keras_sample(preds):
    """The function of the Keras character-RNN example, as it stands there."""
    preds = np.asarray(preds).astype("float64")
    preds = np.log(preds) / TEMPERATURE
    exp_preds = np.exp(preds)
    preds = exp_preds / np.sum(exp_preds)
    probas = np.random.multinomial(1, preds, 1)  # noqa: NPY002
    return np.argmax(probas)


def draw_peers(x):
    """Each peer as a call without arguments; the Keras function gets probabilities that are ready."""
    tensor, probabilities = torch.from_numpy(x), special.softmax(x.astype(np.float64), axis=1)
    return {
        "ours": lambda: kernels.draw(x, temperature=TEMPERATURE, seed=1),
        "numpy": lambda: numpy_draw(x),
        "torch": lambda: torch.multinomial(torch.softmax(tensor / TEMPERATURE, -1), 1),
        "onnxruntime": session("Multinomial", x, sample_size=1),
        "keras": lambda: [keras_sample(row) for row in probabilities],
        "maximum": lambda: x.max(axis=1),
    }


# ---- drawing from the 50 most probable, then from 0.9 of their probability ----------------------------


def torch_filtered_draw(x):
    """As usual in torch: the k-th value as a threshold, a sort, running sums, a mask put back in place."""
    x = x / TEMPERATURE
    x = x.masked_fill(x < torch.topk(x, TOP_K)[0][..., -1:], -torch.inf)
    values, order = torch.sort(x, descending=False)
    remove = values.softmax(-1).cumsum(-1) <= 1 - TOP_P
    remove[..., -1:] = False
    x = x.masked_fill(remove.scatter(1, order, remove), -torch.inf)
    return torch.multinomial(torch.softmax(x, -1), 1)


def numpy_filtered_draw(x):
    best = np.argpartition(x, -TOP_K, axis=1)[:, -TOP_K:]
    z = np.take_along_axis(x, best, 1) / TEMPERATURE
    order = np.argsort(-z, axis=1)
    z = np.take_along_axis(z, order, 1)
    p = np.exp(z - z[:, :1])
    p /= p.sum(axis=1, keepdims=True)
    running = np.cumsum(p, axis=1)
    p[running - p >= TOP_P] = 0
    running = np.cumsum(p, axis=1)
    chosen = (running > RNG.random((len(x), 1)) * running[:, -1:]).argmax(axis=1)[:, None]
    return np.take_along_axis(best, np.take_along_axis(order, chosen, 1), 1)


def filter_peers(x):
    tensor = torch.from_numpy(x)
    return {
        "ours": lambda: kernels.draw(x, temperature=TEMPERATURE, top_k=TOP_K, top_p=TOP_P, seed=1),
        "numpy": lambda: numpy_filtered_draw(x),
        "torch": lambda: torch_filtered_draw(tensor),
        "maximum": lambda: x.max(axis=1),
    }


def nucleus_peers(x):
    tensor = torch.from_numpy(x)

    def torch_nucleus():
        z, order = torch.sort(tensor / TEMPERATURE, descending=True)
        p = z.softmax(-1)
        p[p.cumsum(-1) - p >= TOP_P] = 0
        return order.gather(1, torch.multinomial(p, 1))

    return {
        "ours": lambda: kernels.draw(x, temperature=TEMPERATURE, top_p=TOP_P, seed=1),
        "torch": torch_nucleus,
        "maximum": lambda: x.max(axis=1),
    }


# ---- whole rows, the best, beams -----------------------------------------------------------------


def softmax_peers(x):
    tensor = torch.from_numpy(x)

    def numpy_softmax():
        e = np.exp((x - x.max(axis=1, keepdims=True)) / TEMPERATURE)
        e /= e.sum(axis=1, keepdims=True)
        return e

    return {
        "ours": lambda: kernels.softmax(x, TEMPERATURE),
        "numpy": numpy_softmax,
        "scipy": lambda: special.softmax(x / TEMPERATURE, axis=1),
        "torch": lambda: torch.softmax(tensor / TEMPERATURE, -1),
        "onnxruntime": session("Softmax", x),
        "maximum": lambda: x.max(axis=1),
    }


def top_k_peers(x):
    tensor = torch.from_numpy(x)

    def numpy_top_k():
        best = np.argpartition(x, -TOP_K, axis=1)[:, -TOP_K:]
        values = np.take_along_axis(x, best, 1)
        order = np.argsort(-values, axis=1)
        return np.take_along_axis(values, order, 1), np.take_along_axis(best, order, 1)

    return {
        "ours": lambda: kernels.top_k(x, TOP_K),
        "numpy": numpy_top_k,
        "torch": lambda: torch.topk(tensor, TOP_K),
        "onnxruntime": session("TopK", x),
        "maximum": lambda: x.max(axis=1),
    }


def greedy_peers(x):
    tensor = torch.from_numpy(x)

    def torch_greedy():
        token = tensor.argmax(-1, keepdim=True)
        return token, torch.log_softmax(tensor, -1).gather(1, token)

    return {
        "ours": lambda: kernels.greedy(x),
        "numpy": lambda: x.argmax(axis=1),
        "torch": torch_greedy,
        "maximum": lambda: x.max(axis=1),
    }


def beam_peers(x):
    prompts, beams, width = x.shape
    scores = RNG.normal(size=(prompts, beams)).astype(np.float32)
    tensor, before = torch.from_numpy(x), torch.from_numpy(scores)

    def torch_beams():
        total = torch.log_softmax(tensor, -1) + before[..., None]
        best, flat = torch.topk(total.view(prompts, -1), 2 * beams)
        return best, flat // width, flat % width

    return {
        "ours": lambda: kernels.beam_prune(x, scores, beams),
        "torch": torch_beams,
        "maximum": lambda: x.max(axis=2),
    }


TASKS = {
    "draw": (draw_peers, SHAPES),
    "top-k 50, top-p 0.9": (filter_peers, SHAPES),
    "top-p 0.9": (nucleus_peers, SHAPES),
    "greedy": (greedy_peers, SHAPES),
    "softmax": (softmax_peers, SHAPES),
    "top_k 50": (top_k_peers, SHAPES),
    "beam_prune": (beam_peers, BEAMS),
}
CASES = [(task, shape) for task, (_, shapes) in TASKS.items() for shape in shapes]


def calls_of(task, shape):
    x = (np.random.default_rng(len(shape)).normal(size=shape) * 2).astype(np.float32)
    return TASKS[task][0](x)


# All peers of a case run one after the other, so that what disturbs the machine disturbs them alike.
PEERS = [(task, shape, peer) for task, shape in CASES for peer in calls_of(task, shape)]


@pytest.mark.parametrize(("task", "shape", "peer"), PEERS, ids=lambda value: str(value).replace(" ", ""))
def test_kernel(benchmark, task, shape, peer):
    torch.set_num_threads(1)
    benchmark.extra_info.update(task=task, shape=list(shape), peer=peer, instruction_set=kernels.instruction_set())
    call = calls_of(task, shape)[peer]
    call()
    small = np.prod(shape) < 1000  # too short for the clock, one by one
    benchmark.pedantic(call, rounds=200, iterations=20 if small else 1, warmup_rounds=3)


def test_empty_call(benchmark):
    """What calling any native function costs."""
    benchmark.extra_info.update(
        task="empty native call", shape=[], peer="ours", instruction_set=kernels.instruction_set()
    )
    benchmark.pedantic(kernels.instruction_set, rounds=200, iterations=100)
