"""Small models that take a latent, built with onnx.helper, and the same in float64 NumPy."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.helpers.build import model as make_model
from tests.models import numpy_cells

NODE, INFO, FLOAT, INT64 = helper.make_node, helper.make_tensor_value_info, TensorProto.FLOAT, TensorProto.INT64
V, H, Z = 9, 6, 3


class Noisy:
    """A tanh cell that sees a latent: once a sequence [batch, Z], or at every token [batch, time, Z] of an ONNX RNN."""

    def __init__(self, timed=False, name="z"):
        rng = np.random.default_rng(0)
        self.timed, self.name = timed, name
        self.table, self.wz = (rng.uniform(-1.5, 1.5, s).astype(np.float32) for s in ((V, H), (Z, H)))
        self.r, self.out = (rng.uniform(-1.5, 1.5, s).astype(np.float32) for s in ((H, H), (H, V)))

    def model(self, metadata=None):
        nodes = [NODE("Gather", ["table", "tokens"], ["e"]), NODE("MatMul", [self.name, "wz"], ["from_z"])]
        if not self.timed:
            nodes += [NODE("Unsqueeze", ["from_z", "one"], ["z1"]), NODE("Add", ["e", "z1"], ["xs"])]
        else:
            nodes += [NODE("Add", ["e", "from_z"], ["xs"])]
        nodes += [
            NODE("Transpose", ["xs"], ["x"], perm=[1, 0, 2]),
            NODE("RNN", ["x", "W", "R", "", "", "h0"], ["y", "h1"], hidden_size=H),
            NODE("Squeeze", ["y", "one"], ["ys"]),
            NODE("Transpose", ["ys"], ["back"], perm=[1, 0, 2]),
            NODE("MatMul", ["back", "out"], ["logits"]),
        ]
        values = {
            "table": self.table,
            "wz": self.wz,
            "W": np.eye(H, dtype=np.float32)[None],
            "R": self.r[None],
            "out": self.out,
            "one": np.array([1]),
        }
        z = [self.name, FLOAT, ["batch", "time", Z] if self.timed else ["batch", Z]]
        inputs = [INFO("tokens", INT64, ["batch", "time"]), INFO("h0", FLOAT, [1, "batch", H]), INFO(*z)]
        outputs = [INFO("logits", FLOAT, ["batch", "time", V]), INFO("h1", FLOAT, [1, "batch", H])]
        tensors = [numpy_helper.from_array(v, n) for n, v in values.items()]
        return make_model(helper.make_graph(nodes, "noisy", inputs, outputs, tensors), metadata)

    def logprobs(self, tokens, z):
        """Log-probabilities [T, V] in float64; z [Z] or, one for each token, [T, Z]."""
        h, rows = np.zeros(H), []
        for t, token in enumerate(tokens):
            h = np.tanh(
                self.table[token] + (z if z.ndim == 1 else z[t]).astype(float) @ self.wz + self.r.astype(float) @ h
            )
            x = h @ self.out.astype(float)
            rows.append(x - x.max() - np.log(np.exp(x - x.max()).sum()))
        return np.array(rows)


class Started:
    """The decoder of a sentence VAE (Bowman et al. 2016): hidden states that start from z, which each step may see too."""

    def __init__(self, cell, each_step=False, tanh=True):
        rng = np.random.default_rng(1)
        self.cell, self.each_step, self.tanh = cell, each_step, tanh
        gates, width = {"GRU": 3, "LSTM": 4}[cell], H + Z * each_step
        shapes = {"table": (V, H), "lh": (Z, H), "lc": (Z, H), "W": (1, gates * H, width), "R": (1, gates * H, H)}
        shapes |= {"B": (1, 2 * gates * H), "out": (H, V)}
        self.values = {n: rng.uniform(-1.5, 1.5, s).astype(np.float32) for n, s in shapes.items()}
        self.states = ["h", "c"][: gates - 2]

    def model(self, spread=None, sizes=("batch", "time")):
        """Args: spread: an operator and its constant that repeat z for each step of the example; default the tokens' own number."""
        nodes = [NODE("Gather", ["table", "tokens"], ["e"])]
        for s in self.states:
            nodes += [NODE("MatMul", ["z", f"l{s}"], [f"{s}_flat"])]
            nodes += [NODE("Tanh" if self.tanh else "Identity", [f"{s}_flat"], [f"{s}_on"])]
            nodes += [NODE("Unsqueeze", [f"{s}_on", "zero"], [f"{s}0"])]
        if self.each_step:
            nodes += [
                NODE("Unsqueeze", ["z", "one"], ["z1"]),
                NODE("Shape", ["tokens"], ["shape"]),
                NODE("Concat", ["shape", "one"], ["wide"], axis=0),
                NODE("Expand", ["z1", "wide"], ["zs"]),
            ]
        if spread is not None:
            nodes[-3:] = [NODE(spread[0], ["z1", "spread"], ["zs"])]
        nodes += [
            NODE("Concat", ["e", "zs"], ["xs"], axis=2) if self.each_step else NODE("Identity", ["e"], ["xs"]),
            NODE("Transpose", ["xs"], ["x"], perm=[1, 0, 2]),
            NODE(self.cell, ["x", "W", "R", "B", "", *(f"{s}0" for s in self.states)], ["y"], hidden_size=H),
            NODE("Squeeze", ["y", "one"], ["ys"]),
            NODE("Transpose", ["ys"], ["back"], perm=[1, 0, 2]),
            NODE("MatMul", ["back", "out"], ["logits"]),
        ]
        inputs = [INFO("tokens", INT64, list(sizes)), INFO("z", FLOAT, [sizes[0], Z])]
        outputs = [INFO("logits", FLOAT, [*sizes, V])]
        values = {n: v for n, v in self.values.items() if n != "lc" or "c" in self.states}
        values |= {} if spread is None else {"spread": np.array(spread[1])}
        tensors = [
            numpy_helper.from_array(v, n) for n, v in {**values, "zero": np.array([0]), "one": np.array([1])}.items()
        ]
        return make_model(helper.make_graph(nodes, "sentence_vae", inputs, outputs, tensors))

    def logprobs(self, tokens, z):
        """Log-probabilities [T, V] in float64, of the whole sequence."""
        v = {n: a.astype(float) for n, a in self.values.items()}
        x = v["table"][tokens]
        if self.each_step:
            x = np.concatenate([x, np.tile(z, (len(tokens), 1))], axis=1)
        first = [np.tanh(z @ v[f"l{s}"]) if self.tanh else z @ v[f"l{s}"] for s in self.states]
        run = numpy_cells.gru if self.cell == "GRU" else numpy_cells.lstm
        ys = run(x[:, None], v["W"][0], v["R"][0], v["B"][0], *(f[None] for f in first))[0]
        scores = ys[:, 0] @ v["out"]
        return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
