"""decoding/model/cuda.py and what sessions make of it: CUDA that is missing or fails ends in one error that helps.

The texts are onnxruntime's own: of onnxruntime-gpu 1.31.1 on a machine without a GPU, and of its issues on GitHub.
"""

import numpy as np
import onnxruntime as ort
import pytest

from decoding import ModelError, OptionError, decode, load
from decoding.model import network
from decoding.model.contract.program import StepProgram
from decoding.model.graph.graph import Graph
from decoding.model.network import DeviceSteps, Network
from decoding.model.passes.lower_recurrent import Steps, left_to_the_cpu
from decoding.model.runtime import cuda
from decoding.model.runtime.session import Session
from tests.helpers import build

CALL = "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:121 std::conditional_t<THRW, void, onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, ERRTYPE, const char*, const char*, int) [with ERRTYPE = cudaError; bool THRW = true; std::conditional_t<THRW, void, onnxruntime::common::Status> = void] "
WHERE = " ; GPU=0 ; hostname=somebodys-machine ; file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execution_provider.cc ; line=245 ; expr=cudaSetDevice(info_.device_id);"
REPORTS = [
    (CALL + "CUDA failure 100: no CUDA-capable device is detected" + WHERE, "CUDA finds no GPU"),
    (CALL + "CUDA failure 101: invalid device ordinal" + WHERE, "no GPU of that device_id"),
    (CALL + "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version" + WHERE, "driver is too old"),
    (CALL + "CUDA failure 209: no kernel image is available for execution on the device" + WHERE, "no kernels for this GPU"),
    (CALL + "CUDA failure 2: out of memory" + WHERE, "too little free memory"),
    (CALL + "CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED" + WHERE, "cuDNN failed"),
    (CALL + "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED" + WHERE, "too little free memory"),
    (CALL + "CUBLAS failure 1: CUBLAS_STATUS_NOT_INITIALIZED" + WHERE, "cuBLAS failed"),
    (CALL + "CUDA failure 700: an illegal memory access was encountered" + WHERE, "CUDA failed"),
    ("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Gemm node. Name:'x' Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Failed to allocate memory for requested buffer of size 4294967296",
     "too little free memory"),
]  # fmt: skip


@pytest.fixture
def has_cuda(monkeypatch):
    """An onnxruntime whose build lists CUDA, as onnxruntime-gpu's does on any machine."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [cuda.PROVIDER, "CPUExecutionProvider"])
    monkeypatch.setattr(cuda, "load_libraries", lambda preload: "")


def replaces_cuda(monkeypatch, start):
    """Let `start` answer where a session with the CUDA provider is wanted."""
    real = ort.InferenceSession

    def session(data, options, *, providers, **more):
        return start(providers, more) if cuda.device_of(providers)[0] == "cuda" else real(data, options, providers=providers, **more)  # fmt: skip

    monkeypatch.setattr(ort, "InferenceSession", session)


class FakeSession:
    """An onnxruntime session that says that it started these providers."""

    def __init__(self, providers):
        self._providers = providers

    def get_providers(self):
        return self._providers


@pytest.mark.skipif(cuda.PROVIDER in ort.get_available_providers(), reason="onnxruntime-gpu is installed here")
def test_a_build_without_cuda_says_how_to_install_one():
    with pytest.raises(ModelError) as error:
        load(build.recurrent(), providers="cuda")
    for part in ("CUDAExecutionProvider", "pip uninstall -y onnxruntime", "onnxruntime-gpu[cuda,cudnn]", "providers='cpu'"):  # fmt: skip
        assert part in str(error.value)


@pytest.mark.parametrize(("report", "meaning"), REPORTS, ids=[m for _, m in REPORTS])
def test_what_onnxruntime_reports_is_explained(has_cuda, monkeypatch, report, meaning):
    def fails(providers, options):
        assert options["enable_fallback"] == 0  # else onnxruntime goes on with the CPU by itself
        raise RuntimeError(report)

    replaces_cuda(monkeypatch, fails)
    with pytest.raises(ModelError) as error:
        load(build.recurrent(), providers="cuda")
    assert meaning in str(error.value)
    assert "providers='cpu'" in str(error.value)
    assert "onnxruntime_src" not in str(error.value)
    assert "somebodys-machine" not in str(error.value)


def test_a_provider_that_silently_fell_back_is_an_error(has_cuda, monkeypatch):
    """Without a driver or its libraries onnxruntime logs a line and runs everything on the CPU."""
    replaces_cuda(monkeypatch, lambda providers, options: FakeSession(["CPUExecutionProvider"]))
    with pytest.raises(ModelError, match=r"could not start CUDAExecutionProvider: .*driver.*providers='cpu'"):
        load(build.recurrent(), providers="cuda")


@pytest.mark.parametrize("said", ["", "Failed to load libcublasLt.so.13: cannot open shared object file"])
def test_the_missing_library_is_named(monkeypatch, said):
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: None)  # there is a driver
    message = cuda.why_not_started(said, "1.31.1", "13.0")
    assert (said or "do not fit") in message
    assert "cuDNN 9" in message


def test_libraries_that_are_not_there_are_heard_of_once(capsys):
    calls = []

    def preload():
        calls.append(1)
        print("Failed to load libcudnn.so.9: libcudnn.so.9: cannot open shared object file")
        print("Please follow the page on how to install CUDA.")

    said = "Failed to load libcudnn.so.9: libcudnn.so.9: cannot open shared object file"
    assert [cuda.load_libraries(preload) for _ in range(2)] == [said, said]
    assert len(calls) == 1
    assert not capsys.readouterr().out


def test_the_devices_options_are_kept():
    assert cuda.device_of(["CPUExecutionProvider"]) == ("cpu", 0)
    assert cuda.device_of([cuda.PROVIDER]) == ("cuda", 0)
    wanted = [(cuda.PROVIDER, {"device_id": "1", "gpu_mem_limit": 1 << 30}), "CPUExecutionProvider"]
    assert cuda.device_of(wanted) == ("cuda", 1)
    (name, options), rest = cuda.with_options(wanted, captures=True)
    assert (name, rest) == (cuda.PROVIDER, "CPUExecutionProvider")
    assert options == {"device_id": "1", "gpu_mem_limit": 1 << 30, "enable_cuda_graph": "1", "use_tf32": "0"}
    assert cuda.with_options([cuda.PROVIDER], captures=False) == [(cuda.PROVIDER, {"use_tf32": "0"})]
    assert cuda.with_options([(cuda.PROVIDER, {"use_tf32": "1"})], captures=False) == [
        (cuda.PROVIDER, {"use_tf32": "1"})
    ]


def test_memory_that_runs_out_in_a_step_is_explained(monkeypatch):
    session = Session(Graph.load(build.recurrent()), threads=1)
    session.device = "cuda"

    class Failing:
        def run(self, *args):
            raise RuntimeError(REPORTS[-1][0])

    session._opened = Failing()
    with pytest.raises(ModelError, match=r"the run failed: the GPU has too little free memory.*batch_size"):
        session.run({}, [])


def test_a_graph_that_cannot_be_captured_runs_without(monkeypatch):
    """Onnxruntime refuses such a session: a Loop, an If, or an operator without a CUDA kernel."""
    said = "[ONNXRuntimeError] : 1 : FAIL : This session cannot use the graph capture feature as requested by the user as the model has control flow nodes which can't be supported by CUDA Graphs."
    model = load(build.recurrent("GRU"), threads=1)
    session_over = StepProgram.session_over

    def refusing(program, graph, captures=False, **options):
        if captures:
            raise ModelError(f"{graph.name}: onnxruntime cannot run it: {said}")
        return session_over(program, graph, **options)

    monkeypatch.setattr(Network, "on_device", True)
    monkeypatch.setattr(StepProgram, "session_over", refusing)
    assert decode(model, [[1]], max_new_tokens=3, eos_token_id=None).tokens[0]
    assert "control flow" in model._network.device_step(None).uncaptured


def test_a_layer_that_would_stay_on_the_cpu_is_an_error(monkeypatch):
    model = load(build.recurrent("peephole"), threads=1)
    monkeypatch.setattr(network, "plain_steps", lambda graph, contract: Steps(graph.copy(), (), ("LSTM layer0",)))
    model._network.device_step(None)  # no matter on the CPU
    monkeypatch.setattr(model._network.session, "device", "cuda")
    with pytest.raises(ModelError, match=r"the layer LSTM layer0 cannot run on the GPU.*providers='cpu'"):
        DeviceSteps(model._network.program).step(None)


def test_int8_is_for_the_cpu(has_cuda):
    with pytest.raises(OptionError, match=r"int8.*CPU alone"):
        load(build.recurrent(), providers="cuda", quantize="int8")


@pytest.mark.parametrize(
    ("cell", "left"), [("LSTM", []), ("RNN", []), ("GRU", ["{} layer0"]), ("peephole", ["{} layer0"])]
)
def test_layers_that_cudnn_does_not_have(cell, left):
    """A GRU resets before the product unless it says otherwise; cuDNN's resets after."""
    model = load(build.recurrent(cell))
    op = "LSTM" if cell == "peephole" else cell
    assert left_to_the_cpu(model._graph, model._network.contract) == [name.format(op) for name in left]


def test_a_gpu_that_computes_something_else_is_an_error(has_cuda, monkeypatch):
    """The graph is verified on the CPU, and another provider is compared with that."""
    other = build.recurrent("LSTM", seed=2)

    class Other(FakeSession):
        def run(self, outputs, feeds, options):
            return load(other, threads=1)._network.session._session.run(outputs, feeds, options)

    replaces_cuda(monkeypatch, lambda providers, options: Other([cuda.PROVIDER, "CPUExecutionProvider"]))
    with pytest.raises(ModelError, match="CUDAExecutionProvider gives different scores from the CPU"):
        load(build.recurrent("LSTM", seed=1), providers="cuda")


def test_every_binding_is_a_graph_of_its_own_until_there_are_many(monkeypatch):
    session = Session(Graph.load(build.recurrent()), threads=1)
    session.captures = True  # as on a GPU; the CPU provider does not look at the number
    ids = np.ones((1, 1), np.int64)
    logits = np.zeros((1, 1, 11), np.float32)
    numbers = []
    for _ in range(130):
        binding = session.bind({"tokens": ids}, {"logits": logits})
        binding.run()
        numbers.append(int(binding._options.get_run_config_entry("gpu_graph_id")))
    assert len(set(numbers[:128])) == 128
    assert min(numbers[:128]) > 0
    assert numbers[128:] == [-1, -1]
