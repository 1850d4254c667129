"""One style for all pictures of this repository: those of `decoding.plot`, of the benchmarks and of the examples."""

from contextlib import AbstractContextManager
from typing import Any

import matplotlib
from cycler import cycler

# Colours that people with any colour vision tell apart: Okabe and Ito 2008, "Color Universal Design".
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

_STYLE: Any = {
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}


def styled() -> AbstractContextManager[None]:
    """Draw in this style; matplotlib's global settings are as before afterwards."""
    return matplotlib.rc_context(_STYLE)
