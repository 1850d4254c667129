"""Models: from an exported ONNX file to a step graph with known roles."""
