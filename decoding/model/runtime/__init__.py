"""Running graphs by onnxruntime: sessions, bound buffers and CUDA. Only this folder imports onnxruntime."""
