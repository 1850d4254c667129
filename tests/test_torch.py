"""decode() beside torch's own loop, on both of torch's exporters. Needs torch (the `export` extra)."""

import io
import warnings

import pytest

from decoding import Greedy, decode, load

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[export]')")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (pip install '.[export]')")


class Network(torch.nn.Module):
    def __init__(self, cell, final=None):
        super().__init__()
        self.embedding = torch.nn.Embedding(40, 16)
        self.rnn = getattr(torch.nn, cell)(16, 32, 2, batch_first=True)
        self.head = torch.nn.Linear(32, 40)
        self.final = final

    def forward(self, tokens):
        y = self.head(self.rnn(self.embedding(tokens))[0])
        return y if self.final is None else getattr(torch, self.final)(y, dim=-1)

    @torch.inference_mode()
    def greedy(self, prompt, steps):
        """The usual loop: one token at a time, the state carried."""
        state, out = None, []
        tokens = torch.tensor([prompt])
        for _ in range(steps):
            y, state = self.rnn(self.embedding(tokens), state)
            out.append(int(self.head(y[:, -1]).argmax()))
            tokens = torch.tensor([[out[-1]]])
        return out


def export(network, dynamo):
    file = io.BytesIO()
    example = (torch.zeros(2, 3, dtype=torch.int64),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            dims = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("time")},)
            torch.onnx.export(network, example, dynamic_shapes=dims, dynamo=True, verbose=False).save(file)
        else:
            axes = {"tokens": {0: "batch", 1: "time"}}
            torch.onnx.export(network, example, file, input_names=["tokens"], dynamic_axes=axes, dynamo=False)
    return file.getvalue()


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "legacy"])
@pytest.mark.parametrize(
    ("cell", "final"), [("LSTM", None), ("LSTM", "softmax"), ("GRU", None), ("GRU", "log_softmax")]
)
def test_a_thousand_greedy_tokens_equal_torchs_own_loop(cell, final, dynamo):
    torch.manual_seed(7)
    network = Network(cell, final).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)  # so that the output does not fall into one token
    prompt = [3, 1, 4, 1, 5]
    expected = network.greedy(prompt, 1000)
    assert len(set(expected)) > 5
    assert (
        decode(load(export(network, dynamo)), prompt, Greedy(), max_new_tokens=1000, eos_token_id=None)[0].tokens
        == expected
    )
