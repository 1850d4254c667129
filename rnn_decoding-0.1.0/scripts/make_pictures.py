"""Make the pictures of docs/pictures.md again: `python scripts/make_pictures.py`."""

from __future__ import annotations

from pathlib import Path

import decoding
from decoding import plot

FOLDER = Path(__file__).parents[1] / "docs" / "images"


def main() -> None:
    """Draw all pictures with the shipped models."""
    FOLDER.mkdir(exist_ok=True)
    model = decoding.load("shakespeare")

    trace = plot.BeamTrace()
    beams = decoding.decode(
        model, "ROMEO:\nI", decoding.Beam(4), max_new_tokens=16, num_return_sequences=4, processors=[trace]
    )
    plot.beam_tree(beams, trace).savefig(FOLDER / "beams.png")

    sampled = decoding.decode(model, "ROMEO:\n", decoding.Sample(temperature=0.7), max_new_tokens=240, seed=7)
    plot.tokens(sampled[0]).savefig(FOLDER / "tokens.png")

    (first,) = decoding.decode(model, "ROMEO:\nI", max_new_tokens=1, logprobs=model.vocab_size)
    (ids,), (logprobs,) = first.top_logprobs
    tokens = [model.tokenizer.decode([i]) for i in ids]
    plot.temperature(logprobs, tokens=tokens, top=10).savefig(FOLDER / "temperature.png")

    source = "the 3rd of May, '26"
    (date,) = decoding.decode("dates", source, decoding.Beam(4), return_attention=True)
    plot.attention(date, source).savefig(FOLDER / "attention.png")


if __name__ == "__main__":
    main()
