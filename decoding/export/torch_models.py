"""Export networks of PyTorch: whole sequences, and single steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from decoding.errors import OptionError, whole_number
from decoding.export.torch_checks import check_layers, check_rows, check_whole
from decoding.export.torch_exporters import Ports, attempts_of, first_output, write
from decoding.export.torch_networks import (
    COMPARED_SIZE,
    EXAMPLE_ROWS,
    EXAMPLE_TOKENS,
    Sizes,
    as_tokens,
    checked_network,
    checked_scores,
    count_of_ids,
    import_torch,
    random_examples,
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

# What to do about a network that cannot be called as it is here.
_CALLED = (
    "it is given ids int64 [batch, time] of any size (one_hot=V for one-hot vectors, inputs= for what it reads beside them); "
    "a network that takes its states is exported by torch_step()"
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
    finds their states.

    Args:
        net: the network, in evaluation mode, or a method of one.
        path: the file to write; it appears only if everything went well.
        inputs: the sizes of the inputs after the tokens, by name and in the order of `forward`: ``{"memory": ("batch", "source", 96)}``.
            A size with a name may be any; "batch" and "time" are those of the tokens. They are float32, given as `context=`
            when the model decodes.
        one_hot: the tokens enter as one-hot float32 [batch, time, one_hot] instead of ids.
        dynamo: which of torch's exporters: True the newer, False the older; default the newer, but the older one for `nn.RNN` and
            scripted networks, which the newer cannot, and wherever the newer fails.
        annotations: metadata of the file: `vocab` (or `tokenizer`), `bos_token_id`, `eos_token_id`, `pad_token_id`,
            `max_new_tokens` and `roles`, as `load()` takes them.

    Returns:
        The loaded model. It gives the network's scores on random tokens, within 0.001 of each log-probability.

    Raises:
        OptionError: an argument is wrong, torch is not installed, or the network is in training mode.
        ModelError: the network cannot be exported, or the file gives different scores; the message says what to change.

    Example::

        model = decoding.export.torch_model(net.eval(), "char_rnn.onnx", vocab=vocabulary, eos_token_id=0)
        print(decoding.decode(model, "The ", decoding.Sample(0.8))[0].text)
    """
    torch, said = import_torch(), Annotations.of(**annotations)
    net, name = checked_network(torch, net)
    if one_hot is not None:
        whole_number("one_hot", one_hot, 1)
    inputs = inputs or {}
    others = random_examples(torch, net, inputs, EXAMPLE_ROWS, EXAMPLE_TOKENS)
    tokens = as_tokens(torch, net, np.zeros((EXAMPLE_ROWS, EXAMPLE_TOKENS), np.int64), one_hot)
    check_layers(torch, net, name)
    vocab = checked_scores(torch, net, name, {"tokens": tokens, **others}, _CALLED)
    entries = said.metadata(vocab)
    ids = random_ids(one_hot or count_of_ids(torch, net, vocab))
    compared = {
        "tokens": as_tokens(torch, net, ids, one_hot),
        **random_examples(torch, net, inputs, ROWS, TOKENS, COMPARED_SIZE),
    }
    expected = logprobs_of(name, scores_of(torch, net, name, compared, _CALLED))
    check_whole(torch, net, name, {"tokens": tokens, **others}, compared)
    ports = Ports(("tokens", *inputs), ("logits",), (("batch", "time"), *inputs.values()))

    def attempt(dynamo: bool) -> Model:
        with beside(path) as file:
            write(torch, first_output(torch, net), (tokens, *others.values()), ports, file, dynamo)
            annotate(file, entries)
            check_same(name, load(file), ids, expected, given={key: compared[key].cpu().numpy() for key in inputs})
        return load(path)

    return first_that_works(name, attempts_of(torch, net, dynamo, attempt))


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

    ``forward(tokens, *states, *inputs)`` takes ids int64 [batch], [batch, 1] or [1, batch], and returns the scores [batch, V] (or with the
    tokens' axis of one) and then the next value of each state, in the order of the states. States may also come and go as one tuple.
    It may return its attention too, weights [batch, source] over an input of that many vectors, which ``return_attention=True`` gives.

    Args:
        net: the network, in evaluation mode, or a method of one.
        path: the file to write; it appears only if everything went well.
        states: the sizes of each state by name: ``{"h": (2, "batch", 224), "c": (2, "batch", 224)}``.
        inputs: the sizes of further inputs, as in `torch_model()`; no time axis.
        token: the sizes of the tokens: ``("batch",)``, ``("batch", 1)``, ``(1, "batch")`` or ``("batch", "time")``; default: one of the
            first three, as tried.
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
    (net, name), inputs = checked_network(torch, net), inputs or {}
    if not states:
        raise OptionError("states={}: a step needs the sizes of its states; for a network that hides them use torch_model()")  # fmt: skip
    check_layers(torch, net, name)
    step = step_of(torch, net, name, states, inputs, token)
    entries = said.metadata(step.vocab)
    ids = random_ids(count_of_ids(torch, net, step.vocab))
    given = random_examples(torch, net, inputs, ROWS, TOKENS, COMPARED_SIZE)
    scores, attention = step.loop(ids, initial or {}, list(given.values()))
    expected = logprobs_of(name, scores)
    others = np.concatenate([ids[:-1, ::-1], ids[-1:]])
    check_rows(torch, net, name, scores, step.loop(others, initial or {}, list(given.values()))[0])

    def attempt(dynamo: bool) -> Model:
        with beside(path) as file:
            write(torch, step.module, step.example, step.ports, file, dynamo)
            annotate(file, entries)
            values = {key: value.cpu().numpy() for key, value in given.items()}
            check_same(name, load(file), ids, expected, given=values, attention=attention)
        return load(path)

    return first_that_works(name, attempts_of(torch, net, dynamo, attempt))
