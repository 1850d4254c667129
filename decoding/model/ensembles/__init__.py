"""Several models that choose each token together: what they must have in common, and what the engine knows of them."""
