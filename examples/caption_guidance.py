"""Captions with classifier-free guidance: the same decoder with its picture and without, and the difference scaled.

    python examples/caption_guidance.py

The networks and pictures are those of `caption_vector.py`, trained for a third of the time. One picture in ten is left out of
the training: its vector is zeros, so that the decoder learns which captions there are at all. Captions are drawn, not
searched. With a scale of 2 they follow the picture more closely; a scale of 4 is too much.
"""

import numpy as np
import torch
from caption_vector import HELD_OUT, TRAINED, WORDS, make_network, pictures_of
from common import export, fit, next_token_loss

import decoding


def main() -> dict[float, float]:
    """Train, draw captions with several scales; return the share that is right in every word, for each."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = make_network()

    def loss():
        pictures, captions = pictures_of(rng, TRAINED, 64)
        tokens = WORDS.tensor(captions)
        seen = torch.rand(len(pictures), 1) >= 0.1
        return next_token_loss(network["decoder"](tokens[:, :-1], network["cnn"](pictures) * seen), tokens)

    fit(network, loss, 500)
    inputs = {"tokens": torch.zeros(2, 3, dtype=torch.int64), "image": torch.zeros(2, 64)}
    file = export(
        network["decoder"], inputs, ["logits"], {"tokens": {1: "time"}}, vocab=WORDS.vocab, bos=WORDS.BOS, eos=WORDS.EOS
    )
    model = decoding.load(file)

    pictures, captions = pictures_of(rng, HELD_OUT, 300)
    with torch.no_grad():
        vectors = network["cnn"](pictures).numpy()
    right = {}
    for scale in (1, 2, 4):
        guided = decoding.Guidance(model, scale)
        options = {"context": {"image": vectors}, "max_new_tokens": 8, "seed": 1}
        out = decoding.decode(guided, [[WORDS.BOS]] * 300, decoding.Sample(), **options)
        texts = [text.strip() for text in out.text]
        right[scale] = np.mean([found == wanted for found, wanted in zip(texts, captions, strict=True)])
        print(f"scale {scale}: {right[scale]:.0%} of 300 captions are right, {len(set(texts))} are different; the first: {texts[0]}")  # fmt: skip
    return right


if __name__ == "__main__":
    right = main()
    assert right[2] > right[1] + 0.05
