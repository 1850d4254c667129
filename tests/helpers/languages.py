"""Models over a vocabulary so small that all texts of a language can be written down."""

import itertools
import re

from decoding import load
from tests.helpers import build

SMALL = ["a", "b", "c", "ab", "<e>"]  # two tokenizations of "ab"; the last is EOS


def small(seed, **options):
    return load(build.recurrent("GRU", vocab=len(SMALL), hidden=4, seed=seed, scale=2.0), tokenizer=SMALL, **options)


def outputs(language, longest):
    """Every sequence of tokens whose text the expression matches, without EOS."""
    for length in range(longest + 1):
        for ids in itertools.product(range(4), repeat=length):
            if re.fullmatch(language, "".join(SMALL[i] for i in ids)):
                yield ids
