"""A small encoder-decoder with additive attention, built with onnx.helper, and the same in float64 NumPy."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.helpers.build import model

NODE, INFO = helper.make_node, helper.make_tensor_value_info
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


class AdditiveModel:
    """Bidirectional ONNX RNN over source ids with sequence_lens; a tanh cell that attends to its outputs.

    Args:
        seed: of the weights.
        masked: the decoder takes `source_mask`; else nothing tells it where a source ends.
    """

    def __init__(self, seed=0, *, masked=True, source_vocab=12, vocab=10, hidden=5, metadata=None):
        rng = np.random.default_rng(seed)
        self.sizes = source_vocab, vocab, hidden
        self.masked, self.metadata = masked, metadata

        def weight(*shape):
            return (rng.uniform(-1, 1, shape) * 1.5).astype(np.float32)

        h = hidden
        self.encoder_weights = {
            "table": weight(source_vocab, h), "W": weight(2, h, h), "R": weight(2, h, h), "B": weight(2, 2 * h),
            "bridge": weight(2 * h, h),
        }  # fmt: skip
        self.decoder_weights = {
            "table": weight(vocab, h), "query": weight(h, h), "key": weight(2 * h, h), "energy": weight(h, 1),
            "cell_x": weight(3 * h, h), "cell_h": weight(h, h), "out": weight(3 * h, vocab),
        }  # fmt: skip

    def encoder(self):
        """Ids [batch, source] and lengths [batch] in; memory [batch, source, 2H] and hidden [batch, H] out."""
        h = self.sizes[2]
        constants = {"merge": np.array([0, 0, 2 * h]), "flat": np.array([-1, 2 * h])}
        nodes = [
            NODE("Gather", ["table", "source"], ["embedded"]),
            NODE("Transpose", ["embedded"], ["x"], perm=[1, 0, 2]),
            NODE("Cast", ["lengths"], ["ends"], to=TensorProto.INT32),
            NODE("RNN", ["x", "W", "R", "B", "ends"], ["y", "last"], hidden_size=h, direction="bidirectional"),
            NODE("Transpose", ["y"], ["t"], perm=[2, 0, 1, 3]),
            NODE("Reshape", ["t", "merge"], ["memory"]),
            NODE("Transpose", ["last"], ["turned"], perm=[1, 0, 2]),
            NODE("Reshape", ["turned", "flat"], ["both"]),
            NODE("MatMul", ["both", "bridge"], ["product"]),
            NODE("Tanh", ["product"], ["hidden"]),
        ]
        inputs = [INFO("source", INT64, ["batch", "source"]), INFO("lengths", INT64, ["batch"])]
        outputs = [INFO("memory", FLOAT, ["batch", "source", 2 * h]), INFO("hidden", FLOAT, ["batch", h])]
        return self._model(nodes, inputs, outputs, {**self.encoder_weights, **constants})

    def decoder(self):
        """One step: token [batch], hidden, memory and its mask in; logits, next hidden and attention out."""
        h, nodes, constants = self.sizes[2], [], {"one": np.array([1]), "last": np.array([-1]), "two": np.array([2])}
        nodes += [
            NODE("Gather", ["table", "token"], ["x"]),
            NODE("MatMul", ["hidden", "query"], ["q"]),
            NODE("Unsqueeze", ["q", "one"], ["q1"]),
            NODE("MatMul", ["memory", "key"], ["k"]),
            NODE("Add", ["q1", "k"], ["sum"]),
            NODE("Tanh", ["sum"], ["tanh"]),
            NODE("MatMul", ["tanh", "energy"], ["scores3"]),
            NODE("Squeeze", ["scores3", "two"], ["scores"]),
        ]
        inputs = [
            INFO("token", INT64, ["batch"]),
            INFO("hidden", FLOAT, ["batch", h]),
            INFO("memory", FLOAT, ["batch", "source", 2 * h]),
        ]
        if self.masked:
            inputs.append(INFO("source_mask", TensorProto.BOOL, ["batch", "source"]))
            constants["forbidden"] = np.array(-1e9, np.float32)
            nodes.append(NODE("Where", ["source_mask", "scores", "forbidden"], ["kept"]))
        nodes += [
            NODE("Softmax", ["kept" if self.masked else "scores"], ["attention"], axis=-1),
            NODE("Unsqueeze", ["attention", "one"], ["row"]),
            NODE("MatMul", ["row", "memory"], ["seen3"]),
            NODE("Squeeze", ["seen3", "one"], ["seen"]),
            NODE("Concat", ["x", "seen"], ["xs"], axis=1),
            NODE("MatMul", ["xs", "cell_x"], ["from_x"]),
            NODE("MatMul", ["hidden", "cell_h"], ["from_h"]),
            NODE("Add", ["from_x", "from_h"], ["gate"]),
            NODE("Tanh", ["gate"], ["hidden_out"]),
            NODE("Concat", ["hidden_out", "seen"], ["features"], axis=1),
            NODE("MatMul", ["features", "out"], ["logits"]),
        ]
        outputs = [
            INFO("logits", FLOAT, ["batch", self.sizes[1]]), INFO("hidden_out", FLOAT, ["batch", h]),
            INFO("attention", FLOAT, ["batch", "source"]),
        ]  # fmt: skip
        return self._model(nodes, inputs, outputs, {**self.decoder_weights, **constants}, self.metadata)

    @staticmethod
    def _model(nodes, inputs, outputs, values, metadata=None):
        initializers = [numpy_helper.from_array(value, name) for name, value in values.items()]
        return model(helper.make_graph(nodes, "seq2seq", inputs, outputs, initializers), metadata)

    # -- the same in NumPy, one source at a time ------------------------------------------------------------

    def encode(self, source):
        """Memory [source, 2H] and hidden [H]."""
        w = {name: value.astype(float) for name, value in self.encoder_weights.items()}
        x, h = w["table"][source], self.sizes[2]
        ways = []
        for way, order in ((0, range(len(x))), (1, reversed(range(len(x))))):
            state, states = np.zeros(h), np.zeros((len(x), h))
            for t in order:
                state = np.tanh(w["W"][way] @ x[t] + w["R"][way] @ state + w["B"][way].reshape(2, h).sum(0))
                states[t] = state
            ways.append((states, state))
        last = np.concatenate([ways[0][1], ways[1][1]])
        return np.concatenate([ways[0][0], ways[1][0]], axis=1), np.tanh(last @ w["bridge"])

    def steps(self, source, tokens):
        """Log-probabilities [T, V] and attention [T, source] of each step that feeds one of `tokens`."""
        w = {name: value.astype(float) for name, value in self.decoder_weights.items()}
        memory, hidden = self.encode(source)
        rows, weights = [], []
        for token in tokens:
            scores = (np.tanh(hidden @ w["query"] + memory @ w["key"]) @ w["energy"])[:, 0]
            attention = np.exp(scores - scores.max())
            attention /= attention.sum()
            seen = attention @ memory
            hidden = np.tanh(np.concatenate([w["table"][token], seen]) @ w["cell_x"] + hidden @ w["cell_h"])
            logits = np.concatenate([hidden, seen]) @ w["out"]
            rows.append(logits - logits.max() - np.log(np.exp(logits - logits.max()).sum()))
            weights.append(attention)
        return np.array(rows), np.array(weights)
