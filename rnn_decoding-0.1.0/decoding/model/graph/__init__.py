"""An ONNX graph that the rest of the package searches and rewrites by names and NumPy arrays. Only this folder imports onnx."""
