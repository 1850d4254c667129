"""A step with weights in int8, beside the float model and onnxruntime's own dynamic quantization, one thread.

    OMP_NUM_THREADS=1 pytest bench/test_quantize.py

*bare* is the graph as it is exported, *folded* the one that load() decodes with, *int8* load(..., quantize="int8"), *dynamic*
onnxruntime.quantization.quantize_dynamic with a scale for each channel (it leaves the layers of torch's exports in float where
their weights are re-arranged in the graph). --benchmark-json has every peer's largest distance from the float logits, relative
to the largest of them ("moved").
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the bench extra is not installed")

import decoding  # noqa: E402
from bench.networks import make  # noqa: E402
from decoding.model.verify import equivalence  # noqa: E402

# hidden, layers, vocabulary, batch
CASES = [(224, 2, 65, 1), (224, 2, 65, 16), (650, 2, 10000, 1), (650, 2, 10000, 16), (512, 3, 64, 128)]
STEPS = 10


def dynamic(data, folder):
    """The file as onnxruntime quantizes it."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    (folder / "float.onnx").write_bytes(data)
    quantize_dynamic(folder / "float.onnx", folder / "int8.onnx", per_channel=True, weight_type=QuantType.QInt8)
    return folder / "int8.onnx"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models of a case, made once."""
    made = {}

    def get(case):
        if case not in made:
            data = make(*case)[1]
            folder = tmp_path_factory.mktemp("case")
            sources = {"bare": (data, None), "int8": (data, "int8"), "dynamic": (dynamic(data, folder), None)}
            made[case] = {k: decoding.load(s, threads=1, quantize=q) for k, (s, q) in sources.items()}
        return made[case]

    return get


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[1]}x{c[0]}V{c[2]}B{c[3]}")
@pytest.mark.parametrize("peer", ["bare", "folded", "dynamic", "int8"])
def test_step(benchmark, models, peer, case):
    hidden, layers, vocab, batch = case
    model = models((hidden, layers, vocab))["bare" if peer == "folded" else peer]
    session = model._network.step_session if peer == "folded" else model._network.session
    ids = np.random.default_rng(0).integers(0, vocab, (batch, 1))
    feeds = {
        **model._network.contract.feeds(ids),
        **{s.input: s.initial_rows(batch) for s in model._network.contract.states},
    }
    names = [model._network.contract.logits.name, *(s.output for s in model._network.contract.states)]

    def steps():
        for _ in range(STEPS):
            session.run(feeds, names)

    name = f"{layers}x{hidden}, V {vocab}, B {batch}"
    benchmark.group = name
    benchmark.extra_info.update(workload=name, peer=peer, steps=STEPS)
    exact = models((hidden, layers, vocab))["bare"]._network.session
    benchmark.extra_info["moved"] = round(equivalence.change(session, exact, model._network.contract), 4)
    benchmark.pedantic(steps, rounds=15, warmup_rounds=1)
