"""What a network of PyTorch must be to be decoded, shown by running it: before an exporter, whose own errors say less, sees it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from decoding.errors import ModelError
from decoding.export.torch_networks import run_network, same_scores, scores_of


def check_layers(torch: Any, net: Any, name: str) -> None:
    """Check that torch's exporters write a network's layers.

    Raises:
        ModelError: one is an LSTM with projections.
    """
    for key, module in net.named_modules():
        if isinstance(module, torch.nn.LSTM) and module.proj_size:
            raise ModelError(
                f"{name}: {_shown(key, module)} has proj_size={module.proj_size}, which torch's exporters do not write; write one step of it with "
                "nn.Linear and export that with torch_step(), or train it without proj_size"
            )


def check_whole(torch: Any, net: Any, name: str, example: Mapping[str, Any], compared: Mapping[str, Any]) -> None:
    """Check that a network of whole sequences can be decoded: scores depend on the tokens of their row up to their own, without a loop.

    Args:
        example, compared: arguments for few tokens, and for more: the tokens, and others.

    Raises:
        ModelError: it cannot; the message has the reason, as far as the layers tell.
    """
    (key, tokens), *_ = compared.items()
    whole = scores_of(torch, net, name, compared)
    others = tokens.clone()
    others[:-1] = tokens[:-1].flip(1)
    check_rows(torch, net, name, whole, scores_of(torch, net, name, {**compared, key: others}))
    later = tokens.clone()
    later[:, -2:] = 0 if tokens.dim() == 2 else tokens[:, :2]
    if not same_scores(whole[:, :-2], scores_of(torch, net, name, {**compared, key: later})[:, :-2]):
        raise ModelError(f"{name}: its scores of a token change with the tokens after it, so it cannot write them one by one{_order_advice(torch, net)}")  # fmt: skip
    few, many = (_calls(torch, net, name, arguments) for arguments in (example, compared))
    if looped := [name for name in many if many[name] > few[name]]:
        module = dict(net.named_modules())[looped[0]]
        raise ModelError(
            f"{name}: forward() has a Python loop over the tokens, which calls {_shown(looped[0], module)} for each; torch's exporters fix its number of "
            "steps: write forward() for one token, states in and out, and export that with torch_step(); or use nn.LSTM, nn.GRU or nn.RNN"
        )


def check_rows(torch: Any, net: Any, name: str, one: Any, other: Any) -> None:
    """Check that the last row's scores are the same where the others differ.

    Raises:
        ModelError: they are not.
    """
    if same_scores(one[-1], other[-1]):
        return
    for key, module in net.named_modules():
        if isinstance(module, torch.nn.RNNBase) and not module.batch_first:
            raise ModelError(
                f"{name}: a row's scores change with the other rows: {_shown(key, module)} has batch_first=False, so it takes the batch axis "
                "for the time axis; transpose to [time, batch, features] before it, and back after it"
            )
    raise ModelError(
        f"{name}: a row's scores change with the other rows of the batch; compute each row independently of the others"
    )


def _order_advice(torch: Any, net: Any) -> str:
    for key, module in net.named_modules():
        if isinstance(module, torch.nn.RNNBase) and module.bidirectional:
            return f": {_shown(key, module)} is bidirectional, which is for encoders; a decoder's layers run forward"
    return (
        "; a convolution that looks ahead needs padding on the left, and packed sequences, which decoding does not need, are left out: "
        "it runs every sequence at its own length"
    )


def _calls(torch: Any, net: Any, name: str, arguments: Mapping[str, Any]) -> Counter[str]:
    """Return how often one run calls each layer."""
    counts: Counter[str] = Counter()
    layers = [
        (key, module)
        for key, module in net.named_modules()
        if not isinstance(module, torch.jit.ScriptModule) and next(module.children(), None) is None
    ]
    hooks = [module.register_forward_hook(lambda *_, key=key: counts.update([key])) for key, module in layers]
    try:
        run_network(torch, net, name, arguments)
    finally:
        for hook in hooks:
            hook.remove()
    return counts


def _shown(key: str, module: Any) -> str:
    return f"{key.removeprefix('net.') or 'the network'} ({type(module).__name__})"
