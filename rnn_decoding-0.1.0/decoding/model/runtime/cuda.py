"""Onnxruntime's CUDA provider: its options, the libraries that it needs, and its errors in words that help."""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

PROVIDER = "CUDAExecutionProvider"
INSTALL = "put onnxruntime-gpu in onnxruntime's place: pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'onnxruntime-gpu[cuda,cudnn]'"
_GO_ON = "To go on without a GPU pass providers='cpu'"

# Patterns of onnxruntime's messages, with what is wrong and the remedy. The first match counts.
_MEANINGS = [
    (r"out of memory|Failed to allocate memory|ALLOC_FAILED|smaller than requested bytes",
     "the GPU has too little free memory. Pass a smaller batch_size, or free what other processes hold (nvidia-smi lists them)"),
    (r"CUDA failure 100|no CUDA-capable device",
     "CUDA finds no GPU. Check that nvidia-smi lists one, that CUDA_VISIBLE_DEVICES does not hide it, and that a container was started with it"),
    (r"CUDA failure 101|invalid device ordinal",
     "there is no GPU of that device_id. Pass one that nvidia-smi lists: providers=[('CUDAExecutionProvider', {'device_id': 0})]"),
    (r"CUDA failure 35\b|driver version is insufficient",
     "the NVIDIA driver is too old for the CUDA that this onnxruntime-gpu was built for. Install a newer driver, or an older onnxruntime-gpu"),
    (r"CUDA failure (?:98|209)\b|no kernel image|invalid device function",
     "this onnxruntime-gpu has no kernels for this GPU: it is too old or too new for it. Install another release of onnxruntime-gpu"),
    (r"CUDNN|cudnn", "cuDNN failed. Install the cuDNN 9 that fits: pip install 'onnxruntime-gpu[cuda,cudnn]'"),
    (r"CUBLAS", "cuBLAS failed. Install the CUDA libraries that fit: pip install 'onnxruntime-gpu[cuda,cudnn]'"),
    (r"cannot open shared object file|Failed to load library|LoadLibrary failed",
     "a library of CUDA or cuDNN is missing. Install the ones that fit: pip install 'onnxruntime-gpu[cuda,cudnn]'"),
    (r"CUDA failure", "CUDA failed"),
]  # fmt: skip


def device_of(wanted: Sequence[Any]) -> tuple[str, int]:
    """The device that the first of these providers keeps its memory on: ("cuda", device id) or ("cpu", 0)."""
    name, options = wanted[0] if not isinstance(wanted[0], str) else (wanted[0], {})
    return ("cuda", int(options.get("device_id", 0))) if name == PROVIDER else ("cpu", 0)


def with_options(wanted: Sequence[Any], captures: bool) -> list[Any]:
    """The providers with our options for CUDA; the caller's options go before them.

    TF32 is off, as in torch's products: it has 10 bits for 23, and log-probabilities would be those of another model.

    Args:
        captures: capture runs as CUDA graphs.
    """
    name, options = wanted[0] if not isinstance(wanted[0], str) else (wanted[0], {})
    return [(name, {"use_tf32": "0", **options, **({"enable_cuda_graph": "1"} if captures else {})}), *wanted[1:]]


@cache
def load_libraries(preload: Callable[[], None]) -> str:
    """Load the libraries of CUDA and cuDNN from NVIDIA's pip packages and return the failures in words; empty without any.

    Args:
        preload: onnxruntime's `preload_dlls`, which prints its failures.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        preload()
    return "; ".join(line for line in said.getvalue().splitlines() if line.startswith("Failed to load"))


def why_not_started(said: str, version: str, built: str) -> str:
    """Explain why a session has no CUDA provider though the build has it. Onnxruntime only logs that and uses the CPU.

    Args:
        said: the failures that `load_libraries` returned.
        version: onnxruntime's; `built`: the version of CUDA that it was built for.
    """
    try:
        ctypes.CDLL("libcuda.so.1")
        why = said or "the libraries of CUDA and cuDNN that it needs do not fit, or the GPU is too old for it"
    except OSError as error:
        why = f"there is no NVIDIA driver ({error})"
    return (
        f"onnxruntime could not start {PROVIDER}: {why}. onnxruntime-gpu {version} needs an NVIDIA driver, CUDA {built} "
        f"and cuDNN 9: pip install 'onnxruntime-gpu[cuda,cudnn]' brings the last two. {_GO_ON}"
    )


def explained(line: str) -> str | None:
    """Explain an error of onnxruntime and its remedy; None if the device did not cause it."""
    meaning = next((meaning for pattern, meaning in _MEANINGS if re.search(pattern, line)), None)
    return None if meaning is None else f"{meaning}. {_GO_ON}. (onnxruntime: {line.split(' ; GPU=')[0]})"
