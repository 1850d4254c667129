"""`load()`: an exported file in, a model that can be stepped out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from decoding.errors import ModelError
from decoding.model import proof, rewrite
from decoding.model.contract import Contract, State
from decoding.model.graph import Array, Graph, Shape, Source
from decoding.model.roles import Roles, find_roles, given_roles, json_metadata
from decoding.model.session import Session
from decoding.text import Tokenizer, make_tokenizer


class Model:
    """A prepared step graph with its session. Made by `load()`; safe to use from several threads.

    Attributes:
        contract: roles of every input and output.
        tokenizer: turns text into ids and back, or None.
        bos_token_id, eos_token_id, pad_token_id: special ids, or None; `eos_token_id` may be several.
        session: runs the graph.
    """

    def __init__(self, graph: Graph, contract: Contract, session: Session, tokenizer: Tokenizer | None) -> None:
        self._graph = graph
        self.contract = contract
        self.session = session
        self.tokenizer = tokenizer
        self.name = graph.name
        self.bos_token_id: int | None = self._special("bos")
        self.pad_token_id: int | None = self._special("pad")
        eos = json_metadata(graph, "decoding.eos", None)
        self.eos_token_id: tuple[int, ...] = () if eos is None else tuple(eos) if isinstance(eos, list) else (eos,)
        self.max_new_tokens: int | None = json_metadata(graph, "decoding.max_new_tokens", None)

    def _special(self, name: str) -> int | None:
        value: int | None = json_metadata(self._graph, f"decoding.{name}", None)
        return value

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self.contract.logits.vocab_size

    @property
    def providers(self) -> list[str]:
        """The onnxruntime providers that the session runs on."""
        return self.session.providers

    def describe(self) -> str:
        """Name, special ids and the contract, as a table that a person can read."""
        special = [f"{name} {value}" for name, value in (("bos", self.bos_token_id), ("eos", list(self.eos_token_id) or None),
                                                          ("pad", self.pad_token_id)) if value is not None]  # fmt: skip
        text = "no tokenizer" if self.tokenizer is None else f"tokenizer: {self.tokenizer}"
        head = f"{self.name}: vocabulary {self.vocab_size}, {text}, {', '.join(special) or 'no special ids'}, on {self.providers[0]}"
        return f"{head}\n{self.contract.describe()}"

    def __repr__(self) -> str:
        return f"<Model {self.describe()}>"

    def save(self, path: str | Path) -> None:
        """Write the prepared step graph, which loads again without any rewriting."""
        graph = self._graph.copy()
        c = self.contract
        for state in c.states:
            shape: list[int | str] = list(state.initial.shape)
            shape[state.batch_axis] = "batch"
            graph.set_shape(state.input, shape)
            graph.set_shape(state.output, shape)
        roles = {"token": c.token.name, "logits": c.logits.name, "output": "logits",
                 "state": {s.input: s.output for s in c.states},
                 "batch_axis": {s.input: s.batch_axis for s in c.states}}  # fmt: skip
        initial = {s.input: s.initial.tolist() for s in c.states if s.initial.any()}
        graph.set_metadata({"decoding.roles": json.dumps(roles), "decoding.initial": json.dumps(initial)})
        Path(path).write_bytes(graph.serialize())


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
            "output": "logits" | "probs" | "logprobs", "batch_axis": {input: axis}}``. The same JSON may stand in the
            file's metadata under ``decoding.roles``.
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
    given = given_roles(graph, roles)
    found = find_roles(graph, given)
    declared = {p.name: p.shape for p in graph.inputs}
    shapes = _exposed_shapes(graph, found)
    rewrite.plain_ports(graph, found)
    original = graph.copy()
    opened = rewrite.open_states(graph, found)
    if not (opened or found.states):
        raise ModelError(f"{graph.name}: no recurrent state: neither an LSTM, GRU or RNN layer between {found.token} and {found.logits} nor a state input; "
                         "decode() needs a recurrent network. If it has states, pass roles={'state': {input: output}}")  # fmt: skip
    rewrite.cut_softmax(graph, found)
    graph.keep_outputs([found.logits, *found.states.values(), *(o.output for o in opened)])
    session = Session(graph.serialize(), graph.name, providers=providers, threads=threads)
    hidden_shapes = [
        proof.StateShape(o.input, o.output, (1, None, o.hidden_size), (1,), np.dtype(np.float32)) for o in opened
    ]
    layout = proof.probe(
        session, found.token, len(declared[found.token] or ()), found.logits, [*shapes, *hidden_shapes]
    )
    exposed = [_exposed_state(graph, s, axis) for s, axis in zip(shapes, layout.axes, strict=False)]
    hidden = _hidden_states(original, declared, opened)
    contract = Contract(layout.token, layout.logits, (*exposed, *hidden), layout.sequence, tuple(found.notes))
    if verify and (layout.sequence or hidden):
        contract = _proved(
            session,
            original,
            contract,
            hidden,
            found,
            layout.token.batch_and_time(declared[found.token]),
            threads,
        )
    return Model(
        graph,
        contract,
        session,
        make_tokenizer(tokenizer, json_metadata(graph, "decoding.vocab", None), contract.logits.vocab_size),
    )


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


def _exposed_shapes(graph: Graph, roles: Roles) -> list[proof.StateShape]:
    """What the declared shapes say of the states that the graph takes and gives by itself."""
    ports = {p.name: p for p in graph.inputs}
    token_dims = {d for d in ports[roles.token].shape or () if isinstance(d, str)}
    shapes = []
    for name, output in roles.states.items():
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
        shapes.append(
            proof.StateShape(
                name, output, tuple(d if isinstance(d, int) else None for d in shape), axes, ports[name].dtype
            )
        )
    return shapes


def _exposed_state(graph: Graph, shape: proof.StateShape, axis: int) -> State:
    sizes = tuple(1 if i == axis else int(size or 0) for i, size in enumerate(shape.sizes))
    start = json_metadata(graph, "decoding.initial", {}).get(shape.input)
    initial = np.zeros(sizes, shape.dtype) if start is None else np.asarray(start, shape.dtype).reshape(sizes)
    return State(shape.input, shape.output, axis, initial, "an input and an output of the file")


def _hidden_states(original: Graph, declared: Mapping[str, Shape], opened: Sequence[rewrite.Opened]) -> list[State]:
    """The opened states with their initial values, which one run of just their part of the original gives."""
    tensors = rewrite.initial_tensors(opened)
    values: dict[str, Array] = {}
    if tensors:
        inputs = {p.name for p in original.inputs}
        for state in opened:
            if data := inputs & original.ancestors(state.initial, stop_ops=("Shape", "Size")):
                raise ModelError(f"{original.name}: the state {state.source} starts from the input {sorted(data)[0]}; "
                                 "export the initial state as an input of the decoder")  # fmt: skip
        part = original.part(tensors)
        # The declared sizes, where there are any: an export of a fixed batch runs with no other.
        sizes = {p.name: [d if isinstance(d, int) else 1 for d in declared[p.name] or (1, 1)] for p in part.inputs}
        feeds = {p.name: np.zeros(sizes[p.name], p.dtype) for p in part.inputs}
        values = dict(
            zip(
                tensors,
                Session(part.serialize(), original.name, threads=1).run(feeds, list(tensors)),
                strict=True,
            )
        )
    return [State(o.input, o.output, 1, rewrite.initial_value(original, o, values), o.source) for o in opened]


def _proved(session: Session, original: Graph, contract: Contract, hidden: Sequence[State], roles: Roles,
            fixed: tuple[int | None, int | None], threads: int | None) -> Contract:  # fmt: skip
    """The contract, with a note on the proof by which it holds."""
    kind = roles.output or "logits"
    if hidden or kind != "logits":
        original.keep_outputs([roles.logits])
        reference = Session(original.serialize(), session.name, threads=threads)
    else:
        reference = session
    half = any(s.dtype == np.float16 for s in contract.states)
    proved = proof.prove(session, reference, contract, hidden, kind, fixed, 2e-2 if half else 1e-4)
    runs = ", ".join(f"{b}x{t}" for b, t in proved)
    note = f"proved: stepping equals the whole-sequence run on random prefixes (batch x length {runs})"
    return replace(contract, notes=(*contract.notes, note))
