"""Torch's two exporters: which of them to try, how they are called, and the modules that they are given."""

from __future__ import annotations

import contextlib
import inspect
import io
import linecache
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from decoding.errors import ModelError, shown
from decoding.export.torch_networks import AttentionOutput, Sizes, tensors_of
from decoding.export.written import ExporterError
from decoding.model.model import Model

_BRANCH = re.compile(r"(if|elif|while)\b")
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
        ExporterError: the exporter fails; the message is the first line of its own.
        ModelError: the older one would write one branch of two.
    """
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    options: dict[str, Any] = {"input_names": list(ports.inputs), "output_names": list(ports.outputs)}
    if dynamo:
        dims = {name: torch.export.Dim(name) for axes in ports.dynamic for name in axes.values()}
        shapes = [{axis: dims[name] for axis, name in axes.items()} for axes in ports.dynamic]
        nested = (shapes[0], tuple(shapes[1:])) if _takes_many(module) and shapes[1:] else tuple(shapes)
        options |= {"dynamic_shapes": nested, "dynamo": True, "verbose": False, "external_data": size > _LARGEST}
    else:
        _check_branches(torch, module, arguments)
        options |= {"dynamic_axes": dict(zip(ports.inputs, ports.dynamic, strict=True)), "dynamo": False}
    try:
        with torch.no_grad(), _quiet():
            # Torch leaves marks on the tensors that it has seen.
            torch.onnx.export(module, tuple(a.clone() for a in arguments), str(file), **options)
    except Exception as error:  # the exporters raise errors of many kinds
        cause = error.__cause__ or error  # the newer exporter wraps the reason in advice of its own
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [""]
        raise ExporterError(f"{type(cause).__name__}: {lines[0][:200]}") from error


def _check_branches(torch: Any, module: Any, arguments: Sequence[Any]) -> None:
    """Check that no value of a tensor decides what a module does: the older exporter writes the branch of the example alone.

    The module runs without the tracer, under which sizes are tensors too: there a branch on sizes would look the same.

    Raises:
        ModelError: a value decides.
    """
    if any(isinstance(one, torch.jit.ScriptModule) for one in module.modules()):
        return  # its branches are written as they are
    own = str(Path(torch.__file__).parent)
    constants = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}

    class Watch(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(self, called: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(called, "__name__", "")
            if name in ("__bool__", "item", "__int__", "__float__", "__index__") and id(args[0]) not in constants:
                caller = inspect.currentframe().f_back  # type: ignore[union-attr]
                _check_caller(caller, own, decides=name == "__bool__" or args[0].dtype == torch.bool)
            return called(*args, **(kwargs or {}))

    with torch.no_grad(), Watch():
        module(*(a.clone() for a in arguments))


def _check_caller(frame: Any, own: str, *, decides: bool) -> None:
    """Raise a ModelError if the line that takes a value from a tensor branches on it; torch's own lines and assertions may.

    Args:
        own: torch's folder.
        decides: whether the value is a bool, which has no other use; a number also may be a size.
    """
    file, number = frame.f_code.co_filename, frame.f_lineno
    line = linecache.getline(file, number).strip()
    if file.startswith(own) or line.startswith("assert") or not (decides or _BRANCH.match(line)):
        return
    raise ModelError(
        f"{Path(file).name}, line {number}: {shown(line)} takes a value from a tensor to choose a branch, but the exporter writes only "
        "the branch of its example; compute both results and choose by torch.where()"
    )


def _takes_many(module: Any) -> bool:
    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    return inspect.Parameter.VAR_POSITIONAL in kinds


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporters print and warn of from the caller: what matters is checked before and after."""
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


# How a step takes its states: one by one, as one tuple, or as a list of pairs (h, c), one for each cell.
NESTINGS = ("flat", "tuple", "pairs")


def flat_states(torch: Any, net: Any, states: int, nested: str, attention: AttentionOutput | None = None) -> Any:
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
            own: Sequence[Any] = others[:states]
            if nested == "tuple":
                own = (own,)
            elif nested == "pairs":
                own = ([(own[i], own[i + 1]) for i in range(0, states, 2)],)
            found = tensors_of(torch, self.net(tokens, *own, *others[states:]))
            return tuple(found) if attention is None else attention.put_first(found)

    return FlatStates().eval()
