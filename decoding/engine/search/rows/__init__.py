"""The rows of a sampling search, without Python at each step: how they choose, what edits their logits, what they have written."""
