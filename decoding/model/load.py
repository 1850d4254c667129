"""`load()` turns an exported file into a `Model`. Each stage is a function in another file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from decoding.errors import ModelError, OptionError, check_flag
from decoding.model.contract.initial_states import MovingStart
from decoding.model.contract.io import Window
from decoding.model.contract.program import OpenSession, StepProgram
from decoding.model.encoders.chain import Encoders
from decoding.model.encoders.connect import connect
from decoding.model.encoders.encoder import load_encoder
from decoding.model.encoders.roles import split_roles
from decoding.model.exported import ExportedGraph, exported_graph
from decoding.model.generator import Generator, roles_or_latents
from decoding.model.graph.graph import Graph, ModelFile
from decoding.model.graph.types import Shape
from decoding.model.model import Model
from decoding.model.native.step import check_executor, with_executor
from decoding.model.passes import normalize
from decoding.model.passes.fold_embedding import with_folded_step
from decoding.model.passes.quantize import check_quantize, quantized
from decoding.model.passes.short_convolutions import with_short_convolutions
from decoding.model.paths import encoder_files, model_file, shipped
from decoding.model.roles.given import caller_roles, given_roles, special_id
from decoding.model.roles.infer import Roles, find_roles
from decoding.model.roles.text import EncoderText, check_special_ids, encoder_text, fitted_text, text_of
from decoding.model.runtime.limits import interruptible
from decoding.model.runtime.session import Session, checked_threads, full_names
from decoding.model.runtime.versions import read_graph
from decoding.model.stepping import step_program
from decoding.model.verify.equivalence import same_step
from decoding.model.verify.free_sizes import follows_tokens
from decoding.model.verify.window import given_window
from decoding.model.weights import FileWeights
from decoding.model.windowing import check_steps, window_program
from decoding.tokenizers import checked_special_ids

# The largest relative difference between the products of a CPU and of other hardware, which may round to fewer bits.
_OTHER_HARDWARE = 1e-2


@interruptible
def load(
    model: ModelFile,
    *,
    encoder: ModelFile | Sequence[ModelFile] | None = None,
    roles: Mapping[str, Any] | None = None,
    tokenizer: Any = None,
    encoder_tokenizer: Any = None,
    bos_token_id: int | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    providers: str | Sequence[Any] | None = None,
    threads: int | None = None,
    quantize: Literal["int8"] | None = None,
    executor: Literal["native", "onnxruntime"] | None = None,
    verify: bool = True,
) -> Model:
    """Load an exported recurrent model and make it steppable.

    Ctrl-C ends it within a tenth of a second. A run of the file that takes more than 10 s, and a second more for each 5 MB
    of weights, is stopped.

    Args:
        model: path of an ONNX file, its bytes, an onnx.ModelProto, or the name of a shipped model ("shakespeare", "tang", "dates").
            The path of a folder with one .onnx file loads that file, with the tokenizer (tokenizer.json, tokenizer.model) and the
            special ids (generation_config.json, tokenizer_config.json) that are in the same folder.
        encoder: a model, or several run in turn (a CNN, then an RNN; an utterance RNN, then a history RNN), run once for
            each source: its outputs feed the next encoder's inputs, and the model's contexts and initial states. They are joined as
            ``roles["encoder"]`` says, else by name, else by shape where only one way fits; `Model.describe()` says how.
            Default: the files in the folder of `model`: NAME.encoder.onnx (or NAME.encoder1.onnx, NAME.encoder2.onnx, ...)
            for NAME.onnx; ``[]`` for none.
        roles: overrides what is inferred: ``{"token": name, "logits": name, "state": {input: output},
            "output": "logits" | "probs" | "logprobs", "batch_axis": {input: axis}, "constant": {input: value},
            "context": [input], "step_context": [input], "position": input, "attention": output, "encoder": {encoder output: input, or None to leave it out},
            "latent": {input: "normal" | "uniform" | {"distribution": ..., "every": "sequence" | "step"}},
            "source_mask": {input: context}, "source_length": {input: context},
            "window": W or None for the whole prefix, "pad": "left" | "right"}``.
            The file's metadata may hold the same JSON under ``decoding.roles``. With several encoders, ``"encoder"`` may
            be a list with one dict for each.
        tokenizer: a list of token strings, a dict from token to id, a tokenizer of transformers, `tokenizers` or SentencePiece, the
            path of one of their files or of a folder with one, or any object with encode() and decode(); default: the one in
            the file's metadata. Every token needs a logit. Logits without a token are accepted where padding of the
            embedding explains them: at most 8 or 1 %, or up to the next multiple of 8, 16, 32, 64 or 128.
        encoder_tokenizer: the same for texts that encoders read; default: the one in the encoder's metadata.
        bos_token_id, pad_token_id: ids; default: those in the file's metadata, else the tokenizer's. A text prompt begins
            with BOS if it is passed here or in the metadata, else with the ids that the tokenizer itself puts before a text.
        eos_token_id: the id, or ids, that end a sequence; default as for the others.
        providers: onnxruntime's providers, or "cpu" and "cuda"; default the CPU. docs/cuda.md says what a GPU needs and does.
        threads: intra-op threads of onnxruntime, at most 1024; None leaves the choice to it.
        quantize: "int8" turns the weights of LSTM layers, products and embeddings into int8, after verification, for
            onnxruntime's int8 products; `Model.describe()` says which, which could not be, and how far that moves the logits.
        executor: "native" decodes by the step of csrc/, whose rows have the same bits in every batch: for an embedding or one-hot ids,
            LSTM, GRU, RNN and dense layers and a linear output, on the CPU, one thread a worker. It is compared with
            onnxruntime at loading. "onnxruntime" runs every graph. Default: the native step where it runs the graph, if
            `threads` is None or 1 and, without `threads`, a step multiplies at most 40 MiB of weights; else onnxruntime, and
            `Model.describe()` says why. docs/native.md has the rule and what it rests on.
        verify: run the graph on random prefixes, and refuse it where stepping differs from the original's whole-sequence run.

    Raises:
        ModelError: the file cannot be used; the message says which input or output, what was expected and what to pass.
        OptionError: an argument is wrong.
    """
    wanted, threads = full_names(providers), checked_threads(threads)
    check_quantize(quantize, wanted)
    roles = caller_roles(roles)
    check_executor(executor, wanted)
    special = checked_special_ids(bos_token_id, eos_token_id, pad_token_id)
    source, folder = model_file(shipped(model))
    graph, encoder_graphs = read_graph(source), [read_graph(file) for file in encoder_files(source, encoder)]
    if encoder_tokenizer is not None and not encoder_graphs:
        raise OptionError(f"encoder_tokenizer: {graph.name} has no encoder; pass tokenizer=, or encoder=")
    text = text_of(graph, tokenizer, special, folder)
    shared = text if folder is not None and tokenizer is None else None
    encoder_texts = [encoder_text(one, encoder_tokenizer, shared) for one in encoder_graphs]
    initializers = graph.initializers
    roles, encoder_roles = split_roles(roles, graph, encoder_graphs)
    given = given_roles(graph, roles)
    declared = {port.name: port.shape for port in graph.inputs}
    normalize.simplify(graph, given.get("constant", {}))
    # Facts that running tells about a graph hold for every provider, and the CPU computes them exactly.
    open_session = partial(Session, threads=threads)
    check_flag("verify", verify)

    found = roles_or_latents(graph, given)
    if not isinstance(found, Roles):
        if executor == "native":
            raise ModelError(
                f"{graph.name}: executor='native': a plain generator, which has no steps; load it without executor="
            )
        if encoder_graphs:
            raise ModelError(
                f"{graph.name}: a plain generator, which has no contexts or states for the encoder {encoder_graphs[0].name} to feed; load it with encoder=[]"
            )
        return Generator(graph, open_session(graph), found)
    exported, program = _exported_and_program(graph, given, found, declared, open_session, verify)
    if wanted == full_names("cpu") and program.contract.window is None:
        program = with_short_convolutions(program, open_session)
    exact, vocab_size = program, program.contract.logits.vocab_size
    fits = fitted_text(text, tokenizer, vocab_size, graph.name)
    check_special_ids(special, vocab_size)
    if quantize:
        program = quantized(program, open_session, verify)
    program = with_executor(program, exact, executor, wanted, threads)
    if program.native is None and quantize is None and program.contract.window is None:
        program = with_folded_step(program, open_session)
    if wanted != full_names("cpu"):
        program = _moved(program, partial(Session, providers=wanted, threads=threads))
    program, encoders = _with_encoders(
        program, encoder_graphs, encoder_texts, encoder_roles, given, open_session, wanted
    )
    if encoder_tokenizer is not None and all(stage.tokenizer is None for stage in encoders or ()):
        raise OptionError(f"encoder_tokenizer: no encoder of {graph.name} takes ids or one-hot vectors; leave it out")
    file = FileWeights.of(initializers, quantize is not None, exported, program.contract)
    return Model(program, fits, file, encoders)


def _exported_and_program(
    graph: Graph,
    given: Mapping[str, Any],
    found: Roles,
    declared: Mapping[str, Shape],
    open_session: OpenSession,
    verify: bool,
) -> tuple[ExportedGraph, StepProgram]:
    """The exported graph, and its program.

    Inputs were taken for step contexts because they declare the token's time. Exporters let the caller give one name to
    two sizes, so that is shown by a run, or they are contexts after all.
    """
    window = given_window(given, special_id(graph, "decoding.pad"))
    steps = [name for name, kind in found.auxiliary_inputs.items() if kind == "step_context"]
    guessed = [name for name in steps if name not in given.get("step_context", ())]
    original = graph.copy() if guessed else graph
    try:
        exported = exported_graph(graph, found, declared)
        program = _program(exported, open_session, verify, window)
        if all(follows_tokens(program, name) for name in guessed):
            return exported, program
        failure = None
    except ModelError as error:
        if not guessed:
            raise
        failure = error
    try:
        given = {**given, "context": [*given.get("context", ()), *guessed]}
        exported = exported_graph(original, find_roles(original, given), declared)
        return exported, _program(exported, open_session, verify, window)
    except ModelError as error:
        raise (failure or error) from None


def _program(exported: ExportedGraph, open_session: OpenSession, verify: bool, window: Window | None) -> StepProgram:
    """The graph's program: over windows where roles ask for it, or where the graph cannot be stepped and hides its states."""
    if window is not None:
        return window_program(exported, open_session, window, "roles ask for a window")
    try:
        return step_program(exported, open_session, verify)
    except MovingStart:
        raise
    except ModelError as error:
        if exported.exposed:
            check_steps(exported, open_session)
            raise
        reason = str(error).removeprefix(f"{exported.graph.name}: ")
        return window_program(exported, open_session, None, reason)


def _moved(program: StepProgram, open_session: OpenSession) -> StepProgram:
    """The program over sessions on other providers.

    Raises:
        ModelError: they cannot be had there, or give other scores than the CPU.
    """
    contract = program.contract
    if free := [state.input for state in contract.states if state.free_axis is not None]:
        raise ModelError(
            f"{program.graph.name}: the state {free[0]} has no fixed size (it grows, or is as long as a source), and a device keeps states in memory of fixed sizes; pass providers='cpu'"
        )
    there = program.reopened(open_session)
    if contract.window is None and not same_step(program.session, there.session, contract, _OTHER_HARDWARE):
        raise ModelError(
            f"{program.graph.name}: {there.session.providers[0]} gives different scores from the CPU; pass providers='cpu', and report it to onnxruntime"
        )
    return there


def _with_encoders(
    program: StepProgram,
    graphs: Sequence[Graph],
    texts: Sequence[EncoderText],
    roles: Sequence[Mapping[str, Any]],
    given: Mapping[str, Any],
    open_session: OpenSession,
    wanted: Sequence[Any],
) -> tuple[StepProgram, Encoders | None]:
    """The encoders, on the wanted providers, and the program with a contract that says what they feed."""
    if not graphs:
        return program, None
    stages = [
        load_encoder(graph, own, open_session, text) for graph, own, text in zip(graphs, roles, texts, strict=True)
    ]
    if wanted != full_names("cpu"):
        threads = program.session.threads
        stages = [replace(e, session=Session(e.graph, providers=wanted, threads=threads)) for e in stages]
    encoders, contract = connect(stages, program.contract, given, program.graph.name)
    return replace(program, contract=contract), encoders
