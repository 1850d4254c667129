"""Sampling and search kernels on NumPy arrays: everything that happens between two network steps.

Logits are float32 arrays [B, V], one row per sequence. Other real dtypes are converted, and rows may lie any
distance apart in memory. -inf forbids a token. A row with a NaN, with +inf or with nothing but -inf raises a
DecodeError that names the row.
Log-probabilities are natural logarithms. Among equal values the lowest id wins.

A draw depends only on (seed, row, step) and that row's logits: not on the batch, the order or the threads.
The specification, in plain NumPy float64, is decoding.kernels.reference. Calls release the GIL and never abort the
process.

The fastest instruction set that the processor has is chosen on import; the environment variable DECODING_ISA
(portable, avx2, avx512, neon) forces one.
"""

from decoding.kernels._beam import beam_prune, gather_rows
from decoding.kernels._draw import draw, greedy, gumbel_top_k, multinomial, top_n
from decoding.kernels._library import instruction_set, instruction_sets
from decoding.kernels._processors import (
    allow_bits,
    allow_tokens,
    frequency_penalty,
    logit_bias,
    no_repeat_ngram,
    presence_penalty,
    repetition_penalty,
    suppress_tokens,
)
from decoding.kernels._random import normal, philox, uniform
from decoding.kernels._softmax import combine, log_softmax, softmax, temper
from decoding.kernels._top_k import token_logprobs, top_k, top_logprobs
from decoding.kernels.native.network import NativeNetwork
from decoding.kernels.native.run import NativeRun

__all__ = [
    "NativeNetwork",
    "NativeRun",
    "allow_bits",
    "allow_tokens",
    "beam_prune",
    "combine",
    "draw",
    "frequency_penalty",
    "gather_rows",
    "greedy",
    "gumbel_top_k",
    "instruction_set",
    "instruction_sets",
    "log_softmax",
    "logit_bias",
    "multinomial",
    "no_repeat_ngram",
    "normal",
    "philox",
    "presence_penalty",
    "repetition_penalty",
    "softmax",
    "suppress_tokens",
    "temper",
    "token_logprobs",
    "top_k",
    "top_logprobs",
    "top_n",
    "uniform",
]
