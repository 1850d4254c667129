"""A file on its way to its path: written beside it, annotated, loaded, compared with the network, then moved."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from decoding.errors import ModelError, OptionError, shown, whole_number
from decoding.export.distributions import attention_weights, log_softmax, next_logprobs
from decoding.model.graph.metadata import write_metadata
from decoding.model.model import Model
from decoding.model.roles.text import special_id_metadata
from decoding.tokenizers import (
    SpecialIds,
    Tokenizer,
    checked_special_ids,
    fitted,
    read_tokenizer,
    special_ids_of,
    tokenizer_metadata,
)

# Log-probabilities of the network and of the file may differ by this, and by as much again of their size: float32 sums.
TOLERANCE = 1e-3
ROWS, TOKENS = 3, 9

Ids = npt.NDArray[np.int64]
Logprobs = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Annotations:
    """What a file says of itself beside its graph, checked.

    Attributes:
        tokenizer: what `load(tokenizer=...)` takes, or None.
        ids: the special ids that were passed.
        entries: other entries of the metadata.
    """

    tokenizer: Any
    ids: SpecialIds
    entries: Mapping[str, str]

    @classmethod
    def of(
        cls,
        *,
        vocab: Any = None,
        tokenizer: Any = None,
        bos_token_id: int | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        pad_token_id: int | None = None,
        max_new_tokens: int | None = None,
        roles: Mapping[str, Any] | None = None,
        initial: Mapping[str, Any] | None = None,
    ) -> Annotations:
        """Check the arguments of an export that go into the metadata.

        Raises:
            OptionError: one is wrong, or there are two vocabularies.
        """
        if vocab is not None and tokenizer is not None:
            raise OptionError("vocab and tokenizer: pass only one: a list of tokens, or a tokenizer")
        entries = {}
        if max_new_tokens is not None:
            entries["decoding.max_new_tokens"] = json.dumps(whole_number("max_new_tokens", max_new_tokens, 1, below=2**31))  # fmt: skip
        if roles:
            entries["decoding.roles"] = json.dumps(roles)
        if initial:
            entries["decoding.initial"] = json.dumps({name: np.asarray(value).tolist() for name, value in initial.items()})  # fmt: skip
        ids = checked_special_ids(bos_token_id, eos_token_id, pad_token_id)
        return cls(vocab if tokenizer is None else tokenizer, ids, entries)

    def metadata(self, ids: int) -> dict[str, str | None]:
        """Return the entries of a file whose tokens have this many ids.

        Raises:
            OptionError: the tokenizer does not fit, or cannot be written.
        """
        entries: dict[str, str | None] = dict(self.entries)
        read: Tokenizer | None = None
        brought = SpecialIds()
        if self.tokenizer is not None:
            read = fitted(read_tokenizer(self.tokenizer), ids, "vocab", ids=f"the network takes or gives {ids} ids")
            brought = special_ids_of(self.tokenizer, read)
            entries |= tokenizer_metadata(read)
        return entries | special_id_metadata({}, read, self.ids, brought)


@contextmanager
def beside(path: str | Path) -> Iterator[Path]:
    """Give the place of a file in a new folder beside `path`; when all went well, move what is in the folder to `path`'s.

    Raises:
        OptionError: `path` is none, or its folder is missing.
    """
    if not isinstance(path, str | os.PathLike):
        raise OptionError(f"path={shown(path)}: expected the path of the file to write")
    target = Path(path)
    if not target.parent.is_dir():
        raise OptionError(f"path={shown(str(path))}: there is no folder {target.parent}")
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        try:
            yield Path(folder) / target.name
        except (ModelError, OptionError) as error:
            said = str(error).replace(str(Path(folder) / target.name), "the exported file")
            raise type(error)(said.replace(folder, str(target.parent))) from error
        for made in Path(folder).iterdir():
            os.replace(made, target.parent / made.name)


def annotate(file: Path, entries: Mapping[str, str | None]) -> None:
    """Write entries into a file's metadata."""
    if entries:
        write_metadata(file, entries, file)


def random_ids(count: int) -> Ids:
    """Return random ids int64 [ROWS, TOKENS] below `count`, the same at every call."""
    return np.random.default_rng(0).integers(0, count, (ROWS, TOKENS))


def logprobs_of(name: str, scores: npt.NDArray[Any]) -> Logprobs:
    """Return log-probabilities [..., V] of a network's scores: logits, probabilities or log-probabilities.

    Raises:
        ModelError: they are NaN.
    """
    values = scores.astype(np.float64)
    if np.isnan(values).any():
        raise ModelError(f"{name}: its scores of random tokens are NaN; check the weights")
    if (values >= 0).all() and np.allclose(values.sum(-1), 1, atol=1e-3):
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(values))
    return log_softmax(values)


def check_same(
    name: str,
    model: Model,
    ids: Ids,
    expected: Logprobs,
    *,
    sources: Any = None,
    given: Mapping[str, Any] | None = None,
    attention: Sequence[npt.NDArray[Any]] | npt.NDArray[Any] | None = None,
) -> None:
    """Check that a model's next-token distributions, and its attention, are those of the network.

    Args:
        name: of the network, for messages.
        ids: [rows, tokens] that the network read; `expected`: its log-probabilities [rows, tokens, V] after each of them.
        sources: with an encoder, what it reads, as `decode()` takes it; `given`: the values of contexts and latents by name.
        attention: the network's weights over the source [tokens, source] for each row.

    Raises:
        ModelError: they are not; the message says how far, and after how many tokens.
    """
    drawn = {aux.name for aux in model.latents}
    context, latents = ({k: v for k, v in (given or {}).items() if (k in drawn) is one} for one in (False, True))
    try:
        found = np.stack(next_logprobs(model, [*ids], sources, context=context or None, latents=latents or None))
    except OptionError as error:
        raise ModelError(f"{name}: the exported file does not take all that the network takes: {error}") from error
    truth = expected[:, : found.shape[1]]
    finite = np.isfinite(truth) & np.isfinite(found)
    off = np.abs(np.subtract(found, truth, out=np.zeros_like(truth), where=finite))
    wrong = (off > TOLERANCE * (1 + np.abs(np.where(finite, truth, 0)))) | (np.isfinite(truth) != np.isfinite(found))
    if wrong.any():
        first = int(np.flatnonzero(wrong.any((0, 2)))[0]) + 1
        raise ModelError(
            f"{name}: the exported file's scores differ from the network's from token {first} on, by up to {off.max():.3g}; "
            "the exporter probably fixed a size or a number of steps to the example's, or lost a value that the network keeps between calls"
        )
    if attention is not None:
        weights = attention_weights(model, [*ids], sources, context=context or None)
        for one, other in zip(weights, attention, strict=True):
            if one.shape[1:] != other.shape[1:] or not np.allclose(one, other[: len(one)], atol=TOLERANCE):
                raise ModelError(f"{name}: the exported file's attention differs from the network's: {list(one.shape)} where it gives {list(other[: len(one)].shape)}")  # fmt: skip


class ExporterError(ModelError):
    """An exporter fails, by an error of its own."""


def first_that_works(name: str, attempts: Mapping[str, Callable[[], Model]]) -> Model:
    """Return the result of the first attempt that raises no ModelError.

    Raises:
        ModelError: none works. The message has the reason that the last written file gives, and where an exporter failed its reason.
    """
    reasons, failures = [], []
    for by, attempt in attempts.items():
        try:
            return attempt()
        except ExporterError as error:
            failures.append(f"{by} fails: {error}")
        except ModelError as error:
            reasons.append(str(error).removeprefix(f"{name}: "))
    raise ModelError(f"{name}: cannot be exported: {'. '.join([*reasons[-1:], *failures])}")
