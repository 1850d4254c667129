"""Runs graphs with onnxruntime: sessions, bound buffers and CUDA. Only this folder imports onnxruntime."""
