"""decoding.export writes what equals the network, and says what to change where it cannot. Needs torch (the `export` extra)."""

import json

import numpy as np
import onnx
import pytest

from decoding import ModelError, OptionError, decode, export, load, score

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[export]')")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (pip install '.[export]')")
from torch import nn  # noqa: E402

V, H, S = 23, 12, 19
VOCAB = [chr(97 + i) for i in range(V)]


class LM(nn.Module):
    def __init__(self, cell="LSTM", layers=1, final=None, output="first", tie=False, dropout=0.0, **options):
        super().__init__()
        bidirectional = options.get("bidirectional", False)
        self.embedding = nn.Embedding(V, H)
        self.rnn = getattr(nn, cell)(H, H, layers, dropout=dropout, **{"batch_first": True, **options})
        self.norm = nn.LayerNorm(H * (1 + bidirectional))
        self.head = nn.Linear(H * (1 + bidirectional), V, bias=not tie)
        if tie:
            self.head.weight = self.embedding.weight
        self.final, self.output = final, output

    def forward(self, tokens):
        y, state = self.rnn(self.embedding(tokens))
        y = self.head(self.norm(y))
        y = y if self.final is None else getattr(torch, self.final)(y, -1)
        return {"first": y, "both": (y, state), "last": y[:, -1]}[self.output]


class OneHot(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(V, H, batch_first=True), nn.Linear(H, V)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


class WithContext(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.rnn, self.head = nn.Embedding(V, H), nn.GRU(H + 4, H, batch_first=True), nn.Linear(H, V)

    def forward(self, tokens, features):
        features = features[:, None].expand(-1, tokens.shape[1], -1)
        return self.head(self.rnn(torch.cat([self.embedding(tokens), features], -1))[0])


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.cell, self.head = nn.Embedding(V, H), nn.GRUCell(H, H), nn.Linear(H, V)

    def forward(self, tokens):
        h, out = torch.zeros(tokens.shape[0], H), []
        for t in range(tokens.shape[1]):
            h = self.cell(self.embedding(tokens[:, t]), h)
            out.append(self.head(h))
        return torch.stack(out, 1)


class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.cell, self.head = nn.Embedding(V, H), nn.LSTMCell(H, H), nn.Linear(H, V)

    def forward(self, tokens, h, c):
        h, c = self.cell(self.embedding(tokens), (h, c))
        return self.head(h), h, c


class Pairs(nn.Module):
    """Cells whose states are a list of pairs."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(V, H), nn.Linear(H, V)
        self.cells = nn.ModuleList([nn.LSTMCell(H, H) for _ in range(2)])

    def forward(self, tokens, states):
        x, after = self.embedding(tokens), []
        for cell, state in zip(self.cells, states, strict=True):
            x, c = cell(x, state)
            after.append((x, c))
        return self.head(x), after


class Tuple(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.rnn, self.head = nn.Embedding(V, H), nn.LSTM(H, H, 2, batch_first=True), nn.Linear(H, V)

    def forward(self, tokens, state):
        y, state = self.rnn(self.embedding(tokens), state)
        return self.head(y), state


class Noisy(LM):
    def forward(self, tokens):
        return nn.functional.dropout(super().forward(tokens), 0.5, training=True)


class Remembers(LM):
    calls = 0.0

    def forward(self, tokens):
        self.calls += 1.0
        return super().forward(tokens) + torch.arange(V) * self.calls


class Branches(LM):
    def forward(self, tokens):
        y = super().forward(tokens)
        if y.sum() > 0:
            y = y * 2
        return y


class HeldBranch(LM):
    """The condition is in a variable, of a kind that the line with the branch does not show."""

    def __init__(self, held):
        super().__init__()
        self.held = held

    def forward(self, tokens):
        y = super().forward(tokens)
        flag = self.held(y)
        return y * 2 if flag else y


class Harmless(LM):
    """Branches on sizes, on weights and in assertions, which one export holds for every input."""

    def forward(self, tokens):
        y = super().forward(tokens)
        assert (y.abs() >= 0).all()
        rows = tokens.size(0)
        if rows > 10**6 or tokens.shape[1] > 10**6:
            y = y * 0
        if self.head.bias[0].numel() and self.sign:
            y = -y
        return y


class Packed(LM):
    def forward(self, tokens):
        lengths = (tokens != 0).sum(1).clamp(min=1)
        x = nn.utils.rnn.pack_padded_sequence(self.embedding(tokens), lengths, batch_first=True, enforce_sorted=False)
        y, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(x)[0], batch_first=True, total_length=tokens.shape[1])
        return self.head(y)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(S, H)
        self.rnn, self.bridge = nn.GRU(H, H, batch_first=True, bidirectional=True), nn.Linear(2 * H, H)

    def forward(self, source):
        y, h = self.rnn(self.embedding(source))
        return y, torch.tanh(self.bridge(torch.cat([h[0], h[1]], -1)))[None]


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.query = nn.Embedding(V, H), nn.Linear(H, 2 * H)
        self.rnn, self.head = nn.GRU(3 * H, H, batch_first=True), nn.Linear(H, V)

    def forward(self, tokens, h, memory):
        weights = torch.softmax((self.query(h[-1])[:, None] * memory).sum(-1), -1)
        read = (weights[..., None] * memory).sum(1)
        y, h = self.rnn(torch.cat([self.embedding(tokens), read], -1)[:, None], h)
        return self.head(y[:, 0]), h


def made(network):
    torch.manual_seed(0)
    net = network().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
    return net


def logprobs(scores):
    return torch.log_softmax(scores.detach(), -1).double().numpy()


@pytest.mark.parametrize("dynamo", [True, False], ids=["newer", "older"])
def test_a_model_is_written_annotated_and_equals_the_network(dynamo, tmp_path):
    net, path = made(lambda: LM(layers=2, dropout=0.2)), tmp_path / "m.onnx"
    model = export.torch_model(
        net, path, vocab=VOCAB, bos_token_id=0, eos_token_id=[1, 2], max_new_tokens=33, dynamo=dynamo
    )
    assert list(tmp_path.iterdir()) == [path]
    assert (model.bos_token_id, model.eos_token_id, model.max_new_tokens) == (0, (1, 2), 33)
    assert decode(path, "ab", max_new_tokens=5).text == decode(model, "ab", max_new_tokens=5).text
    ids = np.random.default_rng(1).integers(0, V, 40)
    expected = logprobs(net(torch.tensor([[0, *ids]])))[0, np.arange(40), ids]
    np.testing.assert_allclose(score(model, ids.tolist())[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("network", "options"),
    [
        (lambda: LM("GRU", final="log_softmax", output="both"), {}),
        (lambda: LM("GRU", final="softmax", output="last"), {}),
        (lambda: LM("RNN"), {"dynamo": None}),  # the older exporter, by itself
        (lambda: LM(tie=True), {}),
        (OneHot, {"one_hot": V}),
        (WithContext, {"inputs": {"features": ("batch", 4)}}),
    ],
)
def test_networks_of_many_kinds(network, options, tmp_path):
    model = export.torch_model(made(network), tmp_path / "m.onnx", **{"dynamo": False, **options})
    assert model.vocab_size == V


@pytest.mark.parametrize(
    ("network", "states", "options"),
    [
        (Cells, {"h": ("batch", H), "c": ("batch", H)}, {}),
        (Cells, {"h": ("batch", H), "c": ("batch", H)}, {"initial": {"h": np.linspace(-1, 1, H)}}),
        (Tuple, {"h": (2, "batch", H), "c": (2, "batch", H)}, {}),
        (Pairs, {f"{s}{i}": ("batch", H) for i in range(2) for s in "hc"}, {}),
        (Tuple, {"h": (2, "batch", H), "c": (2, "batch", H)}, {"token": ("batch", "time")}),
    ],
)
def test_steps_equal_the_loop_over_the_network(network, states, options, tmp_path):
    net = made(network)
    model = export.torch_step(net, tmp_path / "m.onnx", states, dynamo=False, **options)
    ids = np.random.default_rng(1).integers(0, V, 12)
    values = [torch.zeros([1 if d == "batch" else d for d in sizes]) for sizes in states.values()]
    for name, value in options.get("initial", {}).items():
        values[list(states).index(name)] = torch.tensor(value, dtype=torch.float32)[None]
    expected = []
    for token in ids:
        if network is Pairs:
            scores, after = net(torch.tensor([token]), [tuple(values[:2]), tuple(values[2:])])
            values = [value for pair in after for value in pair]
        elif network is Cells:
            scores, *values = net(torch.tensor([token]), *values)
        else:
            scores, values = net(torch.tensor([[token]]), tuple(values))
            scores = scores[:, 0]
        expected.append(logprobs(scores)[0])
    found = score(model, ids.tolist())[0][1:]
    np.testing.assert_allclose(found, np.array(expected)[np.arange(11), ids[1:]], atol=1e-4)


def test_an_encoder_and_its_decoder(tmp_path):
    encoder, decoder = made(Encoder), made(Decoder)
    model = export.torch_pair(
        encoder,
        decoder,
        tmp_path / "m.onnx",
        sources={"source": ("batch", "source")},
        source_ids=S,
        outputs={"memory": ("batch", "source", 2 * H), "h": (1, "batch", H)},
        states={"h": (1, "batch", H)},
        vocab=VOCAB,
        bos_token_id=0,
        eos_token_id=1,
        encoder_vocab=VOCAB[:S],
        dynamo=False,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.encoder.onnx", "m.onnx"]
    memory, h = encoder(torch.tensor([[3, 1, 4, 2]]))
    expected, token = [], torch.tensor([0])
    for _ in range(8):
        scores, h = decoder(token, h, memory)
        token = scores.argmax(-1)
        expected.append(int(token))
    found = decode(model, VOCAB[3] + VOCAB[1] + VOCAB[4] + VOCAB[2], max_new_tokens=8, eos_token_id=None)[0]
    assert found.tokens == expected
    assert decode(load(tmp_path / "m.onnx"), "dbec", max_new_tokens=8, eos_token_id=None)[0].tokens == expected


@pytest.mark.parametrize(
    ("network", "options", "error", "message"),
    [
        (lambda: made(LM).train(), {}, OptionError, r"LM: LM is in training mode.*call net.eval\(\) first"),
        (lambda: made(LM).double(), {}, OptionError, r"its weights are float64.*net.float\(\)"),
        (lambda: 7, {}, OptionError, "net=7: expected a torch.nn.Module"),
        (lambda: made(Noisy), {}, ModelError, "two runs on the same tokens give different scores: it draws random numbers"),
        (lambda: made(Remembers), {}, ModelError, "or keeps something between calls"),
        (lambda: made(Loop), {"dynamo": False}, ModelError, r"write forward\(\) for one token.*torch_step\(\)"),
        (lambda: made(lambda: LM(bidirectional=True)), {"dynamo": False}, ModelError, "is bidirectional"),
        (lambda: made(lambda: LM(proj_size=4)), {}, ModelError, r"rnn \(LSTM\) has proj_size=4, which torch's exporters do not write"),
        (lambda: made(lambda: LM(batch_first=False)), {}, ModelError, r"a row's scores change with the other rows: rnn \(LSTM\) has batch_first=False"),
        (lambda: made(Packed), {}, ModelError, "its scores of a token change with the tokens after it.*packed sequences"),
        (lambda: made(Branches), {"dynamo": False}, ModelError, r"'if y.sum\(\) > 0:' takes a value from a tensor to choose a branch.*torch.where"),
        (lambda: made(lambda: HeldBranch(lambda y: y.sum() > 0)), {"dynamo": False}, ModelError, "'return y \\* 2 if flag else y' takes a value"),
        (lambda: made(lambda: HeldBranch(lambda y: bool(y.amax() > 0))), {"dynamo": False}, ModelError, r"bool\(y.amax\(\) > 0\).*takes a value"),
        (lambda: made(lambda: HeldBranch(lambda y: (y > 0).any().item())), {"dynamo": False}, ModelError, r"any\(\).item\(\).*takes a value"),
        (lambda: made(lambda: HeldBranch(lambda y: y.sum() > 0)), {}, ModelError, "takes a value"),
        (lambda: made(Tuple), {}, ModelError, "a network that takes its states is exported by torch_step"),
        (lambda: nn.Sequential(nn.Embedding(V, H), nn.Flatten(0)).eval(), {}, ModelError, r"expected scores \[batch, time, vocabulary\]"),
        (lambda: nn.LSTM(H, H).eval(), {}, ModelError, r"forward\(\) fails on tokens int64 \[2, 5\]"),
        (lambda: made(LM), {"vocab": ["a"]}, OptionError, "vocab: only 1 tokens"),
        (lambda: made(LM), {"vocab": VOCAB, "tokenizer": VOCAB}, OptionError, "vocab and tokenizer: pass only one"),
        (lambda: made(LM), {"eos_token_id": -1}, OptionError, "eos_token_id"),
        (lambda: made(WithContext), {"inputs": {"features": (4,)}}, OptionError, "features: sizes"),
        (lambda: made(LM), {"one_hot": 0}, OptionError, "one_hot=0"),
    ],
)  # fmt: skip
def test_errors_say_what_to_change(network, options, error, message, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"what was there before")
    with pytest.raises(error, match=f"(?s){message}") as raised:
        export.torch_model(network(), path, **options)
    assert path.read_bytes() == b"what was there before"
    assert list(tmp_path.iterdir()) == [path]
    assert "/." not in str(raised.value)  # the file that it was tried in


@pytest.mark.parametrize(
    ("states", "error", "message"),
    [
        ({}, OptionError, "states={}: a step needs the sizes of its states"),
        ({"h": ("batch", H)}, ModelError, "missing 1 required positional argument: 'c'"),
        ({"h": (H,), "c": ("batch", H)}, OptionError, "h: sizes"),
        ({"h": ("batch", H), "c": ("batch", H + 1)}, ModelError, r"forward\(\) fails on"),
    ],
)
def test_wrong_states_are_named(states, error, message, tmp_path):
    with pytest.raises(error, match=message):
        export.torch_step(made(Cells), tmp_path / "m.onnx", states)


@pytest.mark.parametrize("path", [7, "no/such/folder/m.onnx"])
def test_a_path_that_cannot_be_written(path):
    with pytest.raises(OptionError, match="path="):
        export.torch_model(made(LM), path, dynamo=False)


def test_branches_that_no_value_decides_are_exported(tmp_path):
    net = made(Harmless)
    net.register_buffer("sign", torch.tensor(True))
    model = export.torch_model(net, tmp_path / "m.onnx", dynamo=False)
    expected = logprobs(net(torch.tensor([[1, 2, 3]])))[0]
    np.testing.assert_allclose(score(model, [[1, 2, 3]])[0][1:], expected[[0, 1], [2, 3]], atol=1e-4)


def test_a_file_that_gives_other_scores_is_refused(tmp_path, monkeypatch):
    from decoding.export import torch_models

    write = torch_models.write

    def broken(torch, module, arguments, ports, file, dynamo):
        write(torch, module, arguments, ports, file, dynamo)
        proto = onnx.load(file)
        last = next(t for t in proto.graph.initializer if list(t.dims) == [V])
        last.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(last) + np.arange(V, dtype=np.float32), last.name)
        )
        onnx.save(proto, file)

    monkeypatch.setattr(torch_models, "write", broken)
    with pytest.raises(ModelError, match="scores differ from the network's from token 1 on"):
        export.torch_model(made(LM), tmp_path / "m.onnx", dynamo=False)
    assert list(tmp_path.iterdir()) == []


def test_roles_are_written(tmp_path):
    path = tmp_path / "m.onnx"
    export.torch_model(made(LM), path, dynamo=False, roles={"token": "tokens"})
    entries = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(entries["decoding.roles"]) == {"token": "tokens"}
