"""What `load()` costs beside a bare session of the same file, and what verification adds: LSTM 2x650 over 10,000 words."""

import io

import onnxruntime as ort
import pytest
import torch

from bench import networks
from decoding import load


class Words(networks.LanguageModel):
    """The network with its states hidden, as most exports have it, so that load() exposes and verifies them."""

    def forward(self, tokens):
        return self.head(self.lstm(self.embedding(tokens))[0])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    torch.manual_seed(0)
    file = io.BytesIO()
    names = {"input_names": ["tokens"], "output_names": ["logits"]}
    axes = {"tokens": {0: "batch", 1: "time"}, "logits": {0: "batch", 1: "time"}}
    net = Words(650, 2, 10_000).eval()
    torch.onnx.export(net, (torch.zeros(2, 5, dtype=torch.int64),), file, dynamo=False, dynamic_axes=axes, **names)
    path = tmp_path_factory.mktemp("load") / "words.onnx"
    path.write_bytes(file.getvalue())
    return path


def bare(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


LOADERS = {
    "bare": bare,
    "load, unverified": lambda path: load(path, threads=1, verify=False),
    "load": lambda path: load(path, threads=1),
}


@pytest.mark.filterwarnings("ignore")  # the older exporter is deprecated
@pytest.mark.parametrize("peer", LOADERS)
def test_load(benchmark, path, peer):
    benchmark.extra_info.update(workload="load lstm 2x650 v10000", peer=peer, steps=1)
    benchmark.pedantic(LOADERS[peer], args=(path,), rounds=9, warmup_rounds=1)
