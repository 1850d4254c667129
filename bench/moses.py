"""MOSES' character RNN: molecules from `decoding batch` beside a torch sampler written after the published one, in one run.

    python -m bench.moses --count 30000 --batch-size 64        # the table of docs/scaling.md

The network is that of Polykovskiy et al. 2020 (moses/char_rnn/model.py of molecularsets/moses): an embedding as wide as the vocabulary, a
3-layer LSTM, a linear layer, over the characters of its SMILES. Its weights are random here (of torch's initialization), so that an end
comes about once in 30 tokens; time does not depend on them. Like the published sampler, the one here takes a batch for 100 steps whether or
not its molecules have ended, and draws row by row. Both have one thread for each core.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from bench import networks

ROOT = Path(__file__).resolve().parents[1]
# The characters of MOSES' molecules, and the four special tokens of its vocabulary.
CHARACTERS = [*"#()-123456=BCFHNOS[]clnors", "<bos>", "<eos>", "<pad>", "<unk>"]
BOS, EOS = CHARACTERS.index("<bos>"), CHARACTERS.index("<eos>")
LONGEST = 100


def sample(net: networks.LanguageModel, count: int) -> list[list[int]]:
    """Return a batch of molecules as the published sampler draws them: 100 steps, a softmax and a draw for each row at each."""
    with torch.no_grad():
        tokens, states = torch.full((count, 1), BOS), net.zero_state(count)
        molecules: list[list[int]] = [[] for _ in range(count)]
        ended = [False] * count
        for _ in range(LONGEST):
            logits, *states = net(tokens, *states)
            drawn = [torch.multinomial(torch.softmax(row, dim=-1), 1) for row in logits]
            for number, token in enumerate(drawn):
                if not ended[number]:
                    ended[number] = token[0].item() == EOS
                    if not ended[number]:
                        molecules[number].append(int(token[0].item()))
            tokens = torch.tensor(drawn).unsqueeze(1)
    return molecules


def by_torch(net: networks.LanguageModel, count: int, batch: int) -> tuple[float, np.ndarray]:
    """Return seconds, and the length of each molecule."""
    start, lengths = time.perf_counter(), []
    while len(lengths) < count:
        lengths += [len(molecule) for molecule in sample(net, min(batch, count - len(lengths)))]
    return time.perf_counter() - start, np.array(lengths)


def by_batch(model: Path, output: Path, count: int, batch: int, *options: str) -> tuple[float, np.ndarray]:
    """Return the seconds that `decoding batch` reports, from when the model is loaded on, and the length of each molecule."""
    arguments = [
        "--num",
        count,
        "--max-new-tokens",
        LONGEST,
        "--temperature",
        1,
        "--batch-size",
        batch,
        "--seed",
        1,
        "--json",
    ]
    command = [sys.executable, "-m", "decoding", "batch", model, output, *arguments, *options]
    done = subprocess.run([str(part) for part in command], cwd=ROOT, check=True, capture_output=True)
    return json.loads(done.stdout)["seconds"], np.array(
        [len(json.loads(line)["tokens"]) for line in output.read_bytes().splitlines()]
    )


def main() -> None:
    """Sample with all three, in turn, and print what each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="molecules (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=600)
    args = parser.parse_args()
    metadata = {"decoding.vocab": CHARACTERS, "decoding.bos": BOS, "decoding.eos": EOS}
    net, proto = networks.make(args.hidden, 3, len(CHARACTERS), embedding=len(CHARACTERS), metadata=metadata)
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "moses.onnx"
        model.write_bytes(proto)
        found = {
            "torch, after the published sampler": by_torch(net, args.count, args.batch_size),
            "decoding batch, float32": by_batch(model, model.with_suffix(".a.jsonl"), args.count, args.batch_size),
            "decoding batch, int8": by_batch(
                model, model.with_suffix(".b.jsonl"), args.count, args.batch_size, "--quantize", "int8"
            ),
        }
    first = next(iter(found.values()))[0]
    print(
        f"{args.count:,} molecules, LSTM 3x{args.hidden}, batch {args.batch_size}, {torch.get_num_threads()} threads of torch"
    )
    print(f"{'':36} {'seconds':>9} {'a second':>10} {'speed':>7} {'mean length':>12}")
    for name, (seconds, lengths) in found.items():
        assert len(lengths) == args.count
        print(f"{name:36} {seconds:9.1f} {args.count / seconds:10.1f} {first / seconds:7.1f} {lengths.mean():12.1f}")


if __name__ == "__main__":
    main()
