"""`load()` turns an exported file into a `Model`. Each stage is a function in another file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from decoding.errors import ModelError, check_flag
from decoding.model.contract.io import Window
from decoding.model.contract.program import OpenSession, StepProgram
from decoding.model.encoders.chain import Encoders
from decoding.model.encoders.connect import connect
from decoding.model.encoders.encoder import load_encoder
from decoding.model.encoders.roles import split_roles
from decoding.model.exported import ExportedGraph, exported_graph
from decoding.model.generator import Generator, roles_or_latents
from decoding.model.graph.graph import Graph, ModelFile
from decoding.model.model import Model
from decoding.model.native.step import check_executor, with_executor
from decoding.model.passes import normalize
from decoding.model.passes.fold_embedding import with_folded_step
from decoding.model.passes.quantize import check_quantize, quantized
from decoding.model.paths import encoder_files, shipped
from decoding.model.roles.given import caller_roles, given_roles, special_id, vocabulary
from decoding.model.roles.infer import Roles
from decoding.model.runtime.limits import interruptible
from decoding.model.runtime.session import Session, checked_threads, full_names
from decoding.model.stepping import step_program
from decoding.model.verify.equivalence import NotSteppable, same_step
from decoding.model.verify.window import given_window
from decoding.model.weights import FileWeights
from decoding.model.windowing import window_program
from decoding.tokenizers import make_tokenizer

# The largest relative difference between the products of a CPU and of other hardware, which may round to fewer bits.
_OTHER_HARDWARE = 1e-2


@interruptible
def load(
    model: ModelFile,
    *,
    encoder: ModelFile | Sequence[ModelFile] | None = None,
    roles: Mapping[str, Any] | None = None,
    tokenizer: Any = None,
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
        encoder: a model, or several run in turn (a CNN, then an RNN; an utterance RNN, then a history RNN), run once for
            each source: its outputs feed the next encoder's inputs, and the model's contexts and initial states. They are joined as
            ``roles["encoder"]`` says, else by name, else by shape where only one way fits; `Model.describe()` says how.
            Default: the files beside that of `model`: NAME.encoder.onnx (or NAME.encoder1.onnx, NAME.encoder2.onnx, ...)
            for NAME.onnx; ``[]`` for none.
        roles: overrides what is inferred: ``{"token": name, "logits": name, "state": {input: output},
            "output": "logits" | "probs" | "logprobs", "batch_axis": {input: axis}, "constant": {input: value},
            "context": [input], "attention": output, "encoder": {encoder output: input, or None to leave it out},
            "latent": {input: "normal" | "uniform" | {"distribution": ..., "every": "sequence" | "step"}},
            "source_mask": {input: context}, "source_length": {input: context},
            "window": W or None for the whole prefix, "pad": "left" | "right"}``.
            The file's metadata may hold the same JSON under ``decoding.roles``. With several encoders, ``"encoder"`` may
            be a list with one dict for each.
        tokenizer: a list of token strings, a Hugging Face `tokenizers` or SentencePiece object, or the path of
            one of their files; default: the vocabulary in the file's metadata (``decoding.vocab``).
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
    source = shipped(model)
    graph, encoder_graphs = Graph.load(source), [Graph.load(file) for file in encoder_files(source, encoder)]
    initializers, vocab = graph.initializers, vocabulary(graph)
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
    exported = exported_graph(graph, found, declared)
    program = _program(exported, open_session, verify, given_window(given, special_id(graph, "decoding.pad")))
    exact = program
    if quantize:
        program = quantized(program, open_session, verify)
    program = with_executor(program, exact, executor, wanted, threads)
    if program.native is None and quantize is None and program.contract.window is None:
        program = with_folded_step(program, open_session)
    if wanted != full_names("cpu"):
        program = _moved(program, partial(Session, providers=wanted, threads=threads))
    program, encoders = _with_encoders(program, encoder_graphs, encoder_roles, given, open_session, wanted)
    text = make_tokenizer(tokenizer, vocab, program.contract.logits.vocab_size)
    file = FileWeights.of(initializers, quantize is not None, exported, program.contract)
    return Model(program, text, file, encoders)


def _program(exported: ExportedGraph, open_session: OpenSession, verify: bool, window: Window | None) -> StepProgram:
    """The graph's program: over windows where roles ask for it, or where the graph cannot be stepped and hides its states."""
    if window is not None:
        return window_program(exported, open_session, window, "roles ask for a window")
    try:
        return step_program(exported, open_session, verify)
    except NotSteppable as error:
        if exported.exposed:
            raise
        reason = str(error).removeprefix(f"{exported.graph.name}: ")
        return window_program(exported, open_session, None, reason)


def _moved(program: StepProgram, open_session: OpenSession) -> StepProgram:
    """The program over sessions on other providers.

    Raises:
        ModelError: they cannot be had there, or give other scores than the CPU.
    """
    there = program.reopened(open_session)
    contract = program.contract
    if contract.window is None and not same_step(program.session, there.session, contract, _OTHER_HARDWARE):
        raise ModelError(
            f"{program.graph.name}: {there.session.providers[0]} gives other scores than the CPU; pass providers='cpu', and report it to onnxruntime"
        )
    return there


def _with_encoders(
    program: StepProgram,
    graphs: Sequence[Graph],
    roles: Sequence[Mapping[str, Any]],
    given: Mapping[str, Any],
    open_session: OpenSession,
    wanted: Sequence[Any],
) -> tuple[StepProgram, Encoders | None]:
    """The encoders, on the wanted providers, and the program with a contract that says what they feed."""
    if not graphs:
        return program, None
    stages = [load_encoder(graph, own, open_session) for graph, own in zip(graphs, roles, strict=True)]
    if wanted != full_names("cpu"):
        threads = program.session.threads
        stages = [replace(e, session=Session(e.graph, providers=wanted, threads=threads)) for e in stages]
    encoders, contract = connect(stages, program.contract, given, program.graph.name)
    return replace(program, contract=contract), encoders
