"""Connecting encoders to a decoder: each of their outputs to the input that it feeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from decoding.errors import ModelError, OptionError
from decoding.model.contract.contract import Contract
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.encoders.chain import Encoders, Link, Target, agree, plain
from decoding.model.encoders.encoder import Encoder
from decoding.model.encoders.probe import Output

# Around the name of a state or context: words for the side of the model or of the step, and letters for the time.
_AROUND = re.compile(
    r"^(?:(?:enc(?:oder)?|dec(?:oder)?|init(?:ial)?|last|final|prev(?:ious)?|past|new|next)_*)+|(?:_*(?:n|0|t|in|out|init|final|last|next|new))+$"
)


def connect(
    stages: Sequence[Encoder], contract: Contract, given: Mapping[str, Any], decoder: str
) -> tuple[Encoders, Contract]:
    """Link every output of the encoders: as roles say, else to inputs of its name, else by shapes that allow only one way.

    Args:
        stages: the encoders, in the order in which they run.
        given: the decoder's roles: "encoder" has links, "context" the inputs that the caller gives.
        decoder: the decoder's name, for messages.

    Returns:
        The chain of encoders, and the decoder's contract with the inputs that they feed.

    Raises:
        ModelError: an output feeds no input, nothing feeds a context, or shapes do not fit.
        OptionError: roles name an output or input that does not exist.
    """
    targets = _targets(stages, contract)
    asked = _asked(stages, targets, given.get("encoder"), decoder)
    free = [
        t
        for t in targets
        if t.kind in ("source", "context", "step_context", "state")
        and t.name not in {*given.get("context", ()), *given.get("step_context", ())}
    ]
    found = _Connection(stages, asked, free)
    found.link_names(targets)
    found.link_alike_names()
    found.link_shapes()
    found.check_complete(decoder)
    return Encoders(stages, found.links), _fed_contract(stages, contract, found.links)


@dataclass
class _Connection:
    """The links found so far, and the outputs and inputs that are left.

    Attributes:
        asked: for each encoder the links that roles ask for, see `_asked`.
        free: the inputs to link where neither roles nor equal names do.
    """

    stages: Sequence[Encoder]
    asked: Sequence[Mapping[str, Sequence[str]]]
    free: Sequence[Target]
    links: list[Link] = field(default_factory=list)

    def unused(self) -> list[tuple[int, Output]]:
        """The outputs that feed nothing yet, with the indices of their encoders; without those that roles leave out."""
        used = {(link.stage, link.output.name) for link in self.links}
        outputs = [(k, o) for k, stage in enumerate(self.stages) for o in stage.outputs]
        return [(k, o) for k, o in outputs if (k, o.name) not in used and o.name not in self.asked[k]]

    def unfed(self) -> list[Target]:
        """The inputs that nothing feeds yet."""
        fed = {(link.target.stage, link.target.name) for link in self.links}
        return [t for t in self.free if (t.stage, t.name) not in fed]

    def link(self, k: int, output: Output, target: Target, evidence: str) -> None:
        """Link an output to an input.

        Raises:
            ModelError: they do not fit.
        """
        fold = _fits(output, target)
        if fold is None:
            raise ModelError(
                f"{self.stages[k].name}: its output {output} does not fit the {target.kind} {target.name}, {target.dtype} of sizes {list(target.sizes)} after the batch; "
                "export them with the same sizes, or pass roles={'encoder': {output: input}}"
            )
        self.links.append(Link(k, output, target, fold, evidence))

    def link_names(self, targets: Sequence[Target]) -> None:
        """Link the outputs that roles link, and others to the inputs of their name."""
        for k, stage in enumerate(self.stages):
            for output in stage.outputs:
                names = self.asked[k].get(output.name, [output.name])
                evidence = "given by roles" if output.name in self.asked[k] else "its name"
                for target in targets:
                    if target.stage > k and target.name in names:
                        self.link(k, output, target, evidence)

    def link_alike_names(self) -> None:
        """Link h_n to h0 and encoder_state to state: names that differ only in words such as "encoder" and "initial"."""
        for k, output in self.unused():
            stem = _stem(output.name)
            rivals = [o for _, o in self.unused() if _stem(o.name) == stem]
            same = [t for t in self.unfed() if t.stage > k and _stem(t.name) == stem and _fits(output, t) is not None]
            if stem and len(rivals) == len(same) == 1:
                self.link(k, output, same[0], "their names")

    def link_shapes(self) -> None:
        """Link the outputs that are left if their shapes allow exactly one way to use each once and to feed every context."""
        outputs, targets = self.unused(), self.unfed()
        needed = {(t.stage, t.name) for t in targets if t.kind in ("context", "step_context")}
        ways: list[list[Target]] = []

        def extend(chosen: list[Target]) -> None:
            if len(ways) > 1:
                return
            if len(chosen) == len(outputs):
                if needed <= {(t.stage, t.name) for t in chosen}:
                    ways.append(chosen)
                return
            k, output = outputs[len(chosen)]
            for t in targets:
                if t.stage > k and t not in chosen and _fits(output, t) is not None:
                    extend([*chosen, t])

        if outputs:
            extend([])
        if len(ways) == 1:
            for (k, output), target in zip(outputs, ways[0], strict=True):
                self.link(k, output, target, "the only way that their shapes allow")

    def check_complete(self, decoder: str) -> None:
        """Check that every output feeds an input and that something feeds every context.

        Raises:
            ModelError: it is not so.
        """
        outputs, inputs = self.unused(), self.unfed()
        contexts = [t for t in inputs if t.kind in ("context", "step_context")]
        if not outputs and not contexts:
            return
        output = outputs[0][1].name if outputs else self.stages[-1].outputs[0].name
        role = f"roles={{'encoder': {{{output!r}: {inputs[0].name if inputs else None!r}}}}}"
        if outputs and inputs:
            what = f"it is not clear which of {decoder}'s inputs the encoder's outputs feed"
            advice = (
                f"pass {role}{' and so on' if len(outputs) > 1 else ''}, with None for an output that feeds nothing"
            )
        elif outputs:
            what, advice = f"no input of {decoder} wants an encoder's output", f"pass {role} to leave it out"
        else:
            what = f"nobody feeds an input of {decoder}"
            advice = f"pass roles={{'context': [{contexts[0].name!r}]}} if decode(context=...) gives it, or {role}"
        unused = "; ".join(f"{o} of {self.stages[k].name}" for k, o in outputs) or "none"
        unfed = "; ".join(map(str, inputs)) or "none"
        raise ModelError(
            f"{decoder}: {what}. Outputs that feed nothing: {unused}. Inputs that nothing feeds: {unfed}; {advice}"
        )


def _targets(stages: Sequence[Encoder], contract: Contract) -> list[Target]:
    """The inputs that an output may feed: those of later encoders, contexts and states of the decoder."""
    targets = [
        Target(k, f.name, f.dtype, f.sizes, "source" if f.kind == "context" else f.kind)
        for k, stage in enumerate(stages)
        for f in stage.auxiliary_inputs
        if k > 0
    ]
    last = len(stages)
    targets += [Target(last, f.name, f.dtype, f.sizes, f.kind) for f in contract.all_auxiliary_inputs if f.of_rows]
    for s in contract.states:
        sizes = tuple(None if i == s.free_axis else int(d) for i, d in enumerate(s.initial.shape) if i != s.batch_axis)
        targets.append(Target(last, s.input, s.dtype, sizes, "state" if s.exposed else "hidden state"))
    return targets


def _asked(
    stages: Sequence[Encoder], targets: Sequence[Target], roles: Any, decoder: str
) -> list[dict[str, list[str]]]:
    """`roles["encoder"]` for each encoder: {output: names of the inputs that it feeds, none to leave it out}."""
    each = list(roles) if isinstance(roles, Sequence) and not isinstance(roles, str) else [roles or {}] * len(stages)
    if len(each) != len(stages) or not all(isinstance(one, Mapping) for one in each):
        raise OptionError(
            f"roles['encoder']={roles!r}: expected {{encoder output: decoder input, or None to leave it out}}, or a list of these, one for each of the {len(stages)} encoders"
        )
    found: list[dict[str, list[str]]] = []
    for k, (one, stage) in enumerate(zip(each, stages, strict=True)):
        outputs = [o.name for o in stage.outputs]
        known = [t.name for t in targets if t.stage > k]
        everywhere = [o.name for s in stages for o in s.outputs]
        found.append({})
        for output, value in one.items():
            names = [value] if isinstance(value, str) else list(value or ())
            if output not in everywhere or (each is roles and output not in outputs):
                raise OptionError(
                    f"roles['encoder']: {stage.name} has no output {output!r}; it has {', '.join(outputs)}"
                )
            for name in names:
                if output in outputs and name not in known:
                    raise OptionError(
                        f"roles['encoder'][{output!r}]: {decoder} has no context or state {name!r} to feed; there are {', '.join(known) or 'none'}"
                    )
            if output in outputs:
                found[k][output] = names
    return found


def _fits(output: Output, target: Target) -> bool | None:
    """Whether the input takes the output of one turn among others (True) or as it is (False); None where they do not fit."""
    if output.dtype != target.dtype:
        return None
    if target.kind in ("source_length", "source_mask"):
        return False
    for sizes in _readings(output):
        if agree(sizes, target.sizes) or agree(plain(sizes), plain(target.sizes)):
            return False
        if target.kind in ("source", "context") and target.sizes[:1] == (None,) and agree(sizes, target.sizes[1:]):
            return True
    return None


def _readings(output: Output) -> list[tuple[int | None, ...]]:
    """The sizes that an output may have for one row: layers before the batch count, unless there is only one."""
    layers = output.sizes[: output.batch_axis]
    return [output.sizes[output.batch_axis :]] if layers and set(layers) == {1} else [output.sizes]


def _stem(name: str) -> str:
    """A name in lower case without the words around it.

    >>> [_stem(name) for name in ("h_n", "h0", "encoder_state", "dec_init_state")]
    ['h', 'h', 'state', 'state']
    """
    return re.sub(r"[^a-z0-9]+", "", _AROUND.sub("", re.sub(r"[^a-z0-9]+", "_", name.lower())))


def _fed_contract(stages: Sequence[Encoder], contract: Contract, links: Sequence[Link]) -> Contract:
    """The decoder's contract with the encoder outputs that feed its inputs; a latent that one feeds becomes a context."""
    fed = {link.target.name: f"the encoder's {link.output.name}" for link in links if link.target.stage == len(stages)}

    def given(auxiliary_inputs: Sequence[AuxiliaryInput]) -> tuple[AuxiliaryInput, ...]:
        return tuple(
            replace(f, kind="context") if f.kind == "latent" and f.name in fed else f for f in auxiliary_inputs
        )

    initial_state_graph = contract.initial_state_graph and replace(
        contract.initial_state_graph, auxiliary_inputs=given(contract.initial_state_graph.auxiliary_inputs)
    )
    notes = tuple(
        n
        for n in contract.notes
        if not any(n.startswith((f"{name} is a context, given by", f"{name} is a step context")) for name in fed)
    )
    return replace(
        contract,
        auxiliary_inputs=given(contract.auxiliary_inputs),
        initial_state_graph=initial_state_graph,
        notes=notes,
        givers={**contract.givers, **fed},
    )
