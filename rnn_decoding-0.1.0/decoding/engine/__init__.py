"""Decodes requests: batches of rows that take steps together, the searches that choose tokens, and the loops around them."""
