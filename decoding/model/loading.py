"""`load()`: an exported file in, a model that can be stepped out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from decoding.errors import ModelError
from decoding.model import proof, rewrite
from decoding.model.contract import Contract, Fill, State
from decoding.model.freeing import free_reshapes
from decoding.model.graph import Graph, Shape, Source
from decoding.model.hidden import Hidden, Start, find_hidden, hidden_states, open_states, start_values
from decoding.model.model import Model
from decoding.model.roles import Roles, find_roles, given_roles, json_metadata, recurrent_path
from decoding.model.session import Session
from decoding.text import make_tokenizer


def load(
    model: Source,
    *,
    roles: Mapping[str, Any] | None = None,
    tokenizer: Any = None,
    providers: str | Sequence[Any] | None = None,
    threads: int | None = None,
    verify: bool = True,
) -> Model:
    """Load an exported recurrent model and make it steppable.

    Args:
        model: path of an ONNX file, its bytes, an onnx.ModelProto, or the name of a shipped model ("shakespeare").
        roles: overrides what is inferred: ``{"token": name, "logits": name, "state": {input: output},
            "output": "logits" | "probs" | "logprobs", "batch_axis": {input: axis}, "constant": {input: value}}``.
            The same JSON may stand in the file's metadata under ``decoding.roles``.
        tokenizer: a list of token strings, a Hugging Face `tokenizers` or SentencePiece object, or the path of
            one of their files; default: the vocabulary in the file's metadata (``decoding.vocab``).
        providers: onnxruntime's providers, or "cpu" and "cuda"; default the CPU.
        threads: intra-op threads of onnxruntime; None leaves the choice to it.
        verify: prove by running that stepping equals the original's whole-sequence run.

    Raises:
        ModelError: the file cannot be used; the message says which input or output, what was expected and what to pass.
        OptionError: an argument is wrong.
    """
    graph = Graph.load(_shipped(model))
    vocab = json_metadata(graph, "decoding.vocab", None)
    given = given_roles(graph, roles)
    rewrite.fix_constants(graph, given.get("constant", {}))
    rewrite.inline_decided_ifs(graph)
    rewrite.time_major(graph)
    step, original = _make_step_graph(graph, find_roles(graph, given))
    session = Session(step.graph.serialize(), graph.name, providers=providers, threads=threads)
    contract = _probe(session, step)
    if verify and (contract.sequence or step.hidden):
        contract = _prove(session, original, step, contract, threads)
    return Model(step.graph, contract, session, make_tokenizer(tokenizer, vocab, contract.logits.vocab_size))


@dataclass(frozen=True)
class StepGraph:
    """A graph rewritten for stepping, and what is known of it before it runs.

    Attributes:
        declared: shapes of the inputs as the file declares them.
        exposed: states that the file takes and gives by itself; `hidden`: those that were opened, as `names`, each
            with the value that `starts` it.
    """

    graph: Graph
    roles: Roles
    declared: Mapping[str, Shape]
    fills: tuple[Fill, ...]
    exposed: Sequence[proof.StateShape]
    hidden: Sequence[Hidden]
    names: Sequence[tuple[str, str]]
    starts: Sequence[Start]


def _shipped(model: Source) -> Source:
    """A bare name that is no file means a model of decoding/pretrained/."""
    if isinstance(model, str) and not Path(model).exists() and "/" not in model and "." not in model:
        folder = resources.files("decoding") / "pretrained"
        names = sorted(f.name.removesuffix(".onnx") for f in folder.iterdir() if f.name.endswith(".onnx"))
        if model not in names:
            raise ModelError(
                f"{model}: no such file, and no shipped model of that name; shipped are {', '.join(names)}"
            )
        return str(folder / f"{model}.onnx")
    return model


def _make_step_graph(graph: Graph, roles: Roles) -> tuple[StepGraph, Graph]:
    """Rewrite `graph` for stepping; also a copy of it from before its states were opened and its softmax cut."""
    ports = {p.name: p for p in graph.inputs}
    declared = {name: port.shape for name, port in ports.items()}
    fills = tuple(
        Fill(name, kind, ports[name].dtype, len(ports[name].shape or (0, 0))) for name, kind in roles.fills.items()
    )
    exposed = [_exposed_shape(graph, roles, name, output) for name, output in roles.states.items()]
    path = recurrent_path(graph, roles.token, roles.logits)
    rewrite.check_nodes_run_forward(graph, path)
    rewrite.plain_ports(graph, roles)
    free_reshapes(graph, roles)
    original = graph.copy()
    hidden = find_hidden(graph, roles)
    starts = start_values(original, hidden, declared)
    hidden, starts = _without_scalars(hidden, starts)
    if not (hidden or exposed):
        raise ModelError(
            f"{graph.name}: no recurrent state: neither an LSTM, GRU or RNN layer, a Loop or a Scan between {roles.token} and {roles.logits} nor a state input; "
            "decode() needs a recurrent network. If it has states, pass roles={'state': {input: output}}"
        )
    names = open_states(graph, hidden)
    rewrite.drop_lengths(graph, path)
    original.keep_outputs([roles.logits])
    rewrite.cut_softmax(graph, roles)
    graph.keep_outputs([roles.logits, *(s.output for s in exposed), *(output for _, output in names)])
    fills = tuple(f for f in fills if f.name in {p.name for p in graph.inputs})
    return StepGraph(graph, roles, declared, fills, exposed, hidden, names, starts), original


def _without_scalars(hidden: Sequence[Hidden], starts: Sequence[Start]) -> tuple[list[Hidden], list[Start]]:
    """A Loop may carry single numbers too (a clock, a flag); a state has at least a batch axis."""
    kept = [(h, s) for h, s in zip(hidden, starts, strict=True) if s.value.ndim]
    return [h for h, _ in kept], [s for _, s in kept]


def _exposed_shape(graph: Graph, roles: Roles, name: str, output: str) -> proof.StateShape:
    """What the declared shapes say of a state that the graph takes and gives by itself."""
    ports = {p.name: p for p in graph.inputs}
    token_dims = {d for d in ports[roles.token].shape or () if isinstance(d, str)}
    shape = ports[name].shape
    if shape is None:
        raise ModelError(
            f"{graph.name}: the state input {name} declares no shape; export it with its shape, batch dynamic"
        )
    if name in roles.batch_axis:
        axes: tuple[int, ...] = (roles.batch_axis[name],)
    elif named := [i for i, d in enumerate(shape) if d in token_dims]:
        axes = tuple(named)
    else:
        free = tuple(i for i, d in enumerate(shape) if not isinstance(d, int))
        # All fixed: a recurrent layer keeps the batch second, a plain cell first.
        axes = free or ((1, 0, 2) if len(shape) == 3 else tuple(range(len(shape))))
    return proof.StateShape(
        name, output, tuple(d if isinstance(d, int) else None for d in shape), axes, ports[name].dtype
    )


def _probe(session: Session, step: StepGraph) -> Contract:
    """The contract, its layouts found by running."""
    opened = [
        proof.StateShape(name, output, start.value.shape, start.axes, h.dtype)
        for (name, output), start, h in zip(step.names, step.starts, step.hidden, strict=True)
    ]
    rank = len(next(p.shape for p in step.graph.inputs if p.name == step.roles.token) or ())
    layout = proof.probe(session, step.roles.token, rank, step.roles.logits, [*step.exposed, *opened], step.fills)
    exposed = [_exposed_state(step.graph, shape, axis) for shape, axis in zip(step.exposed, layout.axes, strict=False)]
    hidden = hidden_states(step.graph, step.hidden, step.names, step.starts, layout.axes[len(exposed) :])
    return Contract(
        layout.token, layout.logits, (*exposed, *hidden), step.fills, layout.sequence, tuple(step.roles.notes)
    )


def _exposed_state(graph: Graph, shape: proof.StateShape, axis: int) -> State:
    sizes = tuple(1 if i == axis else int(size or 0) for i, size in enumerate(shape.sizes))
    start = json_metadata(graph, "decoding.initial", {}).get(shape.input)
    initial = np.zeros(sizes, shape.dtype) if start is None else np.asarray(start, shape.dtype).reshape(sizes)
    return State(shape.input, shape.output, axis, initial, "an input and an output of the file")


def _prove(session: Session, original: Graph, step: StepGraph, contract: Contract, threads: int | None) -> Contract:
    """The contract, with a note on the proof by which it holds."""
    kind = step.roles.output or "logits"
    changed = step.hidden or kind != "logits" or len(original.inputs) > len(step.graph.inputs)
    reference = Session(original.serialize(), session.name, threads=threads) if changed else session
    names = {p.name for p in original.inputs}
    ports = {p.name: p for p in original.inputs}
    whole = replace(
        contract,
        logits=replace(contract.logits, name=original.outputs[0].name),
        states=tuple(s for s in contract.states if s.input in names),
        fills=tuple(
            Fill(n, k, ports[n].dtype, len(step.declared[n] or (0, 0)))
            for n, k in step.roles.fills.items()
            if n in names
        ),
    )
    half = any(s.dtype == np.float16 for s in contract.states)
    fixed = contract.token.batch_and_time(step.declared[step.roles.token])
    proved = proof.prove(session, contract, reference, whole, kind, fixed, 2e-2 if half else 1e-4)
    runs = ", ".join(f"{b}x{t}" for b, t in proved)
    note = f"proved: stepping equals the whole-sequence run on random prefixes (batch x length {runs})"
    return replace(contract, notes=(*contract.notes, note))
