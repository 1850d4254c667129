"""The small PyTorch encoders and decoders that make_seq2seq.py exports."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

V, S, E, H = 11, 13, 5, 6  # target and source vocabulary, embedding, hidden size


class Encoder(nn.Module):
    """Bidirectional GRU over source ids, packed by their lengths; hidden state bridged to one of size H."""

    def __init__(self, packed=True):
        super().__init__()
        self.packed = packed
        self.emb, self.rnn = nn.Embedding(S, E), nn.GRU(E, H, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(2 * H, H)

    def forward(self, source, lengths=None):
        x = self.emb(source)
        if self.packed:
            x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, h = self.rnn(x)
        if self.packed:
            y = pad_packed_sequence(y, batch_first=True)[0]
        return y, torch.tanh(self.bridge(torch.cat([h[0], h[1]], -1)))


class Additive(nn.Module):
    """One step of Bahdanau's decoder; `tells` is how it is told where a source ends: mask, padding, length or nothing."""

    def __init__(self, tells="mask", keep_axis=False):
        super().__init__()
        self.tells, self.keep_axis = tells, keep_axis
        self.emb, self.cell = nn.Embedding(V, E), nn.GRUCell(E + 2 * H, H)
        self.query, self.key, self.energy = nn.Linear(H, H), nn.Linear(2 * H, H), nn.Linear(H, 1)
        self.out = nn.Linear(3 * H, V)

    def forward(self, token, hidden, memory, told=None):
        scores = self.energy(torch.tanh(self.query(hidden)[:, None] + self.key(memory)))[..., 0]
        if self.tells == "mask":
            scores = scores.masked_fill(told == 0, -1e9)
        elif self.tells == "padding":
            scores = scores.masked_fill(told, float("-inf"))
        elif self.tells == "length":
            scores = scores.masked_fill(torch.arange(memory.shape[1])[None] >= told[:, None], float("-inf"))
        weights = torch.softmax(scores, -1)
        seen = (weights[:, None] @ memory)[:, 0]
        hidden = self.cell(torch.cat([self.emb(token), seen], -1), hidden)
        return self.out(torch.cat([hidden, seen], -1)), hidden, weights[:, None] if self.keep_axis else weights


class TimeMajorEncoder(nn.Module):
    """As the usual tutorials have it: source [time, batch], outputs [time, batch, 2H], state [batch, H]."""

    def __init__(self):
        super().__init__()
        self.inner = Encoder()

    def forward(self, src, src_len):
        y, h = self.inner(src.T, src_len)
        return y.transpose(0, 1), h


class TimeMajorDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Additive("mask")

    def forward(self, input_token, hidden, encoder_outputs, mask):
        return self.inner(input_token, hidden, encoder_outputs.transpose(0, 1), mask)


class StackedEncoder(nn.Module):
    """Two LSTM layers; all outputs and both layers' h and c."""

    def __init__(self):
        super().__init__()
        self.emb, self.rnn = nn.Embedding(S, E), nn.LSTM(E, H, 2, batch_first=True)

    def forward(self, source):
        y, (h, c) = self.rnn(self.emb(source))
        return y, h, c


class Luong(nn.Module):
    """Teacher-forced decoder over whole sequences: two LSTM layers, then attention with a torch-style padding mask."""

    def __init__(self):
        super().__init__()
        self.emb, self.rnn, self.out = nn.Embedding(V, E), nn.LSTM(E, H, 2, batch_first=True), nn.Linear(2 * H, V)

    def forward(self, tokens, h0, c0, memory, memory_padding_mask):
        y, (h, c) = self.rnn(self.emb(tokens), (h0, c0))
        scores = (y @ memory.transpose(1, 2)).masked_fill(memory_padding_mask[:, None], float("-inf"))
        return self.out(torch.cat([y, torch.softmax(scores, -1) @ memory], -1)), h, c


class Plain(nn.Module):
    """LSTM without attention, states in and out, over whole sequences."""

    def __init__(self, layers=1):
        super().__init__()
        self.emb, self.rnn, self.out = nn.Embedding(V, E), nn.LSTM(E, H, layers, batch_first=True), nn.Linear(H, V)

    def forward(self, tokens, h0, c0):
        y, (h, c) = self.rnn(self.emb(tokens), (h0, c0))
        return self.out(y), h, c


class Last(nn.Module):
    """The last states of an LSTM over the source: h, c, or both stacked over two layers."""

    def __init__(self, which, layers=1):
        super().__init__()
        self.which = which
        self.emb, self.rnn = nn.Embedding(S, E), nn.LSTM(E, H, layers, batch_first=True)

    def forward(self, source):
        h, c = self.rnn(self.emb(source))[1]
        return {"h": h, "c": c, "hc": (h, c), "vector": h[-1]}[self.which]


class Grid(nn.Module):
    """A CNN over images of any size: a feature for every position, or their mean."""

    def __init__(self, mean=False, columns=False):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 2 * H, 3, 2, 1), nn.Tanh())
        self.mean, self.columns = mean, columns

    def forward(self, image):
        y = self.conv(image)
        if self.mean:
            return y.mean((2, 3))
        return y.mean(2).transpose(1, 2) if self.columns else y.flatten(2).transpose(1, 2)


class Reader(nn.Module):
    """A bidirectional LSTM over a CNN's columns."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(2 * H, H, batch_first=True, bidirectional=True)

    def forward(self, columns):
        return self.rnn(columns)[0]


class Caption(nn.Module):
    """GRU that sees one vector at every step, its states hidden in the graph; with `starts` the vector makes the first state instead."""

    def __init__(self, starts=False):
        super().__init__()
        self.starts = starts
        self.emb, self.rnn = nn.Embedding(V, E), nn.GRU(E if starts else E + 2 * H, H, batch_first=True)
        self.start, self.out = nn.Linear(2 * H, H), nn.Linear(H, V)

    def forward(self, tokens, image):
        x = self.emb(tokens)
        if self.starts:
            return self.out(self.rnn(x, torch.tanh(self.start(image))[None])[0])
        return self.out(self.rnn(torch.cat([x, image[:, None].expand(-1, x.shape[1], -1)], -1))[0])


class ShowAttend(nn.Module):
    """First states from the mean of a grid of features, then attention over it; whole captions, states hidden."""

    def __init__(self):
        super().__init__()
        self.emb, self.rnn, self.start = nn.Embedding(V, E), nn.LSTM(E, H, batch_first=True), nn.Linear(2 * H, 2 * H)
        self.query, self.out = nn.Linear(H, 2 * H), nn.Linear(3 * H, V)

    def forward(self, captions, annotations, lengths):
        real = torch.arange(annotations.shape[1])[None] < lengths[:, None]
        mean = (annotations * real[..., None]).sum(1) / lengths[:, None]
        h, c = torch.tanh(self.start(mean))[None].chunk(2, -1)
        y = self.rnn(self.emb(captions), (h.contiguous(), c.contiguous()))[0]
        scores = (self.query(y) @ annotations.transpose(1, 2)).masked_fill(~real[:, None], -1e9)
        return self.out(torch.cat([y, torch.softmax(scores, -1) @ annotations], -1))


class OneHot(nn.Module):
    """The encoder of Keras's character example: one-hot characters in, h and c out."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(S, H, batch_first=True)

    def forward(self, characters):
        h, c = self.rnn(characters)[1]
        return h[0], c[0]


class OneHotDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.LSTM(V, H, batch_first=True), nn.Linear(H, V)

    def forward(self, characters, h, c):
        y, (h, c) = self.rnn(characters, (h[None], c[None]))
        return torch.softmax(self.out(y), -1), h[0], c[0]


class Utterance(nn.Module):
    """One vector an utterance."""

    def __init__(self):
        super().__init__()
        self.emb, self.rnn = nn.Embedding(S, E), nn.GRU(E, 2 * H, batch_first=True)

    def forward(self, utterance, length):
        y = self.rnn(self.emb(utterance))[0]
        return y.gather(1, (length - 1)[:, None, None].expand(-1, 1, 2 * H))[:, 0]


class History(nn.Module):
    """A GRU over the vectors of the utterances so far; its last state starts the answer."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(2 * H, H, batch_first=True)

    def forward(self, turns):
        return self.rnn(turns)[1]


class Answer(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.rnn, self.out = nn.Embedding(V, E), nn.GRU(E, H, batch_first=True), nn.Linear(H, V)

    def forward(self, tokens, h0):
        y, h = self.rnn(self.emb(tokens), h0)
        return self.out(y), h
