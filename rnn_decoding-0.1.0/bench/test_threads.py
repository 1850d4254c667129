"""One batch on two cores: one thread, onnxruntime's intra-op threads, or two workers with half the rows each?

    pytest bench/test_threads.py --benchmark-json=threads.json

What decode() chooses by itself (`workers=None`, `load(threads=None)`) rests on this table; see docs/benchmarks/decode.md.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the bench extra is not installed")

import decoding  # noqa: E402
from bench.networks import make  # noqa: E402

NETWORKS = {"1x32-V5000": (32, 1, 5000), "2x128-V256": (128, 2, 256), "3x512-V64": (512, 3, 64), "2x650-V10000": (650, 2, 10_000)}  # fmt: skip
WAYS = {"1 thread": (1, 1, 1), "2 intra-op threads": (2, 1, 1), "2 workers": (1, 2, 2)}  # threads, workers, batches
STEPS = 50


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    return request.param, make(*NETWORKS[request.param])[1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rows", [1, 16, 64, 128])
def test_one_batch(benchmark, network, rows, way):
    name, exported = network
    threads, workers, parts = WAYS[way]
    if rows < parts:
        pytest.skip("fewer rows than workers")
    model = decoding.load(exported, threads=threads, verify=False)
    benchmark.group = workload = f"{name}, {rows} rows"
    benchmark.extra_info.update(workload=workload, peer=way, steps=STEPS, batch=rows)
    benchmark.pedantic(
        lambda: decoding.decode(model, [[1]] * rows, decoding.Sample(), max_new_tokens=STEPS, eos_token_id=None, seed=1,
                                batch_size=rows // parts, workers=workers),
        rounds=3,
        warmup_rounds=1,
    )  # fmt: skip
