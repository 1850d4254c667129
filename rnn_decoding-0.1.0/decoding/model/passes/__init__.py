"""The rewritings of a graph, one in each file."""
