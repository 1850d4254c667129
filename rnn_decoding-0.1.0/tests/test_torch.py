"""decode() beside torch's own loop, on both of torch's exporters. Needs torch (the `export` extra)."""

import io
import sys
import warnings
from importlib import resources
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from decoding import Beam, Greedy, Sample, decode, load

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


@pytest.fixture(scope="module")
def peephole():
    """The network of examples/train_tang.py, with the weights of the shipped file."""
    folder = str(Path(__file__).parents[1] / "examples")
    sys.path.insert(0, folder)
    try:
        import train_tang
    finally:
        sys.path.remove(folder)
    weights = {
        t.name.removesuffix("_half"): torch.tensor(numpy_helper.to_array(t)).float()
        for t in onnx.load(resources.files("decoding") / "pretrained" / "tang.onnx").graph.initializer
    }
    network = train_tang.Tang(*weights["embedding"].shape).eval()
    hidden = weights["embedding"].shape[1]
    with torch.no_grad():
        network.embedding.weight.copy_(weights["embedding"])
        network.bias.copy_(weights["bias"])
        network.cell.W.copy_(weights["W"][0] / hidden**0.5)  # the file's W scales the embedding too
        network.cell.R.copy_(weights["R"][0])
        network.cell.P.copy_(weights["P"][0])
        network.cell.b.copy_(weights["B"][0, : 4 * hidden])
    return network


def export_step(network, dynamo):
    """One token in, states in and out: the cell as plain operators."""
    file = io.BytesIO()
    example = (torch.zeros(2, 1, dtype=torch.int64), *network.zero_state(2))
    names = {"input_names": ["tokens", "h", "c"], "output_names": ["logits", "h_out", "c_out"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            batch = torch.export.Dim("batch")
            dims = ({0: batch}, {1: batch}, {1: batch})
            torch.onnx.export(network, example, **names, dynamic_shapes=dims, dynamo=True, verbose=False).save(file)
        else:
            axes = {"tokens": {0: "batch"}, "logits": {0: "batch"}} | {k: {1: "batch"} for k in ("h", "c", "h_out", "c_out")}  # fmt: skip
            torch.onnx.export(network, example, file, **names, dynamic_axes=axes, dynamo=False)
    return file.getvalue()


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "legacy"])
def test_the_peephole_cell_as_plain_operators_decodes_to_the_same_poems(peephole, dynamo):
    shipped, plain = load("tang"), load(export_step(peephole, dynamo), tokenizer=load("tang").tokenizer.tokens)
    assert all(node.op != "LSTM" for node in plain._graph.nodes)
    prompts = [[0, *shipped.tokenizer.encode(text)] for text in ["", "春", "明月", "白日依山盡，"]]
    for strategy, options in [
        (Greedy(), {}),
        (Sample(temperature=0.8), {"num_return_sequences": 25, "seed": 3}),
        (Beam(num_beams=5), {"num_return_sequences": 5}),
    ]:
        ours, theirs = (
            decode(model, prompts, strategy, max_new_tokens=33, eos_token_id=0, **options) for model in (shipped, plain)
        )
        assert ours.tokens == theirs.tokens
        assert [h.logprob for h in ours] == pytest.approx([h.logprob for h in theirs], abs=1e-3)


def test_the_shipped_poems_equal_torchs_own_loop(peephole):
    shipped = load("tang")
    for text in ["", "春", "明月", "山", "白日依山盡，"]:
        ids = [0, *shipped.tokenizer.encode(text)]
        states, tokens, expected = peephole.zero_state(1), torch.tensor([ids]), []
        with torch.inference_mode():
            while not expected or (expected[-1] != 0 and len(expected) < 33):
                logits, *states = peephole(tokens, *states)
                expected.append(int(logits[0, -1].argmax()))
                tokens = torch.tensor([[expected[-1]]])
        found = decode(shipped, ids, Greedy())[0]
        assert found.finish_reason == "eos"
        assert [*found.tokens, 0] == expected
