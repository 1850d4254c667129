"""Export networks of PyTorch and Keras so that `load()` takes them: one call writes, loads and compares.

Each function writes an ONNX file, loads it, and compares what it decodes with the network itself on random tokens; the file
appears at its path only if all of that went well. PyTorch needs ``pip install 'rnn-decoding[export]'``, Keras its own packages.
"""

from decoding.export.keras_models import keras_model
from decoding.export.torch_models import torch_model, torch_step
from decoding.export.torch_pairs import torch_pair

__all__ = ["keras_model", "torch_model", "torch_pair", "torch_step"]
