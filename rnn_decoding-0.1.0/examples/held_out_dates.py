"""How many held-out dates the shipped model `dates` reads without an error, by language.

python examples/held_out_dates.py
"""

import itertools

import dates_data

import decoding

COUNT = 2000


def main() -> None:
    """Exact match of beam search and of greedy search, each on the same strings."""
    model = decoding.load("dates")
    print(f"{'of 2,000 held-out strings':27}Beam(4)  Greedy()")
    for language in (None, "numbers", *dates_data.LANGUAGES):
        pairs = itertools.islice(dates_data.pairs(2, held_out=True, language=language), COUNT)
        written, meant = zip(*pairs, strict=True)
        right = [
            sum(a == b for a, b in zip(decoding.decode(model, written, strategy).text, meant, strict=True)) / COUNT
            for strategy in (decoding.Beam(4), decoding.Greedy())
        ]
        print(f"{language or 'all together':27}{right[0]:7.2%}  {right[1]:8.2%}", flush=True)


if __name__ == "__main__":
    main()
