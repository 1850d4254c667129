"""Pictures of decoded outputs: attention, how the beams grew, temperatures, the probability of each token.

Needs matplotlib: ``pip install 'rnn-decoding[plot]'``. Every function returns a `matplotlib.figure.Figure`, which
``figure.savefig("picture.png")`` writes and a notebook shows after ``%matplotlib inline``; pyplot is not used and no
global setting of matplotlib is changed. Where there is no vocabulary, tokens are shown as ids; "␣" is a space, "↵" a
line's end.
"""

from decoding.errors import OptionError

try:
    import matplotlib.figure  # noqa: F401 - imported here, so that one place says that it is missing
except ModuleNotFoundError as error:
    raise OptionError("decoding.plot needs the package matplotlib; pip install 'rnn-decoding[plot]'") from error

from decoding.engine.beam_trace import BeamTrace
from decoding.plot.attention import attention
from decoding.plot.beams import beam_tree
from decoding.plot.temperature import temperature
from decoding.plot.tokens import tokens

__all__ = ["BeamTrace", "attention", "beam_tree", "temperature", "tokens"]
