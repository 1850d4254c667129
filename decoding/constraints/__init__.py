"""Constraints: outputs that obey a regular expression, a JSON schema, a grammar, or are one of several texts.

They are given among the `processors=`, and computed by the optional package llguidance. A search keeps `Matchers` for each
of its hypotheses, and `Masks` computes which tokens they allow while the network runs.
"""

from decoding.constraints.bound import BoundConstraint
from decoding.constraints.grammars import Choices, Constraint, Grammar, JSONSchema, Regex
from decoding.constraints.matching import Masks, Matchers, begun, consume, must_end, must_end_with, why_stuck
from decoding.constraints.spelling import spelling_of

__all__ = [
    "BoundConstraint",
    "Choices",
    "Constraint",
    "Grammar",
    "JSONSchema",
    "Masks",
    "Matchers",
    "Regex",
    "begun",
    "consume",
    "must_end",
    "must_end_with",
    "spelling_of",
    "why_stuck",
]
