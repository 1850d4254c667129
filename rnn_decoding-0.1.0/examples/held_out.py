"""Bits per character of the shipped language models on text that they were not trained on, as float and as int8.

python examples/held_out.py shakespeare tinyshakespeare.txt
python examples/held_out.py tang tang_quatrains.txt
"""

import argparse
import math
from pathlib import Path

import numpy as np
import train_shakespeare
import train_tang

import decoding

HELD_OUT = {
    "shakespeare": lambda text: [train_shakespeare.split(text)[1]],
    "tang": lambda text: [poem + train_tang.END for poem in train_tang.split(text)[2]],
}


def bits_per_character(model: decoding.Model, texts: list[str]) -> float:
    """Bits per character, over every character that comes after another one or after the model's BOS."""
    logprobs = np.concatenate(decoding.score(model, texts))
    return -float(np.nanmean(logprobs, dtype=np.float64)) / math.log(2)


def main() -> None:
    """Score the held-out part of a text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=HELD_OUT)
    parser.add_argument("text", type=Path)
    args = parser.parse_args()
    texts = HELD_OUT[args.model](args.text.read_text(encoding="utf-8"))
    for quantize in (None, "int8"):
        model = decoding.load(args.model, quantize=quantize)
        print(f"{args.model}, {quantize or 'float'}: {bits_per_character(model, texts):.4f} bits per character")


if __name__ == "__main__":
    main()
