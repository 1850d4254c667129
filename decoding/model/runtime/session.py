"""Sessions that run a graph: plain runs over arrays, and bound runs over buffers that are prepared once."""

from __future__ import annotations

import itertools
import json
import operator
import re
import reprlib
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from decoding.errors import ModelError, OptionError
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import NO_BFLOAT16, Array
from decoding.model.runtime import cuda, limits

SHORT_NAMES = {"cpu": "CPUExecutionProvider", "cuda": cuda.PROVIDER}

# For a prefill, which fetches the states alone: onnxruntime then skips the output projection.
_ONLY_FETCHED = ort.RunOptions()
_ONLY_FETCHED.only_execute_path_to_fetches = True

# These optimizations crash the process: onnxruntime 1.31 crashes on an LSTM with float16 weights.
_CRASHING = ["FuseFp16InitializerToFp32NodeTransformer"]
# The file and line of onnxruntime's source, and the function, in front of its message.
_SOURCE_PLACE = re.compile(r"(?:/\S*)?onnxruntime\S*/\S+\.(?:cc|h):\d+ (?:.*?\)(?: const)? )?")
# The caller numbers CUDA graphs; -1 stands for none, 0 for the one without a number.
_GRAPH_IDS = itertools.count(1)
_NO_GRAPH = -1
# onnxruntime starts them all at once, and waits for ever for those that the system refuses it (issue 13).
_MOST_THREADS = 1024
# While load() runs a model of this many bytes of weights, what a run has taken is freed after it: over a large vocabulary that
# is as much again (issue 13).
_LARGE = 64 << 20
# A captured graph and its memory stay until the session ends, and contexts of each new shape add one.
_MOST_GRAPHS = 128


class NodeRun(NamedTuple):
    """One operator of a run: the provider that ran it, the operator and the node's name."""

    provider: str
    op: str
    name: str


class Session:
    """An onnxruntime session over a graph; later edits of the graph do not change it.

    Args:
        graph: the graph to run; its large weights are used without a copy.
        providers: onnxruntime's names, or "cpu" and "cuda", the preferred one first; default: the CPU.
        threads: intra-op threads; None leaves the choice to onnxruntime.
        captures: on a CUDA device, capture runs over device arrays as CUDA graphs and replay them.
        profile: record for `profiled()` which provider ran which operator.
        brief: it ends soon, so its weights are not packed and it keeps no memory between runs.
        later: open it when it is first used, which may be never; the graph must not be edited until then.

    Attributes:
        bytes: size of the weights, once the session is open.
        wanted: onnxruntime's names of the providers asked for, with their options.
        graphs: number of CUDA graphs asked for so far.
        device: "cuda" if the preferred provider keeps its memory there, else "cpu".
    """

    def __init__(
        self,
        graph: Graph,
        *,
        providers: str | Sequence[Any] | None = None,
        threads: int | None = None,
        captures: bool = False,
        profile: bool = False,
        brief: bool = False,
        later: bool = False,
    ) -> None:
        self.name = graph.name
        self.threads = checked_threads(threads)
        self.wanted = full_names(providers)
        self.device, self._device_id = cuda.device_of(self.wanted)
        self.captures = captures and self.device == "cuda"
        self.graphs = 0
        self._folder = tempfile.TemporaryDirectory() if profile else None
        self._brief = brief
        self._unopened: Graph | None = graph
        self._opening = threading.Lock()
        if not later:
            self._open(graph)

    @property
    def providers(self) -> list[str]:
        """Names of the providers that the session runs on, the preferred one first."""
        if self.wanted == [SHORT_NAMES["cpu"]]:
            return list(self.wanted)  # which need not be opened to say so
        return list(self._session.get_providers())

    @property
    def _session(self) -> ort.InferenceSession:
        if self._unopened is not None:
            with self._opening:
                if (graph := self._unopened) is not None:
                    self._open(graph)
        return self._opened

    def _open(self, graph: Graph) -> None:
        if (limit := limits.run_limit()) is not None:
            limit.check()
        options = ort.SessionOptions()
        options.log_severity_level = 4  # errors are raised as exceptions with the model's name
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        if self._brief:
            options.enable_cpu_mem_arena = False
            options.add_session_config_entry("session.disable_prepacking", "1")
        if self._folder is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._folder.name) / "run")
        name, wanted = self.name, self.wanted
        data, weights = graph.skeleton()
        self.bytes = len(data) + sum(value.nbytes for value in weights.values())
        self._weights = {key: ort.OrtValue.ortvalue_from_numpy(value) for key, value in weights.items()}
        options.add_external_initializers(list(self._weights), list(self._weights.values()))
        if wanted == [SHORT_NAMES["cpu"]]:
            # Those are copied; with these the copies go, and all sessions read the same memory (issue 13).
            for key, value in self._weights.items():
                options.add_initializer(key, value)
        said = cuda.load_libraries(ort.preload_dlls) if self.device == "cuda" and hasattr(ort, "preload_dlls") else ""
        given = cuda.with_options(wanted, self.captures) if self.device == "cuda" else wanted
        try:
            # Without enable_fallback=0 onnxruntime goes on with the CPU after printing a line.
            self._opened = ort.InferenceSession(
                data, options, providers=given, disabled_optimizers=_CRASHING, enable_fallback=0
            )
        except Exception as error:
            line = first_line(error)
            why = cuda.explained(line) if self.device == "cuda" else None
            if self.device == "cpu" and "bfloat16" in line:
                why = NO_BFLOAT16
            raise ModelError(f"{name}: {why or f'onnxruntime {ort.__version__} cannot run it: {line}'}") from error
        own = self._opened.get_providers()
        missing = [p for p in (w if isinstance(w, str) else w[0] for w in wanted) if p not in own]
        if cuda.PROVIDER in missing:
            raise ModelError(
                f"{name}: {cuda.why_not_started(said, ort.__version__, getattr(ort, 'cuda_version', '') or '13')}"
            )
        if missing:
            raise ModelError(f"{name}: onnxruntime could not start {missing[0]}; available here: {', '.join(ort.get_available_providers())}. "
                             "Pass providers='cpu', or install the onnxruntime build that has it")  # fmt: skip
        self._unopened = None

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str], *, only_fetched: bool = False) -> list[Array]:
        """Run once over arrays and return the named outputs.

        Args:
            only_fetched: skip operators that these outputs do not need.

        Raises:
            ModelError: onnxruntime reported an error; its message is kept.
        """
        limit = limits.run_limit()
        try:
            if limit is None:
                return self._session.run(list(outputs), dict(feeds), _ONLY_FETCHED if only_fetched else None)  # type: ignore[no-any-return]
            return self._run_within(limit, feeds, outputs)
        except Exception as error:
            raise _failed(self, "run", error) from error

    def _run_within(self, limit: limits.RunLimit, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Run once while `load()` can be interrupted and looks at the clock."""
        session, options = self._session, ort.RunOptions()  # the session first: it may be opened only here
        if self.bytes > _LARGE:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        sizes = ", ".join(f"{name} {list(np.shape(value))}" for name, value in feeds.items()) or "no inputs"
        what = f"{self.name}: a run over {sizes[:200]}"
        seconds = limits.RUN_SECONDS + self.bytes / limits.BYTES_A_SECOND
        return limit.run(lambda own: session.run(list(outputs), dict(feeds), own), what, seconds, options)

    def bind(
        self,
        inputs: Mapping[str, Array | DeviceArray],
        outputs: Mapping[str, Array | DeviceArray],
        *,
        only_fetched: bool = False,
    ) -> Binding:
        """Prepare runs that read inputs from these arrays and write outputs into these, without copies or allocations."""
        return Binding(self, inputs, outputs, only_fetched)

    def device_array(self, shape: Sequence[int], dtype: npt.DTypeLike) -> DeviceArray:
        """Allocate an array of zeros in the memory of the session's device.

        Raises:
            ModelError: there is not enough memory.
        """
        try:
            value = ort.OrtValue.ortvalue_from_shape_and_type(
                list(shape), np.dtype(dtype).type, self.device, self._device_id
            )
        except Exception as error:
            raise _failed(self, "allocation of a batch's memory", error) from error
        array = DeviceArray(value)
        array.write(np.zeros(shape, dtype))
        return array

    def profiled(self) -> list[NodeRun]:
        """Every operator that ran in a session with `profile`; ends the profile."""
        assert self._folder is not None
        with self._folder:
            events = json.loads(Path(self._session.end_profiling()).read_text())
        runs = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
        return [NodeRun(e["args"].get("provider", ""), e["args"].get("op_name", ""), e["name"].removesuffix("_kernel_time")) for e in runs]  # fmt: skip


class DeviceArray:
    """An array in a device's memory, at a fixed address."""

    def __init__(self, value: ort.OrtValue) -> None:
        self.value = value
        self.shape = tuple(value.shape())

    def write(self, array: Array) -> None:
        """Copy an array of the same shape and dtype to the device."""
        self.value.update_inplace(array)

    def read(self) -> Array:
        """Copy the numbers to an array in the host's memory."""
        array: Array = self.value.numpy()
        return array


class Binding:
    """A run over fixed buffers, which it keeps alive. Arrays must be C-contiguous."""

    def __init__(
        self,
        session: Session,
        inputs: Mapping[str, Array | DeviceArray],
        outputs: Mapping[str, Array | DeviceArray],
        only_fetched: bool,
    ) -> None:
        self._session, self._buffers = session, (dict(inputs), dict(outputs))
        self._binding = session._session.io_binding()
        self._run = session._session.run_with_iobinding
        for name, array in inputs.items():
            if isinstance(array, DeviceArray):
                self._binding.bind_ortvalue_input(name, array.value)
            else:
                self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            if isinstance(array, DeviceArray):
                self._binding.bind_ortvalue_output(name, array.value)
            else:
                self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        self._options = _ONLY_FETCHED if only_fetched else None
        if session.captures:
            # Every binding has a CUDA graph of its own. Its first run runs the network several times (to allocate, then to
            # capture), which is right only because a run writes no buffer that it reads.
            session.graphs += 1
            number = next(_GRAPH_IDS) if session.graphs <= _MOST_GRAPHS else _NO_GRAPH
            self._options = ort.RunOptions()
            self._options.add_run_config_entry("gpu_graph_id", str(number))

    def run(self) -> None:
        """Run once: read the bound inputs and write the bound outputs.

        Raises:
            ModelError: onnxruntime reported an error; its message is kept.
        """
        try:
            self._run(self._binding, self._options)
        except Exception as error:
            raise _failed(self._session, "step", error) from error


def constant_values(graph: Graph, names: Sequence[str]) -> list[Array] | None:
    """Values of tensors that depend on no input, such as weights that the graph re-arranges; None if one depends on an input."""
    values = [graph.constant(name) for name in names]
    if any(value is None for value in values):
        part = graph.part(names)
        return None if part.inputs else Session(part, threads=1).run({}, names)
    return [value for value in values if value is not None]


def full_names(providers: str | Sequence[Any] | None) -> list[Any]:
    """The providers by onnxruntime's names, from short or full ones; None means the CPU.

    Raises:
        ModelError: this onnxruntime does not have one of them.
        OptionError: they are no names.
    """
    if providers is None:
        providers = ["cpu"]
    elif isinstance(providers, str):
        providers = [providers]
    if not isinstance(providers, list | tuple) or not providers or not all(map(_is_provider, providers)):
        raise OptionError(f"providers={reprlib.repr(providers)}: expected 'cpu', 'cuda', or a list of onnxruntime's names, each alone or as (name, {{option: value}})")  # fmt: skip
    names = [SHORT_NAMES.get(p, p) if isinstance(p, str) else (SHORT_NAMES.get(p[0], p[0]), dict(p[1])) for p in providers]  # fmt: skip
    known = ort.get_available_providers()
    for name in names:
        plain = name if isinstance(name, str) else name[0]
        if plain not in known:
            how = cuda.INSTALL if plain == cuda.PROVIDER else "install the onnxruntime build that has it"
            raise ModelError(f"providers: {plain[:100]} is not in this onnxruntime ({ort.__version__}), which has {', '.join(known)}. "
                             f"Pass providers='cpu', or {how}")  # fmt: skip
    return names


def _is_provider(value: Any) -> bool:
    """Return whether it is a name, or a pair of a name and options."""
    if isinstance(value, str):
        return True
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], Mapping)
        and all(isinstance(key, str) for key in value[1])
    )


def checked_threads(threads: Any) -> int | None:
    """The number of intra-op threads; None leaves it to onnxruntime.

    Raises:
        OptionError: it is no whole number from 1 to 1,024.
    """
    if threads is None:
        return None
    try:
        count = operator.index(threads)
    except TypeError:
        count = 0
    if isinstance(threads, bool) or not 1 <= count <= _MOST_THREADS:
        raise OptionError(
            f"threads={reprlib.repr(threads)}: expected a whole number from 1 to {_MOST_THREADS}, or None"
        )
    return count


def first_line(error: Exception) -> str:
    """The first line of an exception's text, without error codes and positions in onnxruntime's source."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if lines[0].endswith("indices"):  # the next lines say which, found and expected
        lines[0] += ": " + " ".join(line.strip() for line in lines[1:] if line.lstrip().startswith("index"))
    line = lines[0].split(" : ", 3)[-1] if lines[0].startswith("[ONNXRuntimeError]") else lines[0]
    return _SOURCE_PLACE.sub("", line).strip()


def _failed(session: Session, what: str, error: Exception) -> ModelError:
    """The error of a run or an allocation (`what`) in words that help."""
    line = first_line(error)
    why = cuda.explained(line) if session.device == "cuda" else None
    return ModelError(f"{session.name}: the {what} failed: {why or line}")
