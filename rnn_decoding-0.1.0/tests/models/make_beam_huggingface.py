"""Beam search outputs of Hugging Face's generate() on a small LSTM, and the same network as ONNX.

    python tests/models/make_beam_huggingface.py        # needs torch, onnxscript and transformers

Writes beam_huggingface.onnx and beam_huggingface.json beside this script.
"""

import json
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

VOCAB, HIDDEN, EOS, LONGEST = 17, 12, 0, 12
PROMPTS = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]
HERE = Path(__file__).parent


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, HIDDEN)
        self.lstm = nn.LSTM(HIDDEN, HIDDEN, 2, batch_first=True)
        self.head = nn.Linear(HIDDEN, VOCAB)

    def forward(self, tokens):
        return self.head(self.lstm(self.embedding(tokens))[0])


class Config(PretrainedConfig):
    model_type = "small_lstm"
    vocab_size = VOCAB
    num_hidden_layers = 2
    hidden_size = HIDDEN


class Wrapped(PreTrainedModel, GenerationMixin):
    """generate() over the network, which reads the whole sequence anew at every step."""

    config_class = Config

    def __init__(self, config, network):
        super().__init__(config)
        self.network = network
        self.generation_config = GenerationConfig(use_cache=False, eos_token_id=EOS, pad_token_id=EOS)

    def forward(self, input_ids, **_):
        return CausalLMOutput(logits=self.network(input_ids))

    def prepare_inputs_for_generation(self, input_ids, **_):
        return {"input_ids": input_ids}


def main():
    torch.manual_seed(5)
    network = Network().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2.5)
        network.head.bias[EOS] += 1.0  # so that many hypotheses end
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    example = torch.zeros(2, 3, dtype=torch.int64)
    program = torch.onnx.export(network, (example,), dynamic_shapes=({0: batch, 1: time},), dynamo=True)
    for node in program.model.graph:
        node.metadata_props.clear()  # traces that name the files of the machine that exported
    program.save(HERE / "beam_huggingface.onnx")
    model = Wrapped(Config(), network).eval()
    cases = []
    for num_beams in (1, 2, 5, 8):
        for length_penalty in (0.0, 1.0, 2.0):
            for early_stopping in (False, True, "never"):
                out = model.generate(
                    torch.tensor(PROMPTS),
                    num_beams=num_beams,
                    length_penalty=length_penalty,
                    early_stopping=early_stopping if num_beams > 1 else False,
                    num_return_sequences=num_beams,
                    max_new_tokens=LONGEST,
                    do_sample=False,
                    return_dict_in_generate=True,
                    output_scores=True,
                )
                tokens = [row[len(PROMPTS[0]) :].tolist() for row in out.sequences]
                tokens = [row[: row.index(EOS)] if EOS in row else row for row in tokens]
                scores = out.sequences_scores.tolist() if num_beams > 1 else None
                cases.append(
                    {
                        "num_beams": num_beams,
                        "length_penalty": length_penalty,
                        "early_stopping": early_stopping,
                        "tokens": tokens,
                        "scores": scores,
                    }
                )
    stored = {
        "made_with": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "prompts": PROMPTS,
        "eos": EOS,
        "max_new_tokens": LONGEST,
        "cases": cases,
    }
    (HERE / "beam_huggingface.json").write_text(json.dumps(stored) + "\n")


if __name__ == "__main__":
    main()
