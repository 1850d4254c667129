"""Code that the examples share: a training loop, torch's exporter, a small PNG grid."""

import io
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import torch
from torch import nn

torch.set_num_threads(1)  # networks as small as these are slower with two threads, and much slower on a busy machine


def fit(network: nn.Module, loss_of_batch: Callable[[], torch.Tensor], steps: int, learning_rate: float = 3e-3) -> None:
    """Adam over `steps` batches with a cosine learning rate and clipped gradients; prints the loss five times."""
    network.train()
    optimizer = torch.optim.Adam(network.parameters())
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1, step / 50) * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
        loss = loss_of_batch()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % (steps // 5) == 0:
            print(f"step {step + 1}  loss {loss.item():.3f}", flush=True)
    network.eval()


def export(
    network: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    free: Mapping[str, Mapping[int, str]] | None = None,
    *,
    batch_axis: Mapping[str, int] | None = None,
    dynamo: bool = True,
    **metadata: object,
) -> onnx.ModelProto:
    """Export a network with torch.onnx.export.

    Args:
        inputs: examples of the inputs of `network.forward`, by name and in its order.
        free: axes of an input, besides the batch, that may have any size: {input: {axis: name}}.
        batch_axis: where the batch is not the first axis of an input.
        dynamo: torch's newer exporter; False takes the older one, the only one that can export packed sequences.
        metadata: values for the file's metadata: vocab, bos, eos, pad, roles.
    """
    axes = {name: {(batch_axis or {}).get(name, 0): "batch", **(free or {}).get(name, {})} for name in inputs}
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        examples = tuple(inputs.values())
        names = {"input_names": list(inputs), "output_names": list(outputs)}
        network.eval()
        if dynamo:
            dims = {name: torch.export.Dim(name) for axis in axes.values() for name in axis.values()}
            shapes = tuple({i: dims[name] for i, name in axis.items()} for axis in axes.values())
            torch.onnx.export(network, examples, dynamic_shapes=shapes, dynamo=True, verbose=False, **names).save(file)
        else:
            torch.onnx.export(network, examples, file, dynamic_axes=axes, dynamo=False, **names)
    model = onnx.load_from_string(file.getvalue())
    for node in model.graph.node:  # the exporter's traces, which name files of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.helper.set_model_props(model, {f"decoding.{name}": json.dumps(value) for name, value in metadata.items()})
    return model


def save_grid(path: str, images: np.ndarray, columns: int, scale: int = 6) -> None:
    """Write images [N, H, W] in [0, 1], row by row, as one gray PNG."""
    from PIL import Image

    n, height, width = images.shape
    grid = np.ones((-(-n // columns) * (height + 1) + 1, columns * (width + 1) + 1))
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + 1) + 1, (i % columns) * (width + 1) + 1
        grid[top : top + height, left : left + width] = image
    pixels = np.kron((255 * grid.clip(0, 1)).astype(np.uint8), np.ones((scale, scale), np.uint8))
    Image.fromarray(pixels).save(path)


COLOURS = {"red": (1, 0.2, 0.2), "green": (0.2, 0.9, 0.2), "blue": (0.3, 0.4, 1), "yellow": (1, 0.9, 0.2), "white": (1, 1, 1)}  # fmt: skip
SHAPES = ("square", "circle", "triangle", "cross")


def draw_shape(picture: np.ndarray, shape: str, colour: str, size: int, top: int, left: int) -> None:
    """Draw into a picture [3, H, W], `size` pixels high and wide."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    inside = {
        "square": np.ones((size, size), bool),
        "circle": y**2 + x**2 <= size**2 / 4,
        "triangle": 2 * abs(x) <= y + size / 2,
        "cross": (abs(x) < size / 5) | (abs(y) < size / 5),
    }[shape]
    picture[:, top : top + size, left : left + size][:, inside] = np.array(COLOURS[colour])[:, None]


class Words:
    """A vocabulary of words that begin with a space, or of characters, with BOS and EOS before them.

    Attributes:
        vocab: the text of each id, for a model's metadata.
    """

    BOS, EOS = 0, 1

    def __init__(self, words: Sequence[str], space: str = " ") -> None:
        self.vocab = ["", "", *(space + word for word in words)]
        self._ids = {word: i for i, word in enumerate(words, 2)}
        self._split = str.split if space else list

    def tensor(self, sentences: Sequence[str]) -> torch.Tensor:
        """The sequences that a decoder learns: ids [N, longest + 2], BOS first and EOS last, padded with EOS."""
        rows = [torch.tensor([self.BOS, *(self._ids[word] for word in self._split(s)), self.EOS]) for s in sentences]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.EOS)

    def padded(self, sentences: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """The sources that an encoder reads: ids [N, longest] and lengths [N]."""
        rows = [torch.tensor([self._ids[word] for word in self._split(s)]) for s in sentences]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


def next_token_loss(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of logits [N, T - 1, V] for tokens [N, T] after the first; tokens after EOS do not count."""
    wanted = tokens[:, 1:]
    after = (wanted == Words.EOS).cumsum(1) > 1
    return nn.functional.cross_entropy(logits.transpose(1, 2), wanted.masked_fill(after, -100))
