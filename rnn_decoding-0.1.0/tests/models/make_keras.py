"""Make the fixtures that Keras 3 exports itself: `python tests/models/make_keras.py [part of a name ...]`.

Run it once for each backend:
    KERAS_BACKEND=tensorflow   needs keras 3, tensorflow 2.19, tf2onnx, onnx, onnxruntime
    KERAS_BACKEND=torch        needs keras 3, torch, onnxscript, onnx, onnxruntime
`make_keras.py stateful_full` writes the full-size classic stateful example, which is too large to keep here.
"""

import contextlib
import io
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import keras_models
import numpy as np


def main(*parts):
    backend = keras.config.backend()
    if backend == "tensorflow":
        import tensorflow as tf
        import tf2onnx

        versions = f"Keras {keras.__version__} on TensorFlow {tf.__version__} (tf2onnx {tf2onnx.__version__})"
        prefix = "keras_tf"
    else:
        import torch

        torch.set_num_threads(1)
        versions = f"Keras {keras.__version__} on torch {torch.__version__.split('+')[0]}"
        prefix = "keras_torch"

    def export(model, path, fixed):
        options = {}
        if fixed:  # Keras drops a fixed batch size unless it is told again
            options["input_signature"] = [keras.InputSpec(t.dtype, t.shape, name=t.name) for t in model.inputs]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            model.export(path, format="onnx", verbose=False, **options)

    def to_numpy(x):
        return np.asarray(keras.ops.convert_to_numpy(x))

    keras_models.write(keras, prefix, export, to_numpy, parts, script="make_keras.py", exporter=versions,
                       row=f"Keras 3 on {backend}", fork=backend == "torch")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
