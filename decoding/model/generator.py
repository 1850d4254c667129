"""`Generator`: a network without tokens and states, latents in and arrays out, such as the generator of a GAN."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decoding.errors import ModelError, OptionError
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.graph.graph import Graph
from decoding.model.graph.history import PassRecord
from decoding.model.graph.types import Array, listing
from decoding.model.model import Model
from decoding.model.network import Network
from decoding.model.roles.infer import Roles, find_roles, recurrent_path
from decoding.model.roles.latents import find_latents
from decoding.model.runtime.session import Session
from decoding.model.single_run import checked_inputs, count_rows, drawn_latents


def roles_or_latents(graph: Graph, given: Mapping[str, Any]) -> Roles | tuple[AuxiliaryInput, ...]:
    """The roles of a graph over tokens, or the latents of a generator, which has no token or no state.

    Raises:
        ModelError: it is neither.
    """
    try:
        roles = find_roles(graph, given)
    except ModelError:
        latents = _latents(graph, given)
        if not latents or any(p.dtype.kind in "iu" for p in graph.inputs):
            raise
        return latents
    steps = roles.states or recurrent_path(graph, roles.token, roles.logits)
    return _latents(graph, given) if roles.draws and not steps and "window" not in given else roles


def _latents(graph: Graph, given: Mapping[str, Any]) -> tuple[AuxiliaryInput, ...]:
    draws = find_latents(graph, given, graph.inputs, None, [])
    shapes = {p.name: p.shape or () for p in graph.inputs}
    sizes = {name: tuple(d if isinstance(d, int) else None for d in shapes[name][1:]) for name in draws}
    ports = {p.name: p for p in graph.inputs}
    return tuple(
        AuxiliaryInput(name, "latent", ports[name].dtype, len(shapes[name]), sizes[name], draw=how)
        for name, how in draws.items()
    )


class Generator(Model):
    """A model without steps: `run()` runs it, decoding refuses it.

    Attributes:
        latents: the inputs that are drawn.
    """

    def __init__(self, graph: Graph, session: Session, latents: tuple[AuxiliaryInput, ...]) -> None:
        self._graph, self._session, self.name = graph, session, graph.name
        self._latents = latents
        self.tokenizer = None
        self.bos_token_id = self.pad_token_id = self.max_new_tokens = None
        self.eos_token_id = ()

    @property
    def latents(self) -> tuple[AuxiliaryInput, ...]:
        """The inputs that are drawn."""
        return self._latents

    @property
    def passes(self) -> tuple[PassRecord, ...]:
        """What each pass of `load()` did to the file's graph."""
        return self._graph.history

    @property
    def providers(self) -> list[str]:
        """Names of the onnxruntime providers that the session runs on, the preferred one first."""
        return self._session.providers

    @property
    def _network(self) -> Network:  # type: ignore[override]
        """Refuse: a generator has no steps.

        Raises:
            ModelError: always; it names the right call.
        """
        raise ModelError(
            f"{self.name}: a plain generator: it has no steps to decode; call model.run(seed=...), which draws {', '.join(f.name for f in self._latents)} and returns arrays"
        )

    def run(
        self, inputs: Mapping[str, Any] | None = None, *, seed: int | None = None, batch_size: int | None = None
    ) -> dict[str, Array]:
        """Run the generator once, as `Model.run()` does: latents that are not given are drawn, any other input must be given."""
        ports = {p.name: p.dtype for p in self._graph.inputs}
        given = checked_inputs(self.name, ports, inputs)
        names = {f.name for f in self._latents}
        if missing := [name for name in ports if name not in given and name not in names]:
            raise OptionError(
                f"inputs: {self.name} needs {missing[0]!r} too, which is no latent; its inputs are {listing(self._graph.inputs)}"
            )
        feeds = {**drawn_latents(self._latents, given, seed, count_rows(given, batch_size)), **given}
        outputs = [p.name for p in self._graph.outputs]
        return dict(zip(outputs, self._session.run(feeds, outputs), strict=True))

    def describe(self) -> str:
        """Name and provider, then a line for each input and output."""
        lines = [f"{self.name}: a plain generator, run by model.run(seed=...), on {self.providers[0]}"]
        draws = {f.name: f"drawn: {f.draw}" for f in self._latents}
        lines += [f"input   {port}  {draws.get(port.name, 'given')}" for port in self._graph.inputs]
        return "\n".join([*lines, *(f"output  {port}" for port in self._graph.outputs)])

    def save(self, path: str | Path) -> None:
        """Write the graph."""
        Path(path).write_bytes(self._graph.serialize())
