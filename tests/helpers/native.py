"""Models with a native step, and all that a call gives of them."""

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from decoding import decode, load
from tests.helpers import build


def native_models(vocabularies):
    """Return models of two layers by (vocabulary, cell, None or "int8")."""
    made = {}
    for vocab in vocabularies:
        for cell in ("LSTM", "GRU"):
            proto = build.recurrent(cell, hidden=21, layers=2, vocab=vocab, scale=0.6)
            for quantize in (None, "int8"):
                made[vocab, cell, quantize] = load(proto, executor="native", quantize=quantize)
    return made


def some_prompts(data, vocab, most):
    """Draw up to `most` prompts of unequal lengths."""
    count = data.draw(st.integers(1, most), label="prompts")
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=5), label="lengths of prompts")
    return [[(7 * i + k) % vocab for k in range(lengths[i % len(lengths)])] for i in range(count)]


def some_ends(data, vocab, stops):
    """Draw the options of when outputs end; `stops` are those that `stop` may be."""
    return {
        "max_new_tokens": data.draw(st.integers(1, 40)),
        "min_new_tokens": data.draw(st.sampled_from([0, 1])),
        "eos_token_id": data.draw(st.sampled_from([None, 2, list(range(0, vocab, 9))])),
        "stop": data.draw(st.sampled_from([[], *stops])),
    }


def outputs(model, prompts, strategy, **options):
    """Return what `decode()` gives, in a form that compares bit for bit."""
    found = decode(model, prompts, strategy, **options)
    return [
        (h.prompt_index, h.rank, h.ids.tolist(), h.logprob, h.token_logprobs.tobytes(), h.score, h.finish_reason)
        for h in found
    ]


def context_model(rng):
    """Embedding and a context side by side, a GRU, a linear layer; ids [batch, 1]."""

    def weight(name, *shape):
        return numpy_helper.from_array(rng.uniform(-1, 1, shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["embedded"]),
        helper.make_node("Unsqueeze", ["context", "one"], ["beside"]),
        helper.make_node("Concat", ["embedded", "beside"], ["both"], axis=2),
        helper.make_node("Transpose", ["both"], ["x"], perm=[1, 0, 2]),
        helper.make_node("GRU", ["x", "W", "R", "", "", "h0"], ["y", "h1"], hidden_size=6),
        helper.make_node("Squeeze", ["y", "one"], ["y3"]),
        helper.make_node("Transpose", ["y3"], ["y_rows"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["y_rows", "O"], ["logits"]),
    ]
    initializers = [weight("table", 9, 4), weight("W", 1, 18, 7), weight("R", 1, 18, 6), weight("O", 6, 9),
                    numpy_helper.from_array(np.array([1]), "one")]  # fmt: skip
    ports = [("tokens", TensorProto.INT64, ["batch", 1]), ("context", TensorProto.FLOAT, ["batch", 3]), ("h0", TensorProto.FLOAT, [1, "batch", 6])]  # fmt: skip
    outs = [("logits", TensorProto.FLOAT, ["batch", 1, 9]), ("h1", TensorProto.FLOAT, [1, "batch", 6])]
    graph = helper.make_graph(nodes, "context", [helper.make_tensor_value_info(*p) for p in ports], [helper.make_tensor_value_info(*p) for p in outs], initializers)  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
