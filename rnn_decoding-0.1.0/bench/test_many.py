"""Many sequences of unequal length, and beams: decode() beside the loops that people write, on one and two threads.

    pytest bench/test_many.py --benchmark-json=many.json

- many: sequences of 20 to 120 tokens from an LSTM 3x512 over 64 tokens (a molecule generator's size), batches of 128.
  The torch loop computes finished rows until the batch's last one ends, as REINVENT's does.
- beams: 5 beams, 8 prompts, an LSTM 2x650 over 10,000 words, 30 tokens; Hugging Face's generate() around the same torch
  network, its states carried.
- workers: 512 sequences of 60 tokens, one worker against two.
"""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch", reason="the bench extra is not installed")

import decoding  # noqa: E402
from bench.networks import make  # noqa: E402

SEQUENCES = int(os.environ.get("BENCH_SEQUENCES", "10000"))
EOS, SHORTEST, LONGEST, BATCH = 0, 20, 120, 128


@pytest.fixture(scope="module", params=[1, 2], ids=["1thread", "2threads"])
def threads(request):
    torch.set_num_threads(request.param)
    return request.param


@pytest.fixture(scope="module")
def generator():
    return make(512, 3, 64, end=EOS)


def record(benchmark, workload, peer, threads, tokens, function):
    name = f"{workload}, {threads} thread{'s' * (threads > 1)}"
    benchmark.group = name
    benchmark.extra_info.update(workload=name, peer=peer, steps=tokens, batch=BATCH)
    benchmark.pedantic(function, rounds=1)


def test_many_decode(benchmark, generator, threads):
    model = decoding.load(generator[1], threads=threads)
    if threads > 1:
        model = decoding.load(generator[1])  # the default: workers or intra-op threads, as decode() finds best
    out = []

    def run():
        out[:] = decoding.decode(
            model, [[1]] * SEQUENCES, decoding.Sample(), max_new_tokens=LONGEST, min_new_tokens=SHORTEST, eos_token_id=EOS,
            batch_size=BATCH, seed=1,
        )  # fmt: skip

    record(benchmark, "many", "decode", threads, 1, run)
    tokens = sum(len(h.token_logprobs) for h in out)
    benchmark.extra_info.update(steps=tokens)


@torch.inference_mode()
def torch_many(net):
    tokens = 0
    for _ in range(-(-SEQUENCES // BATCH)):
        ids = torch.ones(BATCH, 1, dtype=torch.int64)
        h, c = net.zero_state(BATCH)
        live = torch.ones(BATCH, dtype=torch.bool)
        for step in range(LONGEST):
            logits, h, c = net(ids, h, c)
            logits = logits[:, -1]
            if step + 1 < SHORTEST:
                logits[:, EOS] = -torch.inf
            ids = torch.multinomial(torch.softmax(logits, -1), 1)
            tokens += int(live.sum())
            live &= ids[:, 0] != EOS
            if not live.any():
                break
    return tokens


def test_many_torch(benchmark, generator, threads):
    found = []
    record(benchmark, "many", "torch", threads, 1, lambda: found.append(torch_many(generator[0])))
    benchmark.extra_info.update(steps=found[0])


@pytest.fixture(scope="module")
def translator():
    return make(650, 2, 10_000)


BEAM_PROMPTS = [[i + 1] for i in range(8)]


def test_beam_decode(benchmark, translator, threads):
    model = decoding.load(translator[1], threads=threads)
    beam = decoding.Beam(num_beams=5)
    record(benchmark, "beam 5, 8 prompts", "decode", threads, 30,
           lambda: decoding.decode(model, BEAM_PROMPTS, beam, max_new_tokens=30, eos_token_id=EOS))  # fmt: skip


def test_beam_huggingface(benchmark, translator, threads):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers.modeling_outputs import CausalLMOutputWithPast

    class Config(transformers.PretrainedConfig):
        model_type, vocab_size, num_hidden_layers, hidden_size = "lstm", 10_000, 2, 650

    class Wrapped(transformers.PreTrainedModel, transformers.GenerationMixin):
        config_class = Config
        _supports_cache_class = False

        def __init__(self, config, net):
            super().__init__(config)
            self.net = net
            self.state = None

        def forward(self, input_ids, **_):
            if self.state is None:
                self.state = self.net.zero_state(len(input_ids))
            logits, *self.state = self.net(input_ids[:, -1:], *self.state)
            return CausalLMOutputWithPast(logits=logits)

        def prepare_inputs_for_generation(self, input_ids, **_):
            # Reordering the states by the beams' parents would cost Hugging Face more; it is left out in its favour.
            return {"input_ids": input_ids}

    net = translator[0]

    def run():
        model = Wrapped(Config(), net).eval()
        model.generation_config = transformers.GenerationConfig(use_cache=False, eos_token_id=EOS, pad_token_id=EOS)
        with torch.inference_mode():
            model.generate(torch.tensor(BEAM_PROMPTS), num_beams=5, max_new_tokens=30, do_sample=False)

    record(benchmark, "beam 5, 8 prompts", "huggingface", threads, 30, run)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("hidden", "layers", "vocab", "batch"), [(512, 3, 64, 128), (32, 1, 5000, 64)])
def test_workers(benchmark, hidden, layers, vocab, batch, workers):
    model = decoding.load(make(hidden, layers, vocab)[1], threads=1)
    benchmark.group = name = f"512 sequences, {layers}x{hidden}, V {vocab}, batch {batch}"
    benchmark.extra_info.update(
        workload=name, peer=f"{workers} worker{'s' * (workers > 1)}", steps=512 * 60, batch=batch
    )
    benchmark.pedantic(
        lambda: decoding.decode(
            model,
            [[1]] * 512,
            decoding.Sample(),
            max_new_tokens=60,
            eos_token_id=None,
            seed=1,
            batch_size=batch,
            workers=workers,
        ),
        rounds=3,
        warmup_rounds=1,
    )
