"""Call the public functions with arguments of wrong kinds and sizes, and see that only our own errors come out.

    python scripts/fuzz_calls.py --count 10000 --seed 0 --jobs 2

A case is a call that is right, with one to three of its arguments replaced by something else (scripts/fuzz/odd.py). The
seed and the number of a case make it again; `--only N` makes one call, here, with its traceback. How cases end is in
scripts/fuzz/pool.py.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.fuzz import odd, pool  # noqa: E402

V = 11
# Work grows with these, which is what they ask for: nothing between a thousand and what no machine can count to.
_WORK = {"max_new_tokens", "num_return_sequences", "n", "num_samples", "n_numbers", "k"}


@dataclass
class Call:
    """A call that is right.

    Attributes:
        function: takes the arguments by name.
        arguments: the ones that may be replaced.
    """

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]


@cache
def _models() -> dict[str, Any]:
    """Small models: one with text, one with a context, one with a latent, one with an encoder."""
    import decoding
    from tests.helpers.build import recurrent
    from tests.helpers.seq2seq import AdditiveModel

    text = {"decoding.vocab": [chr(97 + i) for i in range(V)], "decoding.bos": 0, "decoding.eos": 1, "decoding.pad": 2}
    seq2seq = AdditiveModel(metadata={"decoding.bos": 0, "decoding.eos": 1})
    return {
        "text": decoding.load(recurrent(vocab=V, metadata=text), threads=1),
        "proto": recurrent("GRU", vocab=V, exposed=True, metadata=text),
        "encoded": decoding.load(seq2seq.decoder(), encoder=seq2seq.encoder(), threads=1),
        "decoder": seq2seq.decoder(),
        "encoder": seq2seq.encoder(),
        "bytes": recurrent(vocab=V).SerializeToString(),
        "latent": decoding.load(_with_latent(), threads=1),
        "discriminator": _discriminator(),
    }


def _with_latent() -> Any:
    from onnx import TensorProto, helper

    from tests.helpers.build import recurrent

    proto = recurrent("RNN", vocab=V, hidden=4, metadata={"decoding.bos": 0})
    first = next(node for node in proto.graph.node if node.op_type == "Gather")
    first.output[0] = "plain"
    proto.graph.node.insert(1, helper.make_node("Unsqueeze", ["z", "second"], ["z_wide"]))
    proto.graph.node.insert(2, helper.make_node("Add", ["plain", "z_wide"], ["embedded"]))
    proto.graph.initializer.append(helper.make_tensor("second", TensorProto.INT64, [1], [1]))
    proto.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 4]))
    return proto


def _discriminator() -> bytes:
    from onnx import TensorProto, helper

    from tests.helpers.build import model

    nodes = [
        helper.make_node("Cast", ["ids"], ["floats"], to=1),
        helper.make_node("ReduceMean", ["floats"], ["scores"], axes=[1], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "t"])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n"])]
    graph: bytes = model(helper.make_graph(nodes, "d", inputs, outputs)).SerializeToString()
    return graph


def _reward(ids: Any) -> Any:
    return (ids == 3).mean(axis=1)


@cache
def calls() -> list[Call]:
    """Every public function, with arguments that are right."""
    import decoding as d

    m = _models()
    text, encoded, latent = m["text"], m["encoded"], m["latent"]
    options = {"max_new_tokens": 5, "min_new_tokens": 0, "eos_token_id": 1, "stop": ["ab"], "num_return_sequences": 2, "seed": 3, "processors": [],
               "logprobs": 2, "batch_size": 3, "step_inputs": None, "return_attention": False}  # fmt: skip
    decode = {"model": text, "prompts": [[1, 2], [3]], "strategy": d.Sample(), **options, "prefix": None, "context": None, "latents": None,
              "teacher": None, "teacher_ratio": 0.0, "workers": 1, "progress": False}  # fmt: skip
    taught = {**decode, "teacher": [[1, 2], [3, 4, 5]], "teacher_ratio": 0.5}
    score = {
        "model": text,
        "sequences": [[1, 2], [3, 4, 5]],
        "prompts": None,
        "context": None,
        "latents": None,
        "seed": 1,
        "batch_size": 4,
    }
    rollout = {"model": text, "sequences": [[3, 4, 5], [4, 5]], "reward": _reward, "n": 2, "max_new_tokens": 4, "seed": 1, "strategy": d.Sample(),
               "eos_token_id": 1, "pad_token_id": 0, "prompts": None, "context": None, "latents": None, "processors": (), "batch_size": 4, "workers": 1}  # fmt: skip
    out = d.decode(text, [[1, 2], [3]], d.Sample(), max_new_tokens=5, num_return_sequences=3, seed=1)
    weights = {"bias": np.zeros(V, np.float32)}
    source = {"tokens": np.array([[1, 2, 3]])}
    found = [
        Call("decode", d.decode, decode),
        Call("decode text", d.decode, {**decode, "prompts": ["abc", "d"], "stop": "ab"}),
        Call("decode taught", d.decode, taught),
        Call("decode beam", d.decode, {**decode, "strategy": d.Beam(3), "logprobs": 0}),
        Call("decode distinct", d.decode, {**decode, "strategy": d.Sample(replacement=False), "logprobs": 0}),
        Call("decode encoded", d.decode, {**decode, "model": encoded, "prompts": [[1, 2, 3], [4]], "prefix": [[0], [0, 2]], "stop": ()}),
        Call("decode latent", d.decode, {**decode, "model": latent, "latents": {"z": np.zeros((2, 4))}, "stop": (), "num_return_sequences": 1}),
        Call("stream", d.stream, {k: v for k, v in decode.items() if k not in ("teacher", "teacher_ratio", "workers", "progress")}),
        Call("decode_iter", d.decode_iter, {k: v for k, v in decode.items() if k not in ("teacher", "teacher_ratio", "progress", "context", "latents")}),
        Call("decode_iter threads", d.decode_iter, {**{k: v for k, v in decode.items() if k not in ("teacher", "teacher_ratio", "progress", "context", "latents")}, "workers": 2}),
        Call("score", d.score, score),
        Call("score encoded", d.score, {**score, "model": encoded, "prompts": [[1, 2, 3], [4]]}),
        Call("score latent", d.score, {**score, "model": latent, "latents": np.zeros((2, 4))}),
        Call("rollout", d.rollout, rollout),
        Call("rollout discriminator", d.rollout, {**rollout, "reward": m["discriminator"]}),
        Call("rerank", d.rerank, {"hypotheses": out, "reward": lambda batch: batch.scores}),
        Call("mbr", d.mbr, {"hypotheses": out, "similarity": lambda a, b: len(set(a.tokens) & set(b.tokens)), "weights": "uniform"}),
        Call("load", d.load, {"model": m["proto"], "encoder": None, "roles": {}, "tokenizer": None, "providers": None, "threads": 1, "quantize": None, "verify": True}),
        Call("load bytes", d.load, {"model": m["bytes"], "encoder": [], "roles": {"token": "tokens"}, "tokenizer": [chr(97 + i) for i in range(V)],
                                    "providers": ["cpu"], "threads": 1, "quantize": "int8", "verify": True}),
        Call("load encoder", d.load, {"model": m["decoder"], "encoder": m["encoder"], "roles": {"encoder": {"hidden": "hidden"}}, "threads": 1}),
        Call("Model.save", text.save, {"path": "saved.onnx"}),
        Call("Model.run", text.run, {"inputs": source, "seed": 1, "batch_size": 1}),
        Call("Model.run latent", latent.run, {"inputs": {**source, "z": np.zeros((1, 4))}, "seed": 1, "batch_size": 1}),
        Call("Model.with_weights", text.with_weights, {"weights": weights}),
        Call("Discriminator", lambda ids, **k: d.Discriminator(**k)(ids), {"model": m["discriminator"], "token": "ids", "score": "scores", "label": 0, "providers": None, "threads": 1, "ids": np.array([[1, 2]])}),
        Call("Decoded.padded", out.padded, {"fill": 0}),
        *_constructors(d, decode),
        *_kernels(d),
    ]  # fmt: skip
    return found


def _constructors(d: Any, decode: dict[str, Any]) -> Iterator[Call]:
    """Strategies and processors, which are used once where they can be made."""

    def used(make: Callable[..., Any], key: str) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            made = make(**arguments)
            repr(made)
            more = {"logprobs": 0, "num_return_sequences": 1} if key == "strategy" else {}
            return d.decode(**{**decode, "stop": (), **more, key: made if key == "strategy" else [made]})

        return call

    strategies: list[tuple[Any, dict[str, Any]]] = [
        (d.Sample, {"temperature": 0.8, "top_k": 4, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.9, "epsilon_cutoff": 0.001, "eta_cutoff": 0.001, "replacement": True}),
        (d.TopN, {"n": 3}),
        (d.Beam, {"num_beams": 4, "length_penalty": 1.0, "early_stopping": False, "num_beam_groups": 2, "diversity_penalty": 0.5, "coverage_penalty": 0.0}),
    ]  # fmt: skip
    processors: list[tuple[Any, dict[str, Any]]] = [
        (d.RepetitionPenalty, {"penalty": 1.2}), (d.PresencePenalty, {"penalty": 0.5}), (d.FrequencyPenalty, {"penalty": 0.5}), (d.NoRepeatNgram, {"n": 2}),
        (d.LogitBias, {"bias": {1: 2.0}}), (d.SuppressTokens, {"ids": [1]}), (d.AllowedTokens, {"ids": [1, 2]}), (d.ForcedTokens, {"tokens": {0: 3}}),
        (d.PrefixAllowed, {"function": lambda ids: [1, 2]}),
    ]  # fmt: skip
    for make, arguments in strategies:
        yield Call(make.__name__, used(make, "strategy"), arguments)
    for make, arguments in processors:
        yield Call(make.__name__, used(make, "processors"), arguments)


def _kernels(d: Any) -> Iterator[Call]:
    kernels = __import__("decoding.kernels", fromlist=["kernels"])
    logits = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    probs = np.full((3, 8), 0.125, np.float32)
    keyed = {"seed": 1, "rows": np.arange(3), "step": 0}
    filters = {
        "temperature": 1.0,
        "top_k": 3,
        "top_p": 0.9,
        "min_p": 0.0,
        "typical_p": 1.0,
        "epsilon_cutoff": 0.0,
        "eta_cutoff": 0.0,
    }
    history = [[1, 2], [3], []]
    for name, arguments in {
        "softmax": {"logits": logits, "temperature": 1.0, "out": None},
        "log_softmax": {"logits": logits, "temperature": 1.0, "out": None},
        "temper": {"probs": probs, "temperature": 1.0, "out": None},
        "draw": {"logits": logits, **filters, **keyed, "threads": 1},
        "greedy": {"logits": logits},
        "multinomial": {"probs": probs, "num_samples": 2, "replacement": True, **keyed},
        "philox": {"key": [1, 2], "counter": [1, 2, 3, 4], "n": 4},
        "uniform": {"seed": 1, "rows": np.arange(3), "step": 0, "n": 2, "purpose": "draw"},
        "normal": {"seed": 1, "rows": np.arange(3), "step": 0, "n": 2, "purpose": "latent"},
        "top_n": {"logits": logits, "n": 2, **keyed},
        "gumbel_top_k": {"logits": logits, "k": 2, **filters, **keyed, "scores": None, "maxima": None},
        "top_k": {"logits": logits, "k": 2},
        "top_logprobs": {"logits": logits, "k": 2},
        "token_logprobs": {"logits": logits, "tokens": [1, 2, 3]},
        "beam_prune": {"logits": logits[None], "scores": np.zeros((1, 3), np.float32), "num_beams": 3, "groups": 1, "diversity_penalty": 0.0, "eos_token_id": 1, "normalize": True},
        "gather_rows": {"array": logits, "index": [0, 2], "axis": 0, "out": None},
        "repetition_penalty": {"logits": logits, "history": history, "penalty": 1.2},
        "presence_penalty": {"logits": logits, "history": history, "penalty": 0.2},
        "frequency_penalty": {"logits": logits, "history": history, "penalty": 0.2},
        "no_repeat_ngram": {"logits": logits, "history": history, "n": 2},
        "logit_bias": {"logits": logits, "ids": [1, 2], "bias": [0.5, 0.5]},
        "suppress_tokens": {"logits": logits, "ids": [1]},
        "allow_tokens": {"logits": logits, "ids": [1]},
    }.items():  # fmt: skip
        yield Call(f"kernels.{name}", getattr(kernels, name), arguments)


def changed_call(seed: int, number: int) -> tuple[Call, dict[str, Any], list[str]]:
    """The call of one case, its arguments, and which of them are odd."""
    rng = np.random.default_rng((seed, number, 3))
    call = calls()[rng.integers(len(calls()))]
    arguments = {
        k: copy.deepcopy(v) if isinstance(v, np.ndarray | dict | list) else v for k, v in call.arguments.items()
    }
    names = list(arguments)
    wrong = [names[i] for i in rng.choice(len(names), min(len(names), int(rng.geometric(0.8)), 3), replace=False)]
    for name in wrong:
        arguments[name] = _odd_value(rng, name, arguments[name])
    return call, arguments, wrong


def _odd_value(rng: np.random.Generator, name: str, right: Any) -> Any:
    if isinstance(right, dict) and right and rng.random() < 0.5:  # one of the values in it, or one of the keys
        inner = dict(right)
        key = list(inner)[rng.integers(len(inner))]
        if rng.random() < 0.8:
            return {**inner, key: odd.anything(rng)}
        return {**inner, _hashable(odd.anything(rng)): inner.pop(key)}
    if isinstance(right, list) and right and rng.random() < 0.4:
        inner_list = list(right)
        inner_list[rng.integers(len(inner_list))] = odd.anything(rng)
        return inner_list
    while True:
        value = odd.anything(rng)
        number = value if isinstance(value, int | np.integer) else 0
        if not (name in _WORK and 1000 < number < 2**63):
            return value


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return "key"
    return value


def make_call(seed: int, number: int) -> Any:
    """Make one call in this process, and use what comes back."""
    call, arguments, _ = changed_call(seed, number)
    with pool.scratch():
        result = call.function(**arguments)
        if hasattr(result, "__next__"):
            result = list(islice(result, 30))
        repr(result)[:1]
    return result


def main() -> int:
    """Make the calls that the command line asks for; 1 where one was a bug or a hang."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kind", choices=("calls",), default="calls")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", type=int, help="make one call in this process")
    parser.add_argument("--child", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    seed = options.seed
    if options.child:
        _models(), calls()

        def case(number: int) -> str:
            make_call(seed, number)
            return "done"

        pool.be_child(range(*options.child), case)
        return 0
    if options.only is not None:
        call, arguments, wrong = changed_call(seed, options.only)
        print(call.name, {name: arguments[name] for name in wrong})
        print(repr(make_call(seed, options.only))[:2000])
        return 0
    result = pool.run(Path(__file__).resolve(), "calls", seed, range(options.count), options.jobs)
    return pool.report(result)


if __name__ == "__main__":
    sys.exit(main())
