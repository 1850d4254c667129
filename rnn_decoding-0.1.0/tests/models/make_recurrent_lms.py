"""Make the fixtures of modern recurrent language models: `python tests/models/make_recurrent_lms.py [part of a name ...]`.

Needs torch, transformers, onnxscript, onnx, onnxruntime and this package. transformers' models come from
recurrent_lms.py, other recurrences from linear_recurrences.py. The expected outputs are those of the whole-sequence
forward pass, without a cache. Each NAME.npz also holds outputs of a prompt, to compare decode() with: transformers'
generate() by greedy and by beam search, over whole sequences too, and samples drawn from the framework's logits.
"""

import contextlib
import io
import logging
import os
import sys
import warnings

import linear_recurrences as zoo
import numpy as np
import recurrent_lms as lms
import torch
import transformers
from fixture import add
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from decoding import kernels

B, T, OPSET = "batch", "time", 18
PROMPT, EOS, NEW, BEAMS, SEED = [5, 3, 7], 2, 12, 3, 1
VERSIONS = f"torch {torch.__version__.split('+')[0]}"
PLAIN = {"mingru": zoo.MinGru, "hgrn": zoo.Hgrn, "deltanet": zoo.DeltaNet, "retnet": zoo.RetNet}
SELF = "make_recurrent_lms.py"


class Wrapped(PreTrainedModel, GenerationMixin):
    """generate() over any module from ids to logits, which reads the whole sequence anew at every step."""

    config_class = PretrainedConfig

    def __init__(self, whole):
        super().__init__(PretrainedConfig(num_hidden_layers=1, vocab_size=zoo.V, hidden_size=zoo.H))
        self.whole = whole
        self.generation_config = GenerationConfig(use_cache=False)

    def forward(self, input_ids, **_):
        return CausalLMOutput(logits=self.whole(input_ids))

    def prepare_inputs_for_generation(self, input_ids, **_):
        return {"input_ids": input_ids}


def export(module, exporter, args, names, axes):
    """The exported model; axes: {axis: name} for each input and output."""
    inputs, outputs = names
    args = tuple(a.clone() for a in args)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        options = {"input_names": inputs, "output_names": outputs, "opset_version": OPSET}
        if exporter == "legacy":
            buffer, options["dynamic_axes"] = io.BytesIO(), {n: a for n, a in axes.items() if a}
            torch.onnx.export(module, args, buffer, dynamo=False, **options)
            return buffer.getvalue()
        shapes = [dict.fromkeys(axes[n], torch.export.Dim.DYNAMIC) for n in inputs]
        plain = len(inputs) - len(getattr(module, "names", ()))
        nested = (*shapes[:plain], tuple(shapes[plain:])) if plain < len(inputs) else tuple(shapes)
        return torch.onnx.export(module, args, dynamo=True, verbose=False, dynamic_shapes=nested, **options).model_proto


def by_transformers(model):
    """The decode step as transformers' own exporter writes it. It leaves the width of a convolution's state open: set it."""
    import onnx_ir
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter
    from transformers.exporters.utils import decompose_prefill_decode

    parts = decompose_prefill_decode(model, {"input_ids": torch.full((2, 5), 3)})
    program = OnnxExporter().export(*parts["decode"], config=OnnxConfig(dynamic=True)).program
    proto = onnx_ir.to_proto(program)
    for value in (*proto.graph.input, *proto.graph.output):
        if "conv_states" in value.name:
            value.type.tensor_type.shape.dim[2].dim_value = model.config.conv_kernel
    return proto


def generated(whole, model):
    """What the framework gives for one prompt: by greedy search, by beam search, and by draws from its logits."""
    ids = torch.tensor([PROMPT])
    options = {"max_new_tokens": NEW, "do_sample": False, "use_cache": False, "eos_token_id": EOS, "pad_token_id": 0}
    with torch.no_grad():
        greedy = model.generate(ids, **options | {"eos_token_id": -1})
        beams = model.generate(ids, num_beams=BEAMS, num_return_sequences=BEAMS, **options)
        samples = ids
        for step in range(NEW):
            tokens, _ = kernels.draw(whole(samples)[:, -1].float().numpy(), seed=SEED, rows=[0], step=step)
            samples = torch.cat([samples, torch.from_numpy(tokens)[:, None]], 1)
    found = {"greedy": greedy, "beams": beams, "sample": samples}
    return {"prompt": np.array(PROMPT), **{k: v[:, len(PROMPT) :].numpy() for k, v in found.items()}}


def case(name, exporter, module, args, names, axes, whole, model, **more):
    """Export the module and write the fixture, in a child process: an export leaves traces, a broken file may crash."""
    full = f"lm_{exporter}_{name}"
    if not any(part in full for part in (sys.argv[1:] or [""])):
        return
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return

    def truth(ids):
        with torch.no_grad():
            return whole(torch.from_numpy(ids)[None])[0].numpy()

    named = f"transformers {transformers.__version__}" if exporter == "transformers" else f"{VERSIONS} {exporter}"
    settings = {"script": SELF, "exporter": f"{named}, opset {20 if exporter == 'transformers' else OPSET}", "vocab": zoo.V,
                "row": "modern recurrent language models", "token": (0, "BT"), "out": (0, "BTV"), "low": 3,
                "tolerance": 1e-4}  # fmt: skip
    try:
        proto = by_transformers(model) if exporter == "transformers" else export(module, exporter, args, names, axes)
        add(full, proto, truth, **settings | more, generated=generated(whole, model))
    except BaseException as error:
        print(f"{full:36} FAILED: {str(error)[-400:]}", flush=True)
    os._exit(0)


def step_case(name, exporter, step, whole, model, rows=2, **more):
    """A step with its states, ids [batch, 1]."""
    extra = getattr(step, "inputs", ())
    states = step.start(rows)
    grows = [n.startswith(("key_", "value_")) for n in step.names]
    arrays = {n: s[:1].numpy() for n, s, g in zip(step.names, states, grows, strict=True) if g}  # a past of no tokens
    if any(grows):
        states = step.start(rows, past=3)
    args = (torch.full((rows, 1), 3), *(torch.zeros(rows, 1, dtype=torch.int64) for _ in extra), *states)
    inputs = ["input_ids", *extra, *step.names]
    outputs = ["logits", *(f"new_{n}" for n in step.names)]
    free = {0: B} if rows > 1 else {}
    axes = {n: dict(free) for n in (*inputs, *outputs)}
    for n, g in zip(step.names, grows, strict=True):
        if g:
            axes[n], axes[f"new_{n}"] = {**free, 2: "past"}, {**free, 2: "total"}
    first = 1 + len(extra)
    more = {"states": {first + i: (1 + i, 0) for i in range(len(step.names))}, "run": "steps",
            "feeds": dict.fromkeys(extra, "position"), "arrays": arrays, **more}  # fmt: skip
    case(name, exporter, step, args, (inputs, outputs), axes, whole, model, **more)


def whole_case(name, exporter, module, whole, model, **more):
    """A whole sequence, ids [batch, time]."""
    both = {0: B, 1: T}
    args = (torch.randint(3, zoo.V, (2, 5), generator=torch.Generator().manual_seed(0)),)
    axes = {"input_ids": both, "logits": both}
    case(f"{name}_whole", exporter, module, args, (["input_ids"], ["logits"]), axes, whole, model, **more)


def transformers_models():
    by = f"transformers {transformers.__version__}"
    for name, (stem, _) in lms.CONFIGS.items():
        model = lms.language_model(name)
        whole, step = lms.Whole(model), lms.step_of(name, model)
        for exporter in ("legacy", "dynamo"):
            more = {"cell": f"{stem}ForCausalLM", "notes": by, "tolerance": 1e-3 if name == "qwen3_next" else 1e-4}
            if (name, exporter) == ("zamba", "legacy"):
                more |= {"expect": "refuse", "run": "none", "reason": "leaves as it came",
                         "notes": f"{by}; broken: the exporter loses recurrent_state[:, head].copy_(...)"}  # fmt: skip
                step_case(name, exporter, step, whole, model, **more)
            elif name.endswith("_hybrid"):
                more |= {"accept": ["step", "refuse"], "reason": "key_1"}
                step_case(name, exporter, step, whole, model, **more)
            else:
                step_case(name, exporter, step, whole, model, **more)


def transformers_whole():
    for name, exporter, more in (
        ("mamba", "legacy", {"expect": "refuse", "run": "whole:5", "accept": ["refuse"], "reason": "5",
                             "notes": "the loop over time, traced: five steps whatever the length"}),
        ("mamba2", "dynamo", {"expect": "window", "notes": "chunks of 4 tokens, computed side by side"}),
    ):  # fmt: skip
        model = lms.language_model(name)
        whole = lms.Whole(model)
        whole_case(name, exporter, whole, whole, model, cell=f"{lms.CONFIGS[name][0]}ForCausalLM", **more)


def own_exporter():
    """The exporter of transformers: sizes written as names ("32"), states called input.cache_params.layers.0.conv_states.0."""
    model = lms.language_model("mamba")
    whole, step = lms.Whole(model), lms.step_of("mamba", model)
    notes = "the width of the convolutions' states is set after the export"
    step_case("mamba", "transformers", step, whole, model, cell="MambaForCausalLM", notes=notes)


def plain_models():
    for name, mixer in PLAIN.items():
        torch.manual_seed(1)
        model = zoo.LanguageModel(mixer).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * (0.6 if parameter.dim() > 1 else 0.1))
        whole = zoo.Whole(model, "loop")
        wrapped = Wrapped(whole).eval()
        cell = mixer.__name__
        for exporter in ("legacy", "dynamo"):
            step_case(name, exporter, model, whole, wrapped, cell=cell)
            if name == "retnet":
                whole_case(name, exporter, zoo.Whole(model, "parallel"), whole, wrapped, cell=cell, expect="window",
                           notes="the parallel form: products over all past positions")  # fmt: skip
        if name != "retnet":
            whole_case(name, "dynamo", zoo.Whole(model, "scan"), whole, wrapped, cell=cell, notes="higher-order scan")


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    for group in (plain_models, transformers_models, transformers_whole, own_exporter):
        group()
