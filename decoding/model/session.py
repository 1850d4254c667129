"""Running a graph. The only file that imports onnxruntime."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime as ort

from decoding.errors import ModelError, OptionError
from decoding.model.graph import Graph
from decoding.model.ports import Array

SHORT_NAMES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

# Only states are fetched while a prompt is read: onnxruntime then skips the output projection.
_ONLY_FETCHED = ort.RunOptions()
_ONLY_FETCHED.only_execute_path_to_fetches = True

# These optimizations end the process: onnxruntime 1.31 does so on an LSTM with float16 weights.
_CRASHING = ["FuseFp16InitializerToFp32NodeTransformer"]
# Where onnxruntime's source stood when it was built, and the function, before what it has to say.
_SOURCE_PLACE = re.compile(r"(?:/\S*)?onnxruntime\S*/\S+\.(?:cc|h):\d+ (?:.*?\)(?: const)? )?")


class Session:
    """An onnxruntime session over a graph as it is now.

    Args:
        graph: what to run; its large weights are taken as they are, without a copy.
        providers: onnxruntime's names or "cpu" and "cuda", the preferred one first; default: the CPU.
        threads: intra-op threads; None leaves the choice to onnxruntime.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        providers: str | Sequence[Any] | None = None,
        threads: int | None = None,
    ) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what goes wrong comes back as an exception, with the model's name
        if threads is not None:
            if threads < 1:
                raise OptionError(f"threads={threads}: expected a whole number of at least 1, or None")
            options.intra_op_num_threads = threads
        self.name = name = graph.name
        self.threads = threads
        wanted = full_names(providers)
        data, weights = graph.skeleton()
        self._weights = {key: ort.OrtValue.ortvalue_from_numpy(value) for key, value in weights.items()}
        options.add_external_initializers(list(self._weights), list(self._weights.values()))
        try:
            self._session = ort.InferenceSession(data, options, providers=wanted, disabled_optimizers=_CRASHING)
        except Exception as error:
            raise ModelError(f"{name}: onnxruntime {ort.__version__} cannot run it: {first_line(error)}") from error
        self.providers: list[str] = self._session.get_providers()
        missing = [p for p in (w if isinstance(w, str) else w[0] for w in wanted) if p not in self.providers]
        if missing:
            raise ModelError(f"{name}: onnxruntime could not start {missing[0]}; available here: {', '.join(ort.get_available_providers())}. "
                             "Pass providers='cpu', or install the onnxruntime build that has it")  # fmt: skip

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str], *, only_fetched: bool = False) -> list[Array]:
        """One plain run: arrays in, the named outputs as arrays.

        Raises:
            ModelError: onnxruntime reported an error; its message is kept.
        """
        try:
            return self._session.run(list(outputs), dict(feeds), _ONLY_FETCHED if only_fetched else None)  # type: ignore[no-any-return]
        except Exception as error:
            raise ModelError(f"{self.name}: the run failed: {first_line(error)}") from error

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Binding:
        """Tie inputs and outputs to these arrays' memory, so that a run copies and allocates nothing."""
        return Binding(self._session, self.name, inputs, outputs)


class Binding:
    """A run prepared over fixed buffers; the arrays must be C-contiguous and are kept alive here."""

    def __init__(
        self, session: ort.InferenceSession, name: str, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> None:
        self._session, self._name, self._buffers = session, name, (dict(inputs), dict(outputs))
        self._binding = session.io_binding()
        for name, array in inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def run(self) -> None:
        """Read the bound inputs and fill the bound outputs.

        Raises:
            ModelError: onnxruntime reported an error; its message is kept.
        """
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise ModelError(f"{self._name}: the step failed: {first_line(error)}") from error


def constant_values(graph: Graph, names: Sequence[str]) -> list[Array] | None:
    """The tensors' values where no input is needed for them, else None: exporters re-arrange weights in the graph."""
    values = [graph.constant(name) for name in names]
    if any(value is None for value in values):
        part = graph.part(names)
        return None if part.inputs else Session(part, threads=1).run({}, names)
    return [value for value in values if value is not None]


def full_names(providers: str | Sequence[Any] | None) -> list[Any]:
    """Onnxruntime's own provider names for the short ones; None means the CPU."""
    if providers is None:
        providers = ["cpu"]
    elif isinstance(providers, str):
        providers = [providers]
    names = [SHORT_NAMES.get(p, p) if isinstance(p, str) else p for p in providers]
    known = ort.get_available_providers()
    for name in names:
        plain = name if isinstance(name, str) else name[0]
        if plain not in known:
            raise ModelError(f"providers: {plain} is not in this onnxruntime ({ort.__version__}), which has {', '.join(known)}. "
                             "Pass providers='cpu', or install the onnxruntime build that has it")  # fmt: skip
    return names


def first_line(error: Exception) -> str:
    """The first line of an exception's text, without onnxruntime's error codes and the places in its source."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = lines[0].split(" : ", 3)[-1] if lines[0].startswith("[ONNXRuntimeError]") else lines[0]
    return _SOURCE_PLACE.sub("", line).strip()
