"""Export networks of PyTorch: whole sequences, single steps, encoders with their decoders."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from decoding.errors import OptionError, whole_number
from decoding.export.torch_exporters import Ports, all_outputs, attempts_of, first_output, write
from decoding.export.torch_networks import (
    EXAMPLE_ROWS,
    EXAMPLE_TOKENS,
    Sizes,
    as_tokens,
    checked_network,
    checked_scores,
    count_of_ids,
    import_torch,
    outputs_of,
    random_examples,
    random_sources,
    scores_of,
)
from decoding.export.torch_steps import step_of
from decoding.export.written import (
    ROWS,
    TOKENS,
    Annotations,
    annotate,
    beside,
    check_same,
    first_that_works,
    logprobs_of,
    random_ids,
)
from decoding.model.load import load
from decoding.model.model import Model

_LOOP = (
    ". Where forward() has a Python loop over the tokens, the exporter unrolls it for the example's number: write forward() for one "
    "token, states in and out, and export that with torch_step(); or use nn.LSTM, nn.GRU or nn.RNN"
)


def torch_model(
    net: Any,
    path: str | Path,
    *,
    inputs: Mapping[str, Sizes] | None = None,
    one_hot: int | None = None,
    dynamo: bool | None = None,
    **annotations: Any,
) -> Model:
    """Export a network of PyTorch that reads whole sequences, and return it loaded, as shown to equal the network.

    ``forward(tokens, *inputs)`` takes ids int64 [batch, time], and returns scores [batch, time, V]: logits, probabilities or
    log-probabilities; of several outputs the first counts. Its recurrent layers are `nn.LSTM`, `nn.GRU` or `nn.RNN`: `load()`
    finds their states by itself.

    Args:
        net: the network, in evaluation mode.
        path: the file to write; it appears only if everything went well.
        inputs: the sizes of the inputs after the tokens, by name and in the order of `forward`: ``{"memory": ("batch", "source", 96)}``.
            A size with a name may be any; "batch" and "time" are those of the tokens. They are float32, given as `context=`
            when the model decodes.
        one_hot: the tokens enter as one-hot float32 [batch, time, one_hot] instead of ids.
        dynamo: which of torch's exporters: True the newer, False the older; default the newer, but the older one for `nn.RNN` and
            scripted networks, which the newer cannot, and wherever the newer fails.
        annotations: what the file says of itself: `vocab` (or `tokenizer`), `bos_token_id`, `eos_token_id`, `pad_token_id`,
            `max_new_tokens` and `roles`, as `load()` takes them.

    Returns:
        The loaded model. It gives the network's scores on random tokens, within 0.001 of each log-probability.

    Raises:
        OptionError: an argument is wrong, torch is not installed, or the network is in training mode.
        ModelError: the network cannot be exported, or the file gives other scores; the message says what to change.

    Example::

        model = decoding.export.torch_model(net.eval(), "char_rnn.onnx", vocab=vocabulary, eos_token_id=0)
        print(decoding.decode(model, "The ", decoding.Sample(0.8))[0].text)
    """
    torch, said = import_torch(), Annotations.of(**annotations)
    name = checked_network(torch, net)
    if one_hot is not None:
        whole_number("one_hot", one_hot, 1)
    others = random_examples(torch, net, inputs or {}, EXAMPLE_ROWS, EXAMPLE_TOKENS)
    tokens = as_tokens(torch, net, np.zeros((EXAMPLE_ROWS, EXAMPLE_TOKENS), np.int64), one_hot)
    vocab = checked_scores(torch, net, name, (tokens, *others))
    entries = said.metadata(vocab)
    ids = random_ids(one_hot or count_of_ids(torch, net, vocab))
    checked_others = random_examples(torch, net, inputs or {}, ROWS, TOKENS)
    expected = logprobs_of(name, scores_of(torch, net, name, (as_tokens(torch, net, ids, one_hot), *checked_others)))
    port = Ports(
        ("tokens", *(inputs or {})),
        ("logits",),
        (("batch", "time"), *(inputs or {}).values()),
    )

    def attempt(dynamo: bool) -> Model:
        with beside(path) as file:
            write(torch, first_output(torch, net), (tokens, *others), port, file, dynamo)
            annotate(file, entries)
            model = load(file)
            given = {key: value.cpu().numpy() for key, value in zip(inputs or {}, checked_others, strict=True)}
            check_same(name, model, ids, expected, given=given)
        return load(path)

    return first_that_works(name, attempts_of(torch, net, dynamo, attempt), _advice(torch, net))


def torch_step(
    net: Any,
    path: str | Path,
    states: Mapping[str, Sizes],
    *,
    inputs: Mapping[str, Sizes] | None = None,
    token: Sizes | None = None,
    initial: Mapping[str, Any] | None = None,
    dynamo: bool | None = None,
    **annotations: Any,
) -> Model:
    """Export one step of a network of PyTorch, with its states as inputs and outputs, and return it loaded, as shown to equal it.

    ``forward(tokens, *states, *inputs)`` takes ids int64 [batch] or [batch, 1], and returns the scores [batch, V] or [batch, 1, V]
    and then the next value of each state, in the order of the states. States may also come and go as one tuple.

    Args:
        net: the network, in evaluation mode.
        path: the file to write; it appears only if everything went well.
        states: the sizes of each state by name: ``{"h": (2, "batch", 224), "c": (2, "batch", 224)}``.
        inputs: the sizes of further inputs, as in `torch_model()`; no time axis.
        token: the sizes of the tokens: ``("batch",)``, ``("batch", 1)`` or ``("batch", "time")``; default: one of the first two, as tried.
        initial: the value that a state starts from, where it is not zero: an array of its sizes without the batch, by name.
        dynamo, annotations: as in `torch_model()`.

    Returns:
        The loaded model. It gives the scores of the network's own loop on random tokens.

    Raises:
        OptionError, ModelError: as `torch_model()`.

    Example::

        decoding.export.torch_step(cell.eval(), "step.onnx", {"h": ("batch", 128)}, vocab=vocabulary)
    """
    torch, said = import_torch(), Annotations.of(initial=initial, **annotations)
    name, inputs = checked_network(torch, net), inputs or {}
    if not states:
        raise OptionError("states={}: a step needs the sizes of its states; for a network that hides them use torch_model()")  # fmt: skip
    step = step_of(torch, net, name, states, inputs, token)
    vocab = step.vocab
    entries = said.metadata(vocab)
    ids = random_ids(count_of_ids(torch, net, vocab))
    context = random_examples(torch, net, inputs, ROWS, TOKENS)
    expected = logprobs_of(name, step.loop(ids, initial or {}, context))
    arguments = step.example(np.zeros((EXAMPLE_ROWS, EXAMPLE_TOKENS), np.int64))
    port = Ports(
        ("tokens", *states, *inputs),
        ("logits", *(f"new_{state}" for state in states)),
        (step.token, *states.values(), *inputs.values()),
    )

    def attempt(dynamo: bool) -> Model:
        with beside(path) as file:
            write(torch, step.module, arguments, port, file, dynamo)
            annotate(file, entries)
            given = {key: value.cpu().numpy() for key, value in zip(inputs, context, strict=True)}
            check_same(name, load(file), ids, expected, given=given)
        return load(path)

    return first_that_works(name, attempts_of(torch, net, dynamo, attempt), "")


def torch_pair(
    encoder: Any,
    decoder: Any,
    path: str | Path,
    *,
    sources: Mapping[str, Sizes],
    outputs: Mapping[str, Sizes],
    source_ids: int = 0,
    states: Mapping[str, Sizes] | None = None,
    encoder_vocab: Any = None,
    token: Sizes | None = None,
    dynamo: bool | None = None,
    **annotations: Any,
) -> Model:
    """Export an encoder and its decoder of PyTorch, and return them loaded together, as shown to equal the networks.

    ``encoder(*sources)`` returns the tensors of `outputs`. The decoder takes them by their names: with `states`, one step,
    ``decoder(tokens, *states, *the other outputs)``, else a whole sequence, ``decoder(tokens, *outputs)``. An output called as a state is
    where that state starts; the other states start from zeros.

    Args:
        encoder, decoder: the networks, in evaluation mode.
        path: the decoder's file; the encoder is written beside it, NAME.encoder.onnx, where `load()` finds it.
        sources: the sizes of the encoder's inputs by name, in order: ``{"source": ("batch", "source")}``.
        outputs: the sizes of its outputs by name, in order: ``{"memory": ("batch", "source", 96), "h": (1, "batch", 64)}``.
        source_ids: how many ids the encoder knows, where it reads ids int64; 0: it reads float32.
        states: as in `torch_step()`; None for a decoder of whole sequences.
        encoder_vocab: the vocabulary or tokenizer of the sources; `vocab` is the decoder's.
        token, dynamo, annotations: as in `torch_step()`.

    Raises:
        OptionError, ModelError: as `torch_model()`.
    """
    torch, said = import_torch(), Annotations.of(**annotations)
    encoder_said = Annotations.of(vocab=encoder_vocab)
    name, encoder_name = checked_network(torch, decoder), checked_network(torch, encoder)
    states = states or {}
    contexts = {key: sizes for key, sizes in outputs.items() if key not in states}
    whole_number("source_ids", source_ids, 0)
    make = partial(random_sources, torch, encoder, sources, source_ids)
    made = outputs_of(torch, encoder, encoder_name, make(EXAMPLE_ROWS), outputs)
    read = outputs_of(torch, encoder, encoder_name, values := make(ROWS), outputs)
    if states:
        step = step_of(torch, decoder, name, states, contexts, token, {key: made[key] for key in contexts})
        vocab = step.vocab
        ids = random_ids(count_of_ids(torch, decoder, vocab))
        scores = step.loop(ids, {key: read[key] for key in states if key in outputs}, [read[key] for key in contexts])
        module: Any = step.module
        arguments = step.example(np.zeros((EXAMPLE_ROWS, EXAMPLE_TOKENS), np.int64))
        port = Ports(
            ("tokens", *states, *contexts),
            ("logits", *(f"new_{key}" for key in states)),
            (step.token, *states.values(), *contexts.values()),
        )
    else:
        tokens = as_tokens(torch, decoder, np.zeros((EXAMPLE_ROWS, EXAMPLE_TOKENS), np.int64), None)
        arguments = (tokens, *made.values())
        vocab = checked_scores(torch, decoder, name, arguments)
        ids = random_ids(count_of_ids(torch, decoder, vocab))
        scores = scores_of(torch, decoder, name, (as_tokens(torch, decoder, ids, None), *read.values()))
        module = first_output(torch, decoder)
        port = Ports(("tokens", *outputs), ("logits",), (("batch", "time"), *outputs.values()))
    expected, entries, encoder_entries = (
        logprobs_of(name, scores),
        said.metadata(vocab),
        encoder_said.metadata(source_ids),
    )
    encoder_port = Ports(tuple(sources), tuple(outputs), tuple(sources.values()))

    def attempt(dynamo: bool) -> Model:
        with beside(path) as file:
            before = file.with_name(f"{file.name.removesuffix('.onnx')}.encoder.onnx")
            write(torch, all_outputs(torch, encoder), make(EXAMPLE_ROWS), encoder_port, before, dynamo)
            write(torch, module, arguments, port, file, dynamo)
            annotate(file, entries)
            annotate(before, encoder_entries)
            model = load(file)
            given = dict(zip(sources, (value.cpu().numpy() for value in values), strict=True))
            wanted = {} if model._network.encoders is None else model._network.encoders.sources
            check_same(name, model, ids, expected, sources={key: given[key] for key in given if key in wanted})
        return load(path)

    advice = "" if states else _advice(torch, decoder)
    return first_that_works(name, attempts_of(torch, decoder, dynamo, attempt, encoder), advice)


def _advice(torch: Any, net: Any) -> str:
    """Return what to do about a network without a recurrent layer: it has a loop of its own."""
    return "" if any(isinstance(module, torch.nn.RNNBase) for module in net.modules()) else _LOOP
