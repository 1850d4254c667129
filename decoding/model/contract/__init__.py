"""What decoding knows of a step graph: the role of each input and output, its initial states, and the program that runs it."""
