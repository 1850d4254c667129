"""Networks of PyTorch as functions from ids to scores: what is checked before they are exported, and compared with afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from decoding.errors import ModelError, OptionError, shown
from decoding.export.written import TOKENS, Ids

# Sizes that a spec gives a name: a size of its own each, so that none is taken for another.
EXAMPLE_ROWS, EXAMPLE_TOKENS, EXAMPLE_SIZE = 2, 5, 6

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


def checked_network(torch: Any, net: Any) -> str:
    """Return the name of a network, after a check that it is one, in evaluation mode.

    Raises:
        OptionError: it is not.
    """
    if not isinstance(net, torch.nn.Module):
        raise OptionError(f"net={shown(net)}: expected a torch.nn.Module")
    name = getattr(net, "original_name", type(net).__name__)
    if training := [key or name for key, module in net.named_modules() if module.training]:
        raise OptionError(f"{name}: {training[0]} is in training mode, with dropout and the statistics of a batch; call net.eval() first")  # fmt: skip
    if (dtype := dtype_and_device(torch, net)["dtype"]) in (torch.float64, torch.bfloat16):
        raise OptionError(f"{name}: its weights are {str(dtype).removeprefix('torch.')}, for which onnxruntime has no layers; call net.float() first")  # fmt: skip
    return str(name)


def dtype_and_device(torch: Any, net: Any) -> dict[str, Any]:
    """Return dtype and device of a network's numbers."""
    first = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(1))
    return {"dtype": first.dtype, "device": first.device}


def as_tokens(torch: Any, net: Any, ids: Ids, one_hot: int | None) -> Any:
    """Return ids as the network takes them: int64, or one-hot in its dtype."""
    place = dtype_and_device(torch, net)
    tensor = torch.from_numpy(np.array(ids)).to(place["device"])
    return tensor if one_hot is None else torch.nn.functional.one_hot(tensor, one_hot).to(place["dtype"])


def random_examples(torch: Any, net: Any, sizes: Mapping[str, Sizes], rows: int, tokens: int) -> list[Any]:
    """Return random tensors of these sizes, the same at every call."""
    draw = torch.Generator().manual_seed(0)
    known = {"batch": rows, "time": tokens}
    found = []
    for name, dims in sizes.items():
        if not isinstance(dims, list | tuple) or not all(isinstance(d, int | str) for d in dims) or "batch" not in dims:
            raise OptionError(f'{name}: sizes {shown(dims)}: expected a list of numbers and names, "batch" among them, such as ("batch", 96)')  # fmt: skip
        shape = [d if isinstance(d, int) else known.get(d, EXAMPLE_SIZE) for d in dims]
        found.append(torch.randn(shape, generator=draw).to(**dtype_and_device(torch, net)))
    return found


def random_sources(torch: Any, encoder: Any, sizes: Mapping[str, Sizes], ids: int, rows: int) -> list[Any]:
    """Return random sources: floats, or ids; of an input [batch] the lengths, which are whole."""
    found = []
    for dims, value in zip(sizes.values(), random_examples(torch, encoder, sizes, rows, TOKENS), strict=True):
        if list(dims) == ["batch"]:
            value = torch.full((rows,), EXAMPLE_SIZE, device=value.device)
        elif ids and len(dims) == 2:
            value = torch.randint(ids, value.shape, generator=torch.Generator().manual_seed(0)).to(value.device)
        found.append(value)
    return found


def run_network(torch: Any, net: Any, name: str, arguments: Sequence[Any]) -> list[Any]:
    """Return the tensors that a network returns, without their nesting.

    Raises:
        ModelError: it does not run.
    """
    try:
        with torch.no_grad():
            return [value for value in flattened(torch, net(*arguments)) if isinstance(value, torch.Tensor)]
    except Exception as error:  # of the caller's own code
        shapes = ", ".join(f"{str(a.dtype).removeprefix('torch.')} {list(a.shape)}" for a in arguments if hasattr(a, "shape"))  # fmt: skip
        raise ModelError(f"{name}: forward() fails on {shapes}: {type(error).__name__}: {error}") from error


def flattened(torch: Any, values: Any) -> list[Any]:
    flat: list[Any] = torch.utils._pytree.tree_flatten(values)[0]
    return flat


def scores_of(torch: Any, net: Any, name: str, arguments: Sequence[Any]) -> Any:
    """Return the scores [batch, time, V] of a network of whole sequences, as an array.

    Where it gives those after the last token alone, [batch, V], each prefix is run.

    Raises:
        ModelError: it does not run, or returns something else.
    """
    tokens, *others = arguments
    first, *_ = [*run_network(torch, net, name, arguments), None]
    batch, time = tokens.shape[:2]
    if first is not None and first.is_floating_point():
        if first.dim() == 3 and tuple(first.shape[:2]) == (batch, time):
            return first.double().cpu().numpy()
        if first.dim() == 2 and len(first) == batch:
            prefixes = [run_network(torch, net, name, (tokens[:, : t + 1], *others))[0] for t in range(time)]
            return torch.stack(prefixes, 1).double().cpu().numpy()
    found = "nothing" if first is None else f"{str(first.dtype).removeprefix('torch.')} {list(first.shape)}"
    raise ModelError(
        f"{name}: the first output of forward() is {found}; expected scores [batch, time, vocabulary], here [{batch}, {time}, V], or those "
        "after the last token, [batch, V]. Return the logits first"
    )


def checked_scores(torch: Any, net: Any, name: str, arguments: Sequence[Any]) -> int:
    """Return the number of scores of a network, after a check that two runs give the same.

    Raises:
        ModelError: they do not.
    """
    one, two = (scores_of(torch, net, name, arguments) for _ in range(2))
    check_equal(name, one, two)
    vocab: int = one.shape[-1]
    return vocab


def check_equal(name: str, one: Any, two: Any) -> None:
    if not np.allclose(one, two, rtol=1e-3, atol=1e-4, equal_nan=True):
        raise ModelError(
            f"{name}: two runs on the same tokens give other scores: it draws random numbers (dropout that stays on in evaluation mode?), "
            "or keeps something between calls; make forward() depend on its inputs alone"
        )


def count_of_ids(torch: Any, net: Any, vocab: int) -> int:
    """Return below which number ids are: that of the smallest embedding, where it has fewer than there are scores."""
    tables = [m.num_embeddings for m in net.modules() if isinstance(m, torch.nn.Embedding)]
    return min([vocab, *(int(rows) for rows in tables if rows > 1)])


def outputs_of(torch: Any, encoder: Any, name: str, sources: Sequence[Any], outputs: Mapping[str, Sizes]) -> dict[str, Any]:  # fmt: skip
    """Return the outputs of an encoder by name.

    Raises:
        ModelError: it does not run, or returns other tensors than `outputs` says.
    """
    found = run_network(torch, encoder, name, sources)
    ranks = [len(sizes) for sizes in outputs.values()]
    if [value.dim() for value in found] != ranks:
        shapes = [list(value.shape) for value in found]
        raise ModelError(f"{name}: the encoder returns tensors of shapes {shapes}; outputs= names {', '.join(f'{k} {list(v)}' for k, v in outputs.items())}")  # fmt: skip
    return dict(zip(outputs, found, strict=True))
