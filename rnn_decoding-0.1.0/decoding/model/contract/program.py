"""`StepProgram`: a step graph with the session that runs it and the contract of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from decoding.model.contract.contract import Contract
from decoding.model.graph.graph import Graph
from decoding.model.runtime.native import NativeSession
from decoding.model.runtime.session import Session

OpenSession = Callable[[Graph], Session]


@dataclass(frozen=True)
class FoldedStep:
    """A faster graph for runs of one token, of the same contract, and a session over it."""

    graph: Graph
    session: Session


@dataclass(frozen=True)
class StepProgram:
    """What decoding runs. Each stage of `load()` takes one and returns one.

    Attributes:
        graph: takes a token and the states and returns logits and the next states; with `contract.window`, takes prefixes.
        session: runs the graph.
        contract: the role of each input and output of the graph.
        folded: runs single steps in place of the graph, where that is faster.
        native: decodes in place of both sessions, where the caller asked for it; `session` was its judge.
    """

    graph: Graph
    session: Session
    contract: Contract
    folded: FoldedStep | None = None
    native: NativeSession | None = None

    @property
    def step_session(self) -> Session | NativeSession:
        """The session for single steps."""
        if self.native is not None:
            return self.native
        return self.session if self.folded is None else self.folded.session

    @property
    def read_session(self) -> Session | NativeSession:
        """The session for prompts and whole sequences."""
        return self.session if self.native is None else self.native

    @property
    def step_graph(self) -> Graph:
        """The graph for single steps."""
        return self.graph if self.folded is None else self.folded.graph

    def with_note(self, note: str) -> StepProgram:
        """The same with one more note in its contract."""
        return replace(self, contract=self.contract.with_notes(note))

    def session_over(self, graph: Graph, **options: bool) -> Session:
        """A session over another graph, on the same providers and with as many threads; `options` are those of `Session`."""
        return Session(graph, providers=self.session.wanted, threads=self.session.threads, **options)

    def reopened(self, open_session: OpenSession) -> StepProgram:
        """The same graphs over new sessions."""
        folded = None if self.folded is None else replace(self.folded, session=open_session(self.folded.graph))
        return replace(self, session=open_session(self.graph), folded=folded)
