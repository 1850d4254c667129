"""The parts of the fuzzers: what a case is, and the children that run the cases."""
