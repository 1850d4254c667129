"""What the package knows of a step graph: the roles of inputs and outputs, the initial states, and how it is run."""
