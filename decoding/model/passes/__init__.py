"""Rewritings of a graph, one a file. Each takes a graph that onnxruntime can run and leaves one that it can run."""
