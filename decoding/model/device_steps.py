"""`DeviceSteps`: the step graphs that a model runs on a device with memory of its own, each made once."""

from __future__ import annotations

import threading

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.program import StepProgram
from decoding.model.graph.graph import Graph
from decoding.model.passes.device_step import DeviceStep, Reduction, device_graph, start_device_step, step_feeds
from decoding.model.passes.lower_recurrent import left_to_the_cpu, plain_steps
from decoding.model.runtime.session import NodeRun, Session
from decoding.model.verify.equivalence import same_step


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
