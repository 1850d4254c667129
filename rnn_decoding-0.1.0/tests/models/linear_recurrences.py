"""Language models over published linear recurrences, in plain torch: one token with its states, or a whole sequence.

Each recurrence is `cell(states, *values of one position) -> (next states, output)`. The values of all positions come
from `project`, which looks at no other position. So a step, a loop and torch's higher-order scan share one formula.
"""

import torch
from torch import nn
from torch.nn import functional as F

V, H, HEADS, D = 24, 8, 2, 4


def heads(x):
    """[..., H] as [..., HEADS, D]."""
    return x.unflatten(-1, (HEADS, D))


class MinGru(nn.Module):
    """minGRU: h = (1 - z) h + z g(x W), z = sigmoid(x U) (Feng et al. 2024, arXiv:2410.01201, appendix B)."""

    states = (("h", (H,)),)

    def __init__(self, layer, layers):
        super().__init__()
        self.gate, self.candidate = nn.Linear(H, H), nn.Linear(H, H)

    def project(self, x):
        candidate = self.candidate(x)
        return torch.sigmoid(self.gate(x)), torch.where(candidate >= 0, candidate + 0.5, torch.sigmoid(candidate))

    @staticmethod
    def cell(states, z, candidate):
        h = (1 - z) * states[0] + z * candidate
        return (h,), h

    def finish(self, x, y):
        return y


class Hgrn(nn.Module):
    """HGRN: h = a exp(i t) h + (1 - a) c, a above a bound that rises with the layer (Qin et al. 2023, arXiv:2311.04823)."""

    states = (("real", (H,)), ("imag", (H,)))

    def __init__(self, layer, layers):
        super().__init__()
        self.real, self.imag, self.forget, self.out_gate = (nn.Linear(H, H) for _ in range(4))
        self.angle, self.norm, self.out = nn.Parameter(torch.zeros(H)), nn.LayerNorm(2 * H), nn.Linear(2 * H, H)
        self.lower = layer / layers

    def project(self, x):
        a = self.lower + (1 - self.lower) * torch.sigmoid(self.forget(x))
        c = (1 - a) * F.silu(self.real(x)), (1 - a) * F.silu(self.imag(x))
        return a * torch.cos(self.angle), a * torch.sin(self.angle), *c

    @staticmethod
    def cell(states, a_real, a_imag, c_real, c_imag):
        real, imag = states
        real, imag = a_real * real - a_imag * imag + c_real, a_real * imag + a_imag * real + c_imag
        return (real, imag), torch.cat([real, imag], -1)

    def finish(self, x, y):
        return self.out(self.norm(y)) * torch.sigmoid(self.out_gate(x))


class DeltaNet(nn.Module):
    """DeltaNet: S = S - b (S k - v) k', q and k of length 1 (Yang et al. 2024, arXiv:2406.06484)."""

    states = (("memory", (HEADS, D, D)),)

    def __init__(self, layer, layers):
        super().__init__()
        self.qkv, self.beta = nn.Linear(H, 3 * H, bias=False), nn.Linear(H, HEADS)
        self.norm, self.out = nn.LayerNorm(D), nn.Linear(H, H)

    def project(self, x):
        q, k, v = (heads(part) for part in F.silu(self.qkv(x)).chunk(3, -1))
        return F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, torch.sigmoid(self.beta(x))[..., None]

    @staticmethod
    def cell(states, q, k, v, beta):
        (memory,) = states
        wrong = (memory @ k[..., None]).squeeze(-1) - v
        memory = memory - (beta * wrong)[..., None] * k[..., None, :]
        return (memory,), (memory @ q[..., None]).squeeze(-1)

    def finish(self, x, y):
        return self.out(self.norm(y).flatten(-2))


class RetNet(nn.Module):
    """Retention: S = g S + k v', o = q S, q and k turned by their position (Sun et al. 2023, arXiv:2307.08621)."""

    states = (("memory", (HEADS, D, D)),)

    def __init__(self, layer, layers):
        super().__init__()
        self.qkv, self.gate, self.out = nn.Linear(H, 3 * H, bias=False), nn.Linear(H, H), nn.Linear(H, H)
        self.norm = nn.LayerNorm(D)
        self.register_buffer("decay", 1 - 2.0 ** (-2 - torch.arange(HEADS)))
        self.register_buffer("theta", torch.tensor([1.0, 0.3]).repeat_interleave(2))

    def turned(self, x, position):
        """Turn x [..., HEADS, D]: each pair of numbers by position [...] times its angle."""
        angle = (position.to(x.dtype)[..., None] * self.theta)[..., None, :]
        other = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
        return x * torch.cos(angle) + other * torch.sin(angle)

    def project(self, x, position):
        q, k, v = (heads(part) for part in self.qkv(x).chunk(3, -1))
        return self.turned(q, position), self.turned(k, position) * D**-0.5, v

    def cell(self, states, q, k, v):
        memory = self.decay[:, None, None] * states[0] + k[..., None] * v[..., None, :]
        return (memory,), (q[..., None, :] @ memory).squeeze(-2)

    def parallel(self, q, k, v):
        """All positions at once: the product of q and k, times the decay between the two."""
        steps = torch.arange(q.shape[1])
        between = steps[:, None] - steps[None]
        weight = torch.where(between >= 0, self.decay[:, None, None] ** between.clamp(min=0).to(q.dtype), 0.0)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return ((q @ k.transpose(-1, -2) * weight) @ v).transpose(1, 2)

    def finish(self, x, y):
        return self.out(F.silu(self.gate(x)) * self.norm(y).flatten(-2))


class LanguageModel(nn.Module):
    """Embedding, layers with residual connections, output. `forward` takes one token [batch, 1] and the states."""

    def __init__(self, mixer, layers=2):
        super().__init__()
        self.emb, self.norms = nn.Embedding(V, H), nn.ModuleList(nn.LayerNorm(H) for _ in range(layers))
        self.mixers = nn.ModuleList(mixer(i, layers) for i in range(layers))
        self.norm, self.out = nn.LayerNorm(H), nn.Linear(H, V)
        self.counts = mixer is RetNet  # its layers need the position: a state that all share

    @property
    def names(self):
        own = [f"{name}_{i}" for i, mixer in enumerate(self.mixers) for name, _ in mixer.states]
        return [*own, "position"] if self.counts else own

    def start(self, batch):
        own = [torch.zeros(batch, *shape) for mixer in self.mixers for _, shape in mixer.states]
        return [*own, torch.zeros(batch, dtype=torch.int64)] if self.counts else own

    def forward(self, token, *states):
        left, news, x = list(states), [], self.emb(token)
        at = (left.pop()[:, None],) if self.counts else ()
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            own, left = left[: len(mixer.states)], left[len(mixer.states) :]
            values = mixer.project(norm(x), *at)
            new, y = mixer.cell(tuple(own), *(v[:, 0] for v in values))
            x, news = x + mixer.finish(norm(x), y[:, None]), [*news, *new]
        return self.out(self.norm(x)), *news, *(position[:, 0] + 1 for position in at)


class Whole(nn.Module):
    """The same model over ids [batch, time]; `how` runs the recurrence: "loop", "scan" or, for RetNet, "parallel"."""

    def __init__(self, model, how):
        super().__init__()
        self.model, self.how = model, how

    def forward(self, input_ids):
        model = self.model
        x = model.emb(input_ids)
        at = (torch.arange(input_ids.shape[1]).expand_as(input_ids),) if model.counts else ()
        for norm, mixer in zip(model.norms, model.mixers, strict=True):
            values = mixer.project(norm(x), *at)
            x = x + mixer.finish(norm(x), getattr(self, f"_{self.how}")(mixer, values, len(input_ids)))
        return model.out(model.norm(x))

    def _start(self, mixer, values, rows):
        return tuple(torch.zeros(rows, *shape, dtype=values[0].dtype) for _, shape in mixer.states)

    def _parallel(self, mixer, values, rows):
        return mixer.parallel(*values)

    def _loop(self, mixer, values, rows):
        states, outputs = self._start(mixer, values, rows), []
        for t in range(values[0].shape[1]):
            states, y = mixer.cell(states, *(v[:, t] for v in values))
            outputs.append(y)
        return torch.stack(outputs, 1)

    def _scan(self, mixer, values, rows):
        from torch._higher_order_ops.scan import scan

        def step(states, now):
            new, y = mixer.cell(states, *now)
            return tuple(s.clone() for s in new), y.clone()

        return scan(step, self._start(mixer, values, rows), tuple(v.clone() for v in values), dim=1)[1]
