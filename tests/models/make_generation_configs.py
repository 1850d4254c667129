"""Outputs of Hugging Face's generate() by GenerationConfig, on the network of beam_huggingface.onnx.

    python tests/models/make_generation_configs.py        # needs torch and transformers

Writes generation_configs.json beside this script: for each config the tokens of greedy and beam search, and for sampling the distribution of
the first new token, after all of generate()'s processors.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import torch
import transformers
from make_beam_huggingface import EOS, HERE, PROMPTS, Config, Network, Wrapped
from onnx import numpy_helper

SEARCHES = [
    {},
    {"max_new_tokens": 8},
    {"max_length": 9},
    {"repetition_penalty": 1.7, "max_new_tokens": 12},
    {"no_repeat_ngram_size": 2, "max_new_tokens": 12},
    {"bad_words_ids": [[6], [11]], "max_new_tokens": 12},
    {"suppress_tokens": [6, 7], "max_new_tokens": 12},
    {"sequence_bias": [[[6], -3.0], [[3], 2.5]], "max_new_tokens": 12},
    {"min_new_tokens": 5, "max_new_tokens": 12},
    {"min_length": 6, "max_length": 15},
    {"forced_eos_token_id": 0, "max_new_tokens": 6},
    {"eos_token_id": [0, 6], "max_new_tokens": 12},
    {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.3, "early_stopping": True, "max_new_tokens": 10},
    {"num_beams": 5, "early_stopping": "never", "length_penalty": -0.5, "max_new_tokens": 10},
    {"num_beams": 3, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_new_tokens": 3, "max_new_tokens": 10},
    {"num_beams": 3, "suppress_tokens": [6], "forced_eos_token_id": 0, "max_new_tokens": 7},
]
SAMPLES = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.8, "top_k": 0},
    {"top_k": 3},
    {"top_k": 0, "top_p": 0.7},
    {"top_k": 0, "min_p": 0.2},
    {"top_k": 0, "typical_p": 0.6},
    {"top_k": 0, "epsilon_cutoff": 0.05},
    {"top_k": 0, "eta_cutoff": 0.3},
    {"temperature": 1.5, "top_k": 8, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.3},
]


def network():
    """The network with the weights of the file."""
    file = onnx.load(HERE / "beam_huggingface.onnx")
    weights = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in file.graph.initializer}
    made = Network().eval()
    torch.manual_seed(5)  # as make_beam_huggingface.py made them
    made = Network().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2.5)
        made.head.bias[EOS] += 1.0
    assert np.allclose(weights["embedding.weight"], made.embedding.weight.detach())
    return made


def main():
    model = Wrapped(Config(), network()).eval()
    prompts, stored = torch.tensor(PROMPTS), {"searches": [], "samples": []}
    model.generation_config.eos_token_id = None
    for options in SEARCHES:
        config = {"eos_token_id": EOS, **options}
        given = transformers.GenerationConfig(**config, use_cache=False, pad_token_id=EOS)
        out = model.generate(prompts, generation_config=given).tolist()
        ends = np.atleast_1d(config["eos_token_id"]).tolist()
        tokens = [row[len(PROMPTS[0]) :] for row in out]
        tokens = [row[: next((i for i, t in enumerate(row) if t in ends), len(row))] for row in tokens]
        stored["searches"].append({"config": given.to_diff_dict(), "tokens": tokens})
    for options in SAMPLES:
        given = transformers.GenerationConfig(
            **options, do_sample=True, use_cache=False, pad_token_id=EOS, max_new_tokens=1
        )
        out = model.generate(prompts, generation_config=given, output_scores=True, return_dict_in_generate=True)
        probs = out.scores[0].double().softmax(-1).tolist()
        stored["samples"].append({"config": given.to_diff_dict(), "probs": probs})
    stored = {"made_with": f"transformers {transformers.__version__}, torch {torch.__version__}", **stored}
    (Path(__file__).parent / "generation_configs.json").write_text(json.dumps(stored) + "\n")


if __name__ == "__main__":
    main()
