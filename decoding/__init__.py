"""Decode any recurrent ONNX model."""
