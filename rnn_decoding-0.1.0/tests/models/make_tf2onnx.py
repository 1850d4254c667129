"""Make the fixtures of tf2onnx: `python tests/models/make_tf2onnx.py [part of a name ...]`.

Needs keras 2.15, tensorflow 2.15, tf2onnx, onnx 1.17 and onnxruntime. Beside the Keras models it freezes
TensorFlow 1 graphs (dynamic_rnn over cells, with peepholes among them), which tf2onnx writes as Scan.
"""

import contextlib
import io
import logging
import os
import sys
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import keras_models
import numpy as np
import tensorflow as tf
import tf2onnx
from fixture import add
from keras_models import E, H, V

VERSIONS = f"tf2onnx {tf2onnx.__version__}, TensorFlow {tf.__version__}, Keras {keras.__version__}"


def export(model, path, fixed):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        signature = [tf.TensorSpec(t.shape, t.dtype, t.name.split(":")[0]) for t in model.inputs]
        proto, _ = tf2onnx.convert.from_keras(model, signature, opset=15)
    return proto


def tf1(name, cell_of, cell, states=False):
    """Freeze a TensorFlow 1 graph: embedding, dynamic_rnn over a cell, output projection."""
    v1 = tf.compat.v1
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    graph = tf.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        tokens = v1.placeholder(tf.int32, [None, None], "tokens")
        table = v1.get_variable("embedding", [V, E])
        x = tf.nn.embedding_lookup(table, tokens)
        y, _ = v1.nn.dynamic_rnn(cell_of(v1.nn.rnn_cell), x, dtype=tf.float32)
        w, b = v1.get_variable("w", [H, V]), v1.get_variable("b", [V])
        logits = tf.identity(tf.tensordot(y, w, 1) + b, "logits")
        for variable in v1.global_variables():
            variable.load(draw.uniform(-1, 1, variable.shape).astype(np.float32), session)
        frozen = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ["logits"])

        def truth(ids):
            return session.run(logits, {tokens: ids[None]})[0]

        with contextlib.redirect_stderr(io.StringIO()):
            proto, _ = tf2onnx.convert.from_graph_def(
                frozen, input_names=["tokens:0"], output_names=["logits:0"], opset=15
            )
        add(name, proto, truth, script="make_tf2onnx.py", exporter=VERSIONS, cell=cell,
            row="TensorFlow 1 cells",
            vocab=V, token=(0, "BT"), out=(0, "BTV"))  # fmt: skip


def main(*parts):
    logging.disable(logging.WARNING)
    keras_models.write(keras, "tf2onnx", export, np.asarray, parts, script="make_tf2onnx.py",
                       exporter=VERSIONS,
                       row="tf2onnx, Keras 2")  # fmt: skip
    tf.compat.v1.disable_control_flow_v2()
    cells = {
        "tf1_peephole": (lambda c: c.LSTMCell(H, use_peepholes=True), "LSTM with peepholes"),
        "tf1_peephole_clip": (
            lambda c: c.LSTMCell(H, use_peepholes=True, cell_clip=0.5),
            "LSTM with peepholes and clip",
        ),
        "tf1_lstm_proj": (lambda c: c.LSTMCell(H, num_proj=H), "LSTM with projection"),
        "tf1_basic_lstm": (lambda c: c.BasicLSTMCell(H), "LSTM, forget bias 1"),
        "tf1_gru": (lambda c: c.GRUCell(H), "GRU"),
        "tf1_rnn": (lambda c: c.BasicRNNCell(H), "RNN"),
        "tf1_multi": (
            lambda c: c.MultiRNNCell([c.LSTMCell(H), c.GRUCell(H)]),
            "LSTM and GRU in one MultiRNNCell",
        ),
    }
    for name, (cell_of, cell) in cells.items():
        if not parts or any(part in name for part in parts):
            try:
                tf1(name, cell_of, cell)
            except (Exception, SystemExit) as error:
                print(f"{name:36} FAILED {type(error).__name__}: {str(error)[-400:]!r}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
