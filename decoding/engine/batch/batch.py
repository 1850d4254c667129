"""The choice of the batch for a network, and the error of a step that it cannot run."""

from __future__ import annotations

from dataclasses import replace

from decoding.engine.batch.contexts import ContextRows
from decoding.engine.batch.device import DeviceBatch
from decoding.engine.batch.ensemble import EnsembleBatch, MemberStepInputs, member_call
from decoding.engine.batch.host import HostBatch
from decoding.engine.batch.protocol import Batch
from decoding.engine.batch.ragged import RaggedBatch
from decoding.engine.batch.reduction import reduction_for
from decoding.engine.batch.window import WindowBatch
from decoding.engine.request import Call
from decoding.errors import DecodeError, ModelError
from decoding.model.ensembles.network import EnsembleNetwork
from decoding.model.network import Network
from decoding.processors import History


def failed_step(network: Network, error: ModelError, history: History) -> DecodeError | ModelError:
    """Return the error of a step that the network could not run, with its place and the likely cause.

    An error of a device, whose memory may be full, stays as it is.

    Args:
        history: of the rows that took the step.
    """
    if network.on_device or not len(history):
        return error
    step = max(len(ids) for ids in history)
    return DecodeError(
        f"the run from token {step} on of the longest of {len(history)} rows: {error}. Likely the graph holds only up to some length (a table of positions, a size that the "
        "export baked), or a context has an id that its table lacks: pass a smaller max_new_tokens, check context=, or export it with dynamic sizes",
        step=step,
    )


def make_batch(
    network: Network,
    capacity: int,
    call: Call,
    *,
    attention: bool = False,
    reduce: bool = True,
    adds_up: bool = False,
) -> Batch:
    """Return the batch for a model that is stepped (here or on a device, with states of equal sizes or not), or whose prefixes are run anew.

    Args:
        call: its strategy needs some of the logits or all; `reduce`: whether only these need come from a device.
        adds_up: whether the scores of an ensemble are added up, as beam search does.
        attention: whether the batch has the weights of each step too; the model has them, and is stepped.
    """
    if isinstance(network, EnsembleNetwork):
        return _ensemble_batch(network, capacity, call, adds_up=adds_up)
    c = network.contract
    context = ContextRows(c.row_inputs, capacity, call.step_inputs, call.latents)
    if c.window is not None:
        return WindowBatch(network, c.window, capacity, context)
    if network.on_device:
        reduction = reduction_for(network, call, capacity) if reduce and not call.mixed else None
        return DeviceBatch(network, capacity, context, attention, reduction)
    if any(state.free_axis is not None for state in c.states):
        return RaggedBatch(network, capacity, context, attention)
    return HostBatch(network, capacity, context, attention)


def _ensemble_batch(network: EnsembleNetwork, capacity: int, call: Call, *, adds_up: bool) -> EnsembleBatch:
    """Return the batch of an ensemble over one for each member, which has all logits and its own part of the inputs."""
    step_inputs = None if call.step_inputs is None else MemberStepInputs(call.step_inputs)
    batches = []
    for member in network.members:
        own = replace(member_call(call, member), step_inputs=None if step_inputs is None else step_inputs.of(member))
        batches.append(make_batch(member.network, capacity, own, reduce=False))
    return EnsembleBatch(network, capacity, batches, adds_up=adds_up, in_chunks=step_inputs is None)
