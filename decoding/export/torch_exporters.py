"""Torch's two exporters: which of them to try, how they are called, and the modules that they are given."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from decoding.errors import ModelError
from decoding.export.torch_networks import AttentionOutput, Sizes, tensors_of
from decoding.model.model import Model

# Files of protobuf end at 2 GiB: larger weights go beside it.
_LARGEST = 1_500_000_000


@dataclass(frozen=True)
class Ports:
    """Names of inputs and outputs, and the sizes of the inputs: a name is a size that may be any."""

    inputs: Sequence[str]
    outputs: Sequence[str]
    sizes: Sequence[Sizes]

    @property
    def dynamic(self) -> list[dict[int, str]]:
        return [{axis: d for axis, d in enumerate(sizes) if isinstance(d, str)} for sizes in self.sizes]


def attempts_of(
    torch: Any, net: Any, dynamo: bool | None, attempt: Callable[[bool], Model], *others: Any
) -> dict[str, Callable[[], Model]]:
    """Return the exporters to try, in order, by name."""
    names = {True: "torch's newer exporter (dynamo=True)", False: "torch's older exporter (dynamo=False)"}
    modules = [module for one in (net, *others) for module in one.modules()]
    scripted = any(isinstance(module, torch.jit.ScriptModule) for module in modules)
    # The newer exporter unrolls nn.RNN to the example's number of tokens, and takes no scripted network.
    old_only = scripted or any(isinstance(module, torch.nn.RNN) for module in modules)
    order = [dynamo] if dynamo is not None else [False] if old_only else [True, False]
    return {names[one]: partial(attempt, one) for one in order}


def write(torch: Any, module: Any, arguments: Sequence[Any], ports: Ports, file: Path, dynamo: bool) -> None:
    """Export a module to a file.

    Raises:
        ModelError: the exporter fails; the message is the first line of its own.
    """
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    options: dict[str, Any] = {"input_names": list(ports.inputs), "output_names": list(ports.outputs)}
    if dynamo:
        dims = {name: torch.export.Dim(name) for axes in ports.dynamic for name in axes.values()}
        shapes = [{axis: dims[name] for axis, name in axes.items()} for axes in ports.dynamic]
        nested = (shapes[0], tuple(shapes[1:])) if _takes_many(module) and shapes[1:] else tuple(shapes)
        options |= {"dynamic_shapes": nested, "dynamo": True, "verbose": False, "external_data": size > _LARGEST}
    else:
        options |= {"dynamic_axes": dict(zip(ports.inputs, ports.dynamic, strict=True)), "dynamo": False}
    try:
        with torch.no_grad(), _quiet():
            # Torch leaves marks on the tensors that it has seen.
            torch.onnx.export(module, tuple(a.clone() for a in arguments), str(file), **options)
    except Exception as error:  # the exporters raise errors of many kinds
        cause = error.__cause__ or error  # the newer exporter wraps the reason in advice of its own
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [""]
        raise ModelError(f"it fails: {type(cause).__name__}: {lines[0][:300]}") from error


def _takes_many(module: Any) -> bool:
    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    return inspect.Parameter.VAR_POSITIONAL in kinds


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporters print and warn of from the caller: what matters is checked afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # fmt: skip
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def first_output(torch: Any, net: Any) -> Any:
    return _wrapped(torch, net, lambda flat: flat[0])


def all_outputs(torch: Any, net: Any) -> Any:
    return _wrapped(torch, net, tuple)


def _wrapped(torch: Any, net: Any, chosen: Callable[[list[Any]], Any]) -> Any:
    """Return a module that gives some of a network's outputs, without their nesting.

    A scripted network stays as it is: the exporter takes none inside of another module.
    """
    if isinstance(net, torch.jit.ScriptModule):
        return net

    class Wrapped(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, first: Any, *others: Any) -> Any:
            return chosen(tensors_of(torch, self.net(first, *others)))

    return Wrapped().eval()


def flat_states(torch: Any, net: Any, states: int, nested: bool, attention: AttentionOutput | None = None) -> Any:
    """Return a module whose states are arguments and outputs of their own, and its attention [batch, source].

    A scripted network stays as it is.
    """
    if isinstance(net, torch.jit.ScriptModule):
        return net

    class FlatStates(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, tokens: Any, *others: Any) -> Any:
            own = (tuple(others[:states]),) if nested else others[:states]
            found = tensors_of(torch, self.net(tokens, *own, *others[states:]))
            return tuple(found) if attention is None else attention.put_first(found)

    return FlatStates().eval()
