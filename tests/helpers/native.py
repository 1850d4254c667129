"""Models with a native step, and all that a call gives of them."""

from decoding import decode, load
from tests.helpers import build


def native_models(vocabularies):
    """Return models of two layers by (vocabulary, cell, None or "int8")."""
    made = {}
    for vocab in vocabularies:
        for cell in ("LSTM", "GRU"):
            proto = build.recurrent(cell, hidden=21, layers=2, vocab=vocab, scale=0.6)
            for quantize in (None, "int8"):
                made[vocab, cell, quantize] = load(proto, executor="native", quantize=quantize)
    return made


def outputs(model, prompts, strategy, **options):
    """Return what `decode()` gives, in a form that compares bit for bit."""
    found = decode(model, prompts, strategy, **options)
    return [
        (h.prompt_index, h.rank, h.ids.tolist(), h.logprob, h.token_logprobs.tobytes(), h.score, h.finish_reason)
        for h in found
    ]
