"""Export networks of PyTorch: whole sequences, single steps, encoders with their decoders."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from decoding.errors import ModelError, OptionError, shown, whole_number
from decoding.export.written import (
    ROWS,
    TOKENS,
    Annotations,
    Ids,
    annotate,
    beside,
    check_same,
    first_that_works,
    logprobs_of,
    random_ids,
)
from decoding.model.load import load
from decoding.model.model import Model

# Sizes that a spec gives a name: a size of its own each, so that none is taken for another.
_EXAMPLE_ROWS, _EXAMPLE_TOKENS, _EXAMPLE_SIZE = 2, 5, 6
# Files of protobuf end at 2 GiB: larger weights go beside it.
_LARGEST = 1_500_000_000

Sizes = Sequence[int | str]

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
    torch, said = _torch(), Annotations.of(**annotations)
    name = _checked(torch, net)
    if one_hot is not None:
        whole_number("one_hot", one_hot, 1)
    others = _examples(torch, net, inputs or {}, _EXAMPLE_ROWS, _EXAMPLE_TOKENS)
    tokens = _tokens(torch, net, np.zeros((_EXAMPLE_ROWS, _EXAMPLE_TOKENS), np.int64), one_hot)
    vocab = _same_twice(torch, net, name, (tokens, *others))
    entries = said.metadata(vocab)
    ids = random_ids(one_hot or _count_of_ids(torch, net, vocab))
    checked_others = _examples(torch, net, inputs or {}, ROWS, TOKENS)
    expected = logprobs_of(name, _scores(torch, net, name, (_tokens(torch, net, ids, one_hot), *checked_others)))
    port = _Ports(
        ("tokens", *(inputs or {})),
        ("logits",),
        (("batch", "time"), *(inputs or {}).values()),
    )

    def attempt(dynamo: bool) -> Model:
        with beside(path) as file:
            _write(torch, _first_output(torch, net), (tokens, *others), port, file, dynamo)
            annotate(file, entries)
            model = load(file)
            given = {key: value.cpu().numpy() for key, value in zip(inputs or {}, checked_others, strict=True)}
            check_same(name, model, ids, expected, given=given)
        return load(path)

    return first_that_works(name, _attempts(torch, net, dynamo, attempt), _advice(torch, net))


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
    torch, said = _torch(), Annotations.of(initial=initial, **annotations)
    name, inputs = _checked(torch, net), inputs or {}
    if not states:
        raise OptionError("states={}: a step needs the sizes of its states; for a network that hides them use torch_model()")  # fmt: skip
    step = _step_of(torch, net, name, states, inputs, token)
    vocab = step.vocab
    entries = said.metadata(vocab)
    ids = random_ids(_count_of_ids(torch, net, vocab))
    context = _examples(torch, net, inputs, ROWS, TOKENS)
    expected = logprobs_of(name, step.loop(ids, initial or {}, context))
    arguments = step.example(np.zeros((_EXAMPLE_ROWS, _EXAMPLE_TOKENS), np.int64))
    port = _Ports(
        ("tokens", *states, *inputs),
        ("logits", *(f"new_{state}" for state in states)),
        (step.token, *states.values(), *inputs.values()),
    )

    def attempt(dynamo: bool) -> Model:
        with beside(path) as file:
            _write(torch, step.module, arguments, port, file, dynamo)
            annotate(file, entries)
            given = {key: value.cpu().numpy() for key, value in zip(inputs, context, strict=True)}
            check_same(name, load(file), ids, expected, given=given)
        return load(path)

    return first_that_works(name, _attempts(torch, net, dynamo, attempt), "")


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
    torch, said = _torch(), Annotations.of(**annotations)
    encoder_said = Annotations.of(vocab=encoder_vocab)
    name, encoder_name = _checked(torch, decoder), _checked(torch, encoder)
    states = states or {}
    contexts = {key: sizes for key, sizes in outputs.items() if key not in states}
    whole_number("source_ids", source_ids, 0)
    make = partial(_sources, torch, encoder, sources, source_ids)
    made = _outputs(torch, encoder, encoder_name, make(_EXAMPLE_ROWS), outputs)
    read = _outputs(torch, encoder, encoder_name, values := make(ROWS), outputs)
    if states:
        step = _step_of(torch, decoder, name, states, contexts, token, {key: made[key] for key in contexts})
        vocab = step.vocab
        ids = random_ids(_count_of_ids(torch, decoder, vocab))
        scores = step.loop(ids, {key: read[key] for key in states if key in outputs}, [read[key] for key in contexts])
        module: Any = step.module
        arguments = step.example(np.zeros((_EXAMPLE_ROWS, _EXAMPLE_TOKENS), np.int64))
        port = _Ports(
            ("tokens", *states, *contexts),
            ("logits", *(f"new_{key}" for key in states)),
            (step.token, *states.values(), *contexts.values()),
        )
    else:
        tokens = _tokens(torch, decoder, np.zeros((_EXAMPLE_ROWS, _EXAMPLE_TOKENS), np.int64), None)
        arguments = (tokens, *made.values())
        vocab = _same_twice(torch, decoder, name, arguments)
        ids = random_ids(_count_of_ids(torch, decoder, vocab))
        scores = _scores(torch, decoder, name, (_tokens(torch, decoder, ids, None), *read.values()))
        module = _first_output(torch, decoder)
        port = _Ports(("tokens", *outputs), ("logits",), (("batch", "time"), *outputs.values()))
    expected, entries, encoder_entries = (
        logprobs_of(name, scores),
        said.metadata(vocab),
        encoder_said.metadata(source_ids),
    )
    encoder_port = _Ports(tuple(sources), tuple(outputs), tuple(sources.values()))

    def attempt(dynamo: bool) -> Model:
        with beside(path) as file:
            before = file.with_name(f"{file.name.removesuffix('.onnx')}.encoder.onnx")
            _write(torch, _all_outputs(torch, encoder), make(_EXAMPLE_ROWS), encoder_port, before, dynamo)
            _write(torch, module, arguments, port, file, dynamo)
            annotate(file, entries)
            annotate(before, encoder_entries)
            model = load(file)
            given = dict(zip(sources, (value.cpu().numpy() for value in values), strict=True))
            wanted = {} if model._network.encoders is None else model._network.encoders.sources
            check_same(name, model, ids, expected, sources={key: given[key] for key in given if key in wanted})
        return load(path)

    advice = "" if states else _advice(torch, decoder)
    return first_that_works(name, _attempts(torch, decoder, dynamo, attempt, encoder), advice)


# -- the networks ---------------------------------------------------------------------------------------------


def _torch() -> Any:
    """Return torch.

    Raises:
        OptionError: it is not installed.
    """
    try:
        return import_module("torch")
    except ImportError as error:
        raise OptionError("decoding.export needs torch to export its networks; pip install 'rnn-decoding[export]'") from error  # fmt: skip


def _checked(torch: Any, net: Any) -> str:
    """Return the name of a network, after a check that it is one, in evaluation mode.

    Raises:
        OptionError: it is not.
    """
    if not isinstance(net, torch.nn.Module):
        raise OptionError(f"net={shown(net)}: expected a torch.nn.Module")
    name = getattr(net, "original_name", type(net).__name__)
    if training := [key or name for key, module in net.named_modules() if module.training]:
        raise OptionError(f"{name}: {training[0]} is in training mode, with dropout and the statistics of a batch; call net.eval() first")  # fmt: skip
    if (dtype := _place(torch, net)["dtype"]) in (torch.float64, torch.bfloat16):
        raise OptionError(f"{name}: its weights are {str(dtype).removeprefix('torch.')}, for which onnxruntime has no layers; call net.float() first")  # fmt: skip
    return str(name)


def _advice(torch: Any, net: Any) -> str:
    """Return what to do about a network without a recurrent layer: it has a loop of its own."""
    return "" if any(isinstance(module, torch.nn.RNNBase) for module in net.modules()) else _LOOP


def _place(torch: Any, net: Any) -> dict[str, Any]:
    """Return dtype and device of a network's numbers."""
    first = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(1))
    return {"dtype": first.dtype, "device": first.device}


def _tokens(torch: Any, net: Any, ids: Ids, one_hot: int | None) -> Any:
    """Return ids as the network takes them: int64, or one-hot in its dtype."""
    place = _place(torch, net)
    tensor = torch.from_numpy(np.array(ids)).to(place["device"])
    return tensor if one_hot is None else torch.nn.functional.one_hot(tensor, one_hot).to(place["dtype"])


def _examples(torch: Any, net: Any, sizes: Mapping[str, Sizes], rows: int, tokens: int) -> list[Any]:
    """Return random tensors of these sizes, the same at every call."""
    draw = torch.Generator().manual_seed(0)
    known = {"batch": rows, "time": tokens}
    found = []
    for name, dims in sizes.items():
        if not isinstance(dims, list | tuple) or not all(isinstance(d, int | str) for d in dims) or "batch" not in dims:
            raise OptionError(f'{name}: sizes {shown(dims)}: expected a list of numbers and names, "batch" among them, such as ("batch", 96)')  # fmt: skip
        shape = [d if isinstance(d, int) else known.get(d, _EXAMPLE_SIZE) for d in dims]
        found.append(torch.randn(shape, generator=draw).to(**_place(torch, net)))
    return found


def _sources(torch: Any, encoder: Any, sizes: Mapping[str, Sizes], ids: int, rows: int) -> list[Any]:
    """Return random sources: floats, or ids; of an input [batch] the lengths, which are whole."""
    found = []
    for dims, value in zip(sizes.values(), _examples(torch, encoder, sizes, rows, TOKENS), strict=True):
        if list(dims) == ["batch"]:
            value = torch.full((rows,), _EXAMPLE_SIZE, device=value.device)
        elif ids and len(dims) == 2:
            value = torch.randint(ids, value.shape, generator=torch.Generator().manual_seed(0)).to(value.device)
        found.append(value)
    return found


def _run(torch: Any, net: Any, name: str, arguments: Sequence[Any]) -> list[Any]:
    """Return the tensors that a network returns, without their nesting.

    Raises:
        ModelError: it does not run.
    """
    try:
        with torch.no_grad():
            return [value for value in _flat(torch, net(*arguments)) if isinstance(value, torch.Tensor)]
    except Exception as error:  # of the caller's own code
        shapes = ", ".join(f"{str(a.dtype).removeprefix('torch.')} {list(a.shape)}" for a in arguments if hasattr(a, "shape"))  # fmt: skip
        raise ModelError(f"{name}: forward() fails on {shapes}: {type(error).__name__}: {error}") from error


def _flat(torch: Any, values: Any) -> list[Any]:
    flat: list[Any] = torch.utils._pytree.tree_flatten(values)[0]
    return flat


def _scores(torch: Any, net: Any, name: str, arguments: Sequence[Any]) -> Any:
    """Return the scores [batch, time, V] of a network of whole sequences, as an array.

    Where it gives those after the last token alone, [batch, V], each prefix is run.

    Raises:
        ModelError: it does not run, or returns something else.
    """
    tokens, *others = arguments
    first, *_ = [*_run(torch, net, name, arguments), None]
    batch, time = tokens.shape[:2]
    if first is not None and first.is_floating_point():
        if first.dim() == 3 and tuple(first.shape[:2]) == (batch, time):
            return first.double().cpu().numpy()
        if first.dim() == 2 and len(first) == batch:
            prefixes = [_run(torch, net, name, (tokens[:, : t + 1], *others))[0] for t in range(time)]
            return torch.stack(prefixes, 1).double().cpu().numpy()
    found = "nothing" if first is None else f"{str(first.dtype).removeprefix('torch.')} {list(first.shape)}"
    raise ModelError(
        f"{name}: the first output of forward() is {found}; expected scores [batch, time, vocabulary], here [{batch}, {time}, V], or those "
        "after the last token, [batch, V]. Return the logits first"
    )


def _same_twice(torch: Any, net: Any, name: str, arguments: Sequence[Any]) -> int:
    """Return the number of scores of a network, after a check that two runs give the same.

    Raises:
        ModelError: they do not.
    """
    one, two = (_scores(torch, net, name, arguments) for _ in range(2))
    _check_equal(name, one, two)
    vocab: int = one.shape[-1]
    return vocab


def _check_equal(name: str, one: Any, two: Any) -> None:
    if not np.allclose(one, two, rtol=1e-3, atol=1e-4, equal_nan=True):
        raise ModelError(
            f"{name}: two runs on the same tokens give other scores: it draws random numbers (dropout that stays on in evaluation mode?), "
            "or keeps something between calls; make forward() depend on its inputs alone"
        )


def _count_of_ids(torch: Any, net: Any, vocab: int) -> int:
    """Return below which number ids are: that of the smallest embedding, where it has fewer than there are scores."""
    tables = [m.num_embeddings for m in net.modules() if isinstance(m, torch.nn.Embedding)]
    return min([vocab, *(int(rows) for rows in tables if rows > 1)])


# -- one step ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Step:
    """A network of one step, with a flat list of states, and examples of what it takes.

    Attributes:
        token: the sizes of the tokens.
        vocab: number of scores.
    """

    torch: Any
    net: Any
    name: str
    module: Any
    token: Sizes
    states: Mapping[str, Sizes]
    others: Sequence[Any]
    vocab: int

    def example(self, ids: Ids) -> tuple[Any, ...]:
        """Return arguments of the module for the first tokens of `ids`."""
        zeros = [torch_zeros(self.torch, self.net, sizes, len(ids)) for sizes in self.states.values()]
        first = ids[:, :1] if self.token[1:] == (1,) else ids if len(self.token) == 2 else ids[:, 0]
        return (_tokens(self.torch, self.net, first, None), *zeros, *self.others)

    def loop(self, ids: Ids, initial: Mapping[str, Any], others: Sequence[Any]) -> Any:
        """Return the scores [rows, tokens, V] of the loop that feeds one token after the other."""
        states = [
            torch_zeros(self.torch, self.net, sizes, len(ids)) if name not in initial
            else _rows(self.torch, self.net, initial[name], sizes, len(ids))
            for name, sizes in self.states.items()
        ]  # fmt: skip
        found = []
        for t in range(ids.shape[1]):
            one = ids[:, t] if len(self.token) == 1 else ids[:, t : t + 1]
            tokens = _tokens(self.torch, self.net, one, None)
            scores, *states = _run(self.torch, self.module, self.name, (tokens, *states, *others))
            found.append(scores.double().cpu().numpy().reshape(len(ids), -1))
        return np.stack(found, axis=1)


def torch_zeros(torch: Any, net: Any, sizes: Sizes, rows: int) -> Any:
    """Return a state of zeros for this many rows."""
    return torch.zeros([rows if d == "batch" else d for d in sizes], **_place(torch, net))


def _rows(torch: Any, net: Any, value: Any, sizes: Sizes, rows: int) -> Any:
    """Return the initial value of a state for each row: a tensor of all rows as it is, an array of one repeated."""
    if isinstance(value, torch.Tensor) and value.dim() == len(sizes):
        return value
    axis = list(sizes).index("batch")
    one = torch.as_tensor(np.asarray(value)).to(**_place(torch, net))
    return one.unsqueeze(axis).expand([rows if d == "batch" else d for d in sizes]).contiguous()


def _step_of(
    torch: Any,
    net: Any,
    name: str,
    states: Mapping[str, Sizes],
    inputs: Mapping[str, Sizes],
    token: Sizes | None,
    given: Mapping[str, Any] | None = None,
) -> _Step:
    """Return the step of a network, called in the way that works: tokens with or without a time axis, states flat or in a tuple.

    Raises:
        ModelError: none works; the message has the reason of the first.
    """
    _examples(torch, net, states, _EXAMPLE_ROWS, _EXAMPLE_TOKENS)  # checks the sizes
    others = list(given.values()) if given is not None else _examples(torch, net, inputs, _EXAMPLE_ROWS, 1)
    failures: list[ModelError] = []
    for sizes in [tuple(token)] if token is not None else [("batch",), ("batch", 1)]:
        for nested in (False, True):
            step = _Step(torch, net, name, _flat_states(torch, net, len(states), nested), sizes, states, others, 0)
            try:
                vocab = _checked_step(torch, step, name, states)
            except ModelError as error:
                failures.append(error)
            else:
                return _Step(torch, net, name, step.module, sizes, states, others, vocab)
    raise failures[0]


def _checked_step(torch: Any, step: _Step, name: str, states: Mapping[str, Sizes]) -> int:
    """Return the number of scores of a step, after a check of what it returns.

    Raises:
        ModelError: it does not run, its outputs are no scores and states, or two runs differ.
    """
    ids = np.zeros((_EXAMPLE_ROWS, _EXAMPLE_TOKENS), np.int64)
    arguments = step.example(ids)
    one, two = (_run(torch, step.module, name, arguments) for _ in range(2))
    batch, time = arguments[0].shape[0], arguments[0].shape[1:]
    wanted = [tuple(value.shape) for value in arguments[1 : 1 + len(states)]]
    found = [tuple(value.shape) for value in one]
    scores = found[0] if found else ()
    if len(scores) < 2 or scores[:-1] not in ((batch,), (batch, *time), (batch, 1)) or found[1:] != wanted:
        raise ModelError(
            f"{name}: forward() returns tensors of shapes {[list(s) for s in found]}; expected scores [{batch}, V] (or with the time axis of "
            f"the tokens) and then the next states, {[list(s) for s in wanted]}"
        )
    for a, b in zip(one, two, strict=True):
        _check_equal(name, a.double().cpu().numpy(), b.double().cpu().numpy())
    return int(scores[-1])


def _outputs(torch: Any, encoder: Any, name: str, sources: Sequence[Any], outputs: Mapping[str, Sizes]) -> dict[str, Any]:  # fmt: skip
    """Return the outputs of an encoder by name.

    Raises:
        ModelError: it does not run, or returns other tensors than `outputs` says.
    """
    found = _run(torch, encoder, name, sources)
    ranks = [len(sizes) for sizes in outputs.values()]
    if [value.dim() for value in found] != ranks:
        shapes = [list(value.shape) for value in found]
        raise ModelError(f"{name}: the encoder returns tensors of shapes {shapes}; outputs= names {', '.join(f'{k} {list(v)}' for k, v in outputs.items())}")  # fmt: skip
    return dict(zip(outputs, found, strict=True))


# -- the exporters ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ports:
    """Names of inputs and outputs, and the sizes of the inputs: a name is a size that may be any."""

    inputs: Sequence[str]
    outputs: Sequence[str]
    sizes: Sequence[Sizes]

    @property
    def dynamic(self) -> list[dict[int, str]]:
        return [{axis: d for axis, d in enumerate(sizes) if isinstance(d, str)} for sizes in self.sizes]


def _attempts(
    torch: Any, net: Any, dynamo: bool | None, attempt: Callable[[bool], Model], *others: Any
) -> dict[str, Callable[[], Model]]:
    """Return the exporters to try, in order, by name."""
    names = {True: "torch's newer exporter (dynamo=True)", False: "torch's older exporter (dynamo=False)"}
    modules = [module for one in (net, *others) for module in one.modules()]
    scripted = any(isinstance(module, torch.jit.ScriptModule) for module in modules)
    # The newer exporter unrolls nn.RNN to the example's number of tokens, and takes no scripted network.
    old_only = scripted or any(isinstance(module, torch.nn.RNN) for module in modules)
    order = [dynamo] if dynamo is not None else [False] if old_only else [True, False]
    return {names[one]: partial(attempt, one) for one in order}


def _write(torch: Any, module: Any, arguments: Sequence[Any], ports: _Ports, file: Path, dynamo: bool) -> None:
    """Export a module to a file.

    Raises:
        ModelError: the exporter fails; the message is the last line of its own.
    """
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    options: dict[str, Any] = {"input_names": list(ports.inputs), "output_names": list(ports.outputs)}
    if dynamo:
        dims = {name: torch.export.Dim(name) for axes in ports.dynamic for name in axes.values()}
        shapes = [{axis: dims[name] for axis, name in axes.items()} for axes in ports.dynamic]
        nested = (shapes[0], tuple(shapes[1:])) if _takes_many(module) and shapes[1:] else tuple(shapes)
        options |= {"dynamic_shapes": nested, "dynamo": True, "verbose": False, "external_data": size > _LARGEST}
    else:
        options |= {"dynamic_axes": dict(zip(ports.inputs, ports.dynamic, strict=True)), "dynamo": False}
    try:
        with torch.no_grad(), _quiet():
            # Torch leaves marks on the tensors that it has seen.
            torch.onnx.export(module, tuple(a.clone() for a in arguments), str(file), **options)
    except Exception as error:  # the exporters raise errors of many kinds
        cause = error.__cause__ or error  # the newer exporter wraps the reason in advice of its own
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [""]
        raise ModelError(f"it fails: {type(cause).__name__}: {lines[0][:300]}") from error


def _takes_many(module: Any) -> bool:
    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    return inspect.Parameter.VAR_POSITIONAL in kinds


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporters print and warn of from the caller: what matters is checked afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # fmt: skip
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_output(torch: Any, net: Any) -> Any:
    return _wrapped(torch, net, lambda flat: flat[0])


def _all_outputs(torch: Any, net: Any) -> Any:
    return _wrapped(torch, net, tuple)


def _wrapped(torch: Any, net: Any, chosen: Callable[[list[Any]], Any]) -> Any:
    """Return a module that gives some of a network's outputs, without their nesting.

    A scripted network stays as it is: the exporter takes none inside of another module.
    """
    if isinstance(net, torch.jit.ScriptModule):
        return net

    class Wrapped(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, first: Any, *others: Any) -> Any:
            return chosen(_flat(torch, self.net(first, *others)))

    return Wrapped().eval()


def _flat_states(torch: Any, net: Any, states: int, nested: bool) -> Any:
    """Return a module whose states are arguments and outputs of their own; a scripted network stays as it is."""
    if isinstance(net, torch.jit.ScriptModule):
        return net

    class FlatStates(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, tokens: Any, *others: Any) -> Any:
            own = (tuple(others[:states]),) if nested else others[:states]
            return tuple(_flat(torch, self.net(tokens, *own, *others[states:])))

    return FlatStates().eval()
