"""The learning curve of a run, beside the figures that the paper gives.

python examples/seqgan/plot.py run.json learning_curve.png
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from decoding.plot.style import styled

PUBLISHED = {"random": 10.310, "maximum likelihood": 9.038, "SeqGAN": 8.736}


def draw_curves(run: dict, path: Path) -> None:
    """The oracle's NLL of samples while training, and beside the generator's NLL of the oracle's data, as a PNG."""
    with styled():
        figure, (pretraining, rounds, both) = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
        for number, seed in enumerate(run["seeds"].values()):
            nll = seed["nll"]
            start = [0, nll["maximum likelihood"], nll["oracle's data, by maximum likelihood"]]
            label = "each seed" if number == 0 else None
            pretraining.plot(*zip(*seed["epochs"], strict=True), "C2", linewidth=1, label=label)
            for name, colour in (("SeqGAN", "C0"), ("constant reward", "C1")):
                turns, samples, data = zip(start, *seed[name], strict=True)
                label = f"{name}, each seed" if number == 0 else None
                rounds.plot(turns, samples, colour, linewidth=1, label=label)
                both.plot(data, samples, colour, marker=".", linewidth=1, label=label)
        for ax, name in ((pretraining, "maximum likelihood"), (rounds, "SeqGAN"), (both, "SeqGAN")):
            ax.axhline(PUBLISHED[name], color="0.4", linestyle="--", label=f"{name}, published: {PUBLISHED[name]}")
            ax.set_ylabel("the oracle's NLL of samples")
            ax.grid(alpha=0.3)
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=8)  # below, where no curve is
        for ax, name, unit in (
            (pretraining, "maximum likelihood", "epoch"),
            (rounds, "SeqGAN", "adversarial round"),
        ):
            ax.set_title(f"{name}: {run['nll'][name]['mean']:.3f}")
            ax.set_xlabel(unit)
        both.set_title("better is to the left and below")
        both.set_xlabel("the generator's NLL of the oracle's data")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    draw_curves(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
