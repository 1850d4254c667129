"""The native step, step and choice, beside onnxruntime's bare loop and what the processor allows.

    python bench/native_prototype.py [--draw 0.8] [--isa avx2] [--seconds 0.3] [name ...]

Builds csrc/ and native_run.c into a shared object with the flags of setup.py and calls dec_network_run through ctypes, 64 steps a call. onnxruntime runs the same network with one thread, through `run_with_iobinding` on buffers that
were bound once, and chooses nothing. Columns: microseconds a step; native over onnxruntime; the limit is the greater of
the time that a sum over as many bytes as the weights have takes, in the same turns, and the operations over the peak that
products of registers reach. It needs AVX-512 with VNNI.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import statistics
import subprocess
import tempfile
import time
from ctypes import POINTER, Structure, byref, c_float, c_int, c_int64, c_size_t, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

TURN = 3e-3  # seconds: shorter than what the system gives a process at once
HUGE = 1 << 21
STEPS = 64  # of a call
ROOT = Path(__file__).parent.parent
FLAGS = ["-O3", "-std=c11", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unused-function", "-shared", "-fPIC"]
LOOP = r"""
#include "native_internal.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* The sum of the floats of a buffer, many times: its bandwidth. */
__attribute__((target("avx512f"))) float bench_read(const float *data, int64_t n, int64_t times) {
    __m512 sum[8] = {0};
    for (int64_t t = 0; t < times; t++)
        for (int64_t i = 0; i + 128 <= n; i += 128)
            for (int j = 0; j < 8; j++)
                sum[j] = _mm512_add_ps(sum[j], _mm512_loadu_ps(data + i + 16 * j));
    for (int j = 1; j < 8; j++)
        sum[0] = _mm512_add_ps(sum[0], sum[j]);
    return _mm512_reduce_add_ps(sum[0]);
}

/* Twelve chains of products in registers, without any memory: the peak. */
#define FOUR(op, a, b, c, d)                                                                                 \
    op " %%zmm30, %%zmm31, %%zmm" #a "\n" op " %%zmm30, %%zmm31, %%zmm" #b "\n"                              \
    op " %%zmm30, %%zmm31, %%zmm" #c "\n" op " %%zmm30, %%zmm31, %%zmm" #d "\n"
#define PEAK(name, op)                                                                                       \
    __attribute__((target("avx512f"))) void name(int64_t times) {                                            \
        __asm__ volatile("vpxorq %%zmm30, %%zmm30, %%zmm30\nvpxorq %%zmm31, %%zmm31, %%zmm31" ::: "zmm30", "zmm31"); \
        for (int64_t t = 0; t < times; t++)                                                                  \
            __asm__ volatile(FOUR(op, 0, 1, 2, 3) FOUR(op, 4, 5, 6, 7) FOUR(op, 8, 9, 10, 11)                \
                             ::: "zmm0", "zmm1", "zmm2", "zmm3", "zmm4", "zmm5", "zmm6", "zmm7", "zmm8",     \
                             "zmm9", "zmm10", "zmm11");                                                      \
    }
PEAK(bench_peak_float32, "vfmadd231ps")
PEAK(bench_peak_int8, "vpdpbusd")
"""


class Linear(Structure):
    _fields_ = [("inputs", c_int64), ("outputs", c_int64), ("number", c_int), ("weights", c_void_p),
                ("bias", c_void_p), ("scale", c_void_p), ("correction", c_void_p)]  # fmt: skip


class Layer(Structure):
    _fields_ = [("cell", c_int), ("hidden", c_int64), ("input", POINTER(Linear)), ("state", POINTER(Linear)),
                ("candidate", POINTER(Linear)), ("projection", POINTER(Linear)), ("peepholes", c_void_p),
                ("clip", c_float), ("coupled", c_int), ("linear_before_reset", c_int), ("residual", c_int),
                ("activation", c_int * 3), ("alpha", c_float * 3), ("beta", c_float * 3)]  # fmt: skip


class State(Structure):
    _fields_ = [("h", c_void_p), ("c", c_void_p), ("h_stride", c_int64), ("c_stride", c_int64)]


class Network(Structure):
    _fields_ = [("vocabulary", c_int64), ("table", c_void_p), ("embedding", c_void_p), ("embedding_width", c_int64),
                ("layers", POINTER(Layer)), ("layer_count", c_int64)]  # fmt: skip


class Feed(Structure):
    _fields_ = [("rows", c_int64), ("time", c_int64), ("tokens", c_void_p), ("token_stride", c_int64),
                ("vectors", c_void_p), ("lengths", c_void_p), ("context", c_void_p), ("context_stride", c_int64)]  # fmt: skip


class Stream(Structure):
    _fields_ = [("seed", c_uint64), ("rows", c_void_p), ("steps", c_void_p), ("step", c_int64)]


class Run(Structure):
    _fields_ = [("output", POINTER(Linear)), ("steps", c_int64), ("stream", POINTER(Stream)), ("temperature", c_void_p),
                ("ends", c_void_p), ("end_count", c_int64), ("stop", c_void_p), ("tokens", c_void_p), ("logprobs", c_void_p)]  # fmt: skip


def build(folder: str) -> ctypes.CDLL:
    """csrc/ and the loops of this file as one library."""
    loop, library = Path(folder) / "loop.c", Path(folder) / "native.so"
    loop.write_text(LOOP)
    sources = [str(path) for path in sorted((ROOT / "csrc").glob("*.c"))] + [str(ROOT / "bench/native_run.c")]
    subprocess.run(["cc", *FLAGS, f"-I{ROOT / 'csrc'}", *sources, str(loop), "-o", str(library), "-lm", "-lpthread"], check=True)  # fmt: skip
    lib = ctypes.CDLL(str(library))
    for name in (
        "dec_linear_size",
        "dec_linear_scratch_size",
        "dec_network_run_scratch_size",
        "dec_network_scratch_size",
    ):
        getattr(lib, name).restype = c_size_t
    lib.dec_native_name.restype = ctypes.c_char_p
    lib.bench_read.restype = c_float
    lib.bench_read.argtypes = [c_void_p, c_int64, c_int64]
    lib.dec_linear_size.argtypes = [c_int64, c_int64, c_int]
    lib.dec_linear_pack.argtypes = [POINTER(Linear), c_int64, c_int64, c_int, c_void_p, c_int64, c_int64, c_void_p, c_int, c_void_p]  # fmt: skip
    lib.dec_linear_scratch_size.argtypes = [POINTER(Linear), c_int64]
    lib.dec_linear_product.argtypes = [POINTER(Linear), c_void_p, c_int64, c_int64, c_void_p, c_int64, c_int, c_void_p]
    lib.dec_network_run_scratch_size.argtypes = [POINTER(Network), POINTER(Linear), c_int64]
    lib.dec_network_scratch_size.argtypes = [POINTER(Network), c_int64, c_int64]
    lib.dec_network_read.argtypes = [POINTER(Network), POINTER(Feed), POINTER(State), c_void_p, c_void_p, POINTER(c_int64)]  # fmt: skip
    lib.dec_network_run.argtypes = [POINTER(Network), POINTER(Feed), POINTER(State), POINTER(Run), c_void_p, POINTER(c_int64), POINTER(c_int64)]  # fmt: skip
    return lib


@dataclass
class Case:
    """A network: `layers` of `cell` with `hidden` units over a vocabulary, at a batch size."""

    name: str
    cell: str
    layers: int
    hidden: int
    vocabulary: int
    batch: int

    @property
    def products(self) -> int:
        """Multiply-adds of a row in a step, and weights: the first layer's input product is in a table."""
        return GATES[self.cell] * self.hidden**2 * (2 * self.layers - 1) + self.hidden * self.vocabulary


GATES = {"LSTM": 4, "GRU": 3}
CASES = [
    Case("lstm-2x128-v256-b1", "LSTM", 2, 128, 256, 1),
    Case("lstm-3x512-v64-b1", "LSTM", 3, 512, 64, 1),
    Case("lstm-2x650-v10000-b1", "LSTM", 2, 650, 10000, 1),
    Case("gru-1x256-v256-b1", "GRU", 1, 256, 256, 1),
    Case("lstm-2x650-v10000-b5", "LSTM", 2, 650, 10000, 5),
    Case("lstm-2x128-v256-b64", "LSTM", 2, 128, 256, 64),
    Case("lstm-1x32-v5000-b64", "LSTM", 1, 32, 5000, 64),
    Case("lstm-3x512-v64-b128", "LSTM", 3, 512, 64, 128),
]


class Weights:
    """Random weights in ONNX's layout."""

    def __init__(self, case: Case, seed: int = 0) -> None:
        rng, hidden, gates = np.random.default_rng(seed), case.hidden, GATES[case.cell]
        scale = 1 / np.sqrt(hidden)

        def uniform(*shape: int) -> np.ndarray:
            return rng.uniform(-scale, scale, shape).astype(np.float32)

        self.embedding = rng.standard_normal((case.vocabulary, hidden)).astype(np.float32)
        self.W = [uniform(gates * hidden, hidden) for _ in range(case.layers)]
        self.R = [uniform(gates * hidden, hidden) for _ in range(case.layers)]
        self.B = [uniform(2, gates * hidden) for _ in range(case.layers)]
        self.out, self.out_bias = uniform(case.vocabulary, hidden), uniform(case.vocabulary)


def aligned(size: int) -> np.ndarray:
    """Zeroed memory; in huge pages, where the system gives them, from 2 MiB on."""
    if size < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        raw = np.zeros(size + 64, np.uint8)
        start = -raw.ctypes.data % 64
        return raw[start : start + size]
    area = mmap.mmap(-1, size + 2 * HUGE)
    area.madvise(mmap.MADV_HUGEPAGE)
    raw = np.frombuffer(area, np.uint8)
    start = -raw.ctypes.data % HUGE
    return raw[start : start + size]


class Native:
    """A case packed for the library, with states for its batch."""

    def __init__(self, lib: ctypes.CDLL, case: Case, weights: Weights, int8: bool, draw: float | None = None) -> None:
        self.lib, self.case, self.keep = lib, case, []
        self.number, self.batch = int(int8), case.batch
        hidden, lstm = case.hidden, case.cell == "LSTM"
        self.layers = (Layer * case.layers)()
        self.states = (State * case.layers)()
        self.h = np.zeros((case.layers, self.batch, hidden), np.float32)
        self.c = np.zeros((case.layers, self.batch, hidden), np.float32)
        self.network = Network(case.vocabulary, None, None, hidden, self.layers, case.layers)
        for i, layer in enumerate(self.layers):
            bias = weights.B[i].sum(0)
            if not lstm:
                bias[2 * hidden :] = weights.B[i][0, 2 * hidden :]
            layer.cell, layer.hidden, layer.linear_before_reset = (0 if lstm else 1), hidden, not lstm
            layer.activation[:] = [0, 1, 1]
            entry = self.pack(weights.W[i], bias, number=0 if i == 0 else self.number)
            if i == 0:
                table = np.empty((case.vocabulary, GATES[case.cell] * hidden), np.float32)
                lib.dec_linear_product(byref(entry), weights.embedding.ctypes.data, hidden, case.vocabulary, table.ctypes.data, table.shape[1], 0, None)  # fmt: skip
                self.network.table = self.held(table)
            else:
                layer.input = ctypes.pointer(entry)
            cut = 4 * hidden if lstm else 2 * hidden
            layer.state = ctypes.pointer(self.pack(weights.R[i][:cut], None))
            if not lstm:
                layer.candidate = ctypes.pointer(self.pack(weights.R[i][cut:], np.ascontiguousarray(weights.B[i][1, cut:])))  # fmt: skip
            self.states[i] = State(self.h[i].ctypes.data, self.c[i].ctypes.data, hidden, hidden)
        self.output = self.pack(weights.out, weights.out_bias)
        self.tokens = np.zeros(self.batch, np.int64)
        self.top = np.zeros((self.batch, hidden), np.float32)
        self.feed = Feed(self.batch, 1, self.tokens.ctypes.data, 1, None, None, None, 0)
        self.scratch = aligned(lib.dec_network_scratch_size(byref(self.network), self.batch, 1))
        self.run_scratch = aligned(
            lib.dec_network_run_scratch_size(byref(self.network), byref(self.output), self.batch)
        )
        self.chosen = np.zeros((self.batch, STEPS), np.int64)
        self.logprobs = np.zeros((self.batch, STEPS), np.float32)
        self.temperature = np.full(self.batch, draw or 1, np.float32)
        self.stream = Stream(1, None, None, 0)
        self.run = Run(ctypes.pointer(self.output), STEPS, ctypes.pointer(self.stream) if draw else None, self.temperature.ctypes.data,
                       None, 0, None, self.chosen.ctypes.data, self.logprobs.ctypes.data)  # fmt: skip

    def held(self, array: np.ndarray) -> int:
        self.keep.append(array)
        return array.ctypes.data

    def pack(self, rows: np.ndarray, bias: np.ndarray | None, number: int | None = None) -> Linear:
        number = self.number if number is None else number
        linear, (outputs, inputs) = Linear(), rows.shape
        memory = aligned(self.lib.dec_linear_size(inputs, outputs, number))
        self.lib.dec_linear_pack(byref(linear), inputs, outputs, number, rows.ctypes.data, inputs, 1, None if bias is None else bias.ctypes.data, 63, self.held(memory))  # fmt: skip
        return linear

    def steps(self, n: int) -> None:
        done, bad = c_int64(), c_int64(-1)
        for start in range(0, n, STEPS):
            self.run.steps = min(n - start, STEPS)
            status = self.lib.dec_network_run(byref(self.network), byref(self.feed), self.states, byref(self.run), self.run_scratch.ctypes.data, byref(done), byref(bad))  # fmt: skip
            assert status == 0, status
            self.tokens[:] = self.chosen.reshape(-1)[self.run.steps - 1 :: self.run.steps][: self.batch]
            self.stream.step += done.value

    def logits(self) -> np.ndarray:
        """One step, and its logits."""
        bad = c_int64(-1)
        status = self.lib.dec_network_read(byref(self.network), byref(self.feed), self.states, self.top.ctypes.data, self.scratch.ctypes.data, byref(bad))  # fmt: skip
        assert status == 0, (status, bad.value)
        out = np.empty((self.batch, self.case.vocabulary), np.float32)
        scratch = aligned(self.lib.dec_linear_scratch_size(byref(self.output), self.batch) + 64)
        self.lib.dec_linear_product(byref(self.output), self.top.ctypes.data, self.case.hidden, self.batch, out.ctypes.data, out.shape[1], 0, scratch.ctypes.data)  # fmt: skip
        return out


def to_onnx(case: Case, weights: Weights) -> bytes:
    """The same network as ONNX operators: ids [batch, 1] and states to logits and states."""
    nodes, initializers, hidden = [], [], case.hidden

    def constant(name: str, value: np.ndarray) -> str:
        initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    nodes.append(helper.make_node("Gather", [constant("embedding", weights.embedding), "tokens"], ["x0"], axis=0))
    nodes.append(helper.make_node("Transpose", ["x0"], ["y0"], perm=[1, 0, 2]))
    inputs = [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", 1])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", case.vocabulary])]
    letters = "hc" if case.cell == "LSTM" else "h"
    for i in range(case.layers):
        names = [constant(f"W{i}", weights.W[i][None]), constant(f"R{i}", weights.R[i][None]), constant(f"B{i}", weights.B[i].reshape(1, -1))]  # fmt: skip
        attributes = {"linear_before_reset": 1} if case.cell == "GRU" else {}
        nodes.append(helper.make_node(case.cell, [f"y{i}", *names, "", *(f"{s}{i}" for s in letters)], [f"Y{i}", *(f"{s}{i}_out" for s in letters)], hidden_size=hidden, **attributes))  # fmt: skip
        nodes.append(helper.make_node("Squeeze", [f"Y{i}", constant(f"axis{i}", np.array([1]))], [f"y{i + 1}"]))
        for s in letters:
            inputs.append(helper.make_tensor_value_info(f"{s}{i}", TensorProto.FLOAT, [1, "batch", hidden]))
            outputs.append(helper.make_tensor_value_info(f"{s}{i}_out", TensorProto.FLOAT, [1, "batch", hidden]))
    nodes.append(helper.make_node("Squeeze", [f"y{case.layers}", constant("first", np.array([0]))], ["last"]))
    nodes.append(helper.make_node("Gemm", ["last", constant("out", weights.out.T), constant("out_bias", weights.out_bias)], ["logits"]))  # fmt: skip
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, initializers), opset_imports=[helper.make_opsetid("", 17)], ir_version=9)  # fmt: skip
    onnx.checker.check_model(model)
    return model.SerializeToString()


class Bare:
    """onnxruntime alone: buffers bound once, states given back."""

    def __init__(self, case: Case, weights: Weights) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(to_onnx(case, weights), options, providers=["CPUExecutionProvider"])
        self.case = case
        letters = "hc" if case.cell == "LSTM" else "h"
        self.arrays = {"tokens": np.zeros((case.batch, 1), np.int64), "logits": np.zeros((case.batch, case.vocabulary), np.float32)}  # fmt: skip
        names = [f"{s}{i}" for i in range(case.layers) for s in letters]
        for name in names:
            self.arrays[name] = np.zeros((1, case.batch, case.hidden), np.float32)
            self.arrays[f"{name}_out"] = np.zeros((1, case.batch, case.hidden), np.float32)
        values = {k: onnxruntime.OrtValue.ortvalue_from_numpy(v) for k, v in self.arrays.items()}
        self.values, self.bindings = values, []
        for turn in (False, True):
            binding = self.session.io_binding()
            binding.bind_ortvalue_input("tokens", values["tokens"])
            binding.bind_ortvalue_output("logits", values["logits"])
            for name in names:
                pair = (f"{name}_out", name) if turn else (name, f"{name}_out")
                binding.bind_ortvalue_input(name, values[pair[0]])
                binding.bind_ortvalue_output(f"{name}_out", values[pair[1]])
            self.bindings.append(binding)

    def steps(self, n: int) -> None:
        run = self.session.run_with_iobinding
        for i in range(n):
            run(self.bindings[i & 1])

    def logits(self) -> np.ndarray:
        self.session.run_with_iobinding(self.bindings[0])
        return self.values["logits"].numpy()


def measure(runs: dict, seconds: float) -> dict[str, float]:
    """Microseconds a step of each: short turns that follow each other, and of each the quarter below which others disturb."""
    counts, took = {}, {name: [] for name in runs}
    for name, run in runs.items():
        run(3)
        start = time.perf_counter()
        run(3)
        counts[name] = max(1, int(TURN / ((time.perf_counter() - start) / 3)))
    end = time.perf_counter() + seconds * len(runs)
    while time.perf_counter() < end or len(took[name]) < 7:
        for name, run in runs.items():
            run(2)  # its weights back into the caches
            start = time.perf_counter()
            run(counts[name])
            took[name].append((time.perf_counter() - start) / counts[name] * 1e6)
    return {name: statistics.quantiles(values, n=4)[0] for name, values in took.items()}


class Reads:
    """Reading that many bytes again and again: what the weights cost at least."""

    def __init__(self, lib: ctypes.CDLL, size: int) -> None:
        self.lib, self.data = lib, aligned(size).view(np.float32)

    def steps(self, n: int) -> None:
        self.lib.bench_read(self.data.ctypes.data, self.data.size, n)


def peak(lib: ctypes.CDLL, number: int) -> float:
    """Multiply-adds a microsecond of one core: 16 in an instruction of float32, 64 in one of int8."""
    lanes, times, best = 64 if number else 16, 10_000, 0.0
    run = lib.bench_peak_int8 if number else lib.bench_peak_float32
    for _ in range(100):
        start = time.perf_counter()
        run(c_int64(times))
        best = max(best, 12 * lanes * times / (time.perf_counter() - start) / 1e6)
    return best


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--draw", type=float, metavar="TEMPERATURE", help="draw, instead of taking the best")
    parser.add_argument("--isa")
    parser.add_argument("--native")
    parser.add_argument("--seconds", type=float, default=0.5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lib = build(folder)
    assert lib.dec_use_isa(options.isa.encode() if options.isa else None) == 0
    if options.native:
        assert lib.dec_use_native(options.native.encode()) == 0
    peaks = [peak(lib, 0), peak(lib, 1)]
    print(f"{lib.dec_native_name().decode()}; peak {2e-3 * peaks[0]:.0f} GFLOP/s in float32, {2e-3 * peaks[1]:.0f} Gop/s in int8")  # fmt: skip
    print(f"{'network':24}{'ort':>9}{'float32':>9}{'ratio':>7}{'limit':>9}{'int8':>9}{'ratio':>7}{'limit':>9}{'error':>9}")  # fmt: skip
    for case in CASES:
        if options.names and not any(name in case.name for name in options.names):
            continue
        weights = Weights(case)
        bare, native, int8 = (
            Bare(case, weights),
            Native(lib, case, weights, False, options.draw),
            Native(lib, case, weights, True, options.draw),
        )
        expected, found = bare.logits(), native.logits()
        error = float(np.abs(found - expected).max() / np.abs(expected).max())
        reads = [Reads(lib, size * case.products) for size in (4, 1)]
        took = measure({"ort": bare.steps, "f32": native.steps, "int8": int8.steps, "read32": reads[0].steps, "read8": reads[1].steps}, options.seconds)  # fmt: skip
        limits = [max(took[f"read{8 * size}"], case.products * case.batch / peak) for size, peak in zip((4, 1), peaks, strict=True)]  # fmt: skip
        print(
            f"{case.name:24}{took['ort']:9.1f}{took['f32']:9.1f}{took['f32'] / took['ort']:7.2f}{limits[0]:9.1f}"
            f"{took['int8']:9.1f}{took['int8'] / took['ort']:7.2f}{limits[1]:9.1f}{error:9.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
