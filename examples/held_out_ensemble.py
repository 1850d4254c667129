"""Bits per character of character models alone and together, on text that none of them was trained on.

    python examples/train_shakespeare.py tinyshakespeare.txt one.onnx --minutes 25 --threads 1 --seed 1
    python examples/train_shakespeare.py tinyshakespeare.txt two.onnx --minutes 25 --threads 1 --seed 2
    python examples/held_out_ensemble.py tinyshakespeare.txt one.onnx two.onnx

The models differ in the seed of their training alone. Their errors differ too, so that their mean is better than each.
"""

import argparse
from pathlib import Path

from held_out import bits_per_character
from train_shakespeare import split

import decoding


def main() -> None:
    """Score the held-out part of the text by each model, and by both kinds of ensembles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("models", nargs="+")
    args = parser.parse_args()
    held_out = split(args.text.read_text(encoding="utf-8"))[1]
    models = [decoding.load(path) for path in args.models]
    for model in models:
        print(f"{model.name}: {bits_per_character(model, [held_out]):.4f} bits per character")
    for combine, mean in (("logprobs", "geometric"), ("probs", "arithmetic")):
        ensemble = decoding.Ensemble(models, combine=combine)
        print(f"their {mean} mean: {bits_per_character(ensemble, [held_out]):.4f} bits per character")
    print(decoding.decode(ensemble, "ROMEO:\n", decoding.Sample(0.8), max_new_tokens=200, seed=1)[0].text)


if __name__ == "__main__":
    main()
