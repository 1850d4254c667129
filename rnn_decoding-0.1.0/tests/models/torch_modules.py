"""The small PyTorch modules that make_torch.py exports. Vocabulary V, embedding E, hidden size H."""

import inspect

import numpy as np
import torch
from torch import nn

V, E, H = 9, 4, 6


def parameters(module):
    return inspect.signature(module.forward).parameters.values()


def nothing(ids):
    return np.zeros((len(ids), V))


def source():
    """Return an encoder's output [1, 4, 2H] for the attention decoder."""
    return np.random.default_rng(4).uniform(-1, 1, (1, 4, 2 * H)).astype(np.float32)


def apply_head(x, head):
    if head == "softmax":
        return torch.softmax(x, -1)
    if head == "manual_softmax":
        e = torch.exp(x - x.max(-1, keepdim=True).values)
        return e / e.sum(-1, keepdim=True)
    if head == "log_softmax":
        return torch.log_softmax(x, -1)
    if head == "log_of_softmax":
        return torch.log(torch.softmax(x, -1))
    if head == "logsumexp":
        return x - torch.logsumexp(x, -1, keepdim=True)
    if head == "manual_log_softmax":
        x = x - x.max(-1, keepdim=True).values
        return x - torch.log(torch.exp(x).sum(-1, keepdim=True))
    if head == "bvt":
        return torch.log_softmax(x.transpose(1, 2), 1)
    return x


class Sequence(nn.Module):
    """Embedding, an RNN over the whole sequence, Linear."""

    def __init__(self, kind, layers=1, *, tb=False, head=None, last=False, onehot=False,
                 bidirectional=False, proj=0,
                 learned=False, tied=False, cast16=False, **options):  # fmt: skip
        super().__init__()
        embedding = H if tied else E
        if proj:
            options["proj_size"] = proj
        self.rnn = getattr(nn, kind)(V if onehot else embedding, H, layers, batch_first=not tb,
                                     bidirectional=bidirectional, **options)  # fmt: skip
        self.emb = None if onehot else nn.Embedding(V, embedding)
        self.out = nn.Linear((proj or H) * (1 + bidirectional), V)
        if tied:
            self.out.weight = self.emb.weight
        self.start = nn.ParameterList(
            nn.Parameter(torch.zeros(layers, 1, H)) for _ in range((2 if kind == "LSTM" else 1) if learned else 0)
        )
        self.tb, self.head, self.last, self.cast16 = tb, head, last, cast16

    def forward(self, tokens):
        x = tokens if self.emb is None else self.emb(tokens)
        if self.cast16 and not torch.is_grad_enabled() and x.dtype == torch.float32:
            x = nn.functional.embedding(tokens, self.emb.weight.half()).float()
        states = [s.expand(-1, tokens.shape[1 if self.tb else 0], -1).contiguous() for s in self.start]
        y, _ = self.rnn(x, (tuple(states) if len(states) > 1 else states[0]) if states else None)
        if self.last:
            y = y[-1] if self.tb else y[:, -1]
        if self.cast16 and x.dtype == torch.float32:
            return (y.half() @ self.out.weight.half().T + self.out.bias.half()).float()
        return apply_head(self.out(y), self.head)


class LstmStates(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.emb, self.rnn, self.out = (
            nn.Embedding(V, E),
            nn.LSTM(E, H, layers, batch_first=True),
            nn.Linear(H, V),
        )

    def forward(self, tokens, h0, c0):
        y, (h, c) = self.rnn(self.emb(tokens), (h0, c0))
        return self.out(y), h, c


class LstmStep(LstmStates):
    """One token a call, [batch, 1]: scores [batch, V], of the first position or of the only one."""

    def __init__(self, how):
        super().__init__(2)
        self.how = how

    def forward(self, token, h0, c0):
        y, (h, c) = self.rnn(self.emb(token), (h0, c0))
        return self.out(y[:, 0] if self.how == "first" else y.squeeze(1)), h, c


class Transducer(nn.Module):
    """An RNN-T's prediction network and its joint network: the last label and a frame of the encoder in, scores out."""

    def __init__(self):
        super().__init__()
        self.emb, self.rnn = nn.Embedding(V, E), nn.LSTM(E, H, 2, batch_first=True)
        self.prediction, self.frame, self.out = nn.Linear(H, E), nn.Linear(3, E), nn.Linear(E, V)

    def forward(self, label, frame, h0, c0):
        y, (h, c) = self.rnn(self.emb(label), (h0, c0))
        joint = torch.tanh(self.frame(frame)[:, :, None] + self.prediction(y)[:, None])
        return torch.log_softmax(self.out(joint).squeeze(2).squeeze(1), -1), h, c


class GruStates(nn.Module):
    def __init__(self, layers, kind="GRU", tb=False):
        super().__init__()
        self.emb, self.out = nn.Embedding(V, E), nn.Linear(H, V)
        self.rnn = getattr(nn, kind)(E, H, layers, batch_first=not tb)

    def forward(self, tokens, h0):
        y, h = self.rnn(self.emb(tokens), h0)
        return self.out(y), h


class WordLanguageModel(nn.Module):
    """The model of PyTorch's word_language_model example."""

    def __init__(self):
        super().__init__()
        self.encoder, self.rnn, self.decoder = nn.Embedding(V, E), nn.LSTM(E, H, 2), nn.Linear(H, V)
        self.drop = nn.Dropout(0.5)

    def forward(self, tokens, h0, c0):
        y, (h, c) = self.rnn(self.drop(self.encoder(tokens)), (h0, c0))
        return torch.log_softmax(self.decoder(self.drop(y)).view(-1, V), dim=1), h, c


class CharRnn(nn.Module):
    """The model of char-rnn.pytorch: one character a call."""

    def __init__(self):
        super().__init__()
        self.encoder, self.gru, self.decoder = nn.Embedding(V, H), nn.GRU(H, H, 2), nn.Linear(H, V)

    def forward(self, token, hidden):
        y, hidden = self.gru(self.encoder(token).view(1, token.shape[0], -1), hidden)
        return self.decoder(y.view(token.shape[0], -1)), hidden


class Peephole(nn.Module):
    """A hand-written LSTM cell whose gates see the cell state."""

    def __init__(self, inputs):
        super().__init__()
        self.x, self.h = nn.Linear(inputs, 4 * H), nn.Linear(H, 4 * H, bias=False)
        self.p = nn.Parameter(torch.zeros(3, H))

    def forward(self, x, state):
        h, c = state
        i, f, g, o = (self.x(x) + self.h(h)).chunk(4, -1)
        i, f = torch.sigmoid(i + self.p[0] * c), torch.sigmoid(f + self.p[1] * c)
        c = f * c + i * torch.tanh(g)
        return torch.sigmoid(o + self.p[2] * c) * torch.tanh(c), c


class Projected(nn.Module):
    """An LSTM cell with projection: h has another size than c."""

    def __init__(self, inputs, size=3):
        super().__init__()
        self.x, self.h, self.r = (
            nn.Linear(inputs, 4 * H),
            nn.Linear(size, 4 * H),
            nn.Linear(H, size, bias=False),
        )

    def forward(self, x, state):
        i, f, g, o = (self.x(x) + self.h(state[0])).chunk(4, -1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        return self.r(torch.sigmoid(o) * torch.tanh(c)), c


class Cells(nn.Module):
    """Two cells; every state is an input and an output of its own: h0, c0, h1, c1 or h0, h1."""

    def __init__(self, kind):
        super().__init__()
        own = {"peephole": Peephole, "LSTMP": Projected}
        make = own.get(kind) or (lambda n: getattr(nn, kind + "Cell")(n, H))
        width = 3 if kind == "LSTMP" else H
        self.cells, self.pairs = (
            nn.ModuleList(make(n) for n in (E, width)),
            kind in ("LSTM", "peephole", "LSTMP"),
        )
        self.emb, self.out = nn.Embedding(V, E), nn.Linear(width, V)

    def forward(self, token, *states):
        x, new = self.emb(token), []
        for i, cell in enumerate(self.cells):
            if self.pairs:
                x, c = cell(x, (states[2 * i], states[2 * i + 1]))
                new += [x, c]
            else:
                x = cell(x, states[i])
                new.append(x)
        return self.out(x), *new


class LoopOverCell(nn.Module):
    """A Python loop over the time steps."""

    def __init__(self, kind):
        super().__init__()
        self.emb, self.out, self.lstm, self.size = nn.Embedding(V, E), nn.Linear(H, V), kind == "LSTM", H
        self.a, self.b = nn.LSTMCell(E, H), nn.GRUCell(E, H)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.emb(tokens)
        h = torch.zeros(tokens.size(0), self.size, dtype=x.dtype)
        c = torch.zeros(tokens.size(0), self.size, dtype=x.dtype)
        ys = []
        for t in range(tokens.size(1)):
            if self.lstm:
                h, c = self.a(x[:, t], (h, c))
            else:
                h = self.b(x[:, t], h)
            ys.append(h)
        return self.out(torch.stack(ys, 1))


class LoopConcat(nn.Module):
    """A Python loop over a tanh cell that concatenates its outputs as it goes."""

    def __init__(self):
        super().__init__()
        self.emb, self.out, self.x, self.h = (
            nn.Embedding(V, E),
            nn.Linear(H, V),
            nn.Linear(E, H),
            nn.Linear(H, H),
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.x(self.emb(tokens))
        h = torch.zeros_like(x[:, 0])
        y = x[:, :0]
        for t in range(tokens.size(1)):
            h = torch.tanh(x[:, t] + self.h(h))
            y = torch.cat([y, h.unsqueeze(1)], 1)
        return self.out(y)


class ScanOverCell(nn.Module):
    """The same loop as torch's higher-order scan, a tanh cell."""

    def __init__(self):
        super().__init__()
        self.emb, self.out, self.x, self.h = (
            nn.Embedding(V, E),
            nn.Linear(H, V),
            nn.Linear(E, H),
            nn.Linear(H, H),
        )

    def forward(self, tokens):
        from torch._higher_order_ops.scan import scan

        x = self.x(self.emb(tokens))
        weight, bias = self.h.weight.clone(), self.h.bias.clone()

        def step(h, x_t):
            h = torch.tanh(x_t + h @ weight.T + bias)
            return h, h.clone()

        _, y = scan(step, torch.zeros(tokens.shape[0], H, dtype=x.dtype), x, dim=1)
        return self.out(y)


class Pooled(nn.Module):
    """textgenrnn in small: two LSTMs, a skip connection from the embedding, an average over all positions."""

    def __init__(self, how="attention"):
        super().__init__()
        self.emb, self.how = nn.Embedding(V, E), how
        make = nn.LSTM if how == "attention" else nn.GRU
        self.a, self.b = make(E, H, batch_first=True), make(H, H, batch_first=True)
        self.score, self.out = nn.Linear(E + 2 * H, 1, bias=False), nn.Linear(E + 2 * H, V)

    def forward(self, tokens):
        x = self.emb(tokens)
        a, _ = self.a(x)
        b, _ = self.b(a)
        y = torch.cat([x, a, b], -1)
        pooled = y.mean(1) if self.how == "mean" else (torch.softmax(self.score(y), 1) * y).sum(1)
        return torch.softmax(self.out(pooled), -1)


class SelfAttention(nn.Module):
    """Causal self-attention, over LSTM outputs or over embeddings with positions."""

    def __init__(self, recurrent=True):
        super().__init__()
        self.emb, self.rnn = nn.Embedding(V, H), nn.LSTM(H, H, batch_first=True) if recurrent else None
        self.pos = None if recurrent else nn.Embedding(32, H)
        self.q, self.k, self.v, self.out = nn.Linear(H, H), nn.Linear(H, H), nn.Linear(H, H), nn.Linear(H, V)

    def forward(self, tokens):
        x, t = self.emb(tokens), torch.arange(tokens.shape[1])
        x = self.rnn(x)[0] if self.rnn is not None else x + self.pos(t)
        scores = self.q(x) @ self.k(x).transpose(1, 2)
        scores = torch.where(t[:, None] >= t[None, :], scores, torch.full_like(scores, -1e9))
        return self.out(x + torch.softmax(scores, -1) @ self.v(x))


class CausalConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.conv, self.out = nn.Embedding(V, E), nn.Conv1d(E, H, 3), nn.Linear(H, V)

    def forward(self, tokens):
        x = nn.functional.pad(self.emb(tokens).transpose(1, 2), (2, 0))
        return self.out(torch.tanh(self.conv(x)).transpose(1, 2))


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 3, 3), nn.Linear(3, V)

    def forward(self, image):
        return self.out(torch.relu(self.conv(image)).mean((2, 3)))


class Rwkv(nn.Module):
    """Two layers of RWKV-4's time mixing: token shift, and a running weighted mean kept in log space."""

    names = ("shift", "num", "den", "top", "count")

    def __init__(self, layers=2):
        super().__init__()
        self.emb, self.out, self.age = nn.Embedding(V, H), nn.Linear(H, V), nn.Parameter(torch.zeros(H))
        self.kvr = nn.ModuleList(nn.Linear(H, 3 * H) for _ in range(layers))
        self.mix, self.decay, self.first = (nn.Parameter(torch.zeros(layers, H)) for _ in range(3))

    @staticmethod
    def start(batch):
        return (*(torch.zeros(2, batch, H) for _ in range(4)), torch.zeros(batch, dtype=torch.int64))

    def forward(self, token, shift, num, den, top, count):
        x = self.emb(token) + torch.sin(count.to(shift.dtype)[:, None]) * self.age
        news = ([], [], [], [])
        for i, layer in enumerate(self.kvr):
            mixed = x + torch.sigmoid(self.mix[i]) * (shift[i] - x)
            k, v, r = layer(mixed).chunk(3, -1)
            p = torch.maximum(top[i], self.first[i] + k)
            old, new = torch.exp(top[i] - p), torch.exp(self.first[i] + k - p)
            y = (old * num[i] + new * v) / (old * den[i] + new)
            q = torch.maximum(top[i] - torch.exp(self.decay[i]), k)
            old, new = torch.exp(top[i] - torch.exp(self.decay[i]) - q), torch.exp(k - q)
            for values, value in zip(news, (x, old * num[i] + new * v, old * den[i] + new, q), strict=True):
                values.append(value)
            x = x + torch.sigmoid(r) * y
        return self.out(x), *(torch.stack(n) for n in news), count + 1


class Rwkv4(nn.Module):
    """RWKV-4 as its authors and Hugging Face keep the states: five of [batch, hidden, layers], each layer a slice of them."""

    names = ("ffn_x", "att_x", "num", "den", "top")

    def __init__(self, layers=2):
        super().__init__()
        self.emb, self.out = nn.Embedding(V, H), nn.Linear(H, V)
        self.kvr, self.key = (nn.ModuleList(nn.Linear(H, n) for _ in range(layers)) for n in (3 * H, 2 * H))
        self.value, self.gate = (nn.ModuleList(nn.Linear(n, H) for _ in range(layers)) for n in (2 * H, H))
        self.mix, self.decay, self.first = (nn.Parameter(torch.zeros(layers, H)) for _ in range(3))

    @staticmethod
    def start(batch):
        return tuple(torch.zeros(batch, H, 2) for _ in range(5))

    def forward(self, token, ffn_x, att_x, num, den, top):
        x, news = self.emb(token)[:, 0], ([], [], [], [], [])
        for i, layer in enumerate(self.kvr):
            mixed = x + torch.sigmoid(self.mix[i]) * (att_x[:, :, i] - x)
            k, v, r = layer(mixed).chunk(3, -1)
            p = torch.maximum(top[:, :, i], self.first[i] + k)
            old, new = torch.exp(top[:, :, i] - p), torch.exp(self.first[i] + k - p)
            y = (old * num[:, :, i] + new * v) / (old * den[:, :, i] + new)
            faded = top[:, :, i] - torch.exp(self.decay[i])
            q = torch.maximum(faded, k)
            old, new = torch.exp(faded - q), torch.exp(k - q)
            seen, x = x, x + torch.sigmoid(r) * y
            mixed = x + torch.sigmoid(self.mix[i]) * (ffn_x[:, :, i] - x)
            for values, value in zip(
                news, (x, seen, old * num[:, :, i] + new * v, old * den[:, :, i] + new, q), strict=True
            ):
                values.append(value)
            x = x + torch.sigmoid(self.gate[i](mixed)) * self.value[i](torch.relu(self.key[i](mixed)) ** 2)
        return self.out(x)[:, None], *(torch.stack(n, -1) for n in news)


class RwkvMatrix(nn.Module):
    """RWKV-5's matrix-valued memory, with a float16 token shift and a flag set after the first step."""

    heads, size = 2, 3

    def __init__(self):
        super().__init__()
        self.emb, self.out, self.mark = nn.Embedding(V, H), nn.Linear(H, V), nn.Parameter(torch.zeros(H))
        self.rkv, self.decay = nn.Linear(H, 3 * H), nn.Parameter(torch.zeros(self.heads, self.size, 1))

    @staticmethod
    def start(batch):
        return (torch.zeros(batch, H, dtype=torch.float16), torch.zeros(batch, 2, 3, 3),
                torch.zeros(batch, 1, dtype=torch.bool))  # fmt: skip

    def forward(self, token, shift, memory, seen):
        x = self.emb(token) + torch.where(seen, self.mark, -self.mark)
        r, k, v = (self.rkv(x + 0.5 * shift.to(x.dtype)).view(-1, 3, self.heads, self.size)).unbind(1)
        y = torch.einsum("bhi,bhij->bhj", r, memory + k[..., None] * v[..., None, :])
        memory = torch.sigmoid(self.decay) * memory + k[..., None] * v[..., None, :]
        return self.out(x + torch.tanh(y.flatten(1))), x.half(), memory, torch.ones_like(seen)


class Mamba(nn.Module):
    """Two layers of a selective state space model: a rolling convolution window and a diagonal state."""

    taps, order = 3, 4

    def __init__(self, layers=2):
        super().__init__()
        n = self.order
        self.emb, self.out = nn.Embedding(V, H), nn.Linear(H, V)
        self.inp = nn.ModuleList(nn.Linear(H, 2 * H) for _ in range(layers))
        self.select = nn.ModuleList(nn.Linear(H, H + 2 * n) for _ in range(layers))
        self.conv, self.a = (
            nn.Parameter(torch.zeros(layers, H, self.taps)),
            nn.Parameter(torch.zeros(layers, H, n)),
        )

    @staticmethod
    def start(batch):
        return torch.zeros(2, batch, H, 3), torch.zeros(2, batch, H, 4)

    def forward(self, token, conv_state, ssm_state):
        x, convs, ssms = self.emb(token), [], []
        for i, (inp, select) in enumerate(zip(self.inp, self.select, strict=True)):
            u, gate = inp(x).chunk(2, -1)
            convs.append(torch.cat([conv_state[i][..., 1:], u[..., None]], -1))
            u = nn.functional.silu((convs[-1] * self.conv[i]).sum(-1))
            delta, b, c = select(u).split([H, self.order, self.order], -1)
            delta = nn.functional.softplus(delta)[..., None]
            ssms.append(torch.exp(-delta * torch.exp(self.a[i])) * ssm_state[i] + delta * b[:, None] * u[..., None])
            x = x + (ssms[-1] * c[:, None]).sum(-1) * nn.functional.silu(gate)
        return self.out(x), torch.stack(convs), torch.stack(ssms)


class Packed(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.emb, self.rnn = nn.Embedding(V, E), getattr(nn, kind)(E, H, batch_first=True)
        self.out = nn.Linear(H, V)

    def forward(self, tokens, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(self.emb(tokens), lengths, batch_first=True)
        y, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.out(y)


class WithMask(Sequence):
    def __init__(self):
        super().__init__("LSTM")

    def forward(self, input_ids, attention_mask):
        y, _ = self.rnn(self.emb(input_ids) * attention_mask[..., None])
        return self.out(y * attention_mask[..., None])


class MaskedCell(nn.Module):
    """Where the mask is 0 the state stays."""

    def __init__(self):
        super().__init__()
        self.emb, self.cell, self.out = nn.Embedding(V, E), nn.GRUCell(E, H), nn.Linear(H, V)

    def forward(self, token, mask, h):
        h = mask * self.cell(self.emb(token), h) + (1 - mask) * h
        return self.out(h), h


class WithPosition(Sequence):
    def __init__(self):
        super().__init__("LSTM")
        self.pos = nn.Embedding(32, E)

    def forward(self, tokens, position_ids):
        return self.out(self.rnn(self.emb(tokens) + self.pos(position_ids))[0])


class StepPosition(GruStates):
    def __init__(self):
        super().__init__(1)
        self.pos = nn.Embedding(32, E)

    def forward(self, tokens, h, step):
        y, h = self.rnn(self.emb(tokens) + self.pos(step), h)
        return self.out(y), h


class GruExtra(nn.Module):
    """A GRU with one more input: a scalar that scales the logits, or a vector that every step sees."""

    def __init__(self, kind):
        super().__init__()
        self.emb, self.out, self.kind = nn.Embedding(V, E), nn.Linear(H, V), kind
        self.rnn = nn.GRU(E if kind == "scale" else E + 3, H, batch_first=True)

    def forward(self, tokens, extra):
        x = self.emb(tokens)
        if self.kind == "scale":
            return self.out(self.rnn(x)[0]) * extra
        return self.out(self.rnn(torch.cat([x, extra[:, None].expand(-1, x.shape[1], -1)], -1))[0])


class AttentionStep(nn.Module):
    """One step of an attention decoder over an encoder's outputs."""

    def __init__(self):
        super().__init__()
        self.emb, self.cell, self.query = nn.Embedding(V, E), nn.GRUCell(E + 2 * H, H), nn.Linear(H, 2 * H)
        self.out = nn.Linear(3 * H, V)

    def forward(self, token, hidden, context):
        attention = torch.softmax((context @ self.query(hidden)[..., None])[..., 0], -1)
        seen = (attention[:, None] @ context)[:, 0]
        hidden = self.cell(torch.cat([self.emb(token), seen], -1), hidden)
        return self.out(torch.cat([hidden, seen], -1)), hidden, attention


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.rnn = nn.Embedding(V, E), nn.GRU(E, H, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(2 * H, H)

    def forward(self, source):
        y, h = self.rnn(self.emb(source))
        return y, torch.tanh(self.bridge(torch.cat([h[0], h[1]], -1)))
