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
    """NLL under the oracle over the epochs of maximum likelihood and the rounds of SeqGAN, as a PNG."""
    with styled():
        figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
        start = run["nll"]["maximum likelihood"]
        for ax, curve, name, unit in (
            (axes[0], run["epochs"], "maximum likelihood", "epoch"),
            (axes[1], [(0, start), *run["rounds"]], "SeqGAN", "adversarial round"),
        ):
            turns, values = zip(*curve, strict=True)
            ax.plot(turns, values, label="ours")
            ax.axhline(PUBLISHED[name], color="0.4", linestyle="--", label=f"{name}, published: {PUBLISHED[name]}")
            ax.set_xlabel(unit)
            ax.set_title(f"{name}: {run['nll'][name]:.3f}")
            ax.grid(alpha=0.3)
        axes[1].axhline(start, linestyle=":", label=f"our maximum likelihood: {start:.3f}")
        axes[0].set_ylabel("NLL under the oracle (nats a token)")
        for ax in axes:  # below, where no curve is
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    draw_curves(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
