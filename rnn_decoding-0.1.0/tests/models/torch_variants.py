"""The PyTorch modules that make_variants.py exports: causal convolutions, and recurrent layers as people write them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_modules import E, H, V


class ConvGru(nn.Module):
    """A causal convolution, padded on the left by F.pad, before a GRU, or after it."""

    def __init__(self, *, after=False, size=H):
        super().__init__()
        self.emb, self.out, self.after = nn.Embedding(V, E), nn.Linear(size, V), after
        self.conv = nn.Conv1d(size if after else E, size, 3, dilation=2)
        self.rnn = nn.GRU(E if after else size, size, batch_first=True)

    def causal(self, x):
        return torch.tanh(self.conv(F.pad(x.transpose(1, 2), (4, 0)))).transpose(1, 2)

    def forward(self, tokens):
        x = self.emb(tokens)
        y = self.causal(self.rnn(x)[0]) if self.after else self.rnn(self.causal(x))[0]
        return self.out(y)


class TemporalBlock(nn.Module):
    """Two dilated convolutions with their ends cut, and a residual connection (Bai et al. 2018)."""

    def __init__(self, inputs, dilation):
        super().__init__()
        self.end = 2 * dilation
        self.a = nn.Conv1d(inputs, H, 3, dilation=dilation, padding=self.end)
        self.b = nn.Conv1d(H, H, 3, dilation=dilation, padding=self.end)
        self.down = nn.Conv1d(inputs, H, 1)

    def forward(self, x):
        y = torch.relu(self.a(x)[..., : -self.end].contiguous())
        y = torch.relu(self.b(y)[..., : -self.end].contiguous())
        return torch.tanh(y + self.down(x))


class TcnGru(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.out = nn.Embedding(V, E), nn.Linear(H, V)
        self.blocks = nn.Sequential(TemporalBlock(E, 1), TemporalBlock(H, 2))
        self.rnn = nn.GRU(H, H, batch_first=True)

    def forward(self, tokens):
        x = self.blocks(self.emb(tokens).transpose(1, 2)).transpose(1, 2)
        return self.out(self.rnn(x)[0])


class TokenShift(nn.Module):
    """Each embedding mixed with the one before (RWKV's token shift), then a GRU."""

    def __init__(self, *, learned=False):
        super().__init__()
        self.emb, self.out, self.mix = nn.Embedding(V, E), nn.Linear(H, V), nn.Parameter(torch.zeros(E))
        self.rnn, self.shift = nn.GRU(E, H, batch_first=True), nn.ZeroPad2d((0, 0, 1, -1))
        self.first = nn.Parameter(torch.zeros(1, 1, E)) if learned else None

    def forward(self, tokens):
        x = self.emb(tokens)
        if self.first is None:
            before = self.shift(x)
        else:
            before = torch.cat([self.first.expand(len(tokens), -1, -1), x[:, :-1]], 1)
        return self.out(self.rnn(x * self.mix + before * (1 - self.mix))[0])


class Flipped(nn.Module):
    """A GRU that reads the sequence from its end."""

    def __init__(self):
        super().__init__()
        self.emb, self.out, self.rnn = nn.Embedding(V, E), nn.Linear(H, V), nn.GRU(E, H, batch_first=True)

    def forward(self, tokens):
        return self.out(self.rnn(self.emb(tokens).flip(1))[0].flip(1))


class Sru(nn.Module):
    """A layer of a simple recurrent unit (Lei et al. 2018) that concatenates its outputs as it goes."""

    def __init__(self, inputs):
        super().__init__()
        self.w, self.size = nn.Linear(inputs, 4 * H), H
        self.f, self.r = nn.Parameter(torch.zeros(H)), nn.Parameter(torch.zeros(H))

    def forward(self, x: Tensor) -> Tensor:
        u = self.w(x)
        c = torch.zeros(x.size(0), self.size, dtype=x.dtype)
        y = torch.zeros(x.size(0), 0, self.size, dtype=x.dtype)
        for t in range(x.size(1)):
            z, f, r, skip = u[:, t].chunk(4, 1)
            f = torch.sigmoid(f + self.f * c)
            r = torch.sigmoid(r + self.r * c)
            c = f * c + (1 - f) * z
            y = torch.cat([y, (r * torch.tanh(c) + (1 - r) * skip).unsqueeze(1)], 1)
        return y


class Qrnn(nn.Module):
    """A quasi-recurrent layer (Bradbury et al. 2017): a causal convolution, then fo-pooling in a loop that keeps a list."""

    def __init__(self, inputs):
        super().__init__()
        self.conv = nn.Conv1d(inputs, 3 * H, 2)

    def forward(self, x: Tensor) -> Tensor:
        z, f, o = self.conv(F.pad(x.transpose(1, 2), [1, 0])).transpose(1, 2).chunk(3, 2)
        z, f, o = torch.tanh(z), torch.sigmoid(f), torch.sigmoid(o)
        c = torch.zeros_like(z[:, 0])
        ys: list[Tensor] = []
        for t in range(x.size(1)):
            c = f[:, t] * c + (1 - f[:, t]) * z[:, t]
            ys.append(o[:, t] * c)
        return torch.stack(ys, 1)


class Clockwork(nn.Module):
    """Half of the state moves at every second step (Koutnik et al. 2014): the loop's counter is a part of the state."""

    def __init__(self, inputs):
        super().__init__()
        self.w, self.u, self.size = nn.Linear(inputs, H), nn.Linear(H, H), H
        self.register_buffer("period", torch.tensor([1, 2]).repeat_interleave(H // 2))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.size(0), self.size, dtype=x.dtype)
        ys: list[Tensor] = []
        for t in range(x.size(1)):
            on = ((t % self.period) == 0).to(x.dtype)
            h = on * torch.tanh(self.w(x[:, t]) + self.u(h)) + (1 - on) * h
            ys.append(h)
        return torch.stack(ys, 1)


class Stack(nn.Module):
    """An embedding, layers of one kind, a linear output."""

    def __init__(self, kind, layers):
        super().__init__()
        self.emb, self.out = nn.Embedding(V, E), nn.Linear(H, V)
        self.layers = nn.ModuleList(kind(H if i else E) for i in range(layers))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.emb(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.out(x)


def half(module):
    """The module in float16, with weights as small as those of trained networks.

    A network with large random weights is chaotic: what a step rounds in its float16 state is as large as the state after
    48 steps.
    """
    for parameter in module.parameters():
        parameter.data *= 0.3
    return module.half()


class Wide(nn.Module):
    """An LSTM or a GRU of ordinary size."""

    def __init__(self, kind, layers=1, size=64):
        super().__init__()
        self.emb, self.out = nn.Embedding(V, E), nn.Linear(size, V)
        self.rnn = getattr(nn, kind)(E, size, layers, batch_first=True)

    def forward(self, tokens):
        return self.out(self.rnn(self.emb(tokens))[0])
