"""decoding.export.torch_pair: encoders and decoders with attention, masks and lengths, as tutorials write them. Needs torch."""

import numpy as np
import pytest

from decoding import Beam, ModelError, OptionError, decode, export, load

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[export]')")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (pip install '.[export]')")
from torch import nn  # noqa: E402

from tests.helpers import tutorials  # noqa: E402

V, S, H = 23, 19, 12
SPECIAL = {"bos_token_id": 0, "eos_token_id": 1}
TUTORIAL = {
    "sources": {"source": ("batch", "source")},
    "source_ids": S,
    "outputs": {"encoder_outputs": ("batch", "source", H), "hidden": (1, "batch", H)},
    "states": {"hidden": (1, "batch", H)},
    **SPECIAL,
}


def made(network, seed=0):
    torch.manual_seed(seed)
    net = network.eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
    return net


@pytest.fixture
def tutorial():
    torch.manual_seed(0)
    return made(tutorials.EncoderRNN(S, H)), made(tutorials.AttnDecoderRNN(H, V))


@pytest.mark.parametrize("dynamo", [True, False], ids=["newer", "older"])
def test_the_tutorial_of_pytorch_with_its_attention(dynamo, tutorial, tmp_path):
    encoder, decoder = tutorial
    export.torch_pair(encoder, decoder.forward_step, tmp_path / "m.onnx", dynamo=dynamo, **TUTORIAL)
    model = load(tmp_path / "m.onnx")
    for source in ([3, 1, 4], [2, 7, 1, 8, 2, 8]):
        found = decode(model, [source], max_new_tokens=10, eos_token_id=None, return_attention=True)[0]
        scores, _, attention = decoder(*encoder(torch.tensor([source])))  # the tutorial's own greedy loop
        assert found.tokens == scores.argmax(-1)[0].tolist()
        np.testing.assert_allclose(found.attention, attention[0].detach(), atol=1e-5)
        assert decode(model, [source], Beam(3), max_new_tokens=4, return_attention=True)[0].attention.shape[1] == len(source)  # fmt: skip


@pytest.mark.parametrize("ones_are_padding", [False, True])
def test_packed_sources_and_a_mask_of_either_sign(ones_are_padding, tmp_path):
    torch.manual_seed(0)
    encoder = made(tutorials.PackedEncoder(S, 8, H, 14))
    decoder = made(tutorials.MaskedDecoder(V, 8, H, 14, ones_are_padding=ones_are_padding))
    model = export.torch_pair(
        encoder,
        decoder,
        tmp_path / "m.onnx",
        sources={"src": ("source", "batch"), "src_len": ("batch",)},
        source_ids=S,
        outputs={"encoder_outputs": ("source", "batch", 2 * H), "hidden": ("batch", 14)},
        states={"hidden": ("batch", 14)},
        inputs={"mask": ("batch", "source")},
        dynamo=False,
        **SPECIAL,
    )
    sources = [[3, 1, 4], [2, 7, 1, 8, 2, 8]]
    together = decode(model, sources, max_new_tokens=6, eos_token_id=None, return_attention=True)
    for source, found in zip(sources, together, strict=True):
        outputs, hidden = encoder(torch.tensor([source]).T, torch.tensor([len(source)]))
        token, mask = torch.tensor([0]), torch.full((1, len(source)), not ones_are_padding)
        for t in range(6):
            scores, hidden, attention = decoder(token, hidden, outputs, mask)
            token = scores.argmax(-1)
            assert found.tokens[t] == int(token)
            np.testing.assert_allclose(found.attention[t], attention[0].detach(), atol=1e-5)


@pytest.mark.parametrize("method", ["dot", "general"])
def test_the_chatbot_tutorial(method, tmp_path):
    torch.manual_seed(0)
    embedding = nn.Embedding(V, H)
    encoder = made(tutorials.ChatbotEncoder(H, embedding, 2))
    decoder = made(tutorials.LuongAttnDecoderRNN(method, embedding, H, V, 2))
    model = export.torch_pair(
        encoder,
        decoder,
        tmp_path / "m.onnx",
        sources={"input_seq": ("source", "batch"), "input_lengths": ("batch",)},
        source_ids=V,
        outputs={"encoder_outputs": ("source", "batch", H), "last_hidden": (2, "batch", H)},
        states={"last_hidden": (2, "batch", H)},
        dynamo=False,
        **SPECIAL,
    )
    outputs, hidden = encoder(torch.tensor([[5], [7], [9], [11]]), torch.tensor([4]))
    found, token = decode(model, [[5, 7, 9, 11]], max_new_tokens=6, eos_token_id=None, return_attention=True)[0], 0
    for t in range(6):
        scores, hidden, attention = decoder(torch.tensor([[token]]), hidden, outputs)
        token = int(scores.argmax(-1))
        assert found.tokens[t] == token
        np.testing.assert_allclose(found.attention[t], attention[0, 0].detach(), atol=1e-5)


class Overlooks(nn.Module):
    """A decoder whose mask is read and then multiplied with the weights after the softmax: padding still counts."""

    def __init__(self):
        super().__init__()
        self.embedding, self.cell, self.head = nn.Embedding(V, H), nn.GRUCell(2 * H, H), nn.Linear(H, V)

    def forward(self, tokens, h, memory, mask):
        weights = torch.softmax((memory @ h[:, :, None])[..., 0], -1) * mask
        h = self.cell(torch.cat([self.embedding(tokens), (weights[..., None] * memory).sum(1)], -1), h)
        return self.head(h), h


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.cell, self.head = nn.Embedding(V, H), nn.GRUCell(2 * H, H), nn.Linear(H, V)

    def forward(self, tokens, h, memory):
        weights = torch.softmax(torch.stack([memory @ h[:, :, None], memory @ -h[:, :, None]], 1)[..., 0], -1)
        read = (weights.mean(1)[..., None] * memory).sum(1)
        h = self.cell(torch.cat([self.embedding(tokens), read], -1), h)
        return self.head(h), h, weights


class Memory(tutorials.EncoderRNN):
    def forward(self, input):
        memory, h = super().forward(input)
        return memory, h[0]


PAIR = {
    "sources": {"source": ("batch", "source")},
    "source_ids": S,
    "outputs": {"memory": ("batch", "source", H), "h": ("batch", H)},
    "states": {"h": ("batch", H)},
}


@pytest.mark.parametrize(
    ("decoder", "changes", "error", "message"),
    [
        (Overlooks, {"inputs": {"mask": ("batch", "source")}}, ModelError, "padding of the source changes its scores, whether mask is 1 or 0"),
        (Overlooks, {"inputs": {"mask": ("batch", "src")}}, OptionError, r"inputs: mask \['batch', 'src'\]: expected the sizes of a mask"),
        (Overlooks, {"inputs": {"h": ("batch",)}}, OptionError, "inputs: h is in outputs= too"),
        (Overlooks, {}, ModelError, "forward.. fails on tokens .*missing 1 required positional argument: 'mask'"),
        (Heads, {}, ModelError, r"shapes \[\[2, 23\], \[2, 12\], \[2, 2, 6\]\].*besides these only the attention over the source, \[2, source\]"),
        (Heads, {"outputs": {"memory": ("batch", "source", H)}}, ModelError, r"returns tensors of shapes \[2, 6, 12\], \[2, 12\]; outputs= says memory"),
        (Heads, {"outputs": {"memory": ("batch", "source", H), "h": (1, "batch", H)}}, OptionError, r"h: outputs= says \[1, 'batch', 12\], states= \['batch', 12\]"),
        (Heads, {"source_ids": -1}, OptionError, "source_ids"),
    ],
)  # fmt: skip
def test_wrong_pairs_are_named(decoder, changes, error, message, tmp_path):
    with pytest.raises(error, match=f"(?s){message}"):
        export.torch_pair(made(Memory(S, H)), made(decoder()), tmp_path / "m.onnx", **{**PAIR, **changes}, dynamo=False)
    assert list(tmp_path.iterdir()) == []


def test_the_loop_of_the_tutorial_is_refused_with_what_to_pass(tutorial, tmp_path):
    with pytest.raises(ModelError, match=r"AttnDecoderRNN: forward\(\) fails on tokens int64 .*, encoder_outputs"):
        export.torch_pair(*tutorial, tmp_path / "m.onnx", **TUTORIAL)


def test_attention_of_a_step_over_a_context(tmp_path):
    decoder = made(tutorials.AttnDecoderRNN(H, V))
    model = export.torch_step(
        decoder.forward_step,
        tmp_path / "m.onnx",
        {"hidden": (1, "batch", H)},
        inputs={"memory": ("batch", "source", H)},
        dynamo=False,
    )
    memory = torch.randn(1, 7, H)
    found = decode(model, [[5]], context=memory.numpy(), max_new_tokens=1, return_attention=True)[0]
    _, _, attention = decoder.forward_step(torch.tensor([[5]]), torch.zeros(1, 1, H), memory)
    np.testing.assert_allclose(found.attention, attention[0].detach(), atol=1e-5)
