"""`load()`: an exported file in, a model that can be stepped out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from decoding.errors import ModelError, OptionError
from decoding.model.contract.contract import Contract
from decoding.model.contract.initial_states import make_initial_state_graph
from decoding.model.contract.io import AuxiliaryInput, State, Window
from decoding.model.encoders.connect import connect
from decoding.model.encoders.encoder import ENCODER_ROLES, load_encoder
from decoding.model.generator import Generator, roles_or_latents
from decoding.model.graph.graph import Graph, ModelFile
from decoding.model.graph.types import Shape
from decoding.model.model import Model
from decoding.model.passes import normalize
from decoding.model.passes.dynamic_shapes import make_reshapes_dynamic, make_spreads_dynamic, one_row, step_loops
from decoding.model.passes.expose_states import (
    HiddenState,
    Start,
    expose_states,
    exposed_states,
    find_hidden_states,
    start_values,
)
from decoding.model.passes.fold_embedding import Folded, folded_step
from decoding.model.passes.lower_recurrent import plain_steps
from decoding.model.passes.normalize import put_batch_first
from decoding.model.passes.quantize import check_quantize, to_int8
from decoding.model.paths import encoder_files, shipped
from decoding.model.roles.auxiliary_inputs import for_each_row, make_auxiliary_inputs
from decoding.model.roles.given import given_roles, json_metadata, names_in
from decoding.model.roles.infer import Roles, recurrent_path
from decoding.model.runtime.session import Session, full_names
from decoding.model.verify import equivalence, layouts
from decoding.model.verify.equivalence import NotSteppable, same_step
from decoding.model.verify.layouts import StateShape
from decoding.model.verify.padding import with_padding
from decoding.model.verify.window import check_any_length, explained, given_window, window_contract
from decoding.model.weights import FileWeights
from decoding.tokenizers import make_tokenizer


def load(
    model: ModelFile,
    *,
    encoder: ModelFile | Sequence[ModelFile] | None = None,
    roles: Mapping[str, Any] | None = None,
    tokenizer: Any = None,
    providers: str | Sequence[Any] | None = None,
    threads: int | None = None,
    quantize: Literal["int8"] | None = None,
    verify: bool = True,
) -> Model:
    """Load an exported recurrent model and make it steppable.

    Args:
        model: path of an ONNX file, its bytes, an onnx.ModelProto, or the name of a shipped model ("shakespeare", "tang", "dates").
        encoder: a model, or several run in turn (a CNN, then an RNN; an utterance RNN, then a history RNN), run once for
            each source: its outputs feed the next encoder's inputs, and the model's contexts and initial states. They are joined as
            ``roles["encoder"]`` says, else by name, else by shape where only one way fits; `Model.describe()` says how.
            Default: what stands beside the file of `model`, NAME.encoder.onnx (or NAME.encoder1.onnx, NAME.encoder2.onnx, ...)
            for NAME.onnx; ``[]`` for none.
        roles: overrides what is inferred: ``{"token": name, "logits": name, "state": {input: output},
            "output": "logits" | "probs" | "logprobs", "batch_axis": {input: axis}, "constant": {input: value},
            "context": [input], "attention": output, "encoder": {encoder output: input, or None to leave it out},
            "latent": {input: "normal" | "uniform" | {"distribution": ..., "every": "sequence" | "step"}},
            "source_mask": {input: context}, "source_length": {input: context},
            "window": W or None for the whole prefix, "pad": "left" | "right"}``.
            The same JSON may stand in the file's metadata under ``decoding.roles``. With several encoders, ``"encoder"`` may
            be a list with one dict for each.
        tokenizer: a list of token strings, a Hugging Face `tokenizers` or SentencePiece object, or the path of
            one of their files; default: the vocabulary in the file's metadata (``decoding.vocab``).
        providers: onnxruntime's providers, or "cpu" and "cuda"; default the CPU. docs/cuda.md says what a GPU needs and does.
        threads: intra-op threads of onnxruntime; None leaves the choice to it.
        quantize: "int8" turns the weights of LSTM layers, products and embeddings into int8, after the proof, for onnxruntime's
            int8 products; `Model.describe()` says which, which could not be, and how far that moves the logits.
        verify: prove by running that stepping equals the original's whole-sequence run.

    Raises:
        ModelError: the file cannot be used; the message says which input or output, what was expected and what to pass.
        OptionError: an argument is wrong.
    """
    wanted = full_names(providers)
    check_quantize(quantize, wanted)
    source = shipped(model)
    graph, others = Graph.load(source), [Graph.load(one) for one in encoder_files(source, encoder)]
    initializers = graph.initializers
    roles, encoder_roles = _split_roles(roles or {}, graph, others)
    vocab = json_metadata(graph, "decoding.vocab", None)
    given = given_roles(graph, roles)
    declared = {port.name: port.shape for port in graph.inputs}
    normalize.fix_constants(graph, given.get("constant", {}))
    normalize.inline_decided_ifs(graph)
    normalize.time_major(graph)
    normalize.fix_sizes_in_weights(graph)

    def start(prepared: Graph) -> Session:
        """What is found out about a graph by running it holds for every provider: the CPU tells it exactly."""
        return Session(prepared, threads=threads)

    found = roles_or_latents(graph, given)
    if not isinstance(found, Roles):
        if others:
            raise ModelError(
                f"{graph.name}: a plain generator, which has no contexts or states for the encoder {others[0].name} to feed; load it with encoder=[]"
            )
        return Generator(graph, start(graph), found)
    plain = _make_plain(graph, found, declared)

    window = given_window(given, json_metadata(graph, "decoding.pad", None))
    if window is None:
        try:
            prepared, session, contract = _stepped(plain, start, verify)
        except NotSteppable as error:
            if plain.exposed:
                raise
            prepared, session, contract = _windowed(plain, start, None, str(error).removeprefix(f"{graph.name}: "))
    else:
        prepared, session, contract = _windowed(plain, start, window, "roles ask for a window")
    if quantize:
        prepared, session, contract = _quantized(prepared, session, contract, start, verify)
    folded = folded_step(session, prepared, contract, start) if contract.window is None and not quantize else None
    if folded is not None:
        note = "single steps take the product of embedding and input weights from one table"
        contract = replace(contract, notes=(*contract.notes, note))
    if wanted != full_names("cpu"):
        session, folded = _elsewhere(session, contract, prepared, folded, wanted)
    encoders = None
    if others:
        stages = [load_encoder(*pair, start) for pair in zip(others, encoder_roles, strict=True)]
        if wanted != full_names("cpu"):
            stages = [replace(e, session=Session(e.graph, providers=wanted, threads=threads)) for e in stages]
        encoders, contract = connect(stages, contract, given, graph.name)
    text = make_tokenizer(tokenizer, vocab, contract.logits.vocab_size)
    file = FileWeights.find(
        initializers, quantize is not None, plain.graph, plain.roles, plain.declared, plain.contexts
    )
    return Model(prepared, contract, session, text, file, folded, encoders)


# Between the products of a CPU and those of other hardware, which may round their factors to fewer bits.
_OTHER_HARDWARE = 1e-2


def _elsewhere(
    session: Session, contract: Contract, graph: Graph, folded: Folded | None, wanted: Sequence[Any]
) -> tuple[Session, Folded | None]:
    """The sessions on the providers that were asked for.

    Raises:
        ModelError: they cannot be had there, or give something else than the CPU.
    """
    there = Session(graph, providers=wanted, threads=session.threads)
    if contract.window is None and not same_step(session, there, contract, _OTHER_HARDWARE):
        raise ModelError(
            f"{graph.name}: {there.providers[0]} gives other scores than the CPU; pass providers='cpu', and report it to onnxruntime"
        )
    if folded is not None:
        folded = replace(folded, session=Session(folded.graph, providers=wanted, threads=session.threads))
    return there, folded


def _quantized(
    graph: Graph, session: Session, contract: Contract, start: Callable[[Graph], Session], verify: bool
) -> tuple[Graph, Session, Contract]:
    """The graph that was proved, with int8 weights; how far that moves its logits is in the notes."""
    steps = plain_steps(graph, contract, np.dtype(np.float32))
    if verify and steps.done and not same_step(session, start(steps.graph), contract):
        raise ModelError(
            f"{graph.name}: its layers give something else when they are written as plain operators, as int8 needs them; load it without quantize="
        )
    int8_graph, int8_contract = to_int8(graph, steps, contract)
    int8_session = start(int8_graph)
    if verify:
        moved = equivalence.change(int8_session, session, contract)
        note = f"int8 moves the logits after random prefixes by at most {moved:.1%} of the largest"
        int8_contract = replace(int8_contract, notes=(*int8_contract.notes, note))
    return int8_graph, int8_session, int8_contract


@dataclass(frozen=True)
class PlainGraph:
    """The graph as it was exported, but with plain ports and free sizes, and its roles.

    Attributes:
        declared: shapes of the inputs as the file declares them.
        exposed: states that the file takes and gives by itself.
    """

    graph: Graph
    roles: Roles
    declared: Mapping[str, Shape]
    auxiliary_inputs: tuple[AuxiliaryInput, ...]
    exposed: Sequence[StateShape]

    @property
    def contexts(self) -> set[str]:
        """The inputs that a state may be computed from."""
        return {f.name for f in self.auxiliary_inputs if f.of_rows}


def _split_roles(
    roles: Mapping[str, Any], decoder: Graph, encoders: Sequence[Graph]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The decoder's roles and each encoder's: those that name an encoder's input go to the encoder that has it."""
    mine, theirs = dict(roles), [dict(json_metadata(graph, "decoding.roles", {})) for graph in encoders]
    for graph, given in zip(encoders, theirs, strict=True):
        if unknown := sorted(set(given) - set(ENCODER_ROLES)):
            raise OptionError(
                f"{graph.name}: metadata 'decoding.roles' has the unknown key {unknown[0]!r}; an encoder's are {', '.join(ENCODER_ROLES)}"
            )
    own = {p.name for p in decoder.inputs}
    for key in ENCODER_ROLES:
        if key not in roles or not names_in(roles[key]):
            continue
        for graph, given in zip(encoders, theirs, strict=True):
            if names := [n for n in names_in(roles[key]) if n in {p.name for p in graph.inputs}]:
                given[key] = {n: roles[key][n] for n in names} if isinstance(roles[key], Mapping) else names
        elsewhere = {p.name for graph in encoders for p in graph.inputs} - own
        left = [n for n in names_in(roles[key]) if n not in elsewhere]
        if len(left) < len(names_in(roles[key])):
            mine[key] = {n: roles[key][n] for n in left} if isinstance(roles[key], Mapping) else left
    return mine, theirs


def _make_plain(graph: Graph, roles: Roles, declared: Mapping[str, Shape]) -> PlainGraph:
    normalize.spread_constants(graph, declared, roles.token)
    declared = {**declared, **put_batch_first(graph, roles, declared)}
    auxiliary_inputs = make_auxiliary_inputs(graph.inputs, roles.auxiliary_inputs, roles.sources, roles.draws)
    exposed = [_exposed_shape(graph, roles, name, output) for name, output in roles.states.items()]
    auxiliary_inputs = tuple(for_each_row(aux, declared[aux.name]) for aux in auxiliary_inputs)
    normalize.check_nodes_run_forward(graph, recurrent_path(graph, roles.token, roles.logits))
    normalize.plain_ports(graph, roles)
    for aux in auxiliary_inputs:
        graph.set_shape(aux.name, [None] * aux.rank)
    if not one_row(declared[roles.token]):  # else the original runs with its fixed sizes alone
        make_reshapes_dynamic(graph, roles, exposed, auxiliary_inputs, declared[roles.token])
    return PlainGraph(graph, roles, declared, auxiliary_inputs, exposed)


def _stepped(plain: PlainGraph, start: Callable[[Graph], Session], verify: bool) -> tuple[Graph, Session, Contract]:
    """The graph with free sizes if it can be had, else, where one row was exported, freed for single steps.

    Else what spreads a context over the steps of the example is freed too.
    """
    single = [False, True] if one_row(plain.declared[plain.roles.token]) else [False]
    try:
        return _opened_somehow(plain, start, verify, single)
    except ModelError as error:
        steps = None
        for axis in (1, 0) if plain.graph.rank(plain.roles.token) == 2 else ():
            dynamic = replace(plain, graph=plain.graph.copy(), roles=deepcopy(plain.roles))
            steps = (
                make_spreads_dynamic(dynamic.graph, dynamic.roles, dynamic.declared[dynamic.roles.token], axis) or steps
            )
            if not steps:
                continue
            try:
                return _opened_somehow(dynamic, start, verify, single)
            except ModelError:
                pass
        if steps is None or isinstance(error, NotSteppable):
            raise
        raise ModelError(
            f"{plain.graph.name}: it was traced for exactly {steps} steps, over which it spreads a context; export it with a dynamic time axis, "
            f"or for one step. What it says of another number: {error}"
        ) from error


def _opened_somehow(
    plain: PlainGraph, start: Callable[[Graph], Session], verify: bool, single: Sequence[bool]
) -> tuple[Graph, Session, Contract]:
    """The first of these ways to open it that works, for many steps or for one; the first one's error where none does."""
    failures = []
    for one_step in single:
        try:
            return _opened(plain, start, verify, one_step=one_step)
        except ModelError as error:
            failures.append(error)
    raise failures[0]


def _opened(
    plain: PlainGraph, start: Callable[[Graph], Session], verify: bool, *, one_step: bool
) -> tuple[Graph, Session, Contract]:
    """Open the hidden states, find the layouts, prove.

    Raises:
        NotSteppable: there is no state, or stepping gives something else than the whole sequence.
    """
    graph, roles = plain.graph.copy(), deepcopy(plain.roles)
    hidden, starts = _startable(plain, find_hidden_states(graph, roles))
    if not (hidden or plain.exposed):
        raise NotSteppable(
            f"no recurrent state: neither an LSTM, GRU or RNN layer, a Loop or a Scan between {roles.token} and {roles.logits} nor a state input"
        )
    names = expose_states(graph, hidden)
    path = recurrent_path(graph, roles.token, roles.logits)
    normalize.drop_lengths(graph, path)
    normalize.cut_softmax(graph, roles)
    shapes = [
        StateShape(*name, s.value.shape, s.axes, h.dtype) for name, s, h in zip(names, starts, hidden, strict=True)
    ]
    declared = plain.declared[roles.token]
    if one_step:
        step_loops(graph, path, declared)
    make_reshapes_dynamic(graph, roles, [*plain.exposed, *shapes], plain.auxiliary_inputs, declared, one_step=one_step)
    attention = [roles.attention] if roles.attention else []
    graph.keep_outputs([roles.logits, *(s.output for s in plain.exposed), *(output for _, output in names), *attention])
    session = start(graph)

    auxiliary_inputs = tuple(f for f in plain.auxiliary_inputs if f.name in {p.name for p in graph.inputs})
    layout = layouts.probe(
        session, roles.token, graph.rank(roles.token), roles.logits, [*plain.exposed, *shapes], auxiliary_inputs
    )
    exposed = [_exposed_state(graph, shape, axis) for shape, axis in zip(plain.exposed, layout.axes, strict=False)]
    opened = exposed_states(graph, hidden, names, starts, layout.axes[len(exposed) :])
    contract = Contract(
        layout.token,
        layout.logits,
        (*exposed, *opened),
        auxiliary_inputs,
        layout.sequence,
        attention=roles.attention,
        notes=tuple(roles.notes),
    )
    computed = {name: h.initial for (name, _), h, s in zip(names, hidden, starts, strict=True) if s.context}
    initial_state_graph = make_initial_state_graph(plain.graph, plain.auxiliary_inputs, layout.token, computed)
    givers = {
        name: f"the graph computes it from {s.context}" for (name, _), s in zip(names, starts, strict=True) if s.context
    }
    contract = with_padding(session, replace(contract, initial_state_graph=initial_state_graph, givers=givers))
    session, contract = _as_logits(graph, roles, session, contract, start)
    if verify and (contract.sequence or hidden):
        contract = _verified(session, contract, plain, start, roles.output or "logits")
    return graph, session, contract


def _windowed(
    plain: PlainGraph, start: Callable[[Graph], Session], window: Window | None, reason: str
) -> tuple[Graph, Session, Contract]:
    """Leave the graph whole; only the softmax goes."""
    graph, roles = plain.graph, plain.roles
    normalize.cut_softmax(graph, roles)
    graph.keep_outputs([roles.logits])
    session = start(graph)
    try:
        contract = window_contract(session, graph, roles, plain.auxiliary_inputs, window or Window())
        if window is None:
            check_any_length(graph.name, contract, plain.declared[roles.token])
    except ModelError as error:
        raise ModelError(
            f"{graph.name}: it cannot be stepped: {reason}. Nor can it be run on whole prefixes: {error}"
        ) from error
    contract = with_padding(session, explained(contract, reason))
    return graph, *_as_logits(graph, roles, session, contract, start)


def _as_logits(
    graph: Graph, roles: Roles, session: Session, contract: Contract, start: Callable[[Graph], Session]
) -> tuple[Session, Contract]:
    """Put a logarithm behind an output that turns out to give probabilities, made otherwise than by a Softmax."""
    if roles.output is not None or not equivalence.gives_probabilities(session, contract):
        return session, contract
    roles.output = "probs"
    name = normalize.log_probabilities(graph, contract.logits.name)
    note = (
        f"the output {contract.logits.name} gives probabilities (they sum to 1): their logarithm stands for the logits"
    )
    return start(graph), replace(contract, logits=replace(contract.logits, name=name), notes=(*contract.notes, note))


def _startable(plain: PlainGraph, hidden: Sequence[HiddenState]) -> tuple[list[HiddenState], list[Start]]:
    """The hidden states with their initial values.

    A Loop may carry single numbers too (a clock, a flag); a state has at least a batch axis.
    """
    starts = start_values(plain.graph, hidden, plain.declared, plain.contexts)
    kept = [(h, s) for h, s in zip(hidden, starts, strict=True) if s.value.ndim]
    return [h for h, _ in kept], [s for _, s in kept]


def _exposed_shape(graph: Graph, roles: Roles, name: str, output: str) -> StateShape:
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
    return StateShape(name, output, tuple(d if isinstance(d, int) else None for d in shape), axes, ports[name].dtype)


def _exposed_state(graph: Graph, shape: StateShape, axis: int) -> State:
    sizes = tuple(1 if i == axis else int(size or 0) for i, size in enumerate(shape.sizes))
    start = json_metadata(graph, "decoding.initial", {}).get(shape.input)
    initial = np.zeros(sizes, shape.dtype) if start is None else np.asarray(start, shape.dtype).reshape(sizes)
    return State(shape.input, shape.output, axis, initial, "an input and an output of the file", exposed=True)


def _verified(
    session: Session, contract: Contract, plain: PlainGraph, start: Callable[[Graph], Session], kind: str
) -> Contract:
    """The contract, with a note on the proof by which it holds."""
    original = plain.graph.copy()
    original.keep_outputs([plain.roles.logits])
    names = {p.name for p in original.inputs}
    known = {f.name: f for f in contract.auxiliary_inputs}
    whole = replace(
        contract,
        logits=replace(contract.logits, name=plain.roles.logits),
        states=tuple(s for s in contract.states if s.input in names),
        auxiliary_inputs=tuple(known.get(f.name, f) for f in plain.auxiliary_inputs if f.name in names),
    )
    tolerance = equivalence.tolerance(original, contract.states)
    fixed = contract.token.batch_and_time(plain.declared[contract.token.name])
    proved = equivalence.verify_stepping(session, contract, start(original), whole, kind, fixed, tolerance)
    runs = ", ".join(f"{b}x{t}" for b, t in proved)
    note = f"proved: stepping equals the whole-sequence run on random prefixes (batch x length {runs})"
    if not proved:
        note = "not proved: the logits are NaN whatever the tokens are; check the weights"
    return replace(contract, notes=(*contract.notes, note))
