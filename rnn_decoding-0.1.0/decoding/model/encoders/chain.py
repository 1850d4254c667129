"""A chain of encoders, run one after another over sources, and the links that carry outputs to inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.encoders.encoder import Encoder
from decoding.model.encoders.probe import Output
from decoding.model.graph.types import Array


@dataclass(frozen=True)
class Target:
    """An input that an encoder's output may feed.

    Attributes:
        stage: index of the encoder that has the input; the number of encoders where the decoder has it.
        sizes: of its dimensions without the batch; None where any will do.
        kind: "source" of a later encoder, "context" or "state" of the decoder, or another name that messages use.
    """

    stage: int
    name: str
    dtype: np.dtype[Any]
    sizes: tuple[int | None, ...]
    kind: str

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.sizes)
        return f"{self.name} {self.dtype}[batch: {sizes}] ({self.kind})"


@dataclass(frozen=True)
class Link:
    """One output feeds one input.

    Attributes:
        stage: index of the encoder that has the output.
        fold: the input takes the outputs of all turns of a source, [batch, turns, ...].
        evidence: why they are linked.
    """

    stage: int
    output: Output
    target: Target
    fold: bool
    evidence: str


class Encoders:
    """Encoders in the order in which they run, and the links between them and the decoder.

    Attributes:
        levels: for each encoder how deep its sources are nested: 0 for one sequence a request, 1 for a list of turns.
    """

    def __init__(self, stages: Sequence[Encoder], links: Sequence[Link]) -> None:
        self.stages, self.links = tuple(stages), tuple(links)
        self.levels = _levels(self.stages, self.links)

    def __iter__(self) -> Iterator[Encoder]:
        return iter(self.stages)

    @property
    def sources(self) -> dict[str, tuple[int, AuxiliaryInput]]:
        """The inputs that no encoder feeds, each with the index of its encoder."""
        fed = {(link.target.stage, link.target.name) for link in self.links}
        return {f.name: (k, f) for k, stage in enumerate(self.stages) for f in stage.sources if (k, f.name) not in fed}

    @property
    def fed(self) -> set[str]:
        """The decoder's inputs that an encoder feeds."""
        return {link.target.name for link in self.links if link.target.stage == len(self.stages)}

    @property
    def latents(self) -> tuple[AuxiliaryInput, ...]:
        """The inputs of all encoders that are drawn."""
        return tuple(f for stage in self.stages for f in stage.latents)

    def run(self, sources: Sequence[Mapping[str, Any]]) -> list[dict[str, Array]]:
        """The values of the decoder's inputs that encoders feed, for each source.

        Args:
            sources: for each request, {input: array without a batch axis, or a list of them for an input of turns}.
        """
        fed: list[list[dict[str, Any]]] = [[{} for _ in sources] for _ in range(len(self.stages) + 1)]
        for k, stage in enumerate(self.stages):
            wanted = [f.name for f in stage.auxiliary_inputs]
            rows = [
                {**{n: v for n, v in s.items() if n in wanted}, **own} for s, own in zip(sources, fed[k], strict=True)
            ]
            counts, flat = _flatten(rows, self.levels[k])
            results = stage.run(flat)
            for link in (link for link in self.links if link.stage == k):
                values = _nest([_conform(r[link.output.name], link) for r in results], counts)
                if link.fold:
                    values = _fold(values, self.levels[k])
                for own, value in zip(fed[link.target.stage], values, strict=True):
                    own[link.target.name] = value
        return fed[-1]

    def describe(self) -> str:
        """The encoders and their links, as lines for a person to read."""
        lines = [stage.describe() for stage in self.stages]
        for link in self.links:
            turns = ", one for each turn of the source" if link.fold else ""
            lines.append(
                f"note: {link.output.name} of {self.stages[link.stage].name} feeds {link.target.name}{turns}: {link.evidence}"
            )
        return "\n".join(lines)

    def roles(self) -> list[dict[str, list[str]]]:
        """The links as `roles["encoder"]` takes them."""
        found: list[dict[str, list[str]]] = [{o.name: [] for o in stage.outputs} for stage in self.stages]
        for link in self.links:
            found[link.stage][link.output.name].append(link.target.name)
        return found


def _levels(stages: Sequence[Encoder], links: Sequence[Link]) -> tuple[int, ...]:
    """How deep the sources of each encoder are nested.

    Raises:
        ModelError: some outputs of an encoder are taken for each turn, others for each source.
    """
    levels = [0] * (len(stages) + 1)
    for k in reversed(range(len(stages))):
        found = {levels[link.target.stage] + link.fold for link in links if link.stage == k}
        if len(found) > 1:
            names = ", ".join(link.output.name for link in links if link.stage == k)
            raise ModelError(
                f"{stages[k].name}: some of its outputs {names} are taken once a turn, others once a source; split it into two encoders"
            )
        levels[k] = found.pop() if found else 0
    return tuple(levels[:-1])


def _flatten(rows: Sequence[Any], level: int) -> tuple[list[Any], list[dict[str, Array]]]:
    """The counts by which `_nest` nests rows again, and the flat rows, from rows whose values are lists nested `level` deep."""
    if level == 0:
        return [None] * len(rows), list(rows)
    counts, flat = [], []
    for row in rows:
        turns = max(len(value) for value in row.values())
        inner_counts, inner = _flatten(
            [{name: value[i] for name, value in row.items()} for i in range(turns)], level - 1
        )
        counts.append((inner_counts, len(inner)))
        flat += inner
    return counts, flat


def _nest(values: Sequence[Any], counts: Sequence[Any]) -> list[Any]:
    """The values of flat rows, nested as `_flatten` counted."""
    nested: list[Any] = []
    start = 0
    for count in counts:
        if count is None:
            nested.append(values[start])
            start += 1
        else:
            nested.append(_nest(values[start : start + count[1]], count[0]))
            start += count[1]
    return nested


def _fold(values: Sequence[Any], level: int) -> list[Any]:
    """The values with each innermost list stacked to one array."""
    return [np.stack(value) if level == 1 else _fold(value, level - 1) for value in values]


def _conform(item: Array, link: Link) -> Array:
    """The value of an output for one row, with the number of dimensions that the input takes."""
    if link.target.kind in ("source_length", "source_mask"):
        return item
    wanted = link.target.sizes[1:] if link.fold else link.target.sizes
    if item.ndim == len(wanted) and agree(item.shape, wanted):
        return item
    bare = item.reshape(plain(item.shape)) if item.ndim > 1 else item  # type: ignore[arg-type]
    return bare.reshape((1,) * (len(wanted) - bare.ndim) + bare.shape)


def agree(a: Sequence[int | None], b: Sequence[int | None]) -> bool:
    """Return whether sizes can be equal, where None stands for any size.

    >>> agree((None, 5), (3, 5)), agree((5,), (3, 5))
    (True, False)
    """
    return len(a) == len(b) and all(x is None or y is None or x == y for x, y in zip(a, b, strict=True))


def plain(sizes: Sequence[int | None]) -> tuple[int | None, ...]:
    """Sizes without leading ones.

    >>> plain((1, 1, None, 5))
    (None, 5)
    """
    start = next((i for i, size in enumerate(sizes) if size != 1), len(sizes))
    return tuple(sizes[start:])
