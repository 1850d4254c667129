"""`Network`: a step program and its encoders as the engine runs them."""

from __future__ import annotations

import threading
from functools import cached_property

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.contract.program import StepProgram
from decoding.model.encoders.chain import Encoders
from decoding.model.graph.graph import Graph
from decoding.model.passes.device_step import (
    DeviceStep,
    Reduction,
    can_reduce,
    device_graph,
    start_device_step,
    step_feeds,
)
from decoding.model.passes.lower_recurrent import left_to_the_cpu, plain_steps
from decoding.model.runtime.session import NodeRun, Session
from decoding.model.verify.equivalence import same_step


class Network:
    """All that the engine knows of a model. Safe to use from several threads.

    Attributes:
        name: the file's path, or what it was loaded from.
        program: the step graph with its sessions.
        contract: the role of every input and output.
        encoders: the encoders that compute contexts and initial states from sources, or None.
        session: onnxruntime's, over the graph; `read_session` reads prompts and scores sequences, `step_session` runs
            single tokens: both are the native step where there is one.
    """

    def __init__(self, program: StepProgram, encoders: Encoders | None = None) -> None:
        self.program, self.encoders = program, encoders
        self.name, self.contract = program.graph.name, program.contract
        self.session, self.read_session, self.step_session = program.session, program.read_session, program.step_session
        self._device_steps = DeviceSteps(program)
        self._alone: Network | None = self if program.session.threads == 1 else None
        self._lock = threading.Lock()

    def single_threaded(self) -> Network:
        """The same network over sessions of one intra-op thread, for several workers to share; made once."""
        with self._lock:
            if self._alone is None:
                wanted = self.session.wanted
                later = self.is_native  # which runs in one thread as it is
                program = self.program.reopened(lambda graph: Session(graph, providers=wanted, threads=1, later=later))
                self._alone = Network(program, self.encoders)
        return self._alone

    @property
    def is_native(self) -> bool:
        """Whether the native step decodes."""
        return self.program.native is not None

    @property
    def reads_chunks(self) -> bool:
        """Whether `read_session` reads several tokens of each row in one run.

        The native step does, also where onnxruntime's graph takes a token a run, as that of int8 layers does.
        """
        contract = self.contract
        one_by_one = contract.one_token_a_run or (self.is_native and contract.token.layout == "B")
        return (contract.sequence or self.is_native) and not one_by_one

    @property
    def on_device(self) -> bool:
        """Whether the network is stepped on a device with memory of its own."""
        return self.session.device != "cpu" and self.contract.window is None

    @property
    def can_reduce(self) -> bool:
        """Whether the device's step graph can choose among the logits."""
        return can_reduce(self.program.graph)

    @property
    def reads_chunks_on_device(self) -> bool:
        """Whether the recurrent layers read several tokens in one run on the device."""
        return self.session.device == "cpu" or not left_to_the_cpu(self.program.graph, self.contract)

    def device_step(self, reduction: Reduction | None) -> DeviceStep:
        """Sessions for steps on the device with this reduction of the logits; made once.

        Raises:
            ModelError: a layer would run on the CPU, its states copied both ways at every step.
        """
        return self._device_steps.step(reduction)

    def placement(self) -> list[NodeRun]:
        """The operators of one step with the provider that runs each, from onnxruntime's profile of a run."""
        return self._device_steps.placement(self.on_device)

    @property
    def vocab_size(self) -> int:
        """Number of logits, one for each token of the vocabulary."""
        return self.contract.logits.vocab_size

    @property
    def weight_bytes(self) -> int:
        """Size of the weights in bytes."""
        return self.program.graph.weight_bytes

    @property
    def latents(self) -> tuple[AuxiliaryInput, ...]:
        """The inputs that are drawn: the encoders' first, and one of each name."""
        every = (*(self.encoders.latents if self.encoders is not None else ()), *self.contract.latents)
        return tuple({f.name: f for f in reversed(every)}[name] for name in dict.fromkeys(f.name for f in every))

    @cached_property
    def fingerprint(self) -> str:
        """A number of the graph and its weights, as text: states fit networks with the same one."""
        return self.program.graph.fingerprint()


class DeviceSteps:
    """A program's device steps by their reduction of the logits; safe to use from several threads."""

    def __init__(self, program: StepProgram) -> None:
        self._program = program
        self._lowered: Graph | None = None
        self._made: dict[Reduction | None, DeviceStep] = {}
        self._lock = threading.Lock()

    def step(self, reduction: Reduction | None) -> DeviceStep:
        """Sessions for steps with this reduction.

        Raises:
            ModelError: a layer would run on the CPU, its states copied both ways at every step.
        """
        with self._lock:
            if reduction not in self._made:
                contract, session_over = self._program.contract, self._program.session_over
                self._made[reduction] = start_device_step(self._lower(), contract, reduction, session_over)
            return self._made[reduction]

    def placement(self, on_device: bool) -> list[NodeRun]:
        """The operators of one step with the provider that runs each, from onnxruntime's profile of a run."""
        contract = self._program.contract
        if on_device:
            with self._lock:
                graph = device_graph(self._lower(), contract, None)
            feeds = step_feeds(contract, 1)
        else:
            graph = self._program.step_graph
            length = contract.window.shown(1) if contract.window is not None else 1
            feeds = contract.feeds(np.zeros((1, length), np.int64))
            feeds |= {state.input: state.initial_rows(1) for state in contract.states}
        session = self._program.session_over(graph, profile=True)
        session.run(feeds, [contract.logits.name, *(state.output for state in contract.states)])
        return session.profiled()

    def _lower(self) -> Graph:
        """The graph with its layers written out, or as it is where that gives other scores on the CPU."""
        if self._lowered is None:
            graph, contract = self._program.graph, self._program.contract
            plain = plain_steps(graph, contract).graph
            same = same_step(Session(graph, threads=1), Session(plain, threads=1), contract)
            self._lowered = plain if same else graph
            lost = left_to_the_cpu(self._lowered, contract)
            if lost and self._program.session.device != "cpu":
                raise ModelError(
                    f"{graph.name}: the layer {lost[0]} cannot run on the GPU: cuDNN has no such cell, and it cannot be written as "
                    "plain operators (weights that an input decides, or an unknown activation). Pass providers='cpu'"
                )
        return self._lowered
