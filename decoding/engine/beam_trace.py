"""How the beams of a search grew: remembers them, and returns the tree of the outputs' beginnings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from decoding.errors import OptionError
from decoding.processors import History
from decoding.results import Hypothesis
from decoding.tokenizers import Tokenizer


class BeamTrace:
    """Remembers every beam that was alive at some step, for `beam_steps()`: a processor that changes nothing.

    ``trace = BeamTrace(); out = decode(model, prompt, Beam(4), processors=[trace])``: it takes one prompt, and the trace must be
    the first processor. A later search clears it.

    Attributes:
        logprobs: the new tokens of each beam, and the log-probability of the last of them.
    """

    def __init__(self) -> None:
        self.logprobs: dict[tuple[int, ...], float] = {}
        self._rows: dict[tuple[int, ...], npt.NDArray[np.float32]] = {}

    def __call__(self, history: History, logits: npt.NDArray[np.float32]) -> None:
        """Note the beams; in a beam search `logits` are the log-probabilities of the next token of each."""
        if len({ids.tobytes() for ids in history.prompts}) > 1:
            raise OptionError("BeamTrace: beams of several prompts; decode one prompt to see how its beams grew")
        beams = [tuple(output.tolist()) for output in history.outputs]
        if () in beams:
            self.logprobs.clear()
        self.logprobs.update({beam: float(self._rows[beam[:-1]][beam[-1]]) for beam in beams if beam})
        self._rows = {beam: row.copy() for beam, row in zip(beams, logits, strict=True)}


@dataclass
class BeamNode:
    """The beginning of an output, or its end.

    Attributes:
        step: how many tokens it has, the end counted as one.
        text: of its last token.
        logprob: of all its tokens; `probability`: of the last one, NaN for an end that is no token.
        best: rank of the best output with this beginning, in the order given; None for a beam that was given up.
        row: its place in its step, the likeliest is 0.
        is_end: whether it is the end of an output; `text` is then its rank, finish reason and score.
    """

    parent: BeamNode | None
    step: int
    text: str
    logprob: float
    probability: float
    best: int | None = None
    row: int = 0
    is_end: bool = False


def beam_steps(hypotheses: Sequence[Hypothesis], trace: BeamTrace | None = None) -> list[list[BeamNode]]:
    """Return how the beams of one prompt grew: for each step the beginnings of that many tokens, the likeliest first.

    Args:
        hypotheses: the outputs of one prompt, such as ``decode(..., Beam(4), num_return_sequences=4)``.
        trace: remembers the beams of their search; without it only the beginnings of the outputs are returned.

    Raises:
        OptionError: there are no hypotheses, or they are of several prompts.
    """
    if len({h.prompt_index for h in hypotheses}) != 1:
        found = sorted({h.prompt_index for h in hypotheses})
        raise OptionError(f"hypotheses of the prompts {found}: expected those of one, such as out.by_prompt()[0]")
    return _by_step(_beginnings(hypotheses, trace))


def _beginnings(hypotheses: Sequence[Hypothesis], trace: BeamTrace | None) -> list[BeamNode]:
    """Return a node for every beginning, and an end for each output."""
    logprobs = dict(trace.logprobs) if trace is not None else {}
    for h in hypotheses:
        logprobs |= {tuple(h.tokens[: t + 1]): float(h.token_logprobs[t]) for t in range(len(h.tokens))}
    nodes: dict[tuple[int, ...], BeamNode] = {(): BeamNode(None, 0, "prompt", 0.0, math.nan)}
    for ids, text in _texts(sorted(logprobs, key=len), hypotheses[0]._tokenizer):
        parent, logprob = nodes[ids[:-1]], logprobs[ids]
        nodes[ids] = BeamNode(parent, len(ids), text, parent.logprob + logprob, math.exp(logprob))
    ends = [_end(h, nodes[tuple(h.tokens)]) for h in hypotheses]
    for order, end in enumerate(ends):
        node: BeamNode | None = end
        while node is not None and node.best is None:
            node.best, node = order, node.parent
    return [*nodes.values(), *ends]


def _texts(beginnings: Sequence[tuple[int, ...]], tokenizer: Tokenizer | None) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yield each beginning with the text that its last token adds; parents come before their children."""
    whole: dict[tuple[int, ...], str] = {(): ""}
    for ids in beginnings:
        if tokenizer is None:
            yield ids, str(ids[-1])
        else:
            whole[ids], before = tokenizer.decode(list(ids)), whole[ids[:-1]]
            yield ids, whole[ids].removeprefix(before)


def _end(hypothesis: Hypothesis, parent: BeamNode) -> BeamNode:
    """Return the node after the last token, with the finish reason."""
    h = hypothesis
    last = h.token_logprobs[len(h.tokens) :].astype(np.float64)  # EOS's, where EOS ended it
    probability = math.exp(last[0]) if len(last) else math.nan
    text = f"{h.rank}: {h.finish_reason} {h.score:.2f}"
    return BeamNode(parent, parent.step + 1, text, parent.logprob + float(last.sum()), probability, is_end=True)


def _by_step(nodes: Sequence[BeamNode]) -> list[list[BeamNode]]:
    """Return the nodes of each step, the likeliest first, with their rows set."""
    steps: list[list[BeamNode]] = [[] for _ in range(max(node.step for node in nodes) + 1)]
    for node in sorted(nodes, key=lambda node: -node.logprob):
        node.row = len(steps[node.step])
        steps[node.step].append(node)
    return steps
