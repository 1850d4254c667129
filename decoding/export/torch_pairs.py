"""Export encoders with their decoders of PyTorch, with attention, masks and lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from decoding.errors import ModelError, OptionError, whole_number
from decoding.export.torch_checks import check_layers
from decoding.export.torch_exporters import Ports, all_outputs, attempts_of, first_output, write
from decoding.export.torch_networks import (
    EXAMPLE_ROWS,
    EXAMPLE_SIZE,
    EXAMPLE_TOKENS,
    Sizes,
    as_tokens,
    check_sizes,
    checked_network,
    checked_scores,
    count_of_ids,
    dtype_and_device,
    import_torch,
    random_examples,
    run_network,
    scores_of,
)
from decoding.export.torch_steps import step_of
from decoding.export.written import (
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

# Of the sources that are compared: not that of the example, which an exporter may have fixed.
_LENGTHS = (5, 8, 3)
# A mask is given in the first of these that the decoder takes.
_MASKS = ("bool", "int64", "float32")

Values = dict[str, Any]


def torch_pair(
    encoder: Any,
    decoder: Any,
    path: str | Path,
    *,
    sources: Mapping[str, Sizes],
    outputs: Mapping[str, Sizes],
    source_ids: int = 0,
    states: Mapping[str, Sizes] | None = None,
    inputs: Mapping[str, Sizes] | None = None,
    encoder_vocab: Any = None,
    token: Sizes | None = None,
    dynamo: bool | None = None,
    **annotations: Any,
) -> Model:
    """Export an encoder and its decoder of PyTorch, and return them loaded together, as shown to equal the networks.

    ``encoder(*sources)`` returns the tensors of `outputs`. The decoder takes them by their names: with `states`, one step,
    ``decoder(tokens, *states, *the other outputs, *inputs)``, else a whole sequence, ``decoder(tokens, *outputs, *inputs)``. An output
    with the name of a state is the initial value of that state; the other states start from zeros. Besides the scores and the next states a
    step may return its weights over the source, [batch, source], which ``decode(..., return_attention=True)`` then returns. Of
    a decoder of whole sequences only the first output, the scores, is exported: to get its attention, export one step.

    Args:
        encoder, decoder: the networks, in evaluation mode, or methods of networks, such as ``decoder.forward_step``.
        path: the decoder's file; the encoder is written to the same folder, NAME.encoder.onnx, where `load()` finds it.
        sources: the sizes of the encoder's inputs by name, in order: ``{"source": ("batch", "source")}``. ``{"lengths": ("batch",)}``
            is for the lengths of the sources.
        outputs: the sizes of its outputs by name, in order: ``{"memory": ("batch", "source", 96), "h": (1, "batch", 64)}``.
        source_ids: how many ids the encoder knows, where it reads ids int64; 0: it reads float32.
        states: as in `torch_step()`; None for a decoder of whole sequences.
        inputs: the sizes of the mask or of the lengths that tell the decoder where a source ends:
            ``{"mask": ("batch", "source")}``, ``{"lengths": ("batch",)}``. They are filled in when the model decodes.
        encoder_vocab: the vocabulary or tokenizer of the sources; `vocab` is the decoder's.
        token: as in `torch_step()`.
        dynamo, annotations: as in `torch_model()`.

    Returns:
        The loaded pair. On sources of several lengths it gives the networks' scores and attention.

    Raises:
        OptionError, ModelError: as `torch_model()`.

    Example::

        model = decoding.export.torch_pair(
            encoder.eval(), decoder.eval().forward_step, "translator.onnx", sources={"source": ("batch", "source")}, source_ids=4000,
            outputs={"memory": ("batch", "source", 128), "h": (1, "batch", 128)}, states={"h": (1, "batch", 128)},
            vocab=english, encoder_vocab=french, bos_token_id=0, eos_token_id=1,
        )
        decoding.decode(model, "je suis la", return_attention=True)[0].attention  # [tokens, source]
    """
    torch, said, encoder_said = import_torch(), Annotations.of(**annotations), Annotations.of(vocab=encoder_vocab)
    decoder, name = checked_network(torch, decoder)
    states, inputs = states or {}, inputs or {}
    check_layers(torch, decoder, name)
    reader = _Reader(torch, *checked_network(torch, encoder), sources, whole_number("source_ids", source_ids, 0), outputs)  # fmt: skip
    _check_names(outputs, states, inputs)
    examples = reader.sources(EXAMPLE_SIZE)
    written, ends = _decoder_of(torch, decoder, name, reader.read(examples), outputs, states, inputs, token)
    entries, encoder_entries = said.metadata(written.vocab), encoder_said.metadata(source_ids)
    ids = random_ids(count_of_ids(torch, decoder, written.vocab))
    rows = [reader.sources(length, seed) for seed, length in enumerate(_LENGTHS)]
    found = [
        written.run(np.repeat(line[None], EXAMPLE_ROWS, 0), {**reader.read(row), **ends.values(length)})
        for line, row, length in zip(ids, rows, _LENGTHS, strict=True)
    ]
    expected = logprobs_of(name, np.stack([scores[0] for scores, _ in found]))
    attention = [weights[0] for _, weights in found if weights is not None]

    def attempt(dynamo: bool) -> Model:
        with beside(path) as file:
            before = file.with_name(f"{file.name.removesuffix('.onnx')}.encoder.onnx")
            write(torch, all_outputs(torch, reader.net), list(examples.values()), reader.ports, before, dynamo)
            write(torch, written.module, written.example, written.ports, file, dynamo)
            annotate(file, entries)
            annotate(before, encoder_entries)
            model = load(file)
            check_same(name, model, ids, expected, sources=reader.as_prompts(model, rows), attention=attention or None)
        return load(path)

    return first_that_works(name, attempts_of(torch, decoder, dynamo, attempt, reader.net))


def _check_names(outputs: Mapping[str, Sizes], states: Mapping[str, Sizes], inputs: Mapping[str, Sizes]) -> None:
    """Check that a state's initial value has the state's sizes, and that other inputs are masks or lengths.

    Raises:
        OptionError: it is not so.
    """
    if differ := [key for key in outputs if key in states and list(outputs[key]) != list(states[key])]:
        key = differ[0]
        raise OptionError(f"{key}: outputs= says {list(outputs[key])}, states= {list(states[key])}: the state starts from the encoder's output; give both the same sizes")  # fmt: skip
    named = {d for sizes in outputs.values() for d in sizes if isinstance(d, str)} | {1}
    for key, sizes in inputs.items():
        check_sizes(key, sizes)
        if key in outputs or key in states:
            raise OptionError(f"inputs: {key} is in {'outputs' if key in outputs else 'states'}= too; leave one out")
        if not set(sizes) <= named:
            raise OptionError(
                f'inputs: {key} {list(sizes)}: expected the sizes of a mask, such as ("batch", "source") with the name that outputs= has, or of '
                'lengths, ("batch",); other inputs of the decoder must be outputs of the encoder'
            )


@dataclass(frozen=True)
class _Reader:
    """The encoder as a function from sources to named outputs.

    Attributes:
        sizes: of its inputs; `outputs`: of its outputs.
        ids: how many ids it knows; 0 where it reads floats.
    """

    torch: Any
    net: Any
    name: str
    sizes: Mapping[str, Sizes]
    ids: int
    outputs: Mapping[str, Sizes]

    @property
    def ports(self) -> Ports:
        return Ports(tuple(self.sizes), tuple(self.outputs), tuple(self.sizes.values()))

    def sources(self, length: int, seed: int = 0) -> Values:
        """Return random sources of one length: floats, or ids; of an input [batch] the lengths, which are whole."""
        torch, draw = self.torch, self.torch.Generator().manual_seed(seed)
        values = random_examples(torch, self.net, self.sizes, EXAMPLE_ROWS, length, length, seed)
        found = {}
        for key, value in values.items():
            if list(self.sizes[key]) == ["batch"]:
                value = torch.full((EXAMPLE_ROWS,), length, device=value.device)
            elif self.ids and value.dim() == 2:
                value = torch.randint(self.ids, value.shape, generator=draw).to(value.device)
            found[key] = value
        return found

    def read(self, sources: Values) -> Values:
        """Return the outputs by name.

        Raises:
            ModelError: it does not run, or returns other tensors than `outputs` says.
        """
        found = run_network(self.torch, self.net, self.name, sources)
        if len(found) != len(self.outputs) or not all(map(_agree, self.outputs.values(), found)):
            shapes = ", ".join(str(list(value.shape)) for value in found)
            said = ", ".join(f"{key} {list(sizes)}" for key, sizes in self.outputs.items())
            raise ModelError(f"{self.name}: the encoder returns tensors of shapes {shapes}; outputs= says {said}. Name each in order, with its sizes for {EXAMPLE_ROWS} rows")  # fmt: skip
        return dict(zip(self.outputs, found, strict=True))

    def as_prompts(self, model: Model, rows: Sequence[Values]) -> dict[str, list[npt.NDArray[Any]]]:
        """Return one source of each of these, as `decode()` takes them."""
        encoders = model._network.encoders
        wanted = {} if encoders is None else encoders.sources
        axes = {key: list(dims).index("batch") for key, dims in self.sizes.items()}
        return {key: [row[key].select(axis, 0).cpu().numpy() for row in rows] for key, axis in axes.items() if key in wanted}  # fmt: skip


def _agree(sizes: Sizes, value: Any) -> bool:
    known = [EXAMPLE_ROWS if d == "batch" else d for d in sizes]
    return len(known) == value.dim() and all(
        isinstance(d, str) or d == n for d, n in zip(known, value.shape, strict=True)
    )


@dataclass(frozen=True)
class _Decoder:
    """The decoder as a module that can be exported, and as a function from ids and what it reads to scores.

    Attributes:
        example: arguments of the module.
        vocab: number of scores.
        run: from ids and the values of `outputs` and `inputs` to scores [rows, tokens, V] and attention or None.
    """

    name: str
    module: Any
    example: Sequence[Any]
    ports: Ports
    vocab: int
    run: Callable[[Ids, Values], tuple[npt.NDArray[Any], npt.NDArray[Any] | None]]


@dataclass(frozen=True)
class _Ends:
    """The masks and lengths that tell where a source ends.

    Attributes:
        sizes: of each by name.
        dtype: of masks; `real`: their value on the source itself, rather than on padding.
    """

    torch: Any
    device: Any
    sizes: Mapping[str, Sizes]
    dtype: Any
    real: bool = True

    def values(self, length: int, padding: int = 0) -> Values:
        """Return the values for sources of this length, with this much padding after them."""
        found = {}
        for key, sizes in self.sizes.items():
            if list(sizes) == ["batch"]:
                found[key] = self.torch.full((EXAMPLE_ROWS,), length, device=self.device)
                continue
            on = self.torch.arange(length + padding, device=self.device) < length
            axes = [{"batch": EXAMPLE_ROWS, 1: 1}.get(d, length + padding) for d in sizes]
            line = [1 if d in ("batch", 1) else length + padding for d in sizes]
            found[key] = (on == self.real).reshape(line).expand(axes).to(self.dtype)
        return found


def _decoder_of(
    torch: Any,
    net: Any,
    name: str,
    read: Values,
    outputs: Mapping[str, Sizes],
    states: Mapping[str, Sizes],
    inputs: Mapping[str, Sizes],
    token: Sizes | None,
) -> tuple[_Decoder, _Ends]:
    """Return the decoder over what an encoder read, and its masks and lengths as it takes them.

    Raises:
        ModelError: it does not run, or returns something else.
    """
    has_masks = any(len(sizes) > 1 for sizes in inputs.values())
    failures: list[ModelError] = []
    for dtype in _MASKS if has_masks else _MASKS[:1]:
        ends = _Ends(torch, dtype_and_device(torch, net)["device"], inputs, getattr(torch, dtype))
        given = {**read, **ends.values(EXAMPLE_SIZE)}
        sizes = {**outputs, **inputs}
        try:
            found = (
                _step(torch, net, name, given, sizes, states, token)
                if states
                else _whole(torch, net, name, given, sizes)
            )
        except ModelError as error:
            failures.append(error)
        else:
            return found, _with_sign(found, ends, read, outputs) if has_masks else ends
    raise failures[0]


def _step(
    torch: Any,
    net: Any,
    name: str,
    given: Values,
    sizes: Mapping[str, Sizes],
    states: Mapping[str, Sizes],
    token: Sizes | None,
) -> _Decoder:
    contexts = {key: dims for key, dims in sizes.items() if key not in states}
    step = step_of(torch, net, name, states, contexts, token, {key: given[key] for key in contexts})

    def run(ids: Ids, values: Values) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
        initial = {key: values[key] for key in states if key in values}
        return step.loop(ids, initial, [values[key] for key in contexts])

    return _Decoder(name, step.module, step.example, step.ports, step.vocab, run)


def _whole(torch: Any, net: Any, name: str, given: Values, sizes: Mapping[str, Sizes]) -> _Decoder:
    tokens = as_tokens(torch, net, np.zeros((EXAMPLE_ROWS, EXAMPLE_TOKENS), np.int64), None)
    called = (
        "it is given ids int64 [batch, time] and the encoder's outputs; a decoder that takes its states needs states="
    )
    vocab = checked_scores(torch, net, name, {"tokens": tokens, **given}, called)
    ports = Ports(("tokens", *sizes), ("logits",), (("batch", "time"), *sizes.values()))

    def run(ids: Ids, values: Values) -> tuple[npt.NDArray[Any], None]:
        ordered = {key: values[key] for key in sizes}
        return scores_of(torch, net, name, {"tokens": as_tokens(torch, net, ids, None), **ordered}), None

    return _Decoder(name, first_output(torch, net), (tokens, *given.values()), ports, vocab, run)


def _with_sign(decoder: _Decoder, ends: _Ends, read: Values, outputs: Mapping[str, Sizes]) -> _Ends:
    """Return the masks with the sign under which padding changes no score of the decoder.

    Raises:
        ModelError: it changes them either way.
    """
    length = EXAMPLE_SIZE - 2
    named = {
        key: [axis for axis, d in enumerate(sizes) if isinstance(d, str) and d != "batch"]
        for key, sizes in outputs.items()
    }
    short = dict(read)
    for key, axes in named.items():
        for axis in axes:
            short[key] = short[key].narrow(axis, 0, length)
    ids = np.repeat(random_ids(decoder.vocab)[:1], EXAMPLE_ROWS, 0)
    for real in (True, False):
        trial = replace(ends, real=real)
        alone, _ = decoder.run(ids, {**short, **trial.values(length)})
        padded, _ = decoder.run(ids, {**read, **trial.values(length, EXAMPLE_SIZE - length)})
        if np.allclose(alone, padded, rtol=1e-3, atol=1e-4):
            return trial
    masks = ", ".join(key for key, sizes in ends.sizes.items() if len(sizes) > 1)
    raise ModelError(f"{decoder.name}: padding of the source changes its scores, whether {masks} is 1 or 0 there; set the scores of padded positions to -inf before the softmax")  # fmt: skip
