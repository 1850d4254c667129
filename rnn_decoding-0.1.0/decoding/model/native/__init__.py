"""Step graphs that the kernels of csrc/ run without onnxruntime."""
