"""decode() on a GPU beside torch on the same GPU and decode() on the CPU: tokens per second.

    pytest bench/test_cuda.py --benchmark-json=cuda.json

- decode: `load(..., providers="cuda")`, as a user calls it; decode-cpu: the same on the CPU.
- eager: the network's own loop with torch.multinomial, everything on the GPU; nothing is read back but at the end.
- graph: the same step, captured as a CUDA graph and replayed; compile: torch.compile(mode="reduce-overhead") around it.
- beams: torch has no beam search by Hugging Face's rules. The peer is the cheapest loop there is: log-softmax, topk over all
  beams, states reordered.

The workloads are those of test_decode.py and test_many.py, and batches of 1024. torch's TF32 is off, as is ours.
"""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch", reason="the bench extra is not installed")

import decoding  # noqa: E402
from bench.networks import make  # noqa: E402
from tests.helpers.cuda import needs_cuda  # noqa: E402

DEVICE = "cuda"
STEPS = 200
TEMPERATURE = 0.8
SEQUENCES = int(os.environ.get("BENCH_SEQUENCES", "10000"))
EOS, SHORTEST, LONGEST, BATCH = 0, 20, 120, 128
# name: hidden, layers, vocabulary, batch
WORKLOADS = {
    "LSTM 2x128, V 256, B 1": (128, 2, 256, 1),
    "LSTM 2x128, V 256, B 64": (128, 2, 256, 64),
    "LSTM 2x128, V 256, B 1024": (128, 2, 256, 1024),
    "LSTM 1x32, V 5000, B 64": (32, 1, 5000, 64),
    "LSTM 1x32, V 5000, B 1024": (32, 1, 5000, 1024),
}


@pytest.fixture(scope="module", params=WORKLOADS, ids=lambda name: name.replace(" ", ""))
def workload(request):
    hidden, layers, vocab, batch = WORKLOADS[request.param]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    net, data = make(hidden, layers, vocab)
    return request.param, net.to(DEVICE), data, batch


def measure(benchmark, name, peer, tokens, function, rounds=7):
    """The table at the end has microseconds a token; tokens per second are 1e6 over that."""
    benchmark.group = name
    benchmark.extra_info.update(workload=name, peer=peer, steps=tokens)
    benchmark.pedantic(function, rounds=rounds, warmup_rounds=2)


@needs_cuda
@pytest.mark.parametrize("providers", ["cuda", "cpu"])
def test_decode(benchmark, workload, providers):
    name, _, data, batch = workload
    model = decoding.load(data, providers=providers)
    prompts, strategy = [[1]] * batch, decoding.Sample(temperature=TEMPERATURE)
    peer = "decode" if providers == "cuda" else "decode-cpu"
    options = {"max_new_tokens": STEPS, "seed": 1, "batch_size": batch, "eos_token_id": None}
    measure(benchmark, name, peer, STEPS * batch, lambda: decoding.decode(model, prompts, strategy, **options))


def one_step(net, tokens, h, c):
    """The next tokens [B, 1] and states."""
    logits, h, c = net(tokens, h, c)
    return torch.multinomial(torch.softmax(logits[:, -1] / TEMPERATURE, -1), 1), h, c


def start(net, batch):
    """Tokens and states before the first step."""
    tokens = torch.ones(batch, 1, dtype=torch.int64, device=DEVICE)
    return tokens, *(state.to(DEVICE) for state in net.zero_state(batch))


@torch.inference_mode()
def eager(net, batch):
    state, out = start(net, batch), []
    for _ in range(STEPS):
        state = one_step(net, *state)
        out.append(state[0])
    return torch.cat(out, 1).cpu()


class Captured:
    """The step as a CUDA graph over buffers of its own."""

    @torch.inference_mode()
    def __init__(self, net, batch):
        self.net, self.batch = net, batch
        self.state = start(net, batch)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                one_step(net, *self.state)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for mine, new in zip(self.state, one_step(net, *self.state), strict=True):
                mine.copy_(new)

    @torch.inference_mode()
    def __call__(self):
        for mine, first in zip(self.state, start(self.net, self.batch), strict=True):
            mine.copy_(first)
        out = torch.empty(STEPS, self.batch, 1, dtype=torch.int64, device=DEVICE)
        for step in range(STEPS):
            self.graph.replay()
            out[step] = self.state[0]
        return out.cpu()


@torch.inference_mode()
def compiled(net, batch, step):
    state, out = start(net, batch), []
    for _ in range(STEPS):
        torch.compiler.cudagraph_mark_step_begin()
        state = tuple(tensor.clone() for tensor in step(net, *state))
        out.append(state[0])
    return torch.cat(out, 1).cpu()


@needs_cuda
@pytest.mark.parametrize("peer", ["eager", "graph", "compile"])
def test_torch(benchmark, workload, peer):
    name, net, _, batch = workload
    if peer == "eager":
        run = lambda: eager(net, batch)  # noqa: E731
    elif peer == "graph":
        run = Captured(net, batch)
    else:
        step = torch.compile(one_step, mode="reduce-overhead")
        run = lambda: compiled(net, batch, step)  # noqa: E731
    measure(benchmark, name, peer, STEPS * batch, run)


@pytest.fixture(scope="module")
def generator():
    return make(512, 3, 64, end=EOS)


@needs_cuda
@pytest.mark.parametrize("providers", ["cuda", "cpu"])
def test_many_decode(benchmark, generator, providers):
    """Sequences of 20 to 120 tokens, batches of 128, slots filled again as they become free."""
    model, out = decoding.load(generator[1], providers=providers), []
    options = {
        "max_new_tokens": LONGEST,
        "min_new_tokens": SHORTEST,
        "eos_token_id": EOS,
        "batch_size": BATCH,
        "seed": 1,
    }

    def run():
        out[:] = decoding.decode(model, [[1]] * SEQUENCES, decoding.Sample(), **options)

    measure(benchmark, "many", "decode" if providers == "cuda" else "decode-cpu", 1, run, rounds=2)
    benchmark.extra_info.update(steps=sum(len(h.token_logprobs) for h in out))


@torch.inference_mode()
def torch_many(net):
    """Rows that have ended run on until the batch's last one ends."""
    counted = 0
    for _ in range(-(-SEQUENCES // BATCH)):
        tokens, h, c = start(net, BATCH)
        live = torch.ones(BATCH, dtype=torch.bool, device=DEVICE)
        total = torch.zeros((), dtype=torch.int64, device=DEVICE)
        for step in range(LONGEST):
            logits, h, c = net(tokens, h, c)
            logits = logits[:, -1]
            if step + 1 < SHORTEST:
                logits[:, EOS] = -torch.inf
            tokens = torch.multinomial(torch.softmax(logits, -1), 1)
            total += live.sum()
            live &= tokens[:, 0] != EOS
            if step % 8 == 7 and not live.any():  # looking waits for the GPU
                break
        counted += int(total)
    return counted


@needs_cuda
def test_many_torch(benchmark, generator):
    found = []
    net = generator[0].to(DEVICE)
    measure(benchmark, "many", "eager", 1, lambda: found.append(torch_many(net)), rounds=2)
    benchmark.extra_info.update(steps=found[0])


BEAMS, BEAM_STEPS, BEAM_PROMPTS = 5, 30, [[i + 1] for i in range(8)]


@pytest.fixture(scope="module")
def translator():
    return make(650, 2, 10_000)


@needs_cuda
@pytest.mark.parametrize("providers", ["cuda", "cpu"])
def test_beam_decode(benchmark, translator, providers):
    model = decoding.load(translator[1], providers=providers)
    run = lambda: decoding.decode(model, BEAM_PROMPTS, decoding.Beam(BEAMS), max_new_tokens=BEAM_STEPS, eos_token_id=None)  # noqa: E731  # fmt: skip
    measure(benchmark, "beam 5, 8 prompts", "decode" if providers == "cuda" else "decode-cpu", BEAM_STEPS * 8, run)


@torch.inference_mode()
def torch_beams(net):
    prompts = len(BEAM_PROMPTS)
    tokens = torch.tensor(BEAM_PROMPTS, device=DEVICE).repeat_interleave(BEAMS, 0)
    h, c = (state.to(DEVICE) for state in net.zero_state(prompts * BEAMS))
    scores = torch.full((prompts, BEAMS), -1e9, device=DEVICE)
    scores[:, 0] = 0
    first = torch.arange(prompts, device=DEVICE)[:, None] * BEAMS
    for _ in range(BEAM_STEPS):
        logits, h, c = net(tokens, h, c)
        total = scores[:, :, None] + torch.log_softmax(logits[:, -1], -1).view(prompts, BEAMS, -1)
        scores, flat = total.view(prompts, -1).topk(BEAMS)
        rows = (first + flat // logits.shape[-1]).view(-1)
        tokens, h, c = (flat % logits.shape[-1]).view(-1, 1), h[:, rows], c[:, rows]
    return scores.cpu()


@needs_cuda
def test_beam_torch(benchmark, translator):
    net = translator[0].to(DEVICE)
    measure(benchmark, "beam 5, 8 prompts", "eager", BEAM_STEPS * 8, lambda: torch_beams(net))
