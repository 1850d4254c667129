"""Networks of PyTorch as functions from ids to scores: what is checked before they are exported, and compared with afterwards."""

from __future__ import annotations

import inspect
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from decoding.errors import ModelError, OptionError, shown
from decoding.export.written import Ids

# Sizes that a spec gives a name: a size of its own each, so that none is taken for another. Files are compared at another
# size than the example's, which an exporter may have fixed.
EXAMPLE_ROWS, EXAMPLE_TOKENS, EXAMPLE_SIZE, COMPARED_SIZE = 2, 5, 6, 8

Sizes = Sequence[int | str]


def import_torch() -> Any:
    """Return torch.

    Raises:
        OptionError: it is not installed.
    """
    try:
        return import_module("torch")
    except ImportError as error:
        raise OptionError("decoding.export needs torch to export its networks; pip install 'rnn-decoding[export]'") from error  # fmt: skip


def checked_network(torch: Any, net: Any) -> tuple[Any, str]:
    """Return a network, or a method of one as a network, and its name, after a check that it is in evaluation mode.

    Raises:
        OptionError: it is not.
    """
    if inspect.ismethod(net) and isinstance(net.__self__, torch.nn.Module):
        net = _method(torch, net)
    if not isinstance(net, torch.nn.Module):
        raise OptionError(f"net={shown(net)}: expected a torch.nn.Module, or a method of one")
    name = str(getattr(net, "original_name", type(net).__name__))
    if training := [key or name for key, module in net.named_modules() if module.training]:
        raise OptionError(f"{name}: {training[0]} is in training mode, with dropout and the statistics of a batch; call net.eval() first")  # fmt: skip
    if (dtype := dtype_and_device(torch, net)["dtype"]) in (torch.float64, torch.bfloat16):
        raise OptionError(f"{name}: its weights are {str(dtype).removeprefix('torch.')}, for which onnxruntime has no layers; call net.float() first")  # fmt: skip
    return net, name


def _method(torch: Any, method: Any) -> Any:
    """Return a network whose forward() is a method of another, such as the one step of a decoder that has a loop too."""
    owner, function = method.__self__, method.__func__

    class Method(torch.nn.Module):  # type: ignore[misc]
        original_name = f"{type(owner).__name__}.{function.__name__}"

        def __init__(self) -> None:
            super().__init__()
            self.net, self.training = owner, owner.training

        def forward(self, *arguments: Any) -> Any:
            return function(self.net, *arguments)

    return Method()


def dtype_and_device(torch: Any, net: Any) -> dict[str, Any]:
    """Return dtype and device of a network's numbers."""
    first = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(1))
    return {"dtype": first.dtype, "device": first.device}


def as_tokens(torch: Any, net: Any, ids: Ids, one_hot: int | None) -> Any:
    """Return ids as the network takes them: int64, or one-hot in its dtype."""
    place = dtype_and_device(torch, net)
    tensor = torch.from_numpy(np.array(ids)).to(place["device"])
    return tensor if one_hot is None else torch.nn.functional.one_hot(tensor, one_hot).to(place["dtype"])


def random_examples(
    torch: Any, net: Any, sizes: Mapping[str, Sizes], rows: int, tokens: int, size: int = EXAMPLE_SIZE, seed: int = 0
) -> dict[str, Any]:
    """Return random tensors of these sizes, the same at every call; `size` is that of all names but "batch" and "time".

    Raises:
        OptionError: the sizes are none.
    """
    draw = torch.Generator().manual_seed(seed)
    known = {"batch": rows, "time": tokens}
    found = {}
    for name, dims in sizes.items():
        check_sizes(name, dims)
        shape = [d if isinstance(d, int) else known.get(d, size) for d in dims]
        found[name] = torch.randn(shape, generator=draw).to(**dtype_and_device(torch, net))
    return found


def check_sizes(name: str, dims: Any) -> None:
    if not isinstance(dims, list | tuple) or not all(isinstance(d, int | str) for d in dims) or "batch" not in dims:
        raise OptionError(f'{name}: sizes {shown(dims)}: expected a list of numbers and names, "batch" among them, such as ("batch", 96)')  # fmt: skip


def run_network(torch: Any, net: Any, name: str, arguments: Mapping[str, Any], advice: str = "") -> list[Any]:
    """Return the tensors that a network returns for its arguments, without their nesting.

    Raises:
        ModelError: it does not run; the message ends with the advice.
    """
    try:
        with torch.no_grad():
            return tensors_of(torch, net(*arguments.values()))
    except Exception as error:  # of the caller's own code
        shapes = ", ".join(
            f"{key} {str(a.dtype).removeprefix('torch.')} {list(a.shape)}" for key, a in arguments.items()
        )
        raise ModelError(
            f"{name}: forward() fails on {shapes}: {type(error).__name__}: {error}{f'; {advice}' if advice else ''}"
        ) from error


def tensors_of(torch: Any, values: Any) -> list[Any]:
    """Return the tensors in nested values, without their nesting."""
    return [value for value in torch.utils._pytree.tree_flatten(values)[0] if isinstance(value, torch.Tensor)]


@dataclass(frozen=True)
class AttentionOutput:
    """Where a step returns the weights over a source.

    Attributes:
        output: index among its outputs.
        batch, source: its axes; all others are of size 1.
    """

    output: int
    batch: int
    source: int

    def put_first(self, outputs: Sequence[Any]) -> tuple[Any, ...]:
        """Return the outputs, the weights as [batch, source]."""
        changed = list(outputs)
        changed[self.output] = changed[self.output].movedim((self.batch, self.source), (0, 1)).flatten(1)
        return tuple(changed)


def find_attention(
    outputs: Sequence[Any], states: Sequence[tuple[int, ...]], widths: Container[int]
) -> AttentionOutput | None:
    """Return where outputs hold the weights over a source; None where they are the scores and these states alone.

    Weights are at least 0 and sum to one along an axis of one of these widths.
    """
    for i, value in list(enumerate(outputs))[1:]:
        others = [tuple(other.shape) for k, other in enumerate(outputs) if k not in (0, i)]
        if others != list(states) or not value.is_floating_point() or (value < 0).any():
            continue
        for source, size in enumerate(value.shape):
            if size not in widths or not np.allclose(value.sum(source).cpu(), 1, atol=1e-3):
                continue
            left = [axis for axis, n in enumerate(value.shape) if axis != source and n != 1]
            if len(left) == 1:
                return AttentionOutput(i, left[0], source)
    return None


def named_sizes(sizes: Mapping[str, Sizes], values: Sequence[Any]) -> set[int]:
    """Return the sizes that these values have along named axes, the batch aside."""
    pairs = zip(sizes.values(), values, strict=True)
    return {
        value.shape[axis] for dims, value in pairs for axis, d in enumerate(dims) if isinstance(d, str) and d != "batch"
    }


def scores_of(torch: Any, net: Any, name: str, arguments: Mapping[str, Any], advice: str = "") -> Any:
    """Return the scores [batch, time, V] of a network of whole sequences, as an array.

    Where it gives those after the last token alone, [batch, V], each prefix is run.

    Args:
        arguments: the tokens, and others.

    Raises:
        ModelError: it does not run, or returns something else.
    """
    (key, tokens), *_ = arguments.items()
    first, *_ = [*run_network(torch, net, name, arguments, advice), None]
    batch, time = tokens.shape[:2]
    if first is not None and first.is_floating_point():
        if first.dim() == 3 and tuple(first.shape[:2]) == (batch, time):
            return first.double().cpu().numpy()
        if first.dim() == 2 and len(first) == batch:
            prefixes = [run_network(torch, net, name, {**arguments, key: tokens[:, : t + 1]})[0] for t in range(time)]
            return torch.stack(prefixes, 1).double().cpu().numpy()
    found = "nothing" if first is None else f"{str(first.dtype).removeprefix('torch.')} {list(first.shape)}"
    raise ModelError(
        f"{name}: the first output of forward() is {found}; expected scores [batch, time, vocabulary], here [{batch}, {time}, V], or those "
        "after the last token, [batch, V]. Return the logits first"
    )


def checked_scores(torch: Any, net: Any, name: str, arguments: Mapping[str, Any], advice: str) -> int:
    """Return the number of scores of a network, after a check that two runs give the same.

    Raises:
        ModelError: they do not, or it does not run; then the message ends with the advice.
    """
    one, two = (scores_of(torch, net, name, arguments, advice) for _ in range(2))
    check_equal(name, one, two)
    vocab: int = one.shape[-1]
    return vocab


def check_equal(name: str, one: Any, two: Any) -> None:
    """Check that two runs gave the same.

    Raises:
        ModelError: they did not.
    """
    if not same_scores(one, two):
        raise ModelError(
            f"{name}: two runs on the same tokens give different scores: it draws random numbers (F.dropout() without training=self.training?), "
            "or keeps something between calls, such as self.hidden; make forward() depend on its inputs alone"
        )


def same_scores(one: Any, two: Any) -> bool:
    """Return whether scores are the same up to rounding."""
    return np.allclose(one, two, rtol=1e-3, atol=1e-4, equal_nan=True)


def count_of_ids(torch: Any, net: Any, vocab: int) -> int:
    """Return below which number ids are: that of the smallest embedding, where it has fewer than there are scores."""
    tables = [m.num_embeddings for m in net.modules() if isinstance(m, torch.nn.Embedding)]
    return min([vocab, *(int(rows) for rows in tables if rows > 1)])
