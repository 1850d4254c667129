"""A recurrent language model of transformers, step by step in onnxruntime: Mamba, compared with its own generate().

    python examples/recurrent_lm.py

A Mamba of 4 layers learns to count in words. One step of it is exported with its cache as states: for each layer, the
last inputs of the convolution, and the state of the recurrence. decode() must then give the tokens of generate(), by
greedy and by beam search. Any model of transformers whose cache is a DynamicCache is exported in the same way, by `Step`.
"""

import random
import time

import torch
from common import Words, export, fit, next_token_loss
from encoder_decoder import ONES, TENS, in_words
from torch import nn
from transformers import DynamicCache, MambaConfig, MambaForCausalLM

import decoding
from decoding import Beam, Greedy

WORDS = Words([*ONES, *TENS, "hundred", "and"])
PROMPT, NEW = 12, 64


class Step(nn.Module):
    """One token of each row and the tensors of the cache, to the logits and these tensors after it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, *states):
        """Ids [B, 1] and, for each layer, states [B, channels, taps] and [B, channels, size], to logits [B, 1, V] and states."""
        cache = DynamicCache(config=self.model.config)
        for layer, conv, recurrent in zip(cache.layers, states[::2], states[1::2], strict=True):
            layer.lazy_initialization(conv, recurrent)
            layer.conv_states[0], layer.recurrent_states[0] = conv.clone(), recurrent.clone()
            layer.has_previous_state[0] = True
        logits = self.model(input_ids, cache_params=cache).logits
        return logits, *(state for layer in cache.layers for state in (layer.conv_states[0], layer.recurrent_states[0]))


def exported(model):
    """The step as ONNX; its states are called conv_0, recurrent_0, conv_1, ..."""
    cache = model(torch.ones(2, 1, dtype=torch.int64)).cache_params
    kinds = [("conv", layer.conv_states[0]) if kind else ("recurrent", layer.recurrent_states[0])
             for layer in cache.layers for kind in (True, False)]  # fmt: skip
    states = {f"{kind}_{i // 2}": torch.zeros_like(state) for i, (kind, state) in enumerate(kinds)}
    inputs = {"input_ids": torch.ones(2, 1, dtype=torch.int64), **states}
    return export(Step(model), inputs, ["logits", *(f"new_{name}" for name in states)], dynamo=False, vocab=WORDS.vocab)


def counting(rng: random.Random, count: int) -> list[str]:
    """Texts that count up from a random number below 900."""
    starts = [rng.randrange(900) for _ in range(count)]
    return [" ".join(in_words(start + i) for i in range(8)) for start in starts]


def train(steps: int = 60) -> MambaForCausalLM:
    """A Mamba of 4 layers of 256, trained for a short time."""
    config = MambaConfig(vocab_size=len(WORDS.vocab), hidden_size=256, num_hidden_layers=4, state_size=16)
    model, rng = MambaForCausalLM(config), random.Random(0)

    def loss():
        tokens = WORDS.tensor(counting(rng, 8))[:, :25]
        return next_token_loss(model(tokens[:, :-1], use_cache=False).logits, tokens)

    fit(model, loss, steps)
    return model


def timed(call):
    """What a call returns, and the seconds that it took."""
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def main() -> float:
    """Train, export, decode prompts both ways; return the share of outputs that are equal."""
    torch.manual_seed(0)
    network = train()
    model = decoding.load(exported(network), threads=1)
    print(model.describe())

    prompts = WORDS.tensor(counting(random.Random(1), 32))[:, :PROMPT]
    equal = total = 0
    for name, strategy, rows in (("greedy", Greedy(), 1), ("greedy", Greedy(), 32), ("4 beams", Beam(4), 8)):
        options = {"num_beams": getattr(strategy, "num_beams", 1), "do_sample": False, "max_new_tokens": NEW}
        options |= {"attention_mask": torch.ones_like(prompts[:rows]), "eos_token_id": -1, "pad_token_id": Words.EOS}
        wanted, theirs = timed(lambda r=rows, o=options: network.generate(prompts[:r], **o))
        found, ours = timed(lambda r=rows, s=strategy: decoding.decode(
            model, prompts[:r].tolist(), s, max_new_tokens=NEW, eos_token_id=None))  # fmt: skip
        same = sum(a == b[PROMPT:] for a, b in zip(found.tokens, wanted.tolist(), strict=True))
        equal, total = equal + same, total + rows
        speeds = f"generate() {rows * NEW / theirs:.0f} tokens a second, decode() {rows * NEW / ours:.0f}"
        print(f"{name}, {rows} prompts: {same} outputs equal; {speeds}")
    print(f"for example: {found.text[0]}")
    return equal / total


if __name__ == "__main__":
    assert main() == 1
