"""A step with the embedding and the input weights folded into one table, beside the LSTM as it is exported, one thread.

    OMP_NUM_THREADS=1 pytest bench/test_folding.py

The rule in decoding/model/passes/fold_embedding.py (SMALLEST_HIDDEN) comes from this table.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the bench extra is not installed")

import decoding  # noqa: E402
from bench.networks import make  # noqa: E402
from decoding.model.passes import fold_embedding  # noqa: E402
from decoding.model.runtime.session import Session  # noqa: E402

# hidden, layers, vocabulary
NETWORKS = [(32, 1, 256), (64, 1, 256), (96, 1, 256), (128, 2, 256), (224, 2, 65), (512, 3, 64)]
STEPS = 20


@pytest.mark.parametrize("batch", [1, 16, 64])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: f"{n[1]}x{n[0]}V{n[2]}")
@pytest.mark.parametrize("peer", ["bare", "folded"])
def test_step(benchmark, monkeypatch, peer, network, batch):
    monkeypatch.setattr(fold_embedding, "SMALLEST_HIDDEN", 1)
    hidden, layers, vocab = network
    model = decoding.load(make(hidden, layers, vocab)[1], threads=1)
    session = model._network.session
    if peer == "folded":
        session = Session(fold_embedding.fold_embedding(model._graph, model._network.contract), threads=1)
    ids = np.random.default_rng(0).integers(0, vocab, (batch, 1))
    feeds = {
        **model._network.contract.feeds(ids),
        **{s.input: s.initial_rows(batch) for s in model._network.contract.states},
    }
    names = [model._network.contract.logits.name]

    def steps():
        for _ in range(STEPS):
            session.run(feeds, names)

    name = f"{layers}x{hidden}, V {vocab}, B {batch}"
    benchmark.group = name
    benchmark.extra_info.update(workload=name, peer=peer, steps=STEPS)
    benchmark.pedantic(steps, rounds=25, warmup_rounds=2)
