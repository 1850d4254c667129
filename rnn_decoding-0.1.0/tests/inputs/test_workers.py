"""How many threads a call decodes in."""

import pytest

from decoding import Beam, Sample, load
from decoding.inputs.options import make_call
from decoding.inputs.workers import choose_workers
from tests.helpers import build


@pytest.mark.parametrize(
    ("strategy", "prompts", "options", "large", "workers"),
    [
        (Sample(), 127, {}, False, 1),
        (Sample(), 128, {}, False, 2),
        (Sample(), 4000, {}, False, 2),
        (Sample(), 8, {"num_return_sequences": 16}, False, 2),
        (Beam(num_beams=5), 26, {}, False, 2),
        (Beam(num_beams=5), 20, {}, False, 1),
        (Sample(), 12, {"batch_size": 6}, False, 2),
        (Sample(), 128, {}, True, 1),  # one batch of a large network
        (Sample(), 256, {}, True, 2),
        (Sample(), 4000, {"processors": [print]}, False, 1),
    ],
)
def test_workers_by_the_size_of_the_call_and_of_the_network(strategy, prompts, options, large, workers, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    model = load(build.recurrent("GRU"), executor="onnxruntime")
    monkeypatch.setattr(type(model), "weight_bytes", property(lambda _: 1 << 26 if large else 1 << 10))
    call = make_call(model, strategy, **options)
    rows, processors = prompts * call.settings.rows_per_request, "processors" in options
    alone = load(build.recurrent("GRU"), threads=1)
    assert choose_workers(model, call, None, rows, processors=processors) == workers
    assert choose_workers(model, call, 3, rows, processors=processors) == 3
    assert choose_workers(alone, call, None, rows, processors=processors) == 1


@pytest.mark.parametrize(("prompts", "workers"), [(31, 1), (32, 2), (47, 2), (48, 3), (4000, 4)])
def test_a_native_worker_is_worth_it_from_fewer_rows_on(prompts, workers, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)), raising=False)
    model = load(build.recurrent("GRU"), executor="native")
    assert choose_workers(model, make_call(model, Sample()), None, prompts, processors=False) == workers
